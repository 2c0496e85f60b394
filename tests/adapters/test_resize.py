"""Resizing: where a photo lies in a network's image, measured through the pixels, and the ways back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.contract import Cameras
from adapters.shared.pointmaps import unprojected
from adapters.shared.resize import Placement, place, place_longest, unit_range
from tests.adapters.upstream.oracle import PixelOracle

SIDES = st.integers(300, 900)


@settings(max_examples=12, deadline=None)
@given(width=SIDES, height=SIDES, square_ok=st.booleans())
def test_the_placement_is_what_the_pixels_show(width: int, height: int, square_ok: bool) -> None:
    oracle = PixelOracle((width, height))
    image, placement = place_longest(oracle.views.images[0], 256, multiple=8, square_ok=square_ok)
    assert max(image.shape) <= 256 and image.shape[0] % 8 == image.shape[1] % 8 == 0
    affine = oracle.look(unit_range([image])[0]).affine
    there = placement.pixels()
    v, u = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    observed = np.stack([u, v, np.ones(u.shape)], axis=-1) @ affine.T
    # In the network's pixels. Where the ratio is almost a small whole number (511 px to 256) rounding to levels does
    # not average out over the image: of all widths from 300 to 900 the worst is 0.16; others stay below 0.08.
    assert (np.abs(there - observed) * placement.scale).max() < 0.2


@pytest.mark.parametrize(
    ("photo", "square_ok", "network"),
    [
        ((640, 480), False, (512, 384)),
        ((480, 640), False, (384, 512)),
        ((1000, 1000), False, (512, 384)),
        ((1000, 1000), True, (512, 512)),
        ((803, 611), False, (512, 384)),  # 512 x 390: three rows are cut above and below
        ((160, 120), False, (512, 384)),  # enlarged
    ],
)
def test_the_longest_side_s_rule(photo: tuple[int, int], square_ok: bool, network: tuple[int, int]) -> None:
    image, placement = place_longest(np.zeros((photo[1], photo[0], 3), np.uint8), 512, square_ok=square_ok)
    assert placement.network == network == image.shape[1::-1]


placements = st.builds(
    Placement,
    photo=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    network=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    scale=st.tuples(st.floats(0.4, 2.5), st.floats(0.4, 2.5)),
    offset=st.tuples(st.integers(-6, 6).map(float), st.integers(-6, 6).map(float)),
)


@settings(max_examples=60, deadline=None)
@given(placement=placements, depth=st.floats(0.5, 9))
def test_unprojected_points_project_onto_their_pixels_in_the_photo(placement: Placement, depth: float) -> None:
    width, height = placement.network
    K = np.array([[50.0, 0, width / 2], [0, 41.0, height / 2], [0, 0, 1]])
    points = unprojected(np.full((height, width), depth), K, np.eye(4))
    camera = Cameras(placement.intrinsics(K)[None], np.eye(4)[None])
    pixel, z = camera.project(0, points.reshape(-1, 3))
    assert np.abs(pixel - placement.pixels().reshape(-1, 2)).max() < 1e-3
    assert np.abs(z - depth).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(placement=placements, slope=st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)))
def test_a_plane_is_restored_exactly_where_the_crop_shows_it(placement: Placement, slope: tuple[float, float]) -> None:
    """Bilinear interpolation is exact there; beyond the outermost centres the border goes on."""
    inside = placement.inside()
    if inside.sum(axis=0).max() < 2 or inside.sum(axis=1).max() < 2:
        return
    values = 20 + placement.pixels() @ np.array(slope)
    values[~inside] = 1e6  # padding must not bleed in
    restored = placement.restore(values)
    width, height = placement.photo
    y, x = np.mgrid[:height, :width] + 0.5
    u, v = placement.scale[0] * x + placement.offset[0], placement.scale[1] * y + placement.offset[1]
    shown = (u >= 0) & (u <= placement.network[0]) & (v >= 0) & (v <= placement.network[1])
    assert ((restored > 0) == shown).all()
    rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    u, v = np.clip(u, columns[0] + 0.5, columns[-1] + 0.5), np.clip(v, rows[0] + 0.5, rows[-1] + 0.5)
    x, y = (u - placement.offset[0]) / placement.scale[0], (v - placement.offset[1]) / placement.scale[1]
    wanted = 20 + slope[0] * x + slope[1] * y
    assert np.abs(restored - wanted)[shown].max(initial=0) < 1e-3


def test_what_is_not_known_is_not_restored() -> None:
    placement = Placement((8, 6), (8, 6), (1.0, 1.0), (0.0, 0.0))
    for unknown in (np.nan, np.inf, 0.0, -1.0):
        values = np.ones((6, 8))
        values[2, 3] = unknown
        restored = placement.restore(values)
        assert restored[2, 3] == 0 and (np.delete(restored.ravel(), 2 * 8 + 3) == 1).all()


def test_padding_is_white_and_holds_no_photo() -> None:
    image, placement = place(np.zeros((4, 6, 3), np.uint8), (6, 4), (1, 3), (9, 8))
    assert (image[3:7, 1:7] == 0).all() and image.sum() == 255 * 3 * (72 - 24)
    assert (placement.inside() == (image[..., 0] == 0)).all()
