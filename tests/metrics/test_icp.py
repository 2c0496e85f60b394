"""Robust ICP: recovery from a rough start, what it refuses, what it keeps."""

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from metrics.register import icp
from metrics.similarity import AlignmentError, apply, invert, rotation_angle, rotation_of, scale_of, similarity


def surface(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and normals of a box with a ball: no symmetry."""
    ball = trimesh.creation.icosphere(3, 0.3).apply_translation((0.5, 0.3, 0.3))
    mesh = trimesh.util.concatenate([trimesh.creation.box((1, 0.7, 0.4)), ball])
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return np.asarray(points), np.asarray(mesh.face_normals[faces])


def rough(seed: int) -> NDArray[np.float64]:
    """A similarity some 12 degrees and 6% away from the identity."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(rng.normal(size=3) * 0.12).as_matrix()
    return similarity(float(np.exp(rng.uniform(-0.08, 0.08))), turn, rng.normal(size=3) * 0.04)


@pytest.mark.parametrize("seed", range(4))
def test_recovers_a_partial_noisy_cloud_with_floaters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, normals = surface(8000, seed)
    part, _ = surface(12000, 100 + seed)
    part = part[part[:, 0] < np.quantile(part[:, 0], 0.65)]
    part = part + 0.005 * rng.normal(size=part.shape)
    pred = np.concatenate([part, rng.uniform(-1.2, 1.2, (len(part) // 3, 3))])
    off = rough(seed)
    stage = icp(apply(invert(off), pred), truth, normals if seed % 2 else None)
    error = stage.transform @ invert(off)
    assert rotation_angle(rotation_of(error)) < 0.3
    assert scale_of(error) == pytest.approx(1, abs=0.005)
    assert stage.name == "icp" and stage.gain > 0 and stage.residual < 0.03


def test_noise_does_not_shrink_the_scale() -> None:
    rng = np.random.default_rng(0)
    truth, normals = surface(20000, 0)
    pred = surface(20000, 1)[0]
    stage = icp(pred + 0.02 * rng.normal(size=pred.shape), truth, normals)
    assert scale_of(stage.transform) == pytest.approx(1, abs=0.004)


def test_initial_pose_is_used_and_any_unit_works() -> None:
    truth, _ = surface(4000, 2)
    off = similarity(70.0, Rotation.from_rotvec([0, 0, 2.0]).as_matrix(), np.array([100.0, 0, 0]))
    pred = apply(invert(off), surface(4000, 3)[0])
    stage = icp(pred, truth, initial=rough(1) @ off)
    assert rotation_angle(rotation_of(stage.transform @ invert(off))) < 0.3


def test_scale_is_kept_when_asked() -> None:
    truth, _ = surface(4000, 2)
    stage = icp(surface(4000, 3)[0] * 1.03, truth, with_scale=False)
    assert scale_of(stage.transform) == pytest.approx(1, abs=1e-12)


def test_deterministic_and_never_worse() -> None:
    truth, _ = surface(3000, 4)
    pred = surface(3000, 5)[0]
    first, second = icp(pred, truth, seed=3), icp(pred, truth, seed=3)
    assert np.array_equal(first.transform, second.transform)
    same = icp(truth, truth)
    np.testing.assert_allclose(same.transform, np.eye(4), atol=1e-6)


def test_a_point_far_away_does_no_harm() -> None:
    truth, _ = surface(3000, 8)
    off = rough(8)
    pred = apply(invert(off), np.concatenate([surface(3000, 9)[0], [[1e7, 0, 0]]]))
    assert rotation_angle(rotation_of(icp(pred, truth).transform @ invert(off))) < 0.3


def test_planar_clouds_are_laid_into_their_plane() -> None:
    rng = np.random.default_rng(7)
    truth = np.column_stack([rng.uniform(0, 2, 4000), rng.uniform(0, 1, 4000), np.zeros(4000)])
    pred = np.column_stack([rng.uniform(0, 2, 4000), rng.uniform(0, 1, 4000), np.zeros(4000)])
    off = similarity(1.02, Rotation.from_rotvec([0.05, 0.02, 0.01]).as_matrix(), np.array([0.02, 0, 0.03]))
    error = icp(apply(invert(off), pred), truth).transform @ invert(off)
    assert error[2, 2] == pytest.approx(scale_of(error)) and error[2, 3] == pytest.approx(0, abs=1e-6)
    assert rotation_angle(rotation_of(error)) < 1 and scale_of(error) == pytest.approx(1, abs=0.02)


def test_refusals_name_the_argument() -> None:
    truth, normals = surface(200, 0)
    with pytest.raises(AlignmentError, match="pred: 20 points seen, at least 50"):
        icp(truth[:20], truth)
    with pytest.raises(AlignmentError, match="truth: the points lie on a line"):
        icp(truth, np.outer(np.arange(60.0), [1, 0, 0]))
    with pytest.raises(ValueError, match="truth_normals: shape"):
        icp(truth, truth, normals[:5])
    with pytest.raises(ValueError, match="initial"):
        icp(truth, truth, initial=np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"pred.*finite"):
        icp(np.where(truth > 0.4, np.nan, truth), truth)
