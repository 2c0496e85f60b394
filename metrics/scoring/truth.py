"""Ground truth as scoring sees it: a surface, the cameras that measured it, and the unit of length."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from adapters.contract import F32, F64, I32, Bools, Cameras


@dataclass(frozen=True)
class Box:
    """An axis-aligned crop volume in the truth's frame."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def contains(self, points: NDArray[np.floating]) -> Bools:
        """(M,) bool: which of `points` (M, 3) lie inside, borders included."""
        return np.asarray(((points >= np.array(self.low)) & (points <= np.array(self.high))).all(axis=1))


@dataclass(frozen=True)
class Truth:
    """A scene's ground truth. Lengths are in the truth's own unit; scores divide them by `diameter`."""

    kind: str  # "exact" | "colmap" | "scan"
    id: str  # hash of the files it was read from
    made_by: tuple[str, ...]  # systems whose method, code or images made it: their rows are kin
    points: F32  # (M, 3) samples of the surface
    normals: F32  # (M, 3) unit length
    diameter: float  # see `diameter`
    view_names: tuple[str, ...]  # the V views with a pose, in the order of everything below
    cameras: Cameras  # V cameras, in the truth's frame
    sizes: I32  # (V, 2) image width and height, pixels
    depth: tuple[F32, ...] | None = None  # V maps (H, W) of z-depth, 0 = nothing measured there
    masks: tuple[Bools, ...] | None = None  # V maps (H, W), true on the object
    vertices: F64 | None = None  # (V, 3), where the surface is a known mesh
    faces: I32 | None = None  # (F, 3)
    crop: Box | None = None


def sample_mesh(vertices: NDArray[np.floating], faces: I32, count: int, seed: int) -> F32:
    """(count, 3) points drawn area-uniformly from a triangle mesh, vertices (V, 3) and faces (F, 3)."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0], np.float32)


def diameter(points: NDArray[np.floating], trim: float = 0.001) -> float:
    """Largest pairwise distance of `points` (M, 3) once the `trim` share farthest from the median is dropped.

    Invariant to rotation, in the unit of `points`: the benchmark's unit of length."""
    cloud = np.asarray(points, np.float64)
    radius = np.linalg.norm(cloud - np.median(cloud, axis=0), axis=1)
    cloud = cloud[radius <= np.quantile(radius, 1 - trim)]
    with contextlib.suppress(QhullError, ValueError):  # planar, collinear or too few points have no hull in 3D
        cloud = cloud[ConvexHull(cloud).vertices]
    if len(cloud) <= 5000:
        return float(pdist(cloud).max()) if len(cloud) > 1 else 0.0
    # A round hull has too many vertices for all pairs: walk to the farthest vertex until that no longer moves away,
    # from 256 starts (taken by index, so that a rotation changes nothing).
    best = 0.0
    for start in cloud[:: len(cloud) // 256]:
        reached = 0.0
        while (distance := np.linalg.norm(cloud - start, axis=1)).max() > reached:
            reached = float(distance.max())
            start = cloud[int(distance.argmax())]
        best = max(best, reached)
    return best
