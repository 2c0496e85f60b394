"""Density equalisation and seeded subsets of point clouds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64

_CELLS = 1 << 20  # voxels along an axis, at most: three coordinates share one 64-bit key


def voxel_subset(points: NDArray[np.floating], edge: float) -> NDArray[np.int64]:
    """Indices, ascending, of one point a voxel of `edge` (unit of `points`): the one nearest to its voxel's centre.

    Points are chosen, never averaged, so that what belongs to a point (colour, pixel, confidence) stays true.
    `edge` 0 keeps all; an edge below a millionth of the extent counts as that."""
    if edge <= 0 or len(points) == 0:
        return np.arange(len(points))
    scaled, key = _voxels(points, edge)
    offset = ((scaled - np.floor(scaled) - 0.5) ** 2).sum(axis=1)
    order = np.lexsort((offset, key))  # stable: of equal offsets the lower index comes first
    ordered = key[order]
    return np.sort(order[np.r_[True, ordered[1:] != ordered[:-1]]])


def _voxels(points: NDArray[np.floating], edge: float) -> tuple[F64, NDArray[np.int64]]:
    """Coordinates in voxels (M, 3) float64, and one key a voxel (M,)."""
    cloud = np.asarray(points, np.float64)
    scaled = cloud / max(edge, float(np.ptp(cloud, axis=0).max()) / (_CELLS - 2))
    voxel = np.floor(scaled).astype(np.int64)
    voxel -= voxel.min(axis=0)
    return scaled, (voxel[:, 0] * _CELLS + voxel[:, 1]) * _CELLS + voxel[:, 2]


def random_subset(count: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending indices of at most `wanted` of `count` things, drawn without replacement."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(rng.choice(count, wanted, replace=False))


def bounded_subset(points: NDArray[np.floating], most: int) -> NDArray[np.int64]:
    """Indices of at most `most` points, one a voxel, with about the smallest edge that suffices."""
    if len(points) <= most:
        return np.arange(len(points))
    low, high = 0.0, float(np.ptp(np.asarray(points, np.float64), axis=0).max())
    edge = high / np.sqrt(most)  # what a surface would need
    for _ in range(12):
        count = len(np.unique(_voxels(points, edge)[1]))
        low, high = (edge, high) if count > most else (low, edge)
        if 0.95 * most <= count <= most or low > 0.97 * high:
            break
        # A surface's voxels go with the inverse square of the edge; aim a little below `most`, within the bracket.
        edge = float(
            np.clip(edge * np.sqrt(count / (0.99 * most)), low + 0.02 * (high - low), high - 0.02 * (high - low))
        )
    return voxel_subset(points, high)[:most]
