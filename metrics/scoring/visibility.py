"""What the cameras of a ground truth saw: surface that can be asked for, and space that can be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from adapters.contract import F32, F64, Bools, OnDemand
from metrics.scoring.truth import Truth

OUTLINE_PIXELS = 2


@dataclass(frozen=True)
class DepthBuffer:
    """z-depth of the truth's surface in one view, on a grid of cells of `cell` pixels."""

    depth: F32  # (rows, columns), 0 = no surface there
    free: Bools  # (rows, columns), true where a ray is known to meet no object
    cell: float  # pixels

    def lookup(self, pixel: F64, depth: F64) -> tuple[F32, Bools, Bools]:
        """For pixel coordinates (M, 2) with z-depth (M,): surface depth (M,), known-free (M,) and in-frame (M,)."""
        column = np.floor(pixel[:, 0] / self.cell).astype(np.int64)
        row = np.floor(pixel[:, 1] / self.cell).astype(np.int64)
        rows, columns = self.depth.shape
        inside = (column >= 0) & (row >= 0) & (column < columns) & (row < rows) & (depth > 0)
        column, row = np.where(inside, column, 0), np.where(inside, row, 0)
        return np.where(inside, self.depth[row, column], 0).astype(np.float32), self.free[row, column] & inside, inside


class _OnDemand(Sequence[DepthBuffer]):
    """The buffers of depth maps that are read on demand, each made when it is asked for."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def __len__(self) -> int:
        return len(self._truth.view_names)

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        return tuple(self[i] for i in places) if isinstance(index, slice) else _measured(self._truth, places)


def depth_buffers(truth: Truth) -> Sequence[DepthBuffer]:
    """One buffer a view: from depth maps where the truth has them, else from its points.

    A truth of points alone is splatted on cells about twice as wide as the points' spacing in the image, so that the
    near surface hides the far one; points that face away are left out, or a hole in the near surface would show the
    inside of the far one and make space before it look empty. A cell that no point falls into is free only where the
    mask says background."""
    if truth.depth is None:
        return tuple(_splat(truth, view) for view in range(len(truth.view_names)))
    buffers = _OnDemand(truth)
    return buffers if isinstance(truth.depth, OnDemand) else tuple(buffers)


def _measured(truth: Truth, view: int) -> DepthBuffer:
    assert truth.depth is not None
    depth = truth.depth[view]
    # An exact depth map is complete: no depth means no object. A measured one has holes: only the mask can tell.
    free = depth == 0
    if truth.kind != "exact":
        free &= truth.masks is not None and _background(truth.masks[view])
    return DepthBuffer(depth, free, 1.0)


def _splat(truth: Truth, view: int) -> DepthBuffer:
    pixel, depth = truth.cameras.project(view, truth.points)
    width, height = truth.sizes[view]
    inside = (depth > 0) & (pixel >= 0).all(axis=1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
    inside &= ((truth.cameras.centres[view] - truth.points) * truth.normals).sum(axis=1) > 0
    pixel, depth = pixel[inside], depth[inside]
    # Occupied area over points, on 8-pixel cells, estimates the spacing; twice that leaves few holes.
    occupied = len(np.unique((pixel // 8).astype(np.int64) @ np.array([1, 1 << 20]))) * 64.0
    cell = float(np.clip(2.0 * np.sqrt(occupied / max(len(pixel), 1)), 1.0, 32.0))
    rows, columns = int(np.ceil(height / cell)), int(np.ceil(width / cell))
    buffer = np.full(rows * columns, np.inf)
    cells = np.floor(pixel / cell).astype(np.int64)
    np.minimum.at(buffer, cells[:, 1] * columns + cells[:, 0], depth)
    surface = np.where(np.isfinite(buffer), buffer, 0.0).astype(np.float32).reshape(rows, columns)
    free = np.zeros((rows, columns), np.bool_)
    if truth.masks is not None:
        y = np.minimum(((np.arange(rows) + 0.5) * cell).astype(np.int64), height - 1)
        x = np.minimum(((np.arange(columns) + 0.5) * cell).astype(np.int64), width - 1)
        free = _background(truth.masks[view])[np.ix_(y, x)] & (surface == 0)
    return DepthBuffer(surface, free, cell)


def _background(mask: Bools) -> Bools:
    """Pixels that are background for certain: those beside the outline may hold some of the object."""
    return np.asarray(~binary_dilation(mask, iterations=OUTLINE_PIXELS))


def seen_surface(points: NDArray[np.floating], truth: Truth, buffers: Sequence[DepthBuffer], tolerance: float) -> Bools:
    """(V, M) bool: which surface `points` (M, 3) each of the truth's views sees, depths agreeing to `tolerance`."""
    visible = np.zeros((len(truth.view_names), len(points)), np.bool_)
    for view in range(len(truth.view_names)):
        pixel, depth = truth.cameras.project(view, points)
        surface, _, inside = buffers[view].lookup(pixel, depth)
        visible[view] = inside & (surface > 0) & (np.abs(surface - depth) <= tolerance)
    return visible


def observed_space(points: NDArray[np.floating], truth: Truth, buffers: Sequence[DepthBuffer], behind: float) -> Bools:
    """(M,) bool: which `points` lie in space that the truth can judge: before, at, or less than `behind` (in the
    truth's unit) behind a surface that some camera sees, or on a ray known to meet nothing."""
    observed = np.zeros(len(points), np.bool_)
    for view in range(len(truth.view_names)):
        left = np.flatnonzero(~observed)
        pixel, depth = truth.cameras.project(view, points[left])
        surface, free, _ = buffers[view].lookup(pixel, depth)
        observed[left] = free | ((surface > 0) & (depth <= surface + behind))
    return observed
