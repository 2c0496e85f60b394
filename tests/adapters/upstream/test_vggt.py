"""VGGT's adapter around upstream's own forward pass, its heads answering with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.systems.vggt.adapter import Adapter
from tests.adapters.upstream.oracle import PHOTOS, PixelOracle, ThroughThePixels, answer, photo_sets, saved_photos

torch = pytest.importorskip("torch")
vggt = pytest.importorskip("vggt.models.vggt", reason="VGGT's package is not importable")
from vggt.utils.geometry import unproject_depth_map_to_point_map  # noqa: E402
from vggt.utils.pose_enc import extri_intri_to_pose_encoding  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = PHOTOS


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's VGGT, whose aggregator looks at the images and whose heads say the oracle's truth, halved in scale."""
    told: dict[str, Any] = {}

    class Aggregator(torch.nn.Module):
        def forward(self, images: Any) -> Any:
            observed, poses, K = oracle.look_at(images[0].numpy())
            points = np.stack([oracle.points(s) for s in observed])
            depth = np.einsum("nhwj,nj->nhw", points, poses[:, 2, :3]) + poses[:, 2, 3][:, None, None]
            poses[:, :3, 3] /= 2
            told["cameras"] = extri_intri_to_pose_encoding(
                torch.from_numpy(poses[None, :, :3]), torch.from_numpy(K[None]), images.shape[-2:]
            )
            told["depth"], told["points"] = (
                torch.from_numpy(depth[None, ..., None] / 2),
                torch.from_numpy(points[None] / 2),
            )
            told["conf"] = torch.from_numpy(np.stack([oracle.confidence(s) for s in observed])[None])
            return [images], 5

    class CameraHead(torch.nn.Module):
        def forward(self, tokens: Any) -> Any:
            return [told["cameras"]]

    class DenseHead(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, tokens: Any, images: Any, patch_start_idx: int) -> Any:
            return told[self.name], told["conf"] + (10 if self.name == "points" else 0)

    network = vggt.VGGT.__new__(vggt.VGGT)
    torch.nn.Module.__init__(network)
    network.aggregator, network.camera_head, network.track_head = Aggregator(), CameraHead(), None
    network.depth_head, network.point_head = DenseHead("depth"), DenseHead("points")
    return network.eval()


def run(oracle: PixelOracle, **options: str) -> Any:
    return answer(Adapter(**options), Stub(oracle), oracle)


@pytest.mark.parametrize("options", [{}, {"points": "head"}, {"fit": "pad"}], ids=["depth", "head", "pad"])
@photo_sets(PHOTOS)
def test_known_geometry_comes_back_through_the_pixels(sizes: list[tuple[int, int]], options: dict[str, str]) -> None:
    oracle = PixelOracle(*sizes, focal=(470.0, 430.0))
    result = run(oracle, **options)
    oracle.least += 10 if options.get("points") == "head" else 0
    oracle.check(result)


def test_the_point_head_s_points_do_not_suffer_from_an_off_centre_principal_point() -> None:
    """The camera cannot say it: its principal point is the middle, whatever the lens."""
    oracle = PixelOracle(LANDSCAPE, LANDSCAPE, off_centre=(20.0, -12.0))
    result = run(oracle, points="head")
    oracle.least += 10
    measured = oracle.measure(result)
    assert measured["points"] < 1e-4 and measured["degrees"] < 0.01 and measured["centres"] < 1e-4
    assert measured["intrinsics"] == pytest.approx(20 * 640 / 518, abs=0.05)


class TestVggt(ThroughThePixels):
    spoiled = (PORTRAIT, PORTRAIT)
    run = staticmethod(run)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]], fit: str, tmp_path: Path) -> None:
    oracle = PixelOracle(*sizes)
    paths = saved_photos(oracle.views, tmp_path)
    loader = pytest.importorskip("vggt.utils.load_fn", reason="upstream's loader wants torchvision")
    wanted = loader.load_and_preprocess_images(paths, mode=fit).numpy()
    assert np.array_equal(Adapter(fit=fit).prepare(oracle.views).images, wanted)


def test_points_are_those_of_upstream_s_own_unprojection() -> None:
    oracle = PixelOracle(LANDSCAPE, LANDSCAPE)
    adapter = Adapter()
    adapter.network = Stub(oracle)
    outputs = adapter.infer(adapter.prepare(oracle.views))
    theirs = unproject_depth_map_to_point_map(outputs.depth[..., None], outputs.camera_from_world, outputs.intrinsics)
    first = outputs.camera_from_world[0]
    theirs = theirs.reshape(-1, 3) @ first[:, :3].T + first[:, 3]
    assert np.abs(adapter.finish(outputs, oracle.views).points - theirs).max() < 1e-5
