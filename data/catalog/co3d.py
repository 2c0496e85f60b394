"""Common Objects in 3D, version 2 (Reizenstein et al., ICCV 2021): turntable-like videos of objects.

    ROOT/CATEGORY/frame_annotations.jgz       gzipped JSON, see `_Frame`
    ROOT/CATEGORY/SEQUENCE/{images,masks,depths,depth_masks}/, pointcloud.ply

Checked: facebookresearch/co3d@eb51d75 co3d/dataset/data_types.py:44-76 (paths relative to ROOT; row vectors,
X_cam = X_world R + T, in PyTorch3D's axes: x left, y up; the two normalised intrinsics), README.md "Dataset format";
CUT3R/CUT3R@8bc15dc datasets_preprocess/preprocess_co3d.py:121-167 (into OpenCV's), :269-276 (a depth PNG's 16 bits are
a half float's). The normalised image's borders are at +-1 of its shorter side (isotropic) or of either (legacy), so
pixel centres come out at .5.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from adapters.contract import F32, F64, InputError
from data.catalog.shared.files import numbers, read_cloud, read_jgz
from data.catalog.shared.layout import Capture, Layout, Photo
from data.catalog.shared.lens import Lens
from data.catalog.shared.model import plain_name
from data.images import read_values

ISOTROPIC, BOUNDS = "ndc_isotropic", "ndc_norm_image_bounds"


class _Image(msgspec.Struct):
    path: str
    size: tuple[int, int]  # height, width


class _Depth(msgspec.Struct):
    path: str
    scale_adjustment: float
    mask_path: str | None = None


class _Mask(msgspec.Struct):
    path: str


class _Viewpoint(msgspec.Struct):
    R: list[list[float]]
    T: list[float]
    focal_length: tuple[float, float]
    principal_point: tuple[float, float]
    intrinsics_format: str = BOUNDS


class _Frame(msgspec.Struct):
    sequence_name: str
    frame_number: int
    image: _Image
    depth: _Depth | None = None
    mask: _Mask | None = None
    viewpoint: _Viewpoint | None = None


def read(path: Path) -> Capture:
    """One sequence."""
    path = path.resolve()
    category, root = path.parent, path.parent.parent
    file = category / "frame_annotations.jgz"
    frames = [frame for frame in read_jgz(file, list[_Frame]) if frame.sequence_name == path.name]
    if not frames:
        raise InputError(f"{file}: no frame of sequence {path.name} seen, at least one wanted")
    photos, notes = [], list[str]()
    for frame in sorted(frames, key=lambda frame: frame.frame_number):
        where = f"{file}: sequence {path.name}, frame {frame.frame_number}"
        if frame.viewpoint is None:
            notes.append(f"frame {frame.frame_number} left out: it has no viewpoint")
            continue
        image = _inside(root, frame.image.path, where)
        height, width = frame.image.size
        photos.append(
            Photo(
                plain_name(image.name),
                image,
                Lens.pinhole(_intrinsics(frame.viewpoint, (width, height), where), (width, height)),
                _pose(frame.viewpoint, where),
                None if frame.mask is None else _inside(root, frame.mask.path, where),
                None if frame.depth is None else _depth(root, frame.depth, where),
            )
        )
    surface = read_cloud(path / "pointcloud.ply") if (path / "pointcloud.ply").is_file() else None
    return Capture(f"{category.name}-{path.name}", photos, "colmap", surface, ("colmap",), notes=notes)


def _inside(root: Path, relative: str, where: str) -> Path:
    path = root / relative
    if not path.resolve().is_relative_to(root):
        raise InputError(f"{where}: path {relative} leaves {root}")
    return path


def _intrinsics(viewpoint: _Viewpoint, size: tuple[int, int], where: str) -> F64:
    half = np.array(size) / 2
    if viewpoint.intrinsics_format == ISOTROPIC:
        scale = np.full(2, half.min())
    elif viewpoint.intrinsics_format == BOUNDS:
        scale = half
    else:
        given = viewpoint.intrinsics_format
        raise InputError(f"{where}: intrinsics_format {given} seen, {ISOTROPIC} or {BOUNDS} wanted")
    fx, fy = np.array(viewpoint.focal_length) * scale
    cx, cy = half - np.array(viewpoint.principal_point) * scale  # x left and y up: both point away from the pixels'
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _pose(viewpoint: _Viewpoint, where: str) -> F64:
    words = [str(value) for row in viewpoint.R for value in row]
    R = numbers(words, (3, 3), f"{where}: viewpoint.R")
    T = numbers([str(value) for value in viewpoint.T], (3,), f"{where}: viewpoint.T")
    turned = np.diag([-1.0, -1.0, 1.0])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turned @ R.T, turned @ T
    return pose


def _depth(root: Path, depth: _Depth, where: str) -> Callable[[], F32]:
    file = _inside(root, depth.path, where)
    valid = None if depth.mask_path is None else _inside(root, depth.mask_path, where)

    def read_depth() -> F32:
        halves = read_values(file).astype(np.uint16).view(np.float16).astype(np.float32)
        values = np.asarray(halves * np.float32(depth.scale_adjustment), np.float32)
        if valid is not None:
            keep = read_values(valid)
            if keep.shape != values.shape:
                raise InputError(f"{valid}: {keep.shape[::-1]} seen, the depth map's {values.shape[::-1]} wanted")
            values = np.where(keep > 0, values, np.float32(0))
        return values

    return read_depth


LAYOUT = Layout(
    name="co3d",
    title="CO3Dv2",
    page="https://github.com/facebookresearch/co3d",
    licence="CC BY-NC 4.0",
    licence_read="read in README.md of the page, of its code",
    download="`python co3d/download_dataset.py --download_folder ROOT`; --single_sequence_subset is small",
    folder="ROOT/CATEGORY/SEQUENCE, with ROOT/CATEGORY/frame_annotations.jgz",
    truth="pointcloud.ply, else the depth maps, both by COLMAP: its rows are kin; soft masks count above one half",
    checked=(
        "facebookresearch/co3d@eb51d75 co3d/dataset/data_types.py:44",
        "CUT3R/CUT3R@8bc15dc datasets_preprocess/preprocess_co3d.py:121",
    ),
    read=read,
    left_out="sets of the challenge (set_lists)",
)
