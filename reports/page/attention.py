"""attention.html: click a pixel, see where its attention falls in every view. One folder, opens from disk."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapters.contract import F32, F64, I32, U8
from reports.page.render import render, write_assets

ASSETS = ("style.css", "attention.css", "page.js", "attention.js")
SHOWN = 640  # pixels, the longer side of an image on the page
LEVELS = 254  # steps of the logarithmic code; level 0 is nothing
SPAN = 1e5  # the code's largest over its smallest value: a step is 4.6%, so a decoded value is off by 2.3% at most
STATES = ("visible", "hidden", "outside", "unknown")
VISIBLE, HIDDEN, OUTSIDE, UNKNOWN = range(len(STATES))


@dataclass(frozen=True)
class View:
    """One view, and where the network's grid of patches lies in it."""

    name: str
    image: U8  # (H, W, 3)
    area: tuple[float, float, float, float]  # left, top, right, bottom of the grid, image pixels; may reach beyond


@dataclass(frozen=True)
class Matches:
    """Where the surface point behind each of M source pixels lies in each of S views."""

    maker: str  # what the depths and cameras are: "the exact truth", "the model's own depth and cameras"
    pixel: F64  # (M, S, 2), x then y; NaN where unknown
    state: U8  # (M, S): VISIBLE, HIDDEN behind a nearer surface, OUTSIDE the network's input, or UNKNOWN


@dataclass(frozen=True)
class AttentionPage:
    """Attention of M source patches on the patches (h, w) of S views, under K ways of putting layers together."""

    title: str
    facts: tuple[tuple[str, str], ...]  # term and description, for the page's head
    footer: str
    views: tuple[View, ...]
    names: tuple[str, ...]  # K: "layers 0-5", "rollout"
    maps: F32  # (K, M, S, h, w): a row's maps and its special tokens' shares sum to 1 where heads are averaged
    special: F32  # (K, M, S), on the views' camera and register tokens
    sources: I32  # (M, 3) view, row and column of the source patches, sorted
    matches: Matches | None

    def patch_centres(self, view: int) -> F64:
        """(h, w, 2) of the patches of `view`, image pixels, x then y."""
        y, x = np.mgrid[: self.maps.shape[3], : self.maps.shape[4]] + 0.5
        return np.array(self.views[view].area[:2]) + np.stack([x, y], axis=-1) * self.patch(view)

    def patch(self, view: int) -> F64:
        """(2,) width and height of a patch of `view`, image pixels."""
        left, top, right, bottom = self.views[view].area
        return np.array([(right - left) / self.maps.shape[4], (bottom - top) / self.maps.shape[3]])


@dataclass(frozen=True)
class Agreement:
    """How often attention is strongest where the source's surface point is: over pairs of a source and another view
    that sees it."""

    name: str
    pairs: int
    within: float | None  # share of the pairs whose strongest patch's centre is within one patch of the true pixel
    chance: float | None  # the same for a patch drawn at random
    median: float | None  # distance of the strongest patch's centre from the true pixel, in patches


def agreement(page: AttentionPage) -> list[Agreement]:
    """One line for each of the page's K names; empty without matches."""
    if page.matches is None:
        return []
    count, (rows, columns) = len(page.names), page.maps.shape[3:]
    distances: list[list[NDArray[np.float64]]] = [[] for _ in range(count)]
    near: list[NDArray[np.float64]] = []
    for view in range(len(page.views)):
        chosen = (page.sources[:, 0] != view) & (page.matches.state[:, view] == VISIBLE)
        away = (page.patch_centres(view).reshape(1, -1, 2) - page.matches.pixel[chosen, view][:, None]) / page.patch(
            view
        )
        distance = np.linalg.norm(away, axis=-1)  # (m, h * w)
        near.append((distance <= 1).mean(axis=1))
        for k in range(count):
            peak = page.maps[k, chosen, view].reshape(-1, rows * columns).argmax(axis=1)
            distances[k].append(distance[np.arange(len(peak)), peak])
    chance = np.concatenate(near)
    lines = []
    for name, distances_k in zip(page.names, map(np.concatenate, distances), strict=True):
        some = len(distances_k) > 0
        lines.append(
            Agreement(
                name,
                len(distances_k),
                float((distances_k <= 1).mean()) if some else None,
                float(chance.mean()) if some else None,
                float(np.median(distances_k)) if some else None,
            )
        )
    return lines


def encode(values: F32) -> tuple[U8, float]:
    """Non-negative `values` as logarithmic levels of one byte, and the largest value.

    Level 0 is 0 (or less than the largest / SPAN); level n is largest * SPAN ** ((n - 1 - LEVELS) / LEVELS)."""
    largest = max(float(values.max(initial=0.0)), 1e-30)
    with np.errstate(divide="ignore"):
        level = np.rint(np.log(values / np.float32(largest)) * np.float32(LEVELS / np.log(SPAN))) + (LEVELS + 1)
    return np.where(level >= 1, level, 0).astype(np.uint8), largest


def decode(levels: U8, largest: float) -> F64:
    """What `encode` wrote, as the page reads it."""
    values = largest * SPAN ** ((levels.astype(np.float64) - 1 - LEVELS) / LEVELS)
    return np.where(levels > 0, values, 0.0)


def write_attention(page: AttentionPage, out: Path) -> list[Path]:
    """Write attention.html and what it loads into the folder `out`; returns the files written."""
    for folder in ("images", "maps"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    coded = [encode(maps) for maps in page.maps]
    written = write_assets(out, *ASSETS)
    written += [_write_image(view, out / "images" / f"{i:03d}.jpg") for i, view in enumerate(page.views)]
    written += list(_write_maps(page, [levels for levels, _ in coded], out / "maps"))
    front = render(
        "attention.html",
        base="",
        home="attention.html",
        page=page,
        data=_data(page, [largest for _, largest in coded]),
        agreement=agreement(page),
        size=sum(path.stat().st_size for path in (out / "maps").iterdir()),
    )
    (out / "attention.html").write_text(front, encoding="utf-8", newline="\n")
    return [out / "attention.html", *written]


def _write_image(view: View, path: Path) -> Path:
    image = Image.fromarray(view.image)
    image.thumbnail((SHOWN, SHOWN))
    image.save(path, quality=85, optimize=True)
    return path


def _write_maps(page: AttentionPage, levels: list[U8], folder: Path) -> Iterator[Path]:
    """A script file for each row of source patches of each view: a page from disk may run scripts, not read data."""
    for old in folder.glob("*.js"):  # a coarser grid's files would never be asked for
        old.unlink()
    for (view, row), run in groupby(enumerate(page.sources), key=lambda source: tuple(source[1][:2].tolist())):
        at = [index for index, _ in run]
        packed = _packed(np.stack([level[at[0] : at[-1] + 1] for level in levels]))
        path = folder / f"{view}-{row}.js"
        path.write_text(f'reconbench.receive("{view}-{row}","{packed}");\n', encoding="ascii", newline="\n")
        yield path


def _data(page: AttentionPage, largest: list[float]) -> dict[str, Any]:
    """What attention.js is told."""
    matches = page.matches and {
        "pixel": _packed(np.nan_to_num(page.matches.pixel, nan=-1).astype("<f4")),
        "state": _packed(page.matches.state),
    }
    return {
        "views": [
            {"name": v.name, "width": v.image.shape[1], "height": v.image.shape[0], "area": list(v.area)}
            for v in page.views
        ],
        "rows": page.maps.shape[3],
        "columns": page.maps.shape[4],
        "sources": page.sources.tolist(),
        "largest": largest,
        "span": SPAN,
        "levels": LEVELS,
        "share": _packed(page.maps.sum(axis=(3, 4)).astype("<f4")),
        "special": _packed(page.special.sum(axis=2).astype("<f4")),
        "states": list(STATES),
        "matches": matches,
    }


def _packed(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
