"""Depth Anything 3's adapter on a recorded run of upstream's code: nothing of upstream, nor OpenCV, is needed."""

from __future__ import annotations

import pytest

from adapters.contract import Reconstruction
from adapters.shared.pointmaps import PosedDepth
from adapters.systems.depth_anything_3 import adapter as module
from adapters.systems.depth_anything_3.adapter import Adapter, longest_at, nearest_multiple, placed
from tests.adapters.recorded import CASES, check_result, load
from tests.adapters.upstream.oracle import MUTATIONS, PixelOracle

NAME = "depth-anything-3"


def finished(monkeypatch: pytest.MonkeyPatch) -> tuple[PixelOracle, Reconstruction]:
    """The recorded run, the photos placed by the adapter's rule in the images that upstream prepared."""
    case = CASES[NAME]
    monkeypatch.setattr(module, "SIDE", case.side)
    oracle = case.oracle()
    said, prepared = load(NAME, PosedDepth, placed(list(case.sizes)))
    for image in prepared:
        oracle.look(image / 255)
    return oracle, Adapter().finish(said, oracle.views)


def test_a_recorded_run_comes_back_as_the_known_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    check_result(*finished(monkeypatch))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_recorded_run_shows_an_adapter_s_error(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(AssertionError):
        check_result(*finished(monkeypatch))


@pytest.mark.parametrize(
    ("photo", "longest", "whole"),
    [((640, 480), (504, 378), (504, 378)), ((480, 640), (378, 504), (378, 504)), ((803, 611), (504, 383), (504, 378))],
)
def test_sizes_by_upstream_s_rule(photo: tuple[int, int], longest: tuple[int, int], whole: tuple[int, int]) -> None:
    assert longest_at(photo) == longest
    assert tuple(map(nearest_multiple, longest)) == placed([photo])[0].network == whole
    assert nearest_multiple(77) == 84  # the middle goes upwards
