"""F-scores of clouds whose distances are known."""

from __future__ import annotations

import numpy as np
import pytest

from metrics import fscore
from metrics.fscore import fscore_of
from metrics.nearest import distances


def test_counts_points_below_the_threshold_in_each_direction() -> None:
    truth = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    pred = np.array([[0.0, 0.1, 0], [1, 0.1, 0], [9, 0, 0]])
    result = fscore(pred, truth, 0.2)
    assert result.precision == pytest.approx(2 / 3) and result.recall == pytest.approx(1 / 2)
    assert result.fscore == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


def test_a_distance_equal_to_the_threshold_does_not_count() -> None:
    pred, truth = np.zeros((1, 3)), np.array([[0.5, 0, 0]])
    assert fscore(pred, truth, 0.5).fscore == 0
    assert fscore(pred, truth, np.nextafter(0.5, 1)).fscore == 1


def test_nothing_close_scores_zero_without_dividing_by_zero() -> None:
    assert fscore(np.zeros((5, 3)), np.full((5, 3), 9.0), 1.0).fscore == 0


def test_it_grows_with_the_threshold_from_one_search() -> None:
    rng = np.random.default_rng(0)
    pred, truth = rng.random((2000, 3)), rng.random((3000, 3))
    both = distances(pred, truth)
    scores = [fscore_of(both, threshold).fscore for threshold in (0.01, 0.02, 0.04, 0.08, 2.0)]
    assert scores == sorted(scores) and scores[-1] == 1
    assert fscore_of(both, 0.04) == fscore(pred, truth, 0.04)


def test_precision_is_measured_to_a_mesh_where_there_is_one() -> None:
    vertices, faces = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0]]), np.array([[0, 1, 2]])
    above = np.array([[3.0, 3.0, 0.1]])
    assert fscore(above, vertices, 0.2).precision == 0
    assert fscore(above, vertices, 0.2, mesh=(vertices, faces)).precision == 1


@pytest.mark.parametrize("threshold", [0.0, -1.0, np.nan, np.inf])
def test_bad_thresholds_are_refused_by_name(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold: .* seen, a positive length wanted"):
        fscore(np.zeros((1, 3)), np.zeros((1, 3)), threshold)
