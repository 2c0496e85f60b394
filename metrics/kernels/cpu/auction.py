"""The auction on the CPU: bids one at a time, from a tree that bounds distance + price.

See `metrics.kernels.schedule` for the whole. A search may miss objects by `SLACK` eps; the bid counts against the
smallest bound it pruned, so that eps-complementary slackness still holds exactly. The bounds hold in float64 less a
rounding margin: searches prune by valid bounds alone and an inexact c-transform errs downwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from adapters.contract import F64
from metrics.kernels import schedule
from metrics.kernels.cpu.cells import I64
from metrics.kernels.cpu.pricetree import (
    ALPHA,
    FAR,
    LEAST,
    STACK,
    WIDTH,
    PriceTree,
    block_bounds,
    leaf_bounds,
    leaf_values,
    push_nearest_last,
)
from metrics.kernels.schedule import EPSILON

SLACK = 0.5  # share of eps that a search may miss


@njit(cache=True, nogil=True, error_model="numpy")
def _bid(
    x: float, y: float, z: float, leaves: F64, blocks: F64, child: I64, favourites: I64, slack: float,
    todo: I64, todo_v: F64, values: F64,
) -> tuple[int, float]:  # fmt: skip
    """The slot of least distance + price from (x, y, z), and how much more any other costs, at least.

    `favourites` (2,): slots to try first, replaced by the best two. The second figure may be short by `slack`."""
    v1, v2, j1, j2 = FAR, FAR, favourites[0], favourites[1]
    if j1 >= 0:
        a, b = j1 // WIDTH, j1 % WIDTH
        v1 = np.sqrt((leaves[a, 0, b] - x) ** 2 + (leaves[a, 1, b] - y) ** 2 + (leaves[a, 2, b] - z) ** 2)
        v1 += leaves[a, 3, b]
    if j2 >= 0:
        a, b = j2 // WIDTH, j2 % WIDTH
        v2 = np.sqrt((leaves[a, 0, b] - x) ** 2 + (leaves[a, 1, b] - y) ** 2 + (leaves[a, 2, b] - z) ** 2)
        v2 += leaves[a, 3, b]
        if v2 < v1:
            v1, v2, j1, j2 = v2, v1, j2, j1
    internal = len(blocks)
    rest = FAR
    todo[0], todo_v[0], top = 0, -FAR, 1
    while top > 0:
        top -= 1
        q = todo[top]
        if todo_v[top] >= v2 - slack:
            rest = min(rest, todo_v[top])
        elif q >= internal:
            leaf_values(leaves[q - internal], x, y, z, values)
            first = (q - internal) * WIDTH
            for k in range(WIDTH):
                v = values[k]
                if v < v2 and first + k != j1 and first + k != j2:
                    if v < v1:
                        v1, v2, j1, j2 = v, v1, first + k, j1
                    else:
                        v2, j2 = v, first + k
        else:
            block_bounds(blocks[q], x, y, z, values)
            top, left_out = push_nearest_last(values, child[q], v2 - slack, todo, todo_v, top)
            rest = min(rest, left_out)
    favourites[0], favourites[1] = j1, j2
    margin = min(rest, v2) - v1
    return j1, margin if margin < 0.5 * FAR else 0.0  # a single object has no rival


@njit(cache=True, nogil=True, error_model="numpy")
def _raise_bounds(leaves: F64, blocks: F64, place: I64, shift: F64, leaf: int) -> None:
    """Follow a risen price in `leaf` up the tree, as far as it changes a bound."""
    q = len(blocks) + leaf
    up, slot = place[q] // WIDTH, place[q] % WIDTH
    least, alpha = leaf_bounds(leaves[leaf], blocks[up], slot)
    while least > blocks[up, LEAST, slot] or alpha > blocks[up, ALPHA, slot]:
        blocks[up, LEAST, slot] = max(least, blocks[up, LEAST, slot])
        blocks[up, ALPHA, slot] = max(alpha, blocks[up, ALPHA, slot])
        q = up
        if q == 0:
            return
        least, alpha = FAR, FAR
        for k in range(WIDTH):
            least = min(least, blocks[q, LEAST, k])
            alpha = min(alpha, blocks[q, ALPHA, k] + shift[q, k])
        up, slot = place[q] // WIDTH, place[q] % WIDTH


@njit(cache=True, nogil=True, error_model="numpy")
def _phase(
    persons: F64, held: I64, owner: I64, favourites: I64, eps: float, stop: int,
    leaves: F64, blocks: F64, place: I64, child: I64, shift: F64,
    values: F64,
) -> int:  # fmt: skip
    """Bid, first in first out, until at most `stop` persons lack an object; the number of bids made.

    `held` (n,): slot a person holds or -1; `owner` (slots,): its inverse; both, and the prices, are updated."""
    n = len(persons)
    queue = np.empty(n, np.int64)
    count = 0
    for i in range(n):
        if held[i] < 0:
            queue[count] = i
            count += 1
    todo, todo_v = np.empty(STACK, np.int64), np.empty(STACK)
    head, bids = 0, 0
    while count > stop:
        i = queue[head]
        head = head + 1 if head + 1 < n else 0
        count -= 1
        bids += 1
        x, y, z = persons[i, 0], persons[i, 1], persons[i, 2]
        j, margin = _bid(x, y, z, leaves, blocks, child, favourites[i], SLACK * eps, todo, todo_v, values)
        leaves[j // WIDTH, 3, j % WIDTH] += margin + eps
        _raise_bounds(leaves, blocks, place, shift, j // WIDTH)
        loser = owner[j]
        owner[j] = i
        held[i] = j
        if loser >= 0:
            held[loser] = -1
            tail = head + count
            queue[tail if tail < n else tail - n] = loser
            count += 1
    return bids


def bid_in_turn(persons: F64, held: I64, owner: I64, favourites: I64, eps: float, stop: int, objects: PriceTree) -> int:
    """Bid, first in first out, until at most `stop` of `persons` (n, 3) lack an object; the number of bids made.

    `held` (n,): slot a person holds or -1; `owner` (slots,): its inverse; `seen` (n, 2): slots each found best, or -1.
    All three, and the prices of `objects`, are updated."""
    bids: int = _phase(
        persons, held, owner, favourites, eps, stop,
        objects.leaves, objects.blocks, objects.place, objects.child, objects.shift,
        np.empty(WIDTH),
    )  # fmt: skip
    return bids


class Auction(schedule.Auction):
    """Persons, objects, prices, a partial assignment, and the best bounds so far."""

    def __init__(self, persons: PriceTree, objects: PriceTree, prices: F64) -> None:
        n = len(persons.points)
        self.persons, self.objects, self.prices = persons, objects, prices
        self.held: I64 = np.full(n, -1)  # slot a person holds, or -1
        self.owner: I64 = np.full(len(objects.point_of), -1)  # person a slot belongs to, or -1
        self.favourites: I64 = np.full((n, 2), -1)  # slots each person found best
        self.profits = np.zeros(n)
        self.upper, self.lower = np.inf, 0.0
        self.best: I64 = np.arange(n)
        self.best_prices = prices

    def phase(self, eps: float, stop: int = 0, delta: float = 0.0) -> float:
        """One auction phase, completed to a bijection, and the dual bound it gives; returns upper - lower."""
        persons, objects = self.persons, self.objects
        objects.set_prices(self.prices)
        bid_in_turn(persons.points, self.held, self.owner, self.favourites, eps, stop, objects)
        full = np.where(self.held >= 0, objects.point_of[self.held], -1)
        lone = np.flatnonzero(full < 0)
        if len(lone):
            free = np.flatnonzero(self.owner[objects.slot] < 0)
            row, column = linear_sum_assignment(cdist(persons.points[lone], objects.points[free]))
            full[lone[row]] = free[column]
        lengths = np.linalg.norm(persons.points - objects.points[full], axis=1)
        upper = float(lengths.mean())
        prices = objects.prices
        objects.set_prices(prices)
        self.profits = objects.least_sums(persons.points, lengths + prices[full], delta * upper)
        attained = np.empty(len(full))
        attained[full] = lengths - self.profits
        persons.set_prices(-self.profits)
        tight = -persons.least_sums(objects.points, attained, delta * upper)
        self.prices = np.minimum(prices, tight)
        size = 1 + float(np.abs(self.prices).max()) + float(np.abs(self.profits).max())
        lower = max(0.0, float(self.profits.mean() - self.prices.mean()) - 64 * EPSILON * size)
        return self.keep(upper, full, lower, self.prices)

    def release(self, eps: float) -> None:
        """Undo the assignments that break eps-complementary slackness under the present prices."""
        holders = np.flatnonzero(self.held >= 0)
        object_ = self.objects.point_of[self.held[holders]]
        lengths = np.linalg.norm(self.persons.points[holders] - self.objects.points[object_], axis=1)
        over = holders[lengths + self.prices[object_] > self.profits[holders] + eps]
        self.owner[self.held[over]] = -1
        self.held[over] = -1


class Cpu:
    """The auction's parts on the CPU, for `metrics.kernels.schedule`."""

    def side(self, points: F64) -> PriceTree:
        return PriceTree(points)

    def coarse(self, side: PriceTree, depth: int) -> PriceTree:
        return PriceTree(side.centroids(depth))

    def spacing(self, side: PriceTree) -> float:
        beside = np.asarray(cKDTree(side.points).query(side.points, k=2)[0])
        return float(np.median(beside[:, 1]))

    def auction(self, persons: PriceTree, objects: PriceTree, prices: F64 | None) -> Auction:
        return Auction(persons, objects, np.zeros(len(objects.points)) if prices is None else prices)

    def host(self, values: NDArray[Any]) -> NDArray[Any]:
        return values
