"""MASt3R's adapter around upstream's own pairing, matching and alignment, a stub answering with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adapters.shared import pairs
from adapters.systems.mast3r.adapter import Adapter
from tests.adapters.upstream.oracle import AXES, MIDDLE, PixelOracle, Seen, ThroughThePixels, answer

torch = pytest.importorskip("torch")
pytest.importorskip("mast3r.utils.path_to_dust3r", reason="MASt3R's code is not importable")
from dust3r.utils.image import load_images  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = (320, 240), (240, 320), (250, 250), (401, 305)
FOCAL = (140.0, 140.0)  # of the network images, which are small: matching takes a minute of CPU at full size
SURE = 0.01  # share of an image's pixels that are matched
# Errors after upstream's stages. Even with nothing to align, small images are read to 1.2e-4, and leave the depth
# between their pixels to be guessed.
COARSE = {"points": 2e-4, "centres": 2e-4, "depth": 2e-3, "pixels": 0.1, "degrees": 0.03}
CLEANED = {"cleaned": True, **COARSE}
FINE = {**COARSE, "points": 2e-3, "centres": 2e-3, "depth": 3e-3, "intrinsics": 1.0, "degrees": 0.05}
# Depths, focal lengths and principal points that all may move hold each other loosely: upstream's default. The pixels
# matched are a twentieth of a pixel off, which moves nothing so far where depths are kept.
FREE = {**FINE, "points": 0.02, "centres": 5e-3, "depth": 0.015, "intrinsics": 8.0, "degrees": 0.5}


class Stub:
    """A network that says the truth in the camera of a pair's reference, and describes the walls of the room.

    A pixel's descriptor is its wall's direction. Two photos' pixels hardly ever have one centre on the wall: those of
    a pair that come nearest to it, on average within a twentieth of a pixel, are described best, so that upstream's
    matching ends there from wherever it starts. With `jitter` each answer is of its own scale."""

    def __init__(self, oracle: PixelOracle, jitter: bool = False) -> None:
        self.oracle, self.jitter = oracle, jitter
        self.rng = np.random.default_rng(0)
        self.asked = 0  # pairs

    def _encode_image_pairs(self, image1: Any, image2: Any, shape1: Any, shape2: Any) -> Any:
        self.asked += 1
        return image1, image2, None, None

    def _decoder(self, image1: Any, where1: Any, image2: Any, where2: Any) -> Any:
        """For each head its own image, the reference's and the partner's."""
        self.scale = self.rng.uniform(0.5, 2) if self.jitter else 0.5
        return [image1, image1, image2], [image2, image1, image1]

    def _downstream_head(self, head: int, images: Any, shape: Any) -> Any:
        own, reference, partner = (self.oracle.look(image[0].numpy() * 0.5 + 0.5) for image in images)
        assert own.shown.shape == tuple(shape[0])
        wall = (self.oracle.points(own) - MIDDLE) / AXES
        sure = self.matched(own, partner)[..., None]
        # One more dimension for each side of a pair: those not described best are alike to none of the other side.
        side = np.eye(2)[int(own.index > partner.index)]
        blurred = np.concatenate([wall * 0.5, np.sqrt(0.75) * np.broadcast_to(side, (*wall.shape[:2], 2))], axis=-1)
        output = {
            "pts3d": self.scale * self.oracle.points(own, frame=reference.index),
            "conf": self.oracle.confidence(own) + 0.999,  # which upstream takes away
            "desc": np.where(sure, np.concatenate([wall, np.zeros_like(wall[..., :2])], axis=-1), blurred),
            "desc_conf": np.where(sure[..., 0], 1.0, 1e-6),
        }
        return {name: torch.from_numpy(array).float()[None] for name, array in output.items()}

    def matched(self, own: Seen, partner: Seen) -> NDArray[np.bool_]:
        """(h, w): pixels of `own` that meet one of `partner` nearest to its centre; the same pairs seen from both."""
        first, second = sorted((own, partner), key=lambda observed: observed.index)
        height, width = second.shown.shape
        there = self.oracle.points(first, frame=second.index)
        K = self.oracle.network_intrinsics(height, width)
        pixels = there[..., :2] / there[..., 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
        nearest = np.round(pixels).astype(int)
        off = np.abs(pixels - nearest).max(axis=-1)
        off[((nearest < 0) | (nearest >= (width, height))).any(axis=-1)] = np.inf
        best = off <= np.partition(off.ravel(), int(SURE * off.size))[int(SURE * off.size)]
        if own is first:
            return np.asarray(best)
        met = np.zeros((height, width), np.bool_)
        met[nearest[best][:, 1], nearest[best][:, 0]] = True
        return met


def run(oracle: PixelOracle, jitter: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    return answer(Adapter(**options), Stub(oracle, jitter), oracle)


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small network images, and a working folder of the test's own, as a worker has one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pairs, "SIDE", 160)


@pytest.mark.parametrize("square_ok", [False, True])
@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE, ODD], ids=["landscape", "portrait", "square", "odd"])
def test_known_geometry_of_one_view_comes_back_through_the_pixels(size: tuple[int, int], square_ok: bool) -> None:
    oracle = PixelOracle(size, focal=FOCAL)
    oracle.check(run(oracle, square_ok=square_ok), cleaned=True, **COARSE)


@pytest.mark.parametrize(
    "sizes",
    [[LANDSCAPE] * 2, [PORTRAIT] * 3, [SQUARE] * 2, [ODD] * 3, [LANDSCAPE, PORTRAIT, SQUARE, ODD]],
    ids=["landscape", "portrait", "square", "odd", "mixed"],
)
def test_known_geometry_comes_back_from_the_alignment_of_points(sizes: list[tuple[int, int]]) -> None:
    oracle = PixelOracle(*sizes, focal=FOCAL)
    oracle.check(run(oracle, refinements=0), cleaned=True, **COARSE)


@pytest.mark.parametrize("sizes", [[LANDSCAPE] * 3, [PORTRAIT, ODD, SQUARE]], ids=["landscape", "mixed"])
def test_known_geometry_survives_refinement_of_cameras(sizes: list[tuple[int, int]]) -> None:
    oracle = PixelOracle(*sizes, focal=FOCAL)
    oracle.check(run(oracle, refine_depth=False), cleaned=True, **FINE)


@pytest.mark.parametrize("shared", [False, True])
def test_upstream_s_defaults_stay_near_the_known_geometry(shared: bool) -> None:
    oracle = PixelOracle(*[LANDSCAPE] * 3, focal=FOCAL)
    result = run(oracle, shared_intrinsics=shared)
    oracle.check(result, cleaned=True, **FREE)
    same = (result.cameras.intrinsics == result.cameras.intrinsics[0]).all()
    assert same == shared


@pytest.mark.parametrize("graph", ["swin-2-noncyclic", "logwin-1", "oneref-1"])
def test_known_geometry_survives_other_scene_graphs(graph: str) -> None:
    oracle = PixelOracle(LANDSCAPE, PORTRAIT, LANDSCAPE, ODD, focal=FOCAL)
    oracle.check(run(oracle, scene_graph=graph, refinements=0), cleaned=True, **COARSE)


def test_alignment_finds_the_scales_of_the_answers() -> None:
    oracle = PixelOracle(*[LANDSCAPE] * 3, focal=FOCAL)
    oracle.check(run(oracle, jitter=True, refinements=0), cleaned=True, **COARSE)


def test_refinement_moves_the_principal_point_towards_its_place() -> None:
    oracle = PixelOracle(*[LANDSCAPE] * 3, focal=FOCAL, off_centre=(4.0, -3.0))
    coarse = oracle.measure(run(oracle, refinements=0), cleaned=True)
    fine = oracle.measure(run(oracle, refine_depth=False), cleaned=True)
    assert fine["intrinsics"] < 0.7 * coarse["intrinsics"]
    assert fine["points"] < 0.4 * coarse["points"]


class TestMast3r(ThroughThePixels):
    turned = (PORTRAIT, LANDSCAPE)
    spoiled = (ODD, PORTRAIT)
    focal = FOCAL
    limits = CLEANED

    def run(self, oracle: PixelOracle) -> Any:
        return run(oracle, refinements=0)


@pytest.mark.parametrize("square_ok", [False, True])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500), (803, 611), (160, 120), (611, 803)])
def test_prepares_what_upstream_s_loader_would(
    size: tuple[int, int], square_ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "SIDE", 512)
    oracle = PixelOracle(size)
    Image.fromarray(oracle.views.images[0]).save(tmp_path / "a.png")
    wanted = load_images([str(tmp_path / "a.png")], size=512, square_ok=square_ok, verbose=False)
    own = Adapter(square_ok=square_ok).prepare(oracle.views).images[0]
    assert np.array_equal(own, wanted[0]["img"][0].numpy())


def test_every_call_asks_the_network_and_leaves_no_file(tmp_path: Path) -> None:
    oracle = PixelOracle(*[LANDSCAPE] * 3, focal=FOCAL)
    adapter = Adapter(refinements=0)
    adapter.network = Stub(oracle)
    inputs = adapter.prepare(oracle.views)
    first, again = adapter.infer(inputs), adapter.infer(inputs)
    assert adapter.network.asked == 2 * 3
    assert not list(tmp_path.iterdir())
    assert (first.camera_from_world == again.camera_from_world).all()
    assert all(
        (first_points == again_points).all()
        for first_points, again_points in zip(first.points, again.points, strict=True)
    )
