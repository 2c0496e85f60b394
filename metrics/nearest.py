"""Exact nearest neighbours in 3D, and the distances between two clouds that every score is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.contract import F64
from metrics.points import checked_faces, checked_points, device_of, device_points

I64 = NDArray[np.int64]
Triangles = tuple[ArrayLike, ArrayLike]  # a mesh: vertices (V, 3) and faces (F, 3) int

SMALL = 20_000  # points below which a second thread costs more than it saves


@dataclass(frozen=True)
class Nearest:
    """The nearest point of a cloud to each of Q queries."""

    distance: F64  # (Q,) Euclidean, in the clouds' unit
    index: I64  # (Q,) which point; one of them where several are equally near


@dataclass(frozen=True)
class Distances:
    """How far each point of either cloud is from the other cloud, in the clouds' unit."""

    to_truth: F64  # (M,) from each predicted point to the truth: accuracy, precision
    to_pred: F64  # (K,) from each truth point to the prediction: completeness, recall


def nearest(queries: ArrayLike, points: ArrayLike, *, device: str | None = None) -> Nearest:
    """The nearest of `points` (M, 3) to each of `queries` (Q, 3), both in one frame and unit.

    Distances are those of an exhaustive search in float64. CUDA tensors are searched where they are; `device`, "cpu",
    "cuda" or "cuda:N", says otherwise. Raises ValueError, naming the argument, for a shape other than (., 3), an empty
    cloud or numbers that are not finite; InputError where the device is not here."""
    if (where := device_of(device, queries=queries, points=points)) is not None:
        from metrics.kernels.cuda.nearest import TileTree

        asked = TileTree(device_points("queries", queries, where))
        squared, index = TileTree(device_points("points", points, where)).search(asked)
        return Nearest(squared.sqrt().cpu().numpy(), index.cpu().numpy())
    from metrics.kernels.cpu.boxtree import BoxTree, sort

    query_points, cloud = checked_points("queries", queries), checked_points("points", points)
    return Nearest(*BoxTree(cloud).search(*sort(query_points)))


def distances(
    pred: ArrayLike, truth: ArrayLike, *, mesh: Triangles | None = None, device: str | None = None
) -> Distances:
    """Both directions of nearest distance between `pred` (M, 3) and `truth` (K, 3), in one frame and unit.

    Where the truth's surface is a `mesh`, predicted points are measured to the surface itself, on the CPU, rather than
    to the nearest of its samples `truth`. `device` and errors as in `nearest`."""
    if (where := device_of(device, pred=pred, truth=truth)) is not None:
        from metrics.kernels.cuda.nearest import TileTree

        predicted, true = (TileTree(device_points(n, c, where)) for n, c in (("pred", pred), ("truth", truth)))
        to_pred = predicted.search(true)[0].sqrt().cpu().numpy()
        if mesh is not None:
            return Distances(surface_distance(pred, *mesh), to_pred)
        return Distances(true.search(predicted)[0].sqrt().cpu().numpy(), to_pred)
    from metrics.kernels.cpu.boxtree import BoxTree, sort
    from metrics.kernels.cpu.threads import in_threads

    cloud, samples = checked_points("pred", pred), checked_points("truth", truth)
    if mesh is not None:
        to_truth = surface_distance(cloud, *mesh)
        return Distances(to_truth, BoxTree(cloud).search(*sort(samples))[0])
    pair = (cloud, samples)
    pred_tree, truth_tree = in_threads(BoxTree, pair) if len(cloud) > SMALL else map(BoxTree, pair)
    to_truth, _ = truth_tree.search(pred_tree.points, pred_tree.order)
    to_pred, _ = pred_tree.search(truth_tree.points, truth_tree.order)
    return Distances(to_truth, to_pred)


def surface_distance(points: ArrayLike, vertices: ArrayLike, faces: ArrayLike) -> F64:
    """(M,) distances from `points` (M, 3) to the triangle mesh `vertices` (V, 3), `faces` (F, 3) int.

    The nearest triangle is searched in single precision; the distance to it is computed in double."""
    import point_cloud_utils

    cloud, corners = checked_points("points", points), checked_points("vertices", vertices)
    triangles = checked_faces("faces", faces, len(corners))
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2  # single precision is spent on the mesh, not its offset
    _, face, _ = point_cloud_utils.closest_points_on_mesh(cloud - centre, corners - centre, triangles)
    nearest_faces = triangles[np.reshape(face, -1)]  # a single point comes back without its axis
    return _triangle_distance(cloud, *(corners[nearest_faces[:, k]] for k in range(3)))


def _triangle_distance(p: F64, a: F64, b: F64, c: F64) -> F64:
    """(M,) distances from points `p` to triangles `a`, `b`, `c`, all (M, 3): the face where the foot of the
    perpendicular lies inside it, else the nearest edge. Degenerate triangles count as their edges."""
    out = np.minimum(np.minimum(_segment_distance(p, a, b), _segment_distance(p, b, c)), _segment_distance(p, c, a))
    normal = np.cross(b - a, c - a)
    inside = np.ones(len(p), np.bool_)
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= np.einsum("mi,mi->m", np.cross(end - start, p - start), normal) >= 0
    area = np.linalg.norm(normal, axis=1)
    inside &= area > 0
    height = np.abs(np.einsum("mi,mi->m", p - a, normal))
    return np.where(inside, np.minimum(out, height / np.where(inside, area, 1.0)), out)


def _segment_distance(p: F64, a: F64, b: F64) -> F64:
    """(M,) distances from points `p` to segments `a`-`b`, all (M, 3)."""
    along = b - a
    squared = np.einsum("mi,mi->m", along, along)
    share = np.einsum("mi,mi->m", p - a, along) / np.where(squared > 0, squared, 1.0)
    return np.asarray(np.linalg.norm(p - a - np.clip(share, 0, 1)[:, None] * along, axis=1), np.float64)
