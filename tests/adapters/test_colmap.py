"""The colmap adapter's bookkeeping, on a sparse model written down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.contract import Cameras, Unsupported, Views
from adapters.shared.sfm import SparseModel
from adapters.systems.colmap.adapter import Adapter


def small_model() -> tuple[SparseModel, Views]:
    """Four views in a row of which view 0 is lost; five points, each seen by the views 3 and 1 or 1, 2 and 3."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (5, 3)) + [0, 0, 6]
    poses = np.tile(np.eye(4), (4, 1, 1))
    angle = 0.3
    for i in range(4):
        poses[i, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        poses[i, :3, 3] = [-0.5 * i, 0.1, 0.2]
    K = np.tile(np.array([[90.0, 0, 50], [0, 90, 40], [0, 0, 1]]), (4, 1, 1))
    cameras = Cameras(K, poses)
    tracks = [(1, 3), (1, 2, 3), (1, 3), (2, 3), (1, 2, 3)]
    views = np.array([view for track in tracks for view in track], np.int32)
    owner = np.repeat(np.arange(5, dtype=np.int32), [len(track) for track in tracks])
    pixel = np.array([cameras.project(v, points[o : o + 1])[0][0] for v, o in zip(views, owner, strict=True)])
    poses = poses.copy()
    poses[0] = np.nan
    model = SparseModel(
        cameras=Cameras(K, poses),
        radial=np.zeros(4),
        sizes=np.tile(np.array([[100, 80]], np.int32), (4, 1)),
        registered=np.array([False, True, True, True]),
        points=points.astype(np.float32),
        colors=rng.integers(0, 255, (5, 3), dtype=np.uint8),
        observation_point=owner,
        observation_view=views,
        observation_pixel=pixel.clip(0, [100, 80]).astype(np.float32),
        reprojection_error=0.3,
        model_sizes=(3,),
    )
    images = tuple(np.zeros((80, 100, 3), np.uint8) for _ in range(4))
    return model, Views(images, ("a", "b", "c", "d"))


def test_the_frame_is_that_of_the_first_registered_view() -> None:
    model, views = small_model()
    result = Adapter().finish(model, views)
    result.validate(views)
    assert result.cameras is not None
    assert np.allclose(result.cameras.camera_from_world[1], np.eye(4))
    for view in (1, 2, 3):  # what each camera sees is unchanged
        there = model.cameras.project(view, model.points)
        here = result.cameras.project(view, result.points)
        assert np.allclose(there[0], here[0], atol=1e-3)
        assert np.allclose(there[1], here[1], atol=1e-5)


def test_each_point_carries_its_first_observation_and_track_length() -> None:
    model, views = small_model()
    result = Adapter().finish(model, views)
    assert result.confidence is not None
    assert result.view_index is not None
    assert result.pixel is not None
    assert result.cameras is not None
    assert result.confidence.tolist() == [2, 3, 2, 2, 3]
    assert result.view_index.tolist() == [1, 1, 1, 2, 1]
    for i, view in enumerate(result.view_index):
        pixel = result.cameras.project(int(view), result.points[i : i + 1])[0][0]
        assert np.allclose(pixel, result.pixel[i], atol=1e-2)


def test_one_view_is_unsupported() -> None:
    _, views = small_model()
    with pytest.raises(Unsupported):
        Adapter().predict(Views(views.images[:1], views.names[:1]))
