"""Depth maps by COLMAP's own PatchMatch, where a CUDA device is really there (Schoenberger et al., "Pixelwise View
Selection for Unstructured Multi-View Stereo", ECCV 2016).

A pycolmap built with CUDA aborts without a device, so the device count is asked first, and the work runs in a process
of its own: `python -m data.groundtruth.cuda WORKSPACE NEAREST FARTHEST`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

import data
from adapters.contract import F64, U8, Bools, Cameras
from adapters.stereo import DepthMap
from data.images import DataError

SIDE = 1600  # pixels: a GPU affords larger images than the CPU


def available() -> bool:
    """Whether this pycolmap can use CUDA and a device is there."""
    return bool(pycolmap.has_cuda) and pycolmap.get_num_cuda_devices() > 0  # type: ignore[attr-defined, unused-ignore]


def patch_match_maps(
    images: Sequence[U8],
    cameras: Cameras,
    ranges: F64,
    neighbours: Sequence[Sequence[int]],
    valid: Sequence[Bools],
    seed: int,
    progress: Callable[[int, int], None],
) -> Sequence[DepthMap]:
    """Depth maps by COLMAP, limited to `valid`; it knows no seed. Depths and sources are those of our own stereo, so
    that both differ in the matching alone. The cost, which COLMAP does not write, is 0."""
    with tempfile.TemporaryDirectory(prefix="patch-match-") as folder:
        workspace = Path(folder)
        write_workspace(workspace, images, cameras, neighbours)
        _run(workspace, float(ranges[:, 0].min()), float(ranges[:, 1].max()))
        progress(1, 1)
        return [_read(workspace, index, where) for index, where in enumerate(valid)]


def write_workspace(
    workspace: Path, images: Sequence[U8], cameras: Cameras, neighbours: Sequence[Sequence[int]]
) -> None:
    """COLMAP's dense workspace: pinhole images, poses, and each image's sources."""
    for sub in ("images", "sparse", "stereo/depth_maps", "stereo/normal_maps", "stereo/consistency_graphs"):
        (workspace / sub).mkdir(parents=True)
    model = pycolmap.Reconstruction()
    for index, image in enumerate(images):
        K, pose = cameras.intrinsics[index], cameras.camera_from_world[index]
        camera = pycolmap.Camera(
            camera_id=index + 1,
            model="PINHOLE",
            width=image.shape[1],
            height=image.shape[0],
            params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        )
        model.add_camera_with_trivial_rig(camera)
        entry = pycolmap.Image(name=_name(index), camera_id=index + 1, image_id=index + 1)
        model.add_image_with_trivial_frame(entry, pycolmap.Rigid3d(pose[:3]))
        Image.fromarray(image).save(workspace / "images" / _name(index))
    model.write(workspace / "sparse")
    matched = [index for index, sources in enumerate(neighbours) if sources]
    lines = [f"{_name(index)}\n{', '.join(_name(j) for j in neighbours[index])}\n" for index in matched]
    (workspace / "stereo" / "patch-match.cfg").write_text("".join(lines))
    (workspace / "stereo" / "fusion.cfg").write_text("".join(f"{_name(index)}\n" for index in matched))


def _name(index: int) -> str:
    return f"{index:06d}.png"


def _run(workspace: Path, nearest: float, farthest: float) -> None:
    root = Path(data.__file__).parents[1]
    command = [sys.executable, "-m", "data.groundtruth.cuda", str(workspace), str(nearest), str(farthest)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = " ".join(done.stderr[-400:].split())
        raise DataError(f"COLMAP's PatchMatch ended with code {done.returncode}: {tail or 'nothing logged'}")


def _read(workspace: Path, index: int, where: Bools) -> DepthMap:
    """What COLMAP wrote for one image, nothing where it wrote nothing."""
    depth, normal = np.zeros(where.shape, np.float32), np.zeros((*where.shape, 3), np.float32)
    file = f"{_name(index)}.geometric.bin"
    if (workspace / "stereo" / "depth_maps" / file).is_file():
        depths, normals = pycolmap.DepthMap(), pycolmap.NormalMap()
        depths.read(workspace / "stereo" / "depth_maps" / file)
        normals.read(workspace / "stereo" / "normal_maps" / file)
        depth, normal = depths.to_array(), normals.to_array()
    found = where & (depth > 0)
    return DepthMap(depth, normal, np.where(found, np.float32(0), np.float32(2))).keep(found)


def main(workspace: Path, nearest: float, farthest: float) -> None:
    """PatchMatch with geometric consistency over a written workspace."""
    options = pycolmap.PatchMatchOptions()
    options.depth_min, options.depth_max = nearest, farthest
    pycolmap.patch_match_stereo(workspace, options=options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
