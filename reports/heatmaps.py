"""Error heat maps for papers: a prediction's points as a camera of the truth sees them, coloured as on the page.

Points are splatted as discs about as wide as their spacing in the image, the nearest on top. No extra package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adapters.contract import F32, F64, U8, Cameras
from reports.page.clouds import COLOURS, scale_end

LONGER = 960  # pixels of the image's longer side
BAR = 44  # pixels below it for the scale
MOST_RADIUS = 9.0  # pixels of a disc


def colours(share: NDArray[np.floating]) -> U8:
    """(K, 3) colours of the page's scale at `share` (K,) of its length, beyond the end the last one."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], float)
    at = np.clip(share, 0, 1) * (len(stops) - 1)
    return (
        np.stack([np.interp(at, np.arange(len(stops)), stops[:, k]) for k in range(3)], axis=1).round().astype(np.uint8)
    )


def heat_map(points: F32, shades: U8, camera: Cameras, size: tuple[int, int]) -> U8:
    """(H, W, 3) uint8 on white: `points` (K, 3) in `shades` (K, 3), seen by the one `camera` whose image is `size`
    (width, height) pixels; drawn at `LONGER` pixels for the longer side."""
    zoom = LONGER / max(size)
    width, height = (round(side * zoom) for side in size)
    pixel, depth = camera.project(0, points)
    pixel = pixel * zoom
    inside = (depth > 0) & (pixel >= 0).all(axis=1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
    pixel, depth, shades = pixel[inside], depth[inside], shades[inside]
    image = np.full((height, width, 3), 255, np.uint8)
    if len(pixel) == 0:
        return image
    offsets = _disc(_radius(pixel))
    x = (np.floor(pixel[:, 0]).astype(np.int64)[:, None] + offsets[:, 0]).ravel()
    y = (np.floor(pixel[:, 1]).astype(np.int64)[:, None] + offsets[:, 1]).ravel()
    source = np.repeat(np.arange(len(pixel)), len(offsets))
    drawn = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    order = np.argsort(-depth[source[drawn]], kind="stable")  # of equal places the last written stays: the nearest
    image[y[drawn][order], x[drawn][order]] = shades[source[drawn]][order]
    return image


def _radius(pixel: F64) -> float:
    """Pixels: wide enough that the near side of a closed surface, half of the points, hides the far one."""
    occupied = len(np.unique((pixel // 8).astype(np.int64) @ np.array([1, 1 << 20]))) * 64.0
    return float(np.clip(1.5 * np.sqrt(occupied / len(pixel)), 1.0, MOST_RADIUS))


def _disc(radius: float) -> NDArray[np.int64]:
    """(N, 2) offsets of the pixels within `radius`."""
    reach = np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    x, y = np.meshgrid(reach, reach)
    near = x**2 + y**2 <= radius**2
    return np.stack([x[near], y[near]], axis=1)


def write_heat_maps(source: Path, target: Path) -> list[Path]:
    """Write TARGET-0.png ... for every camera that the cloud file `source` (see `CloudRow`) holds; the files."""
    with np.load(source, allow_pickle=False) as file:
        arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    if "intrinsics" not in arrays:
        return []
    cameras = Cameras(arrays["intrinsics"], arrays["camera_from_world"])
    end = scale_end(float(np.quantile(arrays["error"], 0.95)))
    shades = colours(arrays["error"] / end)
    written = []
    for i, size in enumerate(arrays["sizes"]):
        width, height = int(size[0]), int(size[1])
        drawn = Image.fromarray(_with_scale(heat_map(arrays["pred"], shades, cameras.take([i]), (width, height)), end))
        written.append(target.with_name(f"{target.name}-{i}.png"))
        drawn.save(written[-1], optimize=True)
    return written


def _with_scale(image: U8, end: float) -> U8:
    """The image with the colour scale below it."""
    height, width = image.shape[:2]
    out = np.full((height + BAR, width, 3), 255, np.uint8)
    out[:height] = image
    bar = colours(np.linspace(0, 1, width // 2))
    left = width // 4
    out[height + 6 : height + 18, left : left + len(bar)] = bar
    canvas = Image.fromarray(out)
    draw = ImageDraw.Draw(canvas)
    for x, label, anchor in ((left, "0", "lt"), (left + len(bar), f"{end:g} % of the diameter", "rt")):
        draw.text((x, height + 22), label, fill=(60, 60, 60), anchor=anchor, font_size=16)
    return np.asarray(canvas)
