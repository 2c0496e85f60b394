"""What a measured truth knows: the points that their neighbourhood bears out, and the space that views saw to be free.

`metrics.scoring.knowledge` judges by it. Lengths are shares of the scene's diameter."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, minimum_filter
from scipy.spatial import cKDTree

from adapters.contract import F32, F64, I32, U8, Bools, Cameras
from data.groundtruth.dense import Dense, shrink_mask
from metrics.scoring.knowledge import OUTLINE, astray
from metrics.scoring.truth import Box, Knowledge

I64 = NDArray[np.int64]

BALL = 0.015  # radius of the neighbourhood that bears a point out
DENSE = 20.0  # confirmed pixels (sum of support) a square of 1% at least: wrong points are sparse
ROUGH = 0.0025  # RMS distance of the neighbourhood from the point's tangent plane at most: or rough
MOST_NEIGHBOURS = 200_000  # of a denser cloud an even part is looked at
VOXEL = 0.005  # edge of the grid of free space
MARGIN = 0.0075  # free space ends so far before a measured depth, the bound on the error of trusted depth
VIEWS = 2  # must carve a voxel: one view's depth alone is wrong too often


def knowledge_of(
    surface: F32, trusted: Bools, dense: Dense, masks: Sequence[Bools] | None, box: Box, diameter: float, error: float
) -> Knowledge:
    """What the truth of points `surface` (M, 3), of which `trusted` (M,) are, knows within `box`.

    `dense` is what they come from, `masks` V of (H, W) at full size, `error` the expected distance of a trusted point
    from the real surface, share of the diameter."""
    sizes = [depth_map.depth.shape[::-1] for depth_map in dense.maps]
    small = [shrink_mask(mask, size) for mask, size in zip(masks, sizes, strict=True)] if masks is not None else None
    depth = [depth_map.depth for depth_map in dense.maps]
    low, edge, free = free_space(surface[trusted], depth, small, dense.cameras, box, diameter)
    return Knowledge(trusted, free, low, edge, error)


def trusted_points(points: F32, normals: F32, support: I32, chosen: I64, diameter: float) -> Bools:
    """(K,) bool: which of the fused points `chosen` (K,) can be trusted.

    `points` (M, 3) and unit `normals` (M, 3) are the whole fused cloud, `support` (M,) the views that agree on each. A
    point is trusted where enough confirmed pixels lie in the ball around it, and these on one plane."""
    radius = BALL * diameter
    cloud = points.astype(np.float64)
    cell = np.floor((cloud - cloud.min(axis=0)) / radius).astype(np.int64) + 1
    size = cell.max(axis=0) + 2
    key = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    order = np.argsort(key, kind="stable")
    first = np.searchsorted(key[order], np.arange(size.prod() + 1))
    step = max(len(points) // MOST_NEIGHBOURS, 1)
    mass, rough = _patches(
        cloud[order],
        support[order].astype(np.float64),
        first,
        cloud[chosen],
        normals[chosen].astype(np.float64),
        cell[chosen],
        size,
        radius,
        step,
    )
    dense = step * mass >= DENSE * np.pi * (100 * BALL) ** 2
    return np.asarray(dense & (rough <= ROUGH * diameter))


@njit(cache=True, nogil=True)
def _patches(
    points: F64, support: F64, first: I64, at: F64, up: F64, cell: I64, size: I64, radius: float, step: int
) -> tuple[F64, F64]:
    """For each point of `at` (K, 3) with unit normals `up`: sum of support within `radius`, and the RMS distance there
    from the tangent plane. `points` are sorted by cells of that edge, whose first members are `first`."""
    mass, rough = np.zeros(len(at)), np.zeros(len(at))
    for i in range(len(at)):
        count = 0
        for a in range(-1, 2):
            for b in range(-1, 2):
                # Three neighbouring cells along the last axis follow each other.
                k = ((cell[i, 0] + a) * size[1] + cell[i, 1] + b) * size[2] + cell[i, 2]
                for m in range(first[k - 1], first[k + 2]):
                    if m % step:
                        continue
                    x, y, z = points[m, 0] - at[i, 0], points[m, 1] - at[i, 1], points[m, 2] - at[i, 2]
                    if x * x + y * y + z * z > radius * radius:
                        continue
                    height = x * up[i, 0] + y * up[i, 1] + z * up[i, 2]
                    count += 1
                    mass[i] += support[m]
                    rough[i] += height * height
        rough[i] = sqrt(rough[i] / max(count, 1))
    return mass, rough


def free_space(
    surface: F32,
    depth: Sequence[F32],
    masks: Sequence[Bools] | None,
    cameras: Cameras,
    box: Box,
    diameter: float,
) -> tuple[F64, float, Bools]:
    """The grid over `box` of space known to hold no surface: its corner (3,), the edge of a voxel, and (X, Y, Z) bool.

    Two views at least must carve a voxel: by their own filtered `depth` (V of (h, w), 0 = none; `cameras` have that
    size), where what a pixel measured lies at trusted `surface` (K, 3); or by their `masks` (V of (h, w)). A view whose
    mask that surface misses has a wrong camera and carves nothing."""
    edge = VOXEL * diameter
    low = np.array(box.low)
    shape = np.ceil((np.array(box.high) - low) / edge).astype(np.int64)
    carved = np.zeros(shape, np.uint8)
    tree = cKDTree(surface)
    wrong = astray(cameras, masks, surface) if masks is not None else np.zeros(len(depth), np.bool_)
    for view, buffer in enumerate(depth):
        if wrong[view]:
            continue
        K, pose = cameras.intrinsics[view], cameras.camera_from_world[view]
        clear = _clear_depth(buffer, K, pose, tree, MARGIN * diameter)
        if masks is not None:
            mask = masks[view]
            away = distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
            clear[away > OUTLINE] = np.inf
        _carve(carved, low, edge, K @ pose[:3], clear)
    free = carved >= VIEWS
    at = np.floor((surface - low) / edge).astype(np.int64)
    at = at[((at >= 0) & (at < shape)).all(axis=1)]
    free[tuple(at.T)] = False  # trusted surface, whatever passes through it
    return low, edge, free


def _clear_depth(depth: F32, K: F64, pose: F64, surface: cKDTree, margin: float) -> F32:
    """(h, w) depth up to which a pixel's ray is free: the least trusted depth of 3 x 3 pixels, less `margin`; 0 where
    the view knows nothing. A depth is trusted where the point it stands for lies within `margin` of `surface`."""
    row, column = np.nonzero(depth > 0)
    z = depth[row, column].astype(np.float64)
    ray = np.stack([column + 0.5, row + 0.5, np.ones(len(row))], axis=1) @ np.linalg.inv(K).T
    world = (ray * z[:, None] - pose[:3, 3]) @ pose[:3, :3]
    near = np.isfinite(surface.query(world, distance_upper_bound=margin)[0])
    trusted = np.full(depth.shape, np.inf, np.float32)
    trusted[row[near], column[near]] = z[near]
    least = minimum_filter(trusted, 3, mode="nearest")
    return np.where(np.isfinite(least), least - margin, 0).astype(np.float32)


@njit(cache=True, nogil=True)
def _carve(carved: U8, low: F64, edge: float, P: F64, clear: F32) -> None:
    """Count in `carved` (X, Y, Z) the voxels whose centre a view with the projection `P` (3, 4) saw through."""
    height, width = clear.shape
    for i in range(carved.shape[0]):
        x = low[0] + (i + 0.5) * edge
        for j in range(carved.shape[1]):
            y = low[1] + (j + 0.5) * edge
            for k in range(carved.shape[2]):
                z = low[2] + (k + 0.5) * edge
                d = P[2, 0] * x + P[2, 1] * y + P[2, 2] * z + P[2, 3]
                if d <= 0:
                    continue
                u = (P[0, 0] * x + P[0, 1] * y + P[0, 2] * z + P[0, 3]) / d
                v = (P[1, 0] * x + P[1, 1] * y + P[1, 2] * z + P[1, 3]) / d
                if 0 <= u < width and 0 <= v < height and d < clear[int(v), int(u)]:
                    carved[i, j, k] += 1
