"""Multi-view stereo on the CPU: cameras and photographs in, depth maps and a fused cloud out.

    dense = reconstruct(images, K, pose, seed=0)

or, step by step:

    points = viewing_volume(K, pose, sizes)  # or sparse points of structure from motion
    ranges = depth_ranges_from_points(points, K, pose, sizes)
    neighbours = select_neighbours(points, K, pose, sizes)
    maps = depth_maps(images, K, pose, ranges, neighbours, seed=0)
    kept = filter_consistent(maps, K, pose, neighbours)
    cloud = fuse(kept, images, K, pose, neighbours)

Plain arrays throughout: images (H, W, 3) uint8 free of lens distortion, `K` (N, 3, 3) and `pose` (N, 4, 4) float64,
camera from world, OpenCV axes, pixel centres at half-integers. numpy and numba only.
"""

from adapters.shared.stereo.fusion import Fused, filter_consistent, fuse
from adapters.shared.stereo.patchmatch import DepthMap, Progress, depth_map, depth_maps
from adapters.shared.stereo.pipeline import Dense, reconstruct, warm_up
from adapters.shared.stereo.views import depth_ranges_from_points, select_neighbours, viewing_volume

__all__ = [
    "Dense",
    "DepthMap",
    "Fused",
    "Progress",
    "depth_map",
    "depth_maps",
    "depth_ranges_from_points",
    "filter_consistent",
    "fuse",
    "reconstruct",
    "select_neighbours",
    "viewing_volume",
    "warm_up",
]
