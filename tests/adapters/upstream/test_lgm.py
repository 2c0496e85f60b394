"""LGM's adapter around upstream's own activations and rays, whose network knows the answer, and its own, small."""

from __future__ import annotations

import importlib
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.contract import Unavailable
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD
from adapters.shared.torchvision import import_torchvision
from adapters.systems.lgm import adapter as module
from adapters.systems.lgm.adapter import Adapter, without_cuda
from tests.adapters.objects import LGM_CLOUD, check_lgm, narrowed, object_views, save_tokenizer, small

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers", reason="diffusers is not importable")
import_torchvision()
with without_cuda():
    upstream = pytest.importorskip("core.models", reason="LGM's code is not importable")
    pytest.importorskip("core.utils")
    from kiui.cam import orbit_camera

LAYERS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
NARROW: dict[str, Any] = {
    "NETWORK": {"down_channels": (32,) * 6, "down_attention": (False,) * 5 + (True,), "up_channels": (32,) * 5,
                "up_attention": (True,) + (False,) * 4},
    "UNET": {"model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [2], "num_res_blocks": 1,
             "num_head_channels": 16, "context_dim": 32},
    "VAE": {"block_out_channels": [4] * 4, "norm_num_groups": 4, "layers_per_block": 1},
    "TEXT": LAYERS,
    "VISION": {**LAYERS, "hidden_size": 1280, "projection_dim": 32},  # a width that upstream relies on
}  # fmt: skip
SPLAT = 8  # Gaussians along the side of one painted view


def painted(number: int) -> Any:
    """(256, 256, 3) levels of a painted view: its number, with steps across and steps down."""
    across = np.tile((np.arange(256) // 32 / 16).astype(np.float32), (256, 1))
    return (number + np.stack([np.zeros_like(across), across, across.T], axis=2)) / 8


class Known(torch.nn.Module):
    """In the U-Net's place: what upstream's activations make the known cloud of, if the views are the right ones."""

    def forward(self, x: Any) -> Any:
        assert x.shape == (4, 9, 256, 256) and x.dtype == torch.float32
        levels = x[:, :3].numpy() * IMAGENET_STD + IMAGENET_MEAN
        for i, (number, angle) in enumerate(((1, 0), (2, 90), (3, 180), (0, 270))):
            assert np.abs(levels[i] - painted(number).transpose(2, 0, 1)).max() < 1e-6
            away = orbit_camera(0, angle, radius=1.5)[:3, 3]
            directions = x[i, 3:].permute(1, 2, 0).reshape(-1, 6)
            moments = torch.linalg.cross(torch.from_numpy(away).expand(65536, 3), directions[:, 3:])
            assert (moments - directions[:, :3]).abs().max() < 1e-5
        told = torch.zeros(4 * SPLAT * SPLAT, 14, dtype=torch.float64)
        told[:, :3] = torch.from_numpy(LGM_CLOUD)
        told[:, 3] = torch.where(torch.arange(len(told)) % 4 == 3, -9.0, 0.0)  # every fourth is hardly there
        told[:, 11:] = torch.atanh(torch.from_numpy(LGM_CLOUD))  # colours that say where a point lies
        return told.float().reshape(4, SPLAT, SPLAT, 14).permute(0, 3, 1, 2)


def Stub() -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's rays and activations around what knows the cloud, and a painter of five views."""

    def paint(prompt: str, image: Any, **options: Any) -> Any:
        assert prompt == "" and image.shape == (256, 256, 3) and image.dtype == np.float32
        assert (image[:20] == 1).all() and image.min() < 0.2
        assert options.pop("device").type == "cpu"
        assert options == {"guidance_scale": 5.0, "num_inference_steps": 30, "elevation": 0}
        return np.stack([painted(number) for number in range(5)])

    size = types.SimpleNamespace(input_size=256, splat_size=SPLAT, cam_radius=1.5, fovy=49.1)
    own = torch.nn.Module()
    with narrowed(module, {"NETWORK": {**NARROW["NETWORK"], "splat_size": SPLAT}}):
        whole = Adapter().build(None)
    assert {name: getattr(whole.opt, name) for name in vars(size)} == vars(size)
    whole.unet, whole.conv = Known(), torch.nn.Identity()
    own.painter, own.with_rays, own.forward_gaussians = paint, whole.with_rays, whole.forward_gaussians
    return own


def test_known_points_come_back_through_upstream_s_activations() -> None:
    adapter = Adapter()
    adapter.network = Stub()
    check_lgm(adapter.predict(object_views()))


def test_the_attention_that_stands_in_is_xformers_own_formula() -> None:
    with without_cuda():
        memory_efficient_attention = importlib.import_module("xformers.ops").memory_efficient_attention
    q, k, v = torch.randn(3, 2, 7, 5).unbind()
    wanted = torch.softmax(q @ k.transpose(1, 2) / np.sqrt(5), -1) @ v
    assert (memory_efficient_attention(q, k, v, attn_bias=None, op=None) - wanted).abs().max() < 1e-6


@pytest.fixture(scope="module")
def loaded() -> Adapter:
    return small(module, NARROW, 5, steps=2)


def test_a_seed_is_a_sample_as_upstream_s_infer_makes_it(loaded: Adapter) -> None:
    shown = loaded.prepare(object_views())
    ours = loaded.infer(shown)
    assert ours.shape == (4 * 128 * 128, 14) and np.isfinite(ours).all()
    told = loaded.execution(shown)
    assert (told.resolution, told.foreground) == ("256x256", "given mask, 0.2 border, on white")
    torch.manual_seed(5)
    image = shown.images[0].transpose(1, 2, 0).copy()
    mv_image = loaded.network.painter(
        "", image, guidance_scale=5.0, num_inference_steps=2, elevation=0, device=torch.device("cpu")
    )
    mv_image = np.stack([mv_image[1], mv_image[2], mv_image[3], mv_image[0]], axis=0)
    # infer.py, from its painted views on.
    transforms = pytest.importorskip("torchvision.transforms.functional")
    input_image = torch.from_numpy(mv_image).permute(0, 3, 1, 2).float()
    input_image = torch.nn.functional.interpolate(input_image, size=(256, 256), mode="bilinear", align_corners=False)
    input_image = transforms.normalize(input_image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rays = loaded.network.prepare_default_rays(torch.device("cpu"))
    with torch.no_grad():
        theirs = loaded.network.forward_gaussians(torch.cat([input_image, rays], dim=1)[None])[0].numpy()
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """LGM's parameters in half precision by safetensors, the painter's parts by their own libraries."""
    from safetensors.torch import save_file

    own = {name: tensor.half() for name, tensor in adapter.network.state_dict().items()}
    save_file(own, folder / "model_fp16_fixrot.safetensors")
    painter, files = adapter.network.painter, folder / "painter"
    for name in ("unet", "vae", "text_encoder", "image_encoder", "scheduler", "feature_extractor"):
        getattr(painter, name).save_pretrained(files / name)
    # Upstream's class keeps no arguments, which its published config.json has.
    config = {**module.UNET, **NARROW["UNET"], "_class_name": "MultiViewUNetModel"}
    (files / "unet" / "config.json").write_text(json.dumps(config))
    save_tokenizer(files / "tokenizer")


def test_checkpoints_that_upstream_s_code_wrote_load(loaded: Adapter, tmp_path: Path) -> None:
    save_as_upstream(loaded, tmp_path)
    with narrowed(module, NARROW):
        again = Adapter(steps=2)
        again.load("cpu", str(tmp_path), 7)
        own = again.network.state_dict()
        for name, tensor in loaded.network.state_dict().items():
            assert torch.equal(own[name], tensor.half().float()), name
        for part in ("unet", "vae", "text_encoder", "image_encoder"):
            theirs = getattr(again.network.painter, part).state_dict()
            for name, tensor in getattr(loaded.network.painter, part).state_dict().items():
                assert torch.equal(theirs[name], tensor), (part, name)
        with pytest.raises(Unavailable, match="holds no model_fp16"):
            again.load("cpu", str(tmp_path / "painter"), 7)
        (tmp_path / "painter" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(Unavailable, match="unet: not a network's folder"):
            again.load("cpu", str(tmp_path), 7)
