"""MVImgNet (Yu et al., CVPR 2023): photos round everyday objects, with COLMAP's sparse points.

    ROOT/CLASS/INSTANCE/images/*.jpg
    ROOT/CLASS/INSTANCE/sparse/0/{cameras,images,points3D}.bin

Checked: GAP-LAB-CUHK-SZ/MVImgNet@db39ca7 README.md, "Folder structure" (COLMAP's binary files, its own reader
recommended); CUT3R/CUT3R@8bc15dc datasets_preprocess/preprocess_mvimgnet.py:174 (quaternion and translation of
images.txt, inverted into camera to world). That reader drops lens distortion (line 215); here photos are straightened.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.catalog import colmap
from data.catalog.shared.layout import Capture, Layout


def read(path: Path) -> Capture:
    """One instance."""
    capture = colmap.read(path)
    return replace(capture, name=f"{path.resolve().parent.name}-{path.resolve().name}")


LAYOUT = Layout(
    name="mvimgnet",
    title="MVImgNet",
    page="https://github.com/GAP-LAB-CUHK-SZ/MVImgNet",
    licence='"The data is released under the MVImgNet Terms of Use"',
    licence_read="read in README.md of the page",
    download="fill in the form on the page; unzip mvi_00.zip to mvi_42.zip, or one category",
    folder="ROOT/CLASS/INSTANCE",
    truth="COLMAP's sparse points; COLMAP's rows are kin",
    checked=(
        "GAP-LAB-CUHK-SZ/MVImgNet@db39ca7 README.md",
        "CUT3R/CUT3R@8bc15dc datasets_preprocess/preprocess_mvimgnet.py:174",
    ),
    read=read,
    left_out="masks and MVPNet's dense points: other downloads, without a documented folder",
)
