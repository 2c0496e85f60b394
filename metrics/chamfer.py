"""Chamfer distance, every common formula under its own name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metrics.nearest import Distances, Triangles, distances


@dataclass(frozen=True)
class Chamfer:
    """Chamfer distances of a prediction P (M points) and a truth T (K points).

    With d(p, T) the Euclidean distance from p to the nearest of T. Published papers use all four sums under one
    name; each metric id here (`chamfer-l1-sum` and so on) names its formula. Lengths are in the clouds' unit, the
    l2sq values in its square.
    """

    accuracy: float  # mean_p d(p, T)
    completeness: float  # mean_t d(t, P)
    l1_sum: float  # accuracy + completeness
    l1_mean: float  # (accuracy + completeness) / 2
    l2sq_sum: float  # mean_p d(p, T)^2 + mean_t d(t, P)^2
    l2sq_mean: float  # l2sq_sum / 2


def chamfer(pred: ArrayLike, truth: ArrayLike, *, mesh: Triangles | None = None, device: str | None = None) -> Chamfer:
    """The Chamfer distances of `pred` (M, 3) and `truth` (K, 3), in one frame and unit, exact in float64.

    With the truth's `mesh` accuracy is measured to the surface itself; `truth` then only carries completeness. CUDA
    tensors are searched where they are, and `device` says otherwise. Raises ValueError naming the argument for empty or
    malformed clouds."""
    return chamfer_of(distances(pred, truth, mesh=mesh, device=device))


def chamfer_of(both: Distances) -> Chamfer:
    """The Chamfer distances from nearest distances already at hand."""
    accuracy, completeness = float(both.to_truth.mean()), float(both.to_pred.mean())
    squares = float(np.square(both.to_truth).mean()) + float(np.square(both.to_pred).mean())
    return Chamfer(
        accuracy=accuracy,
        completeness=completeness,
        l1_sum=accuracy + completeness,
        l1_mean=(accuracy + completeness) / 2,
        l2sq_sum=squares,
        l2sq_mean=squares / 2,
    )
