"""Normal consistency: closed forms, invariances, refusals."""

import numpy as np
import pytest

from metrics.normals import normal_consistency


def ball(count: int, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_a_sphere_agrees_with_itself() -> None:
    a, b = ball(4000, 0), ball(4000, 1)
    result = normal_consistency(a, a, b, b)
    assert result.mean > 0.999
    assert normal_consistency(a, a, a, a).mean == pytest.approx(1)


def test_tilted_normals_give_the_cosine() -> None:
    rng = np.random.default_rng(2)
    flat = np.column_stack([rng.random((500, 2)), np.zeros(500)])
    up = np.tile([0.0, 0, 1], (500, 1))
    tilted = np.tile([0.0, np.sin(0.5), np.cos(0.5)], (500, 1))
    result = normal_consistency(flat, 3 * tilted, flat, up)
    assert (result.accuracy, result.completeness, result.mean) == pytest.approx((np.cos(0.5),) * 3)


def test_sign_counts_only_where_oriented() -> None:
    a = ball(1000, 3)
    assert normal_consistency(a, -a, a, a).mean == pytest.approx(1)
    assert normal_consistency(a, -a, a, a, oriented=True).mean == pytest.approx(-1)


def test_unrelated_normals_give_one_half() -> None:
    a = ball(20_000, 4)
    assert normal_consistency(a, ball(20_000, 5), a, a).mean == pytest.approx(0.5, abs=0.01)


def test_refusals_name_the_argument() -> None:
    a = ball(10, 6)
    with pytest.raises(ValueError, match="pred_normals: 9 normals"):
        normal_consistency(a, a[:9], a, a)
    with pytest.raises(ValueError, match="truth_normals: 10 null"):
        normal_consistency(a, a, a, 0 * a)
