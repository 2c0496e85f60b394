"""The two contestants made from the stereo leaf, on a ray-traced sphere and a sparse model written down by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adapters.contract import Cameras, Unsupported, Views
from adapters.shared.sfm import SparseModel, in_photo
from adapters.systems.colmap_mvs import adapter as colmap_mvs
from adapters.systems.patchmatch.adapter import Adapter

SIZE, FOCAL = 112, 150.0


def texture(points: np.ndarray) -> np.ndarray:
    """(M, 3) uint8: a solid texture of incommensurate waves."""
    rng = np.random.default_rng(5)
    value = np.sin(points @ (rng.normal(size=(3, 24)) * 9) + rng.uniform(0, 6, 24)).sum(axis=1) / np.sqrt(12)
    return np.repeat((120 + 45 * value).clip(0, 255).astype(np.uint8)[:, None], 3, axis=1)


def sphere(angles: tuple[float, ...], radial: float = 0.0) -> Views:
    """Views of the unit sphere from 4 units away at azimuth `angles`, degrees; `radial` is SIMPLE_RADIAL's k."""
    K = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    images, poses = [], []
    for angle in np.radians(angles):
        centre = 4 * np.array([np.cos(angle), np.sin(angle), 0.0])
        z = -centre / 4
        x = np.array([-z[1], z[0], 0.0]) * -1
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, np.cross(z, x), z])
        pose[:3, 3] = [0, 0, 4]
        v, u = (np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2) / FOCAL
        u, v = u.ravel(), v.ravel()
        x_, y_ = u.copy(), v.copy()
        for _ in range(30):  # the pinhole ray that distortion brings to this pixel
            factor = 1 + radial * (x_**2 + y_**2)
            x_, y_ = u / factor, v / factor
        rays = np.stack([x_, y_, np.ones_like(x_)], axis=1) @ pose[:3, :3]
        a, b = (rays**2).sum(1), rays @ centre
        root = b * b - a * 15
        depth = (-b - np.sqrt(np.maximum(root, 0))) / a
        grey = texture(centre + rays * depth[:, None])
        grey[root <= 0] = 20
        images.append(grey.reshape(SIZE, SIZE, 3))
        poses.append(pose)
    cameras = Cameras(np.tile(K, (len(poses), 1, 1)), np.array(poses))
    return Views(tuple(images), tuple(str(i) for i in range(len(images))), cameras=cameras)


@pytest.fixture(scope="module")
def views() -> Views:
    return sphere((-20, 0, 20, 40))


def test_points_lie_on_the_sphere_and_under_their_pixels(views: Views) -> None:
    adapter = Adapter()
    adapter.load("cpu", None, 0)
    result = adapter.predict(views)
    result.validate(views)
    assert result.frame == "world" and result.cameras is views.cameras
    assert np.median(np.abs(np.linalg.norm(result.points, axis=1) - 1)) < 0.01
    assert result.view_index is not None and result.pixel is not None and result.confidence is not None
    for view in range(len(views)):
        rows = result.view_index == view
        pixel, _ = views.cameras.project(view, result.points[rows])  # type: ignore[union-attr]
        assert np.median(np.linalg.norm(pixel - result.pixel[rows], axis=1)) < 0.7
    assert result.confidence.max() <= 1.0 + 1e-6
    assert result.confidence.min() >= 0.5 - 1e-6


def test_same_seed_same_bits(views: Views) -> None:
    first, again = (Adapter().predict(views).points for _ in range(2))
    assert np.array_equal(first, again)


def test_what_cannot_be_done_is_unsupported(views: Views) -> None:
    with pytest.raises(Unsupported, match="cameras of every view"):
        Adapter().predict(replace(views, cameras=None))
    assert views.cameras is not None
    with pytest.raises(Unsupported, match="at one place"):
        Adapter().predict(replace(views, cameras=views.cameras.take([0, 0, 0, 0])))
    blank = tuple(np.full_like(image, 120) for image in views.images[:2])
    with pytest.raises(Unsupported, match="agree on any point"):
        Adapter().predict(Views(blank, ("a", "b"), cameras=views.cameras.take([0, 1])))


def test_unknown_options_raise() -> None:
    for adapter in (Adapter, colmap_mvs.Adapter):
        with pytest.raises(TypeError):
            adapter(no_such_option=1)  # type: ignore[call-arg]


def test_colmap_mvs_works_in_the_first_registered_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Structure from motion replaced by the exact model in another frame and scale, view 1 lost, lens bent."""
    radial = 0.15
    views = sphere((-20, 170, 0, 20), radial)
    assert views.cameras is not None
    scale, turn = 2.5, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    poses = views.cameras.camera_from_world.copy()
    poses[:, :3, :3] = poses[:, :3, :3] @ turn.T
    poses[:, :3, 3] *= scale
    exact = Cameras(views.cameras.intrinsics, poses)
    rng = np.random.default_rng(1)
    points = rng.normal(size=(200, 3)) * [0.3, 1, 1] + [2, 0, 0]
    points = scale * points / np.linalg.norm(points, axis=1, keepdims=True) @ turn.T
    owner, observed = np.repeat(np.arange(200, dtype=np.int32), 3), np.tile(np.array([0, 2, 3], np.int32), 200)
    lost = poses.copy()
    lost[1] = np.nan
    model = SparseModel(
        cameras=Cameras(exact.intrinsics, lost),
        radial=np.full(4, radial),
        sizes=np.tile(np.array([[SIZE, SIZE]], np.int32), (4, 1)),
        registered=np.array([True, False, True, True]),
        points=points.astype(np.float32),
        colors=np.zeros((200, 3), np.uint8),
        observation_point=owner,
        observation_view=observed,
        observation_pixel=np.zeros((600, 2), np.float32),
        reprojection_error=0.1,
        model_sizes=(3,),
    )
    monkeypatch.setattr(colmap_mvs, "sparse_model", lambda images, **_: model)
    bare = replace(views, cameras=None)
    result = colmap_mvs.Adapter().predict(bare)
    result.validate(bare)
    assert result.frame == "first_camera" and result.cameras is not None and result.registered is not None
    assert result.registered.tolist() == [True, False, True, True]
    assert np.allclose(result.cameras.camera_from_world[0], np.eye(4))
    centre = exact.camera_from_world[0, :3, 3]  # the sphere's, in the first camera's frame
    assert np.median(np.abs(np.linalg.norm(result.points - centre, axis=1) / scale - 1)) < 0.01
    assert result.view_index is not None and result.pixel is not None
    assert set(np.unique(result.view_index)) <= {0, 2, 3}
    for view in (0, 2, 3):  # pixels are those of the bent photo
        rows = result.view_index == view
        K = result.cameras.intrinsics[view]
        pinhole, _ = result.cameras.project(view, result.points[rows])
        bent = in_photo(pinhole, K, radial, K[0, 0])
        assert np.median(np.linalg.norm(bent - result.pixel[rows], axis=1)) < 0.7
