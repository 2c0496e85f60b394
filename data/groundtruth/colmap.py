"""COLMAP's dense tools: the workspace they read and write, and processes of their own to run them in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

import data
from adapters.contract import F32, U8, Bools, Cameras, InputError
from adapters.shared.stereo import DepthMap

TAIL = 400  # characters of the log quoted when it fails


def run_module(module: str, arguments: Sequence[str], timeout: float | None = None) -> None:
    """`python -m MODULE ARGUMENTS` in a process of its own: what COLMAP was built without aborts instead of raising.
    InputError with the end of its log where it fails or takes more than `timeout` seconds."""
    environment = {**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[1])}
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{module} took more than {timeout:g} s, the timeout") from error
    if done.returncode != 0:
        tail = " ".join(done.stderr[-TAIL:].split())
        raise InputError(f"{module} ended with code {done.returncode}: {tail or 'nothing logged'}")


def write_workspace(
    workspace: Path,
    images: Sequence[U8],
    cameras: Cameras,
    neighbours: Sequence[Sequence[int]],
    points: F32 | None = None,
    visible: Bools | None = None,
) -> None:
    """COLMAP's dense workspace: pinhole images, poses, each image's sources, and, by which fusion chooses images to
    compare, sparse `points` (M, 3) with the views that measured them, `visible` (V, M)."""
    for sub in ("images", "sparse", "stereo/depth_maps", "stereo/normal_maps", "stereo/consistency_graphs"):
        (workspace / sub).mkdir(parents=True)
    model = pycolmap.Reconstruction()
    observed = np.zeros((len(images), 0), np.bool_) if visible is None else visible
    for index, image in enumerate(images):
        K, pose = cameras.intrinsics[index], cameras.camera_from_world[index]
        centre = K[:2, 2] - 0.5  # COLMAP's dense code has pixel centres at whole numbers
        camera = pycolmap.Camera(
            camera_id=index + 1,
            model="PINHOLE",
            width=image.shape[1],
            height=image.shape[0],
            params=[K[0, 0], K[1, 1], *centre],
        )
        model.add_camera_with_trivial_rig(camera)
        keypoints = np.zeros((0, 2)) if points is None else cameras.project(index, points[observed[index]])[0] - 0.5
        entry = pycolmap.Image(image_name(index), keypoints, camera_id=index + 1, image_id=index + 1)
        model.add_image_with_trivial_frame(entry, pycolmap.Rigid3d(pose[:3]))
        Image.fromarray(image).save(workspace / "images" / image_name(index))
    keypoint = np.cumsum(observed, axis=1) - 1
    for column, point in enumerate(() if points is None else points):
        views = np.flatnonzero(observed[:, column])
        track = [pycolmap.TrackElement(int(view) + 1, int(keypoint[view, column])) for view in views]
        model.add_point3D(point, pycolmap.Track(track))
    model.write(workspace / "sparse")
    named = [(image_name(i), ", ".join(map(image_name, sources))) for i, sources in enumerate(neighbours)]
    matched = "".join(f"{name}\n{sources}\n" for name, sources in named if sources)
    (workspace / "stereo" / "patch-match.cfg").write_text(matched)
    (workspace / "stereo" / "fusion.cfg").write_text("".join(f"{name}\n" for name, _ in named))


def image_name(index: int) -> str:
    """What the workspace calls a view's image."""
    return f"{index:06d}.png"


def map_files(workspace: Path, index: int) -> tuple[Path, Path]:
    """Where a view's depth and normals lie."""
    file = f"{image_name(index)}.geometric.bin"
    return workspace / "stereo" / "depth_maps" / file, workspace / "stereo" / "normal_maps" / file


def write_map(workspace: Path, index: int, depth_map: DepthMap) -> None:
    """Write depth and normals of one view; 0 is none in both."""
    depth, normal = map_files(workspace, index)
    pycolmap.DepthMap.from_array(depth_map.depth, 0.0, float(depth_map.depth.max())).write(depth)
    pycolmap.NormalMap.from_array(depth_map.normal).write(normal)
