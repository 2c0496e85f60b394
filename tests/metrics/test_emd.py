"""EMD: certificates against exact solvers, closed forms, invariances, clouds that break auctions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import cdist

from adapters.contract import F64
from metrics import emd
from metrics.emd import EMD, emd_of_samples
from metrics.peers import emd_by


def exact(pred: F64, truth: F64) -> float:
    """By the network simplex, in units in which its tolerances are small."""
    unit = float(np.ptp(np.concatenate([pred, truth]), axis=0).max()) or 1.0
    return unit * emd_by("pot", (pred - pred[0]) / unit, (truth - pred[0]) / unit)


def verify(pred: F64, truth: F64, gap: float, true: float | None = None, device: str | None = None) -> EMD:
    """The certificate, by its definition: a bijection of that length, and a dual bound from the prices alone."""
    result = emd(pred, truth, gap, device=device)
    n, extent = len(pred), max(float(np.ptp(np.concatenate([pred, truth]), axis=0).max()), 1e-300)
    rounding = 1e-12 * extent + 1e-14 * max(np.abs(pred).max(), np.abs(truth).max())
    np.testing.assert_array_equal(np.sort(result.assignment), np.arange(n))
    length = np.linalg.norm(pred - truth[result.assignment], axis=1).mean()
    assert result.value == result.upper == pytest.approx(length, rel=1e-12, abs=rounding)
    dual = (cdist(pred, truth) + result.prices).min(axis=1).mean() - result.prices.mean()
    assert result.lower <= dual + rounding
    if result.upper > 0:
        assert result.gap == pytest.approx((result.upper - result.lower) / result.lower if result.lower else np.inf)
    assert (result.gap <= gap) == (result.reason is None)
    if result.reason is not None:
        assert result.upper - result.lower <= 4e-9 * extent + 1e-13 * np.abs(pred).max()
    if true is not None:
        assert result.lower <= true + rounding and result.upper >= true - rounding
    return result


def surface(n: int, rng: np.random.Generator) -> F64:
    """A bumpy torus with a little noise."""
    u, v = 2 * np.pi * rng.random((2, n))
    r = 0.35 * (1 + 0.3 * np.sin(3 * u) + 0.2 * np.cos(2 * v + u))
    torus = [(1 + r * np.cos(v)) * np.cos(u), (1 + r * np.cos(v)) * np.sin(u) * 0.7, r * np.sin(v)]
    return np.stack(torus, axis=1) + rng.normal(size=(n, 3)) * 0.01


def hard_clouds() -> dict[str, tuple[F64, F64]]:
    rng = np.random.default_rng(0)
    n = 1200
    pred, truth = surface(n, rng), surface(n, rng)
    two, line = np.array([[0.0, 0, 0], [1, 0, 0]]), np.zeros((n, 3))
    line[:, 0] = rng.random(n)
    cells = np.stack(np.meshgrid(*[np.arange(10.0)] * 3), axis=-1).reshape(-1, 3)
    part = np.concatenate([truth[truth[:, 0] < 0.2], rng.uniform(-2, 2, (n, 3))])[:n]
    return {
        "same surface": (pred, truth),
        "shifted": (pred, truth + [0.05, 0.02, -0.03]),
        "misaligned": (pred, 0.3 * truth[:, [1, 2, 0]] + [4, 1, 0]),
        "a part and floaters": (pred, part),
        "every point equal on both sides": (np.zeros((n, 3)), np.ones((n, 3))),
        "pred collapsed": (np.zeros((n, 3)), truth),
        "truth collapsed": (pred, np.zeros((n, 3))),
        "pred a tiny ball": (1e-4 * rng.normal(size=(n, 3)), truth),
        "two clusters, unequal": (np.repeat(two, [500, 700], axis=0), np.repeat(two, [400, 800], axis=0) + 1e-3 * pred),
        "a permutation with noise": (pred, pred[rng.permutation(n)] + 1e-6 * truth),
        "a permutation but for one point": (pred, np.concatenate([pred[1:], [[3.0, 3, 3]]])),
        "duplicates": (np.repeat(pred[:24], 50, axis=0), np.repeat(truth[:24], 50, axis=0)),
        "collinear": (line, line**2),
        "collinear and disjoint": (line, line[::-1] ** 2 + [1, 0, 0]),
        "planar": (pred * [1, 1, 0], truth * [1, 1, 0]),
        "a lattice half a cell off": (cells, cells[rng.permutation(1000)] + 0.5),
        "a lattice three cells off": (cells, cells[rng.permutation(1000)] + [3.0, 0, 0]),
        "a far outlier": (pred, np.concatenate([truth[1:], [[1e4, 0, 0]]])),
        "far from the origin": (pred + 1e5, truth + 1e5),
        "tiny": (pred * 1e-30, truth * 1e-30),
        "huge": (pred * 1e30, truth * 1e30),
    }


@pytest.mark.parametrize("name", hard_clouds())
def test_the_certificate_holds(name: str) -> None:
    pred, truth = hard_clouds()[name]
    true = exact(pred, truth)
    for gap in (0.01, 0.001):
        verify(pred, truth, gap, true)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 17, 64, 65, 255, 1000])
def test_every_count(n: int) -> None:
    rng = np.random.default_rng(n)
    pred, truth = surface(n, rng), surface(n, rng) + [0.1, 0, 0]
    verify(pred, truth, 0.005, exact(pred, truth))


coordinates = st.one_of(st.floats(-10, 10).map(lambda value: round(value, 9)), st.sampled_from([0.0, 1.0, 1.0 + 1e-9]))
pairs = st.integers(1, 40).flatmap(lambda n: arrays.arrays(np.float64, (2, n, 3), elements=coordinates))


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_the_certificate_holds_on_any_cloud(pair: F64) -> None:
    verify(pair[0], pair[1], 0.01, exact(pair[0], pair[1]))


def test_a_thousandth_on_many_points() -> None:
    """More coarse levels than the small cases have; the dual bound is checked by brute force."""
    rng = np.random.default_rng(7)
    verify(surface(6000, rng), surface(6000, rng) * [1, 1.02, 1], 0.001)


def test_a_translation_costs_its_length() -> None:
    """Moving every point by t is an optimal plan between a cloud and its copy at t."""
    cloud, shift = surface(3000, np.random.default_rng(1)), np.array([0.3, -0.4, 1.2])
    result = emd(cloud, (cloud + shift)[::-1], gap=1e-3)
    assert result.lower <= 1.3 * (1 + 1e-12) and result.upper >= 1.3 * (1 - 1e-12) and result.gap <= 1e-3


def test_a_line_is_matched_in_order() -> None:
    rng = np.random.default_rng(2)
    pred, truth = np.zeros((2, 2000, 3))
    pred[:, 0], truth[:, 0] = rng.random(2000), rng.random(2000) ** 2
    true = np.abs(np.sort(pred[:, 0]) - np.sort(truth[:, 0])).mean()
    verify(pred, truth, 1e-3, float(true))


def test_a_permutation_is_zero() -> None:
    cloud = surface(2000, np.random.default_rng(3))
    order = np.random.default_rng(4).permutation(2000)
    result = emd(cloud, cloud[order])
    assert (result.value, result.lower, result.gap, result.reason) == (0.0, 0.0, 0.0, None)
    np.testing.assert_array_equal(cloud[order][result.assignment], cloud)


def test_what_float64_cannot_resolve_is_reported() -> None:
    cloud = surface(500, np.random.default_rng(5))
    result = verify(cloud + 1e9, np.nextafter(cloud + 1e9, np.inf), 1e-6)
    assert result.reason is not None and result.lower <= result.upper


def test_similarities_scale_it_within_the_gap() -> None:
    rng = np.random.default_rng(6)
    pred, truth = surface(1500, rng), surface(1500, rng)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    before, after = emd(pred, truth), emd(5 * pred @ rotation.T - 3, 5 * truth @ rotation.T - 3)
    back = emd(truth, pred)
    assert max(5 * before.lower, after.lower) <= min(5 * before.upper, after.upper)
    assert max(before.lower, back.lower) <= min(before.upper, back.upper)


def test_it_is_deterministic() -> None:
    rng = np.random.default_rng(8)
    pred, truth = surface(9000, rng), surface(9000, rng)  # several tasks of the threads
    first, second = emd(pred, truth), emd(pred, truth)
    assert (first.value, first.lower) == (second.value, second.lower)
    np.testing.assert_array_equal(first.assignment, second.assignment)


def test_unequal_counts_have_a_name_of_their_own() -> None:
    rng = np.random.default_rng(9)
    pred, truth = surface(900, rng), surface(700, rng)
    with pytest.raises(ValueError, match=r"truth: 700 points seen, 900 wanted, as many as pred"):
        emd(pred, truth)
    result = emd_of_samples(pred, truth, 500, seed=1)
    assert len(result.values) == 5 and result.low <= result.value <= result.high
    assert result == emd_of_samples(pred, truth, 500, seed=1)
    with pytest.raises(ValueError, match=r"draws: 4 seen, at least 5 wanted"):
        emd_of_samples(pred, truth, 500, draws=4)
    with pytest.raises(ValueError, match=r"truth: 700 points seen, at least 800 wanted"):
        emd_of_samples(pred, truth, 800)
    with pytest.raises(ValueError, match=r"n: 0 seen, at least 1 wanted"):
        emd_of_samples(pred, truth, 0)


@pytest.mark.parametrize("gap", [0.0, -0.01, np.nan, np.inf])
def test_bad_gaps_are_refused_by_name(gap: float) -> None:
    with pytest.raises(ValueError, match=r"gap: .* seen, a positive number wanted"):
        emd(np.zeros((2, 3)), np.ones((2, 3)), gap)


@pytest.mark.parametrize("argument", ["pred", "truth"])
def test_bad_clouds_are_refused_by_name(argument: str) -> None:
    good = np.zeros((2, 3))
    for bad, message in ((np.full((2, 3), np.nan), "2 points are not finite"), (np.zeros((0, 3)), "0 points seen")):
        with pytest.raises(ValueError, match=f"{argument}: {message}"):
            emd(**{"pred": good, "truth": good, argument: bad})
