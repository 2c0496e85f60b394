"""Depth maps by COLMAP's own PatchMatch, where a CUDA device is really there (Schoenberger et al., "Pixelwise View
Selection for Unstructured Multi-View Stereo", ECCV 2016).

A pycolmap built with CUDA aborts without a device, so the device count is queried first, and the work runs in a process
of its own: `python -m data.groundtruth.cuda WORKSPACE NEAREST FARTHEST`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from adapters.contract import F64, U8, Bools, Cameras
from adapters.shared.stereo import DepthMap, Progress
from data.groundtruth.colmap import map_files, run_module, write_workspace

SIDE = 1600  # pixels: a GPU affords larger images than the CPU


def available() -> bool:
    """Whether this pycolmap can use CUDA and a device is there."""
    return bool(pycolmap.has_cuda) and pycolmap.get_num_cuda_devices() > 0  # type: ignore[attr-defined, unused-ignore]


def patch_match_maps(
    images: Sequence[U8],
    intrinsics: F64,
    camera_from_world: F64,
    ranges: F64,
    neighbours: Sequence[Sequence[int]],
    seed: int,
    valid: Sequence[Bools],
    progress: Progress,
) -> Sequence[DepthMap]:
    """`adapters.shared.stereo.depth_maps` by COLMAP, limited to `valid`; it knows no seed. Depths and sources are those
    of our own stereo, so that both differ in the matching alone. The cost, which COLMAP does not write, is 0."""
    with tempfile.TemporaryDirectory(prefix="patch-match-") as folder:
        workspace = Path(folder)
        write_workspace(workspace, images, Cameras(intrinsics, camera_from_world), neighbours)
        run_module("data.groundtruth.cuda", [folder, str(float(ranges[:, 0].min())), str(float(ranges[:, 1].max()))])
        progress(1, 1)
        return [_read(workspace, index, where) for index, where in enumerate(valid)]


def _read(workspace: Path, index: int, where: Bools) -> DepthMap:
    """What COLMAP wrote for one image, nothing where it wrote nothing."""
    depth, normal = np.zeros(where.shape, np.float32), np.zeros((*where.shape, 3), np.float32)
    depth_file, normal_file = map_files(workspace, index)
    if depth_file.is_file():
        depths, normals = pycolmap.DepthMap(), pycolmap.NormalMap()
        depths.read(depth_file)
        normals.read(normal_file)
        depth, normal = depths.to_array(), normals.to_array()
    measured = where & (depth > 0)
    return DepthMap(depth, normal, np.where(measured, np.float32(0), np.float32(2))).keep(measured)


def main(workspace: Path, nearest: float, farthest: float) -> None:
    """PatchMatch with geometric consistency over a written workspace."""
    options = pycolmap.PatchMatchOptions()
    options.depth_min, options.depth_max = nearest, farthest
    pycolmap.patch_match_stereo(workspace, options=options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
