"""TripoSR's adapter around upstream's own query of planes that hold a sphere, and its whole network drawn at random."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from adapters.shared.absent import absent
from adapters.shared.objects import bilinear
from adapters.systems.triposr import adapter as module
from adapters.systems.triposr.adapter import CONFIG, LEVEL, RADIUS, Adapter
from tests.adapters.objects import CENTRE, check_fine_sphere, check_no_surface, check_saved, check_whole, narrowed
from tests.adapters.objects import RADIUS as BALL
from tests.adapters.objects import object_views as views

torch = pytest.importorskip("torch")
with absent("torchmcubes", "rembg"):
    upstream = pytest.importorskip("tsr.system", reason="TripoSR's code is not importable")
    from tsr.models import isosurface
    from tsr.models.nerf_renderer import TriplaneNeRFRenderer
    from tsr.utils import ImagePreprocessor, resize_foreground

NARROW = {
    "CONFIG": {
        "tokenizer": {"plane_size": 8, "num_channels": 64},
        "backbone": {"in_channels": 64, "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1,
                     "cross_attention_dim": 48},
        "post_processor": {"in_channels": 64, "out_channels": 40},
    },
    "ENCODER": {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96},
}  # fmt: skip


class Ball(torch.nn.Module):
    """In the decoder's place: reads from the planes where a point lies; a ball's density and colours that say it."""

    def forward(self, features: Any) -> dict[str, Any]:
        first, second, third = features.unflatten(-1, (3, 3)).unbind(1)  # planes of x y, x z and y z
        (x, y), (xz, z), (yz, zz) = ((plane[:, :2] / plane[:, 2:]).unbind(1) for plane in (first, second, third))
        assert torch.allclose(x, xz) and torch.allclose(y, yz) and torch.allclose(z, zz)
        points = torch.stack([x, y, z], 1) * RADIUS
        away = (points - torch.tensor(CENTRE, dtype=torch.float32)).norm(dim=1, keepdim=True)
        shares = ((points + 1) / 2).clamp(1e-6, 1 - 1e-6)
        return {"density": np.log(LEVEL) + 1 + 4 * (BALL - away), "features": torch.logit(shares)}


class Stub(torch.nn.Module):
    """Upstream's renderer and the ball; planes that say where a point of theirs lies, and that it is inside them."""

    def __init__(self) -> None:
        super().__init__()
        self.renderer = TriplaneNeRFRenderer(CONFIG["renderer"])
        self.decoder = Ball()
        self.isosurface_helper = None

    def forward(self, images: Any, device: str) -> Any:
        (image,) = images
        assert image.shape == (512, 512, 3) and image.dtype == np.float32 and device == "cpu"
        assert abs(image[0, 0, 0] - 127 / 255) < 1e-6
        ramp = (torch.arange(64) + 0.5) / 32 - 1
        across, down = ramp[None].expand(64, 64), ramp[:, None].expand(64, 64)
        return torch.stack([across, down, torch.ones(64, 64)]).expand(1, 3, 3, 64, 64)


def test_a_sphere_comes_back_through_upstream_s_planes() -> None:
    adapter = Adapter(resolution=96)
    adapter.network = Stub()
    check_fine_sphere(adapter, 2 * RADIUS / 95)


def test_the_density_and_its_coordinates_are_those_of_upstream_s_extract_mesh() -> None:
    adapter = Adapter(resolution=20)
    adapter.network = Stub()
    outputs = adapter.infer(adapter.prepare(views()))
    seen = []

    def cubes(field: Any, level: float) -> Any:
        seen.append(field.numpy())
        assert level == 0
        corners = torch.tensor([[0.0, 0, 0], [19, 19, 19], [3, 5, 7]])  # z first, as torchmcubes returns them
        return corners, torch.tensor([[0, 1, 2]])

    with mock.patch.object(isosurface, "marching_cubes", cubes):
        as_upstream = types.MethodType(upstream.TSR.extract_mesh, adapter.network)
        adapter.network.set_marching_cubes_resolution = types.MethodType(
            upstream.TSR.set_marching_cubes_resolution, adapter.network
        )
        (mesh,) = as_upstream(outputs.planes, has_vertex_color=True, resolution=20, threshold=LEVEL)
    assert np.abs(seen[0] - (outputs.density - LEVEL)).max() < 1e-4 * outputs.density.max()
    axis = np.linspace(-RADIUS, RADIUS, 20)
    wanted = np.array([[axis[0]] * 3, [axis[19]] * 3, [axis[7], axis[5], axis[3]]])
    assert np.abs(np.sort(mesh.vertices, axis=0) - np.sort(wanted, axis=0)).max() < 1e-6


def test_no_surface_is_one_sentence_with_the_range() -> None:
    adapter = Adapter(resolution=16)
    adapter.network = Stub()
    check_no_surface(adapter, 25)


@pytest.mark.parametrize("side", [300, 900])
def test_the_picture_is_resized_as_upstream_does(side: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    wanted = ImagePreprocessor()(image, 512)[0].numpy()
    assert np.abs(bilinear(image, 512).transpose(1, 2, 0) - wanted).max() < 2e-6


def test_the_object_lies_where_upstream_s_cut_has_it() -> None:
    given = views()
    assert given.masks is not None
    photo, mask = given.images[0].copy(), given.masks[0]
    soft = np.dstack([photo, np.where(mask, 255, 0).astype(np.uint8)])
    theirs = np.asarray(resize_foreground(Image.fromarray(soft), 0.85)).astype(np.float32) / 255
    theirs = ((theirs[..., :3] * theirs[..., 3:] + (1 - theirs[..., 3:]) * 0.5) * 255).astype(np.uint8)
    ours = Adapter().pictures(given.images, given.masks).images[0]
    assert abs(len(ours) - len(theirs)) <= 2
    top, left = (np.argwhere((square != 127).any(axis=2)).min(axis=0) for square in (ours, theirs))
    assert np.abs(top - left).max() <= 1
    inner = [square[rows : rows + 29, columns : columns + 39] for square, (rows, columns) in
             ((ours, top), (theirs, left))]  # fmt: skip
    assert np.abs(inner[0].astype(int) - inner[1]).max() <= 1


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """As upstream's from_pretrained reads it."""
    torch.save(adapter.network.state_dict(), folder / "model.ckpt")


def test_the_whole_network_runs_as_upstream_s_does_and_its_checkpoint_loads(tmp_path: Path) -> None:
    with narrowed(module, NARROW):
        adapter = Adapter(resolution=16)
        inputs, outputs = check_whole(adapter, "512x512, grid 16", "given mask, 0.15 border, on grey 127")
        cut = adapter.pictures(views().images, views().masks).images[0]
        with torch.no_grad():
            codes = adapter.network([Image.fromarray(cut)], device="cpu")
        assert (codes - outputs.planes).abs().max() < 1e-4 * codes.abs().max()

        save_as_upstream(adapter, tmp_path)
        check_saved(adapter, Adapter(resolution=16), inputs, tmp_path / "model.ckpt", "image_tokenizer")
