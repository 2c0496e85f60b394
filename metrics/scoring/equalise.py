"""Density equalisation and seeded subsets of point clouds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64, Bools


def voxel_subset(points: NDArray[np.floating], edge: float) -> NDArray[np.int64]:
    """Indices, ascending, of one point a voxel of `edge` (unit of `points`): the one nearest to its voxel's centre.

    Points are chosen, never averaged, so that what belongs to a point (colour, pixel, confidence) stays true.
    `edge` 0 keeps all. A voxel is known by its three coordinates, so that a point far away changes no other voxel.
    Memory is linear in the points: about 100 bytes each."""
    if edge <= 0 or len(points) == 0:
        return np.arange(len(points))
    scaled = np.asarray(points, np.float64) / edge
    voxel = np.floor(scaled)
    offset = ((scaled - voxel - 0.5) ** 2).sum(axis=1)
    order = np.lexsort((offset, *voxel.T))  # stable: of equal offsets the lower index comes first
    return np.sort(order[_begins(voxel[order])])


def _begins(ordered: F64) -> Bools:
    """(M,) bool: where in sorted voxels (M, 3) the next one begins."""
    out = np.ones(len(ordered), np.bool_)
    out[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return out


def random_subset(count: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending indices of at most `wanted` of `count` things, drawn without replacement."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(rng.choice(count, wanted, replace=False))


def bounded_subset(points: NDArray[np.floating], most: int) -> NDArray[np.int64]:
    """Indices of at most `most` points, one a voxel, with about the smallest edge that suffices."""
    if len(points) <= most:
        return np.arange(len(points))
    cloud = np.asarray(points, np.float64)
    low, high = np.quantile(cloud, (0.01, 0.99), axis=0)  # one point far away is no reason to begin coarsely
    edge = float((high - low).max()) / np.sqrt(most)  # what a surface would need
    if edge == 0:  # nearly all points in one place
        return np.arange(most)
    too_fine, enough = 0.0, np.inf
    for _ in range(40):
        voxel = np.floor(cloud / edge)
        count = int(_begins(voxel[np.lexsort(voxel.T)]).sum())
        too_fine, enough = (edge, enough) if count > most else (too_fine, edge)
        if 0.95 * most <= count <= most or too_fine > 0.97 * enough:
            break
        # A surface's voxels go with the inverse square of the edge; aim a little below `most`, within the bracket.
        edge *= float(np.clip(np.sqrt(count / (0.99 * most)), 0.1, 10))
        if np.isfinite(enough):
            margin = 0.02 * (enough - too_fine)
            edge = float(np.clip(edge, too_fine + margin, enough - margin))
    return voxel_subset(cloud, enough)[:most]
