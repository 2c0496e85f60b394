"""Predictions that eval3r saved: a folder with `eval3r_prediction.json`, the files it names, and their hashes.

Read in eval3r 0.2.1 (PyPI, MIT): manifest/manifest.py:13-72 (fields and words), manifest/writer.py:128-190 (a TUM file
with the poses' numbers as timestamps, the same as KITTI rows; one K with `image_size` for all views),
io/trajectory.py:96-131 (timestamp, translation, quaternion x y z w), filtering/occlusion/generate.py:225 (`image_size`
is width, height) and :146-155 (T_wc: the world from the camera). Folders that its `PredictionWriter` wrote were read
back to 1e-8 in both conventions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from scipy.spatial.transform import Rotation

from adapters.contract import F32, F64, Cameras, InputError, Reconstruction
from data.catalog.shared.files import read_matrix
from data.exchange import read_cloud
from data.images import image_size
from data.scene import CameraFile, Scene

MANIFEST = "eval3r_prediction.json"
FORMATS = ("0.1",)
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
NOMINAL = 1.2  # focal length over the longer side, of views without intrinsics: no metric reads it


class _Artifact(msgspec.Struct, frozen=True):
    path: str
    sha256: str


class _Geometry(msgspec.Struct, frozen=True):
    mesh: _Artifact | None = None
    point_cloud: _Artifact | None = None


class _Trajectory(msgspec.Struct, frozen=True):
    tum: _Artifact | None = None
    kitti: _Artifact | None = None


class _Views(msgspec.Struct, frozen=True):
    intrinsics: _Artifact | None = None


class _Manifest(msgspec.Struct, frozen=True):
    format_version: str
    scene_id: str
    method: str
    unit: Literal["m", "cm", "mm", "unspecified"] = "unspecified"
    coordinate_system: Literal["colmap", "opengl", "opencv", "unspecified"] = "unspecified"
    pose_convention: Literal["T_wc", "T_cw", "unspecified"] = "unspecified"
    geometry: _Geometry = _Geometry()
    trajectory: _Trajectory = _Trajectory()
    cameras: _Views = _Views()


class _Intrinsics(msgspec.Struct, frozen=True):
    K: list[list[float]]
    image_size: tuple[int, int]  # width, height


@dataclass(frozen=True)
class Saved:
    """One saved prediction, in the order of the scene's views."""

    prediction: Reconstruction
    method: str


def read_saved(folder: Path, scene: Scene, posed: bool, say: Callable[[str], None] = lambda sentence: None) -> Saved:
    """What eval3r saved in `folder`, made from all views of `scene`, in their order.

    Lengths become metres where the manifest names their unit, and the prediction then claims metric scale; a `posed`
    one stays as it is. `say` is told of what is left out. InputError for a manifest that cannot be used, a file that is
    missing or has another hash, and poses that cannot be those of the scene's views."""
    file = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(file.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: {error}") from error
    if manifest.format_version not in FORMATS:
        raise InputError(f"{file}: format_version {manifest.format_version!r} seen, {', '.join(FORMATS)} wanted")
    geometry = manifest.geometry.mesh or manifest.geometry.point_cloud
    if geometry is None:
        raise InputError(f"{file}: geometry: neither mesh nor point_cloud seen, one wanted")
    if manifest.geometry.mesh is not None and manifest.geometry.point_cloud is not None:
        say(f"{file}: its mesh is scored, its point cloud left out")
    prediction = read_cloud(_file(folder, geometry), _cameras(folder, manifest, scene, say), posed)
    if manifest.unit == "unspecified" or posed:
        return Saved(prediction, manifest.method)
    return Saved(_in_metres(prediction, METRES[manifest.unit]), manifest.method)


def _file(folder: Path, artifact: _Artifact) -> Path:
    path = folder / artifact.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder / MANIFEST}: path {artifact.path} leaves the folder")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}), which {MANIFEST} names") from error
    if digest != artifact.sha256:
        raise InputError(f"{path}: sha256 {digest[:16]} seen, {artifact.sha256[:16]} wanted, as {MANIFEST} has it")
    return path


def _cameras(folder: Path, manifest: _Manifest, scene: Scene, say: Callable[[str], None]) -> list[CameraFile]:
    trajectory = manifest.trajectory
    if trajectory.tum is None and trajectory.kitti is None:
        return []
    if manifest.pose_convention == "unspecified" or manifest.coordinate_system == "unspecified":
        missing = "pose_convention" if manifest.pose_convention == "unspecified" else "coordinate_system"
        say(f"{folder / MANIFEST}: {missing} is unspecified, so its poses are left out")
        return []
    if trajectory.tum is not None:
        path = _file(folder, trajectory.tum)
        rows = read_matrix(path, (-1, 8))
        poses = np.tile(np.eye(4), (len(rows), 1, 1))
        norms = np.linalg.norm(rows[:, 4:], axis=1)
        if not (np.isfinite(rows).all() and (norms > 0).all()):
            raise InputError(f"{path}: finite numbers and quaternions of a length above 0 wanted")
        poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(rows[:, 4:]).as_matrix(), rows[:, 1:4]
    else:
        assert trajectory.kitti is not None
        path = _file(folder, trajectory.kitti)
        rows = read_matrix(path, (-1, 12))
        poses = np.tile(np.eye(4), (len(rows), 1, 1))
        poses[:, :3] = rows.reshape(-1, 3, 4)
        if not np.isfinite(rows).all() or (np.abs(np.linalg.det(poses[:, :3, :3]) - 1) > 1e-3).any():
            raise InputError(f"{path}: rotations and finite translations wanted")
    if len(poses) != len(scene.view_names):
        seen = (
            f"{len(poses)} poses seen, {len(scene.view_names)} wanted, one for each view of {scene.name} in its order"
        )
        raise InputError(f"{path}: {seen}")
    camera_from_world = np.asarray(np.linalg.inv(poses) if manifest.pose_convention == "T_wc" else poses, np.float64)
    if manifest.coordinate_system == "opengl":  # camera axes x right, y up, z back
        camera_from_world = np.diag([1.0, -1.0, -1.0, 1.0]) @ camera_from_world
    return _with_intrinsics(folder, manifest, scene, camera_from_world, say)


def _with_intrinsics(
    folder: Path, manifest: _Manifest, scene: Scene, camera_from_world: F64, say: Callable[[str], None]
) -> list[CameraFile]:
    known = None
    if manifest.cameras.intrinsics is not None:
        path = _file(folder, manifest.cameras.intrinsics)
        try:
            known = msgspec.json.decode(path.read_bytes(), type=_Intrinsics)
            fx, fy, cx, cy = known.K[0][0], known.K[1][1], known.K[0][2], known.K[1][2]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError) as error:
            raise InputError(f"{path}: {error}") from error
        if min(*known.image_size, fx, fy) <= 0:
            raise InputError(f"{path}: focal lengths and sizes above 0 wanted")
    else:
        say(f"{folder / MANIFEST}: no intrinsics: its poses are scored, with a nominal focal length")
    files = []
    for name, pose in zip(scene.view_names, camera_from_world, strict=True):
        width, height = image_size(scene.image_path(name))
        pinhole = (NOMINAL * max(width, height), NOMINAL * max(width, height), width / 2, height / 2)
        if known is not None:
            x, y = width / known.image_size[0], height / known.image_size[1]
            pinhole = (fx * x, fy * y, cx * x, cy * y)
        files.append(CameraFile(name, width, height, *pinhole, pose.tolist()))
    return files


def _in_metres(prediction: Reconstruction, metres: float) -> Reconstruction:
    def scaled(points: F32) -> F32:
        return (points.astype(np.float64) * metres).astype(np.float32)

    cameras, mesh = prediction.cameras, prediction.mesh
    if cameras is not None:
        poses = cameras.camera_from_world.copy()
        poses[:, :3, 3] *= metres
        cameras = Cameras(cameras.intrinsics, poses)
    return replace(
        prediction,
        points=scaled(prediction.points),
        mesh=None if mesh is None else replace(mesh, vertices=scaled(mesh.vertices)),
        cameras=cameras,
        scale="metric",
    )
