"""What adapters of single-object networks share: the object cut out of its photo, and the mesh of a field.

Runs inside the environments of the systems under test: numpy, Pillow and point-cloud-utils, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from adapters.contract import F32, F64, I32, U8, Bools, ContractError, Execution, Unavailable, Unsupported
from adapters.shared.network import NetworkAdapter
from adapters.shared.surface import isosurface

WHITE = 255
Cut = Literal["mask", "rembg", "none"]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Photos of one object: cut out, centred and square, or as they are."""

    images: tuple[U8, ...]  # each (H, W, 3) sRGB
    foreground: str = ""  # how the object was cut out, and what was put behind it


@dataclasses.dataclass(eq=False)
class ObjectNetwork(NetworkAdapter):
    """An adapter of a network that wants one object on a plain ground.

    `foreground`: "mask" cuts the object out by the mask where one is given, and leaves the photo as it is elsewhere;
    "rembg" cuts it out by the segmenter of that name, which must be in the adapter's environment; "none" never does."""

    foreground: Cut = "mask"
    grey: typing.ClassVar[int] = WHITE  # level of what is put behind the object
    border: typing.ClassVar[float] = 0.2  # share of the square's side that the object's longer side leaves free

    def pictures(self, images: Sequence[U8], masks: Sequence[Bools] | None) -> Pictures:
        """The object in each of `images` (H, W, 3), cut out by its mask (H, W) or by the segmenter."""
        if self.foreground == "rembg":
            masks = [segmented(image) for image in images]
        if masks is None or self.foreground == "none":
            return Pictures(tuple(images), "whole photo")
        how = "given mask" if self.foreground == "mask" else "rembg"
        ground = "white" if self.grey == WHITE else f"grey {self.grey}"
        square = (cut_out(image, mask, self.grey, self.border) for image, mask in zip(images, masks))  # noqa: B905
        return Pictures(tuple(square), f"{how}, {self.border:g} border, on {ground}")

    def execution(self, inputs: Any) -> Execution:
        """Also how the object was cut out."""
        return dataclasses.replace(super().execution(inputs), foreground=getattr(inputs, "foreground", ""))


def cut_out(image: U8, mask: Bools, grey: int = WHITE, border: float = 0.2) -> U8:
    """(S, S, 3): the object that `mask` (H, W) shows in `image` (H, W, 3), centred on a ground of level `grey`, its
    longer side 1 - `border` of the square's, no pixel resampled. Unsupported where the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise Unsupported("masks: no object pixel seen, at least one wanted")
    top, left = rows[0], columns[0]
    height, width = rows[-1] + 1 - top, columns[-1] + 1 - left
    side = round(max(height, width) / (1 - border))
    square = np.full((side, side, 3), grey, np.uint8)
    down, right = (side - height) // 2, (side - width) // 2
    inside = np.where(mask[..., None], image, np.uint8(grey))[top : top + height, left : left + width]
    square[down : down + height, right : right + width] = inside
    return square


def segmented(image: U8) -> Bools:
    """(H, W): where rembg, with the network that it finds in its own folder, sees the object of `image` (H, W, 3)."""
    try:
        import rembg
    except ImportError as error:
        raise Unavailable("foreground: rembg is not in the adapter's environment: pip install rembg there") from error
    cut = rembg.remove(Image.fromarray(image), only_mask=True)
    return np.asarray(np.asarray(cut.convert("L")) > 127)


def by_area(image: U8, size: int) -> U8:
    """`image` (H, W, 3) at `size` x `size`: by area where it shrinks, bicubic where it grows."""
    kind = Image.Resampling.BOX if min(image.shape[:2]) >= size else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size, size), kind), np.uint8)


def bicubic(image: U8, size: int) -> F32:
    """(3, size, size) in [0, 1] of `image` (H, W, 3): bicubic with the corners' pixels on each other and no smoothing,
    clipped, as torch's interpolate with align_corners has it."""
    rows, columns = (_bicubic_weights(length, size) for length in image.shape[:2])
    levels = np.einsum("ih,hwc,jw->cij", rows, image / 255.0, columns, optimize=True)
    clipped: F32 = np.clip(levels, 0, 1).astype(np.float32)
    return clipped


def _bicubic_weights(before: int, after: int) -> F64:
    """(after, before): each new pixel's weights of the old ones, Keys' kernel with a = -0.75."""
    at = np.arange(after) * ((before - 1) / (after - 1))
    weights = np.zeros((after, before))
    for step in (-1, 0, 1, 2):
        index = np.floor(at).astype(int) + step
        x = np.abs(at - index)
        near = (1.25 * x - 2.25) * x * x + 1
        far = ((-0.75 * x + 3.75) * x - 6) * x + 3
        value = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
        np.add.at(weights, (np.arange(after), np.clip(index, 0, before - 1)), value)
    return weights


def field_mesh(field: F32, level: float, low: float, high: float) -> tuple[F32, I32]:
    """Vertices (V, 3) and faces (F, 3) where `field` (G, G, G), larger inside, is `level`; the grid's first point lies
    at (`low`, `low`, `low`), its last at `high`. The surface is closed at the grid's border.

    ContractError with the range seen where the field reaches the level nowhere."""
    step = (high - low) / (len(field) - 1)
    vertices, faces = isosurface((field - np.float32(level)).astype(np.float32), np.full(3, low), step)
    if not len(faces):
        raise ContractError(
            f"mesh: no surface at level {level:g}: the field's values are {field.min():.4g} to {field.max():.4g}"
        )
    return vertices.astype(np.float32), faces
