"""COLMAP models, text or binary, read without COLMAP: its own reader ends the process over a damaged one.

Both forms as colmap/colmap doc/format.rst has them, and as pycolmap writes them. A pose goes from the world to the
camera, axes are OpenCV's, pixel centres at .5."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from adapters.contract import F64, InputError
from data.catalog.shared.files import MIB, numbers, read_bytes, read_text
from data.catalog.shared.layout import Photo, Surface
from data.catalog.shared.lens import Lens

MOST = 8192 * MIB  # bytes of one of a model's files
# COLMAP's numbers of the models that `Lens` knows, and how many parameters each has.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
COUNTS = dict(MODELS.values())
KEYPOINT, ELEMENT = 24, 8  # bytes of an image's point, and of a track's part


def is_model(folder: Path) -> bool:
    """Whether a COLMAP model lies in the folder."""
    return any((folder / f"images.{suffix}").is_file() for suffix in ("bin", "txt"))


def read_model(folder: Path) -> tuple[Mapping[str, tuple[Lens, F64]], Surface | None]:
    """The images of a COLMAP model by their names, with `camera_from_world` (4, 4), and its points."""
    if not is_model(folder):
        raise InputError(f"{folder}: no images.bin or images.txt seen, a COLMAP model wanted")
    binary = (folder / "images.bin").is_file()
    if binary:
        cameras, images = _cameras_bin(folder / "cameras.bin"), _images_bin(folder / "images.bin")
        points, colors = _points_bin(folder / "points3D.bin")
    else:
        cameras, images = _cameras_txt(folder / "cameras.txt"), _images_txt(folder / "images.txt")
        points, colors = _points_txt(folder / "points3D.txt")
    file = folder / f"images.{'bin' if binary else 'txt'}"
    posed: dict[str, tuple[Lens, F64]] = {}
    for name, camera, quaternion, translation in images:
        if camera not in cameras:
            raise InputError(f"{file}: image {name}: camera {camera} seen, one of {len(cameras)} known ones wanted")
        if not np.isfinite(quaternion).all() or not np.linalg.norm(quaternion) > 0:
            raise InputError(f"{file}: image {name}: quaternion {quaternion} seen, finite numbers other than 0 wanted")
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(np.roll(quaternion, -1)).as_matrix()  # w comes first
        pose[:3, 3] = translation
        if name in posed:
            raise InputError(f"{file}: image {name} seen twice, distinct names wanted")
        posed[name] = cameras[camera], pose
    if not posed:
        raise InputError(f"{file}: no image seen, at least one wanted")
    finite = np.isfinite(points).all(axis=1)
    return posed, Surface(points[finite], colors=colors[finite]) if finite.any() else None


def photos_of(images: Mapping[str, tuple[Lens, F64]], folder: Path, **parts: Mapping[str, Any]) -> list[Photo]:
    """The model's images that lie in `folder`, by name; `parts` gives masks and depths by the image's name."""
    photos = []
    root = folder.resolve()
    for name, (lens, pose) in sorted(images.items()):
        path = folder / name
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{folder}: image {name} of the model leaves the folder")
        if path.is_file():
            own = {part: values.get(name) for part, values in parts.items()}
            photos.append(Photo(plain_name(name), path, lens, pose, **own))
    if not photos:
        first = min(images)
        raise InputError(f"{folder}: none of the model's {len(images)} images seen, {first} and others wanted")
    return photos


def plain_name(name: str) -> str:
    """A view's name of an image's: no suffix, no folders, and what every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", re.sub(r"\.[A-Za-z]+$", "", name)).lstrip(".") or "_"


_Image = tuple[str, int, F64, F64]  # name, camera, quaternion w first, translation


class _Reader:
    """A binary file read from the front; InputError where it ends too early."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.place = path, read_bytes(path, MOST), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        try:
            values = struct.unpack_from("<" + layout, self.content, self.place)
        except struct.error as error:
            raise InputError(f"{self.path}: cut off at byte {self.place} ({error})") from error
        self.skip(struct.calcsize("<" + layout))
        return values

    def skip(self, size: int) -> None:
        if size > len(self.content) - self.place:
            raise InputError(f"{self.path}: cut off: {size} bytes from {self.place} wanted, {len(self.content)} seen")
        self.place += size

    def name(self) -> str:
        end = self.content.find(b"\0", self.place)
        if not 0 <= end - self.place <= 4096:
            raise InputError(f"{self.path}: no name at byte {self.place} seen, one wanted")
        name = self.content[self.place : end].decode(errors="replace")
        self.place = end + 1
        return name

    def count(self, least: int) -> int:
        """How many follow, of `least` bytes each at the least."""
        (count,) = self.take("Q")
        if count * least > len(self.content) - self.place:
            raise InputError(f"{self.path}: {count} entries in {len(self.content)} bytes seen, fewer wanted")
        return int(count)


def _lens(model: str, size: tuple[int, int], params: F64, where: str) -> Lens:
    if model not in COUNTS:
        raise InputError(f"{where}: camera model {model} seen, one of {', '.join(COUNTS)} wanted")
    if len(params) != COUNTS[model]:
        raise InputError(f"{where}: {len(params)} parameters seen, {COUNTS[model]} wanted by {model}")
    return Lens(model, size, tuple(params.tolist()))


def _cameras_bin(path: Path) -> dict[int, Lens]:
    reader, cameras = _Reader(path), dict[int, Lens]()
    for _ in range(reader.count(24)):
        camera, model, width, height = reader.take("IiQQ")
        if model not in MODELS:
            known = ", ".join(f"{number} {name}" for number, (name, _) in MODELS.items())
            raise InputError(f"{path}: camera {camera}: model {model} seen, one of {known} wanted")
        name, count = MODELS[model]
        cameras[camera] = _lens(name, (width, height), np.array(reader.take(f"{count}d")), f"{path}: camera {camera}")
    return cameras


def _images_bin(path: Path) -> list[_Image]:
    reader, images = _Reader(path), list[_Image]()
    for _ in range(reader.count(72)):
        _, *pose, camera = reader.take("I7dI")
        name = reader.name()
        reader.skip(KEYPOINT * reader.count(KEYPOINT))
        images.append((name, camera, np.array(pose[:4]), np.array(pose[4:])))
    return images


def _points_bin(path: Path) -> tuple[F64, np.ndarray]:
    reader = _Reader(path)
    count = reader.count(51)
    points, colors = np.zeros((count, 3)), np.zeros((count, 3), np.uint8)
    for row in range(count):
        values = reader.take("Q3d3Bd")
        points[row], colors[row] = values[1:4], values[4:7]
        reader.skip(ELEMENT * reader.count(ELEMENT))
    return points, colors


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are no comment, with their numbers."""
    lines = enumerate(read_text(path, MOST).splitlines(), 1)
    return [(number, line) for number, line in lines if not line.startswith("#")]


def _cameras_txt(path: Path) -> dict[int, Lens]:
    cameras = {}
    for number, line in _lines(path):
        words, where = line.split(), f"{path}: line {number}"
        if not words:
            continue
        if len(words) < 5 or not all(word.isdecimal() for word in (words[0], *words[2:4])):
            raise InputError(f"{where}: {line[:60]!r} seen, number, model, width, height and parameters wanted")
        params = numbers(words[4:], (len(words) - 4,), where)
        cameras[int(words[0])] = _lens(words[1], (int(words[2]), int(words[3])), params, where)
    return cameras


def _images_txt(path: Path) -> list[_Image]:
    images, lines = [], _lines(path)
    while lines and not lines[-1][1].strip():
        lines.pop()
    for number, line in lines[::2]:  # the other lines are keypoints, and may be empty
        words, where = line.split(maxsplit=9), f"{path}: line {number}"
        if len(words) != 10 or not words[8].isdecimal():
            raise InputError(f"{where}: {line[:60]!r} seen, number, 7 numbers of the pose, camera and name wanted")
        pose = numbers(words[1:8], (7,), where)
        images.append((words[9].rstrip(), int(words[8]), pose[:4], pose[4:]))
    return images


def _points_txt(path: Path) -> tuple[F64, np.ndarray]:
    rows = [line.split(maxsplit=7)[1:7] for _, line in _lines(path) if line.strip()]
    values = numbers([word for row in rows for word in row], (-1, 6), str(path)) if rows else np.zeros((0, 6))
    return values[:, :3], values[:, 3:].clip(0, 255).astype(np.uint8)
