"""Stereo on ray-traced textured spheres and planes, whose depth is known in closed form."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.shared.stereo import (
    DepthMap,
    depth_map,
    depth_maps,
    depth_ranges_from_points,
    filter_consistent,
    fuse,
    reconstruct,
    select_neighbours,
    viewing_volume,
)
from adapters.shared.stereo.patchmatch import _finer, _prepare, _quads
from adapters.shared.stereo.views import centres, project
from data.synthetic.rig import look_at

SIZE, FOCAL, DISTANCE = 112, 150.0, 4.0


@dataclass(frozen=True)
class Rig:
    """Views of one shape with exact depth."""

    images: list[np.ndarray]
    K: np.ndarray
    pose: np.ndarray
    depth: list[np.ndarray]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(image.shape[1], image.shape[0]) for image in self.images]


def texture(points: np.ndarray, contrast: float) -> np.ndarray:
    """(M, 3) uint8: a solid texture of incommensurate waves about grey 120."""
    rng = np.random.default_rng(5)
    waves = rng.normal(size=(24, 3)) * 9
    value = np.sin(points @ waves.T + rng.uniform(0, 6, 24)).sum(axis=1) / np.sqrt(12)
    return np.repeat((120 + contrast * value).clip(0, 255).astype(np.uint8)[:, None], 3, axis=1)


def rig(
    angles: tuple[float, ...], shape: str = "sphere", contrast: float = 45.0, size: int = SIZE, noise: float = 1.0
) -> Rig:
    """Views at azimuth `angles` (degrees) of the unit sphere or of the plane x = 0."""
    images, poses, depths = [], [], []
    K = np.array([[FOCAL * size / SIZE, 0, size / 2], [0, FOCAL * size / SIZE, size / 2], [0, 0, 1]])
    for number, angle in enumerate(np.radians(angles)):
        centre = DISTANCE * np.array([np.cos(angle), np.sin(angle), 0.25])
        pose = look_at(centre, np.zeros(3))
        v, u = np.mgrid[:size, :size] + 0.5
        rays = np.stack([(u.ravel() - K[0, 2]) / K[0, 0], (v.ravel() - K[1, 2]) / K[1, 1], np.ones(size * size)], 1)
        world = rays @ pose[:3, :3]
        if shape == "plane":
            z = -centre[0] / world[:, 0]
        else:
            a, b, c = (world**2).sum(1), world @ centre, centre @ centre - 1
            root = b * b - a * c
            z = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, 0.0)
        grey = texture(centre + world * z[:, None], contrast)
        grey[z == 0] = 20
        rng = np.random.default_rng(number)
        images.append(
            (grey + rng.normal(0, noise, (len(grey), 1))).clip(0, 255).astype(np.uint8).reshape(size, size, 3)
        )
        poses.append(pose)
        depths.append(z.reshape(size, size))
    return Rig(images, np.tile(K, (len(poses), 1, 1)), np.array(poses), depths)


@pytest.fixture(scope="module")
def sphere() -> Rig:
    return rig((-30, -15, 0, 15, 30))


@pytest.fixture(scope="module")
def sphere_maps(sphere: Rig) -> tuple[tuple[DepthMap, ...], tuple[tuple[int, ...], ...]]:
    neighbours = select_neighbours(np.zeros((1, 3)), sphere.K, sphere.pose, sphere.sizes, count=4)
    ranges = np.tile([2.0, 6.0], (5, 1))
    return depth_maps(sphere.images, sphere.K, sphere.pose, ranges, neighbours, seed=3), neighbours


def errors(result: DepthMap, exact: np.ndarray, border: int = 8) -> np.ndarray:
    """Relative depth errors where there is an estimate and the exact depth is that of a surface off its outline."""
    inside = exact > 0
    for axis in (0, 1):
        for shift in (-border, border):
            inside = inside & np.roll(exact > 0, shift, axis=axis)
    both = inside & (result.depth > 0)
    return np.abs(result.depth[both] / exact[both] - 1)


def test_depth_of_a_sphere(sphere: Rig, sphere_maps: tuple[tuple[DepthMap, ...], object]) -> None:
    for result, exact in zip(sphere_maps[0], sphere.depth, strict=True):
        error = errors(result, exact)
        assert np.median(error) < 0.003
        assert (error < 0.01).mean() > 0.95


def test_normals_point_out_of_the_sphere(sphere: Rig, sphere_maps: tuple[tuple[DepthMap, ...], object]) -> None:
    result, exact, pose, K = sphere_maps[0][2], sphere.depth[2], sphere.pose[2], sphere.K[2]
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    local = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1) * exact[..., None]
    outward = local - pose[:3, 3]  # the sphere's centre is the world's origin
    cosine = (outward * result.normal).sum(-1)[(exact > 0) & (exact < 3.4) & (result.depth > 0)]
    assert np.median(cosine) > np.cos(np.radians(15))
    norm = np.linalg.norm(result.normal[result.depth > 0], axis=1)
    assert np.allclose(norm, 1, atol=1e-5)


def test_a_tilted_plane_is_found_exactly() -> None:
    views = rig((-12, 0, 12, 40), shape="plane")
    result = depth_map(views.images, views.K, views.pose, 3, (0, 1, 2), (2.0, 7.0), seed=0)
    error = np.abs(result.depth / views.depth[3] - 1)[10:-10, 10:-10]
    assert np.median(error) < 0.002


def test_other_focal_length_and_size() -> None:
    """Sources may differ in size and focal length from the reference."""
    small, large = rig((-15, 0, 15)), rig((-10, 10), size=140)
    images, depth = small.images + large.images, small.depth[1]
    K, pose = np.concatenate([small.K, large.K]), np.concatenate([small.pose, large.pose])
    result = depth_map(images, K, pose, 1, (3, 4), (2.0, 6.0), seed=0)
    assert np.median(errors(result, depth)) < 0.003


def test_same_seed_same_bits_whatever_the_threads(sphere: Rig) -> None:
    code = (
        "import hashlib, sys; sys.path[:0] = %r\n"
        "from test_stereo import rig; from adapters.shared.stereo import depth_map\n"
        "r = rig((-15, 0, 15)); m = depth_map(r.images, r.K, r.pose, 1, (0, 2), (2.0, 6.0), seed=7)\n"
        "sys.stdout.write(hashlib.sha256(m.depth.tobytes() + m.normal.tobytes() + m.cost.tobytes()).hexdigest())"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code % paths],
            env={**os.environ, "NUMBA_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(digests) == 1 and len(digests.pop()) == 64


def test_another_seed_another_guess(sphere: Rig) -> None:
    first, second = (
        depth_map(sphere.images, sphere.K, sphere.pose, 2, (1, 3), (2.0, 6.0), seed=s).depth for s in (0, 1)
    )
    assert (first != second).any()


def test_consistency_keeps_the_surface_and_fusion_lies_on_it(
    sphere: Rig, sphere_maps: tuple[tuple[DepthMap, ...], tuple[tuple[int, ...], ...]]
) -> None:
    maps, neighbours = sphere_maps
    kept = filter_consistent(maps, sphere.K, sphere.pose, neighbours)
    middle = (sphere.depth[2] > 0) & (sphere.depth[2] < 3.5)
    assert (kept[2].depth > 0)[middle].mean() > 0.8
    cloud = fuse(kept, sphere.images, sphere.K, sphere.pose, neighbours)
    on = np.abs(np.linalg.norm(cloud.points, axis=1) - 1)
    assert np.median(on) < 0.01
    assert (on < 0.04).mean() > 0.9
    assert cloud.support.max() == 5
    assert cloud.support.min() >= 2
    assert np.allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-5)
    assert (np.einsum("ij,ij->i", cloud.points, cloud.normals) > 0).mean() > 0.95
    for view in range(5):  # each point projects onto the pixel that it says it came from
        rows = cloud.view_index == view
        pixel, _, _ = project(cloud.points[rows].astype(float), sphere.K[view], sphere.pose[view], (SIZE, SIZE))
        assert np.median(np.linalg.norm(pixel - cloud.pixel[rows], axis=1)) < 0.7


def test_fusion_of_exact_maps_uses_each_pixel_once(sphere: Rig) -> None:
    shape = sphere.depth[0].shape
    maps = [
        DepthMap(d.astype(np.float32), np.tile(np.float32([0, 0, -1]), (*shape, 1)), np.zeros(shape, np.float32)).keep(
            d > 0
        )
        for d in sphere.depth
    ]
    neighbours = [[j for j in range(5) if j != i] for i in range(5)]
    cloud = fuse(maps, sphere.images, sphere.K, sphere.pose, neighbours, min_support=1)
    pixels = sum(int((d > 0).sum()) for d in sphere.depth)
    assert pixels / 5 < len(cloud.points) < pixels / 2
    assert cloud.support.sum() >= pixels  # every pixel is in a point; one may be met again by a later view
    assert np.abs(np.linalg.norm(cloud.points, axis=1) - 1).max() < 0.06
    strict = fuse(maps, sphere.images, sphere.K, sphere.pose, neighbours, min_support=4)
    assert len(strict.points) == (cloud.support >= 4).sum()


def test_what_no_view_confirms_is_dropped(sphere: Rig) -> None:
    """Depths scaled by 5% in one view agree with nobody; the others still agree among themselves."""
    ones = np.zeros((SIZE, SIZE), np.float32)
    normal = np.tile(np.float32([0, 0, -1]), (SIZE, SIZE, 1))
    maps = [
        DepthMap((d * (1.05 if i == 2 else 1)).astype(np.float32), normal, ones) for i, d in enumerate(sphere.depth)
    ]
    neighbours = [[j for j in range(5) if j != i] for i in range(5)]
    kept = filter_consistent(maps, sphere.K, sphere.pose, neighbours)
    middle = (sphere.depth[2] > 0) & (sphere.depth[2] < 3.3)
    assert (kept[2].depth[middle] > 0).mean() < 0.02
    assert (kept[1].depth[middle] > 0).mean() > 0.7
    assert (kept[2].cost[kept[2].depth == 0] == 2).all()
    assert (kept[2].normal[kept[2].depth == 0] == 0).all()


def test_a_costly_pixel_is_dropped(sphere: Rig) -> None:
    normal = np.tile(np.float32([0, 0, -1]), (SIZE, SIZE, 1))
    maps = [DepthMap(d.astype(np.float32), normal, np.full((SIZE, SIZE), 0.6, np.float32)) for d in sphere.depth]
    neighbours = [[j for j in range(5) if j != i] for i in range(5)]
    assert not any(
        (m.depth > 0).any() for m in filter_consistent(maps, sphere.K, sphere.pose, neighbours, max_cost=0.5)
    )
    assert any((m.depth > 0).any() for m in filter_consistent(maps, sphere.K, sphere.pose, neighbours, max_cost=0.7))


def test_nothing_is_invented_where_there_is_no_texture() -> None:
    """Grey with sensor noise: whatever is kept by chance is little."""
    blank = rig((-20, -10, 0, 10, 20), shape="plane", contrast=0.0, noise=1.0)
    neighbours = select_neighbours(np.zeros((1, 3)), blank.K, blank.pose, blank.sizes, count=4)
    maps = depth_maps(blank.images, blank.K, blank.pose, np.tile([2.0, 6.0], (5, 1)), neighbours, seed=0)
    kept = filter_consistent(maps, blank.K, blank.pose, neighbours)
    assert np.mean([(m.depth > 0).mean() for m in kept]) < 0.02


def test_masked_pixels_stay_empty(sphere: Rig) -> None:
    valid = [np.zeros((SIZE, SIZE), np.bool_) for _ in range(3)]
    valid[1][30:80, 50:] = True
    calls: list[tuple[int, int]] = []
    maps = depth_maps(
        sphere.images[:3],
        sphere.K[:3],
        sphere.pose[:3],
        np.tile([2.0, 6.0], (3, 1)),
        [(1, 2), (0, 2), ()],
        seed=0,
        valid=valid,
        progress=lambda done, of: calls.append((done, of)),
    )
    assert not maps[1].depth[~valid[1]].any()
    assert maps[1].depth[valid[1]].any()
    assert not maps[2].depth.any()  # no sources, no depth
    assert calls == [(k, 6) for k in range(1, 7)]


def test_an_interrupt_reaches_the_caller(sphere: Rig) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        depth_maps(
            sphere.images[:2],
            sphere.K[:2],
            sphere.pose[:2],
            np.tile([2.0, 6.0], (2, 1)),
            [(1,), (0,)],
            0,
            progress=stop,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_ranges": np.array([[2.0, 6.0], [6.0, 2.0]])}, r"depth_ranges\[1\]: 6.0 to 2.0"),
        ({"intrinsics": np.eye(3)}, "intrinsics"),
        ({"neighbours": [(1,)]}, "neighbours: 2 and 1 seen, 2 of each wanted"),
        ({"images": [np.zeros((40, 40, 3))] * 2}, r"images\[0\]: float64"),
    ],
)
def test_errors_name_the_argument(sphere: Rig, change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "images": sphere.images[:2],
        "intrinsics": sphere.K[:2],
        "camera_from_world": sphere.pose[:2],
        "depth_ranges": np.tile([2.0, 6.0], (2, 1)),
        "neighbours": [(1,), (0,)],
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        depth_maps(**{**arguments, **change})  # type: ignore[arg-type]


def test_the_whole_way_needs_cameras_alone(sphere: Rig) -> None:
    dense = reconstruct(sphere.images, sphere.K, sphere.pose, seed=0)
    on = np.abs(np.linalg.norm(dense.cloud.points, axis=1) - 1)
    assert len(on) > 1500
    assert np.median(on) < 0.01
    assert [d.shape for d in dense.depth] == [(SIZE, SIZE)] * 5


def test_large_images_are_halved_and_pixels_given_back(sphere: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = rig((-15, 0, 15), size=225)
    monkeypatch.setattr("adapters.shared.stereo.pipeline.MAX_SIDE", 150)
    dense = reconstruct(odd.images, odd.K, odd.pose, seed=0)
    assert dense.depth[0].shape == (225, 225)
    for view in range(3):
        rows = dense.cloud.view_index == view
        pixel, _, _ = project(dense.cloud.points[rows].astype(float), odd.K[view], odd.pose[view], (225, 225))
        assert np.median(np.linalg.norm(pixel - dense.cloud.pixel[rows], axis=1)) < 1.4
    good = (dense.depth[1] > 0) & (odd.depth[1] > 0)
    assert np.median(np.abs(dense.depth[1][good] / odd.depth[1][good] - 1)) < 0.005


def test_viewing_volume_of_an_orbit_holds_the_object_and_no_camera() -> None:
    views = rig(tuple(range(0, 360, 30)))
    volume = viewing_volume(views.K, views.pose, views.sizes)
    radius = np.linalg.norm(volume, axis=1)
    assert np.percentile(radius, 99) < DISTANCE
    ranges = depth_ranges_from_points(volume, views.K, views.pose, views.sizes)
    for (near, far), depth in zip(ranges, views.depth, strict=True):
        assert 0 < near < depth[depth > 0].min()
        assert far > depth.max()


def test_viewing_volume_of_two_views_is_seen_by_both() -> None:
    views = rig((0, 20))
    volume = viewing_volume(views.K, views.pose, views.sizes)
    for i in range(2):
        assert project(volume, views.K[i], views.pose[i], views.sizes[i])[2].all()


def test_no_volume_without_overlap_or_baseline() -> None:
    views = rig((0, 180))
    outward = np.diag([-1.0, 1, -1, 1]) @ views.pose  # each turned round where it stands
    with pytest.raises(ValueError, match="overlapping views"):
        viewing_volume(views.K, outward, views.sizes)
    with pytest.raises(ValueError, match="at one place"):
        viewing_volume(views.K, views.pose[[0, 0]], views.sizes)


def test_ranges_follow_the_points_a_view_measured() -> None:
    views = rig((0, 90))
    points = np.array([[0.5, 0, 0], [-0.5, 0, 0], [0, 0.2, 0]])
    visible = np.array([[True, True, False], [False, False, False]])
    ranges = depth_ranges_from_points(points, views.K, views.pose, views.sizes, visible, margin=0.1)
    _, depth, _ = project(points[:2], views.K[0], views.pose[0], views.sizes[0])
    low, high = np.percentile(depth, [1, 99])
    assert np.allclose(ranges[0], [0.9 * low, 1.1 * high])
    assert np.allclose(ranges[1], ranges[0])  # measured nothing: the widest of the others
    with pytest.raises(ValueError, match="points: none of 1"):
        depth_ranges_from_points([[0.0, 0.0, 99.0]], views.K, views.pose, views.sizes)


def test_neighbours_are_near_in_angle_but_not_the_same_place() -> None:
    angles = (0.0, 0.1, 10.0, 25.0, 50.0, 130.0)
    views = rig(angles)
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 3))
    neighbours = select_neighbours(points, views.K, views.pose, views.sizes, count=3)
    assert neighbours[0][0] == 2  # 10 degrees beats 25 and 0.1
    assert 1 not in neighbours[0]
    assert neighbours[5] == ()  # too far from its nearest


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_neighbours_do_not_depend_on_the_world_frame(seed: int) -> None:
    views = rig((0, 12, 30, 47), size=24)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    move, scale = rng.normal(size=3) * 5, float(rng.uniform(0.1, 10))
    points = rng.uniform(-0.4, 0.4, (40, 3))
    pose = views.pose.copy()
    pose[:, :3, :3] = views.pose[:, :3, :3] @ rotation.T
    pose[:, :3, 3] = scale * views.pose[:, :3, 3] - np.einsum("nij,j->ni", pose[:, :3, :3], move)
    assert np.allclose(centres(pose), scale * centres(views.pose) @ rotation.T + move)
    moved = scale * points @ rotation.T + move
    assert select_neighbours(points, views.K, views.pose, views.sizes) == select_neighbours(
        moved, views.K, pose, views.sizes
    )


def test_quads_hold_each_pixel_and_three_neighbours() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    quads = _quads(grey).reshape(3, 4)
    assert [quads[1, 2] >> s & 255 for s in (0, 8, 16, 24)] == [6, 7, 10, 11]
    assert [quads[2, 3] >> s & 255 for s in (0, 8, 16, 24)] == [11, 11, 11, 11]


def test_a_plane_survives_the_step_to_a_finer_level() -> None:
    """Inverse depth 0.3 + 0.01 u + 0.02 v of full-size pixel corners, sampled on both levels."""
    view = _prepare(np.zeros((401, 300), np.uint8), np.diag([300.0, 300.0, 1.0]), np.eye(4))
    shapes = [grey.shape for grey in view.greys[:2]]
    assert shapes == [(401, 300), (200, 150)]
    both = []
    for level, shape in enumerate(shapes):
        v, u = (np.mgrid[: shape[0], : shape[1]] + 0.5) * 2**level
        q = 0.3 + 1e-4 * u + 2e-4 * v
        both.append(
            np.stack([q, np.full(shape, 1e-4 * 2**level), np.full(shape, 2e-4 * 2**level)], -1).astype(np.float32)
        )

    class Limits:
        low, high = np.float32(0.1), np.float32(1.0)

    assert np.abs(_finer(both[1], shapes[0], Limits()) - both[0]).max() < 1e-6  # type: ignore[arg-type]
