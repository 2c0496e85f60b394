"""Ground truth as scoring sees it: a surface, the cameras that measured it, and the unit of length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from adapters.contract import F32, F64, I32, Bools, Cameras, TruthKind

DIRECTIONS = 1024  # in which `diameter` looks for the ends of a cloud
WALKS = 16  # pairs of ends that it starts from
CHUNK = 8192  # points it projects at once
OUTERMOST = 100_000  # points above which it starts from the outermost ones


@dataclass(frozen=True)
class Box:
    """An axis-aligned crop volume in the truth's frame."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def contains(self, points: NDArray[np.floating]) -> Bools:
        """(M,) bool: which of `points` (M, 3) lie inside, borders included."""
        return np.asarray(((points >= np.array(self.low)) & (points <= np.array(self.high))).all(axis=1))


@dataclass(frozen=True)
class Knowledge:
    """Where a measured truth can judge; see `metrics.scoring.knowledge`."""

    trusted: Bools  # (M,) which of the truth's points their neighbourhood bears out
    free: Bools  # (X, Y, Z) voxels known to hold no surface
    low: F64  # (3,) the corner of that grid, in the truth's frame
    edge: float  # of a voxel, in the truth's unit
    error: float  # expected distance of a trusted point from the surface, share of the diameter

    @cached_property
    def clear(self) -> F32:
        """(X, Y, Z) distance from each voxel to the nearest that is not free, in the truth's unit."""
        return (distance_transform_edt(self.free) * self.edge).astype(np.float32)

    @cached_property
    def hull(self) -> F64:
        """(M, 3) centres of the outermost voxels that are not free."""
        return np.asarray(self.low + self.edge * (np.argwhere(~self.free & ~binary_erosion(~self.free)) + 0.5))


@dataclass(frozen=True)
class Truth:
    """A scene's ground truth. Lengths are in the truth's own unit; scores divide them by `diameter`."""

    kind: TruthKind
    id: str  # hash of the files it was read from
    made_by: tuple[str, ...]  # systems whose method, code or images made it: their rows are kin
    points: F32  # (M, 3) samples of the surface
    normals: F32  # (M, 3) unit length
    diameter: float  # see `diameter`
    view_names: tuple[str, ...]  # the V views with a pose, in the order of everything below
    cameras: Cameras  # V cameras, in the truth's frame
    sizes: I32  # (V, 2) image width and height, pixels
    depth: Sequence[F32] | None = None  # V maps (H, W) of z-depth, 0 = nothing measured there; many are read on demand
    masks: Sequence[Bools] | None = None  # V maps (H, W), true on the object
    vertices: F64 | None = None  # (V, 3), where the surface is a known mesh
    faces: I32 | None = None  # (F, 3)
    crop: Box | None = None
    knowledge: Knowledge | None = None  # of a surface that was measured; an exact one is known everywhere
    up: tuple[float, float, float] | None = None  # where up is in the truth's frame, where that is known
    metres: float | None = None  # in the truth's unit, where that is known

    @property
    def mesh(self) -> tuple[F64, I32] | None:
        """Vertices and faces, where the surface is known."""
        return None if self.vertices is None or self.faces is None else (self.vertices, self.faces)


def sample_mesh(vertices: NDArray[np.floating], faces: I32, count: int, seed: int) -> F32:
    """(count, 3) points drawn area-uniformly from a triangle mesh, vertices (V, 3) and faces (F, 3)."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0], np.float32)


def mesh_inside(
    vertices: NDArray[np.floating], faces: I32, low: NDArray[np.floating], high: NDArray[np.floating]
) -> tuple[F64, I32]:
    """The part of a triangle mesh, vertices (V, 3) and faces (F, 3), inside the box from `low` (3,) to `high` (3,)."""
    corners, triangles = np.asarray(vertices, np.float64), np.asarray(faces)
    for axis in np.eye(3):
        for normal, origin in ((axis, low), (-axis, high)):
            if len(triangles):
                corners, triangles, _ = trimesh.intersections.slice_faces_plane(corners, triangles, normal, origin)
    return np.asarray(corners, np.float64), np.asarray(triangles, np.int32)


def diameter(points: NDArray[np.floating], trim: float = 0.001) -> float:
    """Largest pairwise distance of `points` (M, 3) once the `trim` share farthest from the median is dropped.

    Invariant to rotation, in the unit of `points`: the benchmark's unit of length. The ends of the cloud along 1024
    directions, which turn with it, give the longest pairs; from these each step goes to the point farthest from the
    last. Clouds of more than 100,000 points go through this with the outermost point of each degree or two, and end
    with all their points. On clouds small enough for all pairs the result is theirs to 2e-5. Memory is linear."""
    cloud = np.asarray(points, np.float64)
    radius = np.linalg.norm(cloud - np.median(cloud, axis=0), axis=1)
    cloud = cloud[radius <= np.quantile(radius, 1 - trim)]
    cloud = cloud - cloud.mean(axis=0)
    outer = _outermost(cloud) if len(cloud) > OUTERMOST else cloud
    first, last = _ends(outer)
    starts = np.argsort(-np.linalg.norm(outer[first] - outer[last], axis=1), kind="stable")[:WALKS]
    longest, at = max((_walk(outer, outer[first[start]]) for start in starts), key=lambda pair: pair[0])
    return longest if outer is cloud else _walk(cloud, at)[0]


def _walk(cloud: F64, at: F64) -> tuple[float, F64]:
    """The longest distance reached by going from `at` (3,) to the farthest point, again and again; and its end."""
    reached = 0.0
    while (distance := np.linalg.norm(cloud - at, axis=1)).max() > reached:
        reached = float(distance.max())
        at = cloud[int(distance.argmax())]
    return reached, at


def _outermost(cloud: F64) -> F64:
    """Of `cloud` (M, 3), centred, the points farthest out of each of some 13,000 cells of directions."""
    radius = np.linalg.norm(cloud, axis=1)
    cell = np.floor(32 * cloud / np.maximum(radius, np.finfo(float).tiny)[:, None]).astype(np.int64) + 32
    key = (cell[:, 0] * 65 + cell[:, 1]) * 65 + cell[:, 2]
    farthest = np.zeros(65**3)
    np.maximum.at(farthest, key, radius)
    return np.asarray(cloud[radius == farthest[key]])


def _ends(cloud: F64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(DIRECTIONS,) indices each of the points of `cloud` (M, 3), centred, farthest along directions and against them.

    The directions are spread evenly over half a sphere (Fibonacci's lattice) about the cloud's principal axes."""
    axes = np.linalg.eigh(cloud.T @ cloud)[1]
    axes = axes * np.where(((cloud @ axes) ** 3).sum(axis=0) < 0, -1.0, 1.0)
    i = np.arange(DIRECTIONS) + 0.5
    z, angle = i / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * i
    radius = np.sqrt(1 - z * z)
    directions = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1) @ axes.T
    height = np.full((2, DIRECTIONS), -np.inf)
    rows = np.zeros((2, DIRECTIONS), np.int64)
    for begin in range(0, len(cloud), CHUNK):
        along = cloud[begin : begin + CHUNK] @ directions.T
        for side, heights in enumerate((along, -along)):
            best = heights.argmax(axis=0)
            value = heights[best, np.arange(DIRECTIONS)]
            higher = value > height[side]
            height[side, higher], rows[side, higher] = value[higher], best[higher] + begin
    return rows[0], rows[1]
