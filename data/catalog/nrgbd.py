"""Neural RGB-D (Azinovic et al., CVPR 2022): rendered rooms.

    SCENE/images/img0.png, img1.png ...       numbered without leading zeros
    SCENE/depth/depth0.png                    millimetres; else depth_filtered/
    SCENE/focal.txt                           pixels
    SCENE/poses.txt                           4N x 4, camera to world, OpenGL axes; else trainval_poses.txt

Checked: dazinovic/neural-rgbd-surface-reconstruction@bca06c4 README.md, "Data", dataloader_util.py:6-22 (a pose with
nan is none), load_scannet.py:70-82 (thousandths; focal.txt belongs to the depth map's size), nerf_helpers.py:138
(principal point in the middle, pixel centres at .5); HengyiWang/spann3r@f89d6a2 spann3r/datasets/nrgbd.py:111-119
(more than 10 m is none; y and z turned round).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np

from adapters.contract import F32, InputError
from data.catalog.shared.files import read_matrix
from data.catalog.shared.layout import Capture, Layout, Photo, Subset, opengl_to_opencv
from data.catalog.shared.lens import Lens
from data.images import image_size, read_values

MILLIMETRE, FARTHEST = 1e-3, 10.0


def read(path: Path) -> Capture:
    """One room."""
    file = next((f for name in ("poses.txt", "trainval_poses.txt") if (f := path / name).is_file()), path / "poses.txt")
    poses = read_matrix(file, (-1, 4, 4))
    focal = float(read_matrix(path / "focal.txt", (1,))[0])
    depths = path / "depth" if (path / "depth").is_dir() else path / "depth_filtered"
    images = {int(m[1]): f for f in (path / "images").glob("img*.png") if (m := re.fullmatch(r"img(\d+)\.png", f.name))}
    if not images or max(images) >= len(poses):
        seen = f"{len(images)} images up to img{max(images, default=0)}.png and {len(poses)} poses"
        raise InputError(f"{path}: {seen} seen, a pose for every image wanted")
    photos, notes = [], list[str]()
    for number, image in sorted(images.items()):
        if not np.isfinite(poses[number]).all():
            notes.append(f"img{number}.png left out: its pose is not a number")
            continue
        depth = depths / f"depth{number}.png"
        width, height = image_size(depth)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        lens, pose = Lens.pinhole(K, (width, height)), opengl_to_opencv(poses[number])
        photos.append(Photo(f"img{number:05d}", image, lens, pose, depth=functools.partial(_depth, depth)))
    return Capture(path.resolve().name, photos, "scan", notes=notes)


def _depth(path: Path) -> F32:
    metres = read_values(path).astype(np.float32) * np.float32(MILLIMETRE)
    return np.where(metres > FARTHEST, np.float32(0), metres)


LAYOUT = Layout(
    name="nrgbd",
    title="Neural RGB-D",
    page="https://github.com/dazinovic/neural-rgbd-surface-reconstruction",
    licence="of each scene: CC-BY; CC-0 of Complete kitchen and Morning apartment",
    licence_read="read in README.md of the page",
    download="neural_rgbd_data.zip (7.25 GB), linked on the page",
    folder="the scene's folder, with images/ and poses.txt",
    truth="the rendered depth maps",
    checked=(
        "dazinovic/neural-rgbd-surface-reconstruction@bca06c4 load_scannet.py:70",
        "HengyiWang/spann3r@f89d6a2 spann3r/datasets/nrgbd.py:111",
    ),
    read=read,
    metres=1.0,
    subsets=(
        Subset("every-500", "CUT3R/CUT3R@8bc15dc eval/mv_recon/launch.py:70", every=500),
        Subset("every-40", "HengyiWang/spann3r@f89d6a2 eval.py:43", every=40),
    ),
    left_out="depth with noise, culled meshes (another download)",
)
