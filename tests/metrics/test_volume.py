"""Volume IoU: closed forms, invariances, certified bounds, refusals."""

import numpy as np
import pytest
import trimesh

from metrics.volume import volume_iou, volume_iou_adaptive
from tests.metrics.meshes import moved, parts

BOX = trimesh.creation.box((2, 2, 2))
BALL = trimesh.creation.icosphere(3, 1.0)


def test_shifted_boxes() -> None:
    value = volume_iou(*parts(BOX), *parts(moved(BOX, 0.87, 0, 0)), resolution=32).value
    assert value == pytest.approx(1.13 / 2.87, abs=0.03)


def test_a_box_within_a_box() -> None:
    inner = trimesh.creation.box((1, 1, 1))
    assert volume_iou(*parts(inner), *parts(BOX)).value == pytest.approx(1 / 8, rel=0.1)


def test_equal_and_apart() -> None:
    assert volume_iou(*parts(BALL), *parts(BALL), resolution=16).value == 1
    assert volume_iou(*parts(BALL), *parts(moved(BALL, 5, 0, 0)), resolution=16).value == 0


def test_symmetric_and_indifferent_to_the_faces_side() -> None:
    a, b = parts(BALL), parts(moved(BOX, 0.4, 0.2, 0))
    flipped = (a[0], a[1][:, ::-1].copy())
    first = volume_iou(*a, *b, resolution=24)
    assert first.value == volume_iou(*b, *a, resolution=24).value == volume_iou(*flipped, *b, resolution=24).value


def test_the_adaptive_interval_holds_the_truth() -> None:
    result = volume_iou_adaptive(*parts(BOX), *parts(moved(BOX, 0.87, 0, 0)), gap=0.2)
    assert result.lower is not None and result.upper is not None and result.value is not None
    assert result.lower <= 1.13 / 2.87 <= result.upper <= result.lower + 0.2
    assert result.lower <= result.value <= result.upper


def test_open_meshes_are_detected() -> None:
    vertices, faces = parts(BALL)
    holed = volume_iou(vertices, faces[3:], vertices, faces, resolution=16)
    assert not holed.pred_closed and holed.truth_closed and holed.value == pytest.approx(1, abs=0.02)
    with pytest.raises(ValueError, match="pred_faces: an open"):
        volume_iou_adaptive(vertices, faces[1:], vertices, faces)
    soup = trimesh.Trimesh(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), process=False)
    assert volume_iou(*parts(soup), vertices, faces, resolution=8).pred_closed  # repeated vertices close all the same


def test_refusals_name_the_argument() -> None:
    vertices, faces = parts(BALL)
    with pytest.raises(ValueError, match="truth_faces"):
        volume_iou(vertices, faces, vertices, faces + 10_000)
    with pytest.raises(ValueError, match="pred_vertices"):
        volume_iou(vertices[:, :2], faces, vertices, faces)
    with pytest.raises(ValueError, match="resolution"):
        volume_iou(vertices, faces, vertices, faces, resolution=0)
    with pytest.raises(ValueError, match="gap"):
        volume_iou_adaptive(vertices, faces, vertices, faces, gap=0)
