"""Intersection over union of the volumes that meshes enclose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.contract import F64, I32, Bools
from metrics.points import LARGEST, checked_faces, checked_points

MOST_CELLS = 1_000_000  # of the finest level, before the adaptive count settles for a larger gap


@dataclass(frozen=True)
class VolumeIoU:
    """Intersection over union of two volumes."""

    value: float | None  # None where neither encloses anything
    lower: float | None  # the true value lies in [lower, upper]; None where no bounds were requested
    upper: float | None
    pred_closed: bool  # every edge borders two faces that agree on its direction
    truth_closed: bool


@dataclass(frozen=True)
class _Solid:
    vertices: F64  # (V, 3)
    faces: I32  # (F, 3)
    closed: bool

    def contains(self, points: F64) -> Bools:
        """(M,) bool: winding number (Barill et al. 2018) above one half, whichever way the faces look."""
        import point_cloud_utils

        winding = point_cloud_utils.triangle_soup_fast_winding_number(self.vertices, self.faces, points)
        return np.asarray(np.abs(np.reshape(winding, -1)) > 0.5)

    def distance(self, points: F64) -> F64:
        """(M,) distances of `points` (M, 3) from the surface."""
        import point_cloud_utils

        distance, _, _ = point_cloud_utils.closest_points_on_mesh(points, self.vertices, self.faces)
        return np.asarray(np.reshape(distance, -1), np.float64)


def volume_iou(
    pred_vertices: ArrayLike,
    pred_faces: ArrayLike,
    truth_vertices: ArrayLike,
    truth_faces: ArrayLike,
    resolution: int = 64,
    cube: tuple[ArrayLike, float] | None = None,
) -> VolumeIoU:
    """IoU of two meshes on a grid: the share of `resolution`^3 cell centres in both of those in either.

    Vertices (V, 3) in one frame and unit, faces (F, 3). The grid fills `cube`, its centre (3,) and side; what lies
    outside counts nowhere. Without one it spans both meshes. A point is inside where the winding number exceeds one
    half, so that small holes do no harm; an open sheet encloses nothing meaningful: see `pred_closed`, `truth_closed`.
    """
    if resolution < 1:
        raise ValueError(f"resolution: {resolution} seen, at least 1 wanted")
    if cube is not None and not 0 < cube[1] < LARGEST:
        raise ValueError(f"cube: a side of {cube[1]} seen, a positive length wanted")
    pred, truth, middle = _solids(pred_vertices, pred_faces, truth_vertices, truth_faces)
    if cube is None:
        low, side = _cube(pred, truth)
    else:
        side = float(cube[1])
        low = checked_points("cube", np.reshape(cube[0], (1, -1)))[0] - middle - side / 2
    centres, _ = _cells(low, side, resolution)
    a, b = pred.contains(centres), truth.contains(centres)
    either = int((a | b).sum())
    value = float((a & b).sum() / either) if either else None
    return VolumeIoU(value, None, None, pred.closed, truth.closed)


def volume_iou_adaptive(
    pred_vertices: ArrayLike,
    pred_faces: ArrayLike,
    truth_vertices: ArrayLike,
    truth_faces: ArrayLike,
    gap: float = 0.05,
) -> VolumeIoU:
    """IoU of two closed meshes with `upper - lower` at most `gap`, by an octree that splits only undecided cells.

    A cell is decided where neither surface comes within half its diagonal of its centre: all of it is then inside or
    outside. `value` counts the undecided cells by their centres. The gap is larger than requested where closing it
    would take more than a million cells at once. Arguments as in `volume_iou`.

    Raises ValueError where a mesh is not closed: nothing is certain then.
    """
    if not gap > 0:
        raise ValueError(f"gap: {gap} seen, a positive number wanted")
    pred, truth, _ = _solids(pred_vertices, pred_faces, truth_vertices, truth_faces)
    for name, solid in (("pred", pred), ("truth", truth)):
        if not solid.closed:
            raise ValueError(f"{name}_faces: an open or inconsistently oriented mesh seen, a closed one wanted")
    low, side = _cube(pred, truth)
    centres, half = _cells(low, side, 16)
    decided: list[tuple[Bools, Bools, F64]] = []
    while True:
        reach = np.sqrt(3) * half
        doubt_a, doubt_b = pred.distance(centres) <= reach, truth.distance(centres) <= reach
        open_ = doubt_a | doubt_b
        a, b = pred.contains(centres), truth.contains(centres)
        volume = np.full(len(centres), (2 * half) ** 3)
        parts = decided + [(a, b, volume)]
        no = [np.zeros(len(part[0]), np.bool_) for part in decided]
        result = _result(
            pred,
            truth,
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
            np.concatenate([*no, doubt_a]),
            np.concatenate([*no, doubt_b]),
            np.concatenate([part[2] for part in parts]),
        )
        wide = result.lower is None or result.upper is None or result.upper - result.lower > gap
        if not wide or not open_.any() or 8 * int(open_.sum()) > MOST_CELLS:
            return result
        decided.append((a[~open_], b[~open_], volume[~open_]))
        half /= 2
        corners = half * np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        centres = (centres[open_][:, None] + corners).reshape(-1, 3)


def _result(pred: _Solid, truth: _Solid, a: Bools, b: Bools, doubt_a: Bools, doubt_b: Bools, volume: F64) -> VolumeIoU:
    """From cells: inside pred and truth by their centres, whether that is in doubt, and their volumes."""

    def total(chosen: NDArray[np.bool_]) -> float:
        return float(volume[chosen].sum())

    # a doubtful cell may hold any mixture: it counts as intersection or as union only, whichever hurts or helps
    sure_both, sure_either = (a & ~doubt_a) & (b & ~doubt_b), (a & ~doubt_a) | (b & ~doubt_b)
    may_both, may_either = (a | doubt_a) & (b | doubt_b), a | doubt_a | b | doubt_b
    both, either = total(a & b), total(a | b)
    lower = total(sure_both) / total(may_either) if total(may_either) > 0 else None
    upper = None
    if total(may_either) > 0:
        # every cell that may lie in both is given to both; the union must then hold it
        upper = total(may_both) / total(may_both | sure_either) if total(may_both) > 0 else 0.0
    value = both / either if either > 0 else None
    return VolumeIoU(value, lower, upper, pred.closed, truth.closed)


def _solids(
    pred_vertices: ArrayLike, pred_faces: ArrayLike, truth_vertices: ArrayLike, truth_faces: ArrayLike
) -> tuple[_Solid, _Solid, F64]:
    """Both meshes about truth's middle, and that (3,): far from the origin winding numbers lose their digits."""
    pred, truth = _solid("pred", pred_vertices, pred_faces), _solid("truth", truth_vertices, truth_faces)
    middle = truth.vertices.mean(axis=0)
    return replace(pred, vertices=pred.vertices - middle), replace(truth, vertices=truth.vertices - middle), middle


def _solid(name: str, vertices: ArrayLike, faces: ArrayLike) -> _Solid:
    corners = checked_points(f"{name}_vertices", vertices, 3)
    triangles = checked_faces(f"{name}_faces", faces, len(corners))
    used = np.unique(triangles)  # a vertex that no face has is no part of the surface
    corners, triangles = corners[used], np.searchsorted(used, triangles).astype(np.int32)
    # vertices that coincide are one: formats such as STL repeat them for every face
    _, same = np.unique(corners, axis=0, return_inverse=True)
    joined = np.reshape(same, -1)[triangles]
    joined = joined[(joined != np.roll(joined, 1, axis=1)).all(axis=1)]
    edges = np.concatenate([joined[:, [0, 1]], joined[:, [1, 2]], joined[:, [2, 0]]]).astype(np.int64)
    keys = edges[:, 0] * len(corners) + edges[:, 1]
    closed = len(keys) > 0 and np.array_equal(np.sort(keys), np.sort(edges[:, 1] * len(corners) + edges[:, 0]))
    return _Solid(corners, triangles, bool(closed))


def _cube(pred: _Solid, truth: _Solid) -> tuple[F64, float]:
    """Corner and side of a cube that holds both meshes with a little room."""
    both = np.concatenate([pred.vertices, truth.vertices])
    low, high = both.min(axis=0), both.max(axis=0)
    side = 1.02 * float((high - low).max())
    if not side > 0:
        raise ValueError("pred_vertices: all vertices in one place, a mesh wanted")
    return (low + high) / 2 - side / 2, side


def _cells(low: F64, side: float, count: int) -> tuple[F64, float]:
    """Centres (count^3, 3) of the cells of a cube, and half their side."""
    at = (np.arange(count) + 0.5) * side / count
    return low + np.stack(np.meshgrid(at, at, at, indexing="ij"), axis=-1).reshape(-1, 3), side / count / 2
