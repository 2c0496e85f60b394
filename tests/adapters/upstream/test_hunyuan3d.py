"""Hunyuan3D's adapter around upstream's own flow and grid, whose networks know the answer, and its own drawn narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.contract import ContractError, Unavailable
from adapters.shared.absent import absent
from adapters.systems.hunyuan3d import adapter as module
from adapters.systems.hunyuan3d.adapter import PARTS, REACH, Adapter
from tests.adapters.objects import CENTRE, check_fine_sphere, narrowed
from tests.adapters.objects import RADIUS as BALL
from tests.adapters.objects import object_views as views

torch = pytest.importorskip("torch")
with absent("cv2", "pymeshlab", "skimage", "timm.models.vision_transformer", "torch_cluster"):
    pipelines = pytest.importorskip("hy3dshape.pipelines", reason="Hunyuan3D's code is not importable")
    from hy3dshape.models.autoencoders import VanillaVolumeDecoder
    from hy3dshape.schedulers import FlowMatchEulerDiscreteScheduler

LATENT = np.random.default_rng(5).uniform(-0.9, 0.9, (12, 8)).astype(np.float32)
SCALE = 2.5
SAVED = "hunyuan3d-dit-v2-1/model.fp16.ckpt"
NARROW = {
    "VAE": {"num_latents": 32, "embed_dim": 8, "width": 32, "heads": 2, "num_encoder_layers": 1,
            "num_decoder_layers": 1},
    "ENCODER": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 28},
    "FLOW": {"input_size": 32, "in_channels": 8, "hidden_size": 32, "context_dim": 32, "depth": 3, "num_heads": 2,
             "text_len": 5, "num_moe_layers": 1},
}  # fmt: skip


class Flow(torch.nn.Module):
    """In the flow's place: straight to the known latent, if the guidance is 5 from what is said of no picture."""

    def forward(self, x: Any, t: Any, cond: Any, guidance: Any) -> Any:
        assert guidance is None and (cond["main"][0] == 1).all() and (cond["main"][1] == 0).all()
        assert t.min() >= 0 and t.max() <= 1
        velocity = (torch.from_numpy(LATENT) - x) / (1 - t).clamp(min=1e-3)[:, None, None]
        away = torch.sin(torch.arange(96.0)).reshape(12, 8)
        return velocity + torch.stack([4 * away, 5 * away])


class Eye(torch.nn.Module):
    """In the place of what looks at the picture: white at the border, noise of the object within."""

    def forward(self, image: Any, mask: Any) -> Any:
        assert tuple(image.shape) == (1, 3, 512, 512) and image.dtype == torch.float32
        assert (image[..., :30, :] == 1).all() and image.min() < -0.9
        return {"main": torch.ones(1, 3, 4)}

    def unconditional_embedding(self, size: int, mask: Any) -> Any:
        return {"main": torch.zeros(size, 3, 4)}


class Codes(torch.nn.Module):
    """In the autoencoder's place: a ball, if it was given the known latent in its own scale."""

    scale_factor, latent_shape = SCALE, LATENT.shape

    def forward(self, latents: Any) -> Any:
        assert (latents * SCALE - torch.from_numpy(LATENT)).abs().max() < 1e-5
        return latents + 1

    def geo_decoder(self, queries: Any, latents: Any) -> Any:
        assert queries.ndim == 3 and ((latents - 1) * SCALE - torch.from_numpy(LATENT)).abs().max() < 1e-5
        return 8 * (BALL - (queries - torch.tensor(CENTRE, dtype=torch.float32)).norm(dim=-1, keepdim=True))


def Stub() -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's pipeline and schedule around networks that know the answer."""
    network = torch.nn.Module()
    network.vae = Codes()
    pipeline = pipelines.Hunyuan3DDiTFlowMatchingPipeline(
        network.vae, Flow(), FlowMatchEulerDiscreteScheduler(), Eye(), None, device="cpu", dtype=torch.float32
    )
    network.pipeline = pipeline.__call__
    return network


def test_a_sphere_comes_back_through_upstream_s_flow() -> None:
    adapter = Adapter(resolution=96)
    adapter.network = Stub()
    check_fine_sphere(adapter, 2 * REACH / 96, colored=False)


def test_the_field_is_that_of_upstream_s_volume_decoder() -> None:
    adapter = Adapter(resolution=20)
    adapter.network = Stub()
    ours = adapter.infer(adapter.prepare(views()))
    codes = torch.from_numpy(LATENT[None] / SCALE + 1)
    wanted = VanillaVolumeDecoder()(codes, adapter.network.vae.geo_decoder, 1.01, 999, 20, enable_pbar=False)
    assert np.abs(wanted[0].numpy() - ours).max() < 1e-5


def test_no_surface_is_one_sentence_with_the_range() -> None:
    with pytest.raises(ContractError, match=r"mesh: no surface at level 0: the field's values are -0.5 to -0.5"):
        Adapter().finish(np.full((17, 17, 17), -0.5, np.float32), views())


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """As upstream's from_single_file reads it: a file of all three, the autoencoder's whole."""
    parts = {name: getattr(adapter.network, name).state_dict() for name in PARTS}
    parts["vae"] = {**parts["vae"], "encoder.ln_post.weight": torch.zeros(1), "pre_kl.bias": torch.zeros(1)}
    (folder / SAVED).parent.mkdir(parents=True, exist_ok=True)
    torch.save(parts, folder / SAVED)


def test_the_whole_networks_run_and_their_checkpoint_loads(tmp_path: Path) -> None:
    with narrowed(module, NARROW):
        adapter = Adapter(steps=2, resolution=16)
        adapter.load("cpu", "random", 5)
        inputs = adapter.prepare(views())
        first = adapter.infer(inputs)
        assert first.shape == (17, 17, 17) and np.isfinite(first).all() and np.ptp(first) > 0
        assert np.array_equal(first, adapter.infer(inputs))
        adapter.seed = 6
        assert np.abs(adapter.infer(inputs) - first).max() > 1e-6
        told = adapter.execution(inputs)
        assert (told.resolution, told.foreground) == ("512x512, grid 16", "given mask, 0.15 border, on white")
        save_as_upstream(adapter, tmp_path)
        again = Adapter(steps=2, resolution=16)
        again.load("cpu", str(tmp_path / SAVED), 5)
        assert np.array_equal(again.infer(inputs), first)
        parts = torch.load(tmp_path / SAVED, weights_only=True)
        wrong = {**parts, "model": {**parts["model"], "more": torch.zeros(1)}}
        torch.save(wrong, tmp_path / "wrong.ckpt")
        with pytest.raises(Unavailable, match=r"wrong.ckpt: not a checkpoint of this network: 1 unknown \(more\)"):
            again.load("cpu", str(tmp_path / "wrong.ckpt"), 5)
        torch.save({"model": parts["model"]}, tmp_path / "part.ckpt")
        with pytest.raises(Unavailable, match=r"part.ckpt: no parameters of vae, conditioner seen"):
            again.load("cpu", str(tmp_path / "part.ckpt"), 5)
