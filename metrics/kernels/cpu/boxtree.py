"""Exact nearest neighbours in 3D: a tree of boxes, eight points a leaf and eight children a node.

Points sorted into kd-tree cells fill the leaves one after the other, leaves fill nodes, and so on up: a node's place
gives its children's. Queries come sorted in the same way: each starts from the leaf that answered the one before,
which bounds the search at once, also where the clouds are far apart. Everything is float64: boxes hold their points
exactly, and the distances are those of an exhaustive search. Cells hold equal numbers of points wherever these lie, so
that stray points, duplicates and clusters at any scale leave the tree balanced.

The eight boxes of a node are compared with vector instructions; see `metrics.kernels.cpu.pricetree` for why the scratch
comes in as an argument.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from adapters.contract import F64
from metrics.kernels.cpu.cells import I64, sort_by_cells
from metrics.kernels.cpu.threads import in_threads

WIDTH = 8  # points a leaf, children a node: one vector register of float64
STACK = 256  # entries a depth-first search may hold: 7 a level, and 12 levels hold 8^13 points
CHUNK = 16384  # queries a task


@njit(cache=True, nogil=True)
def _fill_leaves(points: F64, leaves: F64, low: F64, high: F64) -> None:
    """Put sorted `points` (n, 3) into `leaves` (l, 3, 8), and their boxes into `low` and `high` (l / 8, 3, 8)."""
    for i in range(len(points)):
        leaf, slot = i // WIDTH, i % WIDTH
        block, place = leaf // WIDTH, leaf % WIDTH
        for k in range(3):
            value = points[i, k]
            leaves[leaf, k, slot] = value
            low[block, k, place] = min(low[block, k, place], value)
            high[block, k, place] = max(high[block, k, place], value)


@njit(cache=True, nogil=True)
def _fill_boxes(low: F64, high: F64, begin: I64) -> None:
    """The boxes of all nodes above the last level, from the boxes of their children."""
    for level in range(len(begin) - 3, -1, -1):
        for child in range(begin[level + 1], begin[level + 2]):
            at = child - begin[level + 1]
            block, place = begin[level] + at // WIDTH, at % WIDTH
            for k in range(3):
                for s in range(WIDTH):
                    low[block, k, place] = min(low[block, k, place], low[child, k, s])
                    high[block, k, place] = max(high[block, k, place], high[child, k, s])


@njit(cache=True, nogil=True, error_model="numpy")
def _box_distances(low: F64, high: F64, x: float, y: float, z: float, out: F64) -> None:
    """Squared distances from (x, y, z) to eight boxes, `low` and `high` (3, 8)."""
    for k in range(len(out)):
        a = max(max(low[0, k] - x, x - high[0, k]), 0.0)
        b = max(max(low[1, k] - y, y - high[1, k]), 0.0)
        c = max(max(low[2, k] - z, z - high[2, k]), 0.0)
        out[k] = a * a + b * b + c * c


@njit(cache=True, nogil=True, error_model="numpy")
def _point_distances(leaf: F64, x: float, y: float, z: float, out: F64) -> None:
    """Squared distances from (x, y, z) to the eight points of a `leaf` (3, 8)."""
    for k in range(len(out)):
        a, b, c = leaf[0, k] - x, leaf[1, k] - y, leaf[2, k] - z
        out[k] = a * a + b * b + c * c


@njit(cache=True, nogil=True, error_model="numpy")
def _search(
    queries: F64, query_order: I64, first: int, last: int, leaves: F64, low: F64, high: F64, begin: I64, order: I64,
    values: F64, distance: F64, index: I64,
) -> None:  # fmt: skip
    """Answer `queries[first:last]`: fills `distance` and `index` at their places before sorting, `query_order`."""
    stack, stack_v, stack_level = np.empty(STACK, np.int64), np.empty(STACK), np.empty(STACK, np.int64)
    bottom = len(begin) - 2  # the level whose children are leaves
    best, slot = np.inf, -1
    for s in range(first, last):
        x, y, z = queries[s, 0], queries[s, 1], queries[s, 2]
        best = np.inf
        if slot >= 0:
            start = slot // WIDTH
            _point_distances(leaves[start], x, y, z, values)
            for k in range(WIDTH):
                if values[k] < best:
                    best, slot = values[k], start * WIDTH + k
        stack[0], stack_v[0], stack_level[0], top = 0, -1.0, 0, 1
        while top > 0:
            top -= 1
            if stack_v[top] >= best:
                continue
            node, level = stack[top], stack_level[top]
            _box_distances(low[begin[level] + node], high[begin[level] + node], x, y, z, values)
            base = top
            for k in range(WIDTH):
                v = values[k]
                if v < best:
                    at = top
                    while at > base and stack_v[at - 1] < v:
                        stack[at], stack_v[at], stack_level[at] = stack[at - 1], stack_v[at - 1], level + 1
                        at -= 1
                    stack[at], stack_v[at], stack_level[at] = node * WIDTH + k, v, level + 1
                    top += 1
            if level == bottom:
                while top > base:
                    top -= 1
                    if stack_v[top] < best:
                        leaf = stack[top]
                        _point_distances(leaves[leaf], x, y, z, values)
                        for k in range(WIDTH):
                            if values[k] < best:
                                best, slot = values[k], leaf * WIDTH + k
        distance[query_order[s]], index[query_order[s]] = np.sqrt(best), order[slot]


class BoxTree:
    """A cloud (n, 3) ready to be searched, and to search with."""

    def __init__(self, points: F64) -> None:
        sizes = [-(-len(points) // WIDTH)]
        self.points, self.order = sort(points)  # (n, 3), and (n,) which point of the input each is
        self.leaves = np.full((sizes[0], 3, WIDTH), np.inf)
        while len(sizes) == 1 or sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // WIDTH))
        self.begin: I64 = np.cumsum([0, *sizes[:0:-1]])  # where the blocks of each level begin, from the root
        self.low = np.full((int(self.begin[-1]), 3, WIDTH), np.inf)
        self.high = np.full((int(self.begin[-1]), 3, WIDTH), -np.inf)
        last = int(self.begin[-2])
        _fill_leaves(self.points, self.leaves, self.low[last:], self.high[last:])
        _fill_boxes(self.low, self.high, self.begin)

    def search(self, queries: F64, query_order: I64) -> tuple[F64, I64]:
        """Distance and index, (q,) each, of the point nearest to each query.

        `queries` (q, 3) as `sort` leaves them, with their order: answers are put back in the order before sorting."""
        count = len(queries)
        distance, index = np.empty(count), np.empty(count, np.int64)

        def task(first: int) -> None:
            _search(
                queries, query_order, first, min(first + CHUNK, count), self.leaves, self.low, self.high, self.begin,
                self.order, np.empty(WIDTH), distance, index,
            )  # fmt: skip

        in_threads(task, range(0, count, CHUNK))
        return distance, index


def sort(points: F64) -> tuple[F64, I64]:
    """`points` (n, 3) in an order that fills leaf after leaf of a balanced tree, and which of the input each was."""
    depth = max(0, len(points) - 1).bit_length() - 3  # 8 << depth: room for all points
    cuts = np.minimum(WIDTH * np.arange((1 << max(0, depth)) + 1), len(points))
    result: tuple[F64, I64] = sort_by_cells(points, cuts)
    return result
