"""Earth Mover's Distance of two point clouds, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.contract import F64
from metrics.points import checked_points, device_of
from metrics.repeat import Repeated, repeat

if TYPE_CHECKING:
    from metrics.kernels.schedule import Backend

LEAST_DRAWS = 5  # a single draw of an EMD between samples scatters by several percent


@dataclass(frozen=True)
class EMD:
    """The Earth Mover's Distance of n and n points: the least mean Euclidean length of a bijection.

    The true value lies in `lower`..`upper`. Both bounds can be verified: `upper` is the mean length of `assignment`,
    and `lower` is at most mean_i min_j(|pred_i - truth_j| + prices_j) - mean(prices), whatever the prices are
    (Kantorovich duality).
    """

    value: float  # equals `upper`, in the clouds' unit
    lower: float
    upper: float
    gap: float  # (upper - lower) / lower; 0 where both vanish, infinite where only `lower` does
    assignment: NDArray[np.int64]  # (n,) a bijection: pred[i] goes to truth[assignment[i]]
    prices: F64  # (n,) of the truth's points
    reason: str | None  # why the gap is larger than the one asked for, or None


def emd(pred: ArrayLike, truth: ArrayLike, gap: float = 0.01, *, device: str | None = None) -> EMD:
    """The Earth Mover's Distance of `pred` (n, 3) and `truth` (n, 3), in one frame and unit.

    `gap`: how far `upper` may lie above `lower`, relative to it; a smaller one takes longer. Where the clouds are so
    close that the resolution of float64 forbids it, the gap is larger and `reason` says so. Deterministic. The first
    call in a new installation compiles for some seconds. CUDA tensors are solved on their device, and `device`, "cpu",
    "cuda" or "cuda:N", says otherwise: another bijection within the same gap, with the same certificate.

    Raises ValueError, naming the argument, for unequal counts (see `emd_of_samples`), empty or malformed clouds, and
    a gap that is not positive."""
    where = device_of(device, pred=pred, truth=truth)
    source, target = checked_points("pred", pred), checked_points("truth", truth)
    if len(source) != len(target):
        raise ValueError(
            f"truth: {len(target)} points seen, {len(source)} wanted, as many as pred (or use emd_of_samples)"
        )
    if not 0 < gap < np.inf:
        raise ValueError(f"gap: {gap} seen, a positive number wanted")
    same = _permutation(source, target)
    if same is not None:
        return EMD(0.0, 0.0, 0.0, 0.0, same, np.zeros(len(source)), None)
    from metrics.kernels.schedule import EPSILON, solve

    low, high = np.minimum(source.min(axis=0), target.min(axis=0)), np.maximum(source.max(axis=0), target.max(axis=0))
    centre, span = (low + high) / 2, high - low
    extent = float(span.max() * np.linalg.norm(span / span.max()))  # whatever the unit: squares must not underflow
    rounding = 4 * EPSILON * (1 + float(np.abs(centre).max()) / extent)
    solution = solve(_backend(where), (source - centre) / extent, (target - centre) / extent, gap, rounding)
    upper = float(np.linalg.norm((source - target[solution.assignment]) / extent, axis=1).mean()) * extent
    lower = min(solution.lower * extent, upper)
    reached = (upper - lower) / lower if lower > 0 else np.inf
    reason = None
    if reached > gap:
        reason = (
            f"upper and lower differ by {(upper - lower) / extent:.1e} of the clouds' extent, too little to resolve"
        )
    return EMD(upper, lower, upper, reached, solution.assignment, solution.prices * extent, reason)


def _backend(where: Any) -> Backend:
    if where is None:
        from metrics.kernels.cpu.auction import Cpu

        return Cpu()
    from metrics.kernels.cuda.auction import Cuda

    return Cuda(where)


def emd_of_samples(
    pred: ArrayLike,
    truth: ArrayLike,
    n: int,
    *,
    gap: float = 0.01,
    draws: int = LEAST_DRAWS,
    seed: int = 0,
    device: str | None = None,
) -> Repeated:
    """The EMD between random samples of `n` points each of `pred` (M, 3) and `truth` (K, 3), M and K at least `n`.

    For clouds of unequal counts: another quantity than `emd`, with a floor of its own (`metrics.repeat.floor`), hence
    its own name. Every draw samples both clouds without replacement and is certified to `gap`; at least 5 draws.
    `device` as in `emd`."""
    if n < 1:
        raise ValueError(f"n: {n} seen, at least 1 wanted")
    if draws < LEAST_DRAWS:
        raise ValueError(f"draws: {draws} seen, at least {LEAST_DRAWS} wanted")
    where = device_of(device, pred=pred, truth=truth)
    device = None if where is None else device or str(where)
    source, target = checked_points("pred", pred, least=n), checked_points("truth", truth, least=n)

    def draw(rng: np.random.Generator) -> float:
        chosen = source[rng.choice(len(source), n, replace=False)], target[rng.choice(len(target), n, replace=False)]
        return emd(*chosen, gap=gap, device=device).value

    return repeat(draw, draws, seed)


def _permutation(source: F64, target: F64) -> NDArray[np.int64] | None:
    """(n,) the bijection of equal points, if `other` is `one` in another order: there a relative gap means nothing."""
    if not np.array_equal(np.sort(source[:, 0]), np.sort(target[:, 0])):
        return None
    p, q = np.lexsort(source.T), np.lexsort(target.T)
    if not np.array_equal(source[p], target[q]):
        return None
    assignment = np.empty(len(source), np.int64)
    assignment[p] = q
    return assignment
