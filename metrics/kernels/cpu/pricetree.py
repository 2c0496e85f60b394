"""A balanced 8-wide kd-tree over points that carry prices, searched for the least distance + price.

The search of an auction and of a c-transform (`metrics.kernels.cpu.auction`). Every node bounds distance + price from
below in two ways. The first is the distance to its box plus its least price. The second keeps a linear under-estimate
of its prices, p(q) >= alpha + g.(q - c), with c the box's centre: since |x - q| >= |x - c| + u.(q - c) for u the unit
vector from x to c, distance + price over the node is at least

    |x - c| + alpha - sum_k |u_k + g_k| h_k,        h: the box's half extents.

A potential of Wasserstein-1 falls along transport rays as fast as the distance grows, so thousands of points nearly
tie there and only the second bound, tight where g = -u, tells them apart.

Points live in slots, 8 a leaf (`leaves`: x, y, z, price); unused slots bear the price `FAR`. The nodes below one
parent lie side by side (`blocks`), so that a visit bounds all eight with vector instructions. For these the compiler
wants loops whose length it does not know: it unrolls a loop of a known eight before it looks for vectors, at a third
of the speed. Hence `values`, scratch for eight numbers, comes in as an argument wherever it is needed. Lengths are in
units of the clouds' joint extent: everything but `FAR` is of order one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from adapters.contract import F64
from metrics.kernels.cpu.cells import I64, sort_by_cells
from metrics.kernels.cpu.threads import in_threads

WIDTH = 8  # points a leaf, children a node: one vector register of float64
FAR = 1e30  # the price of an unused slot
PRIOR = 8.0  # weight of the parent's slope in the fit of a node's, in points
STACK = 256  # entries a depth-first search may hold: 7 a level, and far fewer than 36 levels
CHUNK = 4096  # points a task of the c-transform

CX, CY, CZ, HX, HY, HZ, LEAST, ALPHA, GX, GY, GZ = range(11)  # the fields of a node in `blocks`


@njit(cache=True, nogil=True)
def _set_boxes(leaves: F64, counts: I64, blocks: F64, place: I64) -> None:
    """Fill in the centre and the half extents of every node but the root."""
    nodes, internal = len(place), len(blocks)
    low, high = np.full((nodes, 3), np.inf), np.full((nodes, 3), -np.inf)
    for q in range(nodes - 1, 0, -1):
        for k in range(3):
            if q >= internal:
                for s in range(counts[q - internal]):
                    low[q, k] = min(low[q, k], leaves[q - internal, k, s])
                    high[q, k] = max(high[q, k], leaves[q - internal, k, s])
            up, slot = place[q] // WIDTH, place[q] % WIDTH
            low[up, k], high[up, k] = min(low[up, k], low[q, k]), max(high[up, k], high[q, k])
            centre = 0.5 * (low[q, k] + high[q, k])
            blocks[up, CX + k, slot] = centre
            blocks[up, HX + k, slot] = max(high[q, k] - centre, centre - low[q, k])


@njit(cache=True, nogil=True)
def _slope(moments: F64, gx: float, gy: float, gz: float) -> tuple[float, float, float]:
    """The slope of a node's prices: least squares, with a ridge that draws it to the parent's slope (gx, gy, gz)."""
    m = moments[0]
    a, b, c, p = moments[1] / m, moments[2] / m, moments[3] / m, moments[4] / m
    xx, xy, xz = moments[5] / m - a * a, moments[6] / m - a * b, moments[7] / m - a * c
    yy, yz, zz = moments[8] / m - b * b, moments[9] / m - b * c, moments[10] / m - c * c
    rx = moments[11] / m - a * p - (xx * gx + xy * gy + xz * gz)
    ry = moments[12] / m - b * p - (xy * gx + yy * gy + yz * gz)
    rz = moments[13] / m - c * p - (xz * gx + yz * gy + zz * gz)
    ridge = (PRIOR / m + 1e-9) * (xx + yy + zz) / 3
    xx, yy, zz = xx + ridge, yy + ridge, zz + ridge
    c11, c12, c13 = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    c22, c23, c33 = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    det = xx * c11 + xy * c12 + xz * c13
    if not (ridge > 0 and det > 0):
        return gx, gy, gz
    ux = gx + (c11 * rx + c12 * ry + c13 * rz) / det
    uy = gy + (c12 * rx + c22 * ry + c23 * rz) / det
    uz = gz + (c13 * rx + c23 * ry + c33 * rz) / det
    length = np.sqrt(ux * ux + uy * uy + uz * uz)
    if not length < 1e3:  # any slope gives a sound bound, and a potential is 1-Lipschitz: a wild fit is dropped
        return gx, gy, gz
    length = max(length, 1.0)
    return ux / length, uy / length, uz / length


@njit(cache=True, nogil=True, error_model="numpy")
def leaf_bounds(leaf: F64, block: F64, slot: int) -> tuple[float, float]:
    """The least price of a leaf's (4, 8) slots, and alpha for the slope it has in its parent's `block` (11, 8)."""
    least, alpha = FAR, FAR
    cx, cy, cz = block[CX, slot], block[CY, slot], block[CZ, slot]
    gx, gy, gz = block[GX, slot], block[GY, slot], block[GZ, slot]
    for s in range(WIDTH):
        price = leaf[3, s]
        least = min(least, price)
        alpha = min(alpha, price - gx * (leaf[0, s] - cx) - gy * (leaf[1, s] - cy) - gz * (leaf[2, s] - cz))
    return least, alpha


@njit(cache=True, nogil=True)
def _set_price_bounds(leaves: F64, counts: I64, blocks: F64, place: I64, shift: F64) -> None:
    """Fit every node's price slope and set both price bounds, from the prices in `leaves`."""
    nodes, internal = len(place), len(blocks)
    moments = np.zeros((nodes, 14))
    for q in range(nodes - 1, 0, -1):
        if q >= internal:
            leaf = q - internal
            for s in range(counts[leaf]):
                x, y, z, p = leaves[leaf, 0, s], leaves[leaf, 1, s], leaves[leaf, 2, s], leaves[leaf, 3, s]
                own = (1.0, x, y, z, p, x * x, x * y, x * z, y * y, y * z, z * z, x * p, y * p, z * p)
                for k in range(14):
                    moments[q, k] += own[k]
        for k in range(14):
            moments[place[q] // WIDTH, k] += moments[q, k]
    slope = np.zeros((nodes, 3))
    for q in range(1, nodes):
        up, slot = place[q] // WIDTH, place[q] % WIDTH
        slope[q] = _slope(moments[q], slope[up, 0], slope[up, 1], slope[up, 2])
        rise = 0.0  # on this node's points the parent's alpha is at least this much above its own
        for k in range(3):
            blocks[up, GX + k, slot] = slope[q, k]
            if up > 0:
                block, at = place[up] // WIDTH, place[up] % WIDTH
                rise -= slope[up, k] * (blocks[up, CX + k, slot] - blocks[block, CX + k, at])
                rise -= abs(slope[q, k] - slope[up, k]) * blocks[up, HX + k, slot]
        shift[up, slot] = rise
    begin, end = np.full(nodes, internal + nodes), np.zeros(nodes, np.int64)  # which leaves a node holds
    for q in range(nodes - 1, 0, -1):
        up, slot = place[q] // WIDTH, place[q] % WIDTH
        if q >= internal:
            begin[q], end[q] = q - internal, q - internal + 1
        begin[up], end[up] = min(begin[up], begin[q]), max(end[up], end[q])
        least, alpha = FAR, FAR
        for leaf in range(begin[q], end[q]):
            a, b = leaf_bounds(leaves[leaf], blocks[up], slot)
            least, alpha = min(least, a), min(alpha, b)
        blocks[up, LEAST, slot] = least
        blocks[up, ALPHA, slot] = alpha


@njit(cache=True, nogil=True, error_model="numpy")
def block_bounds(block: F64, x: float, y: float, z: float, out: F64) -> None:
    """Lower bounds (8,) of distance + price from (x, y, z) over the eight nodes of a `block` (11, 8)."""
    for k in range(len(out)):
        dx, dy, dz = block[CX, k] - x, block[CY, k] - y, block[CZ, k] - z
        hx, hy, hz = block[HX, k], block[HY, k], block[HZ, k]
        a, b, c = max(abs(dx) - hx, 0.0), max(abs(dy) - hy, 0.0), max(abs(dz) - hz, 0.0)
        near = np.sqrt(a * a + b * b + c * c) + block[LEAST, k]
        d = np.sqrt(dx * dx + dy * dy + dz * dz)
        r = 1.0 / max(d, 1e-200)  # at the centre itself u = 0, which bounds as well as any other
        tilt = abs(dx * r + block[GX, k]) * hx + abs(dy * r + block[GY, k]) * hy + abs(dz * r + block[GZ, k]) * hz
        out[k] = max(near, d + block[ALPHA, k] - tilt)


@njit(cache=True, nogil=True, error_model="numpy")
def leaf_values(leaf: F64, x: float, y: float, z: float, out: F64) -> None:
    """Distance + price from (x, y, z) to the eight slots of a `leaf` (4, 8)."""
    for k in range(len(out)):
        a, b, c = leaf[0, k] - x, leaf[1, k] - y, leaf[2, k] - z
        out[k] = np.sqrt(a * a + b * b + c * c) + leaf[3, k]


@njit(cache=True, nogil=True, error_model="numpy")
def push_nearest_last(bounds: F64, first: int, enough: float, stack: I64, stack_v: F64, top: int) -> tuple[int, float]:
    """Put the nodes first, first + 1, ... whose bound is below `enough` on the stack, the least on top.

    Returns the new top, and the least bound of those left out."""
    base, rest = top, FAR
    for k in range(WIDTH):
        v = bounds[k]
        if v < enough:
            at = top
            while at > base and stack_v[at - 1] < v:
                stack[at], stack_v[at] = stack[at - 1], stack_v[at - 1]
                at -= 1
            stack[at], stack_v[at] = first + k, v
            top += 1
        else:
            rest = min(rest, v)
    return top, rest


@njit(cache=True, nogil=True, error_model="numpy")
def _least_sums(
    queries: F64, attained: F64, delta: float, leaves: F64, blocks: F64, child: I64, low: int, high: int,
    values: F64, out: F64,
) -> None:  # fmt: skip
    """min over points of distance + price for queries `low`..`high`, from below by at most `delta`.

    `attained`: values known to be reached, or FAR; queries in an order that keeps neighbours together."""
    internal = len(blocks)
    stack, stack_v = np.empty(STACK, np.int64), np.empty(STACK)
    best_before = FAR
    for i in range(low, high):
        x, y, z = queries[i, 0], queries[i, 1], queries[i, 2]
        best = attained[i]
        if i > low:  # 1-Lipschitz: the neighbour's value may do (where many points coincide, everything ties)
            a, b, c = queries[i - 1, 0] - x, queries[i - 1, 1] - y, queries[i - 1, 2] - z
            d = np.sqrt(a * a + b * b + c * c)
            away = d * (1 + 1e-9) + 1e-15 * abs(out[i - 1]) if d > 0 else 0.0
            best = min(best, best_before + away)
            if out[i - 1] - away >= best - delta:
                out[i] = min(out[i - 1] - away, best)
                best_before = best
                continue
        rest = FAR
        stack[0], stack_v[0], top = 0, -FAR, 1
        while top > 0:
            top -= 1
            q = stack[top]
            if stack_v[top] >= best - delta:
                rest = min(rest, stack_v[top])
            elif q >= internal:
                leaf_values(leaves[q - internal], x, y, z, values)
                for k in range(WIDTH):
                    best = min(best, values[k])
            else:
                block_bounds(blocks[q], x, y, z, values)
                top, left_out = push_nearest_last(values, child[q], best - delta, stack, stack_v, top)
                rest = min(rest, left_out)
        out[i] = min(best, rest)
        best_before = best


def edges(count: int, depth: int) -> I64:
    """(2**depth + 1,) where `depth` rounds of halving cut 0..`count`: cells of equal size, up to one."""
    cut = np.array([0, count])
    for _ in range(depth):
        cut = np.insert(cut, np.arange(1, len(cut)), (cut[1:] + cut[:-1]) // 2)
    return cut


class PriceTree:
    """Points (n, 3) in the order of the tree's leaves, each with a price and a slot."""

    def __init__(self, points: F64) -> None:
        n = len(points)
        depth = max(0, int(np.ceil(np.log2(n / WIDTH)))) if n > WIDTH else 0
        cut = edges(n, depth)
        sorted_points: tuple[F64, I64] = sort_by_cells(points, cut)
        self.points, self.order = sorted_points  # (n, 3), and (n,) which point of the input each is
        self.counts = np.diff(cut)  # (leaves,) points a leaf
        leaf = np.repeat(np.arange(len(self.counts)), self.counts)
        self.slot: I64 = leaf * WIDTH + np.arange(n) - cut[leaf]  # (n,) leaf * 8 + place in the leaf
        self.point_of: I64 = np.full(len(self.counts) * WIDTH, -1)  # (slots,) inverse of `slot`
        self.point_of[self.slot] = np.arange(n)
        self.leaves = np.zeros((len(self.counts), 4, WIDTH))
        self.leaves[:, 3] = FAR
        for axis in range(3):
            self.leaves[self.slot // WIDTH, axis, self.slot % WIDTH] = self.points[:, axis]
        self._link(depth)
        _set_boxes(self.leaves, self.counts, self.blocks, self.place)
        self.set_prices(np.zeros(n))

    def _link(self, depth: int) -> None:
        """Number the nodes level by level from the root, and join each to its parent and its first child."""
        levels = max(1, -(-depth // 3))
        sizes = np.array([1 << max(0, depth - 3 * (levels - level)) for level in range(levels + 1)])
        begin = np.concatenate([[0], np.cumsum(sizes)])
        internal = int(begin[levels])
        self.place: I64 = np.full(begin[-1], -1)  # (nodes,) parent * 8 + place among the parent's children
        self.child: I64 = np.empty(internal, np.int64)  # (internal nodes,) the first child
        for level in range(levels):
            self.child[begin[level] : begin[level + 1]] = begin[level + 1] + WIDTH * np.arange(sizes[level])
            self.place[begin[level + 1] : begin[level + 2]] = begin[level] * WIDTH + np.arange(sizes[level + 1])
        self.blocks = np.zeros((internal, 11, WIDTH))
        self.blocks[:, LEAST : ALPHA + 1] = FAR
        self.shift = np.zeros((internal, WIDTH))  # see `_set_price_bounds`

    @property
    def prices(self) -> F64:
        """(n,) the prices, in the tree's order."""
        return np.asarray(self.leaves[self.slot // WIDTH, 3, self.slot % WIDTH])

    def set_prices(self, prices: F64) -> None:
        """Give every point a price, (n,) in the tree's order, and set the bounds of all nodes."""
        self.leaves[self.slot // WIDTH, 3, self.slot % WIDTH] = prices
        _set_price_bounds(self.leaves, self.counts, self.blocks, self.place, self.shift)

    def least_sums(self, queries: F64, attained: F64 | None = None, delta: float = 0.0) -> F64:
        """(m,) for each of `queries` (m, 3) the least distance + price, from below by at most `delta`.

        `attained` (m,): values known to be reached. Runs on all threads; the result depends on none of that."""
        m = len(queries)
        out = np.empty(m)
        known = np.full(m, FAR) if attained is None else attained

        def task(low: int) -> None:
            high = min(low + CHUNK, m)
            _least_sums(queries, known, delta, self.leaves, self.blocks, self.child, low, high, np.empty(WIDTH), out)

        in_threads(task, range(0, m, CHUNK))
        return out

    def centroids(self, depth: int) -> F64:
        """(2**depth, 3) mean points of the cells that the first `depth` rounds of splits made."""
        cut = edges(len(self.points), depth)
        return np.asarray(np.add.reduceat(self.points, cut[:-1], axis=0) / np.diff(cut)[:, None])
