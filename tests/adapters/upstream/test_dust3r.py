"""DUSt3R's adapter around upstream's own pairing and alignment, a stub answering each pair with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.shared import pairs
from adapters.systems.dust3r.adapter import Adapter
from tests.adapters.upstream.oracle import DIAMETER, PHOTOS, PixelOracle, ThroughThePixels, answer, one_view_and_pairs

torch = pytest.importorskip("torch")
load_images = pytest.importorskip("dust3r.utils.image", reason="DUSt3R's code is not importable").load_images

LANDSCAPE, PORTRAIT, SQUARE, ODD = PHOTOS
CLEANED = {"cleaned": True}  # of `PixelOracle.check`
SMALL = (160, 120)  # alignment takes a minute of CPU at full size


def Stub(oracle: PixelOracle, jitter: bool = False) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """A network that says the truth in its first view's camera, of a pair's own scale with `jitter`."""
    rng = np.random.default_rng(0)

    def network(view1: Any, view2: Any) -> Any:
        scale = rng.uniform(0.5, 2) if jitter else 0.5
        output = []
        observed = [oracle.look(view["img"][0].numpy() * 0.5 + 0.5) for view in (view1, view2)]
        for view, key in zip(observed, ("pts3d", "pts3d_in_other_view"), strict=True):
            points = torch.from_numpy(scale * oracle.points(view, frame=observed[0].index)).float()
            output.append({key: points[None], "conf": torch.from_numpy(oracle.confidence(view)).float()[None]})
        return output

    return network


def run(oracle: PixelOracle, jitter: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    return answer(Adapter(**options), Stub(oracle, jitter), oracle)


@pytest.mark.parametrize("square_ok", [False, True])
@one_view_and_pairs
def test_known_geometry_of_a_pair_comes_back_through_the_pixels(sizes: list[tuple[int, int]], square_ok: bool) -> None:
    oracle = PixelOracle(*sizes)
    oracle.check(run(oracle, square_ok=square_ok), cleaned=True)


@pytest.mark.parametrize(
    ("sizes", "graph"),
    [([SMALL] * 4, "complete"), ([SMALL] * 3, "oneref-0"), ([SMALL, SMALL[::-1], SMALL], "swin-2")],
)
def test_known_geometry_survives_global_alignment(
    sizes: list[tuple[int, int]], graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "SIDE", 160)
    oracle = PixelOracle(*sizes, focal=(140.0, 140.0))
    oracle.check(run(oracle, scene_graph=graph, iterations=0, clean=False))


def test_alignment_finds_the_scales_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "SIDE", 160)
    oracle = PixelOracle(*[SMALL] * 3, focal=(140.0, 140.0))
    result = run(oracle, jitter=True, iterations=300)
    oracle.check(result, cleaned=True, points=2e-3, centres=2e-3, depth=3e-3, degrees=0.2, intrinsics=1.0)


class TestDust3r(ThroughThePixels):
    spoiled = (ODD, ODD)
    limits = CLEANED
    run = staticmethod(run)


@pytest.mark.parametrize("square_ok", [False, True])
@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE, ODD, SMALL, (611, 803)])
def test_prepares_what_upstream_s_loader_would(size: tuple[int, int], square_ok: bool, tmp_path: Path) -> None:
    oracle = PixelOracle(size)
    Image.fromarray(oracle.views.images[0]).save(tmp_path / "a.png")
    wanted = load_images([str(tmp_path / "a.png")], size=512, square_ok=square_ok, verbose=False)
    own = Adapter(square_ok=square_ok).prepare(oracle.views).images[0]
    assert np.array_equal(own, wanted[0]["img"][0].numpy())


@pytest.mark.parametrize("reference", [0, 1])
def test_a_pair_whose_pose_is_not_found_has_the_reference_registered_alone(reference: int) -> None:
    oracle = PixelOracle(LANDSCAPE, LANDSCAPE)
    true = Stub(oracle)

    def unsure(view1: Any, view2: Any) -> Any:
        output = true(view1, view2)
        for own in output:  # upstream poses by points above 3 alone
            own["conf"] = torch.full_like(own["conf"], 2.0 if int(view1["idx"][0]) == reference else 1.0)
        return output

    adapter = Adapter(clean=False)
    adapter.network = unsure
    result = adapter.predict(oracle.views)
    result.validate(oracle.views)
    assert result.registered is not None and result.view_index is not None and result.pixel is not None
    assert np.flatnonzero(result.registered).tolist() == [reference]
    assert set(result.view_index) == {reference}
    pose = oracle.camera_from_world(reference)
    truth = oracle.at(reference, result.pixel.astype(np.float64)) @ pose[:3, :3].T + pose[:3, 3]
    assert np.abs(result.points / 0.5 - truth).max() < 1e-3


@pytest.mark.parametrize("iterations", [0, 300])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_view_that_the_alignment_s_start_could_not_place_is_not_registered(
    lost: int, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "SIDE", 160)
    oracle = PixelOracle(*[SMALL] * 3, focal=(140.0, 140.0))
    true = Stub(oracle)

    def unsure(view1: Any, view2: Any) -> Any:
        output = true(view1, view2)
        # Upstream asks PnP for a view that is the second of its surest pair, and shows it points above 3 alone.
        for own, view, level in zip(output, (view1, view2), (1.0, 2.0), strict=True):
            if int(view["idx"][0]) == lost:
                own["conf"] = torch.full_like(own["conf"], level)
        return output

    adapter = Adapter(clean=False, iterations=iterations)
    adapter.network = unsure
    result = adapter.predict(oracle.views)
    result.validate(oracle.views)
    assert result.registered is not None and result.view_index is not None and result.pixel is not None
    measured = [view for view in range(3) if view != lost]
    assert np.flatnonzero(result.registered).tolist() == measured == sorted(set(result.view_index))
    pose = oracle.camera_from_world(measured[0])
    pixels = [result.pixel[result.view_index == view].astype(np.float64) for view in measured]
    truth = np.concatenate([oracle.at(view, observed) for view, observed in zip(measured, pixels, strict=True)])
    truth = truth @ pose[:3, :3].T + pose[:3, 3]
    scale = (result.points * truth).sum() / (truth * truth).sum()
    assert np.linalg.norm(result.points / scale - truth, axis=1).max() < 5e-3 * DIAMETER
