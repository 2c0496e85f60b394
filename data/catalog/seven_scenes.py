"""7-Scenes (Shotton et al., CVPR 2013): rooms in Kinect frames, tracked by KinectFusion.

    SCENE/seq-XX/frame-NNNNNN.color.png
    SCENE/seq-XX/frame-NNNNNN.depth.png       of the depth camera; millimetres, 65535 invalid
    SCENE/seq-XX/frame-NNNNNN.depth.proj.png  optional: the same in the colour image's pixels, as SimpleRecon makes it
    SCENE/seq-XX/frame-NNNNNN.pose.txt        camera to world, OpenCV axes

Checked: HengyiWang/spann3r@f89d6a2 spann3r/datasets/seven_scenes.py:105-131 (525 px, centre at 320, 240; depth.proj;
poses as they are; 65535 and more than 10 m are none). The dataset states 585 px for its depth camera and gives no
calibration between the two: without depth.proj.png the truth's points are right, and the colour image is offset from
them by the distance between the cameras.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from adapters.contract import F32, F64, InputError
from data.catalog.shared.files import read_matrix
from data.catalog.shared.layout import Capture, Layout, Photo, Subset, Surface, invert_rigid
from data.catalog.shared.lens import Lens, points_of
from data.images import image_size, read_values

COLOR_FOCAL, DEPTH_FOCAL = 525.0, 585.0  # pixels at 640 x 480
SIZE = (640, 480)
MILLIMETRE, FARTHEST, INVALID = 1e-3, 10.0, 65_535
MOST_A_FRAME = 20_000  # points of a depth image


def read(path: Path) -> Capture:
    """One sequence."""
    photos, projected, notes = [], True, list[str]()
    for image in sorted(path.glob("frame-*.color.png")):
        stem = image.name.removesuffix(".color.png")
        pose = invert_rigid(read_matrix(path / f"{stem}.pose.txt", (4, 4)))
        file = path / f"{stem}.depth.proj.png"
        projected = projected and file.is_file()
        depth = functools.partial(_depth, file) if file.is_file() else None
        photos.append(Photo(stem, image, Lens.pinhole(_intrinsics(COLOR_FOCAL), SIZE), pose, depth=depth))
    if not photos:
        raise InputError(f"{path}: no frame-*.color.png seen, at least one wanted")
    if not projected:
        notes.append("no depth maps: depth.png is of another camera than the photos; its points are the truth")
    surface = None if projected else _surface(path, photos)
    resolved = path.resolve()
    return Capture(f"{resolved.parent.name}-{resolved.name}", photos, "scan", surface, notes=notes)


def _intrinsics(focal: float) -> F64:
    """The readers' principal point counts pixel centres as whole numbers."""
    return np.array([[focal, 0, SIZE[0] / 2 + 0.5], [0, focal, SIZE[1] / 2 + 0.5], [0, 0, 1]])


def _depth(path: Path) -> F32:
    values = read_values(path)
    metres = values.astype(np.float32) * np.float32(MILLIMETRE)
    return np.where((values == INVALID) | (metres > FARTHEST), np.float32(0), metres)


def _surface(path: Path, photos: list[Photo]) -> Surface:
    """What the depth camera measured, in the world, some of each frame."""
    points = []
    for photo in photos:
        file = path / f"{photo.name}.depth.png"
        depth = _depth(file)
        width, height = image_size(file)
        K = Lens.pinhole(_intrinsics(DEPTH_FOCAL), SIZE).scaled((width, height), str(file)).straight()
        assert K is not None
        points.append(points_of(depth, K, photo.camera_from_world, MOST_A_FRAME)[0])
    merged = np.concatenate(points)
    if len(merged) == 0:
        raise InputError(f"{path}: depth images without any depth seen, some wanted")
    return Surface(merged)


LAYOUT = Layout(
    name="seven-scenes",
    title="7-Scenes",
    page="https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
    licence="Microsoft's licence in the download: non-commercial use",
    licence_read="",
    download="a scene's zip from the page, and those in it; SimpleRecon's 7scenes_preprocessing.py adds depth.proj.png",
    folder="SCENE/seq-XX",
    truth="depth.proj.png, else points of depth.png at 585 px without depth maps",
    checked=("HengyiWang/spann3r@f89d6a2 spann3r/datasets/seven_scenes.py:105",),
    read=read,
    metres=1.0,
    subsets=(
        Subset("every-200", "CUT3R/CUT3R@8bc15dc eval/mv_recon/launch.py:62", every=200),
        Subset("every-20", "HengyiWang/spann3r@f89d6a2 eval.py:41", every=20),
    ),
    left_out="lens distortion, which the dataset does not state",
)
