"""The diffusion of lam3d: its sampler against denoisers known in closed form, its networks against torch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from adapters.contract import Views
from adapters.shared import functional
from adapters.shared.functional import Array, Weights
from adapters.shared.latent import LATENT, Shapes
from adapters.systems.lam3d import diffusion, model
from adapters.systems.lam3d.adapter import Adapter

F = functional


def _weights(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {f"diffuse.{name}": rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["diffuse.scale"] = np.abs(weights["diffuse.scale"]) + np.float32(0.1)
    return weights


def test_many_steps_turn_noise_into_the_distribution_that_the_denoiser_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of latents normal with deviation 0.4, the clean one expected is linear in the noisy one."""

    def expected(_F: ModuleType, _w: Weights, noisy: Array, time: Array, *_: Array | None) -> Array:
        noise, kept = diffusion.shares(time, noisy)
        return noisy * kept * 0.16 / (kept**2 * 0.16 + noise**2)

    monkeypatch.setattr(diffusion, "denoise", expected)
    w = {"diffuse.mean": np.full(50, 3.0, np.float32), "diffuse.scale": np.full((50, 1), 2.0, np.float32)[:, 0]}
    noise = np.random.default_rng(0).standard_normal((400, 50), np.float32)
    many = diffusion.sample(F, w, np.zeros((400, LATENT), np.float32), noise, 200)
    assert many.mean() == pytest.approx(3, abs=0.02) and many.std() == pytest.approx(0.8, rel=0.02)
    single = diffusion.sample(F, w, np.zeros((400, LATENT), np.float32), noise, 1)
    np.testing.assert_allclose(single, 3, atol=1e-5, err_msg="one step from noise alone is the mean")


def test_parallel_nets_keep_the_planes_apart_and_a_single_one_does_not() -> None:
    rng = np.random.default_rng(1)
    noisy = rng.standard_normal((1, *model.PLANES), np.float32)
    other = noisy.copy()
    other[:, : model.DEPTH] += 1
    features, time = rng.standard_normal((1, LATENT), np.float32), np.array([0.5], np.float32)
    for nets, apart, mapped in ((3, True, True), (3, True, False), (1, False, True)):
        w = _weights(diffusion.unet_shapes(3, model.DEPTH, model.CELLS, nets, 8, mapped))
        known = None if mapped else noisy
        a, b = (diffusion.denoise(F, w, x, time, features, known) for x in (noisy, other))
        assert not np.allclose(a[:, : model.DEPTH], b[:, : model.DEPTH])
        assert np.array_equal(a[:, model.DEPTH :], b[:, model.DEPTH :]) == apart


@pytest.mark.parametrize("kind", ["parallel", "single", "vector"])
def test_both_backends_sample_the_same_latents(kind: str) -> None:
    torch = pytest.importorskip("torch")
    nets = 3 if kind == "parallel" else 1
    vector = kind == "vector"
    w = _weights(diffusion.vector_shapes(40, 24) if vector else diffusion.unet_shapes(3, 32, 8, nets, 8))
    rng = np.random.default_rng(2)
    features = rng.standard_normal((2, LATENT), np.float32)
    noise = rng.standard_normal((2, 40) if vector else (2, *model.PLANES), np.float32)
    wanted = diffusion.sample(F, w, features, noise, 3)
    t = {name: torch.from_numpy(value) for name, value in w.items()}
    given = diffusion.sample(torch.nn.functional, t, torch.from_numpy(features), torch.from_numpy(noise), 3)
    np.testing.assert_allclose(given.numpy(), wanted, atol=2e-5 * np.abs(wanted).max())


def test_one_unet_has_about_the_weights_of_three() -> None:
    def count(nets: int) -> int:
        part = model.shapes(nets=nets)["diffuse"]
        return sum(int(np.prod(shape)) for name, shape in part.items() if not name.startswith("map"))

    assert count(1) == pytest.approx(count(3), rel=0.1)


def test_a_seed_draws_a_shape_and_an_unknown_aligner_is_refused() -> None:
    with pytest.raises(ValueError, match="aligner: 'vae' seen, points or diffusion wanted"):
        Adapter(aligner="vae")
    with pytest.raises(ValueError, match="steps: 0 seen"):
        Adapter(aligner="diffusion", steps=0)
    views = Views((np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8),), ("a",))
    fields = []
    for seed in (0, 0, 1):
        adapter = Adapter(resolution=16, aligner="diffusion", steps=2)
        adapter.load("cpu", "none", seed)
        fields.append(adapter.infer(adapter.prepare(views)))
    assert np.array_equal(fields[0], fields[1]) and not np.array_equal(fields[0], fields[2])


def test_without_the_refiner_planes_do_not_meet() -> None:
    w = {f"planes.{n}": np.full(s, 0.01, np.float32) for n, s in model.shapes()["planes"].items()}
    latent = np.random.default_rng(4).standard_normal((1, *model.PLANES), np.float32)
    other = latent.copy()
    other[:, : model.DEPTH] += 1
    for refined in (True, False):
        a, b = (model.decode(F, w, x, refined) for x in (latent, other))
        assert np.array_equal(a[1:], b[1:]) != refined and not np.array_equal(a[0], b[0])
