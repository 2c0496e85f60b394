"""Strays, planes, duplicates, ten million points and far origins: every number right to 1e-4, memory linear.

One stray point 3e5 diameters away changes nothing but itself."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from adapters.contract import Cameras
from metrics import chamfer, emd, fscore
from metrics.cameras import align_cameras, pose_errors
from metrics.depth import depth_errors
from metrics.image import psnr, ssim
from metrics.nearest import nearest, surface_distance
from metrics.normals import normal_consistency
from metrics.scoring.equalise import bounded_subset, voxel_subset
from metrics.scoring.truth import diameter, sample_mesh
from metrics.volume import volume_iou, volume_iou_adaptive

F64 = NDArray[np.float64]
STRAY = np.array([[3e5, 1e5, -2e5]])
OFFSET = np.array([1e6, -1e6, 1e6])
EDGE = 0.0025  # of the clouds below, whose diameter is about 1
TOLERANCE = 1e-4


def sphere(count: int, seed: int = 0) -> F64:
    """A noisy sphere of diameter 1."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1)[:, None] * rng.uniform(0.495, 0.5, (count, 1))


def plane(count: int, seed: int = 0) -> F64:
    """A tilted rectangle of diameter 1, its corners included."""
    points = np.random.default_rng(seed).uniform(0, 1, (count, 3)) * [0.8, 0.6, 0]
    points[:4] = np.array([[0, 0, 0], [0.8, 0, 0], [0, 0.6, 0], [0.8, 0.6, 0]])
    return points @ Rotation.from_rotvec([0.3, 0.5, 0.1]).as_matrix().T


def test_a_stray_point_changes_no_other_voxel() -> None:
    points = sphere(100_000)
    alone = voxel_subset(points, EDGE)
    assert np.array_equal(voxel_subset(np.concatenate([points, STRAY]), EDGE), np.r_[alone, len(points)])
    assert len(alone) > 80_000


def test_a_bound_is_not_wasted_on_a_stray_point() -> None:
    points = np.concatenate([sphere(100_000), STRAY])
    kept = bounded_subset(points, 5000)
    assert 4000 <= len(kept) <= 5000
    kept = bounded_subset(np.repeat(sphere(500), 100, axis=0), 5000)
    assert len(np.unique(kept)) == len(kept) <= 5000


def test_voxels_are_the_same_far_from_the_origin() -> None:
    points = np.round(sphere(20_000) * 2**20) / 2**20  # exact at the offset, so that no voxel may differ
    edge = 2.0**-8
    np.testing.assert_array_equal(voxel_subset(points, edge), voxel_subset(points + OFFSET, edge))


@pytest.mark.parametrize("shape", [sphere, plane], ids=["sphere", "plane"])
def test_the_diameter_is_that_of_all_pairs(shape: object) -> None:
    points = shape(4000)  # type: ignore[operator]
    exact = float(pdist(points).max())
    turn = Rotation.random(random_state=2).as_matrix()
    for cloud in (
        points,
        points @ turn.T,
        points + OFFSET,
        np.repeat(points, 5, axis=0),
        points[:, [2, 0, 1]] * [-1, 1, 1],
    ):
        assert diameter(cloud, trim=0.0) == pytest.approx(exact, rel=TOLERANCE)
    spoilt = np.concatenate([points, STRAY])
    assert diameter(spoilt) == pytest.approx(diameter(points), rel=1e-3)  # one point more falls to the trimmed share


@pytest.mark.parametrize("seed", range(6))
def test_the_diameter_of_any_shape(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mesh = (
        trimesh.creation.torus(1, 0.3),
        trimesh.creation.cone(0.4, 2),
        trimesh.creation.box((1, 1, 1)),
        trimesh.creation.cylinder(0.5, 0.1),
        trimesh.creation.capsule(1, 0.3),
        trimesh.creation.icosphere(3, 1.0),
    )[seed]
    points = trimesh.sample.sample_surface(mesh, 3000, seed=seed)[0] * rng.uniform(0.5, 1, 3)
    assert diameter(points, trim=0.0) == pytest.approx(pdist(points).max(), rel=TOLERANCE)


@pytest.mark.parametrize("shape", [sphere, plane], ids=["sphere", "plane"])
def test_distances_far_from_the_origin_and_among_duplicates(shape: object) -> None:
    pred, truth = shape(3000, 1) + 0.003, shape(3000, 2)  # type: ignore[operator]
    here = chamfer(pred, truth)
    there = chamfer(pred + OFFSET, truth + OFFSET)
    for name in ("accuracy", "completeness", "l1_sum", "l2sq_sum"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), rel=TOLERANCE)
    doubled = chamfer(np.repeat(pred, 4, axis=0), np.repeat(truth, 4, axis=0))
    assert doubled.l1_sum == pytest.approx(here.l1_sum, rel=1e-12)
    assert fscore(pred + OFFSET, truth + OFFSET, 0.01).fscore == pytest.approx(
        fscore(pred, truth, 0.01).fscore, abs=1e-3
    )
    some = emd(pred[:512], truth[:512])
    far = emd(pred[:512] + OFFSET, truth[:512] + OFFSET)
    assert far.lower <= some.upper * (1 + TOLERANCE) and some.lower <= far.upper * (1 + TOLERANCE)
    twice = emd(np.repeat(pred[:256], 2, axis=0), np.repeat(truth[:256], 2, axis=0), gap=1e-4)
    assert twice.value == pytest.approx(emd(pred[:256], truth[:256], gap=1e-4).value, rel=3e-4)


def test_a_stray_point_adds_its_own_distance_and_no_more() -> None:
    pred, truth = sphere(5000, 1), sphere(5000, 2)
    far = float(nearest(STRAY, truth).distance[0])
    spoilt, clean = chamfer(np.concatenate([pred, STRAY]), truth), chamfer(pred, truth)
    assert spoilt.accuracy == pytest.approx((clean.accuracy * 5000 + far) / 5001, rel=1e-9)
    assert spoilt.completeness == clean.completeness
    assert fscore(np.concatenate([pred, STRAY]), truth, 0.01).recall == fscore(pred, truth, 0.01).recall
    spoilt_pred = np.concatenate([pred[:300], STRAY])
    cost = np.linalg.norm(spoilt_pred[:, None] - truth[None, :301], axis=2)
    exact = float(cost[linear_sum_assignment(cost)].mean())
    result = emd(spoilt_pred, truth[:301])
    assert result.lower <= exact * (1 + 1e-9) and exact <= result.upper * (1 + 1e-9)


def test_the_surface_far_from_the_origin() -> None:
    mesh = trimesh.creation.icosphere(4, 0.5)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32)
    points = sphere(2000) * 1.1
    here = surface_distance(points, vertices, faces)
    np.testing.assert_allclose(surface_distance(points + OFFSET, vertices + OFFSET, faces), here, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(
        surface_distance(np.concatenate([points, STRAY]), vertices, faces)[:-1], here, atol=1e-12
    )
    sampled = sample_mesh(vertices, faces, 1000, seed=0)
    normals = sampled / np.linalg.norm(sampled, axis=1)[:, None]
    near = normal_consistency(points, points / np.linalg.norm(points, axis=1)[:, None], sampled, normals)
    far = normal_consistency(
        points + OFFSET, points / np.linalg.norm(points, axis=1)[:, None], sampled + OFFSET, normals
    )
    assert (far.accuracy, far.completeness) == pytest.approx((near.accuracy, near.completeness), rel=TOLERANCE)


BALL, BOX = trimesh.creation.icosphere(2, 0.5), trimesh.creation.box((0.8, 0.8, 0.8))
OVERLAP = volume_iou_adaptive(BALL.vertices, BALL.faces, BOX.vertices, BOX.faces, gap=0.02)


def test_volumes_far_from_the_origin_beside_strays_and_with_doubled_faces() -> None:
    far = volume_iou_adaptive(BALL.vertices + OFFSET, BALL.faces, BOX.vertices + OFFSET, BOX.faces, gap=0.02)
    assert far.value == pytest.approx(OVERLAP.value, abs=1e-3)
    alone = volume_iou(BALL.vertices, BALL.faces, BOX.vertices, BOX.faces)
    unused = np.concatenate([BALL.vertices, STRAY])  # a vertex that no face has
    assert volume_iou(unused, BALL.faces, BOX.vertices, BOX.faces) == alone
    assert volume_iou(BALL.vertices, np.tile(BALL.faces, (2, 1)), BOX.vertices, BOX.faces).value == alone.value


def test_a_stray_piece_of_a_mesh_is_in_the_bounds() -> None:
    piece = trimesh.creation.box((1e-3, 1e-3, 1e-3))
    vertices = np.concatenate([BALL.vertices, piece.vertices + STRAY / 1e3])
    faces = np.concatenate([BALL.faces, piece.faces + len(BALL.vertices)])
    spoilt = volume_iou_adaptive(vertices, faces, BOX.vertices, BOX.faces, gap=0.02)
    assert spoilt.lower is not None and spoilt.upper is not None and OVERLAP.value is not None
    assert spoilt.lower - 1e-6 <= OVERLAP.value <= spoilt.upper + 1e-6
    assert spoilt.value == pytest.approx(OVERLAP.value, abs=0.01)


def test_a_sheet_encloses_nothing() -> None:
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    sheet = volume_iou(corners, np.array([[0, 1, 2], [0, 2, 3]]), BOX.vertices, BOX.faces)
    assert not sheet.pred_closed and sheet.value == pytest.approx(0, abs=0.05)


def test_depth_with_strays_planes_and_doubled_pixels() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 2, (64, 64))
    pred = 0.5 * truth * rng.uniform(0.99, 1.01, truth.shape)
    clean = depth_errors(pred, truth, "scale")
    assert clean.absrel is not None and clean.rmse is not None
    twice = depth_errors(np.tile(pred, (2, 2)), np.tile(truth, (2, 2)), "scale")
    assert (twice.absrel, twice.rmse) == pytest.approx((clean.absrel, clean.rmse), rel=1e-12)
    spoilt = pred.copy()
    spoilt[0, 0] = 3e5
    stray = depth_errors(spoilt, truth, "scale")
    assert stray.scale == pytest.approx(clean.scale, rel=1e-3)
    assert stray.delta_1_03 is not None and stray.delta_1_03 >= 1 - 1 / truth.size - 1e-3
    for flat in (np.full((8, 8), 2.0), np.full((8, 8), 1e6)):
        for align in ("none", "scale", "scale_shift"):
            assert depth_errors(flat, flat, align).absrel == pytest.approx(0, abs=1e-9)  # type: ignore[arg-type]
    far = depth_errors(pred + 1e6, truth + 1e6, "scale_shift")
    assert far.rmse == pytest.approx(depth_errors(pred, truth, "scale_shift").rmse, rel=1e-3)


def test_images_with_a_stray_pixel_even_ones_and_tiles() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.8, (64, 64, 3))
    pred = np.clip(truth + rng.normal(0, 0.05, truth.shape), 0, 1)
    assert psnr(np.tile(pred, (2, 2, 1)), np.tile(truth, (2, 2, 1))) == pytest.approx(psnr(pred, truth), rel=1e-12)
    spoilt = pred.copy()
    spoilt[0, 0] = 1.0
    error = ((pred - truth) ** 2).sum() - ((pred - truth)[0, 0] ** 2).sum() + ((1 - truth[0, 0]) ** 2).sum()
    assert psnr(spoilt, truth) == pytest.approx(-10 * np.log10(error / truth.size), rel=1e-9)
    assert ssim(spoilt, truth) == pytest.approx(ssim(pred, truth), abs=0.01)
    for level in (0.0, 0.5, 1.0):
        even = np.full((16, 16, 3), level)
        assert ssim(even, even) == pytest.approx(1) and psnr(even, even) == pytest.approx(58.9, abs=0.1)


def cameras(centres: F64) -> Cameras:
    """Cameras at `centres` (N, 3), each turned its own way."""
    poses = np.tile(np.eye(4), (len(centres), 1, 1))
    poses[:, :3, :3] = Rotation.random(len(centres), random_state=4).as_matrix()
    poses[:, :3, 3] = -np.einsum("nij,nj->ni", poses[:, :3, :3], centres)
    return Cameras(np.tile(np.diag([500.0, 500.0, 1.0]), (len(centres), 1, 1)), poses)


@pytest.mark.parametrize("shape", [sphere, plane], ids=["sphere", "plane"])
def test_cameras_far_from_the_origin_astray_doubled_and_in_a_plane(shape: object) -> None:
    centres = shape(24, 1)  # type: ignore[operator]
    off = centres + np.random.default_rng(0).normal(0, 0.01, centres.shape)
    here = pose_errors(cameras(off), cameras(centres))
    there = pose_errors(cameras(off + OFFSET), cameras(centres + OFFSET))
    assert here.centre_rmse is not None
    assert there.centre_rmse == pytest.approx(here.centre_rmse, rel=TOLERANCE)
    np.testing.assert_allclose(there.translation, here.translation, atol=1e-3)
    doubled = pose_errors(cameras(np.repeat(off, 2, axis=0)), cameras(np.repeat(centres, 2, axis=0)))
    assert doubled.centre_rmse == pytest.approx(here.centre_rmse, rel=1e-9)
    astray = off.copy()
    astray[5] = STRAY[0]
    fit = align_cameras(cameras(astray), cameras(centres))
    assert not fit.inliers[5] and fit.scale == pytest.approx(1, abs=0.02)
    assert fit.centre_residual < 0.03


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_million_points() -> None:
    points = sphere(10_000_000)
    own = points.nbytes
    tracemalloc.start()
    assert diameter(points) == pytest.approx(1.0, rel=TOLERANCE)
    kept = voxel_subset(points, EDGE)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory < 6 * own
    assert 400_000 < len(kept) < len(points)
    result = nearest(points[:1000] * 1.02, points)
    assert np.abs(result.distance).max() < 0.02
