"""From depth maps to one cloud: geometric consistency, then fusion.

Both compare a pixel with what other views measured where it falls: the pixel's point is projected into the other view,
the depth found there is carried back, and the two agree when it lands close to the pixel at nearly its depth
(Schonberger et al., ECCV 2016, section 4.3; Galliani et al., ICCV 2015, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from adapters.shared.stereo.kernels import F32, F64, I64, U8, Bools
from adapters.shared.stereo.patchmatch import DepthMap

I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Fused:
    """A cloud in the world frame, one point for each group of pixels that agree."""

    points: F32  # (M, 3)
    normals: F32  # (M, 3) unit length, facing the views they were seen in
    colors: U8  # (M, 3) mean over the agreeing pixels
    view_index: I32  # (M,) the view the point was started from
    pixel: F32  # (M, 2) where in that view, x then y
    support: I32  # (M,) views that agree, that one included
    cost: F32  # (M,) mean 1 - NCC of the agreeing pixels


class _Maps(NamedTuple):
    """All depth maps flattened, so that views may differ in size."""

    depth: F32  # (P,)
    start: I64  # (N,) first pixel of each view
    size: I64  # (N, 2) width, height
    K: F64  # (N, 3, 3)
    inverse: F64  # (N, 3, 3) of K
    pose: F64  # (N, 4, 4) camera from world


class _Looks(NamedTuple):
    """What else is known of every pixel, parallel to `_Maps.depth`."""

    normal: F32  # (P, 3) world frame
    cost: F32  # (P,)
    color: U8  # (P, 3)
    used: Bools  # (P,) already part of a point


class _Out(NamedTuple):
    """The points of one view, filled from the front."""

    point: F32
    normal: F32
    color: U8
    pixel: F32
    support: I32
    cost: F32


_ROW: dict[str, Any] = {"cache": True, "error_model": "numpy", "nogil": True, "_nrt": False}  # see kernels.py
_LEAF: dict[str, Any] = {**_ROW, "forceinline": True}


def _flatten(maps: Sequence[DepthMap], intrinsics: F64, camera_from_world: F64) -> _Maps:
    lengths = [m.depth.size for m in maps]
    return _Maps(
        np.concatenate([m.depth.ravel() for m in maps]),
        np.cumsum([0, *lengths[:-1]]).astype(np.int64),
        np.array([m.depth.shape[::-1] for m in maps], np.int64),
        np.asarray(intrinsics, np.float64),
        np.asarray(np.linalg.inv(intrinsics), np.float64),
        np.asarray(camera_from_world, np.float64),
    )


@njit(**_LEAF)
def _unproject(maps: _Maps, i: int, u: float, v: float, z: float) -> tuple[float, float, float]:
    """Pixel coordinates (u, v) of view i at depth z -> world."""
    P = maps.pose
    a = (maps.inverse[i, 0, 0] * u + maps.inverse[i, 0, 1] * v + maps.inverse[i, 0, 2]) * z - P[i, 0, 3]
    b = (maps.inverse[i, 1, 1] * v + maps.inverse[i, 1, 2]) * z - P[i, 1, 3]
    c = z - P[i, 2, 3]
    return (
        P[i, 0, 0] * a + P[i, 1, 0] * b + P[i, 2, 0] * c,
        P[i, 0, 1] * a + P[i, 1, 1] * b + P[i, 2, 1] * c,
        P[i, 0, 2] * a + P[i, 1, 2] * b + P[i, 2, 2] * c,
    )


@njit(**_LEAF)
def _project(maps: _Maps, i: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """World point -> pixel coordinates and depth in view i; depth <= 0 behind the camera."""
    P, K = maps.pose, maps.K
    a = P[i, 0, 0] * x + P[i, 0, 1] * y + P[i, 0, 2] * z + P[i, 0, 3]
    b = P[i, 1, 0] * x + P[i, 1, 1] * y + P[i, 1, 2] * z + P[i, 1, 3]
    c = P[i, 2, 0] * x + P[i, 2, 1] * y + P[i, 2, 2] * z + P[i, 2, 3]
    return (K[i, 0, 0] * a + K[i, 0, 1] * b) / c + K[i, 0, 2], K[i, 1, 1] * b / c + K[i, 1, 2], c


@njit(**_LEAF)
def _partner(maps: _Maps, i: int, x: int, y: int, z: float, j: int, pixels: float, relative: float) -> int:
    """Index of the pixel of view j that agrees with pixel (x, y) of view i at depth z; -1 where view j measured nothing
    there or something nearer, -2 where it saw through the point."""
    wx, wy, wz = _unproject(maps, i, x + 0.5, y + 0.5, z)
    u, v, depth = _project(maps, j, wx, wy, wz)
    width, height = maps.size[j, 0], maps.size[j, 1]
    if not (depth > 1e-12 and 0 <= u < width and 0 <= v < height):
        return -1
    iu, iv = int(u), int(v)
    index = maps.start[j] + iv * width + iu
    there = maps.depth[index]
    if there <= 0:
        return -1
    wx, wy, wz = _unproject(maps, j, iu + 0.5, iv + 0.5, there)
    u, v, back = _project(maps, i, wx, wy, wz)
    if abs(back - z) < relative * z and (u - x - 0.5) ** 2 + (v - y - 0.5) ** 2 < pixels * pixels:
        return int(index)
    return -2 if there > depth * (1 + 2 * relative) else -1


@njit(**_ROW)
def _agreeing_row(
    maps: _Maps, i: int, y: int, others: I64, views: int, pixels: float, relative: float, keep: Bools
) -> None:
    width = maps.size[i, 0]
    for x in range(width):
        z = maps.depth[maps.start[i] + y * width + x]
        agree, against = 0, 0
        if z > 0:
            for k in range(others.shape[0]):
                partner = _partner(maps, i, x, y, z, others[k], pixels, relative)
                agree += partner >= 0
                against += partner == -2
        keep[y, x] = agree >= views and agree > against


@njit(parallel=True, cache=True, error_model="numpy")
def _agreeing(maps: _Maps, i: int, others: I64, views: int, pixels: float, relative: float, keep: Bools) -> None:
    """Set `keep` (H, W) where at least `views` of `others` agree with view i, and more than see through it."""
    for y in prange(keep.shape[0]):
        _agreeing_row(maps, i, y, others, views, pixels, relative, keep)


def filter_consistent(
    maps: Sequence[DepthMap],
    intrinsics: F64,
    camera_from_world: F64,
    neighbours: Sequence[Sequence[int]],
    views: int = 3,
    pixels: float = 1.5,
    relative: float = 0.005,
    max_cost: float = 0.5,
) -> tuple[DepthMap, ...]:
    """The maps with only those pixels left that at least `views` neighbours confirm, and more confirm than see through.

    A neighbour confirms a pixel when its own depth, carried back, falls within `pixels` of it and within the share
    `relative` of its depth. Pixels whose photometric cost exceeds `max_cost` are dropped first, on both sides.
    `neighbours[i]` are the views compared with view i; where they are three or fewer, one may fail to confirm or the
    only one must. Cameras as in `depth_maps`."""
    cheap = [m.keep(m.cost <= max_cost) for m in maps]
    flat = _flatten(cheap, intrinsics, camera_from_world)
    out = []
    for i, m in enumerate(cheap):
        keep = np.zeros(m.depth.shape, np.bool_)
        others = np.array(neighbours[i], np.int64)
        _agreeing(flat, i, others, min(views, max(1, len(others) - 1)), pixels, relative, keep)
        out.append(m.keep(keep))
    return tuple(out)


@njit(**_ROW)
def _fuse_view(
    maps: _Maps, looks: _Looks, i: int, others: I64, pixels: float, relative: float, members: I64, out: _Out
) -> int:
    """Fuse what is left of view i into `out`; returns the number of points written.

    One thread, row by row: which pixels are left depends on the order. `members` (1 + others,) is scratch."""
    width, height = maps.size[i, 0], maps.size[i, 1]
    count = 0
    for y in range(height):
        for x in range(width):
            here = maps.start[i] + y * width + x
            z = maps.depth[here]
            if z <= 0 or looks.used[here]:
                continue
            px, py, pz = _unproject(maps, i, x + 0.5, y + 0.5, z)
            members[0], n = here, 1
            for k in range(others.shape[0]):
                j = others[k]
                index = _partner(maps, i, x, y, z, j, pixels, relative)
                if index < 0:
                    continue
                cosine = np.float32(0)
                for c in range(3):
                    cosine += looks.normal[index, c] * looks.normal[here, c]
                if cosine > 0.5:
                    local = index - maps.start[j]
                    row = local // maps.size[j, 0]
                    qx, qy, qz = _unproject(maps, j, local - row * maps.size[j, 0] + 0.5, row + 0.5, maps.depth[index])
                    px, py, pz = px + qx, py + qy, pz + qz
                    members[n] = index
                    n += 1
            norm, cost = 0.0, 0.0
            for c in range(3):
                normal, color = 0.0, 0.0
                for m in range(n):
                    normal += looks.normal[members[m], c]
                    color += looks.color[members[m], c]
                out.normal[count, c] = normal
                out.color[count, c] = np.uint8(color / n + 0.5)
                norm += normal * normal
            for c in range(3):
                out.normal[count, c] /= sqrt(norm)
            for m in range(n):
                cost += looks.cost[members[m]]
                looks.used[members[m]] = True
            out.point[count, 0], out.point[count, 1], out.point[count, 2] = px / n, py / n, pz / n
            out.pixel[count, 0], out.pixel[count, 1] = x + 0.5, y + 0.5
            out.support[count], out.cost[count] = n, cost / n
            count += 1
    return count


def fuse(
    maps: Sequence[DepthMap],
    images: Sequence[U8],
    intrinsics: F64,
    camera_from_world: F64,
    neighbours: Sequence[Sequence[int]],
    pixels: float = 1.5,
    relative: float = 0.01,
    min_support: int = 2,
) -> Fused:
    """Merge filtered depth maps: view by view, each pixel not yet used is averaged with the pixels of its neighbours
    that agree with it (as in `filter_consistent`, and whose normals lie within 60 degrees), which are then used up.

    Points of fewer than `min_support` views are left out: what confirmed them was not confirmed itself. `images`
    (H, W, 3) uint8 give the colours."""
    flat = _flatten(maps, intrinsics, camera_from_world)
    looks = _Looks(
        normal=np.concatenate(
            [m.normal.reshape(-1, 3) @ pose[:3, :3].astype(np.float32) for m, pose in zip(maps, flat.pose, strict=True)]
        ),
        cost=np.concatenate([m.cost.ravel() for m in maps]),
        color=np.concatenate([image.reshape(-1, 3) for image in images]),
        used=np.zeros(len(flat.depth), np.bool_),
    )
    parts: list[_Out] = []
    for i, m in enumerate(maps):
        size, others = int((m.depth > 0).sum()), np.array(neighbours[i], np.int64)
        out = _Out(
            point=np.empty((size, 3), np.float32),
            normal=np.empty((size, 3), np.float32),
            color=np.empty((size, 3), np.uint8),
            pixel=np.empty((size, 2), np.float32),
            support=np.empty(size, np.int32),
            cost=np.empty(size, np.float32),
        )
        count = _fuse_view(flat, looks, i, others, pixels, relative, np.empty(len(others) + 1, np.int64), out)
        enough = out.support[:count] >= min_support
        parts.append(_Out._make(column[:count][enough] for column in out))
    view = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.point) for part in parts])
    point, normal, color, pixel, support, cost = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Fused(point, normal, color, view, pixel, support, cost)
