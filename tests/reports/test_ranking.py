"""Rankings in cases small enough to know the answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from reports.ranking import (
    ENOUGH_SCENES,
    Agreement,
    Cell,
    Comparisons,
    agreement,
    compare,
    interval,
    intervals,
    ranks,
    signed_rank,
)


def cells(*values: float | str, spread: float = 0.0, scenes: list[str] | None = None) -> list[Cell]:
    """One cell a value; a text is a status instead."""
    out = []
    for i, value in enumerate(values):
        scene = scenes[i] if scenes else f"s{i:02d}"
        if isinstance(value, str):
            out.append(Cell(scene, f"v{i}", value))
        else:
            out.append(Cell(scene, f"v{i}", "ok", value, value - spread, value + spread))
    return out


def at(result: Comparisons, matrix: str, first: str, second: str) -> float:
    return getattr(result, matrix)[result.systems.index(first), result.systems.index(second)].item()


def test_few_scenes_count_clear_wins() -> None:
    result = compare({"a": cells(1, 1, 5), "b": cells(2, 2, 4)}, "lower")
    assert at(result, "wins", "a", "b") == 2
    assert at(result, "wins", "b", "a") == 1
    assert at(result, "gain", "a", "b") == pytest.approx(1 / 3)
    assert np.isnan(at(result, "low", "a", "b"))
    assert ranks(result) == {"a": 1, "b": 2}


def test_overlapping_draws_are_no_win() -> None:
    close = compare({"a": cells(1.0, 1.0, spread=0.3), "b": cells(1.5, 1.5, spread=0.3)}, "lower")
    assert ranks(close) == {"a": 1, "b": 1}
    apart = compare({"a": cells(1.0, 1.0, spread=0.2), "b": cells(1.5, 1.5, spread=0.2)}, "lower")
    assert ranks(apart) == {"a": 1, "b": 2}


def test_higher_can_be_better() -> None:
    result = compare({"a": cells(0.9, 0.8, spread=0.01), "b": cells(0.5, 0.4, spread=0.01)}, "higher")
    assert ranks(result) == {"a": 1, "b": 2}
    assert at(result, "gain", "a", "b") == pytest.approx(0.4)


def test_a_failed_cell_loses() -> None:
    result = compare({"a": cells(1.0, "oom", "oom"), "b": cells(2.0, 2.0, 2.0)}, "lower")
    assert ranks(result) == {"a": 2, "b": 1}
    assert at(result, "gain", "a", "b") == pytest.approx(1.0)  # the mean is over the common cell only
    assert at(result, "common", "a", "b") == 1


def test_a_failure_has_no_size() -> None:
    """Nine scenes: the mean and its interval are those of the common ones, whatever the tenth scene's failure."""
    base, better = [1.0, 1.2, 1.1, 1.3, 1.0, 1.4, 1.2, 1.1, 1.3], [0.9, 1.0, 1.0, 1.1, 0.9, 1.2, 1.1, 0.9, 1.1]
    whole = compare({"a": cells(*better), "b": cells(*base)}, "lower")
    lost = compare({"a": cells(*better, 1.0), "b": cells(*base, "crash")}, "lower")
    for matrix in ("gain", "low", "high", "common"):
        assert at(lost, matrix, "a", "b") == at(whole, matrix, "a", "b")
    assert at(lost, "failed", "b", "a") == 1 and at(lost, "failed", "a", "b") == 0
    assert ranks(lost) == {"a": 1, "b": 2}


def test_failing_on_a_scene_helps_nobody() -> None:
    """Eight scenes, all lost: failing on one leaves seven with two results, too few for an interval; it loses still."""
    good = [1.0 + 0.01 * i for i in range(8)]
    for fails in range(1, 9):
        worse = [*(1.5 for _ in range(8 - fails)), *("oom" for _ in range(fails))]
        assert ranks(compare({"a": cells(*good), "b": cells(*worse)}, "lower")) == {"a": 1, "b": 2}


def test_better_where_it_has_a_result_but_failing_often_is_not_better() -> None:
    a, b = [*(0.5 for _ in range(10)), *("oom" for _ in range(6))], [1.0 + 0.01 * i for i in range(16)]
    result = compare({"a": cells(*a), "b": cells(*b)}, "lower")
    assert at(result, "low", "a", "b") > 0
    assert ranks(result) == {"a": 1, "b": 1}


def test_both_failed_is_a_tie_and_unknown_cells_do_not_count() -> None:
    result = compare({"a": cells("oom", "not_run", 1.0), "b": cells("crash", 1.0, "unscored")}, "lower")
    assert at(result, "wins", "a", "b") == at(result, "wins", "b", "a") == 0
    assert at(result, "scenes", "a", "b") == 1
    assert ranks(result) == {"a": 1, "b": 1}


def test_means_only_over_common_cells() -> None:
    """A system that skips the hard scene must not look better for it."""
    result = compare({"a": cells(1.0, 9.0), "b": cells(1.5, "not_run")}, "lower")
    assert at(result, "gain", "a", "b") == pytest.approx(0.5)


def test_scenes_weigh_the_same_however_many_cells_they_have() -> None:
    scenes = ["s", "s", "s", "t"]
    result = compare({"a": cells(1, 1, 1, 1, scenes=scenes), "b": cells(2, 2, 2, 5, scenes=scenes)}, "lower")
    assert at(result, "gain", "a", "b") == pytest.approx((1 + 4) / 2)


def test_enough_scenes_need_an_interval_clear_of_zero() -> None:
    rng = np.random.default_rng(3)
    base = rng.uniform(1, 2, size=12)
    noisy = compare({"a": cells(*base), "b": cells(*(base + rng.normal(0.02, 1.0, size=12)))}, "lower")
    assert ranks(noisy) == {"a": 1, "b": 1}
    sure = compare({"a": cells(*base), "b": cells(*(base + rng.normal(0.5, 0.1, size=12)))}, "lower")
    assert ranks(sure) == {"a": 1, "b": 2}
    assert at(sure, "low", "a", "b") > 0
    assert at(sure, "low", "a", "b") == pytest.approx(-at(sure, "high", "b", "a"))


def test_one_scene_more_or_less_changes_the_rule() -> None:
    """Seven small losses and one large win: wins decide below the limit, the interval from it on."""
    losses, win = [1.0] * (ENOUGH_SCENES - 1), [9.0]
    a, b = [1.1] * (ENOUGH_SCENES - 1), [0.0]
    assert ranks(compare({"a": cells(*a[:-1], *b), "b": cells(*losses[:-1], *win)}, "lower"))["b"] == 1
    assert ranks(compare({"a": cells(*a[:-1], *b), "b": cells(*losses[:-1], *win)}, "lower"))["a"] == 2
    assert ranks(compare({"a": cells(*a, *b), "b": cells(*losses, *win)}, "lower")) == {"a": 1, "b": 1}


def test_failures_lose_over_enough_scenes_too() -> None:
    same = [1.0 + 0.01 * i for i in range(10)]
    result = compare({"a": cells(*same), "b": cells(*same[:3], *["timeout"] * 7)}, "lower")
    assert ranks(result) == {"a": 1, "b": 2}
    assert at(result, "gain", "a", "b") == 0


NORMAL, T3, LOG_NORMAL = "normal", "t3", "log-normal"


@pytest.mark.parametrize("scenes", [8, 12, 20, 50])
@pytest.mark.parametrize(("kind", "least"), [(NORMAL, 0.94), (T3, 0.94), (LOG_NORMAL, 0.92)])
def test_the_interval_covers_the_mean_as_often_as_it_says(kind: str, least: float, scenes: int) -> None:
    """Over 60,000 simulated sets of scenes, so that the share's own error (0.001) is far below what is asked."""
    rng, shape = np.random.default_rng(11), (60_000, scenes)
    values, mean = {
        NORMAL: (rng.standard_normal(shape), 0.0),
        T3: (rng.standard_t(3, shape), 0.0),
        LOG_NORMAL: (rng.lognormal(0.0, 0.8, shape), np.exp(0.32)),
    }[kind]
    ends = intervals(values, np.ones(shape, np.bool_))
    assert least <= ((ends[:, 0] <= mean) & (mean <= ends[:, 1])).mean() <= 0.98


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=8, max_size=20), st.floats(0.01, 100), st.floats(-50, 50))
def test_intervals_hold_the_sample_mean_and_follow_its_unit(values: list[float], scale: float, shift: float) -> None:
    low, high = interval(np.array(values))
    middle, slack = np.mean(values), 1e-6 * (1 + high - low)
    assert low - slack <= middle <= high + slack
    moved = interval(-scale * np.array(values) + shift)
    assert moved == pytest.approx((shift - scale * high, shift - scale * low), abs=1e-5 * scale, rel=1e-5)


def test_rows_that_lack_scenes_are_judged_by_those_they_have() -> None:
    values = np.random.default_rng(2).normal(size=(2, 12))
    measured = np.ones((2, 12), np.bool_)
    measured[0, [1, 4]] = measured[1, 5:] = False
    result = intervals(np.where(measured, values, 1e9), measured)
    assert result[0].tolist() == pytest.approx(interval(values[0, measured[0]]))
    assert np.isnan(result[1]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=12))
def test_the_signed_rank_test_is_exact_with_ties(values: list[int]) -> None:
    """Against every assignment of signs, one after the other."""
    moved = np.array([v for v in values if v], float)
    sizes = rankdata(np.abs(moved))
    sums = np.array([sizes @ np.array(signs) for signs in itertools.product((0, 1), repeat=len(moved))])
    observed = sizes[moved > 0].sum()
    chance = 2 * min((sums <= observed + 1e-9).mean(), (sums >= observed - 1e-9).mean())
    assert abs(signed_rank(np.array(values, float))) == (chance <= 0.05)


def test_too_few_scenes_have_no_interval() -> None:
    assert np.isnan(interval(np.ones(ENOUGH_SCENES - 1))).all()
    assert interval(np.ones(ENOUGH_SCENES)) == (1.0, 1.0)


VALUES = st.lists(st.one_of(st.floats(0.1, 9), st.sampled_from(["oom", "not_run"])), min_size=9, max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=5), st.sampled_from([3, 9]))
def test_comparisons_are_antisymmetric_and_others_do_not_matter(table: list[list[float | str]], count: int) -> None:
    systems = {f"m{i}": cells(*row[:count]) for i, row in enumerate(table)}
    result = compare(systems, "lower")
    assert not (result.better & result.better.T).any()
    assert np.array_equal(result.gain, -result.gain.T, equal_nan=True)
    pair = compare({name: systems[name] for name in ("m0", "m1")}, "lower")
    assert bool(pair.better[0, 1]) == bool(result.better[0, 1])
    assert max(ranks(result).values()) <= len(systems)
    assert 1 in ranks(result).values() or result.better.any()
    flipped = {
        name: [
            Cell(
                c.scene,
                c.view_ids,
                c.status,
                None if c.value is None else -c.value,
                None if c.low is None else -c.low,
                None if c.high is None else -c.high,
            )
            for c in row
        ]
        for name, row in systems.items()
    }
    assert ranks(compare(flipped, "higher")) == ranks(result)


def test_agreement_has_known_values() -> None:
    assert agreement({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}) == Agreement(3, 1.0)
    assert agreement({"a": 1, "b": 2, "c": 3}, {"a": 3, "b": 2, "c": 1}) == Agreement(3, -1.0)
    result = agreement({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 3, "c": 2, "e": 1})
    assert result == Agreement(3, pytest.approx(1 / 3))  # a, b, c: two of three pairs agree
    assert agreement({"a": 1, "b": 1, "c": 3}, {"a": 1, "b": 2, "c": 3}).tau == pytest.approx(2 / np.sqrt(2 * 3))


def test_agreement_is_null_where_there_is_nothing_to_agree_on() -> None:
    assert agreement({"a": 1}, {"a": 1}) == Agreement(1, None)
    assert agreement({"a": 1, "b": 1}, {"a": 1, "b": 2}) == Agreement(2, None)
    assert agreement({}, {}) == Agreement(0, None)


def test_no_system_is_no_comparison() -> None:
    assert ranks(compare({}, "lower")) == {}
    assert ranks(compare({"a": cells(1.0)}, "lower")) == {"a": 1}
