"""GeoLRM's adapter around upstream's own decoder and projection, and its whole network, small and drawn at random."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.contract import Unavailable
from adapters.shared import geolrm as networks
from adapters.shared import geolrm_standins as standins
from adapters.systems.geolrm import adapter as module
from adapters.systems.geolrm.adapter import SIDE, Adapter
from metrics.similarity import umeyama
from tests.adapters.objects import PADDING, SIZES, TARGETS, check_targets, narrowed, posed_views, small

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from adapters.shared.torchvision import import_torchvision  # noqa: E402

import_torchvision()
try:
    with standins.installed():
        import src.models.geolrm  # noqa: F401
        from src.models.decoder.geo_transformer import GeoTransformer
except ImportError:
    pytest.skip("GeoLRM's code is not importable", allow_module_level=True)

SHARED = networks.__name__
NARROW = {
    f"{SHARED}.ENCODER": {
        "hidden_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 518,
    },
    f"{SHARED}.SHARED": {"encoder_feat_dim": 24, "grid_size": 16, "transformer_heads": 2},
    f"{SHARED}.PROPOSAL": {
        "transformer_dim": 48,
        "transformer_layers": 1,
        "token_res": 4,
        "max_seq_len": 64,
    },
    f"{SHARED}.RECONSTRUCTION": {"transformer_dim": 48, "transformer_layers": 1, "gs_per_token": 3},
    "SIDE": 56,  # pixels
}


def truth_in_cube(poses: Any) -> Any:
    """TARGETS in the cube, told by where the cameras stand in it: (T, 3) float64."""
    cameras = posed_views().cameras
    assert cameras is not None
    cube_from_world = umeyama(cameras.centres, poses[0, :, :3, 3].double().numpy())
    return TARGETS @ cube_from_world[:3, :3].T + cube_from_world[:3, 3]


def Stub() -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's projection, latents of nothing, and upstream's decoder, which knows nothing but its own offset."""

    def serializer(images: Any, poses: Any, intrinsics: Any) -> Any:
        truth = truth_in_cube(poses)
        look_through(images, poses, intrinsics, truth)
        anchors = torch.zeros(1, len(truth) + PADDING, 3)
        anchors[0, : len(truth)] = torch.from_numpy(truth - 0.1)
        return anchors, (torch.arange(len(truth) + PADDING) < len(truth))[None]

    with standins.installed():
        options = {**networks.SHARED, **networks.RECONSTRUCTION, "gs_per_token": 3, "transformer_dim": 8}
        from src.models.renderer.gaussian_renderer import GaussianRenderer
    names = {"transformer_dim", "gs_per_token", "use_sh", "offset_max", "scale_max"}
    renderer = GaussianRenderer(**{name: value for name, value in options.items() if name in names})
    for parameter in renderer.latent_decoder.parameters():
        torch.nn.init.zeros_(parameter)
    network = torch.nn.Module()
    network.serializer = serializer
    network.lrm_generator = types.SimpleNamespace(
        forward_latents=lambda anchors, images, intrinsics, poses: torch.ones(1, anchors.shape[1], 8), renderer=renderer
    )
    return network


def look_through(images: Any, poses: Any, intrinsics: Any, truth: Any) -> None:
    """Where upstream's own projection finds a point in a picture, the picture shows the photo's pixel of that point."""
    views = posed_views()
    assert views.cameras is not None and images.shape == (1, 3, 3, SIDE, SIDE)
    projection = intrinsics @ torch.inverse(poses)[:, :, :3, :4]
    at = GeoTransformer.project_points(None, torch.from_numpy(truth).float()[None], projection)[0].numpy() * SIDE
    assert np.abs(intrinsics[0, :, :2, 2].numpy() - 0.5).max() == 0  # upstream's rays take the middle for granted
    for i, (width, height) in enumerate(SIZES):
        pixel, _ = views.cameras.project(i, TARGETS)
        shown = images[0, i].numpy() * 255
        x, y = np.floor(at[i]).astype(int).T
        assert (x >= 0).all() and (y >= 0).all() and (np.stack([x, y]) < SIDE).all()
        projected = (shown[:2, y, x].T - 25) / 200 * [width, height]
        off = projected - pixel
        assert np.abs(shown[2, y, x] - (30 + 40 * i)).max() < 2
        assert np.abs(off.mean(axis=0)).max() < 0.3 and np.abs(off).max() < 5, (off.mean(axis=0), np.abs(off).max())


def test_known_points_come_back_in_the_world_and_pictures_show_what_upstream_s_projection_says() -> None:
    adapter = Adapter()
    adapter.network = Stub()
    inputs = adapter.prepare(posed_views())
    outputs = adapter.infer(inputs)
    poses = torch.from_numpy(inputs.world_from_camera[None])
    means = outputs.gaussians[: len(TARGETS), :, :3]
    assert np.abs(means - truth_in_cube(poses)[:, None]).max() < 6e-8  # 32 bits; 1.5e-8 without the similarity
    check_targets(adapter.finish(outputs, posed_views()))
    assert np.abs(means).max() <= 0.5 and np.abs(means).max() > 0.3  # the object fills the cube
    up = np.linalg.inv(inputs.cube.cube_from_world[:3, :3]) @ [0, 0, 1]
    assert np.abs(up / np.linalg.norm(up) - [0.6, 0, 0.8]).max() < 0.2  # as the cameras stand


def test_rotary_embedding_is_a_turn_of_pairs_by_each_axis() -> None:
    tokens, position = torch.randn(1, 5, 2, 12, dtype=torch.float64), torch.randint(0, 9, (1, 5, 3))
    turned = tokens.clone()
    standins.rotate(turned, position, 100.0, 1.0)
    for axis in range(3):
        pairs = tokens[..., 4 * axis : 4 * axis + 4].reshape(1, 5, 2, 2, 2).transpose(-1, -2)
        angle = position[..., axis, None, None] * torch.tensor([1.0, 0.1], dtype=torch.float64)
        wanted = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angle), angle)
        other = turned[..., 4 * axis : 4 * axis + 4].reshape(1, 5, 2, 2, 2).transpose(-1, -2)
        rotated = torch.view_as_complex(other.contiguous())
        assert (wanted - rotated).abs().max() < 1e-6


def test_deformable_attention_weighs_what_it_samples() -> None:
    value, shapes = torch.randn(2, 12 + 6, 3, 4), torch.tensor([[3, 4], [2, 3]])
    locations, weights = torch.rand(2, 7, 3, 2, 5, 2), torch.rand(2, 7, 3, 2, 5)
    wanted = torch.zeros(2, 7, 3, 4)
    for m, (start, (height, width)) in enumerate(zip((0, 12), shapes.tolist(), strict=True)):
        plane = value[:, start : start + height * width].reshape(2, height, width, 3, 4)
        for at in np.ndindex(2, 7, 3, 5):
            b, q, h, p = at
            x, y = (locations[b, q, h, m, p] * torch.tensor([width, height]) - 0.5).tolist()
            for i in (int(np.floor(y)), int(np.floor(y)) + 1):
                for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        share = (1 - abs(y - i)) * (1 - abs(x - j)) * weights[b, q, h, m, p]
                        wanted[b, q, h] += share * plane[b, i, j, h]
    assert (standins.sampled_attention(value, shapes, locations, weights) - wanted.flatten(2)).abs().max() < 1e-5


@pytest.fixture(scope="module")
def loaded() -> Adapter:
    return small(module, NARROW, 0)


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """tools/save_state_dict.py, of a training that keeps its losses beside the networks."""
    given = {**adapter.network.state_dict(), "lpips.net.scale": torch.zeros(1)}
    torch.save(given, folder / "geolrm.ckpt")


def test_the_whole_network_runs_and_its_checkpoint_loads(loaded: Adapter, tmp_path: Path) -> None:
    with narrowed(module, NARROW):
        inputs = loaded.prepare(posed_views())
        outputs = loaded.infer(inputs)
        assert outputs.gaussians.shape == (64, 3, 14) and np.isfinite(outputs.gaussians).all()
        save_as_upstream(loaded, tmp_path)
        again = Adapter()
        again.load("cpu", str(tmp_path / "geolrm.ckpt"), 7)
        again.seed = 0
        assert np.array_equal(again.infer(inputs).gaussians, outputs.gaussians)
        wrong = {"serializer.more": torch.zeros(1), **loaded.network.state_dict()}
        del wrong["lrm_generator.transformer.norm.weight"]
        torch.save(wrong, tmp_path / "wrong.ckpt")
        sentence = r"1 parameters missing \(lrm_generator.transformer.norm.weight\); 1 unknown \(serializer.more\)"
        with pytest.raises(Unavailable, match=sentence):
            again.load("cpu", str(tmp_path / "wrong.ckpt"), 0)


def test_attention_among_heads_is_the_released_one_and_among_tokens_knows_no_order(loaded: Adapter) -> None:
    layer = loaded.network.lrm_generator.transformer.layers[0].self_attention
    h, position = torch.randn(1, 10, 48), torch.randint(0, 16, (1, 10, 3))
    changed = h.clone()
    changed[:, 7] += 1
    with torch.no_grad():
        released = (layer(position, h.clone()) - layer(position, changed)).abs().amax(-1)[0] > 1e-6
        order = torch.randperm(10)
        tokens = standins.attend_to_tokens(layer, position, h)
        moved = standins.attend_to_tokens(layer, position[:, order], h[:, order])
        every = (tokens - standins.attend_to_tokens(layer, position, changed)).abs().amax(-1)[0] > 1e-9
    assert released.sum() < 10 and every.all()
    assert (moved - tokens[:, order]).abs().max() < 1e-5
    adapter = small(module, NARROW, 0, proposal="tokens", reconstruction="tokens")
    again = adapter.network.lrm_generator.transformer.layers[0].self_attention(position, h)
    assert torch.allclose(again, standins.attend_to_tokens(layer, position, h))
