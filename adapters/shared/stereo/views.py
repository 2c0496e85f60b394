"""Which views see the same things: the common viewing volume, depth ranges and source views.

Cameras are given as arrays throughout: `intrinsics` (N, 3, 3) float64 in pixels (top-left corner of the image at
(0, 0), first pixel's centre at (0.5, 0.5)), `camera_from_world` (N, 4, 4) float64 rigid, `sizes` (N, 2) width and
height in pixels. Images must be free of lens distortion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

SOURCES = 6  # source views a reference view: more cost more time and see less alike
GRID, SHELLS = 8, 96  # pixels a side and depths of the rays that sample a viewing volume
NEAREST, FARTHEST = 0.02, 50.0  # bounds of the volume's depth, in units of the largest baseline
BEST_ANGLE, NARROWER, WIDER = 10.0, 5.0, 12.0  # degrees: triangulation angle wanted, and how fast others lose
LEAST_ANGLE, MOST_ANGLE = 1.0, 65.0  # degrees: no depth from less, no common appearance beyond


def project(points: F64, K: F64, camera_from_world: F64, size: ArrayLike) -> tuple[F64, F64, Bools]:
    """World `points` (M, 3) -> pixel coordinates (M, 2), z-depth (M,), and which lie inside the image (M,)."""
    local = points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    depth = local[:, 2]
    front = depth > 1e-12
    homogeneous = local @ K.T
    pixel = homogeneous[:, :2] / np.where(front, homogeneous[:, 2], 1.0)[:, None]
    inside = front & (pixel >= 0).all(axis=1) & (pixel <= np.asarray(size, np.float64)).all(axis=1)
    return pixel, depth, inside


def centres(camera_from_world: F64) -> F64:
    """(N, 3) camera centres in the world frame."""
    return np.asarray(-np.einsum("nji,nj->ni", camera_from_world[:, :3, :3], camera_from_world[:, :3, 3]))


def frustum_points(K: F64, camera_from_world: F64, size: ArrayLike, depths: ArrayLike, grid: int = GRID) -> F64:
    """(grid * grid * D, 3) world points on a grid of the view's rays at the D z-`depths`."""
    width, height = np.asarray(size, np.float64)
    steps = (np.arange(grid) + 0.5) / grid
    u, v = np.meshgrid(steps * width, steps * height)
    rays = np.stack([u.ravel(), v.ravel(), np.ones(grid * grid)], axis=1) @ np.linalg.inv(K).T
    local = (rays[:, None] * np.asarray(depths, np.float64)[None, :, None]).reshape(-1, 3)
    return np.asarray((local - camera_from_world[:3, 3]) @ camera_from_world[:3, :3])


def viewing_volume(intrinsics: F64, camera_from_world: F64, sizes: ArrayLike) -> F64:
    """(M, 3) world points that sample the cameras' common viewing volume: what lies in at least half as many images as
    the most seen point does, and in two. It stands in for sparse points where only cameras are known.

    Raises ValueError where no two cameras see a common point or all stand at one place."""
    sizes = np.asarray(sizes)
    where = centres(camera_from_world)
    baseline = float(np.linalg.norm(where[:, None] - where[None], axis=2).max()) if len(where) else 0.0
    if baseline <= 0:
        raise ValueError(f"camera_from_world: {len(where)} cameras at one place seen, at least two places wanted")
    depths = np.geomspace(NEAREST * baseline, FARTHEST * baseline, SHELLS)
    points = np.concatenate(
        [
            frustum_points(K, pose, size, depths)
            for K, pose, size in zip(intrinsics, camera_from_world, sizes, strict=True)
        ]
    )
    views = np.zeros(len(points), np.int64)
    for K, pose, size in zip(intrinsics, camera_from_world, sizes, strict=True):
        views += project(points, K, pose, size)[2]
    if views.max() < 2:
        raise ValueError("camera_from_world: no point seen in two images, overlapping views wanted")
    return np.asarray(points[views >= max(2, (int(views.max()) + 1) // 2)])


def depth_ranges_from_points(
    points: ArrayLike,
    intrinsics: F64,
    camera_from_world: F64,
    sizes: ArrayLike,
    visible: Bools | None = None,
    margin: float = 0.15,
) -> F64:
    """(N, 2) nearest and farthest z-depth worth searching in each view: the 1st and 99th percentile of the points in
    it, widened by the share `margin` of themselves.

    `points` (M, 3) are sparse points or a `viewing_volume`, in the world frame; `visible` (N, M) says which view
    measured which point (default: every view whose image the point falls into). A view without points is given the
    widest range of the others; ValueError where no view has any."""
    cloud, sizes = np.asarray(points, np.float64), np.asarray(sizes)
    ranges = np.full((len(intrinsics), 2), np.nan)
    for i, (K, pose, size) in enumerate(zip(intrinsics, camera_from_world, sizes, strict=True)):
        _, depth, inside = project(cloud, K, pose, size)
        if visible is not None:
            inside &= visible[i]
        if inside.any():
            low, high = np.percentile(depth[inside], [1, 99])
            ranges[i] = low * (1 - margin), high * (1 + margin)
    empty = np.isnan(ranges[:, 0])
    if empty.all():
        raise ValueError(f"points: none of {len(cloud)} falls into any of {len(ranges)} views, at least one wanted")
    ranges[empty] = np.nanmin(ranges[:, 0]), np.nanmax(ranges[:, 1])
    return ranges


def select_neighbours(
    points: ArrayLike,
    intrinsics: F64,
    camera_from_world: F64,
    sizes: ArrayLike,
    count: int = SOURCES,
    visible: Bools | None = None,
) -> tuple[tuple[int, ...], ...]:
    """For each of N views at most `count` source views, best first: those that share points at a useful angle.

    A shared point counts by the angle it is seen under (a Gaussian around `BEST_ANGLE`, wider above than below, after
    Yao et al., "MVSNet", ECCV 2018, section 4.1) and by the likeness of its two scales. `points` and `visible` as in
    `depth_ranges_from_points`. A view may have fewer sources, or none."""
    cloud, sizes = np.asarray(points, np.float64), np.asarray(sizes)
    where = centres(camera_from_world)
    count_views = len(where)
    inside = np.zeros((count_views, len(cloud)), bool)
    scale = np.zeros((count_views, len(cloud)))  # pixels a unit of length at the point
    rays = np.zeros((count_views, len(cloud), 3), np.float32)
    for i, (K, pose, size) in enumerate(zip(intrinsics, camera_from_world, sizes, strict=True)):
        _, depth, inside[i] = project(cloud, K, pose, size)
        scale[i] = K[0, 0] / np.maximum(depth, 1e-12)
        away = cloud - where[i]
        rays[i] = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    if visible is not None:
        inside &= visible
    chosen = []
    for i in range(count_views):
        worth = np.zeros(count_views)
        for j in range(count_views):
            both = inside[i] & inside[j]
            if i == j or not both.any():
                continue
            cosine = np.einsum("md,md->m", rays[i, both], rays[j, both])
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            spread = np.where(angle < BEST_ANGLE, NARROWER, WIDER)
            weight = np.exp(-((angle - BEST_ANGLE) ** 2) / (2 * spread**2))
            weight[(angle < LEAST_ANGLE) | (angle > MOST_ANGLE)] = 0
            ratio = scale[i, both] / scale[j, both]
            worth[j] = float((weight * np.minimum(ratio, 1 / ratio)).sum())
        order = np.argsort(-worth, kind="stable")[:count]
        chosen.append(tuple(int(j) for j in order if worth[j] > 0))
    return tuple(chosen)
