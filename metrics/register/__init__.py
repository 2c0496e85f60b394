"""Registration of a predicted cloud to the true one: from pixel correspondences, from cameras, or from shape alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from adapters.contract import F64, Cameras
from metrics.cameras import align_cameras
from metrics.points import device_of
from metrics.register.icp import icp, refined
from metrics.register.stages import Matcher, Registration, Stage, cloud
from metrics.similarity import AlignmentError, robust_umeyama, scale_of

__all__ = [
    "AlignmentError",
    "Registration",
    "Stage",
    "Start",
    "from_correspondences",
    "from_shape",
    "icp",
    "poor_fit",
    "register",
    "settle",
]

POOR_FIT = 0.5  # share of a cloud that must match the other: right poses have more, other objects less


def register(
    pred: ArrayLike,
    truth: ArrayLike,
    cameras: tuple[Cameras, Cameras] | None = None,
    correspondences: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
    truth_normals: ArrayLike | None = None,
    refine: bool = True,
    device: str | None = None,
) -> Registration:
    """Find the similarity that brings `pred` (M, 3) onto `truth` (K, 3).

    The pose comes from `correspondences`, pairs of points (P, 3) of pred and of truth (robust Umeyama); else from
    `cameras`, pred's and truth's of the same views, each in its own world (`align_cameras`); else from a global
    search over shape alone, which needs no start and bears floaters, noise and missing parts. With `refine`, `icp`
    follows. `truth_normals` (K, 3) serve the refinement and are estimated where not given.

    Every stage's transform, residual and gain are kept. `margin` and `ambiguous` apply to a search only: elsewhere
    the cameras or the pairs have settled the pose. `poor_fit` describes the final pose: less than half of one cloud
    has a counterpart in the other within three times the thickness of pred's own surface. Deterministic for a seed.

    CUDA tensors are registered on their device; `device`, "cpu", "cuda" or "cuda:N", says otherwise. Poses then agree
    as far as the search and ICP converge.

    Raises AlignmentError where the inputs do not determine a similarity.
    """
    cloud("pred", pred)
    y = cloud("truth", truth)
    if cameras is not None and correspondences is not None:
        raise ValueError("correspondences: seen together with cameras, one of the two wanted")
    if truth_normals is not None and np.shape(truth_normals) != y.shape:
        raise ValueError(f"truth_normals: shape {np.shape(truth_normals)} seen, {y.shape} wanted")
    if correspondences is not None:
        start = from_correspondences(*correspondences, seed=seed)
    elif cameras is not None:
        start = Start("cameras", align_cameras(*cameras).truth_from_pred)
    else:
        start = from_shape(pred, truth, seed, device)
    return settle(start, pred, truth, truth_normals, seed, refine, device)


@dataclass(frozen=True)
class Start:
    """A first pose, and where it comes from."""

    name: str
    truth_from_pred: F64  # (4, 4)
    margin: float | None = None  # as in `Registration`
    ambiguous: bool = False
    up: F64 | None = None  # (3,), truth's: what follows turns about it alone


def from_correspondences(pred: ArrayLike, truth: ArrayLike, seed: int = 0) -> Start:
    """The pose that most pairs of points of `pred` (P, 3) and `truth` (P, 3) agree on; errors of `robust_umeyama`."""
    return Start("correspondences", robust_umeyama(pred, truth, seed=seed).target_from_source)


def from_shape(
    pred: ArrayLike,
    truth: ArrayLike,
    seed: int = 0,
    device: str | None = None,
    up: tuple[ArrayLike, ArrayLike] | None = None,
) -> Start:
    """The pose that a global search over the shapes of `pred` (M, 3) and `truth` (K, 3) gives; errors of `search`.

    `up`: where up is in either frame, (3,) each: the search then turns about it alone."""
    from metrics.register.search import search  # compiled code: not at import

    where = device_of(device, pred=pred, truth=truth)
    axes = (np.asarray(up[0], np.float64), np.asarray(up[1], np.float64)) if up is not None else None
    result = search(cloud("pred", pred), cloud("truth", truth), seed, where, axes)
    about = axes[1] if axes is not None else None
    return Start("search", result.target_from_source, result.margin, result.ambiguous, about)


def settle(
    start: Start,
    pred: ArrayLike,
    truth: ArrayLike,
    truth_normals: ArrayLike | None = None,
    seed: int = 0,
    refine: bool = True,
    device: str | None = None,
) -> Registration:
    """What comes after a first pose, wherever that comes from: its residual, ICP with `refine`, and how well `pred`
    (M, 3) and `truth` (K, 3) fit in the end. Give the points that the pose is to be judged by: those inside the crop
    volume under `start`, say. AlignmentError where a cloud has fewer than 50 points or lies on a line."""
    where = device_of(device, pred=pred, truth=truth)
    matcher = Matcher(cloud("pred", pred), cloud("truth", truth), truth_normals, seed, where)
    before = matcher.residual(matcher.pairs(matcher.unit_from_truth))
    pairs = matcher.pairs(matcher.unit_from_truth @ start.truth_from_pred)
    stages = [Stage(start.name, start.truth_from_pred, matcher.residual(pairs), before - matcher.residual(pairs))]
    if refine:
        stage, pairs = refined(matcher, start.truth_from_pred, up=start.up)
        stages.append(stage)
    last = stages[-1]
    return Registration(
        target_from_source=last.transform,
        scale=scale_of(last.transform),
        stages=tuple(stages),
        residual=last.residual,
        margin=start.margin,
        ambiguous=start.ambiguous,
        poor_fit=matcher.matched(matcher.unit_from_truth @ last.transform, pairs) < POOR_FIT,
    )


def poor_fit(pred: ArrayLike, truth: ArrayLike, truth_from_pred: F64, seed: int = 0) -> bool:
    """`Registration.poor_fit` of a pose, judged by other points than those that gave it."""
    matcher = Matcher(cloud("pred", pred), cloud("truth", truth), None, seed)
    pose = matcher.unit_from_truth @ truth_from_pred
    return matcher.matched(pose, matcher.pairs(pose)) < POOR_FIT
