"""PatchMatch multi-view stereo on the CPU: slanted planes, red-black propagation, bilateral NCC, two passes.

The algorithm of Galliani, Lasinger and Schindler, "Massively Parallel Multiview Stereopsis by Surface Normal
Diffusion" (ICCV 2015), with the adaptive neighbour sampling of Xu and Tao, "Multi-Scale Geometric Consistency Guided
Multi-View Stereo" (CVPR 2019), the bilaterally weighted NCC and the geometric term of Schonberger et al., "Pixelwise
View Selection for Unstructured Multi-View Stereo" (ECCV 2016).

A hypothesis at pixel p is (q, gx, gy): inverse z-depth q at p and its change per pixel right and down. Under a pinhole
camera the inverse depth of a plane is affine in pixel coordinates, so a neighbour's plane arrives by two
multiplications, and the homography it induces into a source view is A + b (gx, gy, q)^T with A and b fixed per view.

Every random number is a hash of (seed, pass, iteration, pixel) and a pixel reads only pixels of the other colour, so
the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
Bools = NDArray[np.bool_]
Progress = Callable[[int, int], None]

RADIUS, STRIDE = 5, 2  # the patch: 11 x 11 pixels, every second one, 36 in all
BEST = 2  # a hypothesis is judged by its BEST source views, which copes with occlusion
COLOUR_SIGMA = 25.0  # grey levels: how fast a pixel's weight falls with its difference from the centre
NOISE_VARIANCE = 2.0  # grey levels squared: texture weaker than this earns no correlation
WORST = 2.0  # cost where a patch leaves the source image; 1 - NCC is at most 2
GEOMETRY_WEIGHT, GEOMETRY_CAP = 0.2, 3.0  # cost per pixel of forward-backward error, and the error's bound in pixels
COARSEST = 200  # pixels: no pyramid level has a shorter side than this
COARSE_ITERATIONS, FINE_ITERATIONS, GEOMETRIC_ITERATIONS = 4, 2, 2


@dataclass(frozen=True)
class DepthMap:
    """One view's estimate. A pixel without depth has depth 0, normal 0 and cost 2."""

    depth: F32  # (H, W) z-depth, unit of the cameras; 0 = none
    normal: F32  # (H, W, 3) unit length, in the camera's frame, facing the camera
    cost: F32  # (H, W) 1 - NCC, mean of the BEST source views: 0 perfect, 2 worst

    def keep(self, where: Bools) -> DepthMap:
        """The map with everything outside `where` (H, W) removed."""
        return DepthMap(
            np.where(where, self.depth, np.float32(0)),
            np.where(where[..., None], self.normal, np.float32(0)),
            np.where(where, self.cost, np.float32(WORST)),
        )


class _Sources(NamedTuple):
    """S source views at one pyramid level, flattened so that they may differ in size."""

    quads: U32  # each pixel with its right, lower and lower-right neighbour, one byte each: bilinear in one load
    depth: F32  # z-depth parallel to `quads`; used by the geometric pass alone
    start: NDArray[np.int64]  # (S,) first index of each view
    size: NDArray[np.int64]  # (S, 2) width, height
    A: F64  # (S, 3, 3) K_s R K_r^-1 on pixel indices
    b: F32  # (S, 3) K_s t
    back_A: F32  # (S, 3, 3) and back_b (S, 3): the same from the source view to the reference
    back_b: F32


class _Patch(NamedTuple):
    """Scratch of one thread: the reference patch of the pixel being visited and what its source views say."""

    dx: F32  # (P,) offsets from the centre, pixels
    dy: F32
    weight: F32  # (P,) bilateral weights, sum 1
    weighted: F32  # (P,) weight times (grey - weighted mean)
    base: F32  # (S, 3) A (x, y, 1)
    views: F32  # (S,) cost of each source view
    chosen: NDArray[np.int64]  # (BEST,) the source views that judge hypotheses at this pixel
    best: F32  # (BEST,) the lowest costs, ascending


class _Camera(NamedTuple):
    """The reference camera at one level, on pixel indices, and the inverse depths allowed."""

    fx: float
    fy: float
    skew: float
    cx: float
    cy: float
    low: float
    high: float
    step: float  # change of inverse depth that moves the projection by one pixel in a typical source view


_FAST = {"fastmath": True, "cache": True, "error_model": "numpy", "nogil": True}
_LEAF = {**_FAST, "_nrt": False, "forceinline": True}


@njit(**_LEAF)
def _hash(state):  # type: ignore[no-untyped-def]
    """SplitMix64 (Steele et al. 2014): the next state of a counter-based generator and its output."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@njit(**_LEAF)
def _signed(state):  # type: ignore[no-untyped-def]
    """The next state and a number uniform in [-1, 1)."""
    state, bits = _hash(state)
    return state, np.float32(np.int32(bits >> np.uint64(40))) * np.float32(2.0**-23) - np.float32(1)


@njit(**_LEAF)
def _view_cost(s, q, gx, gy, x, y, centre, spread, patch, src, geometric):  # type: ignore[no-untyped-def]
    """1 - NCC of plane (q, gx, gy) at pixel (x, y) between the reference and source view s, plus the geometric term."""
    one = np.float32(1)
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
    mean, square, product = np.float32(0), np.float32(0), np.float32(0)
    for p in range(dx.shape[0]):
        iw = one / (w0 + wx * dx[p] + wy * dy[p])
        u, v = (u0 + ux * dx[p] + uy * dy[p]) * iw, (v0 + vx * dx[p] + vy * dy[p]) * iw
        iu, iv = np.int32(u), np.int32(v)
        fu, fv = u - np.float32(iu), v - np.float32(iv)
        quad = quads[start + iv * width + iu]
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
    cost = one - product / np.float32(
        sqrt((variance + np.float32(NOISE_VARIANCE)) * (spread + np.float32(NOISE_VARIANCE)))
    )
    if geometric:
        u, v = u0 / w0, v0 / w0
        iu, iv = np.int64(u + np.float32(0.5)), np.int64(v + np.float32(0.5))
        z = src.depth[start + min(iv, height - 1) * width + min(iu, width - 1)]
        error = np.float32(GEOMETRY_CAP)
        if z > 0:
            # The source's own depth at the pixel hit, carried over to where the ray really fell, and back.
            back = src.back_A[s]
            t = one / z
            bw = back[2, 0] * u + back[2, 1] * v + back[2, 2] + src.back_b[s, 2] * t
            bu = back[0, 0] * u + back[0, 1] * v + back[0, 2] + src.back_b[s, 0] * t
            bv = back[1, 0] * u + back[1, 1] * v + back[1, 2] + src.back_b[s, 1] * t
            if bw > np.float32(1e-9):
                eu, ev = bu / bw - x, bv / bw - y
                error = min(np.float32(sqrt(eu * eu + ev * ev)), error)
        cost += np.float32(GEOMETRY_WEIGHT) * error
    return cost


@njit(**_LEAF)
def _all_views(q, gx, gy, x, y, centre, spread, patch, src, geometric):  # type: ignore[no-untyped-def]
    """Mean of the BEST lowest costs over all source views; leaves each view's cost in `patch.views`."""
    best = patch.best
    best[:] = np.float32(1e9)
    for s in range(src.start.shape[0]):
        cost = _view_cost(s, q, gx, gy, x, y, centre, spread, patch, src, geometric)
        patch.views[s] = cost
        k = BEST - 1
        if cost < best[k]:
            while k > 0 and best[k - 1] > cost:
                best[k] = best[k - 1]
                k -= 1
            best[k] = cost
    total = np.float32(0)
    for k in range(BEST):
        total += best[k]
    return total / np.float32(BEST)


@njit(**_LEAF)
def _choose(patch):  # type: ignore[no-untyped-def]
    """Let the BEST views of `patch.views` judge the next hypotheses, best first."""
    for k in range(BEST):
        low = -1
        for s in range(patch.views.shape[0]):
            taken = False
            for j in range(k):
                taken |= patch.chosen[j] == s
            if not taken and (low < 0 or patch.views[s] < patch.views[low]):
                low = s
        patch.chosen[k] = low


@njit(**_LEAF)
def _chosen_views(q, gx, gy, x, y, centre, spread, patch, src, geometric, bound):  # type: ignore[no-untyped-def]
    """Mean cost over the chosen views, or something above `bound` as soon as it cannot be below."""
    total = np.float32(0)
    limit = bound * np.float32(BEST)
    for k in range(BEST):
        total += _view_cost(patch.chosen[k], q, gx, gy, x, y, centre, spread, patch, src, geometric)
        if total >= limit:
            return total
    return total / np.float32(BEST)


@njit(**_LEAF)
def _load_patch(x, y, grey, colour_weight, spatial, patch, src):  # type: ignore[no-untyped-def]
    """Fill `patch` for pixel (x, y); returns its grey level and the weighted variance of the patch."""
    height, width = grey.shape
    here = np.int64(grey[y, x])
    centre = np.float32(here)
    total, mean, square = np.float32(0), np.float32(0), np.float32(0)
    for p in range(patch.dx.shape[0]):
        i = min(max(x + np.int64(patch.dx[p]), 0), width - 1)
        j = min(max(y + np.int64(patch.dy[p]), 0), height - 1)
        level = np.int64(grey[j, i]) - here
        weight = spatial[p] * colour_weight[abs(level)]
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
def _slope(camera, x, y, q, a0, a1, a2):  # type: ignore[no-untyped-def]
    """(gx, gy) of the plane through inverse depth q at (x, y) whose normal is along (a0, a1, a2), pointing away."""
    ry = (y - camera.cy) / camera.fy
    rx = (x - camera.cx - camera.skew * ry) / camera.fx
    scale = q / (a0 * rx + a1 * ry + a2)
    gx = a0 * scale / camera.fx
    return np.float32(gx), np.float32((a1 * scale - camera.skew * gx) / camera.fy)


@njit(**_LEAF)
def _away(camera, x, y, q, gx, gy):  # type: ignore[no-untyped-def]
    """Unit normal of the plane, pointing away from the camera, and the cosine it makes with the viewing ray."""
    a0 = camera.fx * gx
    a1 = camera.skew * gx + camera.fy * gy
    a2 = q + gx * (camera.cx - x) + gy * (camera.cy - y)
    norm = sqrt(a0 * a0 + a1 * a1 + a2 * a2) + 1e-30
    ry = (y - camera.cy) / camera.fy
    rx = (x - camera.cx - camera.skew * ry) / camera.fx
    return a0 / norm, a1 / norm, a2 / norm, q / (norm * sqrt(rx * rx + ry * ry + 1.0))


@njit(**_LEAF)
def _survey(x, y, planes, costs, valid, steps, near):  # type: ignore[no-untyped-def]
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


@njit(**_FAST, _nrt=False)
def _visit_row(
    y, colour, salt, magnitude, explore, geometric, grey, planes, costs, valid, tables, camera, src, patch, near
):  # type: ignore[no-untyped-def]
    """One row of a red-black half sweep: propagate, then perturb, at every valid pixel of `colour`."""
    height, width = grey.shape
    colour_weight, spatial, _, _, steps = tables
    fy = np.float32(y)
    for x in range((y + colour) & 1, width, 2):
        if not valid[y, x]:
            continue
        fx = np.float32(x)
        centre, spread = _load_patch(x, y, grey, colour_weight, spatial, patch, src)
        q, gx, gy = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2]
        cost = _all_views(q, gx, gy, fx, fy, centre, spread, patch, src, geometric)
        _choose(patch)
        # The leader's plane is judged by all views, the others by the views that suit this pixel so far.
        leader = _survey(x, y, planes, costs, valid, steps, near)
        for turn in range(steps.shape[0]):
            region = (leader + turn) % steps.shape[0]
            if near[region, 0] < 0:
                continue
            si, sj = near[region, 0], near[region, 1]
            hx, hy = planes[sj, si, 1], planes[sj, si, 2]
            h = planes[sj, si, 0] + hx * np.float32(x - si) + hy * np.float32(y - sj)
            if h < camera.low or h > camera.high:
                continue
            if abs(h - q) < np.float32(0.02) * camera.step and (abs(hx - gx) + abs(hy - gy)) * np.float32(RADIUS) < (
                np.float32(0.02) * camera.step
            ):
                continue
            if turn == 0 or explore:
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
            a0, a1, a2, slant = _away(camera, fx, fy, q, gx, gy)
            if k == 1 or k == 2:
                tilt = min(magnitude * np.float32(0.25), np.float32(0.7))
                state, r0 = _signed(state)
                state, r1 = _signed(state)
                state, r2 = _signed(state)
                a0, a1, a2 = a0 + tilt * r0, a1 + tilt * r1, a2 + tilt * r2
            hx, hy = _slope(camera, fx, fy, h, a0, a1, a2)
            if not _away(camera, fx, fy, h, hx, hy)[3] > 0.1:
                continue
            trial = _chosen_views(h, hx, hy, fx, fy, centre, spread, patch, src, geometric, cost)
            if trial < cost:
                cost, q, gx, gy = trial, np.float32(h), hx, hy
        planes[y, x, 0], planes[y, x, 1], planes[y, x, 2] = q, gx, gy
        costs[y, x] = cost


@njit(parallel=True, **_FAST)
def _sweep(colour, salt, magnitude, explore, geometric, grey, planes, costs, valid, tables, camera, src):  # type: ignore[no-untyped-def]
    """A red-black half sweep over the image."""
    _, _, dx, dy, steps = tables
    for y in prange(grey.shape[0]):
        S, P = src.start.shape[0], dx.shape[0]
        patch = _Patch(
            dx,
            dy,
            np.empty(P, np.float32),
            np.empty(P, np.float32),
            np.empty((S, 3), np.float32),
            np.empty(S, np.float32),
            np.zeros(BEST, np.int64),
            np.empty(BEST, np.float32),
        )
        near = np.empty((steps.shape[0], 2), np.int64)
        _visit_row(
            y, colour, salt, magnitude, explore, geometric, grey, planes, costs, valid, tables, camera, src, patch, near
        )


@njit(parallel=True, **_FAST)
def _score(geometric, grey, planes, costs, valid, tables, camera, src):  # type: ignore[no-untyped-def]
    """Write the cost of every valid pixel's plane into `costs`."""
    colour_weight, spatial, dx, dy, _ = tables
    for y in prange(grey.shape[0]):
        S, P = src.start.shape[0], dx.shape[0]
        patch = _Patch(
            dx,
            dy,
            np.empty(P, np.float32),
            np.empty(P, np.float32),
            np.empty((S, 3), np.float32),
            np.empty(S, np.float32),
            np.zeros(BEST, np.int64),
            np.empty(BEST, np.float32),
        )
        for x in range(grey.shape[1]):
            if valid[y, x]:
                centre, spread = _load_patch(x, y, grey, colour_weight, spatial, patch, src)
                q, gx, gy = planes[y, x, 0], planes[y, x, 1], planes[y, x, 2]
                costs[y, x] = _all_views(q, gx, gy, np.float32(x), np.float32(y), centre, spread, patch, src, geometric)


@njit(cache=True, error_model="numpy")
def _random_planes(height, width, salt, camera):  # type: ignore[no-untyped-def]
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


def _steps() -> NDArray[np.int64]:
    """(8, 5, 2) offsets of the other colour: four V-shaped regions near the pixel, four lines farther out."""
    near = [(0, 1), (-1, 2), (1, 2), (-2, 3), (2, 3)]
    far = [(0, 5), (0, 9), (0, 13), (0, 19), (0, 25)]
    turns = [lambda a, b: (a, b), lambda a, b: (a, -b), lambda a, b: (b, a), lambda a, b: (-b, a)]
    return np.array([[turn(a, b) for a, b in region] for region in (near, far) for turn in turns], np.int64)


def _tables() -> tuple[F32, F32, F32, F32, NDArray[np.int64]]:
    """Weights by difference in grey level (256,) and by place in the patch (P,), the patch's offsets, and `_steps`."""
    reach = np.arange(-RADIUS, RADIUS + 1, STRIDE, dtype=np.float32)
    dy, dx = (a.ravel() for a in np.meshgrid(reach, reach, indexing="ij"))
    inner = dx**2 + dy**2 < 2 * RADIUS**2  # without the four corners 32 are left: two full vectors of sixteen
    dx, dy = dx[inner], dy[inner]
    spatial = np.exp(-(dx**2 + dy**2) / (2 * RADIUS**2)).astype(np.float32)
    return np.exp(-np.arange(256) / COLOUR_SIGMA).astype(np.float32), spatial, dx, dy, _steps()


def _grey(image: U8) -> U8:
    """Luma (Rec. 601), rounded: (H, W) uint8 of an (H, W, 3) or (H, W) image."""
    if image.ndim == 2:
        return np.ascontiguousarray(image)
    return np.asarray((image @ np.array([0.299, 0.587, 0.114], np.float32) + 0.5), np.uint8)


def _halve(grey: U8) -> U8:
    """Mean of 2 x 2 blocks; an odd last row or column is dropped."""
    h, w = grey.shape[0] // 2 * 2, grey.shape[1] // 2 * 2
    total = grey[:h, :w].astype(np.uint16)
    return np.asarray((total[::2, ::2] + total[1::2, ::2] + total[::2, 1::2] + total[1::2, 1::2] + 2) // 4, np.uint8)


def _quads(grey: U8) -> U32:
    """(H * W,) each pixel with its right, lower and lower-right neighbour, one byte each, lowest first."""
    right = np.concatenate([grey[:, 1:], grey[:, -1:]], axis=1)
    both = grey.astype(np.uint32) | right.astype(np.uint32) << 8
    below = np.concatenate([both[1:], both[-1:]])
    return np.asarray((both | below << 16).ravel(), np.uint32)


def _at_level(K: F64, level: int) -> F64:
    """Intrinsics on pixel indices (first pixel's centre at 0) of an image halved `level` times."""
    scaled = np.diag([0.5**level, 0.5**level, 1.0]) @ K
    scaled[:2, 2] -= 0.5
    return scaled


@dataclass(frozen=True)
class _View:
    """One view ready for stereo: `greys[k]` is its grey image halved k times."""

    greys: tuple[U8, ...]
    K: F64
    pose: F64


def _view(image: U8, K: F64, pose: F64) -> _View:
    greys = [_grey(image)]
    while min(greys[-1].shape) >= 2 * COARSEST:
        greys.append(_halve(greys[-1]))
    return _View(tuple(greys), np.asarray(K, np.float64), np.asarray(pose, np.float64))


def _level(
    view: _View, others: Sequence[_View], depths: Sequence[F32] | None, depth_range: tuple[float, float], level: int
):  # type: ignore[no-untyped-def]
    """The reference camera and its sources at one pyramid level."""
    K = _at_level(view.K, level)
    A, b, back_A, back_b, quads, sizes = [], [], [], [], [], []
    for other in others:
        source_from_reference = other.pose @ np.linalg.inv(view.pose)
        R, t = source_from_reference[:3, :3], source_from_reference[:3, 3]
        Ks = _at_level(other.K, level)
        A.append(Ks @ R @ np.linalg.inv(K))
        b.append(Ks @ t)
        back_A.append(K @ R.T @ np.linalg.inv(Ks))
        back_b.append(-K @ R.T @ t)
        grey = other.greys[min(level, len(other.greys) - 1)]
        quads.append(_quads(grey))
        sizes.append(grey.shape[::-1])
    flat = np.zeros(1, np.float32) if depths is None else np.concatenate([depth.ravel() for depth in depths])
    source = _Sources(
        np.concatenate(quads),
        flat,
        np.cumsum([0] + [len(q) for q in quads[:-1]]).astype(np.int64),
        np.array(sizes, np.int64),
        np.array(A, np.float64),
        np.array(b, np.float32),
        np.array(back_A, np.float32),
        np.array(back_b, np.float32),
    )
    low, high = 1 / depth_range[1], 1 / depth_range[0]
    height, width = view.greys[level].shape
    middle, q = np.array([width / 2, height / 2, 1.0]), (low + high) / 2
    moves = []
    for a, shift in zip(A, b, strict=True):
        first, second = a @ middle + shift * q, a @ middle + shift * (q * 1.01)
        moves.append(np.linalg.norm(first[:2] / first[2] - second[:2] / second[2]) / (0.01 * q))
    step = 1 / max(float(np.median(moves)), 1e-12)
    camera = _Camera(*(np.float32(x) for x in (K[0, 0], K[1, 1], K[0, 1], K[0, 2], K[1, 2], low, high, step)))
    return camera, source


def _finer(planes: F32, shape: tuple[int, int]) -> F32:
    """Planes of the next finer level, of `shape`: each pixel takes the plane of the one that contains it."""
    rows = np.minimum(np.arange(shape[0]) // 2, planes.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // 2, planes.shape[1] - 1)
    out = planes[rows[:, None], columns[None, :]]
    out[..., 1:] *= 0.5
    out[..., 0] += out[..., 1] * (np.arange(shape[1]) - 0.5 - 2 * columns)[None, :].astype(np.float32)
    out[..., 0] += out[..., 2] * (np.arange(shape[0]) - 0.5 - 2 * rows)[:, None].astype(np.float32)
    return out


def _salt(*numbers: int) -> np.uint64:
    """One 64-bit number from several: the sweep's share of every pixel's random state."""
    return np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]


def _shrink(valid: Bools, level: int) -> Bools:
    """`valid` halved `level` times: true where any pixel of a block is."""
    for _ in range(level):
        h, w = valid.shape[0] // 2 * 2, valid.shape[1] // 2 * 2
        valid = valid[:h:2, :w:2] | valid[1:h:2, :w:2] | valid[:h:2, 1:w:2] | valid[1:h:2, 1:w:2]
    return valid


def _run(planes, costs, valid, grey, camera, source, salt, magnitudes, explore, geometric):  # type: ignore[no-untyped-def]
    """Score the planes, then one red-black iteration a magnitude (pixels of perturbation), in place."""
    tables = _tables()
    _score(geometric, grey, planes, costs, valid, tables, camera, source)
    for iteration, magnitude in enumerate(magnitudes):
        for colour in (0, 1):
            mixed = _salt(*salt, iteration, colour)
            _sweep(colour, mixed, magnitude, explore, geometric, grey, planes, costs, valid, tables, camera, source)


def _photometric(
    view: _View, others: Sequence[_View], depth_range: tuple[float, float], salt: tuple[int, ...], valid: Bools
) -> F32:
    """(H, W, 3) planes from photographs alone, coarse to fine."""
    top = len(view.greys) - 1
    planes = None
    for level in range(top, -1, -1):
        grey = view.greys[level]
        camera, source = _level(view, others, None, depth_range, level)
        if planes is None:
            planes = _random_planes(*grey.shape, _salt(*salt, level), camera)
        else:
            planes = _finer(planes, grey.shape)
        costs = np.full(grey.shape, WORST, np.float32)
        first = level == top
        magnitudes = (
            [8 * 0.5**k for k in range(COARSE_ITERATIONS)] if first else [0.5 ** (k) for k in range(FINE_ITERATIONS)]
        )
        _run(planes, costs, _shrink(valid, level), grey, camera, source, (*salt, level), magnitudes, first, False)
    return planes


def _finish(
    view: _View, others: Sequence[_View], depth_range: tuple[float, float], planes: F32, valid: Bools
) -> DepthMap:
    """Planes as depth, normals and photometric cost."""
    grey = view.greys[0]
    camera, source = _level(view, others, None, depth_range, 0)
    costs = np.full(grey.shape, WORST, np.float32)
    _score(False, grey, planes, costs, valid, _tables(), camera, source)
    q, gx, gy = planes[..., 0], planes[..., 1], planes[..., 2]
    x, y = np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32)[:, None]
    along = np.stack(
        [camera.fx * gx, camera.skew * gx + camera.fy * gy, q + gx * (camera.cx - x) + gy * (camera.cy - y)], axis=-1
    )
    normal = -along / np.linalg.norm(along, axis=-1, keepdims=True)
    found = valid & (costs < WORST)
    return DepthMap((1 / q).astype(np.float32), normal.astype(np.float32), costs).keep(found)


def depth_map(
    images: Sequence[U8],
    intrinsics: F64,
    camera_from_world: F64,
    reference: int,
    sources: Sequence[int],
    depth_range: tuple[float, float],
    seed: int,
    valid: Bools | None = None,
) -> DepthMap:
    """The depth of view `reference` by comparison with the views `sources`, from photographs alone."""
    views = [_view(images[i], intrinsics[i], camera_from_world[i]) for i in (reference, *sources)]
    where = np.ones(views[0].greys[0].shape, bool) if valid is None else valid
    salt = (seed, reference, 0)
    planes = _photometric(views[0], views[1:], depth_range, salt, where)
    return _finish(views[0], views[1:], depth_range, planes, where)


def depth_maps(
    images: Sequence[U8],
    intrinsics: F64,
    camera_from_world: F64,
    depth_ranges: F64,
    neighbours: Sequence[Sequence[int]],
    seed: int,
    valid: Sequence[Bools] | None = None,
    progress: Progress | None = None,
) -> tuple[DepthMap, ...]:
    count = len(images)
    views = [_view(image, K, pose) for image, K, pose in zip(images, intrinsics, camera_from_world, strict=True)]
    where = [np.ones(view.greys[0].shape, bool) for view in views] if valid is None else valid
    planes = []
    for i in range(count):
        others = [views[j] for j in neighbours[i]]
        planes.append(_photometric(views[i], others, depth_ranges[i], (seed, i, 0), where[i]))
        if progress is not None:
            progress(i + 1, 2 * count)
    depths = [1 / p[..., 0] for p in planes]
    out = []
    for i in range(count):
        others = [views[j] for j in neighbours[i]]
        camera, source = _level(views[i], others, [depths[j] for j in neighbours[i]], depth_ranges[i], 0)
        costs = np.full(views[i].greys[0].shape, WORST, np.float32)
        magnitudes = [0.5 ** (k) for k in range(GEOMETRIC_ITERATIONS)]
        mine = planes[i].copy()
        _run(mine, costs, where[i], views[i].greys[0], camera, source, (seed, i, 1), magnitudes, False, True)
        out.append(_finish(views[i], others, depth_ranges[i], mine, where[i]))
        if progress is not None:
            progress(count + i + 1, 2 * count)
    return tuple(out)
