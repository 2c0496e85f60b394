"""From depth maps to one cloud: geometric consistency, then fusion.

Both compare a pixel with what other views measured where it falls: the pixel's point is projected into the other view,
the depth found there is carried back, and the two agree when it lands close to the pixel at nearly its depth
(Schonberger et al., ECCV 2016, section 4.3; Galliani et al., ICCV 2015, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from adapters.stereo.patchmatch import DepthMap

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Bools = NDArray[np.bool_]


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
    start: NDArray[np.int64]  # (N,) first pixel of each view
    size: NDArray[np.int64]  # (N, 2) width, height
    K: F64  # (N, 3, 3)
    inverse: F64  # (N, 3, 3) of K
    pose: F64  # (N, 4, 4) camera from world


def _flatten(maps: Sequence[DepthMap], intrinsics: F64, camera_from_world: F64) -> _Maps:
    lengths = [m.depth.size for m in maps]
    return _Maps(
        np.concatenate([m.depth.ravel() for m in maps]),
        np.cumsum([0, *lengths[:-1]]).astype(np.int64),
        np.array([m.depth.shape[::-1] for m in maps], np.int64),
        np.asarray(intrinsics, np.float64),
        np.linalg.inv(intrinsics),
        np.asarray(camera_from_world, np.float64),
    )


@njit(cache=True, error_model="numpy")
def _partner(maps, i, x, y, z, j, pixels, relative):  # type: ignore[no-untyped-def]
    """Index in view j of the pixel that agrees with pixel (x, y) of view i at depth z, else -1 (nothing there, or
    hidden) or -2 (view j saw through the point)."""
    world = np.empty(3)
    _lift(maps, i, x + 0.5, y + 0.5, z, world)
    u, v, depth = _drop(maps, j, world)
    width, height = maps.size[j, 0], maps.size[j, 1]
    if not (depth > 0 and 0 <= u < width and 0 <= v < height):
        return -1
    iu, iv = np.int64(u), np.int64(v)
    there = maps.depth[maps.start[j] + iv * width + iu]
    if there <= 0:
        return -1
    _lift(maps, j, iu + 0.5, iv + 0.5, there, world)
    u, v, back = _drop(maps, i, world)
    if abs(back - z) < relative * z and (u - x - 0.5) ** 2 + (v - y - 0.5) ** 2 < pixels * pixels:
        return iv * width + iu
    return -2 if there > depth * (1 + 2 * relative) else -1


@njit(cache=True, error_model="numpy")
def _lift(maps, i, u, v, z, out):  # type: ignore[no-untyped-def]
    """Pixel coordinates (u, v) of view i at depth z -> world, into `out` (3,)."""
    K, P = maps.inverse[i], maps.pose[i]
    a = (K[0, 0] * u + K[0, 1] * v + K[0, 2]) * z - P[0, 3]
    b = (K[1, 1] * v + K[1, 2]) * z - P[1, 3]
    c = z - P[2, 3]
    for k in range(3):
        out[k] = P[0, k] * a + P[1, k] * b + P[2, k] * c


@njit(cache=True, error_model="numpy")
def _drop(maps, i, world):  # type: ignore[no-untyped-def]
    """World point -> pixel coordinates and depth in view i."""
    K, P = maps.K[i], maps.pose[i]
    a = P[0, 0] * world[0] + P[0, 1] * world[1] + P[0, 2] * world[2] + P[0, 3]
    b = P[1, 0] * world[0] + P[1, 1] * world[1] + P[1, 2] * world[2] + P[1, 3]
    c = P[2, 0] * world[0] + P[2, 1] * world[1] + P[2, 2] * world[2] + P[2, 3]
    if c <= 1e-12:
        return -1.0, -1.0, -1.0
    return (K[0, 0] * a + K[0, 1] * b) / c + K[0, 2], K[1, 1] * b / c + K[1, 2], c


@njit(parallel=True, cache=True, error_model="numpy")
def _agreeing(maps, i, others, views, pixels, relative, keep):  # type: ignore[no-untyped-def]
    """Set `keep` (H, W) where at least `views` of `others` agree with view i, and more than see through it."""
    width, height = maps.size[i, 0], maps.size[i, 1]
    for y in prange(height):
        for x in range(width):
            z = maps.depth[maps.start[i] + y * width + x]
            agree, against = 0, 0
            if z > 0:
                for k in range(others.shape[0]):
                    partner = _partner(maps, i, x, y, z, others[k], pixels, relative)
                    agree += partner >= 0
                    against += partner == -2
            keep[y, x] = agree >= views and agree > against


def filter_consistent(
    maps: Sequence[DepthMap],
    intrinsics: F64,
    camera_from_world: F64,
    neighbours: Sequence[Sequence[int]],
    views: int = 2,
    pixels: float = 1.5,
    relative: float = 0.01,
    max_cost: float = 0.5,
) -> tuple[DepthMap, ...]:
    """The maps with only those pixels left that at least `views` neighbours confirm, and more confirm than see through.

    A neighbour confirms a pixel when its own depth, carried back, falls within `pixels` of it and within the share
    `relative` of its depth. Pixels whose photometric cost exceeds `max_cost` are dropped first, on both sides.
    `neighbours[i]` are the views compared with view i; cameras as in `views`."""
    cheap = [m.keep(m.cost <= max_cost) for m in maps]
    flat = _flatten(cheap, intrinsics, camera_from_world)
    out = []
    for i, m in enumerate(cheap):
        keep = np.zeros(m.depth.shape, np.bool_)
        _agreeing(flat, i, np.array(neighbours[i], np.int64), views, pixels, relative, keep)
        out.append(m.keep(keep))
    return tuple(out)


@njit(cache=True, error_model="numpy")
def _fuse_view(
    maps,
    i,
    others,
    normals,
    costs,
    colors,
    pixels,
    relative,
    used,
    points,
    out_normals,
    out_colors,
    where,
    support,
    out_cost,
):  # type: ignore[no-untyped-def]
    """Fuse what is left of view i; returns the number of points written. Rows in order, so the result is one."""
    width, height = maps.size[i, 0], maps.size[i, 1]
    members = np.empty(others.shape[0] + 1, np.int64)
    owners = np.empty(others.shape[0] + 1, np.int64)
    world = np.empty(3)
    count = 0
    for y in range(height):
        for x in range(width):
            here = maps.start[i] + y * width + x
            z = maps.depth[here]
            if z <= 0 or used[here]:
                continue
            members[0], owners[0], n = here, i, 1
            for k in range(others.shape[0]):
                j = others[k]
                partner = _partner(maps, i, x, y, z, j, pixels, relative)
                if partner >= 0:
                    index = maps.start[j] + partner
                    cosine = 0.0
                    for c in range(3):
                        cosine += normals[index, c] * normals[here, c]
                    if cosine > 0.5:
                        members[n], owners[n] = index, j
                        n += 1
            for c in range(3):
                points[count, c] = 0
                out_normals[count, c] = 0
            color = np.zeros(3)
            cost = 0.0
            for m in range(n):
                index, j = members[m], owners[m]
                local = index - maps.start[j]
                _lift(maps, j, local % maps.size[j, 0] + 0.5, local // maps.size[j, 0] + 0.5, maps.depth[index], world)
                for c in range(3):
                    points[count, c] += world[c] / n
                    out_normals[count, c] += normals[index, c]
                    color[c] += colors[index, c]
                cost += costs[index]
                used[index] = True
            norm = np.sqrt((out_normals[count] ** 2).sum())
            for c in range(3):
                out_normals[count, c] /= norm
                out_colors[count, c] = np.uint8(color[c] / n + 0.5)
            where[count, 0], where[count, 1] = x + 0.5, y + 0.5
            support[count], out_cost[count] = n, cost / n
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
    min_support: int = 1,
) -> Fused:
    """Merge filtered depth maps: view by view, each pixel not yet used is averaged with the pixels of its neighbours
    that agree with it (as in `filter_consistent`, and whose normals lie within 60 degrees), which are then used up.
    Points of fewer than `min_support` views are left out. `images` (H, W, 3) uint8 give the colours."""
    flat = _flatten(maps, intrinsics, camera_from_world)
    normals = np.concatenate(
        [
            m.normal.reshape(-1, 3) @ pose[:3, :3].astype(np.float32)
            for m, pose in zip(maps, camera_from_world, strict=True)
        ]
    )
    costs = np.concatenate([m.cost.ravel() for m in maps])
    colors = np.concatenate([image.reshape(-1, 3) for image in images])
    used = np.zeros(len(flat.depth), np.bool_)
    parts = []
    for i, m in enumerate(maps):
        size = int((m.depth > 0).sum())
        arrays = (
            np.empty((size, 3), np.float64),
            np.empty((size, 3), np.float32),
            np.empty((size, 3), np.uint8),
            np.empty((size, 2), np.float32),
            np.empty(size, np.int32),
            np.empty(size, np.float32),
        )
        others = np.array(neighbours[i], np.int64)
        n = _fuse_view(flat, i, others, normals, costs, colors, pixels, relative, used, *arrays)
        enough = arrays[4][:n] >= min_support
        parts.append((*(a[:n][enough] for a in arrays), np.full(int(enough.sum()), i, np.int32)))
    points, out_normals, out_colors, where, support, cost, view = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Fused(points.astype(np.float32), out_normals, out_colors, view, where, support, cost)
