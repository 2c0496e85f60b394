"""Registration of a predicted cloud to the true one: from pixel correspondences, from cameras, or from shape alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from adapters.contract import Cameras
from metrics.cameras import align_cameras
from metrics.points import device_of
from metrics.register.icp import icp, refined
from metrics.register.stages import Matcher, Registration, Stage, cloud
from metrics.similarity import AlignmentError, robust_umeyama, scale_of

__all__ = ["AlignmentError", "Registration", "Stage", "icp", "register"]

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
    where = device_of(device, pred=pred, truth=truth)
    x, y = cloud("pred", pred), cloud("truth", truth)
    if cameras is not None and correspondences is not None:
        raise ValueError("correspondences: seen together with cameras, one of the two wanted")
    if truth_normals is not None and np.shape(truth_normals) != y.shape:
        raise ValueError(f"truth_normals: shape {np.shape(truth_normals)} seen, {y.shape} wanted")
    margin, ambiguous = None, False
    if correspondences is not None:
        name, transform = "correspondences", robust_umeyama(*correspondences, seed=seed).target_from_source
    elif cameras is not None:
        name, transform = "cameras", align_cameras(*cameras).truth_from_pred
    else:
        from metrics.register.search import search  # compiled code: not at import

        result = search(x, y, seed, where)
        name, transform, margin, ambiguous = "search", result.target_from_source, result.margin, result.ambiguous
    matcher = Matcher(x, y, truth_normals, seed, where)
    before = matcher.residual(matcher.pairs(matcher.unit_from_truth))
    pairs = matcher.pairs(matcher.unit_from_truth @ transform)
    stages = [Stage(name, transform, matcher.residual(pairs), before - matcher.residual(pairs))]
    if refine:
        stage, pairs = refined(matcher, transform)
        stages.append(stage)
    last = stages[-1]
    return Registration(
        target_from_source=last.transform,
        scale=scale_of(last.transform),
        stages=tuple(stages),
        residual=last.residual,
        margin=margin,
        ambiguous=ambiguous,
        poor_fit=matcher.matched(matcher.unit_from_truth @ last.transform, pairs) < POOR_FIT,
    )
