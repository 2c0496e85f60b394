"""GeoLRM from one photo around upstream's own decoder and cameras, and its own pipeline of Zero123++, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from adapters.contract import Unavailable
from adapters.shared.stable_diffusion import NoWords
from adapters.systems.geolrm_one_view import adapter as module
from adapters.systems.geolrm_one_view.adapter import PAINTER, TILE, Adapter, cameras, pictures
from tests.adapters.objects import CUBE_TARGETS, PADDING, check_painted, narrowed, object_views, save_tokenizer, small
from tests.adapters.upstream import test_geolrm

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers", reason="diffusers is not importable")
v2 = pytest.importorskip("torchvision.transforms.v2")
pytest.importorskip("zero123plus.pipeline", reason="GeoLRM's code is not importable")
from src.utils.camera_util import get_zero123plus_input_cameras  # noqa: E402

SMALL_UNET = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "layers_per_block": 1,
              "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "block_out_channels": [32, 32],
              "cross_attention_dim": 32, "attention_head_dim": [2, 2]}  # fmt: skip
LAYERS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
NARROW = {
    **{name: sizes for name, sizes in test_geolrm.NARROW.items() if name != "SIDE"},
    "SIDE": 56,  # pixels
    "UNET": SMALL_UNET,
    "VAE": {"block_out_channels": [4] * 4, "norm_num_groups": 4, "layers_per_block": 1},
    "TEXT": LAYERS,
    "VISION": {**LAYERS, "projection_dim": 32},
    "EYES": {"clip": 224, "vae": 32},
}


def painted_sheet() -> Any:
    """(960, 640, 3) levels: each view's number in blue, where a pixel lies in it in red, and in green in steps of 20
    rows (which compress well)."""
    across, down = np.arange(TILE) // 2, np.arange(TILE) // 20
    sheet = np.zeros((3 * TILE, 2 * TILE, 3))
    sheet[..., 0], sheet[..., 1] = 40 + np.tile(across, 2), 40 + 10 * np.tile(down, 3)[:, None]
    sheet[..., 2] = np.repeat(np.repeat(20 + 30 * np.arange(6).reshape(3, 2), TILE, axis=0), TILE, axis=1)
    return np.round(sheet).astype(np.float32) / 255


def Stub() -> Any:  # noqa: N802 - made as the other systems' stubs are
    """A painter of the sheet, and upstream's decoder, which knows nothing but its own offset."""
    wanted_poses, wanted = get_zero123plus_input_cameras(radius=1.5, return_org=True)

    def paint(image: Any, num_inference_steps: int, output_type: str, return_dict: bool) -> Any:
        assert image.mode == "RGB" and image.size[0] == image.size[1] == 47  # 40 pixels of object, 15% of border
        assert np.asarray(image)[0, 0].tolist() == [255] * 3 and (output_type, return_dict) == ("np", False)
        assert num_inference_steps == 75
        return (painted_sheet()[None],)

    def serializer(images: Any, given: Any, intrinsics: Any) -> Any:
        assert images.shape == (1, 6, 3, 448, 448)
        assert (given[0] - wanted_poses).abs().max() < 1e-6 and (intrinsics[0] - wanted).abs().max() < 1e-6
        ramp = 39.75 + 160 * (np.arange(448) + 0.5) / 448
        for i, image in enumerate(images[0].numpy() * 255):
            assert np.abs(image[0, 200] - ramp)[3:-3].max() < 1
            assert np.abs(image[1, 14::28, 200] - (40 + 10 * np.arange(16))).max() < 1
            assert np.abs(image[2] - (20 + 30 * i)).max() < 1e-3
        anchors = torch.zeros(1, len(CUBE_TARGETS) + PADDING, 3)
        anchors[0, : len(CUBE_TARGETS)] = torch.from_numpy(CUBE_TARGETS - 0.1)
        return anchors, (torch.arange(anchors.shape[1]) < len(CUBE_TARGETS))[None]

    network = test_geolrm.Stub()
    network.serializer, network.painter = serializer, paint
    return network


def test_known_points_come_back_and_the_cameras_are_upstream_s() -> None:
    adapter = Adapter()
    adapter.network = Stub()
    result = adapter.predict(object_views())
    check_painted(result)
    assert adapter.execution(adapter.prepare(object_views())).foreground == "given mask, 0.15 border, on white"


def test_painted_views_are_cut_and_resized_as_upstream_does() -> None:
    from einops import rearrange

    sheet = np.random.default_rng(0).integers(0, 256, (960, 640, 3)).astype(np.uint8)
    tensor = torch.from_numpy(sheet.astype(np.float32) / 255).permute(2, 0, 1).contiguous()
    tiles = rearrange(tensor, "c (n h) (m w) -> (n m) c h w", n=3, m=2)
    wanted = v2.functional.resize(tiles, 448, interpolation=3, antialias=True).clamp(0, 1)
    assert np.abs(pictures((sheet / 255).astype(np.float32)) - wanted.numpy()).max() < 1e-4  # of levels 4e-3 apart
    assert np.abs(cameras()[0] - get_zero123plus_input_cameras(radius=1.5, return_org=True)[0].numpy()).max() < 1e-6


@pytest.fixture(scope="module")
def loaded() -> Adapter:
    return small(module, NARROW, 5, steps=2)


def test_a_seed_is_a_sample_painted_as_upstream_s_own_way_paints_it(loaded: Adapter) -> None:
    shown = loaded.prepare(object_views())
    with narrowed(module, NARROW):
        first = loaded.infer(shown)
        assert np.isfinite(first.gaussians).all()
        assert np.array_equal(first.gaussians, loaded.infer(shown).gaussians)
        loaded.seed = 6
        assert np.abs(loaded.infer(shown).gaussians - first.gaussians).max() > 1e-6
        loaded.seed = 5
    torch.manual_seed(5)
    theirs = loaded.network.painter(Image.fromarray(shown.images[0]), num_inference_steps=2).images[0]
    assert theirs.size == (640, 960)
    with mock.patch.object(loaded, "gaussians", lambda images, *_: (images, np.ones(6))):
        assert np.array_equal(loaded.infer(shown).gaussians, pictures((np.asarray(theirs) / 255).astype(np.float32)))


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """GeoLRM's file, the pipeline by diffusers with a tokenizer by transformers, and a U-Net's state dict."""
    test_geolrm.save_as_upstream(adapter, folder)
    pipeline, own = adapter.network.painter, folder / PAINTER
    for name in ("vae", "text_encoder", "vision_encoder", "feature_extractor_vae", "feature_extractor_clip"):
        getattr(pipeline, name).save_pretrained(own / name)
    pipeline.scheduler.save_pretrained(own / "scheduler")
    unet = getattr(pipeline.unet, "unet", pipeline.unet)
    unet.save_config(own / "unet")
    ramp = {"ramping_coefficients": list(pipeline.config.ramping_coefficients)}
    (own / "model_index.json").write_text(json.dumps(ramp))
    save_tokenizer(own / "tokenizer")
    (folder / "white").mkdir()
    torch.save(unet.state_dict(), folder / "white" / "diffusion_pytorch_model.bin")


def test_checkpoints_that_upstream_s_code_wrote_load(loaded: Adapter, tmp_path: Path) -> None:
    save_as_upstream(loaded, tmp_path)
    with narrowed(module, NARROW):
        again = Adapter(steps=2)
        again.load("cpu", str(tmp_path), 5)
        shown = loaded.prepare(object_views())
        assert np.array_equal(again.infer(shown).gaussians, loaded.infer(shown).gaussians)
        tokens = again.network.painter.tokenizer([""], padding="max_length", max_length=77, return_tensors="pt")
        assert torch.equal(tokens.input_ids, NoWords()("", padding="max_length").input_ids)
        torch.save({"more": torch.zeros(1)}, tmp_path / "white" / "diffusion_pytorch_model.bin")
        with pytest.raises(Unavailable, match=r"white/\S+: not a checkpoint of this network: .*unknown \(more\)"):
            again.load("cpu", str(tmp_path), 5)
        (tmp_path / PAINTER / "model_index.json").unlink()
        with pytest.raises(Unavailable, match="not the folder of Zero123"):
            again.load("cpu", str(tmp_path), 5)
