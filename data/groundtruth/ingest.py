"""What people bring (a folder of photos, a video, a Scene) as the images and masks of a Scene directory."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from PIL import ExifTags, Image

from adapters.contract import U8, Bools, InputError
from data.groundtruth.photos import Sorted, sort_photos
from data.images import read_image, read_mask
from data.scene import Scene, SceneFile, ViewFile, write_scene
from data.video import SUFFIXES as VIDEO_SUFFIXES
from data.video import sharpest_frames

JPEG_QUALITY = 95
LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
FULL_FRAME_DIAGONAL = 43.27  # mm: what a 35-mm-equivalent focal length refers to


@dataclass(frozen=True)
class Photos:
    """A Scene to build the truth of, with what EXIF data gives of its cameras."""

    scene: Scene
    focal: dict[str, float]  # first guess of the focal length in pixels, by camera group, where EXIF gives one
    ours: bool  # the images are our copies, so lens distortion may be taken out of them
    files: dict[str, str] = field(default_factory=dict)  # view -> the file it came from
    left: dict[str, str] = field(default_factory=dict)  # file -> why it is not used
    remarks: dict[str, str] = field(default_factory=dict)  # file -> what is odd about it

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.scene.path / view.image for view in self.scene.file.views)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(view.group for view in self.scene.file.views)


def ingest(source: Path, stage: Path, name: str | None, frames: int, in_place: bool) -> Photos:
    """Bring `source` into the empty folder `stage` as a Scene; a Scene `in_place` is only opened.

    Photos are written upright, without EXIF data. Raises InputError for what cannot be used."""
    if (source / "scene.json").is_file():
        scene = Scene.open(source)
        if not in_place:
            for child in sorted(source.iterdir()):
                if child.name not in ("quality.json", "truth"):
                    (shutil.copytree if child.is_dir() else shutil.copy2)(child, stage / child.name)
            for kind in scene.truth_kinds:
                if kind != "colmap":
                    shutil.copytree(source / "truth" / kind, stage / "truth" / kind)
            if name is not None:
                write_scene(stage, msgspec.structs.replace(scene.file, name=name))
            scene = Scene.open(stage)
        _check_sizes(scene)
        return Photos(scene, {}, ours=False)
    if source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        views, focal, photos = _from_video(source, stage, frames), dict[str, float](), Sorted()
    else:
        photos = sort_photos(source / "images" if (source / "images").is_dir() else source)
        views, focal = _from_photos(source, photos.used, stage)
    title = name or source.stem
    write_scene(stage, SceneFile(name=title, title=title, licence="", source=source.name, views=views))
    files = {path.stem: path.name for path in photos.used}
    return Photos(Scene.open(stage), focal, ours=True, files=files, left=photos.left, remarks=photos.remarks)


def _from_video(source: Path, stage: Path, frames: int) -> list[ViewFile]:
    (stage / "images").mkdir()
    views = []
    for index, frame in enumerate(sharpest_frames(source, frames)):
        name = f"{index:03d}"
        views.append(ViewFile(name, save_image(stage, name, frame.image, ".jpg")))
    if len(views) < 2:
        raise InputError(f"{source}: {len(views)} frame seen, at least 2 wanted")
    return views


def _from_photos(source: Path, paths: list[Path], stage: Path) -> tuple[list[ViewFile], dict[str, float]]:
    """The photos `paths` of `source` or `source/images`, masks in `source/masks` as NAME.png or NAME.SUFFIX.png."""
    if doubled := [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]:
        raise InputError(f"{source}: several images called {doubled[0]} seen, distinct names wanted")
    masks = source / "masks"
    (stage / "images").mkdir()
    if masks.is_dir():
        (stage / "masks").mkdir()
    cameras: dict[tuple[object, ...], str] = {}
    views, focal = [], dict[str, float]()
    for path in paths:
        image = read_image(path)
        size = (image.shape[1], image.shape[0])
        camera, equivalent = _exif(path)
        group = cameras.setdefault((size, camera), chr(ord("a") + len(cameras)) if len(cameras) < 26 else path.stem)
        if equivalent:
            focal[group] = equivalent / FULL_FRAME_DIAGONAL * float(np.hypot(*size))
        suffix = ".png" if path.suffix.lower() in LOSSLESS else ".jpg"
        file, mask_file = save_image(stage, path.stem, image, suffix), None
        if masks.is_dir():
            mask_file = f"masks/{path.stem}.png"
            candidates = [masks / f"{path.stem}.png", masks / f"{path.name}.png"]
            mask_path = next((candidate for candidate in candidates if candidate.is_file()), None)
            if mask_path is None:
                raise InputError(f"{masks}: no mask for image {path.name} seen, {candidates[0].name} wanted")
            mask = read_mask(mask_path)
            if mask.shape != image.shape[:2]:
                raise InputError(f"{mask_path}: size {mask.shape[::-1]} seen, that of its image, {size}, wanted")
            save_mask(stage, path.stem, mask)
        views.append(ViewFile(path.stem, file, mask_file, group))
    return views, focal


def _exif(path: Path) -> tuple[tuple[str, ...], float | None]:
    """What distinguishes cameras and zoom settings, and the 35-mm-equivalent focal length in mm.

    Lengths in pixels or pixel pitches are not read: they are stale in a photo that was resized."""
    with Image.open(path) as image:
        exif = image.getexif()
        detail = exif.get_ifd(ExifTags.IFD.Exif)
        make, model = exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model)
        length = detail.get(ExifTags.Base.FocalLength)
        equivalent = detail.get(ExifTags.Base.FocalLengthIn35mmFilm)
    return (str(make), str(model), str(length)), float(equivalent) if equivalent else None


def _check_sizes(scene: Scene) -> None:
    """InputError unless the views of each group have one size, and masks that of their image."""
    sizes: dict[str, tuple[int, int]] = {}
    if len(scene.file.views) < 2:
        raise InputError(f"{scene.path}: {len(scene.file.views)} image seen, at least 2 wanted")
    for view in scene.file.views:
        height, width = scene.image(view.name).shape[:2]
        if sizes.setdefault(view.group, (width, height)) != (width, height):
            raise InputError(f"{scene.path}: view {view.name} is {width} x {height}, {sizes[view.group]} in its group")
        if view.mask is not None and scene.mask(view.name).shape != (height, width):
            raise InputError(f"{scene.path}: the mask of view {view.name} has another size than its image")


def save_image(folder: Path, name: str, image: U8, suffix: str) -> str:
    """Write `images/NAME` under `folder`; returns the path relative to it."""
    relative = f"images/{name}{suffix}"
    if suffix == ".jpg":
        Image.fromarray(image).save(folder / relative, quality=JPEG_QUALITY, subsampling=0)
    else:
        Image.fromarray(image).save(folder / relative)
    return relative


def save_mask(folder: Path, name: str, mask: Bools) -> None:
    """Write `masks/NAME.png` under `folder`."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png", optimize=True)
