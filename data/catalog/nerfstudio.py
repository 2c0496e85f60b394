"""nerfstudio's `transforms.json` (Instant NGP's with more fields).

    PATH/transforms.json, or the file itself
    frames[].file_path, .transform_matrix (camera to world, OpenGL axes), .depth_file_path; ply_file_path

Checked: nerfstudio-project/nerfstudio@50e0e3c7 nerfstudio/data/dataparsers/nerfstudio_dataparser.py:104-191 (fields,
of the file or of each frame), :279-290 (distortion), :353-401 (the PLY is in the frames' world);
nerfstudio/cameras/cameras.py:294 (pixel centres at .5); nerfstudio/data/utils/data_utils.py:93 and
docs/quickstart/data_conventions.md, "Depth images" (thousandths, 0 is none, another size than the photo allowed).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from adapters.contract import F32, InputError
from data.catalog.shared.files import read_cloud, read_json, read_npy
from data.catalog.shared.layout import Capture, Layout, Photo, opengl_to_opencv
from data.catalog.shared.lens import Lens
from data.catalog.shared.model import plain_name
from data.images import image_size, read_values

DEPTH_UNIT = 1e-3
FISHEYE, PERSPECTIVE = ("OPENCV_FISHEYE",), ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")


class _Lens(msgspec.Struct, kw_only=True):
    fl_x: float | None = None
    fl_y: float | None = None
    cx: float | None = None
    cy: float | None = None
    w: int | None = None
    h: int | None = None
    k1: float | None = None
    k2: float | None = None
    k3: float | None = None
    k4: float | None = None
    p1: float | None = None
    p2: float | None = None
    distortion_params: list[float] | None = None  # k1, k2, k3, k4, p1, p2


class _Frame(_Lens, kw_only=True):
    file_path: str
    transform_matrix: list[list[float]]
    depth_file_path: str | None = None
    mask_path: str | None = None


class _Transforms(_Lens, kw_only=True):
    frames: list[_Frame]
    camera_model: str = "OPENCV"
    camera_angle_x: float | None = None  # radians; of NeRF's synthetic scenes, where fl_x is absent
    ply_file_path: str | None = None


def read(path: Path) -> Capture:
    """One capture."""
    file = path if path.suffix == ".json" else path / "transforms.json"
    meta, root = read_json(file, _Transforms), file.parent
    photos, notes = [], list[str]()
    for number, frame in enumerate(sorted(meta.frames, key=lambda frame: frame.file_path)):
        where = f"{file}: frames[{number}] ({frame.file_path})"
        image = _image(root / frame.file_path)
        matrix = np.array(_square(frame.transform_matrix, where))
        depth = None if frame.depth_file_path is None else _depth(root / frame.depth_file_path)
        lens = _lens(meta, frame, image, where)
        photos.append(Photo(plain_name(frame.file_path), image, lens, opengl_to_opencv(matrix), depth=depth))
    if any(frame.mask_path for frame in meta.frames):
        notes.append("masks left out: they mark what to ignore, not an object's outline")
    surface = None if meta.ply_file_path is None else read_cloud(root / meta.ply_file_path)
    if surface is None and not all(photo.depth for photo in photos):
        raise InputError(f"{file}: neither ply_file_path nor a depth_file_path for every frame seen, a truth wanted")
    # ns-process-data writes COLMAP's sparse points; depth is a sensor's or a renderer's.
    made_by, kind = (("colmap",), "colmap") if surface is not None else ((), "scan")
    return Capture(root.resolve().name, photos, "colmap" if kind == "colmap" else "scan", surface, made_by, notes=notes)


def _image(path: Path) -> Path:
    """The file, also where its suffix is left out, as in NeRF's synthetic scenes."""
    return path if path.is_file() or path.suffix else path.with_suffix(".png")


def _square(rows: list[list[float]], where: str) -> list[list[float]]:
    rows = [*rows, [0.0, 0.0, 0.0, 1.0]] if len(rows) == 3 else rows
    if len(rows) != 4 or any(len(row) != 4 for row in rows):
        raise InputError(f"{where}: transform_matrix: {len(rows)} rows seen, 4 x 4 or 3 x 4 numbers wanted")
    return rows


def _lens(meta: _Transforms, frame: _Frame, image: Path, where: str) -> Lens:
    """The frame's own field where it has one, else the file's."""

    def of(name: str) -> float | None:
        shared: float | None = getattr(meta, name)
        own: float | None = getattr(frame, name)
        return own if shared is None else shared

    width, height = of("w"), of("h")
    size = (int(width), int(height)) if width and height else image_size(image)
    fx = of("fl_x")
    if fx is None and meta.camera_angle_x is not None:
        fx = 0.5 * size[0] / float(np.tan(0.5 * meta.camera_angle_x))
    fy, cx, cy = of("fl_y"), of("cx"), of("cy")
    if fx is None:
        raise InputError(f"{where}: no fl_x seen, in the frame or in the file, one wanted")
    pinhole = (fx, fx if fy is None else fy, size[0] / 2 if cx is None else cx, size[1] / 2 if cy is None else cy)
    listed = meta.distortion_params if meta.distortion_params is not None else frame.distortion_params
    if listed is not None and len(listed) != 6:
        raise InputError(f"{where}: distortion_params: {len(listed)} numbers seen, 6 wanted")
    k1, k2, k3, k4, p1, p2 = listed or [of(name) or 0.0 for name in ("k1", "k2", "k3", "k4", "p1", "p2")]
    if meta.camera_model in FISHEYE:
        return Lens("OPENCV_FISHEYE", size, (*pinhole, k1, k2, k3, k4))
    if meta.camera_model not in PERSPECTIVE:
        wanted = ", ".join((*PERSPECTIVE, *FISHEYE))
        raise InputError(f"{where}: camera_model {meta.camera_model} seen, one of {wanted} wanted")
    if k4:
        raise InputError(f"{where}: k4 {k4:g} seen, 0 wanted: the radial polynomial of {meta.camera_model} ends at k3")
    return Lens("FULL_OPENCV", size, (*pinhole, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))


def _depth(path: Path) -> Callable[[], F32]:
    def read_depth() -> F32:
        values = read_npy(path) if path.suffix == ".npy" else read_values(path)
        if values.ndim != 2:
            raise InputError(f"{path}: shape {values.shape} seen, rows and columns wanted")
        return np.asarray(values, np.float32) * np.float32(DEPTH_UNIT)

    return read_depth


LAYOUT = Layout(
    name="nerfstudio",
    title="nerfstudio transforms.json",
    page="https://docs.nerf.studio/quickstart/data_conventions.html",
    licence="that of the photos",
    licence_read="yours",
    download="`ns-process-data` makes it from your photos; `ns-download-data nerfstudio` fetches examples",
    folder="the folder of transforms.json, or the file",
    truth="ply_file_path (COLMAP's points: its rows are kin), else the depth maps",
    checked=(
        "nerfstudio-project/nerfstudio@50e0e3c7 nerfstudio/data/dataparsers/nerfstudio_dataparser.py:104",
        "nerfstudio/data/utils/data_utils.py:93",
    ),
    read=read,
    left_out="masks: they mark what to ignore, not an object's outline",
)
