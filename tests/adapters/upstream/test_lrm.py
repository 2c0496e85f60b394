"""LRM's adapter around upstream's own grid, whose density is a sphere, and its whole network drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.shared.objects import bicubic
from adapters.systems.lrm import adapter as module
from adapters.systems.lrm.adapter import CAMERA, LEVEL, SIDES, Adapter
from tests.adapters.objects import (
    CENTRE,
    RADIUS,
    check_fine_sphere,
    check_no_surface,
    check_saved,
    check_whole,
    narrowed,
)

torch = pytest.importorskip("torch")
upstream = pytest.importorskip("openlrm.models.rendering.synthesizer", reason="OpenLRM's code is not importable")

# Upstream's small DINOv2, one layer of its own.
SIZE = {"transformer_dim": 64, "transformer_layers": 1, "transformer_heads": 2, "triplane_dim": 8}
NARROW = {"SIZES": {"small": SIZE}}


def sphere(planes: Any, decoder: Any, sample_coordinates: Any, sample_directions: Any, options: Any) -> dict[str, Any]:
    """In the place of the decoder: a ball's density before its activation, and colours that say where a point lies."""
    centre = torch.tensor(CENTRE, dtype=torch.float32)
    away = (sample_coordinates - centre).norm(dim=-1, keepdim=True)
    return {"rgb": (sample_coordinates + 1) / 2, "sigma": (RADIUS - away) * 100 + 1 + float(np.log(np.exp(LEVEL) - 1))}


def Stub() -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's synthesizer around the sphere; planes of nothing."""
    torch.compiler.set_stance("force_eager")
    network = torch.nn.Module()
    network.synthesizer = upstream.TriplaneSynthesizer(triplane_dim=2, samples_per_ray=4)
    network.synthesizer.renderer.run_model = sphere

    def forward_planes(image: Any, camera: Any) -> Any:
        assert tuple(image.shape) == (1, 3, 336, 336) and image.dtype == torch.float32
        assert camera.tolist() == [list(CAMERA)]
        return torch.zeros(1, 3, 2, 4, 4)

    network.forward_planes = forward_planes
    return network


def test_a_sphere_comes_back_through_upstream_s_grid() -> None:
    adapter = Adapter(resolution=96)
    adapter.network = Stub()
    check_fine_sphere(adapter, 2 / 95, spread=2e-4)  # 0.40005 where the density is not linear


def test_no_surface_is_one_sentence_with_the_range() -> None:
    adapter = Adapter(resolution=16)
    adapter.network = Stub()
    check_no_surface(adapter, 3)


def test_the_picture_is_resized_as_upstream_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None] / 255.0
    for side in SIDES.values():
        wanted = torch.nn.functional.interpolate(tensor, size=(side, side), mode="bicubic", align_corners=True)
        assert (
            np.abs(bicubic(image, side) - torch.clamp(wanted, 0, 1)[0].numpy()).max() < 1e-4
        )  # torch in 32 bits; a level is 4e-3


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """scripts/convert_hf.py: the wrapped network by its own library."""
    from openlrm.models import model_dict
    from openlrm.models.encoders.dinov2_wrapper import Dinov2Wrapper
    from openlrm.utils.hf_hub import wrap_model_hub

    config = {**module.COMMON, **module.SIZES[adapter.size]}
    same = staticmethod(lambda *_, **__: adapter.network.encoder.model)
    with mock.patch.object(Dinov2Wrapper, "_build_dinov2", same):
        published = wrap_model_hub(model_dict["lrm"])(config)
    published.load_state_dict(adapter.network.state_dict())
    published.save_pretrained(folder, config=config)


def test_the_whole_network_runs_and_its_checkpoint_loads(tmp_path: Path) -> None:
    with narrowed(module, NARROW):
        adapter = Adapter(size="small", resolution=16)
        inputs, _ = check_whole(adapter, "224x224, grid 16", "given mask, 0.2 border, on white")
        save_as_upstream(adapter, tmp_path / "hub")
        check_saved(adapter, Adapter(size="small", resolution=16), inputs, tmp_path / "hub", "pos_embed, ")
