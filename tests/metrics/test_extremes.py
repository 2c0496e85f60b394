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

from metrics import chamfer, emd, fscore
from metrics.nearest import nearest, surface_distance
from metrics.normals import normal_consistency
from metrics.scoring.equalise import bounded_subset, voxel_subset
from metrics.scoring.truth import diameter, sample_mesh

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
    found = emd(spoilt_pred, truth[:301])
    assert found.lower <= exact * (1 + 1e-9) and exact <= found.upper * (1 + 1e-9)


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
    one = normal_consistency(points, points / np.linalg.norm(points, axis=1)[:, None], sampled, normals)
    other = normal_consistency(
        points + OFFSET, points / np.linalg.norm(points, axis=1)[:, None], sampled + OFFSET, normals
    )
    assert (other.accuracy, other.completeness) == pytest.approx((one.accuracy, one.completeness), rel=TOLERANCE)


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
    found = nearest(points[:1000] * 1.02, points)
    assert np.abs(found.distance).max() < 0.02
