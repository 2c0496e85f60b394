"""The compiled part of PatchMatch stereo: what a hypothesis costs, and one red-black half sweep.

Everything here runs once for each pixel and hypothesis, so scalars are float32 and one load of a source image fetches
all four pixels that bilinear interpolation needs. numba counts references to arrays with atomic operations, which cost
more than the arithmetic when threads share the arrays: what `_ROW` and `_LEAF` compile allocates and counts nothing.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
Bools = NDArray[np.bool_]
Real = Any  # a number that numba compiles as float32

RADIUS, STRIDE = 5, 2  # the patch: 11 x 11 pixels, every second one
NOISE_VARIANCE = 2.0  # grey levels squared: texture weaker than this earns no correlation
BEST = 2  # a hypothesis is judged by its BEST source views, which copes with occlusion
WORST = 2.0  # cost where a patch leaves the source image; 1 - NCC is at most 2
GEOMETRY_WEIGHT, GEOMETRY_CAP = 0.2, 3.0  # cost per pixel of forward-backward error, and the error's bound in pixels
SAME = 0.02  # pixels: a propagated plane that moves the patch by less is not tried
LEAST_COSINE = 0.1  # of the angle between a plane's normal and the viewing ray

_FAST: dict[str, Any] = {"fastmath": True, "cache": True, "error_model": "numpy", "nogil": True}
_ROW: dict[str, Any] = {**_FAST, "_nrt": False}
_LEAF: dict[str, Any] = {**_ROW, "forceinline": True}


class Sources(NamedTuple):
    """S source views at one pyramid level, flattened so that they may differ in size."""

    quads: U32  # each pixel with its right, lower and lower-right neighbour, one byte each: bilinear in one load
    depth: F32  # z-depth parallel to `quads`; used by the geometric pass alone
    start: I64  # (S,) first index of each view
    size: I64  # (S, 2) width, height
    A: F64  # (S, 3, 3) K_s R K_r^-1 on pixel indices
    b: F32  # (S, 3) K_s t
    back: F32  # (S, 3, 3) and back_b (S, 3): A and b from the source view to the reference
    back_b: F32


class Patch(NamedTuple):
    """Scratch of one thread: the reference patch of the pixel being visited and what its source views say."""

    dx: F32  # (P,) offsets from the centre, pixels
    dy: F32
    weight: F32  # (P,) bilateral weights, sum 1
    weighted: F32  # (P,) weight times (grey - weighted mean)
    us: F32  # (P,) where the samples fall in a source view: how far right of a pixel
    vs: F32  # (P,) and below it
    corners: U32  # (P,) that pixel's index, then its grey levels: see `Sources.quads`
    base: F32  # (S, 3) A (x, y, 1)
    views: F32  # (S,) cost of each source view
    chosen: I64  # (B,) the source views that judge hypotheses at this pixel
    best: F32  # (B,) the lowest costs, ascending


class Field(NamedTuple):
    """The reference view at one pyramid level, and what is believed of it, which sweeps improve in place."""

    grey: U8  # (H, W)
    planes: F32  # (H, W, 3) inverse depth and its slopes
    costs: F32  # (H, W)
    judges: I8  # (H, W, B) the source views that a pixel's hypotheses are tried in, best first
    valid: Bools  # (H, W) the pixels that get a plane


class Turn(NamedTuple):
    """What one half sweep does."""

    colour: int  # 0 or 1: of the pixels that are visited, red or black
    salt: np.uint64  # of the random numbers
    magnitude: Real  # of perturbations
    explore: bool  # anywhere in the range of depths, and every hypothesis in all views
    geometric: bool  # costs count the forward-backward error


class Tables(NamedTuple):
    """What is the same at every pixel."""

    spatial: F32  # (P,) weight of a sample by its place in the patch
    colour: F32  # (256,) weight by its difference from the centre, grey levels
    dx: F32  # (P,) offsets from the centre, pixels
    dy: F32
    steps: I64  # (8, M, 2) offsets to pixels of the other colour, in eight regions


class Camera(NamedTuple):
    """The reference camera at one level, on pixel indices, and the inverse depths allowed."""

    fx: Real
    fy: Real
    skew: Real
    cx: Real
    cy: Real
    low: Real
    high: Real
    step: Real  # change of inverse depth that moves the projection by one pixel in a typical source view


@njit(**_LEAF)
def _hash(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    """SplitMix64 (Steele et al. 2014): the next state of a counter-based generator and its output."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@njit(**_LEAF)
def _signed(state: np.uint64) -> tuple[np.uint64, Real]:
    """The next state and a number uniform in [-1, 1)."""
    state, bits = _hash(state)
    return state, np.float32(np.int32(bits >> np.uint64(40))) * np.float32(2.0**-23) - np.float32(1)


@njit(**_LEAF)
def _view_cost(
    s: int,
    q: Real,
    gx: Real,
    gy: Real,
    x: Real,
    y: Real,
    centre: Real,
    spread: Real,
    patch: Patch,
    src: Sources,
    geometric: bool,
) -> Real:
    """1 - NCC of plane (q, gx, gy) at pixel (x, y) between the reference and source view s, plus the geometric term."""
    unit = np.float32(1)
    b0, b1, b2 = src.b[s, 0], src.b[s, 1], src.b[s, 2]
    u0, v0, w0 = patch.base[s, 0] + b0 * q, patch.base[s, 1] + b1 * q, patch.base[s, 2] + b2 * q
    ux, vx, wx = (
        np.float32(src.A[s, 0, 0]) + b0 * gx,
        np.float32(src.A[s, 1, 0]) + b1 * gx,
        np.float32(src.A[s, 2, 0]) + b2 * gx,
    )
    uy, vy, wy = (
        np.float32(src.A[s, 0, 1]) + b0 * gy,
        np.float32(src.A[s, 1, 1]) + b1 * gy,
        np.float32(src.A[s, 2, 1]) + b2 * gy,
    )
    width, height = src.size[s, 0], src.size[s, 1]
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    # A homography with positive denominators keeps a quadrilateral convex: its corners bound the patch.
    for k in range(4):
        ox = np.float32(RADIUS if k & 1 else -RADIUS)
        oy = np.float32(RADIUS if k & 2 else -RADIUS)
        w = w0 + wx * ox + wy * oy
        u, v = u0 + ux * ox + uy * oy, v0 + vx * ox + vy * oy
        if not (w > np.float32(1e-9) and u >= 0 and v >= 0 and u < right * w and v < bottom * w):
            return np.float32(WORST)
    start = src.start[s]
    dx, dy, weight, weighted, quads = patch.dx, patch.dy, patch.weight, patch.weighted, src.quads
    # Three loops, so that the first and the last become vector instructions where a gather would not be worth it.
    us, vs, corners = patch.us, patch.vs, patch.corners
    first, stride = np.uint32(start), np.uint32(width)
    for p in range(dx.shape[0]):
        iw = unit / (w0 + wx * dx[p] + wy * dy[p])
        u, v = (u0 + ux * dx[p] + uy * dy[p]) * iw, (v0 + vx * dx[p] + vy * dy[p]) * iw
        iu, iv = np.int32(u), np.int32(v)
        us[p], vs[p] = u - np.float32(iu), v - np.float32(iv)
        corners[p] = first + np.uint32(np.uint32(iv) * stride) + np.uint32(iu)
    for p in range(dx.shape[0]):
        corners[p] = quads[corners[p]]
    mean, square, product = np.float32(0), np.float32(0), np.float32(0)
    for p in range(dx.shape[0]):
        quad, fu, fv = corners[p], us[p], vs[p]
        g00 = np.float32(np.int32(quad & np.uint32(255)))
        g01 = np.float32(np.int32((quad >> np.uint32(8)) & np.uint32(255)))
        g10 = np.float32(np.int32((quad >> np.uint32(16)) & np.uint32(255)))
        g11 = np.float32(np.int32(quad >> np.uint32(24)))
        top = g00 + fu * (g01 - g00)
        grey = top + fv * (g10 + fu * (g11 - g10) - top) - centre
        mean += weight[p] * grey
        square += weight[p] * grey * grey
        product += weighted[p] * grey
    variance = max(square - mean * mean, np.float32(0))
    cost = unit - product / np.float32(
        sqrt((variance + np.float32(NOISE_VARIANCE)) * (spread + np.float32(NOISE_VARIANCE)))
    )
    if geometric:
        u, v = u0 / w0, v0 / w0
        column, row = min(np.int64(u + np.float32(0.5)), width - 1), min(np.int64(v + np.float32(0.5)), height - 1)
        z = src.depth[start + row * width + column]
        error = np.float32(GEOMETRY_CAP)
        if z > 0:
            # The source's own depth at the pixel hit, carried over to where the ray really fell, and back.
            t = unit / z
            bw = src.back[s, 2, 0] * u + src.back[s, 2, 1] * v + src.back[s, 2, 2] + src.back_b[s, 2] * t
            bu = src.back[s, 0, 0] * u + src.back[s, 0, 1] * v + src.back[s, 0, 2] + src.back_b[s, 0] * t
            bv = src.back[s, 1, 0] * u + src.back[s, 1, 1] * v + src.back[s, 1, 2] + src.back_b[s, 1] * t
            if bw > np.float32(1e-9):
                eu, ev = bu / bw - x, bv / bw - y
                error = min(np.float32(sqrt(eu * eu + ev * ev)), error)
        cost += np.float32(GEOMETRY_WEIGHT) * error
    return cost


@njit(**_LEAF)
def _all_views(
    q: Real,
    gx: Real,
    gy: Real,
    x: Real,
    y: Real,
    centre: Real,
    spread: Real,
    patch: Patch,
    src: Sources,
    geometric: bool,
) -> Real:
    """Mean of the BEST lowest costs over all source views; leaves each view's cost in `patch.views`."""
    best = patch.best
    best[:] = np.float32(1e9)
    for s in range(src.start.shape[0]):
        cost = _view_cost(s, q, gx, gy, x, y, centre, spread, patch, src, geometric)
        patch.views[s] = cost
        k = best.shape[0] - 1
        if cost < best[k]:
            while k > 0 and best[k - 1] > cost:
                best[k] = best[k - 1]
                k -= 1
            best[k] = cost
    total = np.float32(0)
    for k in range(best.shape[0]):
        total += best[k]
    return total / np.float32(best.shape[0])


@njit(**_LEAF)
def _choose(patch: Patch) -> None:
    """Let the BEST views of `patch.views` judge the next hypotheses, best first."""
    for k in range(patch.chosen.shape[0]):
        low = -1
        for s in range(patch.views.shape[0]):
            taken = False
            for j in range(k):
                taken |= patch.chosen[j] == s
            if not taken and (low < 0 or patch.views[s] < patch.views[low]):
                low = s
        patch.chosen[k] = low


@njit(**_LEAF)
def _chosen_views(
    q: Real,
    gx: Real,
    gy: Real,
    x: Real,
    y: Real,
    centre: Real,
    spread: Real,
    patch: Patch,
    src: Sources,
    geometric: bool,
    bound: Real,
) -> Real:
    """Mean cost over the chosen views, or something above `bound` as soon as it cannot be below."""
    total = np.float32(0)
    count = patch.chosen.shape[0]
    limit = bound * np.float32(count)
    for k in range(count):
        total += _view_cost(patch.chosen[k], q, gx, gy, x, y, centre, spread, patch, src, geometric)
        if total >= limit:
            return total
    return total / np.float32(count)


@njit(**_LEAF)
def _load_patch(x: int, y: int, grey: U8, tables: Tables, patch: Patch, src: Sources) -> tuple[Real, Real]:
    """Fill `patch` for pixel (x, y); returns its grey level and the weighted variance of the patch."""
    height, width = grey.shape
    here = np.int64(grey[y, x])
    centre = np.float32(here)
    total, mean, square = np.float32(0), np.float32(0), np.float32(0)
    for p in range(patch.dx.shape[0]):
        i = min(max(x + np.int64(patch.dx[p]), 0), width - 1)
        j = min(max(y + np.int64(patch.dy[p]), 0), height - 1)
        level = np.int64(grey[j, i]) - here
        weight = tables.spatial[p] * tables.colour[abs(level)]
        g = np.float32(level)
        patch.weight[p], patch.weighted[p] = weight, g
        total += weight
        mean += weight * g
        square += weight * g * g
    mean /= total
    spread = square / total - mean * mean
    for p in range(patch.dx.shape[0]):
        patch.weight[p] /= total
        patch.weighted[p] = patch.weight[p] * (patch.weighted[p] - mean)
    for s in range(src.start.shape[0]):
        for k in range(3):
            patch.base[s, k] = np.float32(src.A[s, k, 0] * x + src.A[s, k, 1] * y + src.A[s, k, 2])
    return centre, max(spread, np.float32(0))


@njit(**_LEAF)
def _slope(camera: Camera, x: Real, y: Real, q: Real, a0: Real, a1: Real, a2: Real) -> tuple[Real, Real]:
    """(gx, gy) of the plane through inverse depth q at (x, y) whose normal is along (a0, a1, a2), pointing away."""
    ry = (y - camera.cy) / camera.fy
    rx = (x - camera.cx - camera.skew * ry) / camera.fx
    # A normal across the ray gives a plane too steep to be tried, never one that is not finite.
    scale = q / max(a0 * rx + a1 * ry + a2, np.float32(1e-3))
    gx = a0 * scale / camera.fx
    return np.float32(gx), np.float32((a1 * scale - camera.skew * gx) / camera.fy)


@njit(**_LEAF)
def _away(camera: Camera, x: Real, y: Real, q: Real, gx: Real, gy: Real) -> tuple[Real, Real, Real, Real]:
    """Unit normal of the plane, pointing away from the camera, and the cosine it makes with the viewing ray."""
    a0 = camera.fx * gx
    a1 = camera.skew * gx + camera.fy * gy
    a2 = q + gx * (camera.cx - x) + gy * (camera.cy - y)
    norm = sqrt(a0 * a0 + a1 * a1 + a2 * a2) + 1e-30
    ry = (y - camera.cy) / camera.fy
    rx = (x - camera.cx - camera.skew * ry) / camera.fx
    return a0 / norm, a1 / norm, a2 / norm, q / (norm * sqrt(rx * rx + ry * ry + 1.0))


@njit(**_LEAF)
def _survey(x: int, y: int, costs: F32, valid: Bools, steps: I64, near: I64) -> int:
    """Write the cheapest pixel of each region around (x, y) into `near` (-1 = none); returns the cheapest region."""
    height, width = costs.shape
    leader, lowest = 0, np.float32(1e9)
    for r in range(steps.shape[0]):
        low = np.float32(1e9)
        near[r, 0] = -1
        for m in range(steps.shape[1]):
            i, j = x + steps[r, m, 0], y + steps[r, m, 1]
            if 0 <= i < width and 0 <= j < height and valid[j, i] and costs[j, i] < low:
                near[r, 0], near[r, 1], low = i, j, costs[j, i]
        if low < lowest:
            leader, lowest = r, low
    return leader


@njit(**_ROW)
def _visit_row(
    y: int, turn: Turn, field: Field, tables: Tables, camera: Camera, src: Sources, patch: Patch, near: I64
) -> None:
    """One row of a red-black half sweep: propagate, then perturb, at every valid pixel of the turn's colour."""
    colour, salt, magnitude, explore, geometric = turn
    grey, planes, costs, judges, valid = field
    width = grey.shape[1]
    steps = tables.steps
    fy = np.float32(y)
    for x in range((y + colour) & 1, width, 2):
        if not valid[y, x]:
            continue
        fx = np.float32(x)
        centre, spread = _load_patch(x, y, grey, tables, patch, src)
        q, gx, gy = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2]
        cost = costs[y, x]
        for k in range(judges.shape[2]):
            patch.chosen[k] = judges[y, x, k]
        # The leader's plane is judged by all views, the others by the views that suit this pixel so far.
        leader = _survey(x, y, costs, valid, steps, near)
        for k in range(steps.shape[0]):
            region = (leader + k) % steps.shape[0]
            if near[region, 0] < 0:
                continue
            si, sj = near[region, 0], near[region, 1]
            hx, hy = planes[sj, si, 1], planes[sj, si, 2]
            h = planes[sj, si, 0] + hx * np.float32(x - si) + hy * np.float32(y - sj)
            if h < camera.low or h > camera.high:
                continue
            if abs(h - q) < np.float32(SAME) * camera.step and (abs(hx - gx) + abs(hy - gy)) * np.float32(RADIUS) < (
                np.float32(SAME) * camera.step
            ):
                continue
            if k == 0 or explore:
                trial = _all_views(h, hx, hy, fx, fy, centre, spread, patch, src, geometric)
                if trial < cost:
                    _choose(patch)
            else:
                trial = _chosen_views(h, hx, hy, fx, fy, centre, spread, patch, src, geometric, cost)
            if trial < cost:
                cost, q, gx, gy = trial, h, hx, hy
        state = salt ^ (np.uint64(y * width + x) * np.uint64(0xD1342543DE82EF95))
        for k in range(4):
            h = q
            if k != 1:
                state, r = _signed(state)
                h = np.float32(q + r * magnitude * camera.step)
                if k == 3:
                    if not explore:
                        continue
                    h = np.float32(camera.low + (r * np.float32(0.5) + np.float32(0.5)) * (camera.high - camera.low))
            if h < camera.low or h > camera.high:
                continue
            a0, a1, a2, _ = _away(camera, fx, fy, q, gx, gy)
            if k == 1 or k == 2:
                tilt = min(magnitude * np.float32(0.25), np.float32(0.7))
                state, r0 = _signed(state)
                state, r1 = _signed(state)
                state, r2 = _signed(state)
                a0, a1, a2 = a0 + tilt * r0, a1 + tilt * r1, a2 + tilt * r2
            hx, hy = _slope(camera, fx, fy, h, a0, a1, a2)
            if not _away(camera, fx, fy, h, hx, hy)[3] > LEAST_COSINE:
                continue
            trial = _chosen_views(h, hx, hy, fx, fy, centre, spread, patch, src, geometric, cost)
            if trial < cost:
                cost, q, gx, gy = trial, np.float32(h), hx, hy
        planes[y, x, 0], planes[y, x, 1], planes[y, x, 2] = q, gx, gy
        costs[y, x] = cost
        for k in range(judges.shape[2]):
            judges[y, x, k] = patch.chosen[k]


@njit(**_FAST)
def _scratch(tables: Tables, src: Sources) -> Patch:
    """Room for one thread's patch."""
    S, P, B = src.start.shape[0], tables.dx.shape[0], min(BEST, src.start.shape[0])
    return Patch(
        tables.dx,
        tables.dy,
        np.empty(P, np.float32),
        np.empty(P, np.float32),
        np.empty(P, np.float32),
        np.empty(P, np.float32),
        np.empty(P, np.uint32),
        np.empty((S, 3), np.float32),
        np.empty(S, np.float32),
        np.zeros(B, np.int64),
        np.empty(B, np.float32),
    )


@njit(parallel=True, **_FAST)
def sweep(turn: Turn, field: Field, tables: Tables, camera: Camera, src: Sources) -> None:
    """A red-black half sweep over the image."""
    for y in prange(field.grey.shape[0]):
        patch = _scratch(tables, src)
        near = np.empty((tables.steps.shape[0], 2), np.int64)
        _visit_row(y, turn, field, tables, camera, src, patch, near)


@njit(parallel=True, **_FAST)
def score(geometric: bool, field: Field, tables: Tables, camera: Camera, src: Sources) -> None:
    """Write the cost of every valid pixel's plane into `field.costs`, and the views that judge it."""
    grey, planes, costs, judges, valid = field
    for y in prange(grey.shape[0]):
        patch = _scratch(tables, src)
        for x in range(grey.shape[1]):
            if valid[y, x]:
                centre, spread = _load_patch(x, y, grey, tables, patch, src)
                q, gx, gy = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2]
                costs[y, x] = _all_views(q, gx, gy, np.float32(x), np.float32(y), centre, spread, patch, src, geometric)
                _choose(patch)
                for k in range(judges.shape[2]):
                    judges[y, x, k] = patch.chosen[k]


@njit(cache=True, error_model="numpy")
def random_planes(height: int, width: int, salt: np.uint64, camera: Camera) -> F32:
    """(H, W, 3) float32 planes: inverse depth uniform in its range, normals within about 60 degrees of the ray."""
    planes = np.empty((height, width, 3), np.float32)
    for y in range(height):
        for x in range(width):
            state = salt ^ (np.uint64(y * width + x) * np.uint64(0xD1342543DE82EF95))
            state, r = _signed(state)
            q = np.float32(camera.low + (r * 0.5 + 0.5) * (camera.high - camera.low))
            ry = (y - camera.cy) / camera.fy
            rx = (x - camera.cx - camera.skew * ry) / camera.fx
            norm = sqrt(rx * rx + ry * ry + 1.0)
            state, r0 = _signed(state)
            state, r1 = _signed(state)
            state, r2 = _signed(state)
            gx, gy = _slope(camera, x, y, q, rx / norm + 0.5 * r0, ry / norm + 0.5 * r1, 1.0 / norm + 0.5 * r2)
            planes[y, x, 0], planes[y, x, 1], planes[y, x, 2] = q, gx, gy
    return planes
