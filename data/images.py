"""Reading photos as people have them: EXIF-rotated, grey, RGBA, 16-bit, truncated."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from adapters.contract import U8, Bools, InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Told by content, whatever the name says: Pillow would hand a .jpg that holds EPS to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # a phone's MPO is opened as JPEG
HEIC = (".heic", ".heif")  # read where the package pillow-heif is installed
MOST_PIXELS = 400_000_000
# What Pillow's decoders raise, beside OSError, over bytes that do not fit.
DAMAGED = (
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    struct.error,
    zlib.error,
    OverflowError,
    MemoryError,
)
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


@functools.cache
def heic_reader() -> bool:
    """Whether HEIC photos can be read; the first call makes Pillow able to."""
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def list_images(folder: Path) -> list[Path]:
    """The images of `folder`, sorted by name; InputError where it is no folder or holds none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not images:
        raise InputError(f"{folder}: no image seen, at least one of {' '.join(SUFFIXES)} wanted")
    return images


def read_image(path: Path) -> U8:
    """(H, W, 3) uint8 sRGB, upright by its EXIF orientation; 16-bit is scaled, alpha laid over white."""
    with _opened(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        grey = (np.asarray(upright, np.float64) / 257.0).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.mode == "F":
        raise InputError(f"{path}: floating-point image seen, 8- or 16-bit wanted")
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(upright.convert("RGB"), np.uint8).copy()


def read_values(path: Path) -> NDArray[np.integer]:
    """(H, W) the numbers of an image of one channel as the file has them, neither scaled nor turned."""
    with _opened(path) as image:
        image.load()
        values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise InputError(f"{path}: {image.mode} pixels seen, one channel of whole numbers wanted")
    return values


def read_alpha(path: Path) -> U8:
    """(H, W) the opacity of an image's pixels; InputError where it has none."""
    with _opened(path) as image:
        image.load()
        if "A" not in image.getbands():
            raise InputError(f"{path}: {image.mode} pixels seen, an image with alpha wanted")
        return np.asarray(image.getchannel("A"), np.uint8)


@functools.cache
def decoder() -> str:
    """What the pixels of a file depend on beside its bytes: this module, Pillow and the libraries that it stands on."""
    libraries = ("libjpeg_turbo", "jpg", "zlib", "zlib_ng", "webp", "libtiff")
    versions = {name: features.version(name) for name in libraries if features.check(name)}
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return json.dumps({"Pillow": PIL.__version__, **versions, "code": code}, sort_keys=True)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of what `read_image` gives, from the file's header alone; InputError where there is none."""
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def is_turned(path: Path) -> bool:
    """Whether `read_image` turns or mirrors the pixels of the file, as its EXIF data asks."""
    with _opened(path) as image:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def check_image(path: Path) -> None:
    """InputError where `path` holds no image, or one that is cut off: its pixels are not decoded for it."""
    with _opened(path) as image:
        if image.format == "JPEG":
            _check_end(path)
        elif image.format == "PNG":
            image.verify()  # the sums of its chunks
        else:
            image.load()


def _check_end(path: Path) -> None:
    """InputError where a JPEG's picture is not ended: thumbnails in its header have ends of their own."""
    content, place = path.read_bytes(), 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    if content.find(b"\xff\xd9", place) < 0:
        raise InputError(f"{path}: not a readable image (image file is truncated)")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image of `path`; InputError where it cannot be read, or is larger than any photo."""
    try:
        heic = ("HEIF",) if path.suffix.lower() in HEIC and heic_reader() else ()
        with Image.open(path, formats=(*FORMATS, *heic)) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(f"{path}: {width} x {height} pixels seen, {MOST_PIXELS} at most wanted")
            yield image
    except InputError:
        raise
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error})") from error
    except DAMAGED as error:
        raise InputError(f"{path}: a damaged image ({type(error).__name__}: {error})") from error


def read_mask(path: Path) -> Bools:
    """(H, W) bool, true where the 8-bit mask is above 127."""
    if not path.is_file():
        raise InputError(f"{path}: no such mask")
    return np.asarray(read_image(path)[..., 0] > 127)
