"""Chamfer distances against closed forms and the definition."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from metrics import chamfer
from metrics.chamfer import chamfer_of
from metrics.nearest import Distances


def lattice(n: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(float(n))] * 3), axis=-1).reshape(-1, 3)


def test_a_shifted_lattice() -> None:
    """Less than half a cell apart, every point's nearest is its own copy."""
    shift = np.array([0.1, -0.2, 0.2])
    length = float(np.linalg.norm(shift))
    result = chamfer(lattice(9) + shift, lattice(9))
    assert result.accuracy == pytest.approx(length) and result.completeness == pytest.approx(length)
    assert result.l1_sum == pytest.approx(2 * length) and result.l1_mean == pytest.approx(length)
    assert result.l2sq_sum == pytest.approx(2 * length**2) and result.l2sq_mean == pytest.approx(length**2)


def test_unequal_counts_weigh_each_cloud_once() -> None:
    pred, truth = np.array([[0.0, 0, 0]]), np.array([[0.0, 0, 0], [3, 0, 0], [0, 6, 0]])
    result = chamfer(pred, truth)
    assert (result.accuracy, result.completeness) == (0.0, 3.0)
    assert (result.l1_sum, result.l1_mean) == (3.0, 1.5)
    assert (result.l2sq_sum, result.l2sq_mean) == (15.0, 7.5)


def test_concentric_spheres() -> None:
    """Against the mesh, accuracy has a closed form; against its samples it is larger."""
    sphere = trimesh.creation.icosphere(subdivisions=5)
    points = np.random.default_rng(0).normal(size=(4000, 3))
    points *= 1.5 / np.linalg.norm(points, axis=1, keepdims=True)
    vertices, faces = np.asarray(sphere.vertices), np.asarray(sphere.faces)
    exact = chamfer(points, vertices[:500], mesh=(vertices, faces))
    assert exact.accuracy == pytest.approx(0.5, abs=5e-4)  # the mesh lies within 4e-4 of the sphere
    assert chamfer(points, vertices[:500]).accuracy > exact.accuracy
    assert exact.completeness == chamfer(points, vertices[:500]).completeness


def test_swapping_the_clouds_swaps_the_directions() -> None:
    rng = np.random.default_rng(1)
    pred, truth = rng.random((700, 3)), rng.random((300, 3))
    there, back = chamfer(pred, truth), chamfer(truth, pred)
    assert (there.accuracy, there.completeness) == (back.completeness, back.accuracy)
    assert there.l2sq_sum == back.l2sq_sum


def test_similarities_scale_it() -> None:
    rng = np.random.default_rng(2)
    pred, truth = rng.random((700, 3)), rng.random((300, 3))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    before, after = chamfer(pred, truth), chamfer(7 * pred @ rotation.T + 5, 7 * truth @ rotation.T + 5)
    assert after.l1_sum == pytest.approx(7 * before.l1_sum, rel=1e-12)
    assert after.l2sq_mean == pytest.approx(49 * before.l2sq_mean, rel=1e-12)


def test_identical_clouds_are_zero() -> None:
    cloud = np.random.default_rng(3).random((5000, 3))
    assert chamfer(cloud, cloud[::-1]) == chamfer_of(Distances(np.zeros(1), np.zeros(1)))


def test_single_precision_clouds_are_taken_as_they_are() -> None:
    cloud = np.random.default_rng(4).random((500, 3)).astype(np.float32)
    assert chamfer(cloud, cloud.astype(np.float64)).l1_sum == 0


@pytest.mark.parametrize("argument", ["pred", "truth"])
def test_bad_clouds_are_refused_by_name(argument: str) -> None:
    good, bad = np.zeros((3, 3)), np.full((3, 3), np.nan)
    with pytest.raises(ValueError, match=f"{argument}: 3 points are not finite"):
        chamfer(**{"pred": good, "truth": good, argument: bad})
