"""Depth Anything 3's sizes: OpenCV is not needed."""

from __future__ import annotations

import pytest

from adapters.systems.depth_anything_3.adapter import longest_at, nearest_multiple, placements_of


@pytest.mark.parametrize(
    ("photo", "longest", "whole"),
    [((640, 480), (504, 378), (504, 378)), ((480, 640), (378, 504), (378, 504)), ((803, 611), (504, 383), (504, 378))],
)
def test_sizes_by_upstream_s_rule(photo: tuple[int, int], longest: tuple[int, int], whole: tuple[int, int]) -> None:
    assert longest_at(photo) == longest
    assert tuple(map(nearest_multiple, longest)) == placements_of([photo])[0].network == whole
    assert nearest_multiple(77) == 84  # the middle goes upwards
