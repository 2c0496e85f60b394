"""Repeated draws: seeds, intervals, floors."""

from __future__ import annotations

import numpy as np
import pytest

from metrics import chamfer, fscore
from metrics.repeat import floor, repeat


def test_draws_follow_from_the_seed_and_append() -> None:
    five, nine = repeat(lambda rng: rng.normal(), 5, seed=3), repeat(lambda rng: rng.normal(), 9, seed=3)
    assert nine.values[:5] == five.values
    assert len(set(nine.values)) == 9
    assert repeat(lambda rng: rng.normal(), 5, seed=4).values != five.values


def test_the_interval_is_students() -> None:
    """Two draws, one degree of freedom: 12.706 standard errors."""
    result = repeat(lambda rng: rng.normal(), 2, seed=0)
    assert result.value == pytest.approx(np.mean(result.values))
    assert result.high - result.value == pytest.approx(12.7062 * result.std / np.sqrt(2), rel=1e-5)
    assert result.value - result.low == pytest.approx(result.high - result.value)


def test_the_interval_holds_the_mean_nineteen_times_in_twenty() -> None:
    held = [abs((r := repeat(lambda rng: rng.normal(), 5, seed=s)).value) <= r.high - r.value for s in range(1000)]
    assert 0.93 < np.mean(held) < 0.97


def test_a_constant_has_no_width() -> None:
    result = repeat(lambda rng: 2.5, 5, seed=0)
    assert (result.value, result.low, result.high, result.std) == (2.5, 2.5, 2.5, 0.0)


def test_the_floor_falls_as_samples_grow() -> None:
    """The distance between samples of one plane goes as n^-1/2."""
    plane = np.concatenate([np.random.default_rng(0).random((40_000, 2)), np.zeros((40_000, 1))], axis=1)
    small, large = (floor(lambda p, t: chamfer(p, t).accuracy, plane, n) for n in (1000, 16_000))
    assert small.value / large.value == pytest.approx(4, rel=0.1)
    assert small.value == pytest.approx(0.5 / np.sqrt(1000), rel=0.1)  # mean nearest distance of a Poisson process


def test_a_perfect_model_is_not_perfect_at_few_points() -> None:
    cloud = np.random.default_rng(1).random((10_000, 3))
    assert floor(lambda p, t: fscore(p, t, 0.02).fscore, cloud, 2000).value < 0.5


def test_the_halves_of_a_draw_are_disjoint() -> None:
    def overlap(pred: np.ndarray, truth: np.ndarray) -> float:
        assert len(pred) == len(truth) == 50
        return float(len(set(pred[:, 0]) & set(truth[:, 0])))

    assert floor(overlap, np.arange(300.0).reshape(100, 3), 50).value == 0


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="draws: 1 seen, at least 2 wanted"):
        repeat(lambda rng: 0.0, 1, seed=0)
    with pytest.raises(ValueError, match=r"metric: draws .* seen, finite numbers wanted"):
        repeat(lambda rng: float("nan"), 2, seed=0)
    with pytest.raises(ValueError, match="truth: 100 points seen, at least 102 wanted"):
        floor(lambda p, t: 0.0, np.zeros((100, 3)), 51)
    with pytest.raises(ValueError, match="n: 0 seen, at least 1 wanted"):
        floor(lambda p, t: 0.0, np.zeros((100, 3)), 0)
