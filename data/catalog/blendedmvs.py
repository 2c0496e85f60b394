"""BlendedMVS and BlendedMVG (Yao et al., CVPR 2020): photos blended with renderings of a textured mesh.

    ROOT/PID/blended_images/00000000.jpg, 00000000_masked.jpg
    ROOT/PID/cams/00000000_cam.txt, pair.txt
    ROOT/PID/rendered_depth_maps/00000000.pfm

Checked: YoYo000/BlendedMVS@e56469e README.md, "Dataset Structure"; YoYo000/MVSNet@3ae2cb2 mvsnet/preprocess.py:115-130
(world to camera, intrinsics) and :175-205 (depth maps, bottom row first); CUT3R/CUT3R@8bc15dc
datasets_preprocess/preprocess_blendedmvs.py:115-126 (the same, inverted).
"""

from __future__ import annotations

import functools
from pathlib import Path

from adapters.contract import InputError
from data.catalog.shared.files import read_pfm
from data.catalog.shared.layout import Capture, Layout, Photo
from data.catalog.shared.lens import Lens
from data.catalog.shared.mvsnet import read_camera
from data.images import image_size


def read(path: Path) -> Capture:
    """One project."""
    photos = []
    for file in sorted((path / "cams").glob("*_cam.txt")):
        name = file.name.removesuffix("_cam.txt")
        image = path / "blended_images" / f"{name}.jpg"
        K, pose = read_camera(file)
        depth = functools.partial(read_pfm, path / "rendered_depth_maps" / f"{name}.pfm")
        photos.append(Photo(name, image, Lens.pinhole(K, image_size(image)), pose, depth=depth))
    if not photos:
        raise InputError(f"{path / 'cams'}: no *_cam.txt seen, at least one wanted")
    return Capture(path.resolve().name, photos, "scan")


LAYOUT = Layout(
    name="blendedmvs",
    title="BlendedMVS",
    page="https://github.com/YoYo000/BlendedMVS",
    licence="CC BY 4.0",
    licence_read="read in README.md of the page",
    download="the low-res set linked on the page (BlendedMVS, BlendedMVS+, BlendedMVS++), unpacked",
    folder="ROOT/PID",
    truth="the rendered depth maps; the mesh was reconstructed from the photos by Altizure",
    checked=(
        "YoYo000/MVSNet@3ae2cb2 mvsnet/preprocess.py:115",
        "CUT3R/CUT3R@8bc15dc datasets_preprocess/preprocess_blendedmvs.py:115",
    ),
    read=read,
    left_out="masked images, pair.txt, textured meshes",
)
