"""Agreement of surface normals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from adapters.contract import F64
from metrics.nearest import nearest
from metrics.points import checked_points


@dataclass(frozen=True)
class NormalConsistency:
    """Mean cosines, 1 where every normal agrees with that of the nearest point of the other cloud."""

    accuracy: float  # from pred's points to their nearest of truth
    completeness: float  # from truth's points to their nearest of pred
    mean: float  # of the two


def normal_consistency(
    pred: ArrayLike, pred_normals: ArrayLike, truth: ArrayLike, truth_normals: ArrayLike, oriented: bool = False
) -> NormalConsistency:
    """Normal consistency of two clouds in one frame: `pred` (M, 3), `truth` (K, 3), with normals of any length.

    Mean absolute cosine between the normals of nearest neighbours, averaged over both directions: Mescheder et al.,
    Occupancy Networks (2019). `oriented` keeps the sign, so that inverted normals count as -1. Unrelated normals give
    0.5 (0 where oriented).

    Raises ValueError where a normal is null, or for what `nearest` refuses.
    """
    x, y = checked_points("pred", pred), checked_points("truth", truth)
    n, m = _unit("pred_normals", pred_normals, len(x)), _unit("truth_normals", truth_normals, len(y))
    to_truth = (n * m[nearest(x, y).index]).sum(axis=1)
    to_pred = (m * n[nearest(y, x).index]).sum(axis=1)
    if not oriented:
        to_truth, to_pred = np.abs(to_truth), np.abs(to_pred)
    accuracy, completeness = float(to_truth.mean()), float(to_pred.mean())
    return NormalConsistency(accuracy, completeness, (accuracy + completeness) / 2)


def estimated_normals(points: ArrayLike, cloud: ArrayLike, neighbours: int = 30) -> F64:
    """(M, 3) unit normals at `points` (M, 3), sign open: the least principal axis of their nearest `neighbours` in
    `cloud` (K, 3) (Hoppe et al. 1992), of all where there are fewer."""
    x, y = checked_points("points", points), checked_points("cloud", cloud)
    rows = np.asarray(cKDTree(y).query(x, k=min(neighbours, len(y)))[1]).reshape(len(x), -1)
    out = np.empty((len(x), 3))
    for part in np.array_split(np.arange(len(x)), max(len(x) // 10_000, 1)):  # groups of points take memory
        local = y[rows[part]] - y[rows[part]].mean(axis=1, keepdims=True)
        out[part] = np.linalg.eigh(np.swapaxes(local, 1, 2) @ local)[1][:, :, 0]
    return out


def _unit(name: str, normals: ArrayLike, count: int) -> F64:
    array = checked_points(name, normals)
    if len(array) != count:
        raise ValueError(f"{name}: {len(array)} normals seen, {count} wanted, one a point")
    length = np.linalg.norm(array, axis=1, keepdims=True)
    if not length.min() > 0:
        raise ValueError(f"{name}: {int((length == 0).sum())} null vectors seen, directions wanted")
    return np.asarray(array / length, np.float64)
