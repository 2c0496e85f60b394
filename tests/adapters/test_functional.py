"""The operations of our own networks in NumPy: against SciPy everywhere, against torch where it is installed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.signal import correlate

from adapters.contract import ContractError, Views
from adapters.shared import functional
from adapters.shared.latent import (
    SIDE,
    image_encoder,
    image_encoder_shapes,
    network_input,
    point_decoder_shapes,
    read_weights,
)
from adapters.systems.lam3d import model as lam3d
from adapters.systems.lmnet3d import model as lmnet3d

F = functional


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_convolution_is_a_correlation_of_each_group(stride: int, groups: int, size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, 6, 9, 8))
    weight, bias = rng.normal(size=(12, 6 // groups, size, size)), rng.normal(size=12)
    pad = size // 2
    result = F.conv2d(x, weight, bias, stride=stride, padding=pad, groups=groups)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    for out in range(12):
        first = out // (12 // groups) * (6 // groups)
        for b in range(2):
            channels = padded[b, first : first + 6 // groups]
            wanted = correlate(channels, weight[out], mode="valid")[0][::stride, ::stride] + bias[out]
            np.testing.assert_allclose(result[b, out], wanted, atol=1e-12)


def test_upsampling_and_plane_samples_are_bilinear_between_pixel_centres() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 6, 5))
    at = (np.mgrid[0:12, 0:10] + 0.5) / 2 - 0.5
    twice = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    position = rng.uniform(-1.2, 1.2, (2, 40, 2)).astype(np.float32)
    samples = F.plane_sample(x.astype(np.float32), position)
    for b in range(2):
        pixel = (position[b] + 1) * np.array([5, 6]) / 2 - 0.5
        for c in range(3):
            np.testing.assert_allclose(twice[b, c], map_coordinates(x[b, c], at, order=1, mode="nearest"), atol=1e-12)
            wanted = map_coordinates(x[b, c], pixel.T[::-1], order=1, mode="nearest")
            np.testing.assert_allclose(samples[b, :, c], wanted, atol=1e-5)


def test_a_group_is_normalised_and_pixels_are_shuffled_out_of_channels() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, (2, 8, 4, 4))
    flat = F.group_norm(x, 4, np.ones(8), np.zeros(8)).reshape(2, 4, -1)
    np.testing.assert_allclose(flat.mean(axis=2), 0, atol=1e-12)
    np.testing.assert_allclose(flat.std(axis=2), 1, atol=1e-4)
    shuffled = F.pixel_shuffle(x, 2)
    assert shuffled.shape == (2, 2, 8, 8)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(shuffled[:, 1, i::2, j::2], x[:, 4 + 2 * i + j])


def test_means_over_cells_count_their_points() -> None:
    features = np.array([[[1.0], [3.0], [10.0]]], np.float32)
    position = np.array([[[-0.9, -0.9], [-0.1, -0.6], [0.9, -0.9]]], np.float32)
    plane = F.plane_mean(features, position, 2)
    np.testing.assert_allclose(plane[0, 0], [[2, 10], [0, 0]])
    np.testing.assert_allclose(plane[0, 1], np.log1p([[2, 1], [0, 0]]), atol=1e-6)


def test_both_backends_give_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    T = torch.nn.functional
    rng = np.random.default_rng(2)

    def drawn(parts: dict[str, dict[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
        return {f"{p}.{n}": rng.normal(0, 0.1, s).astype(np.float32) for p, e in parts.items() for n, s in e.items()}

    image = rng.random((2, 3, SIDE, SIDE)).astype(np.float32)
    cloud = rng.uniform(-0.5, 0.5, (2, 256, 3)).astype(np.float32)
    for model in (lmnet3d, lam3d):
        w = drawn(dict(model.shapes()))
        t = {name: torch.from_numpy(value) for name, value in w.items()}
        pairs = [
            (model.encode_image(F, w, image), model.encode_image(T, t, torch.from_numpy(image))),
            (model.encode_cloud(F, w, cloud), model.encode_cloud(T, t, torch.from_numpy(cloud))),
        ]
        if model is lam3d:
            latents = lam3d.encode_points(F, w, pairs[0][0]), lam3d.encode_points(T, t, pairs[0][1])
            planes, other = lam3d.decode(F, w, latents[0]), lam3d.decode(T, t, latents[1])
            both = lam3d.distance(F, w, planes, cloud), lam3d.distance(T, t, other, torch.from_numpy(cloud))
            pairs += [latents, (planes, other), both]
            aligner = drawn(dict(lam3d.variant_shapes()))
            step = {name: torch.from_numpy(value) for name, value in aligner.items()}
            pairs.append((lam3d.align(F, aligner, pairs[0][0]), lam3d.align(T, step, pairs[0][1])))
            noise = rng.normal(size=(2, *lam3d.PLANES)).astype(np.float32)
            w["diffuse.scale"], t["diffuse.scale"] = (
                value * 0 + 0.3 for value in (w["diffuse.scale"], t["diffuse.scale"])
            )
            pairs.append(
                (
                    lam3d.diffuse(F, w, pairs[0][0], noise, 3),
                    lam3d.diffuse(T, t, pairs[0][1], torch.from_numpy(noise), 3),
                )
            )
        else:
            pairs.append((lmnet3d.decode(F, w, pairs[0][0]), lmnet3d.decode(T, t, pairs[0][1])))
        for array, tensor in pairs:
            np.testing.assert_allclose(array, tensor.numpy(), atol=2e-5 * np.abs(array).max())


def test_an_image_of_any_shape_becomes_the_middle_square() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 50:150] = 255
    assert (network_input((image,)) == 1).all()
    w = {name: np.zeros(shape, np.float32) for name, shape in image_encoder_shapes().items()}
    assert image_encoder(F, w, network_input((image, image[:30, :30]))).shape == (2, 256)


def test_weights_are_read_as_safetensors_lays_them_out(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    header = {"__metadata__": {"a": "b"}, "x": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    np.testing.assert_array_equal(read_weights(path)["x"], values)
    header["x"] = {"dtype": "I8", "shape": [2, 3], "data_offsets": [0, 6]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(6))
    with pytest.raises(ValueError, match="x: dtype I8 seen, F16 or F32 wanted"):
        read_weights(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_weights(path)


def test_lam3d_meshes_the_surface_that_its_network_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field whose surface is known in place of the network: off-centre ball, radius 0.2."""
    from adapters.systems.lam3d.adapter import Adapter

    centre = np.array([0.1, -0.15, 0.05])
    adapter = Adapter(resolution=48)
    adapter._weights = {}
    none = np.zeros((1, 1))
    monkeypatch.setattr(lam3d, "encode_image", lambda *_: none)
    monkeypatch.setattr(lam3d, "encode_points", lambda *_: none)
    monkeypatch.setattr(lam3d, "decode", lambda *_: none)
    monkeypatch.setattr(lam3d, "distance", lambda _F, _w, _p, x: np.linalg.norm(x - centre, axis=2) - 0.2)
    result = adapter.predict(Views((np.zeros((64, 64, 3), np.uint8),), ("a",)))
    assert result.mesh is not None
    np.testing.assert_allclose(np.linalg.norm(result.points - centre, axis=1), 0.2, atol=1e-3)
    corner = result.mesh.vertices[result.mesh.faces].astype(np.float64) - centre
    volume = np.einsum("ij,ij->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 0.2**3, rel=0.01), "outward faces"
    monkeypatch.setattr(lam3d, "distance", lambda _F, _w, _p, x: np.ones(x.shape[:2]))
    with pytest.raises(ContractError, match="no surface at level 0: the field's values are 1 to 1"):
        adapter.predict(Views((np.zeros((64, 64, 3), np.uint8),), ("a",)))


@pytest.mark.parametrize("name", ["lmnet3d", "direct", "lam3d"])
def test_what_ships_says_where_it_comes_from(name: str) -> None:
    folder = Path(lam3d.__file__).parents[1] / name
    record = json.loads((folder / "training.json").read_text())
    body = (folder / "weights.safetensors").read_bytes()
    assert record["sha256"] == hashlib.sha256(body).hexdigest()
    for training in record["trainings"]:
        assert len(training["commit"]) == 40 and training["curve"]
    assert record["trainings"][-1]["settings"]["network"].startswith(name)
    small = {"image": image_encoder_shapes((32, 64, 128)), "points": point_decoder_shapes(256)}
    parts = {"lmnet3d": lmnet3d.shapes(), "direct": small, "lam3d": lam3d.shapes()}[name]
    wanted = {f"{part}.{entry}": shape for part, entries in parts.items() for entry, shape in entries.items()}
    assert {key: value.shape for key, value in read_weights(folder / "weights.safetensors").items()} == wanted
    total = sum(path.stat().st_size for path in folder.parent.glob("*/*.safetensors"))
    assert total < 25e6
