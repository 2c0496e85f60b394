"""The visual hull of a sphere, whose silhouettes are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.contract import Cameras, Reconstruction, Unsupported, Views
from adapters.systems.visual_hull.adapter import Adapter, Silhouette

AXES = np.concatenate([np.eye(3), -np.eye(3)])


def looking_at_origin(directions: np.ndarray, distance: float, focal: float, size: int) -> Cameras:
    """Cameras at `directions` (N, 3) times `distance`, optical axis through the origin."""
    poses = []
    for direction in directions:
        z = -direction / np.linalg.norm(direction)
        x = np.cross(z, [0.3, 0.9, 0.2])
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, np.cross(z, x), z])
        pose[:3, 3] = [0.0, 0.0, distance]
        poses.append(pose)
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Cameras(np.tile(K, (len(poses), 1, 1)), np.array(poses))


def sphere_views(cameras: Cameras, size: int, radius: float = 1.0, centre: np.ndarray | None = None) -> Views:
    """Exact silhouettes of a sphere: a pixel is inside where its ray passes within `radius` of the centre."""
    centre = np.zeros(3) if centre is None else centre
    v, u = np.mgrid[:size, :size] + 0.5
    pixel = np.stack([u.ravel(), v.ravel()], axis=1)
    masks = []
    for i in range(len(cameras)):
        ray = cameras.unproject(i, pixel, np.ones(len(pixel))) - cameras.centres[i]
        miss = np.linalg.norm(np.cross(ray, centre - cameras.centres[i]), axis=1) / np.linalg.norm(ray, axis=1)
        masks.append((miss <= radius).reshape(size, size))
    images = tuple(np.full((size, size, 3), (200, 100, 50), np.uint8) for _ in masks)
    return Views(images, tuple(f"{i}" for i in range(len(masks))), masks=tuple(masks), cameras=cameras)


def hull(views: Views, resolution: int = 64) -> tuple[Reconstruction, trimesh.Trimesh]:
    result = Adapter(resolution).predict(views)
    result.validate(views)
    assert result.mesh is not None
    return result, trimesh.Trimesh(result.mesh.vertices, result.mesh.faces, process=False)


def test_three_far_orthogonal_views_give_the_tricylinder() -> None:
    """Cones of far cameras along the axes are cylinders; three of them meet in 8 (2 - sqrt 2) r^3."""
    cameras = looking_at_origin(np.eye(3), 1000.0, 1000.0 * 70, 200)
    _, mesh = hull(sphere_views(cameras, 200), 96)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(8 * (2 - np.sqrt(2)), rel=0.01)


def test_hull_holds_the_sphere_and_approaches_it_with_more_views() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(40, 3))
    volumes = []
    for count in (4, 12, 40):
        cameras = looking_at_origin(directions[:count], 4.0, 300.0, 200)
        result, mesh = hull(sphere_views(cameras, 200))
        radius = np.linalg.norm(result.points, axis=1)
        assert radius.min() > 1 - 0.01
        volumes.append(mesh.volume)
    sphere = 4 / 3 * np.pi
    assert volumes[0] > volumes[1] > volumes[2] > 0.99 * sphere
    assert volumes[2] < 1.06 * sphere


@settings(max_examples=5, deadline=None)
@given(st.floats(0.5, 50), st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_hull_moves_and_scales_with_its_cameras(scale: float, shift: list[float]) -> None:
    """World points x -> scale x + shift: the same masks, the same hull in the new frame."""
    cameras = looking_at_origin(AXES, 4.0, 150.0, 100)
    views = sphere_views(cameras, 100)
    moved_poses = cameras.camera_from_world.copy()
    moved_poses[:, :3, 3] = scale * moved_poses[:, :3, 3] - moved_poses[:, :3, :3] @ np.array(shift)
    moved = Views(views.images, views.names, masks=views.masks, cameras=Cameras(cameras.intrinsics, moved_poses))
    plain, there = hull(views, 32)[1], hull(moved, 32)[1]
    assert there.volume == pytest.approx(scale**3 * plain.volume, rel=1e-2)
    assert np.allclose(there.center_mass, shift, atol=1e-2 * scale)


def test_faces_point_outward_and_colours_come_from_the_photos() -> None:
    result, mesh = hull(sphere_views(looking_at_origin(AXES, 4.0, 150.0, 100), 100))
    assert np.einsum("ij,ij->i", mesh.face_normals, mesh.triangles_center).min() > 0
    assert result.colors is not None
    assert (np.abs(result.colors.astype(int) - (200, 100, 50)) <= 1).all()
    assert result.frame == "world"


def test_colour_is_that_of_the_near_side() -> None:
    """Each of two opposite cameras sees its own colour; the other's does not shine through."""
    views = sphere_views(looking_at_origin(AXES, 4.0, 150.0, 100), 100)
    red, blue = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    painted = Views((red, red, red, blue, blue, blue), views.names, masks=views.masks, cameras=views.cameras)
    result, _ = hull(painted)
    assert result.colors is not None
    pole = np.linalg.norm(result.points[:, 1:], axis=1) < 0.3
    for side, channel in ((1, 0), (-1, 2)):
        facing = pole & (side * result.points[:, 0] > 0.5)
        assert facing.any()
        assert (result.colors[facing][:, channel] > 250).all()


def test_a_cut_silhouette_does_not_carve_what_it_cannot_see() -> None:
    """One camera zoomed in until its image shows only the sphere's middle must not shrink the hull."""
    cameras = looking_at_origin(AXES, 4.0, 150.0, 100)
    plain = hull(sphere_views(cameras, 100))[1]
    zoomed = cameras.intrinsics.copy()
    zoomed[0, 0, 0] = zoomed[0, 1, 1] = 900.0
    views = sphere_views(Cameras(zoomed, cameras.camera_from_world), 100)
    assert hull(views)[1].volume >= 0.99 * plain.volume


def test_signed_distance_of_a_half_plane() -> None:
    mask = np.zeros((20, 40), np.bool_)
    mask[:, :13] = True
    silhouette = Silhouette.of(mask)
    pixel = np.stack([np.linspace(1, 39, 50), np.full(50, 10.0)], axis=1)
    assert np.allclose(silhouette.sample(pixel), 13 - pixel[:, 0], atol=1e-5)
    assert silhouette.cut.tolist() == [True, False, True, True]


def test_one_view_empty_masks_and_missing_cameras_are_unsupported() -> None:
    cameras = looking_at_origin(AXES, 4.0, 150.0, 100)
    views = sphere_views(cameras, 100)
    assert views.masks is not None
    single = Views(views.images[:1], views.names[:1], masks=views.masks[:1], cameras=cameras.take([0]))
    for bad, words in (
        (single, "no finite volume"),
        (Views(views.images, views.names, masks=views.masks), "cameras"),
        (Views(views.images, views.names, masks=(~views.masks[0] & False, *views.masks[1:]), cameras=cameras), "mask"),
    ):
        with pytest.raises(Unsupported, match=words):
            Adapter().predict(bad)


def test_disjoint_silhouettes_are_unsupported() -> None:
    cameras = looking_at_origin(AXES, 4.0, 150.0, 100)
    here, there = sphere_views(cameras, 100, 0.3), sphere_views(cameras, 100, 0.1, np.array([0.8, 0.8, 0.8]))
    assert here.masks is not None
    assert there.masks is not None
    masks = (*here.masks[:3], *there.masks[3:])
    with pytest.raises(Unsupported, match="share no"):
        Adapter().predict(Views(here.images, here.names, masks=masks, cameras=cameras))


def test_two_like_views_end_at_twice_the_object() -> None:
    """Pyramids that meet at infinity are ended behind the object, not refused."""
    cameras = looking_at_origin(np.array([[0, 0, 1.0], [0.05, 0, 1.0]]), 4.0, 60.0, 100)
    result, _ = hull(sphere_views(cameras, 100))
    depth = cameras.project(0, result.points)[1]
    assert 4.0 < depth.max() <= 8.2


def test_unknown_resolution_raises() -> None:
    with pytest.raises(ValueError, match="resolution"):
        Adapter(4)
