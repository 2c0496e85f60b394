"""Tanks and Temples' training scenes (Knapitsch et al., SIGGRAPH 2017): photos and laser scans.

    SCENE/images/000001.jpg ...               or the photos in SCENE itself
    SCENE/SCENE.ply                           the laser scan
    SCENE/SCENE_COLMAP_SfM.log                camera to world, OpenCV axes, in COLMAP's own world
    SCENE/SCENE_trans.txt                     4 x 4 similarity: the scan's world from COLMAP's
    SCENE/SCENE.json                          crop volume: a polygon swept along an axis, in the scan's world
    SCENE/sparse/0/ or SCENE/sparse/          a COLMAP model of the same photos: intrinsics only, the log has none

Checked: isl-org/TanksAndTemples@3c2c212 python_toolbox/evaluation/run.py:71-93 (files), registration.py:65-69 (the
log's poses, then trans.txt), trajectory_io.py:23-35 (five lines a pose), python_toolbox/convert_to_logfile.py:94-117
(the inverse of COLMAP's pose; a photo that was not placed has -1 and the identity), evaluation/plot.py:83 (metres).
The volume is Open3D's SelectionPolygonVolume.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from scipy.linalg import polar

from adapters.contract import F64, Bools, InputError
from data.catalog.shared.files import numbers, read_cloud, read_json, read_matrix, read_text
from data.catalog.shared.layout import Capture, Layout, Photo, invert_rigid
from data.catalog.shared.model import is_model, plain_name, read_model
from data.images import image_size, list_images

LINES = 5  # of the log, a photo


class _Volume(msgspec.Struct):
    axis_max: float
    axis_min: float
    bounding_polygon: list[tuple[float, float, float]]
    orthogonal_axis: Literal["X", "Y", "Z"]


def read(path: Path) -> Capture:
    """One scene."""
    path = path.resolve()
    name = path.name
    images = list_images(path / "images" if (path / "images").is_dir() else path)
    log = path / f"{name}_COLMAP_SfM.log"
    model = next((f for f in (path / "sparse" / "0", path / "sparse") if is_model(f)), None)
    if model is None:
        raise InputError(f"{path}: no COLMAP model in sparse/ seen, one wanted: {log.name} has poses, not intrinsics")
    lenses = {Path(image).name: lens for image, (lens, _) in read_model(model)[0].items()}
    common = next(iter(lenses.values())) if len(set(lenses.values())) == 1 else None
    scan_from_colmap = read_matrix(path / f"{name}_trans.txt", (4, 4))
    photos, notes = [], list[str]()
    poses = read_log(log)
    if len(poses) != len(images):
        raise InputError(f"{log}: {len(poses)} poses seen, one for each of {len(images)} photos wanted")
    for image, (placed, world_from_camera) in zip(images, poses, strict=True):
        lens = lenses.get(image.name, common)
        if not placed or lens is None:
            notes.append(f"{image.name} left out: {'not placed by COLMAP' if not placed else 'no intrinsics'}")
            continue
        pose = moved(invert_rigid(world_from_camera), scan_from_colmap, f"{path / f'{name}_trans.txt'}")
        photos.append(Photo(plain_name(image.name), image, lens.scaled(image_size(image), str(image)), pose))
    surface = read_cloud(path / f"{name}.ply")
    keep, low, high = _cropped(path / f"{name}.json", surface.points)
    kept = replace(
        surface,
        points=surface.points[keep],
        normals=None if surface.normals is None else surface.normals[keep],
        colors=None if surface.colors is None else surface.colors[keep],
    )
    return Capture(name, photos, "scan", kept, crop=(low, high), notes=notes)


def read_log(path: Path) -> list[tuple[bool, F64]]:
    """Whether each photo was placed, and its camera to world (4, 4)."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if len(lines) % LINES or not lines:
        raise InputError(f"{path}: {len(lines)} lines seen, a multiple of {LINES} wanted")
    poses = []
    for start in range(0, len(lines), LINES):
        where = f"{path}: line {start + 1}"
        placed = numbers(lines[start].split(), (3,), where)[1] >= 0
        words = " ".join(lines[start + 1 : start + LINES]).split()
        poses.append((bool(placed), numbers(words, (4, 4), where)))
    return poses


def moved(camera_from_world: F64, target_from_world: F64, where: str) -> F64:
    """The rigid pose of a camera whose world the similarity (4, 4) moves."""
    linear = target_from_world[:3, :3]
    scale = float(np.cbrt(abs(np.linalg.det(linear)))) if np.isfinite(linear).all() else 0.0
    if not scale > 0 or np.abs(polar(linear / scale)[1] - np.eye(3)).max() > 1e-2 or np.linalg.det(linear) < 0:
        raise InputError(f"{where}: a similarity (rotation, positive scale, translation) wanted")
    R = linear / scale
    pose = np.eye(4)
    pose[:3, :3] = camera_from_world[:3, :3] @ R.T
    pose[:3, 3] = scale * camera_from_world[:3, 3] - pose[:3, :3] @ target_from_world[:3, 3]
    return pose


def _cropped(file: Path, points: F64) -> tuple[Bools, F64, F64]:
    """(M,) the points in the volume, and the corners of the box round it."""
    volume = read_json(file, _Volume)
    axis = "XYZ".index(volume.orthogonal_axis)
    across = [i for i in range(3) if i != axis]
    polygon = np.array(volume.bounding_polygon, np.float64).reshape(-1, 3)[:, across]
    if len(polygon) < 3 or not np.isfinite(polygon).all():
        raise InputError(f"{file}: bounding_polygon: {len(polygon)} corners seen, 3 at least wanted")
    x, y = points[:, across].T
    inside = np.zeros(len(points), np.bool_)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    keep = inside & (points[:, axis] >= volume.axis_min) & (points[:, axis] <= volume.axis_max)
    if not keep.any():
        raise InputError(f"{file}: no point of the scan in the volume seen, some wanted")
    low, high = np.zeros(3), np.zeros(3)
    low[across], high[across] = polygon.min(axis=0), polygon.max(axis=0)
    low[axis], high[axis] = volume.axis_min, volume.axis_max
    return keep, low, high


LAYOUT = Layout(
    name="tanks-and-temples",
    title="Tanks and Temples, training",
    page="https://www.tanksandtemples.org/download/",
    licence="the page's own: https://tanksandtemples.org/license/",
    licence_read="which python_toolbox/evaluation/run.py of its code names",
    download="a scene's image set, ground truth and evaluation data; COLMAP's model of the photos for intrinsics",
    folder="the scene's folder",
    truth="the laser scan inside the crop volume; predictions are cropped to the box round it",
    checked=(
        "isl-org/TanksAndTemples@3c2c212 python_toolbox/evaluation/run.py:71",
        "python_toolbox/convert_to_logfile.py:94",
    ),
    read=read,
    metres=1.0,
    left_out="the ICP refinement of the evaluation: protocols have their own",
)
