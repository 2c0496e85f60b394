"""Scaling laws: which growth the measured counts can tell from which other, and what that predicts.

Every law is fitted by weighted least squares to one point a count: repeats sharpen a point, they add no counts.
Evidence between laws is their AICc weight (Burnham and Anderson 2002). A law inside another (a + b n inside
a + b n + c n^2) is never contradicted by it, so the two share their weight; the smaller one is named only where the
larger one, fitted to the same points, stays close to it. Everything drawn is drawn with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports import text
from reports.schema import TableError

F64 = npt.NDArray[np.float64]

ENOUGH = 0.95  # of the weight, for a law to be named
CLOSE = 0.05  # of the value: two curves nearer than this over the measured counts are one law in practice
DRAWS = 1000
HORIZON = 100  # times the largest measured count: no prediction reaches farther
LEAST = 3  # counts
SEED = 0
MANY = 2000  # counts: beyond, draws are made of coefficients instead of refits, and shapes are read off this many
BASES = {
    "": lambda n: np.ones_like(n),
    "n": lambda n: n,
    "n log n": lambda n: n * np.log(n),
    "n^2": lambda n: n**2,
}


@dataclass(frozen=True)
class Law:
    """A sum of terms, each a key of BASES times a coefficient; no terms: the power law b n^p, coefficients (b, p)."""

    name: str
    letters: str  # the coefficients' names, in order
    terms: tuple[str, ...] = ()

    def __call__(self, n: F64, coefficients: F64) -> F64:
        """Values (..., m) at counts (m,) for coefficients (..., k)."""
        if self.terms:
            return np.asarray(coefficients @ self._basis(n).T)
        with np.errstate(over="ignore"):
            return np.asarray(coefficients[..., :1] * n ** coefficients[..., 1:])

    def fit(self, n: F64, values: F64, weights: F64) -> F64:
        """Least-squares coefficients (..., k) for values (..., m) at counts (m,) under weights (m,)."""
        if not self.terms:
            return _fit_power(n, np.atleast_2d(values), weights).reshape(*values.shape[:-1], 2)
        root = np.sqrt(weights)
        scale = np.abs(self._basis(n)).max(axis=0)  # columns of one size: n^2 dwarfs 1
        inverse = np.linalg.pinv(self._basis(n) / scale * root[:, None])
        return np.asarray((values * root) @ inverse.T / scale)

    def inside(self, other: Law) -> bool:
        """Whether this law is a special case of `other`."""
        if other.terms:
            return set(self.terms) < set(other.terms) and bool(self.terms)
        return self.terms == ("n",)

    def slopes(self, n: F64, coefficients: F64) -> F64:
        """(m, k) derivatives by each of the coefficients (k,) at counts (m,)."""
        if self.terms:
            return self._basis(n)
        power = n ** coefficients[1]
        return np.stack([power, coefficients[0] * power * np.log(n)], axis=-1)

    def first_above(self, limits: F64, coefficients: F64, last: int) -> F64:
        """(...,) the smallest count of 1..`last` whose value reaches its one of `limits` (...,), infinite where none
        does, for coefficients (..., k). Every law falls, rises, falls and then rises, or rises and then falls: so from
        the first count to the highest one the values below a limit come first, and bisection tells how many."""
        top = np.full(limits.shape, float(last))
        if self.terms == ("", "n", "n^2"):
            b, c = coefficients[..., 1], coefficients[..., 2]
            with np.errstate(divide="ignore", invalid="ignore"):
                turn = np.where(c < 0, -b / (2 * c), last)
            top = np.clip(np.round(turn), 1, last)
        low, high = np.ones(limits.shape), top

        def above(n: F64) -> npt.NDArray[np.bool_]:
            if self.terms:
                return np.asarray((coefficients * self._basis(n)).sum(axis=-1) >= limits)
            with np.errstate(over="ignore"):
                return np.asarray(coefficients[..., 0] * n ** coefficients[..., 1] >= limits)

        ever, at_once = above(high), above(low)
        while (low < high - 1).any():  # above(low) is false, above(high) true
            middle = np.floor((low + high) / 2)
            over = above(middle)
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return np.where(at_once, 1.0, np.where(ever, high, np.inf))

    def formula(self, coefficients: F64) -> str:
        """`12.1 + 0.3 n log n`, for people."""
        if not self.terms:
            return f"{text.number(coefficients[0])} n^{text.number(coefficients[1])}"
        parts = [f"{text.number(abs(c))} {term}".rstrip() for c, term in zip(coefficients, self.terms, strict=True)]
        signs = ["-" if c < 0 else "+" for c in coefficients]
        rest = "".join(f" {sign} {part}" for sign, part in zip(signs[1:], parts[1:], strict=True))
        return ("-" if signs[0] == "-" else "") + parts[0] + rest

    def _basis(self, n: F64) -> F64:
        return np.stack([BASES[term](n) for term in self.terms], axis=-1)


LAWS = (
    Law("b n", "b", ("n",)),
    Law("a + b n", "ab", ("", "n")),
    Law("a + b n log n", "ab", ("", "n log n")),
    Law("a + b n^2", "ac", ("", "n^2")),
    Law("a + b n + c n^2", "abc", ("", "n", "n^2")),
    Law("b n^p", "bp"),
)
N_LOG_N = LAWS[2]
WANTED = max(len(law.letters) for law in LAWS) + 3  # counts, for AICc to judge every law


def _fit_power(n: F64, values: F64, weights: F64) -> F64:
    """(B, 2) coefficients of b n^p for values (B, m): the best p of a grid, then Gauss-Newton."""
    middle = np.exp(np.log(n).mean())
    x = n / middle
    log_x = np.log(x)
    grid = np.linspace(-3, 5, 161)
    some = _spread(len(n))  # the grid gives no more than a start
    powers = x[some] ** grid[:, None]
    explained = ((values * weights)[:, some] @ powers.T) ** 2 / (weights[some] * powers**2).sum(axis=1)
    p = grid[np.argmax(explained, axis=1)][:, None]
    for _ in range(12):
        f = x**p
        b = (weights * f * values).sum(axis=1, keepdims=True) / (weights * f * f).sum(axis=1, keepdims=True)
        # The best b for each p is known, so the step in p alone: the part of df/dp that b cannot make up for.
        slope = b * f * log_x
        slope = slope - f * (weights * f * slope).sum(1, keepdims=True) / (weights * f * f).sum(1, keepdims=True)
        size = (weights * slope**2).sum(axis=1, keepdims=True)
        step = (weights * slope * (values - b * f)).sum(axis=1, keepdims=True) / np.maximum(size, 1e-300)
        p = np.clip(p + np.clip(step, -0.1, 0.1), -4, 6)
    f = x**p
    b = (weights * f * values).sum(axis=1, keepdims=True) / (weights * f * f).sum(axis=1, keepdims=True)
    return np.concatenate([b * middle**-p, p], axis=1)


def _spread(count: int) -> npt.NDArray[np.int64]:
    """All of `count` places, or MANY of them, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, MANY)).round().astype(np.int64))


@dataclass(frozen=True)
class Points:
    """One value a count, counts rising; `weights` (m,) are inverse variances up to a common factor."""

    n: F64
    values: F64
    weights: F64
    repeats: npt.NDArray[np.int64]
    ends: F64  # (m, 2) least and largest repeat
    weighted: bool  # False: nothing is known of the noise, every point counts alike

    def shortened(self) -> Points:
        """Without the largest count."""
        n, values, weights = self.n[:-1], self.values[:-1], self.weights[:-1]
        return Points(n, values, weights, self.repeats[:-1], self.ends[:-1], self.weighted)


def gather(n: Iterable[float], values: Iterable[float], sd: Iterable[float] | None = None) -> Points:
    """Points from measurements in any order, several at one count being repeats: their median stands.

    A point's variance comes from `sd` where it is given (that of one measurement). Else from the repeats, pooled over
    the counts as sd = c value^g with g in [0, 1], since a spread of three repeats says little on its own.
    Raises TableError where a count or value cannot be used, or where there are fewer than LEAST counts."""
    counts, measured = np.array(list(n), np.float64), np.array(list(values), np.float64)
    spreads = np.array(list(sd), np.float64) if sd is not None else None
    for name, column in (("n", counts), ("value", measured), ("sd", spreads)):
        if column is None:
            continue
        bad = np.flatnonzero(~np.isfinite(column) | (column <= 0))
        if len(bad):
            raise TableError(f"{name}: {column[bad[0]]:g} seen (row {bad[0] + 1}), a finite number above 0 wanted")
    distinct = np.unique(counts)
    if len(distinct) < LEAST:
        raise TableError(f"n: {len(distinct)} different counts seen, at least {LEAST} wanted")
    groups = pd.Series(measured).groupby(counts)
    repeats, middle = np.asarray(groups.size(), np.int64), np.asarray(groups.median(), np.float64)
    ends = np.stack([groups.min(), groups.max()], axis=1).astype(np.float64)
    if spreads is not None:
        variance = np.asarray(pd.Series(spreads**2).groupby(counts).mean(), np.float64)
    else:
        spread = np.asarray(groups.std(ddof=1).fillna(0.0), np.float64)
        usable = spread > 0
        if not usable.any():
            return Points(distinct, middle, np.ones(len(distinct)), repeats, ends, weighted=False)
        g = 1.0
        if usable.sum() >= LEAST and np.ptp(middle[usable]) > 0:
            g = float(np.clip(np.polyfit(np.log(middle[usable]), np.log(spread[usable]), 1)[0], 0, 1))
        variance = middle ** (2 * g)
    weights = repeats / variance
    return Points(distinct, middle, weights / weights.mean(), repeats, ends, weighted=True)


@dataclass(frozen=True)
class Fit:
    """One law fitted to points."""

    law: Law
    points: Points
    coefficients: F64  # (k,)

    @cached_property
    def rss(self) -> float:
        """Weighted sum of squared residuals; never below rounding, so that exact data have a finite AICc."""
        rest = self.points.values - self.law(self.points.n, self.coefficients)
        least = (1e-9 * self.points.values) ** 2
        return float((self.points.weights * np.maximum(rest**2, least)).sum())

    @property
    def freedom(self) -> int:
        """Points beyond coefficients."""
        return len(self.points.n) - len(self.coefficients)

    @property
    def aicc(self) -> float | None:
        """AICc, the variance counted among the parameters; None unless there are two points more than those."""
        m, k = len(self.points.n), len(self.coefficients) + 1
        return float(m * np.log(self.rss / m) + 2 * k + 2 * k * (k + 1) / (m - k - 1)) if m > k + 1 else None

    @property
    def explained(self) -> float:
        """R^2: the weighted share of the variance that the law explains."""
        w, y = self.points.weights, self.points.values
        total = float((w * (y - np.average(y, weights=w)) ** 2).sum())
        return 1 - self.rss / total if total > 0 else 0.0

    @cached_property
    def _bootstrap(self) -> tuple[F64, F64]:
        """DRAWS refits (DRAWS, k) to fitted values plus noise, and the noise's scale in each (DRAWS,).

        The scale itself is drawn, RSS over a chi-squared draw, so that few points give wide intervals: for laws linear
        in their coefficients these are Student's. Of many points the coefficients are drawn as refits would come out:
        exactly for those laws, to first order for the power law."""
        rng = np.random.default_rng(SEED)
        scale = np.sqrt(self.rss / rng.chisquare(max(self.freedom, 1), DRAWS))
        if len(self.points.n) > MANY:
            slopes = self.law.slopes(self.points.n, self.coefficients) * np.sqrt(self.points.weights)[:, None]
            size = np.linalg.norm(slopes, axis=0)  # columns of one size, as in `Law.fit`
            _, singular, turned = np.linalg.svd(slopes / size, full_matrices=False)
            z = rng.standard_normal((DRAWS, len(size))) * scale[:, None]
            return self.coefficients + (z / singular) @ turned / size, scale
        noise = rng.standard_normal((DRAWS, len(self.points.n))) * scale[:, None] / np.sqrt(self.points.weights)
        fitted = self.law(self.points.n, self.coefficients)
        return self.law.fit(self.points.n, fitted + noise, self.points.weights), scale

    @property
    def draws(self) -> F64:
        """(DRAWS, k) coefficients."""
        return self._bootstrap[0]

    def intervals(self) -> list[tuple[float, float]] | None:
        """95% interval of each coefficient; None where there are no more points than coefficients."""
        if self.freedom < 1:
            return None
        low, high = np.percentile(self.draws, [2.5, 97.5], axis=0)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    def noise(self, weight: float) -> F64:
        """(DRAWS,) what a measurement of this weight might add to the law."""
        drawn = np.random.default_rng(SEED + 1).standard_normal(DRAWS)
        return np.asarray(drawn * self._bootstrap[1] / np.sqrt(weight))

    def measured(self, n: F64, weight: float) -> F64:
        """(DRAWS, len(n)) values that a measurement of this weight might give at counts `n`, one noise a draw."""
        return np.asarray(self.law(n, self.draws) + self.noise(weight)[:, None])


def fit(law: Law, points: Points) -> Fit:
    """The least-squares fit."""
    return Fit(law, points, law.fit(points.n, points.values, points.weights))


@dataclass(frozen=True)
class HeldOut:
    """The value at the largest count, predicted from all others."""

    low: float
    middle: float
    high: float
    observed: float

    @property
    def holds(self) -> bool:
        return self.low <= self.observed <= self.high


@dataclass(frozen=True)
class LargestCount:
    """How many views fit below a limit: 95% interval; None: no end within HORIZON times the largest measured count."""

    low: int | None
    middle: int | None
    high: int | None


@dataclass(frozen=True)
class Scaling:
    """What one series of points can tell."""

    points: Points
    fits: tuple[Fit, ...]  # in the order of LAWS, without those that have more coefficients than there are points
    weights: dict[Law, float]  # of the laws that AICc can judge; they add up to 1
    held_out: dict[Law, HeldOut]
    plain: Fit  # a + b n log n, every point counting alike
    named: Law | None = None
    verdict: str = ""

    def largest_below(self, limit: float) -> LargestCount:
        """The most views whose value stays below `limit`, over the laws by their weights. TableError where none can
        be judged."""
        if not self.weights:
            raise TableError(f"{len(self.points.n)} counts seen, at least {LEAST + 1} wanted to predict another")
        rng = np.random.default_rng(SEED + 2)
        last = int(HORIZON * self.points.n[-1])
        judged = [candidate for candidate in self.fits if candidate.law in self.weights]
        chosen = rng.choice(len(judged), DRAWS, p=[self.weights[candidate.law] for candidate in judged])
        ends = np.empty(DRAWS)
        for i, candidate in enumerate(judged):
            own = chosen == i
            room = limit - candidate.noise(float(self.points.weights[-1]))[own]
            ends[own] = candidate.law.first_above(room, candidate.draws[own], last) - 1
        low, middle, high = (np.sort(ends)[[int(q * (DRAWS - 1)) for q in (0.025, 0.5, 0.975)]]).tolist()
        return LargestCount(*(None if np.isinf(end) else int(end) for end in (low, middle, high)))


def judge(points: Points) -> Scaling:
    """Fit every law and say which one the points can tell from the others, if any."""
    fits = tuple(fit(law, points) for law in LAWS if len(law.letters) <= len(points.n))
    scores = {fitted.law: fitted.aicc for fitted in fits}
    judged = {law: score for law, score in scores.items() if score is not None}
    weights: dict[Law, float] = {}
    if judged:
        raw = np.exp((min(judged.values()) - np.array(list(judged.values()))) / 2)
        weights = dict(zip(judged, (raw / raw.sum()).tolist(), strict=True))
    held_out = {fitted.law: out for fitted in fits if (out := _hold_out(fitted)) is not None}
    plain = fit(N_LOG_N, replace(points, weights=np.ones(len(points.n)), weighted=False))
    scaling = Scaling(points, fits, weights, held_out, plain)
    named, verdict = _verdict(scaling)
    return replace(scaling, named=named, verdict=verdict)


def _hold_out(fitted: Fit) -> HeldOut | None:
    """None where the remaining points are no more than the coefficients."""
    if fitted.freedom < 2:
        return None
    rest = fit(fitted.law, fitted.points.shortened())
    drawn = rest.measured(fitted.points.n[-1:], float(fitted.points.weights[-1]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    middle = float(fitted.law(fitted.points.n[-1:], rest.coefficients)[0])
    return HeldOut(float(low), middle, float(high), float(fitted.points.values[-1]))


def _verdict(scaling: Scaling) -> tuple[Law | None, str]:
    weights, m = scaling.weights, len(scaling.points.n)
    if m < WANTED:
        too_few = f"{m} counts are too few to judge every law ({WANTED} wanted), so none is named"
        return None, f"{too_few}; {_listed(weights)}" if len(weights) > 1 else too_few
    best = max(weights, key=lambda law: weights[law])
    larger = [law for law in weights if best.inside(law)]
    shared = weights[best] + sum(weights[law] for law in larger)
    if shared < ENOUGH:
        return None, f"not distinguishable: {_listed(weights)}"
    fits = {fitted.law: fitted for fitted in scaling.fits}
    if not _grows(fits[best]):
        return None, f"{best.name} fits best, but its curve turns or falls below zero: no law of growth"
    out = scaling.held_out[best]
    if not out.holds:
        missed = f"{text.number(out.low)} to {text.number(out.high)} predicted, {text.number(out.observed)} observed"
        return None, f"{best.name} fits best, but fails to predict n = {scaling.points.n[-1]:g} from the rest: {missed}"
    apart = {law: _departure(fits[best], fits[law]) for law in larger if weights[law] >= 1 - ENOUGH}
    far = [law for law in apart if apart[law] > CLOSE]
    if far:
        names = " or ".join(f"{law.name} ({apart[law]:.0%} apart)" for law in far)
        return None, f"not distinguishable: {best.name} or, containing it, {names}"
    close = f"; what contains it stays within {max(apart.values()):.1%}" if apart else ""
    return best, f"{best.name}, weight {shared:.2f}{close}"


def _grows(fitted: Fit) -> bool:
    """Whether the curve is positive and goes one way, from the smallest count to twice the largest."""
    n = fitted.points.n
    curve = fitted.law(np.linspace(n[0], 2 * n[-1], 200), fitted.coefficients)
    steps = np.diff(curve)
    return bool((curve > 0).all() and ((steps >= 0).all() or (steps <= 0).all()))


def _departure(small: Fit, large: Fit) -> float:
    """How far, relative to the value, the larger law may depart from the smaller one over the measured counts: the end
    of a one-sided 97.5% interval of the largest departure."""
    n = small.points.n[_spread(len(small.points.n))]
    base = small.law(n, small.coefficients)
    apart = np.abs(large.law(n, large.draws) - base) / np.abs(base)
    return float(np.percentile(apart.max(axis=1), 97.5))


def _listed(weights: dict[Law, float]) -> str:
    """The laws that together hold the weight wanted, heaviest first."""
    names, total = [], 0.0
    for law in sorted(weights, key=lambda law: -weights[law]):
        if total >= ENOUGH:
            break
        names.append(f"{law.name} ({weights[law]:.2f})")
        total += weights[law]
    return " or ".join(names)
