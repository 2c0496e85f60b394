"""Density equalisation and seeded subsets of point clouds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def voxel_subset(points: NDArray[np.floating], edge: float) -> NDArray[np.int64]:
    """Indices, ascending, of one point a voxel of `edge` (unit of `points`): the one nearest to its voxel's centre.

    Points are chosen, never averaged, so that what belongs to a point (colour, pixel, confidence) stays true.
    `edge` 0 keeps all."""
    if edge <= 0 or len(points) == 0:
        return np.arange(len(points))
    scaled = np.asarray(points, np.float64) / edge
    voxel = np.floor(scaled).astype(np.int64)
    offset = ((scaled - voxel - 0.5) ** 2).sum(axis=1)
    order = np.lexsort((np.arange(len(points)), offset, voxel[:, 2], voxel[:, 1], voxel[:, 0]))
    ordered = voxel[order]
    first = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    return np.sort(order[first])


def random_subset(count: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending indices of at most `wanted` of `count` things, drawn without replacement."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(rng.choice(count, wanted, replace=False))


def bounded_subset(points: NDArray[np.floating], most: int) -> NDArray[np.int64]:
    """Indices of at most `most` points, voxel-equalised with the smallest edge that a bisection finds to suffice."""
    if len(points) <= most:
        return np.arange(len(points))
    extent = float(np.ptp(np.asarray(points, np.float64), axis=0).max())
    low, high = 0.0, extent
    for _ in range(24):
        middle = (low + high) / 2
        if len(voxel_subset(points, middle)) > most:
            low = middle
        else:
            high = middle
            if high - low < 0.02 * high:
                break
    return voxel_subset(points, high)[:most]
