"""A folder of photos as people have them: what can be used, and for every other file, by name, why it cannot."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from adapters.contract import F32, U8, InputError
from data.images import HEIC, SUFFIXES, heic_reader, read_image
from data.video import sharpness

MOST_PHOTOS = 400  # beyond this a folder is thinned out evenly: matching takes a night, and neighbours tell no more
THUMBNAIL = 64  # pixels a side: what copies are told by
SAME = 0.995  # correlation of two thumbnails above which one photo is the other's copy
OWN = 0.9  # of a photo with its own mirror image, below which a mirrored copy of it can be told
BLURRED = 0.2  # share of the folder's median sharpness below which a photo counts as blurred


@dataclass
class Sorted:
    """The files of one folder."""

    used: list[Path] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)  # file name -> why it is not used
    remarks: dict[str, str] = field(default_factory=dict)  # file name -> what is odd about a photo that is used


def sort_photos(folder: Path) -> Sorted:
    """Every file of `folder`: the photos to use, in the order of their names, and why each other file is not one of
    them: no photo, unreadable, a copy of another or its mirror image, or more than are needed.

    InputError where fewer than two are left, naming what was seen."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    out = Sorted()
    photos = []
    for path in files:
        suffix = path.suffix.lower()
        if suffix in SUFFIXES or (suffix in HEIC and heic_reader()):
            photos.append(path)
        elif suffix in HEIC:
            out.left[path.name] = "not read: HEIC; `pip install pillow-heif` into Reconbench's environment reads it"
        else:
            out.left[path.name] = f"not a photo ({suffix or 'no suffix'})"
    if not photos:
        what = f" ({'; '.join(f'{name}: {why}' for name, why in list(out.left.items())[:5])})" if out.left else ""
        raise InputError(f"{folder}: no image seen{what}, at least two of {' '.join(SUFFIXES)} wanted")
    if len(photos) > MOST_PHOTOS:
        kept = {photos[i] for i in np.linspace(0, len(photos) - 1, MOST_PHOTOS).round().astype(int)}
        for path in photos:
            if path not in kept:
                out.left[path.name] = f"left out: {len(photos)} photos seen, {MOST_PHOTOS} evenly taken are enough"
        photos = [path for path in photos if path in kept]
    _sort_copies(photos, out)
    if len(out.used) < 2:
        reasons = "".join(f"; {name}: {why}" for name, why in out.left.items())
        raise InputError(f"{folder}: {len(out.used)} image that can be used seen, at least 2 wanted{reasons}")
    return out


def _sort_copies(photos: Sequence[Path], out: Sorted) -> None:
    """Read each photo once: the unreadable, the copies and the mirrored copies go to `left`, the others to `used`."""
    seen: dict[str, str] = {}
    thumbnails: list[F32] = []
    sharp: list[float] = []
    sizes: list[tuple[int, int]] = []
    # Of a photo and its mirror image the one with the shorter name is taken for the original: tools add a word.
    order = sorted(photos, key=lambda path: (len(path.stem), path.name))
    used: dict[Path, int] = {}
    for path in order:
        if path.stat().st_size == 0:
            out.left[path.name] = "unreadable (0 bytes)"
            continue
        try:
            image = read_image(path)
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ").replace(str(path), path.name)
            out.left[path.name] = f"unreadable ({reason})"
            continue
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if digest in seen:
            out.left[path.name] = f"identical to {seen[digest]}"
            continue
        thumbnail = _thumbnail(image)
        if (original := _mirrored(thumbnail, thumbnails)) is not None:
            known = list(used)[original]
            out.left[path.name] = f"mirrored: {known.name} turned left to right"
            continue
        seen[digest] = path.name
        used[path] = len(thumbnails)
        thumbnails.append(thumbnail)
        grey = np.asarray(Image.fromarray(image).convert("L"), np.uint8)
        sharp.append(sharpness(grey))
        sizes.append((image.shape[1], image.shape[0]))
    out.used = [path for path in photos if path in used]
    if not used:
        return
    usual, middle = Counter(sizes).most_common(1)[0][0], float(np.median(sharp))
    for path, index in used.items():
        odd = []
        if sizes[index] != usual:
            odd.append(f"another size, {sizes[index][0]} x {sizes[index][1]} where most are {usual[0]} x {usual[1]}")
        if sharp[index] < BLURRED * middle:
            odd.append(f"blurred: sharpness {sharp[index]:.0f} where {middle:.0f} is usual")
        if odd:
            out.remarks[path.name] = "; ".join(odd)


def _thumbnail(image: U8) -> F32:
    """(64 x 64,) grey levels, mean 0 and length 1; zeros where the photo is even."""
    small = Image.fromarray(image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32)
    grey = grey - grey.mean()
    return np.asarray((grey / max(float(np.linalg.norm(grey)), 1.0)).ravel(), np.float32)


def _mirrored(thumbnail: F32, others: Sequence[F32]) -> int | None:
    """Which of `others` is the mirror image of a photo; None where it is its own, since nothing can be told then."""
    flipped = thumbnail.reshape(THUMBNAIL, THUMBNAIL)[:, ::-1].ravel()
    if not others or float(flipped @ thumbnail) > OWN:
        return None
    likeness = np.stack(others) @ flipped
    best = int(likeness.argmax())
    return best if likeness[best] > SAME else None
