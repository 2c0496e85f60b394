"""Solids as signed distances, and the triangle mesh of their surface.

A solid is a function from points (M, 3) float64 to (M,) float64, negative inside, in the unit of the points. Primitives
and the smooth union follow I. Quilez, "Distance functions" (ellipsoids are first-order approximations).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import point_cloud_utils as pcu
from numpy.typing import ArrayLike

from adapters.contract import F32, F64, I32

Solid = Callable[[F64], F64]


class MissingTool(ImportError):
    """A package of the `render` extra is absent; the message says how to get it."""


def ellipsoid(p: F64, centre: ArrayLike, radii: ArrayLike, target_from_local: F64 | None = None) -> F64:
    """An ellipsoid; `target_from_local` (3, 3) turns its axes."""
    q = p - np.asarray(centre, np.float64)
    if target_from_local is not None:
        q = q @ target_from_local
    r = np.asarray(radii, np.float64)
    k0, k1 = np.linalg.norm(q / r, axis=1), np.linalg.norm(q / r**2, axis=1)
    return np.asarray(k0 * (k0 - 1) / np.maximum(k1, 1e-9))


def capsule(p: F64, a: ArrayLike, b: ArrayLike, radius_a: float, radius_b: float | None = None) -> F64:
    """A segment from `a` to `b`, as thick as `radius_a` at the one end and `radius_b` at the other."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    h = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    radius = radius_a + ((radius_a if radius_b is None else radius_b) - radius_a) * h
    return np.asarray(np.linalg.norm(p - a - h[:, None] * (b - a), axis=1) - radius)


def tube(p: F64, path: F64, radii: ArrayLike) -> F64:
    """Capsules along a polyline `path` (K, 3) with `radii` () or (K,)."""
    r = np.broadcast_to(np.asarray(radii, np.float64), len(path))
    return union(*(capsule(p, a, b, ra, rb) for (a, b), (ra, rb) in zip(pairwise(path), pairwise(r), strict=True)))


def box(p: F64, centre: ArrayLike, half: ArrayLike, rounding: float, target_from_local: F64 | None = None) -> F64:
    """A box with half sides `half` and edges rounded by `rounding`."""
    q = p - np.asarray(centre, np.float64)
    if target_from_local is not None:
        q = q @ target_from_local
    q = np.abs(q) - np.asarray(half, np.float64) + rounding
    return np.asarray(np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0) - rounding)


def _across(p: F64, centre: ArrayLike, axis: ArrayLike) -> tuple[F64, F64]:
    """Distance from the line through `centre` along `axis`, and signed height along it."""
    q, n = p - np.asarray(centre, np.float64), np.asarray(axis, np.float64)
    n = n / np.linalg.norm(n)
    height = q @ n
    return np.asarray(np.linalg.norm(q - height[:, None] * n, axis=1)), np.asarray(height)


def torus(p: F64, centre: ArrayLike, axis: ArrayLike, major: float, minor: float) -> F64:
    """A ring around `axis`."""
    radial, height = _across(p, centre, axis)
    return np.asarray(np.hypot(radial - major, height) - minor)


def cylinder(p: F64, centre: ArrayLike, axis: ArrayLike, radius: float, half: float, rounding: float) -> F64:
    """A disc or rod of half height `half`, its rims rounded by `rounding`."""
    radial, height = _across(p, centre, axis)
    q = np.stack([radial - radius, np.abs(height) - half], axis=1) + rounding
    return np.asarray(np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0) - rounding)


def union(*solids: F64) -> F64:
    """The points inside any of `solids`."""
    return np.asarray(np.minimum.reduce(solids), np.float64)


def smooth_union(a: F64, b: F64, blend: float) -> F64:
    """The union of two solids with a fillet about `blend` wide."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend, 0, 1)
    return np.asarray(b + (a - b) * h - blend * h * (1 - h))


def bezier(controls: ArrayLike, count: int) -> F64:
    """(count, 3) points of the cubic Bezier curve with four control points."""
    c, t = np.asarray(controls, np.float64), np.linspace(0, 1, count)[:, None]
    return np.asarray((1 - t) ** 3 * c[0] + 3 * t * (1 - t) ** 2 * c[1] + 3 * t**2 * (1 - t) * c[2] + t**3 * c[3])


def rotation(axis: ArrayLike, degrees: float) -> F64:
    """(3, 3) rotation about `axis` (Rodrigues)."""
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    K, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.deg2rad(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K)


def gradient(solid: Solid, p: F64, step: float) -> F64:
    """(M, 3) central differences of `solid`: outward normals, up to length."""
    axes = np.eye(3) * step
    return np.stack([(solid(p + e) - solid(p - e)) / (2 * step) for e in axes], axis=1)


def polygonise(solid: Solid, low: ArrayLike, high: ArrayLike, cell: float, faces: int) -> tuple[F32, I32]:
    """The surface of `solid` inside the box from `low` to `high`: vertices (V, 3) float32, outward faces (F, 3) int32.

    Marching cubes on a grid of `cell`, evaluated only in blocks near the surface; edges collapsed, shortest first, to
    rid it of slivers; then to at most `faces` triangles by quadric errors (Garland and Heckbert, SIGGRAPH 1997), which
    keep edges sharp, or on by length where those would tear it. Newton steps bring the vertices back onto the surface.
    Raises MissingTool without scikit-image or fast-simplification, ValueError where the surface leaves the box.
    """
    try:
        from fast_simplification import simplify
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise MissingTool(
            "scikit-image or fast-simplification is not installed: `pip install 'reconbench[render]'` brings both"
        ) from error
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    block = 8
    blocks = np.ceil((high - low) / (cell * block)).astype(int)
    grid = np.empty(tuple(blocks * block), np.float32)
    corners = np.stack(np.meshgrid(*(np.arange(n) for n in blocks), indexing="ij"), -1).reshape(-1, 3) * block
    middle = solid(low + (corners + (block - 1) / 2) * cell)
    # Distances grow at most as fast as the way walked; blends and ellipsoids are inexact, hence half as much again.
    near = np.abs(middle) < 1.5 * np.sqrt(3) * cell * block / 2
    offsets = np.stack(np.meshgrid(*[np.arange(block)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for (i, j, k), value in zip(corners[~near], middle[~near], strict=True):
        grid[i : i + block, j : j + block, k : k + block] = value
    for chunk in np.array_split(corners[near], max(1, int(near.sum()) // 400)):
        values = solid(low + (chunk[:, None] + offsets).reshape(-1, 3) * cell).reshape(len(chunk), block, block, block)
        for (i, j, k), value in zip(chunk, values, strict=True):
            grid[i : i + block, j : j + block, k : k + block] = value
    rim = min(grid[[0, -1]].min(), grid[:, [0, -1]].min(), grid[:, :, [0, -1]].min())
    if rim <= 0:
        raise ValueError(f"low, high: the surface leaves the box (distance {rim:.3f} on its rim), a larger one wanted")
    vertices, triangles, _, _ = marching_cubes(grid, 0.0)
    vertices = low + vertices.astype(np.float64) * cell
    if len(triangles) > faces:
        vertices, triangles = _simplified(solid, vertices, triangles, cell, faces, simplify)
    triangles = np.asarray(triangles, np.int32)
    corner = vertices[triangles]
    if np.einsum("ij,ij->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) < 0:  # six times the volume
        triangles = triangles[:, ::-1]
    return vertices.astype(np.float32), np.ascontiguousarray(triangles)


def _simplified(
    solid: Solid, vertices: F64, triangles: I32, cell: float, faces: int, by_quadrics: Callable[..., tuple[F64, I32]]
) -> tuple[F64, I32]:
    """A closed mesh of at most `faces` triangles, its vertices on the surface of `solid`."""
    v, f, _, _ = pcu.decimate_triangle_mesh(vertices, triangles.astype(np.int64), 3 * faces)
    v, f = by_quadrics(_onto(solid, v, cell), f.astype(np.int32), target_count=faces, agg=3)
    if len(f) > faces or not _is_closed(f):  # quadrics may pinch the surface; the shortest edges never do
        v, f, _, _ = pcu.decimate_triangle_mesh(vertices, triangles.astype(np.int64), faces)
    return _onto(solid, v.astype(np.float64), cell), f


def _onto(solid: Solid, vertices: F64, cell: float) -> F64:
    """`vertices` moved onto the surface of `solid` by Newton steps of half a `cell` at most."""
    for _ in range(3):
        slope = gradient(solid, vertices, cell / 4)
        step = -solid(vertices)[:, None] * slope / np.maximum((slope**2).sum(axis=1, keepdims=True), 0.25)
        vertices = vertices + np.clip(step, -cell / 2, cell / 2)
    return vertices


def _is_closed(triangles: I32) -> bool:
    """Every directed edge is run through once, and once the other way."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).astype(np.int64)
    key = edges[:, 0] << 32 | edges[:, 1]
    back = edges[:, 1] << 32 | edges[:, 0]
    return len(np.unique(key)) == len(key) and np.array_equal(np.sort(key), np.sort(back))
