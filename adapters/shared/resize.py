"""How a photo becomes a network's image, and how pixels, cameras and maps come back to the photo.

Runs inside the environments of the systems under test: numpy and Pillow, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.contract import F32, F64, U8, Bools

Size = tuple[int, int]  # width, height


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a photo lies in its network image: network = scale * photo + offset, for x and y apart.

    Pixel centres lie at half-integers in both."""

    photo: Size
    network: Size
    scale: tuple[float, float]
    offset: tuple[float, float]
    window: tuple[Size, Size] | None = None  # of a crop that was padded: first and behind-last columns, rows of it

    def pixels(self) -> F64:
        """(h, w, 2) float64: where in the photo the centres of the network's pixels lie, x then y."""
        return np.stack(np.meshgrid(self._positions(0), self._positions(1)), axis=-1)

    def inside(self) -> Bools:
        """(h, w): network pixels that show the photo, not padding."""
        return self._showing(1)[:, None] & self._showing(0)

    def _positions(self, axis: int) -> F64:
        """(w,) or (h,): where in the photo the centres of the network's columns (axis 0) or rows lie."""
        return np.asarray((np.arange(self.network[axis]) + 0.5 - self.offset[axis]) / self.scale[axis])

    def _showing(self, axis: int) -> Bools:
        """Which of these lie in the photo, and in the window."""
        at, index = self._positions(axis), np.arange(self.network[axis])
        first, behind = self._window(axis)
        return np.asarray((at >= 0) & (at <= self.photo[axis]) & (index >= first) & (index < behind))

    def _window(self, axis: int) -> Size:
        return (0, self.network[axis]) if self.window is None else self.window[axis]

    def intrinsics(self, K: NDArray[np.floating]) -> F64:
        """(3, 3) float64 at the photo's resolution, from the network's K, which holds for integer pixel indices.

        Networks unproject indices 0..w-1, so that a pixel's centre stands at the index and not half a pixel further."""
        photo = np.array(K, np.float64)
        photo[:2, 2] += 0.5 - np.array(self.offset)
        photo[:2] /= np.array(self.scale)[:, None]
        return photo

    def restore(self, values: NDArray[np.floating]) -> F32:
        """(H, W) float32 at the photo's pixels, bilinear, from a map (h, w) > 0 of the network image.

        0 where the crop left the photo out and where a neighbour is not finite or not positive."""
        known = np.where(np.isfinite(values) & (values > 0), values, np.nan).astype(np.float32)
        above, below, down, rows_shown = self._neighbours(1)
        left, right, along, columns_shown = self._neighbours(0)
        known = known[above] * (1 - down)[:, None] + known[below] * down[:, None]
        known = known[:, left] * (1 - along) + known[:, right] * along
        return np.where(np.isfinite(known) & rows_shown[:, None] & columns_shown, known, np.float32(0))

    def _neighbours(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64], F32, Bools]:
        """For each of the photo's pixels along `axis`: the network's pixels before and after it, the share of the
        latter, and whether the network image reaches it."""
        centre = self.scale[axis] * (np.arange(self.photo[axis]) + 0.5) + self.offset[axis]
        first, behind = self._window(axis)
        shown = (centre >= first) & (centre <= behind)
        # Only pixels that show the photo: beyond their centres the outermost one goes on.
        showing = np.flatnonzero(self._showing(axis))
        # A photo so small that it lies between two centres is shown by the nearer one.
        nearest = np.clip(np.round(centre[:1] - 0.5), 0, self.network[axis] - 1)
        first, last = showing[[0, -1]] if len(showing) else nearest[[0, 0]]
        at = np.clip(centre - 0.5, first, last)
        before = at.astype(np.int64)
        share = (at - before).astype(np.float32)
        return before, before + (share > 0), share, shown


@dataclasses.dataclass(frozen=True)
class Inputs:
    """N network images and where the photos lie in them."""

    images: tuple[F32, ...]  # each (3, h, w)
    placements: tuple[Placement, ...]

    @staticmethod
    def of(pairs: Iterable[tuple[U8, Placement]], mean: ArrayLike = 0, spread: ArrayLike = 1) -> Inputs:
        """From images (h, w, 3): their levels in [0, 1], less `mean`, over `spread` (numbers, or (3, 1, 1))."""
        images, placements = zip(*pairs)  # noqa: B905 - Python 3.9
        less, over = np.asarray(mean, np.float32), np.asarray(spread, np.float32)
        return Inputs(tuple((image - less) / over for image in unit_range(images)), placements)


def place(image: U8, scaled: Size, corner: Size, network: Size, lanczos: bool = False) -> tuple[U8, Placement]:
    """Resize `image` (H, W, 3) to `scaled`, lay it with its top-left corner at `corner` on white of size `network`.

    A negative corner crops. Resampling is Pillow's, bicubic or Lanczos."""
    from PIL import Image

    photo = (image.shape[1], image.shape[0])
    method = Image.Resampling.LANCZOS if lanczos else Image.Resampling.BICUBIC
    resized = np.asarray(Image.fromarray(image).resize(scaled, method))
    canvas = np.full((network[1], network[0], 3), 255, np.uint8)
    left, top = max(corner[0], 0), max(corner[1], 0)
    right, bottom = min(corner[0] + scaled[0], network[0]), min(corner[1] + scaled[1], network[1])
    canvas[top:bottom, left:right] = resized[top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]]
    scale = (scaled[0] / photo[0], scaled[1] / photo[1])
    return canvas, Placement(photo, network, scale, (float(corner[0]), float(corner[1])))


def scaled_to_width(shape: tuple[int, ...], width: int, multiple: int) -> Size:
    """VGGT's rule: an image (H, W, ...) `width` wide; its height in proportion, to the nearest `multiple`."""
    return width, round(shape[0] * (width / shape[1]) / multiple) * multiple


def place_on_width(image: U8, scaled: Size, network: Size) -> tuple[U8, Placement]:
    """`image` resized to `scaled`; of what is higher than the network is wide the middle, centred on white."""
    side = network[0]
    cropped = (scaled[1] - side) // 2 if scaled[1] > side else 0
    spare = (side - scaled[0], network[1] - min(scaled[1], side))
    return place(image, scaled, (spare[0] // 2, spare[1] // 2 - cropped), network)


def place_longest(image: U8, size: int, multiple: int = 16, square_ok: bool = False) -> tuple[U8, Placement]:
    """DUSt3R's rule: the longer side becomes `size`, then the centre is cropped to multiples of `multiple`.

    A square is cropped to 4:3 unless `square_ok`. Shrinks with Lanczos, enlarges with bicubic."""
    height, width = image.shape[:2]
    longest = max(width, height)
    scaled = (round(width * size / longest), round(height * size / longest))
    half = [(2 * (side // 2)) // multiple * multiple // 2 for side in scaled]
    if scaled[0] == scaled[1] and not square_ok:
        half[1] = 3 * half[0] // 4
    corner = (half[0] - scaled[0] // 2, half[1] - scaled[1] // 2)
    return place(image, scaled, corner, (2 * half[0], 2 * half[1]), lanczos=longest > size)


def unit_range(images: Iterable[U8]) -> list[F32]:
    """Each (H, W, 3) uint8 as (3, H, W) float32 in [0, 1]."""
    return [np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / np.float32(255) for image in images]
