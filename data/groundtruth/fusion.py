"""COLMAP's own fusion of the same depth maps: a second opinion of the cloud, by code that is not ours.

It runs in a process of its own: `python -m data.groundtruth.fusion WORKSPACE CLOUD.ply`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pycolmap
import trimesh

from adapters.contract import F32, InputError
from data.groundtruth.colmap import run_module, write_map, write_workspace
from data.groundtruth.dense import MIN_SUPPORT, Dense, Solved

SPARSE = 2000  # points that COLMAP is given: more would choose the same images
NORMALS = 60.0  # degrees between pixels that agree, as in our fusion; COLMAP's own 10 leaves a hundredth of our points
TIMEOUT = 300.0  # seconds; a few are usual


def fused_by_colmap(dense: Dense, solved: Solved, seed: int) -> F32:
    """(M, 3) the points of COLMAP's `stereo_fusion` of the maps of `dense`, in its frame. Raises InputError where
    COLMAP fails or finds nothing."""
    chosen = np.random.default_rng(seed).permutation(len(solved.points))[:SPARSE]
    with tempfile.TemporaryDirectory(prefix="stereo-fusion-") as folder:
        workspace, cloud = Path(folder, "dense"), Path(folder, "fused.ply")
        unmatched: list[tuple[int, ...]] = [()] * len(dense.maps)
        write_workspace(
            workspace, dense.images, dense.cameras, unmatched, solved.points[chosen], solved.visible[:, chosen]
        )
        for index, depth_map in enumerate(dense.maps):
            write_map(workspace, index, depth_map)
        run_module("data.groundtruth.fusion", [str(workspace), str(cloud)], TIMEOUT)
        fused = trimesh.load(cloud, process=False)
    if not isinstance(fused, trimesh.PointCloud):
        raise InputError("COLMAP's stereo fusion found no point")
    return np.asarray(fused.vertices, np.float32)


def main(workspace: Path, cloud: Path) -> None:
    """Fuse a written workspace."""
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    options = pycolmap.StereoFusionOptions()
    options.min_num_pixels, options.max_normal_error = MIN_SUPPORT, NORMALS
    pycolmap.stereo_fusion(cloud, workspace, options=options, output_type="PLY")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
