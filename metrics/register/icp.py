"""Robust refinement of a similarity by two-sided point-to-plane ICP."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from adapters.contract import F64
from metrics.register.stages import Matcher, Pairs, Stage
from metrics.similarity import AlignmentError, checked_points, nearest_rotation, scale_of, similarity, spread

LEAST_POINTS = 50
NEIGHBOURS = 12  # for normals and spacing
WIDEST = 0.15  # first kernel width at most, in radii of the truth
POINT_SHARE = 0.05  # weight of point-to-point beside point-to-plane: holds directions in which the surface slides
ANNEALING = 12  # iterations over which the kernel narrows
STEP = 0.25  # radians, largest turn of one iteration


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
    matcher = Matcher(x, y, samples, seed)
    if truth_normals is None:
        normals = surface_normals(matcher.truth, matcher.truth_tree)
    else:
        given = np.asarray(truth_normals, np.float64)
        if given.shape != y.shape:
            raise ValueError(f"truth_normals: shape {given.shape} seen, {y.shape} wanted")
        normals = given[matcher.truth_rows]
    radius = float(np.linalg.norm(spread(matcher.truth)))
    spacing = float(np.median(np.asarray(matcher.truth_tree.query(matcher.truth, k=2)[0])[:, 1]))
    floor = max(1.5 * spacing, 1e-6 * radius)
    first = matcher.pairs(start)
    misfit = float(np.median(first.distance[: first.forward]))
    wide = float(np.clip(3 * misfit, floor, max(WIDEST * radius, floor)))
    pairs, transform = first, start
    width = wide
    for step in range(iterations):
        narrow = float(np.clip(2.5 * np.quantile(pairs.distance[: pairs.forward], 0.3), floor, wide))
        width = wide * (narrow / wide) ** min(step / ANNEALING, 1.0)
        moved = _step(pairs.moved, matcher.truth[pairs.rows], normals[pairs.rows], _weights(pairs, width), with_scale)
        transform = moved @ transform
        pairs = matcher.pairs(transform)
        turn = np.abs(moved[:3, :3] - np.eye(3)).max() * radius
        shift = np.linalg.norm(moved[:3, :3] @ matcher.truth.mean(axis=0) + moved[:3, 3] - matcher.truth.mean(axis=0))
        if step > ANNEALING and max(turn, shift) < 1e-6 * radius:
            break
    # products of many steps: make the rotation exact again
    transform = similarity(scale_of(transform), nearest_rotation(transform[:3, :3]), transform[:3, 3])
    before, after = float(np.median(first.distance)), float(np.median(pairs.distance))
    if _weights(pairs, width).sum() < _weights(first, width).sum():
        return Stage("icp", start, before, 0.0)
    return Stage("icp", transform, after, before - after)


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


def _step(moved: F64, truth: F64, normals: F64, weights: F64, with_scale: bool) -> F64:
    """The (4, 4) similarity of one damped Gauss-Newton step: turn, shift and log-scale about the weighted centre."""
    centre = weights @ moved / weights.sum()
    local, anchor, residual = moved - centre, truth - centre, truth - moved
    size = np.sqrt(weights @ (local**2).sum(axis=1) / weights.sum())
    # rows of the Jacobian of n . (x + v x x + u + l y): turn v, shift u, log-scale l; lengths in units of `size`
    plane = np.column_stack([np.cross(local, normals), normals * size, (anchor * normals).sum(axis=1)]) / size
    blocks = [(plane, (residual * normals).sum(axis=1) / size, weights)]
    for axis in range(3):
        unit = np.zeros((1, 3))
        unit[0, axis] = 1
        point = np.column_stack([np.cross(local, unit), np.repeat(unit * size, len(local), 0), anchor[:, axis]]) / size
        blocks.append((point, residual[:, axis] / size, POINT_SHARE * weights))
    free = 7 if with_scale else 6
    hessian, gradient = np.zeros((free, free)), np.zeros(free)
    for jacobian, error, weight in blocks:
        weighted = jacobian[:, :free] * weight[:, None]
        hessian += weighted.T @ jacobian[:, :free]
        gradient += weighted.T @ error
    hessian[np.diag_indices(free)] += 1e-6 * weights.sum()
    solution = np.linalg.solve(hessian, gradient)
    turn = solution[:3] * min(1.0, STEP / max(float(np.linalg.norm(solution[:3])), 1e-12))
    scale = float(np.clip(1 + solution[6], 0.9, 1.1)) if with_scale else 1.0
    linear = scale * Rotation.from_rotvec(turn).as_matrix()
    step = np.eye(4)
    step[:3, :3] = linear
    step[:3, 3] = centre + solution[3:6] * size - linear @ centre
    return step
