"""Shap-E's adapter around diffusers' own pipeline, whose prior knows the latent and whose field is a ball."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from adapters.contract import ContractError, Unavailable
from adapters.systems.shap_e import adapter as module
from adapters.systems.shap_e.adapter import SCHEDULE, Adapter, clip_picture
from tests.adapters.objects import CENTRE, check_fine_sphere, small
from tests.adapters.objects import RADIUS as BALL
from tests.adapters.objects import object_views as views

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not importable")
from diffusers import HeunDiscreteScheduler, ShapEImg2ImgPipeline  # noqa: E402
from diffusers.pipelines.shap_e.renderer import ShapERenderer  # noqa: E402
from transformers import CLIPImageProcessor  # noqa: E402

SHAPES = ((4, 6), (4, 4), (4, 4), (4, 4))
LATENT = np.random.default_rng(5).uniform(-0.9, 0.9, (16, 16)).astype(np.float32)
NARROW = {
    "VISION": {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4,
               "patch_size": 14},
    "PRIOR": {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "embedding_dim": 32,
              "num_embeddings": 32, "time_embed_dim": 64, "embedding_proj_dim": 32, "clip_embed_dim": 64},
    "RENDERER": {"param_shapes": ((8, 93), (8, 8), (8, 8), (8, 8)), "d_latent": 32, "d_hidden": 8},
}  # fmt: skip


class Prior(torch.nn.Module):
    """In the prior's place: the known latent, if the guidance is 4 from what is said of no picture."""

    config = types.SimpleNamespace(num_embeddings=16, embedding_dim=16)
    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, x: Any, timestep: Any, proj_embedding: Any) -> Any:
        assert proj_embedding.shape == (2, 2, 3) and (proj_embedding[0] == 0).all() and (proj_embedding[1] == 1).all()
        known = torch.from_numpy(LATENT)
        away = torch.sin(torch.arange(256.0)).reshape(16, 16)
        told = torch.stack([known + 4 * away, known + 3 * away])
        return types.SimpleNamespace(predicted_image_embedding=torch.cat([told, torch.zeros_like(told)], 2))


class Eye(torch.nn.Module):
    """In CLIP's place."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, image: Any) -> Any:
        assert tuple(image.shape) == (1, 3, 224, 224) and image.dtype == torch.float32
        white = (1 - torch.tensor(module.MEAN)) / torch.tensor(module.SPREAD)
        assert (image[0, :, 0, 0] - white).abs().max() < 1e-5
        return {"last_hidden_state": torch.ones(1, 3, 3)}


class Ball(torch.nn.Module):
    """In the field's place: a ball, if the weights that it was given are those of the known latent."""

    dtype = torch.float32

    def __init__(self, wanted: dict[str, Any]) -> None:
        super().__init__()
        self.wanted = {name.removeprefix("nerstf."): value[0] for name, value in wanted.items()}
        shape = {"0": (4, 6), "1": (4, 4), "2": (4, 4), "3": (4, 4)}
        parts = {name: torch.nn.Linear(size[1], size[0], bias=False) for name, size in shape.items()}
        self.mlp = torch.nn.ModuleList(parts.values())

    def forward(self, *, position: Any, direction: Any, ts: Any, nerf_level: str, rendering_mode: str) -> Any:
        assert (direction, ts, nerf_level, rendering_mode) == (None, None, "fine", "stf") and position.ndim == 3
        for name, value in self.state_dict().items():
            assert (value - self.wanted[name]).abs().max() < 1e-4, name
        away = (position - torch.tensor(CENTRE, dtype=torch.float32)).norm(dim=-1, keepdim=True)
        distance = torch.tanh(BALL - away)
        return types.SimpleNamespace(signed_distance=distance, channels=(position + 1) / 2)


def made_renderer() -> Any:
    """Upstream's renderer around the ball."""
    torch.manual_seed(3)
    renderer = ShapERenderer(param_shapes=SHAPES, d_latent=16, d_hidden=4)
    with torch.no_grad():
        renderer.mlp = Ball(renderer.params_proj(torch.from_numpy(LATENT[None])))
    return renderer


def Stub() -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's pipeline, schedule and projection around networks that know the answer."""
    network, renderer = torch.nn.Module(), made_renderer()
    pipeline = ShapEImg2ImgPipeline(Prior(), Eye(), None, HeunDiscreteScheduler(**SCHEDULE), renderer)
    pipeline.set_progress_bar_config(disable=True)
    network.pipeline = pipeline.__call__
    network.renderer = types.SimpleNamespace(params_proj=renderer.params_proj.forward, mlp=renderer.mlp)
    return network


def test_a_sphere_comes_back_through_upstream_s_pipeline_and_grid() -> None:
    adapter = Adapter(resolution=96)
    adapter.network = Stub()
    check_fine_sphere(adapter, 2 / 95, up=True)


def test_the_field_is_the_one_that_upstream_s_decoder_makes_a_mesh_of() -> None:
    adapter = Adapter(resolution=20)
    adapter.network = Stub()
    ours = adapter.infer(adapter.prepare(views()))
    seen: list[Any] = []

    def forward(field: Any, low: Any, size: Any) -> Any:
        seen.append((field.numpy(), low.tolist(), size.tolist()))
        return types.SimpleNamespace(verts=torch.zeros(3, 3), faces=None, vertex_channels=None)

    renderer = made_renderer()
    with mock.patch.object(renderer.mesh_decoder, "forward", forward):
        renderer.decode_to_mesh(torch.from_numpy(LATENT[None]), "cpu", grid_size=20)
    ((field, low, size),) = seen
    assert np.abs(field[1:-1, 1:-1, 1:-1] - ours).max() < 1e-6
    assert (low, size) == ([-1.0] * 3, [2.0] * 3)  # of 22 points an edge, 20 of which were sampled there


def test_no_surface_is_one_sentence_with_the_range() -> None:
    with pytest.raises(ContractError, match=r"mesh: no surface at level 0: the field's values are -0.5 to -0.5"):
        Adapter().finish(np.full((16, 16, 16), -0.5, np.float32), views())


@pytest.mark.parametrize("size", [(300, 300), (640, 480), (201, 500), (90, 60)])
def test_the_picture_is_what_upstream_s_processor_makes_of_it(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, resample=3)
    wanted = processor(Image.fromarray(image), return_tensors="pt").pixel_values[0].numpy()
    levels = 2 if min(size) < 224 else 1  # torch rounds the steps of an enlargement otherwise
    assert np.abs(clip_picture(image) - wanted).max() < (levels + 0.01) / 255 / 0.26


@pytest.fixture(scope="module")
def loaded() -> Adapter:
    return small(module, NARROW, 5, steps=2, resolution=16)


def test_a_seed_is_a_sample_and_comes_back_to_the_last_bit(loaded: Adapter) -> None:
    inputs = loaded.prepare(views())
    first = loaded.infer(inputs)
    assert first.shape == (16, 16, 16) and np.isfinite(first).all() and np.ptp(first) > 0
    assert np.array_equal(first, loaded.infer(inputs))
    loaded.seed, kept = 6, loaded.seed
    assert np.abs(loaded.infer(inputs) - first).max() > 1e-6
    loaded.seed = kept
    assert loaded.execution(inputs).resolution == "224x224, grid 16"
    assert loaded.execution(inputs).foreground == "given mask, 0.2 border, on white"


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """By diffusers and transformers; the renderer is published as a torch file."""
    adapter.network.prior.save_pretrained(folder / "prior")
    adapter.network.image_encoder.save_pretrained(folder / "image_encoder")
    adapter.network.renderer.save_pretrained(folder / "shap_e_renderer", safe_serialization=False)


def test_checkpoints_that_upstream_s_code_wrote_load(loaded: Adapter, tmp_path: Path) -> None:
    network = loaded.network
    save_as_upstream(loaded, tmp_path)
    again = Adapter(steps=2, resolution=16)
    again.load("cpu", str(tmp_path), 5)
    own = again.network.state_dict()
    fresh = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("renderer.mlp.")}
    assert all(torch.equal(own[name], tensor) for name, tensor in fresh.items())
    inputs = loaded.prepare(views())
    assert np.array_equal(again.infer(inputs), loaded.infer(inputs))
    (tmp_path / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(Unavailable, match="prior: not a network's folder"):
        again.load("cpu", str(tmp_path), 0)
