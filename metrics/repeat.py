"""What chance alone does to a score: repeated draws with an interval, and the truth scored against itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from adapters.contract import F64
from metrics.points import checked_points

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Repeated:
    """A score drawn several times: its mean, and the interval that holds the mean of infinitely many draws."""

    value: float  # mean of the draws
    low: float  # 95% Student t interval of the mean
    high: float
    std: float  # standard deviation of one draw
    values: tuple[float, ...]  # the draws, in order


def repeat(metric: Callable[[np.random.Generator], float], draws: int, seed: int) -> Repeated:
    """`metric` called `draws` times (at least 2), each with its own random generator derived from `seed`.

    A draw depends on `seed` and its number alone, so more draws only append. The interval covers the randomness that
    `metric` takes from its generator, nothing else. Raises ValueError where a draw is not finite."""
    from scipy.special import stdtrit

    if draws < 2:
        raise ValueError(f"draws: {draws} seen, at least 2 wanted for an interval")
    values = tuple(float(metric(np.random.default_rng(child))) for child in np.random.SeedSequence(seed).spawn(draws))
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"metric: draws {values} seen, finite numbers wanted")
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(draws - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(draws)
    return Repeated(mean, mean - half, mean + half, std, values)


def floor(metric: Callable[[F64, F64], float], truth: ArrayLike, n: int, *, draws: int = 5, seed: int = 0) -> Repeated:
    """The noise floor of `metric(pred, truth)` at `n` points: what a perfect reconstruction would score.

    Each draw takes two disjoint random subsets of `n` points from `truth` (M, 3), M >= 2n, dense samples of one
    surface, and scores one against the other. Raises ValueError where `truth` is too small."""
    if n < 1:
        raise ValueError(f"n: {n} seen, at least 1 wanted")
    cloud = checked_points("truth", truth, least=2 * n)

    def draw(rng: np.random.Generator) -> float:
        chosen = rng.permutation(len(cloud))[: 2 * n]
        return metric(cloud[chosen[:n]], cloud[chosen[n:]])

    return repeat(draw, draws, seed)
