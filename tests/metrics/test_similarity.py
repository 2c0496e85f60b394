"""Similarity fits: closed forms, optimality, outliers, refusals."""

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from metrics.similarity import (
    AlignmentError,
    apply,
    invert,
    robust_umeyama,
    rotation_angle,
    rotation_of,
    scale_of,
    similarity,
    umeyama,
)


def random_similarity(rng: np.random.Generator) -> np.ndarray:
    rotation = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix()
    return similarity(float(np.exp(rng.uniform(-3, 3))), rotation, rng.normal(size=3) * 5)


@given(seed=st.integers(0, 10_000), count=st.integers(3, 50), planar=st.booleans())
@settings(deadline=None, max_examples=60)
def test_umeyama_recovers_a_known_similarity(seed: int, count: int, planar: bool) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(count, 3)) * ([1, 1, 0] if planar else [1, 1, 1])
    truth = random_similarity(rng)
    result = umeyama(source, apply(truth, source))
    np.testing.assert_allclose(result, truth, rtol=1e-6, atol=1e-6 * np.abs(truth).max())
    assert np.linalg.det(rotation_of(result)) == pytest.approx(1)


def test_umeyama_agrees_with_colmap() -> None:
    rng = np.random.default_rng(9)
    source, noise = rng.normal(size=(40, 3)), 0.1 * rng.normal(size=(40, 3))
    target = apply(random_similarity(rng), source) + noise
    reference = pycolmap.estimate_sim3d(source, target)
    assert reference is not None
    np.testing.assert_allclose(umeyama(source, target)[:3], reference.matrix(), rtol=1e-9, atol=1e-9)


def test_umeyama_never_mirrors() -> None:
    source = np.random.default_rng(0).normal(size=(20, 3))
    result = umeyama(source, source * [1, 1, -1])
    assert np.linalg.det(result[:3, :3]) > 0


@pytest.mark.parametrize("with_scale", [True, False])
def test_umeyama_is_a_minimum(with_scale: bool) -> None:
    rng = np.random.default_rng(1)
    source, target, weights = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 2, rng.random(30)

    def cost(transform: np.ndarray) -> float:
        return float(weights @ ((apply(transform, source) - target) ** 2).sum(axis=1))

    best = umeyama(source, target, weights, with_scale)
    for _ in range(200):
        turn = Rotation.from_rotvec(rng.normal(size=3) * 0.01).as_matrix()
        grow = float(np.exp(rng.normal() * 0.01)) if with_scale else 1.0
        assert cost(similarity(grow, turn, rng.normal(size=3) * 0.01) @ best) >= cost(best) - 1e-12
    if not with_scale:
        assert scale_of(best) == pytest.approx(1)


def test_weight_zero_removes_a_pair() -> None:
    rng = np.random.default_rng(2)
    source = rng.normal(size=(10, 3))
    truth = random_similarity(rng)
    target = apply(truth, source)
    target[3] += 100
    np.testing.assert_allclose(umeyama(source, target, np.arange(10) != 3), truth, rtol=1e-8, atol=1e-8)


def test_invert_and_compose() -> None:
    rng = np.random.default_rng(3)
    a, b = random_similarity(rng), random_similarity(rng)
    np.testing.assert_allclose(invert(a) @ a, np.eye(4), atol=1e-10)
    assert scale_of(a @ b) == pytest.approx(scale_of(a) * scale_of(b))
    np.testing.assert_allclose(rotation_of(a @ b), rotation_of(a) @ rotation_of(b), atol=1e-12)


def test_rotation_angle_near_its_ends() -> None:
    for degrees in (0.0, 1e-6, 0.5, 90.0, 179.999999, 180.0):
        rotation = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
        assert rotation_angle(rotation) == pytest.approx(degrees, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_robust_fit_survives_forty_percent_of_outliers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(300, 3))
    truth = random_similarity(rng)
    clean = apply(truth, source)
    target = clean + rng.normal(size=clean.shape) * 0.005 * scale_of(truth)
    wrong = rng.permutation(300)[:120]
    target[wrong] = clean[rng.permutation(300)[:120]] + scale_of(truth) * rng.normal(size=(120, 3))
    fit = robust_umeyama(source, target, seed)
    assert rotation_angle(rotation_of(fit.target_from_source) @ rotation_of(truth).T) < 0.15
    assert scale_of(fit.target_from_source) == pytest.approx(scale_of(truth), rel=3e-3)
    assert fit.inliers[np.setdiff1d(np.arange(300), wrong)].mean() > 0.95
    assert fit.inliers[wrong].mean() < 0.05
    assert np.array_equal(fit.target_from_source, robust_umeyama(source, target, seed).target_from_source)


def test_a_given_tolerance_bears_more_than_half() -> None:
    rng = np.random.default_rng(4)
    source = rng.normal(size=(400, 3))
    truth = random_similarity(rng)
    target = apply(truth, source)
    target[:260] += scale_of(truth) * rng.normal(size=(260, 3))
    fit = robust_umeyama(source, target, tolerance=0.01 * scale_of(truth), trials=1000)
    np.testing.assert_allclose(fit.target_from_source, truth, rtol=1e-2, atol=1e-2 * np.abs(truth).max())


def test_exact_pairs_are_all_inliers() -> None:
    source = np.random.default_rng(5).normal(size=(12, 3))
    assert robust_umeyama(source, source * 2 + 1).inliers.all()


def test_refusals_name_the_argument() -> None:
    rng = np.random.default_rng(6)
    cloud, line = rng.normal(size=(9, 3)), np.outer(np.arange(9.0), [1, 2, 3])
    with pytest.raises(AlignmentError, match=r"source.*line"):
        umeyama(line, cloud)
    with pytest.raises(AlignmentError, match=r"target.*line"):
        robust_umeyama(cloud, line)
    with pytest.raises(AlignmentError, match="source: 2 points"):
        umeyama(cloud[:2], cloud[:2])
    with pytest.raises(ValueError, match="target: 8 points seen, 9 wanted"):
        umeyama(cloud, cloud[:8])
    with pytest.raises(ValueError, match=r"source: shape \(9, 2\)"):
        umeyama(cloud[:, :2], cloud)
    with pytest.raises(ValueError, match=r"target.*not finite"):
        umeyama(cloud, np.where(cloud > 1, np.nan, cloud))
    with pytest.raises(ValueError, match="weights"):
        umeyama(cloud, cloud, -np.ones(9))
    with pytest.raises(AlignmentError, match="weights"):
        umeyama(cloud, cloud, np.arange(9) < 2)
