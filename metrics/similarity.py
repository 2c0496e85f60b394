"""Similarity transforms, Sim(3): closed-form and robust fits to point pairs, and the parts of a 4x4 matrix.

A similarity is a 4x4 float64 matrix `target_from_source` acting on column vectors, [[s R, t], [0, 1]] with scale
s > 0 and R a rotation. Compose with `@`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.contract import F64, Bools
from metrics.points import checked_points

RANK_TOLERANCE = 1e-5  # second spread over first, below which points count as collinear
MAXWELL_MEDIAN = 1.538  # median length of a 3D vector of unit normal components


class AlignmentError(ValueError):
    """An alignment that its inputs do not determine; the message names the argument, what was seen and wanted."""


@dataclass(frozen=True)
class RobustFit:
    """A similarity fitted to point pairs of which some are wrong."""

    target_from_source: F64  # (4, 4)
    inliers: Bools  # (M,), pairs whose residual is within `tolerance`
    tolerance: float  # largest residual of an inlier, in the target's unit
    residual: float  # root mean square residual of the inliers, in the target's unit


def enough_points(name: str, points: ArrayLike, least: int) -> F64:
    """`points` as finite (M, 3) float64, else ValueError; AlignmentError where there are fewer than `least`."""
    array = checked_points(name, points)
    if len(array) < least:
        raise AlignmentError(f"{name}: {len(array)} points seen, at least {least} wanted")
    return array


def apply(transform: F64, points: NDArray[np.floating]) -> F64:
    """`points` (M, 3) mapped by the (4, 4) `transform`: (M, 3) float64."""
    return np.asarray(np.asarray(points, np.float64) @ transform[:3, :3].T + transform[:3, 3], np.float64)


def scale_of(transform: F64) -> float:
    """The scale s of a (4, 4) similarity: the cube root of the determinant of its linear part."""
    return float(np.cbrt(np.linalg.det(transform[:3, :3])))


def rotation_of(transform: F64) -> F64:
    """The (3, 3) rotation R of a (4, 4) similarity."""
    return np.asarray(transform[:3, :3] / scale_of(transform), np.float64)


def similarity(scale: float, rotation: F64, translation: F64) -> F64:
    """The (4, 4) matrix of x -> scale * rotation @ x + translation."""
    transform = np.eye(4)
    transform[:3, :3] = scale * rotation
    transform[:3, 3] = translation
    return transform


def invert(transform: F64) -> F64:
    """`source_from_target` of a (4, 4) similarity, without a general matrix inverse."""
    linear = transform[:3, :3].T / scale_of(transform) ** 2
    inverse = np.eye(4)
    inverse[:3, :3] = linear
    inverse[:3, 3] = -linear @ transform[:3, 3]
    return inverse


def nearest_rotation(matrix: NDArray[np.floating]) -> F64:
    """The rotations (..., 3, 3) closest to `matrix` (..., 3, 3) in the Frobenius norm (Kabsch 1976)."""
    U, _, Vt = np.linalg.svd(matrix)
    U[..., :, 2] *= np.sign(np.linalg.det(U @ Vt))[..., None]
    return np.asarray(U @ Vt, np.float64)


def rotation_angle(rotation: NDArray[np.floating]) -> F64:
    """Angles (...) in degrees of rotation matrices (..., 3, 3), accurate near 0 and 180."""
    skew = rotation - np.swapaxes(rotation, -1, -2)
    sine = np.sqrt(skew[..., 2, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 0] ** 2)
    return np.asarray(np.degrees(np.arctan2(sine, np.trace(rotation, axis1=-2, axis2=-1) - 1)), np.float64)


def spread(points: F64, weights: F64 | None = None) -> F64:
    """(3,) standard deviations of `points` (M, 3) along their principal axes, largest first."""
    centred = points - np.average(points, axis=0, weights=weights)
    weighted = centred if weights is None else centred * weights[:, None]
    covariance = weighted.T @ centred / (len(points) if weights is None else weights.sum())
    return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)), np.float64)


def umeyama(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None, with_scale: bool = True) -> F64:
    """The similarity that maps `source` onto `target` with the least weighted sum of squared distances.

    `source`, `target` (M, 3): paired points; `weights` (M,): not negative. Returns (4, 4) float64
    `target_from_source`, with scale 1 unless `with_scale`. Umeyama (1991), equations 40-43. Noise in `source` shrinks
    the scale by its share of the source's variance, as in every regression on noisy regressors.

    Raises AlignmentError for fewer than 3 weighted points, or where the points of either side lie on a line.
    """
    x, y = enough_points("source", source, 3), enough_points("target", target, 3)
    if len(x) != len(y):
        raise ValueError(f"target: {len(y)} points seen, {len(x)} wanted, one for each of source")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(x),) or not np.isfinite(w).all() or (w < 0).any():
        raise ValueError(f"weights: shape {w.shape} seen, ({len(x)},) finite and not negative wanted")
    if (w > 0).sum() < 3:
        raise AlignmentError(f"weights: {int((w > 0).sum())} positive weights seen, at least 3 wanted")
    for name, points in (("source", x), ("target", y)):
        extent = spread(points, w)
        if not extent[1] > RANK_TOLERANCE * extent[0]:
            raise AlignmentError(f"{name}: the points lie on a line, at least 3 non-collinear points wanted")
    return np.asarray(_umeyama(x[None], y[None], w[None], with_scale)[0], np.float64)


def _umeyama(x: F64, y: F64, w: F64, with_scale: bool) -> F64:
    """B weighted fits at once: `x`, `y` (B, M, 3), `w` (B, M) -> (B, 4, 4)."""
    w = w / w.sum(axis=1, keepdims=True)
    mean_x, mean_y = np.einsum("bm,bmi->bi", w, x), np.einsum("bm,bmi->bi", w, y)
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    U, D, Vt = np.linalg.svd(np.einsum("bm,bmi,bmj->bij", w, dy, dx))
    sign = np.sign(np.linalg.det(U @ Vt))
    U[:, :, 2] *= sign[:, None]
    D[:, 2] *= sign
    R = U @ Vt
    variance = np.einsum("bm,bmi,bmi->b", w, dx, dx)
    s = D.sum(axis=1) / np.maximum(variance, 1e-300) if with_scale else np.ones(len(x))
    out = np.zeros((len(x), 4, 4))
    out[:, :3, :3] = s[:, None, None] * R
    out[:, :3, 3] = mean_y - np.einsum("bij,bj->bi", out[:, :3, :3], mean_x)
    out[:, 3, 3] = 1
    return out


def robust_umeyama(
    source: ArrayLike,
    target: ArrayLike,
    seed: int = 0,
    tolerance: float | None = None,
    with_scale: bool = True,
    trials: int = 500,
) -> RobustFit:
    """The similarity that most pairs of `source` (M, 3) and `target` (M, 3) agree on.

    Least median of squares over `trials` random triples (Rousseeuw 1984), then reweighted least squares with the
    Geman-McClure kernel; bears up to half of the pairs wrong (a wrong half that agrees on another similarity
    excepted). `tolerance` is the largest residual of an inlier in the target's unit; by default 3 standard
    deviations of the noise, measured from the median residual. Deterministic for a seed.

    Raises AlignmentError for fewer than 3 pairs, or where the agreeing points lie on a line.
    """
    x, y = enough_points("source", source, 3), enough_points("target", target, 3)
    if len(x) != len(y):
        raise ValueError(f"target: {len(y)} points seen, {len(x)} wanted, one for each of source")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: {tolerance} seen, a positive length wanted")
    for name, points in (("source", x), ("target", y)):
        extent = spread(points)
        if not extent[1] > RANK_TOLERANCE * extent[0]:
            raise AlignmentError(f"{name}: the points lie on a line, at least 3 non-collinear points wanted")
    rng = np.random.default_rng(seed)
    triples = np.array([rng.choice(len(x), 3, replace=False) for _ in range(trials)])
    sample = np.sort(rng.permutation(len(x))[:2000])
    candidates = _umeyama(x[triples], y[triples], np.ones(triples.shape), with_scale)
    mapped = np.einsum("bij,mj->bmi", candidates[:, :3, :3], x[sample]) + candidates[:, None, :3, 3]
    squared = ((mapped - y[sample]) ** 2).sum(axis=2)
    floor = 1e-12 * spread(y)[0]
    if tolerance is None:
        cost = np.median(squared, axis=1)
    else:  # MSAC (Torr and Zisserman 2000): the tolerance is known, so the share of outliers need not be below half
        cost = np.minimum(squared, tolerance**2).mean(axis=1)
    transform = candidates[int(np.argmin(cost))]
    for _ in range(50):
        residual = np.linalg.norm(apply(transform, x) - y, axis=1)
        limit = tolerance if tolerance is not None else max(3 * float(np.median(residual)) / MAXWELL_MEDIAN, floor)
        weight = (limit**2 / (limit**2 + residual**2)) ** 2
        weight[residual > 3 * limit] = 0
        previous, transform = transform, umeyama(x, y, weight, with_scale)
        if np.abs(apply(transform, x) - apply(previous, x)).max() < 1e-9 * limit:
            break
    residual = np.linalg.norm(apply(transform, x) - y, axis=1)
    limit = tolerance if tolerance is not None else max(3 * float(np.median(residual)) / MAXWELL_MEDIAN, floor)
    inliers = np.asarray(residual <= limit)
    if inliers.sum() < 3:
        raise AlignmentError(f"tolerance: {int(inliers.sum())} pairs within {limit:.3g} seen, at least 3 wanted")
    return RobustFit(transform, inliers, limit, float(np.sqrt((residual[inliers] ** 2).mean())))
