"""Cells of a kd-tree: the order of points that puts neighbours together, which both of our trees are built on."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adapters.contract import F64

I64 = NDArray[np.int64]


@njit(cache=True, nogil=True)
def _partition(points: F64, order: I64, axis: int, low: int, high: int, middle: int) -> None:
    """Reorder rows `low`..`high` so that none before `middle` is above one after it on `axis` (Hoare's quickselect)."""
    high -= 1
    while low < high:
        a, b, c = points[low, axis], points[(low + high) // 2, axis], points[high, axis]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while points[i, axis] < pivot:
                i += 1
            while points[j, axis] > pivot:
                j -= 1
            if i <= j:
                x, y, z, o = points[i, 0], points[i, 1], points[i, 2], order[i]
                points[i, 0], points[i, 1], points[i, 2], order[i] = points[j, 0], points[j, 1], points[j, 2], order[j]
                points[j, 0], points[j, 1], points[j, 2], order[j] = x, y, z, o
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            return


@njit(cache=True, nogil=True)
def sort_by_cells(points: F64, cuts: I64) -> tuple[F64, I64]:
    """Sort `points` (n, 3) into kd-tree cells, cell k at positions `cuts[k]`..`cuts[k + 1]`; cells may be empty.

    `cuts` (2^depth + 1,), from 0 to n, not falling. Cells are halved, by their number, along their points' widest
    axis. Returns the sorted points (n, 3), and which of the input each is (n,). Any input, duplicates included."""
    points, order = points.copy(), np.arange(len(points))
    stack = np.empty((128, 2), np.int64)
    stack[0, 0], stack[0, 1], top = 0, len(cuts) - 1, 1
    while top > 0:
        top -= 1
        first, last = stack[top]
        low, high = cuts[first], cuts[last]
        if last - first < 2 or high - low < 2:
            continue
        x0, y0, z0, x1, y1, z1 = np.inf, np.inf, np.inf, -np.inf, -np.inf, -np.inf
        for t in range(low, high):
            x, y, z = points[t, 0], points[t, 1], points[t, 2]
            x0, y0, z0, x1, y1, z1 = min(x0, x), min(y0, y), min(z0, z), max(x1, x), max(y1, y), max(z1, z)
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        axis = 0 if dx >= dy and dx >= dz else 1 if dy >= dz else 2
        middle = (first + last) // 2
        if cuts[middle] < high:
            _partition(points, order, axis, low, high, cuts[middle])
        stack[top, 0], stack[top, 1] = middle, last
        stack[top + 1, 0], stack[top + 1, 1] = first, middle
        top += 2
    return points, order
