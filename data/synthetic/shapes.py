"""A procedural family of objects: eight categories, each drawn from a seed and composed of signed-distance primitives.

`make(seed)` gives a Shape with a watertight mesh, exact signed distances and surface samples. Frame: the object's own,
z up, front +x, centred on the bounding box, whose diagonal is 1. A seed belongs to one split. Each category has
optional and alternative parts; about a third of their combinations are never drawn for training or validation, and
every other object of the test split and of the suite is of such a combination.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from adapters.contract import F64, I32
from adapters.shared.surface import isosurface
from data.synthetic.sdf import rotation

CATEGORIES = ("mug", "jug", "teapot", "lamp", "chair", "table", "car", "animal")
Split = Literal["train", "val", "test", "suite"]
FIRST_SEED: dict[Split, int] = {"train": 0, "val": 1_000_000, "test": 2_000_000, "suite": 3_000_000}
HELD_OUT_SHARE = 3  # one combination of parts in so many is held out

ELLIPSOID, BOX, CONE, TORUS, CAPSULE, REVOLVED = range(6)
# Columns of a primitive: kind, blend, part, centre (3), local-from-world rotation (9), parameters (5).
KIND, BLEND, PART, CENTRE, AXES, FORM = 0, 1, 2, 3, 6, 15
COLUMNS = 20
CELLS = 72  # of the meshing grid, along the longest side
BLOCK = 6  # grid nodes along the side of a block that is skipped where the surface cannot reach it

UP = np.array([0.0, 0.0, 1.0])


@njit(cache=True, nogil=True, fastmath=True)
def _distance(q: F64, x: float, y: float, z: float) -> float:
    """Signed distance to one primitive (formulas: I. Quilez, "Distance functions")."""
    x -= q[CENTRE]
    y -= q[CENTRE + 1]
    z -= q[CENTRE + 2]
    u = q[AXES] * x + q[AXES + 1] * y + q[AXES + 2] * z
    v = q[AXES + 3] * x + q[AXES + 4] * y + q[AXES + 5] * z
    w = q[AXES + 6] * x + q[AXES + 7] * y + q[AXES + 8] * z
    a, b, c, d, e = q[FORM], q[FORM + 1], q[FORM + 2], q[FORM + 3], q[FORM + 4]
    kind = int(q[KIND])
    if kind == ELLIPSOID:  # radii a, b, c
        k0 = math.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2)
        k1 = math.sqrt((u / a**2) ** 2 + (v / b**2) ** 2 + (w / c**2) ** 2)
        return float(k0 * (k0 - 1.0) / k1 if k1 > 1e-9 else -min(a, b, c))
    if kind == BOX:  # half sides a, b, c, rounding d
        x1, y1, z1 = abs(u) - a + d, abs(v) - b + d, abs(w) - c + d
        outside = math.sqrt(max(x1, 0.0) ** 2 + max(y1, 0.0) ** 2 + max(z1, 0.0) ** 2)
        return float(outside + min(max(x1, max(y1, z1)), 0.0) - d)
    r = math.sqrt(u * u + v * v)
    if kind == CONE:  # half height a, radii b below and c above, rounding d
        cax = r - min(r, b if w < 0 else c)
        cay = abs(w) - a
        kx, ky = c - b, 2 * a
        f = min(max(((c - r) * kx + (a - w) * ky) / (kx * kx + ky * ky), 0.0), 1.0)
        cbx = r - c + kx * f
        cby = w - a + ky * f
        sign = -1.0 if (cbx < 0 and cay < 0) else 1.0
        return float(sign * math.sqrt(min(cax * cax + cay * cay, cbx * cbx + cby * cby)) - d)
    if kind == TORUS:  # major radius a, minor radius b
        return float(math.sqrt((r - a) ** 2 + w * w) - b)
    if kind == CAPSULE:  # from the origin to height a, radii b to c
        h = min(max(w / a, 0.0), 1.0)
        return float(math.sqrt(u * u + v * v + (w - h * a) ** 2) - (b + (c - b) * h))
    px, py, dx, dy = r - a, w - b, c - a, d - b  # REVOLVED: the segment (a, b) to (c, d), half thickness e
    h = min(max((px * dx + py * dy) / (dx * dx + dy * dy + 1e-12), 0.0), 1.0)
    return float(math.sqrt((px - h * dx) ** 2 + (py - h * dy) ** 2) - e)


@njit(cache=True, nogil=True, fastmath=True)
def _solid(rows: F64, x: float, y: float, z: float) -> float:
    """The union of all primitives, each blended into those before it."""
    d = 1e9
    for i in range(rows.shape[0]):
        e = _distance(rows[i], x, y, z)
        k = rows[i, BLEND]
        if k > 0.0 and d < 1e8:
            h = max(k - abs(d - e), 0.0) / k
            d = min(d, e) - h * h * k * 0.25
        else:
            d = min(d, e)
    return d


@njit(cache=True, nogil=True)
def _distances(rows: F64, points: F64) -> F64:
    out = np.empty(len(points))
    for i in range(len(points)):
        out[i] = _solid(rows, points[i, 0], points[i, 1], points[i, 2])
    return out


@njit(cache=True, nogil=True)
def _normals(rows: F64, points: F64, h: float) -> F64:
    out = np.empty((len(points), 3))
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        gx = _solid(rows, x + h, y, z) - _solid(rows, x - h, y, z)
        gy = _solid(rows, x, y + h, z) - _solid(rows, x, y - h, z)
        gz = _solid(rows, x, y, z + h) - _solid(rows, x, y, z - h)
        n = math.sqrt(gx * gx + gy * gy + gz * gz) + 1e-12
        out[i, 0], out[i, 1], out[i, 2] = gx / n, gy / n, gz / n
    return out


@njit(cache=True, nogil=True)
def _nearest_part(rows: F64, points: F64) -> NDArray[np.uint8]:
    out = np.empty(len(points), np.uint8)
    for i in range(len(points)):
        least = 1e9
        for j in range(rows.shape[0]):
            d = _distance(rows[j], points[i, 0], points[i, 1], points[i, 2])
            if d < least:
                least = d
                out[i] = np.uint8(rows[j, PART])
    return out


@njit(cache=True, nogil=True, fastmath=True)
def _grid(rows: F64, low: F64, step: float, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Distances at grid nodes, negated: positive inside. A block far from the surface is filled with its centre's."""
    out = np.empty(shape, np.float32)
    reach = 1.6 * step * BLOCK * 0.5 * math.sqrt(3.0)
    for bi in range(0, shape[0], BLOCK):
        for bj in range(0, shape[1], BLOCK):
            for bk in range(0, shape[2], BLOCK):
                half = BLOCK / 2
                d = _solid(rows, low[0] + step * (bi + half), low[1] + step * (bj + half), low[2] + step * (bk + half))
                far = abs(d) > reach
                for i in range(bi, min(bi + BLOCK, shape[0])):
                    for j in range(bj, min(bj + BLOCK, shape[1])):
                        for k in range(bk, min(bk + BLOCK, shape[2])):
                            if not far:
                                d = _solid(rows, low[0] + step * i, low[1] + step * j, low[2] + step * k)
                            out[i, j, k] = -d
    return out


def _facing(axis: ArrayLike) -> F64:
    """(3, 3) local-from-world rotation whose local z is `axis`."""
    z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


class Draft:
    """An object being drawn: random values, the choices of parts, and the primitives so far."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.rows: list[list[float]] = []
        self.corners: list[F64] = []  # opposite corners of a box around each primitive
        self.choices: list[str] = []
        self._part = -1

    def u(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def some(self, low: int, high: int) -> int:
        """A count, both ends included."""
        return int(self._rng.integers(low, high + 1))

    def has(self, part: str, share: float) -> bool:
        """Whether an optional part is there."""
        present = bool(self._rng.random() < share)
        self.choices.append(part if present else f"no {part}")
        return present

    def part(self) -> None:
        """What follows is another part, of another colour."""
        self._part += 1

    def _add(
        self,
        kind: int,
        centre: ArrayLike,
        axes: F64,
        form: Sequence[float],
        half: ArrayLike,
        blend: float,
        up: float = 0.0,
    ) -> None:
        """`half` sides and local height `up` of the middle of a box around the primitive."""
        centre = np.asarray(centre, np.float64)
        self.rows.append([kind, blend, max(self._part, 0), *centre, *axes.ravel(), *form, *[0.0] * (5 - len(form))])
        middle, half = centre + axes.T @ (UP * up), np.abs(axes.T) @ np.asarray(half, np.float64)
        self.corners += [middle - half, middle + half]

    def ellipsoid(self, centre: ArrayLike, radii: Sequence[float], blend: float = 0.0) -> None:
        self._add(ELLIPSOID, centre, np.eye(3), radii, radii, blend)

    def ball(self, centre: ArrayLike, radius: float) -> None:
        self.ellipsoid(centre, (radius,) * 3)

    def box(
        self,
        centre: ArrayLike,
        half: Sequence[float],
        axes: F64 | None = None,
        rounding: float = 0.01,
        blend: float = 0.0,
    ) -> None:
        self._add(BOX, centre, np.eye(3) if axes is None else axes, [*half, min(rounding, *half)], half, blend)

    def torus(self, centre: ArrayLike, major: float, minor: float, axis: ArrayLike) -> None:
        self._add(TORUS, centre, _facing(axis), [major, minor], [major + minor, major + minor, minor], 0.0)

    def cone(self, p: ArrayLike, q: ArrayLike, at_p: float, at_q: float, rounding: float = 0.0) -> None:
        p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
        half, wide = float(np.linalg.norm(q - p)) / 2, max(at_p, at_q) + rounding
        self._add(CONE, (p + q) / 2, _facing(q - p), [half, at_p, at_q, rounding], [wide, wide, half + rounding], 0.0)

    def capsule(self, p: ArrayLike, q: ArrayLike, at_p: float, at_q: float | None = None, blend: float = 0.0) -> None:
        p, q, at_q = np.asarray(p, np.float64), np.asarray(q, np.float64), at_p if at_q is None else at_q
        length, wide = float(np.linalg.norm(q - p)), max(at_p, at_q)
        half = [wide, wide, length / 2 + wide]
        self._add(CAPSULE, p, _facing(q - p), [length, at_p, at_q], half, blend, length / 2)

    def tube(self, path: Sequence[ArrayLike], first: float, last: float | None = None, blend: float = 0.02) -> None:
        """Capsules along a polyline."""
        radii = np.linspace(first, first if last is None else last, len(path))
        for i in range(len(path) - 1):
            self.capsule(path[i], path[i + 1], radii[i], radii[i + 1], blend if i else 0.0)

    def shell(
        self, centre: ArrayLike, profile: Sequence[tuple[float, float]], thickness: float, axis: ArrayLike = UP
    ) -> None:
        """A surface of revolution through (radius, height) pairs, of half `thickness`."""
        for (a, b), (c, d) in pairwise(profile):
            wide = max(a, c) + thickness
            half = [wide, wide, abs(d - b) / 2 + thickness]
            self._add(REVOLVED, centre, _facing(axis), [a, b, c, d, thickness], half, 0.0, (b + d) / 2)


def _arc(p: ArrayLike, q: ArrayLike, bulge: ArrayLike, count: int = 7, skew: float = 0.0) -> list[F64]:
    """A handle from p to q."""
    p, q, bulge = (np.asarray(v, np.float64) for v in (p, q, bulge))
    return [p + (q - p) * t + bulge * math.sin(math.pi * t ** (1 + skew)) ** 0.7 for t in np.linspace(0, 1, count)]


def _yaw(degrees: float) -> F64:
    return rotation([0, 0, 1], degrees)


def _mug(b: Draft) -> None:
    u = b.u
    b.part()
    r, h, thick, taper, belly = u(0.28, 0.5), u(0.5, 1.2), u(0.025, 0.045), u(0.75, 1.25), u(-0.12, 0.15)
    middle = (r * (1 + taper) / 2 + belly * r, h * 0.5)
    b.shell((0, 0, 0), [(0, 0), (r * taper, 0), middle, (r, h)], thick)
    b.part()
    low, high = h * u(0.1, 0.3), h * u(0.65, 0.92)
    if b.has("ear", 0.8):
        b.tube(_arc((r * 0.95, 0, high), (r * 0.95, 0, low), (u(0.2, 0.5), 0, 0), 7, u(-0.3, 0.4)), u(0.03, 0.065))
    else:
        b.capsule((r * 0.9, 0, high), (r + u(0.3, 0.5), 0, high + u(-0.1, 0.1)), u(0.04, 0.06))
    b.part()
    if b.has("saucer", 0.35):
        b.shell((0, 0, -0.03), [(0, -0.02), (r * 1.2, -0.02), (r * u(1.5, 2), 0.06)], 0.028)
    if b.has("spoon", 0.35):
        a = math.radians(u(100, 260))
        d = np.array([math.cos(a), math.sin(a), 0]) * r
        b.capsule((-0.3 * d[0], -0.3 * d[1], 0.1), d * u(0.9, 1.3) + [0, 0, h * u(1.2, 1.5)], 0.03)
    if b.has("foot", 0.3):
        b.cone((0, 0, -u(0.08, 0.15)), (0, 0, 0), r * u(0.6, 1.1), r * 0.6, 0.01)


def _jug(b: Draft) -> None:
    u = b.u
    b.part()
    h = u(0.9, 1.5)
    radii = [u(0.15, 0.4), u(0.3, 0.55), u(0.2, 0.5), u(0.1, 0.3), u(0.15, 0.35)]
    heights = np.array([0, u(0.2, 0.4), u(0.45, 0.65), u(0.72, 0.88), 1.0]) * h
    s = np.linspace(0, h, 9)
    profile = list(zip(np.interp(s, heights, radii).tolist(), s.tolist(), strict=True))
    b.shell((0, 0, 0), [(0.0, 0.0), *profile], u(0.025, 0.04))

    def radius(share: float) -> float:
        return float(np.interp(share * h, heights, radii))

    b.part()
    if b.has("handle", 0.75):
        low, high = u(0.2, 0.45), u(0.75, 0.97)
        ends = (radius(high), 0, high * h), (radius(low), 0, low * h)
        b.tube(_arc(*ends, (u(0.15, 0.4), 0, 0), 7, u(-0.4, 0.2)), u(0.03, 0.06))
    if b.has("spout", 0.5):
        tip = (-radius(1) - u(0.1, 0.3), 0, h * u(1, 1.1))
        b.cone((-radius(0.95) * 0.8, 0, h * 0.93), tip, u(0.08, 0.12), u(0.04, 0.07), 0.01)
    b.part()
    if b.has("foot", 0.4):
        b.cone((0, 0, -u(0.05, 0.2)), (0, 0, 0), radii[0] * u(0.9, 1.5), radii[0] * 0.8, 0.01)
    if b.has("bosses", 0.35):
        for _ in range(b.some(1, 3)):
            a, f, size = u(-0.6, 0.6), u(0.3, 0.6), u(0.06, 0.12)
            b.ball((radius(f) * math.sin(a), -radius(f) * math.cos(a), f * h), size)


def _teapot(b: Draft) -> None:
    u = b.u
    b.part()
    a, c = u(0.4, 0.6), u(0.25, 0.5)
    b.ellipsoid((0, 0, c), (a, a * u(0.8, 1), c))
    if b.has("foot", 0.6):
        b.cone((0, 0, -u(0, 0.1)), (0, 0, 0.08), a * u(0.5, 0.8), a * 0.6, 0.01)
    else:
        for angle in (60, 180, 300):
            x, y = a * 0.55 * math.cos(math.radians(angle)), a * 0.55 * math.sin(math.radians(angle))
            b.capsule((x, y, 0.1), (1.3 * x, 1.3 * y, -u(0.05, 0.12)), 0.05, 0.035)
    z = c * u(0.6, 1.2)
    tip, middle = (-a - u(0.25, 0.5), 0, z + u(0.1, 0.6)), (-a - u(0.05, 0.2), 0, z + u(-0.05, 0.1))
    if b.has("curved spout", 0.6):
        b.tube([(-a * 0.7, 0, z), middle, tip], u(0.09, 0.14), u(0.04, 0.06), 0.05)
    else:
        b.cone((-a * 0.7, 0, z), tip, u(0.09, 0.14), u(0.04, 0.07), 0.01)
    b.part()
    if b.has("side handle", 0.5):
        ends = (a * 0.8, 0, c * 1.5), (a * 0.8, 0, c * 0.5)
        b.tube(_arc(*ends, (u(0.3, 0.55), 0, 0), 7, u(-0.3, 0.3)), u(0.035, 0.06))
    else:
        b.tube(_arc((a * 0.65, 0, c * 1.6), (-a * 0.6, 0, c * 1.6), (0, 0, u(0.35, 0.8)), 8), u(0.03, 0.05))
    b.part()
    b.cone((0, 0, 2 * c - 0.05), (0, 0, 2 * c + u(0.0, 0.08)), a * u(0.3, 0.55), a * u(0.15, 0.3), 0.02)
    if b.has("round knob", 0.6):
        b.ellipsoid((0, 0, 2 * c + u(0.08, 0.16)), (u(0.05, 0.1), u(0.05, 0.1), u(0.05, 0.1)))
    else:
        b.torus((0, 0, 2 * c + u(0.12, 0.18)), u(0.06, 0.1), 0.03, (0, 1, 0))


def _lamp(b: Draft) -> None:
    u = b.u
    b.part()
    if b.has("round base", 0.5):
        b.cone((0, 0, 0), (0, 0, u(0.04, 0.15)), u(0.25, 0.45), u(0.15, 0.35), 0.01)
    else:
        b.box((0, 0, 0.04), (u(0.2, 0.4), u(0.2, 0.4), u(0.03, 0.07)), _yaw(u(0, 90)))
    b.part()
    thick = u(0.028, 0.05)
    lengths, lean, bend, yaw = (u(0.5, 1.1), u(0.35, 0.9)), u(-30, 30), u(20, 110), math.radians(u(-35, 35))

    def towards(degrees: float) -> F64:
        s = math.sin(math.radians(degrees))
        return np.array([s * math.cos(yaw), s * math.sin(yaw), math.cos(math.radians(degrees))])

    foot = np.array([u(-0.1, 0.1), u(-0.1, 0.1), 0.05])
    elbow = foot + lengths[0] * towards(lean)
    if b.has("jointed arm", 0.65):
        head = elbow + lengths[1] * towards(bend)
        b.capsule(foot, elbow, thick)
        b.capsule(elbow, head, thick)
        b.ball(elbow, thick * 1.8)
    else:
        head = elbow + lengths[1] * towards(bend * 0.7)
        middle = [foot * (1 - t) ** 2 + 2 * t * (1 - t) * elbow + t * t * head for t in np.linspace(0, 1, 7)]
        b.tube(middle, thick)
    axis = -towards(bend - u(20, 100))
    axis[2] = -abs(axis[2])
    b.part()
    length, narrow, wide = u(0.2, 0.5), u(0.06, 0.14), u(0.18, 0.42)
    if b.has("shade", 0.7):
        middle_ring = ((narrow + wide) / 2 + u(-0.03, 0.08), length * 0.5)
        b.shell(head, [(0, -0.02), (narrow, 0), middle_ring, (wide, length)], 0.028, axis)
        b.ball(head + axis * length * 0.5, narrow * 0.9)
    else:
        b.ball(head + axis * length * 0.3, wide * u(0.6, 0.9))
    if b.has("counterweight", 0.3):
        b.ball(elbow - 0.25 * towards(bend), u(0.06, 0.1))
        b.capsule(elbow, elbow - 0.25 * towards(bend), thick)


def _chair(b: Draft) -> None:
    u = b.u
    b.part()
    w, d, seat, t, r = u(0.3, 0.5), u(0.3, 0.5), u(0.35, 0.7), u(0.03, 0.07), u(0.03, 0.055)
    b.box((0, 0, seat), (d, w, t), rounding=u(0.005, 0.03))
    b.part()
    if b.has("four legs", 0.7):
        spread, slim = u(0, 0.15), u(0.7, 1)
        for sx in (-1, 1):
            for sy in (-1, 1):
                foot = (sx * (d - r + spread), sy * (w - r + spread), r)
                b.capsule((sx * (d - r), sy * (w - r), seat), foot, r, r * slim)
        if b.has("stretchers", 0.4):
            for sy in (-1, 1):
                b.capsule((-d + r, sy * (w - r), seat * 0.4), (d - r, sy * (w - r), seat * 0.4), r * 0.8)
    else:
        b.capsule((0, 0, seat), (0, 0, 0.08), r * 1.2)
        count, start, length = b.some(4, 5), u(0, 2), u(0.3, 0.45)
        for i in range(count):
            a = start + 2 * math.pi * i / count
            b.capsule((0, 0, 0.1), (length * math.cos(a), length * math.sin(a), 0.03), r)
    b.part()
    height, tilt = u(0.4, 1.0), math.radians(u(0, 25))
    axes = rotation([0, 1, 0], math.degrees(tilt))
    up, base = np.array([-math.sin(tilt), 0, math.cos(tilt)]), np.array([-d + 0.04, 0, seat])
    if b.has("panel back", 0.5):
        gap = u(0, 0.5)
        half = (u(0.03, 0.05), w * u(0.8, 1), height * (1 - gap) / 2)
        b.box(base + up * height * (gap + 1) / 2, half, axes, 0.02)
        if gap > 0.05:
            for sy in (-1, 1):
                post = base + [0, sy * w * 0.6, 0]
                b.capsule(post, post + up * height * (gap + 0.1), r)
    else:
        for slat in np.linspace(-w * 0.9, w * 0.9, b.some(2, 4)):
            b.capsule(base + [0, slat, 0], base + [0, slat, 0] + up * height, r * 0.9)
        b.box(base + up * height, (0.035, w, u(0.04, 0.12)), axes, 0.02)
    for side, name in ((-1, "right arm"), (1, "left arm")):
        if b.has(name, 0.35):
            y, rest = side * w, seat + u(0.2, 0.35)
            b.capsule((-d + 0.05, y, rest), (d * u(0.4, 1), y, rest), r)
            b.capsule((d * 0.4, y, seat), (d * 0.4, y, rest), r)


def _table(b: Draft) -> None:
    u = b.u
    b.part()
    length, w, h, t, r = u(0.4, 0.9), u(0.3, 0.55), u(0.4, 0.9), u(0.03, 0.06), u(0.03, 0.06)
    if is_round := b.has("round top", 0.3):
        w = length = u(0.4, 0.65)
        b.cone((0, 0, h - t), (0, 0, h), length, length, 0.01)
    else:
        b.box((0, 0, h), (w, length, t))
    b.part()
    if is_round and b.has("pedestal", 0.6):
        b.capsule((0, 0, h), (0, 0, 0.05), r * 1.5)
        b.cone((0, 0, 0), (0, 0, 0.06), length * u(0.4, 0.7), length * 0.3, 0.01)
    else:
        inset, slim = 0.68 if is_round else 0.92, u(0.6, 1)
        for sx in (-1, 1):
            for sy in (-1, 1):
                x, y = sx * w * inset, sy * length * inset
                b.cone((x, y, 0), (x, y, h), r * slim, r)
    b.part()
    if not is_round:
        if b.has("drawer", 0.5):
            middle = (0, length * u(0.45, 0.68), h - u(0.15, 0.3))
            b.box(middle, (w * 0.85, length * u(0.2, 0.3), u(0.12, 0.2)))
        if b.has("shelf", 0.3):
            b.box((0, 0, h * u(0.2, 0.35)), (w * 0.9, length * 0.9, 0.028))
        if b.has("back", 0.3):
            b.box((-w * 0.9, 0, h * 0.6), (0.028, length * 0.9, h * 0.35))
    b.part()
    for thing, share in (("vase", 0.4), ("book", 0.4)):
        if b.has(thing, share):
            x, y = w * u(-0.5, 0.5), length * u(-0.6, 0.6)
            if thing == "vase":
                b.cone((x, y, h), (x, y, h + u(0.15, 0.4)), u(0.06, 0.14), u(0.04, 0.14), 0.01)
            else:
                z = u(0.06, 0.2)
                b.box((x, y, h + t + z), (u(0.04, 0.1), u(0.08, 0.2), z), _yaw(u(0, 180)))


def _car(b: Draft) -> None:
    u = b.u
    b.part()
    length, w, h, r = u(0.7, 1.1), u(0.3, 0.45), u(0.1, 0.2), u(0.13, 0.24)
    z = r + h * 0.6
    top = z + h
    b.box((0, 0, z), (length, w, h), rounding=u(0.02, 0.09))
    b.part()
    x, cabin, high = u(-0.35, 0.25) * length, u(0.25, 0.55) * length, u(0.12, 0.32)
    half = (cabin, w * u(0.75, 0.95), high)
    b.box((x, 0, top + high * 0.8), half, rotation([0, 1, 0], u(-6, 6)), rounding=u(0.03, 0.1), blend=u(0, 0.12))
    b.part()
    thick = u(0.05, 0.1)
    for axle, size in ((length * u(0.5, 0.75), 1.0), (-length * u(0.5, 0.75), u(0.9, 1.4))):
        for sy in (-1, 1):
            ends = (axle, sy * (w - thick), r * size), (axle, sy * (w + thick * 0.6), r * size)
            b.cone(*ends, r * size, r * size)
    b.part()
    if b.has("bonnet", 0.35):
        half = (length * 0.3, w * 0.8, u(0.04, 0.1))
        b.box((length * 0.75, 0, top), half, rotation([0, 1, 0], u(5, 15)), 0.02, 0.05)
    if b.has("spoiler", 0.3):
        b.box((-length * 0.95, 0, top + u(0.15, 0.3)), (0.08, w, 0.03))
        b.box((-length * 0.95, 0, top + 0.08), (0.04, w * 0.3, 0.12))
    if b.has("roof box", 0.35):
        half = (u(0.1, 0.25), u(0.1, 0.2), u(0.05, 0.12))
        b.box((x + u(-0.1, 0.1), u(-0.1, 0.1), top + 2 * high), half, rounding=0.02)
    if b.has("aerial", 0.3):
        b.capsule((length * 0.5, w * u(-0.6, 0.6), z), (length * 0.45, w * 0.4, top + u(0.2, 0.5)), 0.03)
    if b.has("exhaust", 0.3):
        b.cone((-length, -w * 0.5, z - 0.02), (-length - u(0.1, 0.25), -w * 0.5, z - 0.02), 0.05, 0.06)


def _animal(b: Draft) -> None:
    u = b.u
    b.part()
    length, rear, front, leg = u(0.3, 0.6), u(0.15, 0.3), u(0.15, 0.32), u(0.15, 0.55)
    z, sag, mean = leg + max(rear, front) * 0.8, u(-0.08, 0.08), (rear + front) / 2
    b.capsule((-length, 0, z), (0, 0, z + sag), rear, mean)
    b.capsule((0, 0, z + sag), (length, 0, z), mean, front, 0.1)
    b.part()
    thick = u(0.045, 0.09)
    for sx in (-1, 1):
        for sy in (-1, 1):
            wide, stride = (front if sx > 0 else rear), u(-0.1, 0.1)
            knee = np.array([sx * length * 0.9 + stride, sy * wide * 0.65, leg * 0.5])
            b.capsule((sx * length * 0.85, sy * wide * 0.5, z), knee, thick * 1.3, thick, 0.06)
            foot = knee + [u(-0.12, 0.12), u(-0.03, 0.03), thick - leg * 0.5]
            b.capsule(knee, foot, thick, thick * 0.9, 0.03)
    b.part()
    lift, neck, yaw = math.radians(u(-10, 80)), u(0.2, 0.7), math.radians(u(-50, 50))
    chest = np.array([length, 0, z])
    head = chest + neck * np.array([math.cos(lift), 0, math.sin(lift)])
    b.capsule(chest, head, front * u(0.5, 0.8), u(0.08, 0.14), 0.12)
    look = np.array([math.cos(yaw), math.sin(yaw), u(-0.5, 0.2)])
    look /= np.linalg.norm(look)
    aside, skull = np.array([-math.sin(yaw), math.cos(yaw), 0]), u(0.12, 0.22)
    b.ellipsoid(head, (skull * u(0.9, 1.3), skull, skull), blend=0.06)
    b.capsule(head, head + look * (skull + u(0.05, 0.3)), skull * 0.7, skull * u(0.3, 0.6), 0.05)
    b.part()
    tall, thin = u(0.05, 0.35), u(0.03, 0.06)
    if b.has("ears", 0.75):
        for side in (-1, 1):
            root = head + aside * side * skull * 0.6 + [0, 0, skull * 0.6]
            tip = root + aside * side * tall * u(0.2, 0.8) + [0, 0, tall]
            b.capsule(root, tip, thin, thin * u(0.6, 1.2), 0.02)
    size, droop = u(0.1, 0.7) * 0.5, u(-1, 1.2)
    if b.has("tail", 0.75):
        root = np.array([-length - rear * 0.7, 0, z + rear * 0.3])
        middle = root + size * np.array([-math.cos(droop), 0, math.sin(droop)])
        tip = middle + size * np.array([-0.6, u(-0.7, 0.7), u(-0.3, 0.9)])
        b.tube([root, middle, tip], u(0.04, 0.08), u(0.03, 0.06), 0.04)
    if b.has("hump", 0.25):
        back = (u(-0.2, 0.2) * length, 0, z + max(rear, front))
        b.ellipsoid(back, (u(0.1, 0.2), u(0.1, 0.2), u(0.1, 0.25)), blend=0.06)
    if b.has("horn", 0.25):
        b.cone(head + look * skull * 0.8, head + look * skull * 0.8 + [0, 0, u(0.2, 0.4)], 0.06, 0.035)


_RECIPES: dict[str, Callable[[Draft], None]] = dict(
    zip(CATEGORIES, (_mug, _jug, _teapot, _lamp, _chair, _table, _car, _animal), strict=True)
)


@dataclass(frozen=True)
class Shape:
    """One object of the family. Lengths in its bounding box's diagonal, its centre the origin, z up, front +x."""

    seed: int
    category: str
    parts: tuple[str, ...]  # the choices that were made
    held_out: bool  # whether that combination of parts is never drawn for training
    vertices: F64  # (V, 3)
    faces: I32  # (F, 3), counter-clockwise seen from outside
    _rows: F64  # primitives, in the recipe's frame
    _centre: F64
    _scale: float

    def _inner(self, points: ArrayLike) -> F64:
        return np.ascontiguousarray(np.asarray(points, np.float64) / self._scale + self._centre)

    def sdf(self, points: ArrayLike) -> F64:
        """(M,) signed distances of points (M, 3), negative inside; exact in sign, approximate where parts blend."""
        return np.asarray(_distances(self._rows, self._inner(points)) * self._scale)

    def normals(self, points: ArrayLike) -> F64:
        """(M, 3) unit normals: the gradient of the signed distance."""
        return np.asarray(_normals(self._rows, self._inner(points), 1e-4))

    def nearest_part(self, points: ArrayLike) -> NDArray[np.uint8]:
        """(M,) number of the part that each point belongs to, from 0."""
        return np.asarray(_nearest_part(self._rows, self._inner(points)))

    def sample(self, count: int, rng: np.random.Generator) -> F64:
        """(count, 3) surface points, uniform by area, moved onto the exact surface by a Newton step."""
        corner = self.vertices[self.faces]
        area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
        total = np.cumsum(area)
        face = np.minimum(np.searchsorted(total, rng.random(count) * total[-1]), len(corner) - 1)
        p, q = rng.random((2, count, 1))
        p, q = np.where(p + q > 1, 1 - p, p), np.where(p + q > 1, 1 - q, q)
        a, b, c = corner[face, 0], corner[face, 1], corner[face, 2]
        points = a + p * (b - a) + q * (c - a)
        return np.asarray(points - np.clip(self.sdf(points), -0.01, 0.01)[:, None] * self.normals(points))

    def field_samples(self, count: int, rng: np.random.Generator) -> tuple[F64, F64]:
        """Points (count, 3) and their signed distances: the first half uniform in the unit cube, the second near the
        surface (normal offsets of 0.01 and 0.04)."""
        near = self.sample(count // 2, rng)
        near = near + rng.normal(size=near.shape) * np.where(rng.random((len(near), 1)) < 0.5, 0.01, 0.04)
        points = np.concatenate([rng.uniform(-0.5, 0.5, (count - len(near), 3)), near])
        return points, self.sdf(points)


def category_of(seed: int) -> str:
    """Consecutive seeds run through the categories."""
    return CATEGORIES[seed % len(CATEGORIES)]


def is_held_out(category: str, parts: Sequence[str]) -> bool:
    """Whether a combination of parts is kept from training and validation."""
    return zlib.crc32(f"{category}: {', '.join(parts)}".encode()) % HELD_OUT_SHARE == 0


def wants_held_out(seed: int) -> bool:
    """Whether the object of `seed` is of a held-out combination: every other round of categories from the test split
    on, never before."""
    return seed >= FIRST_SEED["test"] and seed // len(CATEGORIES) % 2 == 1


def make(seed: int, cells: int = CELLS) -> Shape:
    """The object of `seed`; `cells` of the meshing grid along its longest side.

    Drawn anew until its combination of parts is one that the seed's split may hold."""
    category = category_of(seed)
    for attempt in range(1000):
        draft = Draft(np.random.default_rng([CATEGORIES.index(category), seed, attempt]))
        _RECIPES[category](draft)
        if is_held_out(category, draft.choices) == wants_held_out(seed):
            break
    else:
        raise AssertionError(f"seed {seed}: a thousand draws without a combination of parts for its split")
    rows, corners = np.array(draft.rows, np.float64), np.array(draft.corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    step = float((high - low).max() / cells)
    low = low - 3 * step
    shape = np.ceil((high + 3 * step - low) / step).astype(int) + 1
    field = _grid(rows, low, step, (int(shape[0]), int(shape[1]), int(shape[2])))
    vertices, faces = isosurface(field, low, step)
    box = vertices.min(axis=0), vertices.max(axis=0)
    centre, scale = (box[0] + box[1]) / 2, 1.0 / float(np.linalg.norm(box[1] - box[0]))
    return Shape(
        seed=seed,
        category=category,
        parts=tuple(draft.choices),
        held_out=wants_held_out(seed),
        vertices=(vertices - centre) * scale,
        faces=faces,
        _rows=rows,
        _centre=centre,
        _scale=scale,
    )
