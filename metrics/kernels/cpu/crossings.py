"""Which triangles of a mesh intersect others, exactly: a tree of boxes, and predicates whose signs are certain.

Coordinates come in as whole numbers of at most 51 bits, held in float64: differences are then exact. The sign of a
determinant is taken from float64 where its error bound allows, else from the exact sum of its products (Shewchuk,
Adaptive precision floating-point arithmetic, 1997). No tolerance decides anything.

Two triangles intersect where they have a point in common that is neither a corner nor an edge which both have. Corners
are told apart by their index, so that places that coincide must come as one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from adapters.contract import F64, I32, U8, Bools
from metrics.kernels.cpu.cells import I64, sort_by_cells

LEAF = 4  # faces a leaf
BOUND = 8e-16  # largest error of a determinant in float64, relative to its products' sizes: 7 2^-53
UNCERTAIN = 2  # beside the signs -1, 0 and 1
SPLIT = 134217729.0  # 2^27 + 1


@njit(cache=True, nogil=True)
def _product(a: float, b: float) -> tuple[float, float]:
    """Two numbers whose sum is a * b exactly (Dekker)."""
    x = a * b
    c = SPLIT * a
    a1 = c - (c - a)
    a0 = a - a1
    c = SPLIT * b
    b1 = c - (c - b)
    b0 = b - b1
    return x, a0 * b0 - (((x - a1 * b1) - a0 * b1) - a1 * b0)


@njit(cache=True, nogil=True)
def _add(parts: F64, count: int, b: float) -> int:
    """Add `b` to the sum of `parts[:count]`, which do not overlap, smallest first: exactly. Gives the new count."""
    for i in range(count):
        x = b + parts[i]
        t = x - b
        parts[i] = (b - (x - t)) + (parts[i] - t)
        b = x
    parts[count] = b
    return count + 1


@njit(cache=True, nogil=True)
def _sign(parts: F64, count: int) -> int:
    """Of the sum of `parts[:count]`, as `_add` leaves them: that of the last one that is not 0."""
    for i in range(count - 1, -1, -1):
        if parts[i] > 0.0:
            return 1
        if parts[i] < 0.0:
            return -1
    return 0


@njit(cache=True, nogil=True)
def _add_triple(parts: F64, count: int, a: float, b: float, c: float) -> int:
    """Add a * b * c."""
    p1, p0 = _product(a, b)
    for p in (p0, p1):
        x, y = _product(p, c)
        count = _add(parts, count, y)
        count = _add(parts, count, x)
    return count


@njit(cache=True, nogil=True)
def _certain(value: float, size: float) -> int:
    """The sign of a sum that came out as `value`, its terms' absolute values together `size`, where rounding cannot
    have changed it; else UNCERTAIN."""
    if value > BOUND * size:
        return 1
    if value < -BOUND * size:
        return -1
    return 0 if size == 0.0 else UNCERTAIN


@njit(cache=True, nogil=True)
def side_of_plane(v: F64, a: int, b: int, c: int, d: int) -> int:
    """On which side of the plane through the places a, b, c of `v` (n, 3) the place d lies: -1, 0 (on it) or 1."""
    ax, ay, az = v[a, 0] - v[d, 0], v[a, 1] - v[d, 1], v[a, 2] - v[d, 2]
    bx, by, bz = v[b, 0] - v[d, 0], v[b, 1] - v[d, 1], v[b, 2] - v[d, 2]
    cx, cy, cz = v[c, 0] - v[d, 0], v[c, 1] - v[d, 1], v[c, 2] - v[d, 2]
    p, q, r = by * cz, bz * cy, bz * cx
    s, t, u = bx * cz, bx * cy, by * cx
    value = ax * (p - q) + ay * (r - s) + az * (t - u)
    size = abs(ax) * (abs(p) + abs(q)) + abs(ay) * (abs(r) + abs(s)) + abs(az) * (abs(t) + abs(u))
    side = _certain(value, size)
    if side != UNCERTAIN:
        return side
    parts = np.empty(32)
    n = _add_triple(parts, 0, ax, by, cz)
    n = _add_triple(parts, n, -ax, bz, cy)
    n = _add_triple(parts, n, ay, bz, cx)
    n = _add_triple(parts, n, -ay, bx, cz)
    n = _add_triple(parts, n, az, bx, cy)
    n = _add_triple(parts, n, -az, by, cx)
    return _sign(parts, n)


@njit(cache=True, nogil=True)
def side_of_line(v: F64, a: int, b: int, c: int, x: int, y: int) -> int:
    """On which side of the line through a and b the place c lies, seen along the axis that is neither x nor y."""
    px, py, qx, qy = v[a, x] - v[c, x], v[a, y] - v[c, y], v[b, x] - v[c, x], v[b, y] - v[c, y]
    p, q = px * qy, py * qx
    value, size = p - q, abs(p) + abs(q)
    side = _certain(value, size)
    if side != UNCERTAIN:
        return side
    parts = np.empty(8)
    p1, p0 = _product(px, qy)
    q1, q0 = _product(-py, qx)
    n = _add(parts, 0, p0)
    n = _add(parts, n, q0)
    n = _add(parts, n, p1)
    n = _add(parts, n, q1)
    return _sign(parts, n)


@njit(cache=True, nogil=True)
def axes_across(v: F64, a: int, b: int, c: int) -> tuple[int, int]:
    """Two axes such that the triangle a, b, c has an area seen along the third; (-1, -1) where it has none at all."""
    for x, y in ((0, 1), (1, 2), (2, 0)):
        if side_of_line(v, a, b, c, x, y) != 0:
            return x, y
    return -1, -1


@njit(cache=True, nogil=True)
def _on_segment(v: F64, p: int, q: int, c: int, x: int, y: int) -> bool:
    """Whether the place c, which lies on the line through p and q, lies between them."""
    for axis in (x, y):
        if v[c, axis] < min(v[p, axis], v[q, axis]) or v[c, axis] > max(v[p, axis], v[q, axis]):
            return False
    return True


@njit(cache=True, nogil=True)
def _segments_meet(v: F64, p: int, q: int, a: int, b: int, x: int, y: int) -> bool:
    """Whether the segments p q and a b of one plane have a point in common."""
    s, t = side_of_line(v, a, b, p, x, y), side_of_line(v, a, b, q, x, y)
    u, w = side_of_line(v, p, q, a, x, y), side_of_line(v, p, q, b, x, y)
    if s * t < 0 and u * w < 0:
        return True
    return (
        (s == 0 and _on_segment(v, a, b, p, x, y))
        or (t == 0 and _on_segment(v, a, b, q, x, y))
        or (u == 0 and _on_segment(v, p, q, a, x, y))
        or (w == 0 and _on_segment(v, p, q, b, x, y))
    )


@njit(cache=True, nogil=True)
def _in_triangle(v: F64, p: int, a: int, b: int, c: int, x: int, y: int) -> bool:
    """Whether the place p of the plane of a, b, c lies in their triangle, border included."""
    s, t, u = side_of_line(v, a, b, p, x, y), side_of_line(v, b, c, p, x, y), side_of_line(v, c, a, p, x, y)
    return (s >= 0 and t >= 0 and u >= 0) or (s <= 0 and t <= 0 and u <= 0)


@njit(cache=True, nogil=True)
def _meets(v: F64, p: int, q: int, a: int, b: int, c: int) -> bool:
    """Whether the segment p q and the triangle a, b, c, borders included, have a point in common."""
    s, t = side_of_plane(v, a, b, c, p), side_of_plane(v, a, b, c, q)
    if s * t > 0:
        return False
    if s == 0 and t == 0:
        x, y = axes_across(v, a, b, c)
        return (
            _in_triangle(v, p, a, b, c, x, y)
            or _in_triangle(v, q, a, b, c, x, y)
            or _segments_meet(v, p, q, a, b, x, y)
            or _segments_meet(v, p, q, b, c, x, y)
            or _segments_meet(v, p, q, c, a, x, y)
        )
    u, w, z = side_of_plane(v, p, q, a, b), side_of_plane(v, p, q, b, c), side_of_plane(v, p, q, c, a)
    return (u >= 0 and w >= 0 and z >= 0) or (u <= 0 and w <= 0 and z <= 0)


@njit(cache=True, nogil=True)
def _intersect(v: F64, f: I32, i: int, j: int) -> bool:
    """Whether the faces i and j, both with an area, intersect beyond what they share."""
    shared = 0
    for k in range(3):
        for m in range(3):
            shared += f[i, k] == f[j, m]
    if shared == 3:
        return True
    a, b, c = f[i, 0], f[i, 1], f[i, 2]
    p, q, r = f[j, 0], f[j, 1], f[j, 2]
    if shared == 0:
        s, t, u = side_of_plane(v, a, b, c, p), side_of_plane(v, a, b, c, q), side_of_plane(v, a, b, c, r)
        if (s > 0 and t > 0 and u > 0) or (s < 0 and t < 0 and u < 0):
            return False
        return (
            _meets(v, p, q, a, b, c) or _meets(v, q, r, a, b, c) or _meets(v, r, p, a, b, c)
            or _meets(v, a, b, p, q, r) or _meets(v, b, c, p, q, r) or _meets(v, c, a, p, q, r)
        )  # fmt: skip
    # The corners that only one of the two has come last.
    for _ in range(2):
        if a in (p, q, r):
            a, b, c = b, c, a
    for _ in range(2):
        if p in (a, b, c):
            p, q, r = q, r, p
    if shared == 2:  # a and p are the free ones
        if side_of_plane(v, a, b, c, p) != 0:
            return False
        x, y = axes_across(v, a, b, c)
        return side_of_line(v, b, c, a, x, y) == side_of_line(v, b, c, p, x, y)
    # One corner is shared. Whatever more they share reaches from it to the opposite side of one of them.
    for _ in range(2):
        if c not in (p, q, r):
            a, b, c = b, c, a
    for _ in range(2):
        if r not in (a, b, c):
            p, q, r = q, r, p
    return _meets(v, p, q, a, b, c) or _meets(v, a, b, p, q, r)


@njit(cache=True, nogil=True)
def _boxes(v: F64, f: I32, order: I64, begin: I64, low: F64, high: F64) -> None:
    """The boxes of all nodes, leaves of LEAF faces in `order` last; node k of a level has 2 k and 2 k + 1 below it."""
    leaves = begin[len(begin) - 2]
    for s in range(len(order)):
        node = leaves + s // LEAF
        for k in range(3):
            for axis in range(3):
                value = v[f[order[s], k], axis]
                low[node, axis] = min(low[node, axis], value)
                high[node, axis] = max(high[node, axis], value)
    for level in range(len(begin) - 3, -1, -1):
        for child in range(begin[level + 1], begin[level + 2]):
            node = begin[level] + (child - begin[level + 1]) // 2
            for axis in range(3):
                low[node, axis] = min(low[node, axis], low[child, axis])
                high[node, axis] = max(high[node, axis], high[child, axis])


@njit(cache=True, nogil=True)
def _check(
    v: F64, f: I32, asked: I64, order: I64, begin: I64, low: F64, high: F64, most: int, out: U8
) -> tuple[int, int]:
    """Fill `out` (n,) for the faces `asked` (n,), until more than `most` boxes were compared: how many were answered,
    and how many boxes that took."""
    stack, levels = np.empty(128, np.int64), np.empty(128, np.int64)
    x, y = np.empty(3), np.empty(3)
    work = 0
    for n in range(len(asked)):
        i = asked[n]
        for axis in range(3):
            x[axis] = min(v[f[i, 0], axis], v[f[i, 1], axis], v[f[i, 2], axis])
            y[axis] = max(v[f[i, 0], axis], v[f[i, 1], axis], v[f[i, 2], axis])
        stack[0], levels[0], top = 0, 0, 1
        hit = False
        while top > 0 and not hit:
            top -= 1
            node, level = stack[top], levels[top]
            work += 1
            if (
                low[node, 0] > y[0] or high[node, 0] < x[0] or low[node, 1] > y[1]
                or high[node, 1] < x[1] or low[node, 2] > y[2] or high[node, 2] < x[2]
            ):  # fmt: skip
                continue
            at = node - begin[level]
            if level < len(begin) - 2:
                for child in (2 * at, 2 * at + 1):
                    if begin[level + 1] + child < begin[level + 2]:
                        stack[top], levels[top] = begin[level + 1] + child, level + 1
                        top += 1
                continue
            for s in range(at * LEAF, min(at * LEAF + LEAF, len(order))):
                j = order[s]
                if j == i:
                    continue
                apart = False
                for axis in range(3):
                    least = min(v[f[j, 0], axis], v[f[j, 1], axis], v[f[j, 2], axis])
                    largest = max(v[f[j, 0], axis], v[f[j, 1], axis], v[f[j, 2], axis])
                    apart = apart or least > y[axis] or largest < x[axis]
                work += 1
                if not apart:
                    work += 16  # what it costs beside a box
                    if _intersect(v, f, i, j):
                        hit = True
                        break
            if work > most:
                return n, work
        out[n] = hit
    return len(asked), work


def crossing_faces(vertices: F64, faces: I32, asked: I64, most: int) -> U8:
    """(n,) 1 where the faces `asked` (m,) intersect another one, 0 where not, n <= m: as many, in that order, as
    `most` comparisons suffice for.

    Vertices (V, 3) are whole numbers below 2^51; faces (F, 3) have three places each that do not lie on one line."""
    if not len(faces):
        return np.zeros(0, np.uint8)
    sizes = [-(-len(faces) // LEAF)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    begin = np.cumsum([0, *reversed(sizes)])
    low, high = np.full((begin[-1], 3), np.inf), np.full((begin[-1], 3), -np.inf)
    middles = (vertices[faces[:, 0]] + vertices[faces[:, 1]] + vertices[faces[:, 2]]) / 3
    depth = max(len(sizes) - 1, 0)
    cuts = np.minimum(np.arange(2**depth + 1) * LEAF, len(faces))
    order = sort_by_cells(middles, cuts)[1]
    _boxes(vertices, faces, order, begin, low, high)
    out = np.zeros(len(asked), np.uint8)
    count, _ = _check(vertices, faces, asked, order, begin, low, high, most, out)
    return out[:count]


@njit(cache=True, nogil=True)
def flat_faces(vertices: F64, faces: I32) -> Bools:
    """(F,) bool: where a face's corners lie on one line, exactly; vertices as in `crossing_faces`."""
    out = np.zeros(len(faces), np.bool_)
    for i in range(len(faces)):
        out[i] = axes_across(vertices, faces[i, 0], faces[i, 1], faces[i, 2])[0] < 0
    return out
