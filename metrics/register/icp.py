"""Robust refinement of a similarity by two-sided point-to-plane ICP."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from adapters.contract import F64
from metrics.register.stages import Matcher, Pairs, Stage
from metrics.similarity import AlignmentError, apply, checked_points, invert, scale_of, similarity, spread

LEAST_POINTS = 50
NEIGHBOURS = 12  # for normals and spacing
WIDEST = 0.15  # first kernel width at most, in radii of the truth
POINT_SHARE = 0.05  # weight of point-to-point beside point-to-plane: holds directions in which the surface slides
ANNEALING = 12  # iterations over which the kernel narrows
DAMPING = 1e-6


def icp(
    pred: ArrayLike,
    truth: ArrayLike,
    truth_normals: ArrayLike | None = None,
    initial: F64 | None = None,
    with_scale: bool = True,
    samples: int = 5000,
    iterations: int = 50,
    seed: int = 0,
) -> Stage:
    """Refine `initial`, a rough similarity from `pred` (M, 3) to `truth` (K, 3), any units.

    `truth_normals` (K, 3) unit length, any sign, are estimated where not given; `initial` (4, 4) is the identity by
    default; its scale is kept unless `with_scale`. Pairs of nearest neighbours are formed in both directions (pred to
    truth alone would shrink pred onto a dense spot) and weighted with the Geman-McClure kernel t^2 / (t^2 + d^2),
    squared, whose width t narrows from the misfit at the start to the measured noise: floaters and missing parts
    lose their pull. Each step solves for seven degrees of freedom in point-to-plane distance (Chen and Medioni 1992)
    with a point-to-point share. In the scale's column stand truth's coordinates, not pred's: noise in pred would
    otherwise shrink the scale by its share of the variance.

    `residual` and `gain` of the Stage as defined there; where the kernel's score does not improve, `initial` itself
    is returned with a gain of 0. Deterministic for a seed, which draws the `samples` of either cloud.

    Raises AlignmentError where a cloud has fewer than 50 points or lies on a line.
    """
    x, y = cloud("pred", pred), cloud("truth", truth)
    start = np.eye(4) if initial is None else np.asarray(initial, np.float64)
    if start.shape != (4, 4) or not np.isfinite(start).all() or not scale_of(start) > 0:
        raise ValueError(f"initial: shape {start.shape} seen, a finite (4, 4) similarity of positive scale wanted")
    if truth_normals is not None and np.shape(truth_normals) != y.shape:
        raise ValueError(f"truth_normals: shape {np.shape(truth_normals)} seen, {y.shape} wanted")
    from metrics.register.kernels import plane_step  # compiled code: not at import

    centre, radius = y.mean(axis=0), float(np.linalg.norm(spread(y)))
    unit_from_truth = similarity(1 / radius, np.eye(3), -centre / radius)
    matcher = Matcher(x, apply(unit_from_truth, y), samples, seed)
    if truth_normals is None:
        normals = surface_normals(matcher.truth, matcher.truth_tree)
    else:
        normals = np.asarray(truth_normals, np.float64)[matcher.truth_rows]
    spacing = float(np.median(np.asarray(matcher.truth_tree.query(matcher.truth, k=2)[0])[:, 1]))
    floor = max(1.5 * spacing, 1e-6)
    pose = unit_from_truth @ start
    pairs = first = matcher.pairs(pose)
    misfit = float(np.median(first.distance[: first.forward]))
    width = wide = float(np.clip(3 * misfit, floor, max(WIDEST, floor)))
    for step in range(iterations):
        narrow = float(np.clip(2.5 * np.quantile(pairs.distance[: pairs.forward], 0.3), floor, wide))
        width = wide * (narrow / wide) ** min(step / ANNEALING, 1.0)
        weights = _weights(pairs, width)
        free = 7 if with_scale else 6
        change = plane_step(pairs.moved, matcher.truth, normals, pairs.rows, weights, POINT_SHARE, DAMPING, free)
        pose = change @ pose
        pairs = matcher.pairs(pose)
        if step > ANNEALING and np.abs(change - np.eye(4)).max() < 1e-6:
            break
    before, after = radius * float(np.median(first.distance)), radius * float(np.median(pairs.distance))
    if _weights(pairs, width).sum() < _weights(first, width).sum():
        return Stage("icp", start, before, 0.0)
    return Stage("icp", invert(unit_from_truth) @ pose, after, before - after)


def cloud(name: str, points: ArrayLike) -> F64:
    """`points` (M, 3) as float64; AlignmentError naming `name` unless they can be registered."""
    array = checked_points(name, points, LEAST_POINTS)
    extent = spread(array)
    if not extent[1] > 1e-3 * extent[0]:
        raise AlignmentError(f"{name}: the points lie on a line or in one place, a surface wanted")
    return array


def surface_normals(points: F64, tree: cKDTree) -> F64:
    """(M, 3) unit normals of `points` (M, 3), sign open: least principal axis of the nearest 12 in `tree`."""
    _, rows = tree.query(points, k=min(NEIGHBOURS + 1, len(points)))
    local = points[rows] - points[rows].mean(axis=1, keepdims=True)
    return np.ascontiguousarray(np.linalg.eigh(np.einsum("mki,mkj->mij", local, local))[1][:, :, 0])


def _weights(pairs: Pairs, width: float) -> F64:
    """(M,) squared Geman-McClure weights, each direction summing to at most 1."""
    weights = (width**2 / (width**2 + pairs.distance**2)) ** 2
    weights[: pairs.forward] /= pairs.forward
    weights[pairs.forward :] /= len(weights) - pairs.forward
    return np.asarray(weights, np.float64)
