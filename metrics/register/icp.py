"""Robust refinement of a similarity by two-sided point-to-plane ICP."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from adapters.contract import F64
from metrics.points import device_of
from metrics.register.stages import Matcher, Pairs, Stage, cloud
from metrics.similarity import apply, invert, scale_of

# Lengths are in radii of the truth.
WIDEST = 0.15  # first kernel width at most
POINT_SHARE = 0.05  # weight of point-to-point beside point-to-plane: holds directions in which the surface slides
ANNEALING = 8  # iterations over which the kernel narrows
ITERATIONS = 30
DAMPING = 1e-6
CONVERGED = 1e-4


def icp(
    pred: ArrayLike,
    truth: ArrayLike,
    truth_normals: ArrayLike | None = None,
    initial: F64 | None = None,
    with_scale: bool = True,
    seed: int = 0,
    device: str | None = None,
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
    is returned with a gain of 0. Deterministic for a seed, which draws the samples of either cloud. Pairs of CUDA
    tensors are searched on their device; `device`, "cpu", "cuda" or "cuda:N", says otherwise.

    Raises AlignmentError where a cloud has fewer than 50 points or lies on a line.
    """
    where = device_of(device, pred=pred, truth=truth)
    x, y = cloud("pred", pred), cloud("truth", truth)
    start = np.eye(4) if initial is None else np.asarray(initial, np.float64)
    if start.shape != (4, 4) or not np.isfinite(start).all() or not scale_of(start) > 0:
        raise ValueError(f"initial: shape {start.shape} seen, a finite (4, 4) similarity of positive scale wanted")
    if truth_normals is not None and np.shape(truth_normals) != y.shape:
        raise ValueError(f"truth_normals: shape {np.shape(truth_normals)} seen, {y.shape} wanted")
    return refined(Matcher(x, y, truth_normals, seed, where), start, with_scale)[0]


def refined(matcher: Matcher, start: F64, with_scale: bool = True, up: F64 | None = None) -> tuple[Stage, Pairs]:
    """`icp` from `start` (4, 4), truth from pred, on clouds made ready; also the pairs it ends with. Where `up` (3,) is
    given, in truth's frame, every step turns about it alone."""
    from metrics.kernels.cpu.icp import plane_step  # compiled code: not at import

    pose = matcher.unit_from_truth @ start
    pairs = first = matcher.pairs(pose)
    floor = max(1.5 * matcher.spacing, 1e-6)
    misfit = float(np.median(first.distance[: first.forward]))
    width = wide = float(np.clip(3 * misfit, floor, max(WIDEST, floor)))
    for step in range(ITERATIONS):
        narrow = float(np.clip(2.5 * np.quantile(pairs.distance[: pairs.forward], 0.3), floor, wide))
        width = wide * (narrow / wide) ** min(step / ANNEALING, 1.0)
        free = 7 if with_scale else 6
        weights = _weights(pairs, width)
        normals = matcher.normals
        change = plane_step(pairs.moved, matcher.truth, normals, pairs.rows, weights, POINT_SHARE, DAMPING, free)
        if up is not None:
            change = about(change, up, pairs.moved.mean(axis=0))
        pose = change @ pose
        pairs = matcher.pairs(pose)
        if width < 1.05 * narrow and np.abs(change - np.eye(4)).max() < CONVERGED:
            break
    if _weights(pairs, width).sum() < _weights(first, width).sum():
        return Stage("icp", start, matcher.residual(first), 0.0), first
    before, after = matcher.residual(first), matcher.residual(pairs)
    return Stage("icp", invert(matcher.unit_from_truth) @ pose, after, before - after), pairs


def about(change: F64, axis: F64, centre: F64) -> F64:
    """Of a similarity (4, 4) the part that turns about the direction `axis` (3,) alone; it brings `centre` (3,) where
    the whole does."""
    scale = scale_of(change)
    x, y, z, w = Rotation.from_matrix(change[:3, :3] / scale).as_quat()
    direction = axis / np.linalg.norm(axis)
    angle = 2 * np.arctan2(np.array([x, y, z]) @ direction, w)
    out = np.eye(4)
    out[:3, :3] = scale * Rotation.from_rotvec(angle * direction).as_matrix()
    out[:3, 3] = apply(change, centre[None])[0] - out[:3, :3] @ centre
    return out


def _weights(pairs: Pairs, width: float) -> F64:
    """(M,) squared Geman-McClure weights, each direction summing to at most 1."""
    weights = (width**2 / (width**2 + pairs.distance**2)) ** 2
    weights[: pairs.forward] /= pairs.forward
    weights[pairs.forward :] /= len(weights) - pairs.forward
    return np.asarray(weights, np.float64)
