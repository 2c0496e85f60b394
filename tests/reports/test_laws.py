"""Laws of growth: closed forms, what simulated noise may and may not make of them, and predictions that hold."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import laws
from reports.laws import CLOSE, LAWS, N_LOG_N, WANTED, Law, Points, fit, gather, judge
from reports.schema import TableError

COUNTS = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24], float)
TRUE = {
    "b n": [2.0],
    "a + b n": [1.0, 2.0],
    "a + b n log n": [1.0, 0.5],
    "a + b n^2": [1.0, 0.1],
    "a + b n + c n^2": [1.0, 2.0, 0.1],
    "b n^p": [1.0, 1.3],
}
BY_NAME = {law.name: law for law in LAWS}


def measured(name: str, noise: float, repeats: int, seed: int, counts: np.ndarray = COUNTS) -> Points:
    """Repeats of the true law under multiplicative noise."""
    n = np.repeat(counts, repeats)
    values = BY_NAME[name](n, np.array(TRUE[name]))
    return gather(n, values * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))))


def same(named: Law, truth: str) -> bool:
    """Whether the named law is the true one, or within CLOSE of it over the measured counts."""
    values = BY_NAME[truth](COUNTS, np.array(TRUE[truth]))
    near = named(COUNTS, fit(named, gather(COUNTS, values)).coefficients)
    return named.name == truth or float(np.max(np.abs(near - values) / values)) <= CLOSE


@pytest.mark.parametrize("name", TRUE)
def test_exact_data_give_back_their_law_and_coefficients(name: str) -> None:
    result = judge(measured(name, 0.0, 1, 0))
    assert result.named is not None and result.named.name == name, result.verdict
    coefficients = next(law_fit.coefficients for law_fit in result.fits if law_fit.law.name == name)
    assert np.allclose(coefficients, TRUE[name], rtol=1e-6)


def test_least_squares_agrees_with_numpy() -> None:
    points = measured("a + b n + c n^2", 0.1, 1, 3)
    root = np.sqrt(points.weights)
    wanted = np.polynomial.polynomial.polyfit(points.n, points.values, 2, w=root)
    assert np.allclose(fit(BY_NAME["a + b n + c n^2"], points).coefficients, wanted)
    plain = judge(points).plain
    n_log_n = np.polynomial.polynomial.polyfit(points.n * np.log(points.n), points.values, 1)
    assert np.allclose(plain.coefficients, n_log_n)


def test_a_law_is_inside_another_only_where_it_is_a_special_case() -> None:
    pairs = {(a.name, b.name) for a in LAWS for b in LAWS if a.inside(b)}
    quadratic = "a + b n + c n^2"
    inside = {("b n", "a + b n"), ("b n", quadratic), ("a + b n", quadratic), ("a + b n^2", quadratic)}
    assert pairs == inside | {("b n", "b n^p")}


def test_aicc_is_the_textbook_formula_and_undefined_for_too_few_points() -> None:
    result = fit(BY_NAME["a + b n"], measured("a + b n", 0.05, 1, 1))
    m, k = len(COUNTS), 3
    assert result.aicc == pytest.approx(m * np.log(result.rss / m) + 2 * k + 2 * k * (k + 1) / (m - k - 1))
    small = measured("a + b n", 0.05, 1, 1, COUNTS[:4])
    assert fit(BY_NAME["a + b n"], small).aicc is None
    assert fit(BY_NAME["b n"], small).aicc is not None


def test_the_named_law_is_right_and_named_often_when_noise_is_small() -> None:
    verdicts = {name: [judge(measured(name, 0.01, 3, seed)).named for seed in range(8)] for name in TRUE}
    named = [(law, name) for name, laws in verdicts.items() for law in laws if law is not None]
    assert len(named) > 0.7 * 8 * len(TRUE)
    wrong = Counter(f"{law.name} for {name}" for law, name in named if not same(law, name))
    assert sum(wrong.values()) <= 0.05 * len(named), wrong


def test_laws_that_noise_hides_are_not_named() -> None:
    verdicts = [judge(measured(name, 0.15, 1, seed)) for name in ("b n", "a + b n", "a + b n^2") for seed in range(5)]
    assert not [result.verdict for result in verdicts if result.named is not None]
    assert all("not distinguishable" in v.verdict or "fits best" in v.verdict for v in verdicts)


def test_two_laws_that_look_alike_over_a_short_range_are_both_listed() -> None:
    counts = np.arange(10.0, 18.0)  # n log n and n^1.4 differ by less than the noise here
    n = np.repeat(counts, 3)
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(len(n))
    result = judge(gather(n, n * np.log(n) * noise))
    assert result.named is None
    assert "b n^p" in result.verdict and "a + b n log n" in result.verdict


@pytest.mark.parametrize("count", [3, 4, 5])
def test_too_few_counts_say_so_and_name_nothing(count: int) -> None:
    result = judge(measured("a + b n", 0.0, 1, 0, COUNTS[:count]))
    assert result.named is None
    assert f"{count} counts are too few" in result.verdict and str(WANTED) in result.verdict


def test_a_law_that_fails_on_the_largest_count_is_not_named() -> None:
    values = 1 + 2 * COUNTS
    values[-1] *= 1.3  # the machine begins to swap
    assert judge(gather(COUNTS, values)).named is None


def test_a_curve_that_turns_is_no_law_of_growth() -> None:
    result = judge(gather(COUNTS, 1 + 2 * COUNTS - 0.045 * COUNTS**2))
    assert result.named is None and "no law of growth" in result.verdict


def test_intervals_hold_the_true_coefficient_as_often_as_they_say() -> None:
    law, held = BY_NAME["a + b n"], 0
    rng = np.random.default_rng(5)
    for _ in range(200):
        ends = fit(law, gather(COUNTS, 5 + 2 * COUNTS + 0.5 * rng.standard_normal(len(COUNTS)))).intervals()
        assert ends is not None
        held += ends[1][0] <= 2 <= ends[1][1]
    assert 0.90 <= held / 200 <= 0.99  # 0.95, within three standard errors


def test_the_same_points_give_the_same_draws() -> None:
    first, again = (fit(N_LOG_N, measured("a + b n log n", 0.05, 2, 4)) for _ in range(2))
    assert np.array_equal(first.draws, again.draws)


def test_repeats_sharpen_a_point_and_their_spread_sets_the_weights() -> None:
    points = gather([1, 1, 1, 2, 2, 2, 4, 4, 4], [0.9, 1.0, 1.1, 1.8, 2.0, 2.2, 3.6, 4.0, 4.4])
    assert points.values.tolist() == [1, 2, 4] and points.repeats.tolist() == [3, 3, 3]
    assert np.allclose(points.weights * points.values**2, points.weights[0])  # the noise grows as the value
    given = gather([1, 2, 4], [1, 2, 4], sd=[0.1, 0.1, 0.2])
    assert np.allclose(given.weights / given.weights[0], [1, 1, 0.25])
    assert not gather([1, 2, 4], [1, 2, 4]).weighted


def test_the_largest_count_below_a_limit_is_the_laws_own() -> None:
    exact = judge(gather(COUNTS, 100 + 10 * COUNTS))
    ends = exact.largest_below(355)
    assert (ends.low, ends.middle, ends.high) == (25, 25, 25)
    noisy = judge(gather(COUNTS, 100 + 10 * COUNTS + np.random.default_rng(2).standard_normal(len(COUNTS)) * 5))
    ends = noisy.largest_below(400)
    assert ends.low is not None and ends.high is not None
    assert ends.low <= 29 <= ends.high and ends.low < ends.high
    flat = judge(gather(COUNTS, 100 + np.random.default_rng(3).standard_normal(len(COUNTS))))
    assert flat.largest_below(1000).high is None  # no end in sight
    assert exact.largest_below(50).high == 0  # not even one


@settings(deadline=None, max_examples=200)
@given(
    law=st.sampled_from(LAWS),
    coefficients=st.lists(st.floats(-20, 20), min_size=3, max_size=3),
    limit=st.floats(-100, 1000),
)
def test_the_first_count_above_a_limit_is_the_first_of_all(law: Law, coefficients: list[float], limit: float) -> None:
    drawn = np.array(coefficients[: len(law.letters)])
    if not law.terms:
        drawn = np.abs(drawn) / [1, 5]  # a cost, growing
    counts = np.arange(1, 301, dtype=np.float64)
    values = law(counts, drawn)
    if np.abs(values - limit).min() < 1e-6:
        return  # rounding decides
    over = np.flatnonzero(values >= limit)
    assert law.first_above(np.array([limit]), drawn[None], 300)[0] == (over[0] + 1 if len(over) else np.inf)


def test_many_counts_are_drawn_as_refits_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    n = np.arange(1.0, 301)
    points = gather(n, 5 + 0.3 * n + 0.001 * n**2 + np.random.default_rng(0).normal(0, 0.5, len(n)))
    refitted = {law: fit(law, points).intervals() for law in LAWS}
    monkeypatch.setattr(laws, "MANY", 100)
    for law, wanted in refitted.items():
        got = fit(law, points).intervals()
        assert got is not None and wanted is not None
        width = np.ptp(wanted, axis=1)
        assert (np.abs(np.array(got) - wanted) < 0.15 * width[:, None]).all(), law.name


@pytest.mark.parametrize(
    ("n", "values", "wanted"),
    [
        ([1, 2], [1, 2], "n: 2 different counts seen, at least 3 wanted"),
        ([1, 2, 2], [1, 2, 2], "n: 2 different counts seen"),
        ([1, 2, -3], [1, 2, 3], "n: -3 seen (row 3)"),
        ([1, 2, 3], [1, np.inf, 3], "value: inf seen (row 2)"),
        ([1, 2, 3], [1, 2, np.nan], "value: nan seen (row 3)"),
        ([1, 2, 3], [0, 2, 3], "value: 0 seen (row 1)"),
    ],
)
def test_what_cannot_be_fitted_is_refused(n: list[float], values: list[float], wanted: str) -> None:
    with pytest.raises(TableError) as caught:
        gather(n, values)
    assert wanted in str(caught.value)
