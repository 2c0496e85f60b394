"""What single-object networks share: cutting out, resizing, meshes of fields."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adapters.contract import ContractError, Unavailable, Unsupported
from adapters.shared.objects import (
    ObjectNetwork,
    Pictures,
    bicubic,
    bilinear,
    by_area,
    cut_out,
    field_mesh,
    object_cube,
    turn,
)
from tests.adapters.objects import BALL, MIDDLE, object_views, posed_views


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    share=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    border=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
    grey=st.sampled_from([0, 127, 255]),
)
def test_an_object_is_cut_out_whole_centred_and_nothing_else_is_shown(
    size: tuple[int, int], corner: tuple[float, float], share: tuple[float, float], border: float, grey: int
) -> None:
    height, width = size
    top, left = int(corner[0] * height), int(corner[1] * width)
    tall, wide = max(1, int(share[0] * (height - top))), max(1, int(share[1] * (width - left)))
    image = np.random.default_rng(height * width).integers(0, 255, (height, width, 3)).astype(np.uint8)
    image[image == grey] = 77
    mask = np.zeros(size, np.bool_)
    mask[top : top + tall, left : left + wide] = True
    square = cut_out(image, mask, grey, border)
    side = len(square)
    assert square.shape == (side, side, 3) and abs(side - max(tall, wide) / (1 - border)) <= 0.5
    rows, columns = np.nonzero((square != grey).all(axis=2))
    assert (rows.min(), columns.min()) == ((side - tall) // 2, (side - wide) // 2)
    shown = square[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    np.testing.assert_array_equal(shown, image[top : top + tall, left : left + wide])
    assert len(rows) == tall * wide


def test_what_a_mask_leaves_out_inside_its_box_is_ground_too() -> None:
    image, mask = np.full((9, 9, 3), 50, np.uint8), np.eye(9, dtype=np.bool_)
    square = cut_out(image, mask, border=0.0)
    np.testing.assert_array_equal((square == 50).all(axis=2), mask)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(Unsupported, match="no object pixel seen"):
        cut_out(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.bool_))


def test_how_the_object_was_cut_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given = object_views()
    by_mask = ObjectNetwork().pictures(given.images, given.masks)
    assert by_mask.foreground == "given mask, 0.2 border, on white" and by_mask.images[0].shape == (50, 50, 3)
    for adapter, views in ((ObjectNetwork(foreground="none"), given), (ObjectNetwork(), object_views(masked=False))):
        whole = adapter.pictures(views.images, views.masks)
        assert whole.foreground == "whole photo" and whole.images[0] is views.images[0]

    def remove(image: Any, only_mask: bool) -> Any:
        assert only_mask and image.size == (90, 60)
        levels = np.zeros((60, 90), np.uint8)
        levels[5:25, 10:30], levels[30:50, 10:30] = 128, 127
        return Image.fromarray(levels)

    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(remove=remove))
    segmented = ObjectNetwork(foreground="rembg").pictures(given.images, given.masks)
    assert segmented.foreground == "rembg, 0.2 border, on white" and segmented.images[0].shape == (25, 25, 3)
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(Unavailable, match="rembg is not in the adapter's environment"):
        ObjectNetwork(foreground="rembg").pictures(given.images, given.masks)
    with pytest.raises(ValueError, match="foreground: 'green' seen"):
        ObjectNetwork(foreground="green")  # type: ignore[arg-type]


def test_pictures_are_resized_by_area_and_bicubically() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    mean = image.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(by_area(image, 4) - mean).max() <= 1
    assert np.abs(bicubic(image, 8) - image.transpose(2, 0, 1) / 255).max() < 1e-6
    ramp = np.tile(np.arange(40, 200, 8, dtype=np.uint8)[:, None, None], (1, 20, 3))
    enlarged = bicubic(ramp, 39)  # corners on corners: between two rows their mean, away from the border
    assert np.abs(enlarged[:, 2:-2][:, ::2, 5] * 255 - ramp[1:-1, 5].T).max() < 1e-4
    assert np.abs(enlarged[0, 3:-3, 5] * 255 - np.arange(40, 200, 4)[3:36]).max() < 1e-4
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[4:] = 255
    assert bicubic(edge, 15).min() == 0 and bicubic(edge, 15).max() == 1  # the overshoot is clipped


def test_a_picture_is_resized_bilinearly_and_smoothed_where_it_shrinks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    assert np.abs(bilinear(image, 8) - image.transpose(2, 0, 1) / 255).max() < 1e-6
    ramp = np.tile(np.arange(40, 200, 8, dtype=np.uint8)[:, None, None], (1, 20, 3))
    enlarged = bilinear(ramp, 40)  # pixels on pixels' borders: a quarter to either side
    assert np.abs(enlarged[1, 1:-1, 5] * 255 - np.arange(42, 194, 4)).max() < 1e-4
    board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(200)
    shrunk = bilinear(np.dstack([board] * 3).astype(np.uint8), 16)
    assert np.abs(shrunk * 255 - 100).max() < 1


def test_the_resolution_told_is_the_pictures_width_and_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    shown = Pictures((np.zeros((60, 90, 3), np.uint8),), "whole photo")
    told = ObjectNetwork().execution(shown)
    assert (told.resolution, told.foreground) == ("90x60", "whole photo")


def test_a_field_s_surface_is_where_it_has_the_level() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 33)] * 3, indexing="ij"), -1)
    field = (5 - 2 * np.linalg.norm(grid - [0.1, 0.2, -0.1], axis=-1)).astype(np.float32)
    vertices, faces = field_mesh(field, 4.0, -1.0, 1.0)
    away = np.linalg.norm(vertices - [0.1, 0.2, -0.1], axis=1)
    assert np.abs(away - 0.5).max() < 0.003 and faces.max() == len(vertices) - 1
    with pytest.raises(ContractError, match=r"mesh: no surface at level 9: the field's values are 1.\d+ to 4.9"):
        field_mesh(field, 9.0, -1.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_a_turn_brings_one_direction_to_another(numbers: list[float]) -> None:
    start, end = np.array(numbers[:3]), np.array(numbers[3:])
    if min(np.linalg.norm(start), np.linalg.norm(end)) < 1e-3:
        start, end = np.array([0.0, 0.0, 2.0]), np.array([0.0, 0.0, -3.0])  # half a turn
    turned = turn(start, end)
    assert np.abs(turned @ turned.T - np.eye(3)).max() < 1e-9 and np.linalg.det(turned) > 0
    assert np.abs(turned @ start / np.linalg.norm(start) - end / np.linalg.norm(end)).max() < 1e-6


def test_where_the_object_is_is_told_by_masks_and_refused_where_they_cannot() -> None:
    views = posed_views()
    assert views.cameras is not None and views.masks is not None
    cube = object_cube(views.cameras, views.masks, 0.45)
    middle = cube.cube_from_world[:3, :3] @ MIDDLE + cube.cube_from_world[:3, 3]
    assert np.abs(middle).max() < 0.02
    assert 0.42 < np.linalg.norm(cube.cube_from_world[0, :3]) * BALL < 0.47
    assert np.abs(cube.to_world(np.zeros((1, 3), np.float32)) - MIDDLE).max() < 0.05
    for cameras, masks, sentence in (
        (views.cameras.take([0]), views.masks[:1], "cameras: 1 seen, at least 2 wanted"),
        (views.cameras.take([0, 0]), [views.masks[0]] * 2, "all look along one line"),
        (views.cameras.take([0, 1]), [views.masks[0], np.zeros((640, 480), np.bool_)], r"masks\[1\]: no object pixel"),
    ):
        with pytest.raises(Unsupported, match=sentence):
            object_cube(cameras, masks, 0.45)
