"""SpatialBench's released scenes (Ropedia): nineteen datasets in one layout, with pinned frames.

    ROOT/DENSITY/DATASET/SCENE/images/*       sorted by name, as everything below
    .../depths/*, .../depth_masks/*           encoding in meta.json; masks: 0 is invalid
    .../poses/*.npy                           camera to world, (3, 4) or (4, 4), OpenCV axes
    .../intrinsics/intrinsic.npy              or one a frame
    .../meta.json                             depth_format, intrinsic_mode, metric_scale

Checked: Ropedia/SpatialBench@7f06a37 benchmark/datasets/data_readers.py:1-25 (layout), :89-138 (depth encodings),
:141-146 (poses), :219-300 (masks, intrinsics); benchmark/datasets/benchmark_dataset.py:250-281 (z-depth, pixel centres
at whole numbers: shifted by .5 here). Which frames are pinned is what lies in the folder. Its cut at a farthest depth,
by dataset, is not made.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec
import numpy as np

from adapters.contract import F32, F64, InputError
from data.catalog.shared.files import MOST_VALUES, read_bytes, read_exr, read_json, read_npy
from data.catalog.shared.layout import Capture, Layout, Photo, invert_rigid
from data.catalog.shared.lens import Lens
from data.catalog.shared.model import plain_name
from data.images import image_size, read_values

IMAGES = (".png", ".jpg", ".jpeg")
DEPTHS = (*IMAGES, ".exr", ".npy", ".bin", ".raw")
SCALES = {
    "uint16_png_div1000": 1000.0,
    "uint16_png_div1000_rectified": 1000.0,
    "uint16_png_div100": 100.0,
    "uint16_png_div_655.35": 655.35,
}
SKY = 65_500  # of the encodings that have any
NOT_FRAMES = ("intrinsic.npy", "K_rect.npy", "K_distorted.npy", "distortion_coeffs.npy")
LENS_LEFT = ("K_distorted.npy", "distortion_coeffs.npy")


class _Meta(msgspec.Struct):
    depth_format: str = "none"
    intrinsic_mode: str = "shared"
    metric_scale: float = 1.0
    pose: str = ""
    pyrep_flip: list[dict[str, object]] | None = None


def read(path: Path) -> Capture:
    """One scene at one density."""
    file = path / "meta.json"
    meta = read_json(file, _Meta)
    if meta.pyrep_flip and any(item.get("flip_lr") or item.get("flip_ud") for item in meta.pyrep_flip):
        raise InputError(f"{file}: pyrep_flip: mirrored frames seen, frames as they are wanted")
    if meta.depth_format == "none" or meta.pose == "none":
        raise InputError(f"{file}: no depth or no pose seen, both wanted for a truth")
    if any((path / "intrinsics" / name).is_file() for name in LENS_LEFT):
        raise InputError(f"{path / 'intrinsics'}: distorted photos seen (ScanNet++), straight ones wanted")
    images, depths = _sorted(path / "images", IMAGES), _sorted(path / "depths", DEPTHS)
    poses, masks = _sorted(path / "poses", (".npy",)), _sorted(path / "depth_masks", IMAGES)
    own = [f for f in _sorted(path / "intrinsics", (".npy",)) if f.name not in NOT_FRAMES]
    shared = path / "intrinsics" / "intrinsic.npy"
    intrinsics = [shared] * len(images) if meta.intrinsic_mode == "shared" else own
    for what, files in (("depths", depths), ("poses", poses), ("intrinsics", intrinsics)):
        if len(files) != len(images):
            raise InputError(f"{path / what}: {len(files)} files seen, one for each of {len(images)} images wanted")
    if masks and len(masks) != len(images):
        raise InputError(f"{path / 'depth_masks'}: {len(masks)} files seen, none or {len(images)} wanted")
    photos = []
    for index, image in enumerate(images):
        K = np.asarray(read_npy(intrinsics[index], ((3, 3),)), np.float64)
        K = K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        pose = np.asarray(read_npy(poses[index], ((3, 4), (4, 4))), np.float64)
        depth = functools.partial(_depth, depths[index], masks[index] if masks else None, meta, file)
        lens = Lens.pinhole(K, image_size(image))
        photos.append(Photo(plain_name(image.name), image, lens, invert_rigid(_square(pose)), depth=depth))
    parts = path.resolve().parts
    return Capture("-".join(plain_name(part) for part in parts[-3:]), photos, "scan")


def _square(pose: F64) -> F64:
    return pose if len(pose) == 4 else np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])


def _sorted(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.iterdir() if f.suffix.lower() in suffixes), key=lambda f: str(f))


def _depth(path: Path, mask: Path | None, meta: _Meta, file: Path) -> F32:
    depth = decode_depth(path, meta.depth_format, meta.metric_scale, file)
    if mask is not None:
        keep = read_values(mask)
        if keep.shape == depth.shape:
            depth = np.where(keep > 0, depth, np.float32(0))
    return depth


def decode_depth(path: Path, kind: str, metric_scale: float, file: Path) -> F32:
    """(H, W) metres of a depth map in one of the encodings of meta.json, `file`."""
    if kind in SCALES:
        raw = read_values(path)
        metres = (raw / SCALES[kind]).astype(np.float32)
        return np.where(raw >= SKY, np.float32(0), metres) if kind == "uint16_png_div100" else metres
    if kind == "uint16_png_inverse_encoded":
        share = read_values(path) / 65_535.0
        near, far = 1.0, 1000.0
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = share / (far - share * (far - near)) / 0.004 * metric_scale
        return np.where((share < 0.0015) | (share > SKY / 65_535.0), 0.0, depth).astype(np.float32)
    if kind == "npy_float32_meters":
        values = read_npy(path)
        if values.ndim != 2:
            raise InputError(f"{path}: shape {values.shape} seen, rows and columns wanted")
        return values.astype(np.float32)
    if kind == "exr_float32":
        return read_exr(path)
    if (match := re.search(r"^float32_binary.*_(\d{1,5})x(\d{1,5})", kind)) is not None:
        height, width = int(match[1]), int(match[2])
        content = read_bytes(path, 4 * MOST_VALUES)
        if len(content) != 4 * height * width:
            raise InputError(f"{path}: {len(content)} bytes seen, {4 * height * width} wanted by depth_format {kind}")
        return np.frombuffer(content, "<f4").reshape(height, width).copy()
    raise InputError(f"{file}: depth_format {kind} seen, one of {', '.join(SCALES)} or another of the reader's wanted")


LAYOUT = Layout(
    name="spatialbench",
    title="SpatialBench",
    page="https://github.com/Ropedia/SpatialBench",
    licence='"source datasets remain subject to their original upstream licenses"',
    licence_read="read in README.md of the page",
    download="`hf download ropedia-ai/SpatialBenchmark` with --include of a density's or dataset's archive; tar -xf",
    folder="ROOT/DENSITY/DATASET/SCENE",
    truth="the depth maps",
    checked=(
        "Ropedia/SpatialBench@7f06a37 benchmark/datasets/data_readers.py:89",
        "benchmark/datasets/benchmark_dataset.py:250",
    ),
    read=read,
    metres=1.0,
    left_out="pointcloud.tar, confidence and sky masks; ScanNet++'s distorted, RLBench's mirrored frames are refused",
)
