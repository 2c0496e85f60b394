"""ETH3D's high-resolution multi-view scenes (Schops et al., CVPR 2017): DSLR photos and laser scans.

    SCENE/dslr_calibration_undistorted/{cameras,images,points3D}.txt   COLMAP's text model, PINHOLE
    SCENE/images/dslr_images_undistorted/*.JPG
    SCENE/dslr_scan_eval/scan_alignment.mlp, scan*.ply                 laser scans, each with its pose

Checked: ETH3D/multi-view-evaluation@0daa4f4 src/meshlab_project.cc:64-101 (a matrix a scan, rows first, world from
scan; the reconstruction is read in the cameras' world as it is); www.eth3d.net/documentation, "Calibration" (COLMAP's
format, names relative to images/).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np

from adapters.contract import InputError
from data.catalog.shared.files import MIB, numbers, read_cloud, read_text
from data.catalog.shared.layout import Capture, Layout, Surface
from data.catalog.shared.model import photos_of, read_model


def read(path: Path) -> Capture:
    """One scene."""
    images, _ = read_model(path / "dslr_calibration_undistorted")
    photos = photos_of(images, path / "images")
    shorter = [replace(photo, name=photo.name.removeprefix("dslr_images_undistorted_")) for photo in photos]
    return Capture(path.resolve().name, shorter, "scan", read_scans(path / "dslr_scan_eval" / "scan_alignment.mlp"))


def read_scans(project: Path) -> Surface:
    """The scans of a MeshLab project, in its world."""
    text = read_text(project, MIB)
    if "<!ENTITY" in text:
        raise InputError(f"{project}: entities seen, plain elements wanted")
    try:
        meshes = ET.fromstring(text).findall("./MeshGroup/MLMesh")
    except ET.ParseError as error:
        raise InputError(f"{project}: not a MeshLab project ({error})") from error
    points, normals, colors = [], [], []
    for mesh in meshes:
        name, words = mesh.get("filename", ""), (mesh.findtext("MLMatrix44") or "").split()
        file = project.parent / name
        if not name or not file.resolve().is_relative_to(project.parent.resolve()):
            raise InputError(f"{project}: filename {name!r} seen, one beside it wanted")
        world_from_scan = numbers(words, (4, 4), f"{project}: MLMatrix44 of {name}")
        scan = read_cloud(file)
        points.append(scan.points @ world_from_scan[:3, :3].T + world_from_scan[:3, 3])
        normals.append(None if scan.normals is None else scan.normals @ world_from_scan[:3, :3].T)
        colors.append(scan.colors)
    if not points:
        raise InputError(f"{project}: no MLMesh in a MeshGroup seen, at least one wanted")
    return Surface(
        np.concatenate(points),
        np.concatenate([n for n in normals if n is not None]) if all(n is not None for n in normals) else None,
        np.concatenate([c for c in colors if c is not None]) if all(c is not None for c in colors) else None,
    )


LAYOUT = Layout(
    name="eth3d",
    title="ETH3D high-resolution multi-view",
    page="https://www.eth3d.net/datasets",
    licence="CC BY-NC-SA 4.0",
    licence_read="",
    download="SCENE_dslr_undistorted.7z and SCENE_scan_eval.7z of the training scenes, unpacked in one place",
    folder="the scene's folder",
    truth="the laser scans, merged",
    checked=("ETH3D/multi-view-evaluation@0daa4f4 src/meshlab_project.cc:85", "www.eth3d.net/documentation"),
    read=read,
    metres=1.0,
    left_out="ground_truth_depth and masks, which belong to the distorted photos; occlusion meshes; rig videos",
)
