"""Cameras against cameras: the similarity between two worlds from their cameras, and pose errors.

Pred and truth hold the same N views in the same order, OpenCV axes, each in its own world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64, Bools, Cameras
from metrics.similarity import (
    AlignmentError,
    apply,
    nearest_rotation,
    rotation_angle,
    rotation_of,
    scale_of,
    similarity,
    spread,
    umeyama,
)

__all__ = ["AlignmentError", "CameraAlignment", "PoseErrors", "align_cameras", "pose_errors"]

COLLINEAR = 1e-3  # second spread of the centres over the first, at or below which they count as collinear
ROBUST_VIEWS = 6  # with fewer views no majority identifies a wrong camera
CANDIDATES = 2000  # most two-camera hypotheses tried
FAILED = 180.0  # degrees, the error of a pair with an unregistered view


@dataclass(frozen=True)
class CameraAlignment:
    """The similarity between two worlds that share their cameras."""

    truth_from_pred: F64  # (4, 4)
    scale: float  # truth units a pred unit
    centre_residual: float  # root mean square distance of the inliers' centres, truth's unit
    rotation_residual: float  # root mean square angle of the inliers' rotations, degrees
    inliers: Bools  # (N,), views the fit rests on


@dataclass(frozen=True)
class PoseErrors:
    """Errors of camera poses; pairs are all i < j of the N views, in lexicographic order."""

    rotation: F64  # (P,) degrees, error of the pair's relative rotation; 180 where a view is unregistered
    translation: F64  # (P,) degrees, angle between the lines of the relative translations, 0..90; 180 as above
    auc_5: float | None  # area under the accuracy curve up to 5, 10 and 30 degrees, 0..1; None without a pair
    auc_10: float | None
    auc_30: float | None
    centre_rmse: float | None  # truth's unit, registered views after their best similarity; None if undetermined
    rotation_rmse: float | None  # degrees, registered views after their best common rotation
    registered: float  # share of the views registered

    def auc(self, degrees: int) -> float | None:
        """Area under the accuracy curve up to `degrees`, of the worse of a pair's two errors; None without a pair."""
        return _auc(np.maximum(self.rotation, self.translation), degrees)

    def rra(self, degrees: float) -> float | None:
        """Relative rotation accuracy: share of the pairs whose rotation error is below `degrees`."""
        return float((self.rotation < degrees).mean()) if len(self.rotation) else None

    def rta(self, degrees: float) -> float | None:
        """Relative translation accuracy: share of the pairs whose translation error is below `degrees`."""
        return float((self.translation < degrees).mean()) if len(self.translation) else None


def align_cameras(pred: Cameras, truth: Cameras, robust: bool = True) -> CameraAlignment:
    """The similarity `truth_from_pred` that brings pred's cameras onto truth's, from centres and rotations together.

    Least squares over centre distances and chordal rotation distances (Hartley et al., Rotation Averaging, 2013,
    section 5.3), where a radian counts as the root mean square radius of truth's camera centres: with few views the
    rotations hold the turn that nearly collinear centres leave free. With `robust` and at least 6 views, wrong
    cameras (fewer than half) are detected by least median of squares over two-camera hypotheses and weighted out with
    the Geman-McClure kernel. Deterministic.

    Raises AlignmentError for fewer than 3 views, or where either side's centres coincide or lie on a line.
    """
    _paired(pred, truth)
    source, target = pred.centres, truth.centres
    robust = robust and len(source) >= ROBUST_VIEWS
    _determined("pred", _without_strays(source) if robust else source)
    _determined("truth", target)
    # the turn of pred's world that each camera alone would ask for
    turns = np.einsum("nji,njk->nik", truth.camera_from_world[:, :3, :3], pred.camera_from_world[:, :3, :3])
    lever = float(np.linalg.norm(spread(target)))
    weights = np.ones(len(source))
    inliers = np.ones(len(source), np.bool_)
    if robust:
        fit = _least_median(source, target, turns, lever)
        for _ in range(30):
            error = _errors(fit[None], source, target, turns, lever)[0]
            limit = max(3 * float(np.median(error)), 1e-6 * lever)  # the angle is read from a cosine
            weights = np.where(error <= 3 * limit, (limit**2 / (limit**2 + error**2)) ** 2, 0.0)
            inliers = np.asarray(error <= limit)
            fit = _fit(source, target, turns, lever, weights)
        _determined("truth", target[inliers])
    fit = _fit(source, target, turns, lever, weights)
    distance = np.linalg.norm(apply(fit, source) - target, axis=1)[inliers]
    angle = rotation_angle(np.einsum("ji,njk->nik", rotation_of(fit), turns))[inliers]
    return CameraAlignment(
        truth_from_pred=fit,
        scale=scale_of(fit),
        centre_residual=float(np.sqrt((distance**2).mean())),
        rotation_residual=float(np.sqrt((angle**2).mean())),
        inliers=inliers,
    )


def pose_errors(pred: Cameras, truth: Cameras, registered: Bools | None = None) -> PoseErrors:
    """Pose errors of N predicted cameras; `registered` (N,) marks the views that have one (default: all).

    Relative rotation and translation errors and their AUC over all view pairs as in PoseDiffusion (Wang et al. 2023)
    and VGGT (Wang et al. 2025): the pose of camera i relative to camera j is compared; translations are compared as
    lines, so that a reversed baseline counts as right (only `centre_rmse` sees it); AUC@T is the mean over the
    thresholds 1, 2 .. T degrees of the share of pairs whose larger error is below the threshold. Unlike there, a
    pair with an unregistered view stays in, with an error of 180. A pair whose true centres coincide has no
    translation error (0); one whose predicted centres alone coincide fails (180).

    `centre_rmse` is the absolute trajectory error after the least-squares similarity of the centres (Umeyama 1991;
    Sturm et al. 2012); None with fewer than 3 registered views or where their centres lie on a line. `rotation_rmse`
    follows the best common rotation (chordal mean). Both cover the registered views alone: read them together with
    `registered`.
    """
    _paired(pred, truth)
    mask = np.ones(len(truth), np.bool_) if registered is None else np.asarray(registered, np.bool_)
    if mask.shape != (len(truth),):
        raise ValueError(f"registered: shape {mask.shape} seen, ({len(truth)},) wanted")
    first, second = np.triu_indices(len(truth), k=1)
    rotation, translation = np.full(len(first), FAILED), np.full(len(first), FAILED)
    both = mask[first] & mask[second]
    i, j = first[both], second[both]
    pred_R, pred_t = _relative(pred, i, j)
    true_R, true_t = _relative(truth, i, j)
    rotation[both] = rotation_angle(np.einsum("nij,nkj->nik", pred_R, true_R))
    translation[both] = _line_angle(pred_t, true_t)
    centre_rmse = rotation_rmse = None
    if mask.any():
        predicted, true = pred.take(np.flatnonzero(mask)), truth.take(np.flatnonzero(mask))
        turns = np.einsum("nji,njk->nik", true.camera_from_world[:, :3, :3], predicted.camera_from_world[:, :3, :3])
        common = nearest_rotation(turns.mean(axis=0))
        rotation_rmse = float(np.sqrt((rotation_angle(np.einsum("ji,njk->nik", common, turns)) ** 2).mean()))
        try:
            _determined("pred", predicted.centres)
            _determined("truth", true.centres)
        except AlignmentError:
            pass
        else:
            moved = apply(umeyama(predicted.centres, true.centres), predicted.centres)
            centre_rmse = float(np.sqrt(((moved - true.centres) ** 2).sum(axis=1).mean()))
    worst = np.maximum(rotation, translation)
    return PoseErrors(
        rotation=rotation,
        translation=translation,
        auc_5=_auc(worst, 5),
        auc_10=_auc(worst, 10),
        auc_30=_auc(worst, 30),
        centre_rmse=centre_rmse,
        rotation_rmse=rotation_rmse,
        registered=float(mask.mean()) if len(mask) else 0.0,
    )


def _paired(pred: Cameras, truth: Cameras) -> None:
    if len(pred) != len(truth):
        raise ValueError(f"pred: {len(pred)} cameras seen, {len(truth)} wanted, one for each of truth")


def _determined(name: str, centres: F64) -> None:
    """Raise AlignmentError unless `centres` (N, 3) fix a similarity."""
    if len(centres) < 3:
        raise AlignmentError(f"{name}: {len(centres)} views seen, at least 3 wanted")
    extent = spread(centres)
    if not extent[0] > 1e-9 * np.abs(centres).max():
        raise AlignmentError(f"{name}: the camera centres coincide, at least 3 non-collinear centres wanted")
    if not extent[1] > COLLINEAR * extent[0]:
        raise AlignmentError(f"{name}: the camera centres lie on a line, at least 3 non-collinear centres wanted")


def _without_strays(centres: F64) -> F64:
    """`centres` (N, 3) less those ten times as far from their median as half of them: one would make a line of any."""
    distance = np.linalg.norm(centres - np.median(centres, axis=0), axis=1)
    return np.asarray(centres[distance <= 10 * np.median(distance)], np.float64)


def _fit(source: F64, target: F64, turns: F64, lever: float, weights: F64) -> F64:
    """Weighted least squares over centres and turns; the scale enters the rotation, hence the iteration."""
    share = weights / weights.sum()
    mean_x, mean_y = share @ source, share @ target
    dx, dy = source - mean_x, target - mean_y
    variance = share @ (dx**2).sum(axis=1)
    scale = np.sqrt(share @ (dy**2).sum(axis=1) / max(variance, 1e-300))
    centres = np.einsum("n,ni,nj->ij", share, dy, dx)
    rotations = lever**2 * np.einsum("n,nij->ij", share, turns)
    rotation = np.eye(3)
    for _ in range(20):
        rotation = nearest_rotation(scale * centres + rotations)
        # centres that contradict the rotations could ask for a mirrored world: never let the scale reach zero
        new_scale = max(float((rotation * centres).sum()) / max(variance, 1e-300), 1e-6 * scale)
        if abs(new_scale - scale) <= 1e-14 * scale:
            break
        scale = new_scale
    return similarity(float(scale), rotation, mean_y - scale * rotation @ mean_x)


def _errors(fits: F64, source: F64, target: F64, turns: F64, lever: float) -> F64:
    """(B, N) combined error of every view under every fit (B, 4, 4), truth's unit."""
    scale = np.cbrt(np.linalg.det(fits[:, :3, :3]))
    moved = np.einsum("bij,nj->bni", fits[:, :3, :3], source) + fits[:, None, :3, 3]
    # the trace of R^T A is 1 + 2 cos(angle): the squared chordal distance is 2 (1 - cos)
    cosine = (np.einsum("bij,nij->bn", fits[:, :3, :3] / scale[:, None, None], turns) - 1) / 2
    return np.asarray(np.sqrt(((moved - target) ** 2).sum(axis=2) + lever**2 * 2 * np.maximum(1 - cosine, 0)))


def _least_median(source: F64, target: F64, turns: F64, lever: float) -> F64:
    """The hypothesis of two cameras (turn and place of one, scale from the distance to the other) of least median."""
    i, j = np.nonzero(~np.eye(len(source), dtype=np.bool_))
    if len(i) > CANDIDATES:
        chosen = np.random.default_rng(0).choice(len(i), CANDIDATES, replace=False)
        i, j = i[chosen], j[chosen]
    before = np.linalg.norm(source[i] - source[j], axis=1)
    after = np.linalg.norm(target[i] - target[j], axis=1)
    usable = (before > 1e-9 * before.max()) & (after > 1e-9 * after.max())
    i, scale = i[usable], (after / np.maximum(before, 1e-300))[usable]
    fits = np.zeros((len(i), 4, 4))
    fits[:, :3, :3] = scale[:, None, None] * turns[i]
    fits[:, :3, 3] = target[i] - np.einsum("bij,bj->bi", fits[:, :3, :3], source[i])
    fits[:, 3, 3] = 1
    medians = np.median(_errors(fits, source, target, turns, lever), axis=1)
    return np.asarray(fits[int(np.argmin(medians))], np.float64)


def _relative(cameras: Cameras, i: NDArray[np.intp], j: NDArray[np.intp]) -> tuple[F64, F64]:
    """Rotations (P, 3, 3) and translations (P, 3) of the poses camera_i_from_camera_j."""
    R, t = cameras.camera_from_world[:, :3, :3], cameras.camera_from_world[:, :3, 3]
    rotation = np.einsum("nij,nkj->nik", R[i], R[j])
    return rotation, t[i] - np.einsum("nij,nj->ni", rotation, t[j])


def _line_angle(pred: F64, truth: F64) -> F64:
    """(P,) degrees, 0..90, between the lines of vectors (P, 3); 0 where truth is null, 180 where pred alone is."""
    norm_pred, norm_truth = np.linalg.norm(pred, axis=1), np.linalg.norm(truth, axis=1)
    cross, dot = np.linalg.norm(np.cross(pred, truth), axis=1), np.abs((pred * truth).sum(axis=1))
    angle = np.degrees(np.arctan2(cross, dot))
    angle[norm_pred <= 1e-9 * norm_pred.max(initial=0)] = FAILED
    angle[norm_truth <= 1e-9 * norm_truth.max(initial=0)] = 0
    return np.asarray(angle, np.float64)


def _auc(errors: F64, limit: int) -> float | None:
    """Mean over the thresholds 1..limit of the share of `errors` (P,) below; `limit` itself counts as below it."""
    if not len(errors):
        return None
    counts, _ = np.histogram(errors, bins=np.arange(limit + 1))
    return float(np.cumsum(counts).mean() / len(errors))
