"""F-score: the share of either cloud that lies within a threshold of the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from metrics.nearest import Distances, Triangles, distances


@dataclass(frozen=True)
class FScore:
    """F-score at one threshold (Knapitsch et al., Tanks and Temples, 2017, equations 2-5), in 0..1."""

    precision: float  # share of predicted points closer to the truth than the threshold
    recall: float  # share of truth points closer to the prediction than the threshold
    fscore: float  # their harmonic mean; 0 where both are 0


def fscore(
    pred: ArrayLike,
    truth: ArrayLike,
    threshold: float,
    *,
    mesh: Triangles | None = None,
    device: str | None = None,
) -> FScore:
    """The F-score of `pred` (M, 3) against `truth` (K, 3) at `threshold`, in the clouds' unit.

    A distance equal to the threshold does not count. With the truth's `mesh` precision is measured to the surface
    itself. `device` as in `metrics.nearest.nearest`. Raises ValueError naming the argument at fault."""
    _check(threshold)
    return fscore_of(distances(pred, truth, mesh=mesh, device=device), threshold)


def fscore_of(both: Distances, threshold: float) -> FScore:
    """The F-score from nearest distances already at hand: one search serves many thresholds."""
    _check(threshold)
    precision = float((both.to_truth < threshold).mean())
    recall = float((both.to_pred < threshold).mean())
    total = precision + recall
    return FScore(precision, recall, 2 * precision * recall / total if total > 0 else 0.0)


def _check(threshold: float) -> None:
    if not (threshold > 0 and math.isfinite(threshold)):
        raise ValueError(f"threshold: {threshold} seen, a positive length wanted")
