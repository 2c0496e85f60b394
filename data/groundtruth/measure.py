"""How far a ground truth can be trusted: two halves of the views against each other, and COLMAP against the exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from adapters.contract import F32, F64, Bools, Cameras, InputError
from data.groundtruth.dense import Dense, Solved, dense_surface
from data.groundtruth.frame import photographed
from data.groundtruth.fusion import fused_by_colmap
from data.groundtruth.quality import ExactError, Halves
from metrics.nearest import distances, nearest
from metrics.scoring.truth import Box, Truth
from metrics.scoring.visibility import depth_buffers, seen_surface
from metrics.similarity import rotation_angle

HALVES_SIDE = 320  # pixels: halves are compared on coarser maps, at a quarter of the cost
MIN_VIEWS = 3  # in a half, below which it is not compared: three views must agree on a point
MIN_POINTS = 100
NEAR = 0.01  # share of the diameter within which surfaces count as one
Progress = Callable[[str, float], None]


def compare_halves(
    solved: Solved, crop: Box | None, unit: float, seed: int, notes: list[str], progress: Progress
) -> Halves | None:
    """Make the surface from the even and from the odd views alone, with the cameras of `solved`, and compare the two.
    None, with the reason added to `notes`, where there are too few views or points."""
    clouds, used = [], []
    for half, name in enumerate(("even", "odd")):
        rows = range(half, len(solved.cameras), 2)
        if len(rows) < MIN_VIEWS:
            notes.append(f"halves not compared: {len(rows)} {name} views, at least {MIN_VIEWS} wanted")
            return None
        report = partial(_advance, progress, 0.8 + 0.1 * half)
        surface = dense_surface(solved.take(rows), seed=seed, side=HALVES_SIDE, progress=report)
        keep = _evaluated(surface.points, solved, crop)
        if keep.sum() < MIN_POINTS:
            notes.append(f"halves not compared: {int(keep.sum())} points from the {name} views")
            return None
        clouds.append((surface.points[keep], surface.normals[keep]))
        used.append(len(rows))
    (even, even_normals), (odd, odd_normals) = clouds
    pairs = across(even, odd, odd_normals), across(odd, even, even_normals)
    within = [distance <= NEAR * unit for distance, _ in pairs]
    offsets = np.concatenate([height[where] for (_, height), where in zip(pairs, within, strict=True)])
    return Halves(
        (used[0], used[1]),
        round(min(float(where.mean()) for where in within), 4),
        _percent(offsets.mean() / unit) if len(offsets) else None,
    )


def compare_fusion(
    dense: Dense, solved: Solved, crop: Box | None, unit: float, seed: int, notes: list[str]
) -> float | None:
    """Median distance, in percent of `unit`, from COLMAP's fusion of the maps of `dense` to its surface. None, with the
    reason added to `notes`, where COLMAP cannot do it."""
    try:
        points = fused_by_colmap(dense, solved, seed)
    except InputError as error:
        notes.append(f"fusion not compared: {error}")
        return None
    points = points[_evaluated(points, solved, crop)]
    if len(points) < MIN_POINTS:
        notes.append(f"fusion not compared: {len(points)} points from COLMAP")
        return None
    return _percent(np.median(across(points, dense.points, dense.normals)[1]) / unit)


def across(queries: F32, points: F32, normals: F32) -> tuple[F64, F64]:
    """(Q,) distances from `queries` (Q, 3) to the nearest of `points` (M, 3), and (Q,) to its tangent plane across unit
    `normals` (M, 3): how far apart two surfaces lie, which the spacing of their points does not enter."""
    match = nearest(queries, points)
    offset = queries.astype(np.float64) - points[match.index]
    return match.distance, np.abs(np.einsum("qi,qi->q", offset, normals[match.index]))


def _evaluated(points: F32, solved: Solved, crop: Box | None) -> Bools:
    """(M,) which of `points` are judged: those photographed and in the crop."""
    keep = photographed(points, solved.cameras, solved.sizes, solved.masks)
    return keep & crop.contains(points) if crop is not None else keep


def _advance(progress: Progress, start: float, share: float) -> None:
    progress("dense surface of half the views", start + 0.1 * share)


def exact_error(
    points: F32, trusted: Bools, frame: float, cameras: Cameras, exact_cameras: Cameras, exact: Truth
) -> ExactError:
    """The error of a cloud (M, 3), of which some are `trusted`, and of cameras, each fitted to the exact scene; `frame`
    is the mean shift between the two fits, percent of the diameter."""
    unit = exact.diameter
    samples = exact.points
    keep: Bools = np.ones(len(samples), np.bool_) if exact.crop is None else exact.crop.contains(samples)
    keep &= seen_surface(samples, exact, depth_buffers(exact), NEAR * unit).any(axis=0)
    both = distances(points, samples[keep], mesh=exact.mesh)
    accuracy, completeness = both.to_truth / unit, both.to_pred / unit
    distance = np.linalg.norm(cameras.centres - exact_cameras.centres, axis=1)
    rotation = rotation_angle(
        np.einsum("nij,nkj->nik", cameras.camera_from_world[:, :3, :3], exact_cameras.camera_from_world[:, :3, :3])
    )
    focal = cameras.intrinsics[:, 0, 0] / exact_cameras.intrinsics[:, 0, 0] - 1
    return ExactError(
        centre_rmse_percent=_percent(np.sqrt((distance**2).mean()) / unit),
        rotation_rmse_degrees=round(float(np.sqrt((rotation**2).mean())), 4),
        focal_percent=_percent(np.abs(focal).max()),
        accuracy_percent=_percent(accuracy.mean()),
        accuracy_median_percent=_percent(np.median(accuracy)),
        precision_1_percent=round(float((accuracy <= NEAR).mean()), 4),
        completeness_percent=_percent(completeness.mean()),
        completeness_1_percent=round(float((completeness <= NEAR).mean()), 4),
        trusted_percent=_percent(accuracy[trusted].mean()) if trusted.any() else None,
        frame_percent=round(frame, 4),
    )


def _percent(share: float | np.floating) -> float:
    return round(100 * float(share), 4)
