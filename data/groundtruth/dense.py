"""The dense surface of a solved scene: depth maps, those that views agree on, one cloud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from adapters.contract import F32, F64, I32, U8, Bools, Cameras
from adapters.shared.stereo import (
    DepthMap,
    Progress,
    depth_maps,
    depth_ranges_from_points,
    filter_consistent,
    fuse,
    select_neighbours,
)
from data.groundtruth import cuda

# More forgiving than a contestant's filter: a hole in a truth misjudges whoever fills it, a little noise does not.
AGREEING_VIEWS = 2
AGREEING_DEPTH = 0.01
SIDE = 640  # pixels: stereo works on images brought down to this
MASK_MARGIN = 8  # pixels at that size by which masks are widened, so that the outline is matched too
MIN_SUPPORT = 3  # views that must agree on a point of the cloud
# What matches views, as `depth_maps` does.
Stereo = Callable[
    [Sequence[U8], F64, F64, F64, Sequence[Sequence[int]], int, Sequence[Bools], Progress], Sequence[DepthMap]
]


@dataclass(frozen=True)
class Solved:
    """V registered views of one scene with distortion-free images, and what is known of its points."""

    images: Sequence[U8]  # V of (H, W, 3), read on access
    masks: Sequence[Bools] | None
    cameras: Cameras
    sizes: I32  # (V, 2)
    points: F32  # (M, 3) sparse, same frame
    visible: Bools  # (V, M) which view measured which point

    def take(self, views: Sequence[int]) -> Solved:
        """Those of `views`, with the points that at least two of them measured."""
        rows = np.asarray(views)
        kept = self.visible[rows].sum(axis=0) >= 2
        return Solved(
            [self.images[i] for i in views],
            [self.masks[i] for i in views] if self.masks is not None else None,
            self.cameras.take(rows),
            self.sizes[rows],
            self.points[kept],
            self.visible[rows][:, kept],
        )


@dataclass(frozen=True)
class Dense:
    """A dense surface in the frame of the cameras it came from."""

    made_by: str  # "stereo" (ours, on the CPU) or "patch_match_stereo" (COLMAP's, CUDA)

    points: F32  # (M, 3)
    normals: F32  # (M, 3) unit length, towards the cameras
    colors: U8  # (M, 3)
    support: I32  # (M,) views that agree on a point
    maps: tuple[DepthMap, ...]  # V, at working size: what was confirmed
    images: Sequence[U8]  # V, at that size
    cameras: Cameras  # V, at that size
    coverage: float  # share of the pixels (of the masks', where there are masks) with a confirmed depth


def dense_surface(
    solved: Solved,
    *,
    seed: int,
    side: int | None = None,
    stereo: Stereo | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Dense:
    """Match every view against its best neighbours, keep what they confirm, fuse it.

    Images and intrinsics are brought down by the same exact factors to at most `side` pixels. By default COLMAP's
    PatchMatch where a CUDA device is there, our own stereo elsewhere; what follows is the same for both."""
    made_by = "stereo"
    if stereo is None and cuda.available():
        stereo, made_by, side = cuda.patch_match_maps, "patch_match_stereo", side or cuda.SIDE
    stereo, side = stereo or depth_maps, side or SIDE
    images, valid, intrinsics, sizes = [], [], [], []
    for index in range(len(solved.cameras)):
        image = solved.images[index]
        height, width = image.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        images.append(_shrink(image, size))
        mask = np.ones(size[::-1], np.bool_) if solved.masks is None else shrink_mask(solved.masks[index], size)
        valid.append(mask)
        factors = np.array([size[0] / width, size[1] / height, 1.0])
        intrinsics.append(factors[:, None] * solved.cameras.intrinsics[index])
        sizes.append(size)
    K, pose = np.array(intrinsics), solved.cameras.camera_from_world
    looked_at = [binary_dilation(mask, iterations=MASK_MARGIN) for mask in valid] if solved.masks is not None else valid
    ranges = depth_ranges_from_points(solved.points, K, pose, sizes, visible=solved.visible)
    neighbours = select_neighbours(solved.points, K, pose, sizes, visible=solved.visible)
    maps = stereo(images, K, pose, ranges, neighbours, seed, looked_at, lambda done, of: progress(0.95 * done / of))
    kept = filter_consistent(maps, K, pose, neighbours, views=AGREEING_VIEWS, relative=AGREEING_DEPTH)
    cloud = fuse(kept, images, K, pose, neighbours, min_support=MIN_SUPPORT)
    progress(1.0)
    confirmed = sum(int(((m.depth > 0) & mask).sum()) for m, mask in zip(kept, valid, strict=True))
    coverage = confirmed / max(sum(int(mask.sum()) for mask in valid), 1)
    return Dense(
        made_by, cloud.points, cloud.normals, cloud.colors, cloud.support, kept, images, Cameras(K, pose), coverage
    )


def _shrink(image: U8, size: tuple[int, int]) -> U8:
    if size == (image.shape[1], image.shape[0]):
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), np.uint8)


def shrink_mask(mask: Bools, size: tuple[int, int]) -> Bools:
    """`mask` (H, W) at a smaller `size` (w, h): true where most of a small pixel is."""
    return np.asarray(_shrink(mask.astype(np.uint8) * 255, size) > 127)


def enlarge(depth: F32, size: tuple[int, int]) -> F32:
    """`depth` (h, w) at full `size` (W, H): each pixel takes the depth of the small pixel its centre falls into."""
    width, height = size
    rows = ((np.arange(height) + 0.5) * depth.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * depth.shape[1] / width).astype(np.int64)
    return depth[np.ix_(rows, columns)]
