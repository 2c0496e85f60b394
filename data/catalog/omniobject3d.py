"""OmniObject3D (Wu et al., CVPR 2023): scanned objects, rendered by Blender.

    ROOT/blender_renders/CATEGORY/OBJECT/render/transforms.json
    .../render/images/r_0.png                 RGBA
    .../render/depths/r_0_depth.exr           z-depth, 65504 is none

Checked: omniobject3d/OmniObject3D@d1e05fa README.md, "Dataset format";
benchmarks/sparse_view_reconstruction/_mvsnerf/data/oo3d.py:86-106 (camera to world, OpenGL axes, field of view across)
and :219-227 (depth); CUT3R/CUT3R@8bc15dc datasets_preprocess/preprocess_omniobject3d.py:87-110 (names). The principal
point is the middle, as in all NeRF scenes. The renders are of a normalised object, so that raw_scans is in another
frame: the truth is their depth.
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import numpy as np

from adapters.contract import F32, Bools, InputError
from data.catalog.shared.files import read_exr, read_json
from data.catalog.shared.layout import Capture, Layout, Photo, opengl_to_opencv
from data.catalog.shared.lens import Lens
from data.catalog.shared.model import plain_name
from data.images import image_size, read_alpha

NONE = 65_504.0  # the largest half float


class _Frame(msgspec.Struct):
    file_path: str
    transform_matrix: list[list[float]]


class _Transforms(msgspec.Struct):
    camera_angle_x: float  # radians
    frames: list[_Frame]


def read(path: Path) -> Capture:
    """One object's renders."""
    folder = path / "render" if (path / "render").is_dir() else path
    file = folder / "transforms.json"
    meta = read_json(file, _Transforms)
    if not 0 < meta.camera_angle_x < np.pi:
        raise InputError(f"{file}: camera_angle_x: {meta.camera_angle_x:g} seen, radians between 0 and pi wanted")
    photos = []
    for frame in meta.frames:
        stem = frame.file_path.replace("\\", "/").split("/")[-1]
        image = folder / "images" / f"{stem}.png"
        matrix = np.array(frame.transform_matrix, np.float64) if _square(frame) else np.full((4, 4), np.nan)
        size = image_size(image)
        focal = 0.5 * size[0] / np.tan(0.5 * meta.camera_angle_x)
        K = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
        depth = functools.partial(_depth, folder / "depths" / f"{stem}_depth.exr")
        mask = functools.partial(_mask, image)
        photos.append(Photo(plain_name(stem), image, Lens.pinhole(K, size), opengl_to_opencv(matrix), mask, depth))
    place = (path if folder is not path else path.parent).resolve()
    return Capture(place.name, photos, "scan")


def _square(frame: _Frame) -> bool:
    return len(frame.transform_matrix) == 4 and all(len(row) == 4 for row in frame.transform_matrix)


def _mask(image: Path) -> Bools:
    return np.asarray(read_alpha(image) > 127)


def _depth(path: Path) -> F32:
    values = read_exr(path)
    return np.where(values >= NONE, np.float32(0), values)


LAYOUT = Layout(
    name="omniobject3d",
    title="OmniObject3D",
    page="https://omniobject3d.github.io",
    licence="CC BY 4.0",
    licence_read="read in README.md of omniobject3d/OmniObject3D",
    download="`openxlab dataset download` of omniobject3d/OmniObject3D-New, --source-path /raw/blender_renders (login)",
    folder="ROOT/blender_renders/CATEGORY/OBJECT",
    truth="the renders' depth maps; masks are the images' alpha",
    checked=(
        "omniobject3d/OmniObject3D@d1e05fa benchmarks/sparse_view_reconstruction/_mvsnerf/data/oo3d.py:86",
        "CUT3R/CUT3R@8bc15dc datasets_preprocess/preprocess_omniobject3d.py:87",
    ),
    read=read,
    left_out="raw scans (another frame), normals, videos",
)
