"""Fast3R's adapter around upstream's own inference and PnP, a stub answering with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.systems.fast3r import adapter as module
from adapters.systems.fast3r.adapter import Adapter, aligned, solve_cameras
from tests.adapters.runs import LESS_SURE
from tests.adapters.upstream.oracle import PHOTOS, PixelOracle, ThroughThePixels, answer, one_view_and_pairs

torch = pytest.importorskip("torch")
upstream = pytest.importorskip("fast3r.models.fast3r", reason="Fast3R's code is not importable")
from fast3r.dust3r.utils.image import load_images  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = PHOTOS


class Stub(torch.nn.Module):
    """Says the truth in the first camera at 0.7 of its scale, less surely, and each view's own at 1.3."""

    def __init__(self, oracle: PixelOracle, spoil: Any = lambda output: None) -> None:
        super().__init__()
        self.oracle, self.spoil = oracle, spoil

    def forward(self, views: Any, profiling: bool = False) -> Any:
        observed = [self.oracle.look(view["img"][0].numpy() * 0.5 + 0.5) for view in views]
        for view in views:
            upstream.view_name(view)  # what upstream does after a slow encoding
        output = []
        for view in observed:
            conf = torch.from_numpy(self.oracle.confidence(view)).float()[None]
            own = torch.from_numpy(1.3 * self.oracle.points(view, frame=view.index)).float()[None]
            common = torch.from_numpy(0.7 * self.oracle.points(view, frame=observed[0].index)).float()[None]
            output.append(
                {"pts3d_in_other_view": common, "conf": conf - LESS_SURE, "pts3d_local": own, "conf_local": conf}
            )
        self.spoil(output)
        return output


def run(oracle: PixelOracle, spoil: Any = lambda output: None, **options: str) -> Any:
    return answer(Adapter(**options), Stub(oracle, spoil), oracle)


@pytest.mark.parametrize("points", ["local", "global"])
@one_view_and_pairs
def test_known_geometry_comes_back_through_the_pixels(sizes: list[tuple[int, int]], points: str) -> None:
    oracle = PixelOracle(*sizes)
    result = run(oracle, points=points)
    oracle.least -= LESS_SURE if points == "global" else 0
    oracle.check(result)


def test_points_do_not_suffer_from_an_off_centre_principal_point() -> None:
    """PnP turns the cameras instead, whose principal point is the middle."""
    oracle = PixelOracle(LANDSCAPE, LANDSCAPE, off_centre=(20.0, -12.0))
    result = run(oracle)
    first = result.cameras.camera_from_world[0]
    assert (first == np.eye(4)).all()
    truth = np.concatenate([oracle.at(i, result.pixel[result.view_index == i].astype(float)) for i in range(2)])
    # PnP moved the frame rigidly: distances are what can be compared.
    pick = np.random.default_rng(0).integers(len(truth), size=(2, 1000))
    ratio = np.linalg.norm(np.diff(result.points[pick], axis=0)[0], axis=1)
    ratio /= np.linalg.norm(np.diff(truth[pick], axis=0)[0], axis=1)
    assert np.quantile(np.abs(ratio / np.median(ratio) - 1), 0.99) < 1e-3


class TestFast3r(ThroughThePixels):
    spoiled = (ODD, ODD)
    run = staticmethod(run)


def test_a_view_whose_pose_is_not_found_is_not_registered_and_keeps_its_points() -> None:
    def spoil(output: Any) -> None:
        output[1]["conf"][:] = 1  # upstream poses by points above 1 alone

    oracle = PixelOracle(*[LANDSCAPE] * 3)
    result = run(oracle, spoil)
    result.validate(oracle.views)
    assert result.registered.tolist() == [True, False, True]
    assert set(result.view_index) == {0, 1, 2}
    assert (result.depth[1] == 0).all() and (result.depth[2] > 0).any()


@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE, ODD])
def test_prepares_what_upstream_s_loader_would(size: tuple[int, int], tmp_path: Path) -> None:
    oracle = PixelOracle(size)
    Image.fromarray(oracle.views.images[0]).save(tmp_path / "a.png")
    wanted = load_images([str(tmp_path / "a.png")], size=512, verbose=False)
    assert np.array_equal(Adapter().prepare(oracle.views).images[0], wanted[0]["img"][0].numpy())


def test_cameras_and_local_points_are_those_of_upstream_s_own_wrapper() -> None:
    lit = pytest.importorskip("fast3r.models.multiview_dust3r_module", reason="needs what only training needs")
    oracle = PixelOracle(LANDSCAPE, LANDSCAPE)
    adapter = Adapter()
    with torch.no_grad():
        output = Stub(oracle)(
            [
                {"img": torch.from_numpy(i)[None], "dataset": "", "label": "", "instance": ""}
                for i in adapter.prepare(oracle.views).images
            ]
        )
    noise = torch.Generator().manual_seed(0)
    for view in output:
        view["pts3d_in_other_view"] += 0.01 * torch.randn(view["pts3d_in_other_view"].shape, generator=noise)
    upstream_class = lit.MultiViewDUSt3RLitModule
    theirs, focals = upstream_class.estimate_camera_poses(
        output, niter_PnP=100, focal_length_estimation_method="first_view_from_global_head"
    )
    flat = [{name: tensor[0] for name, tensor in view.items()} for view in output]
    poses, K, registered = solve_cameras(flat)
    assert registered.all()
    assert np.abs(poses - np.array(theirs[0])).max() < 1e-6
    assert K[:, 0, 0] == pytest.approx(focals[0], rel=1e-6)
    upstream_class.align_local_pts3d_to_global(None, output, [{}, {}], min_conf_thr_percentile=85)
    for own, view in zip(flat, output, strict=True):
        assert torch.allclose(aligned(own), view["pts3d_local_aligned_to_global"][0], atol=1e-5)


def test_one_seed_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network of upstream's classes, randomly filled; without the seed its index embedding differs."""
    monkeypatch.setattr(module, "SIDE", 64)
    sizes = {"embed_dim": 64, "num_heads": 4, "depth": 12, "mlp_ratio": 2.0, "attn_implementation": "flash_attention"}
    head = {"head_type": "dpt", "output_mode": "pts3d", "landscape_only": False, "patch_size": 16}
    torch.manual_seed(0)
    network = upstream.Fast3R(
        encoder_args={"encoder_type": "croco", "img_size": 64, "patch_embed_cls": "PatchEmbedDust3R", **sizes},
        decoder_args={"random_image_idx_embedding": True, "enc_embed_dim": 64, **sizes},
        head_args={
            **head,
            "depth_mode": ["exp", -np.inf, np.inf],
            "conf_mode": ["exp", 1, np.inf],
            "with_local_head": True,
        },
    ).eval()
    oracle = PixelOracle(*[(64, 48)] * 3)
    adapter = Adapter(points="global")
    adapter.network = network
    inputs = adapter.prepare(oracle.views)
    first, again = (adapter.infer(inputs).points for _ in range(2))
    adapter.seed = 1
    other = adapter.infer(inputs).points
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
