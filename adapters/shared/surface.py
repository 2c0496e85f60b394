"""The triangle mesh of a field's zero surface on a grid."""

from __future__ import annotations

import numpy as np
import point_cloud_utils as pcu
from numpy.typing import NDArray

from adapters.contract import ContractError

# Corners of a grid cell in the order that marching cubes wants them.
CELL = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])


def isosurface(
    field: NDArray[np.float32], origin: NDArray[np.float64], step: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Vertices (V, 3) float64 and faces (F, 3) int32, counter-clockwise seen from outside, where `field` (X, Y, Z),
    positive inside, is zero; none where it is zero nowhere.

    Grid point (i, j, k) lies at `origin` + `step` (i, j, k). The surface is closed at the grid's border, which counts
    as outside.
    """
    field = np.where(field == 0, np.float32(1e-6 * step), field)  # a grid point on the surface gives slivers
    border = np.ones(field.shape, np.bool_)
    border[1:-1, 1:-1, 1:-1] = False
    field = np.where(border, np.minimum(field, -step), field)
    inside = field > 0
    n = np.array(field.shape) - 1
    corners = [inside[i : n[0] + i, j : n[1] + j, k : n[2] + k] for i, j, k in CELL]
    count = np.sum(corners, axis=0, dtype=np.int8)
    cells = np.argwhere((count > 0) & (count < 8))
    if len(cells) == 0:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
    where = np.ravel_multi_index(tuple((cells[:, None] + CELL).reshape(-1, 3).T), field.shape)
    used = np.zeros(field.size, np.bool_)
    used[where] = True
    flat = np.flatnonzero(used)
    number = np.zeros(field.size, np.int32)
    number[flat] = np.arange(len(flat))
    position = origin + step * np.stack(np.unravel_index(flat, field.shape), axis=1)
    vertices, faces = pcu.marching_cubes_sparse_voxel_grid(
        field.reshape(-1)[flat].astype(np.float64), position, number[where].reshape(-1, 8), 0.0
    )
    a, b, c = np.asarray(vertices)[np.asarray(faces).T] - vertices.mean(axis=0)
    if np.einsum("ij,ij->", a, np.cross(b, c)) < 0:
        faces = faces[:, ::-1]
    return np.asarray(vertices, np.float64), np.ascontiguousarray(faces, np.int32)


def no_surface(field: NDArray[np.floating], level: float) -> ContractError:
    """What to raise where a network's field, of any sign, reaches `level` nowhere: an invalid output, not a crash."""
    known = field[np.isfinite(field)]
    seen = f"are {known.min():.4g} to {known.max():.4g}" if known.size else "are not finite"
    return ContractError(f"mesh: no surface at level {level:g}: the field's values {seen}")
