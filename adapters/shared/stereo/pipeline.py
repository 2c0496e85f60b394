"""The whole way from photographs and cameras to a cloud, at a bounded working size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adapters.shared.stereo.fusion import Fused, filter_consistent, fuse
from adapters.shared.stereo.patchmatch import Progress, depth_maps
from adapters.shared.stereo.views import depth_ranges_from_points, select_neighbours, viewing_volume

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Bools = NDArray[np.bool_]

MAX_SIDE = 1000  # pixels: larger images are halved until they fit


@dataclass(frozen=True)
class Dense:
    """What N views show, pixels at the images' original size."""

    cloud: Fused
    depth: tuple[F32, ...]  # N maps (H, W) of z-depth that other views confirm, 0 = none


def reconstruct(
    images: Sequence[U8],
    intrinsics: F64,
    camera_from_world: F64,
    seed: int,
    points: NDArray[np.floating] | None = None,
    visible: Bools | None = None,
    progress: Progress | None = None,
) -> Dense:
    """Depth of every view and the fused cloud of what three views agree on (two, where a view has few sources).

    Points are in the cameras' frame. `points` (M, 3) and `visible` (N, M) are sparse points and the views that measured
    them, which say where to look; without them the cameras' common viewing volume is searched. Other arguments as in
    `depth_maps`. The cloud may be empty. Raises ValueError where no two views overlap."""
    halvings = [0] * len(images)
    small, K = list(images), np.array(intrinsics, np.float64)
    for i in range(len(small)):
        while max(small[i].shape[:2]) > MAX_SIDE:
            small[i], halvings[i] = _halve(small[i]), halvings[i] + 1
            K[i, :2] /= 2  # exact: pixel corners coincide
    pose = np.asarray(camera_from_world, np.float64)
    sizes = [image.shape[1::-1] for image in small]
    looked_at = viewing_volume(K, pose, sizes) if points is None else points
    ranges = depth_ranges_from_points(looked_at, K, pose, sizes, visible)
    neighbours = select_neighbours(looked_at, K, pose, sizes, visible=visible)
    maps = filter_consistent(
        depth_maps(small, K, pose, ranges, neighbours, seed, progress=progress), K, pose, neighbours
    )
    support = 2 if min(len(others) for others in neighbours) < 3 else 3  # as many as the filter asked for, if it could
    cloud = fuse(maps, small, K, pose, neighbours, min_support=support)
    factor = np.array([2.0**n for n in halvings], np.float32)
    depth = tuple(_enlarge(m.depth, n, image.shape) for m, n, image in zip(maps, halvings, images, strict=True))
    return Dense(replace(cloud, pixel=cloud.pixel * factor[cloud.view_index, None]), depth)


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, on two views of noise."""
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    K, pose = np.tile(np.diag([32.0, 32.0, 1.0]), (2, 1, 1)), np.tile(np.eye(4), (2, 1, 1))
    K[:, :2, 2], pose[1, 0, 3] = 16.0, -0.1
    reconstruct([image, image], K, pose, seed=0, points=np.array([[0.0, 0.0, 0.9], [0.0, 0.0, 1.1]]))


def _halve(image: U8) -> U8:
    """Mean of 2 x 2 blocks, rounded; an odd last row or column is dropped."""
    h, w = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    total = sum(image[j:h:2, i:w:2].astype(np.uint16) for j in (0, 1) for i in (0, 1))
    return np.asarray((total + 2) // 4, np.uint8)


def _enlarge(depth: F32, halvings: int, shape: tuple[int, ...]) -> F32:
    """`depth` of an image halved so many times at the original `shape` (H, W, ...): each pixel's containing one."""
    if halvings == 0:
        return depth
    rows, columns = ((np.arange(n) >> halvings) for n in shape[:2])
    out = np.zeros(shape[:2], np.float32)
    inside = np.ix_(rows < depth.shape[0], columns < depth.shape[1])
    out[inside] = depth[np.ix_(rows[rows < depth.shape[0]], columns[columns < depth.shape[1]])]
    return out
