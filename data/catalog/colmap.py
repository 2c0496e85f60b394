"""A COLMAP workspace, sparse or dense.

    PATH/images/                              or the photos in PATH itself
    PATH/sparse/0/  PATH/sparse/  PATH/       cameras, images, points3D as .bin or .txt
    PATH/masks/NAME.png                       optional, NAME with its suffix, as COLMAP's `mask_path` has it
    PATH/fused.ply                            optional: the dense cloud
    PATH/stereo/depth_maps/NAME.geometric.bin optional: z-depth

Layout and conventions: colmap/colmap doc/format.rst, "images.txt" (world to camera,
OpenCV axes, pixel centres at .5) and "Depth and Normal Maps"; masks: doc/faq.rst, "Mask image regions".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from adapters.contract import F32, InputError
from data.catalog.shared.files import MOST_VALUES, read_bytes, read_cloud
from data.catalog.shared.layout import Capture, Layout
from data.catalog.shared.model import is_model, photos_of, read_model

HEADER = 64  # bytes at most before a depth map's values


def read(path: Path) -> Capture:
    """One workspace."""
    candidates = [path / "sparse" / "0", path / "sparse", path]
    folder = next((candidate for candidate in candidates if is_model(candidate)), None)
    if folder is None:
        raise InputError(f"{path}: no COLMAP model seen in it, in sparse/ or in sparse/0/, one wanted")
    images, sparse = read_model(folder)
    photos = path / "images" if (path / "images").is_dir() else path
    masks = {name: path / "masks" / f"{name}.png" for name in images}
    depths = {name: path / "stereo" / "depth_maps" / f"{name}.geometric.bin" for name in images}
    dense = path / "fused.ply"
    surface = read_cloud(dense) if dense.is_file() else sparse
    if surface is None:
        raise InputError(f"{path}: neither fused.ply nor points in {folder} seen, one wanted")
    notes = [] if dense.is_file() else ["the truth is COLMAP's sparse points: it has no fused.ply"]
    return Capture(
        path.resolve().name,
        photos_of(
            images,
            photos,
            mask={name: mask for name, mask in masks.items() if mask.is_file()},
            depth={name: depth_map(depth) for name, depth in depths.items() if depth.is_file()},
        ),
        "colmap",
        surface,
        ("colmap",),
        notes=notes,
    )


def depth_map(path: Path) -> Callable[[], F32]:
    """Reads COLMAP's array file: "width&height&channels&", then float32 columns first."""

    def read_depth() -> F32:
        content = read_bytes(path, 4 * MOST_VALUES + HEADER)
        try:
            width, height, channels = (int(word) for word in content[:HEADER].split(b"&", 3)[:3])
        except ValueError as error:
            raise InputError(f"{path}: not a COLMAP depth map ({error})") from error
        start = len(f"{width}&{height}&{channels}&")
        if channels != 1 or width < 1 or height < 1 or len(content) != start + 4 * width * height:
            raise InputError(
                f"{path}: {width} x {height} x {channels} in {len(content)} bytes seen, one value a pixel wanted"
            )
        return np.frombuffer(content, "<f4", offset=start).reshape(height, width).copy()

    return read_depth


LAYOUT = Layout(
    name="colmap",
    title="COLMAP workspace",
    page="https://colmap.github.io",
    licence="that of the photos",
    licence_read="yours",
    download="nothing: it is made from your photos by COLMAP",
    folder="the workspace, with images/ and sparse/",
    truth="fused.ply, else the sparse points; made by COLMAP, so that COLMAP's rows are kin",
    checked=("pycolmap 4.2.1, by a test",),
    read=read,
)
