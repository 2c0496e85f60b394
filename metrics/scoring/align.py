"""From a prediction to the truth's frame: which of its points are kept, and the similarity that brings them there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from adapters.contract import F32, F64, Bools, Reconstruction
from metrics import similarity
from metrics.cameras import align_cameras
from metrics.register import icp, register
from metrics.scoring.equalise import random_subset
from metrics.scoring.pixels import counted_pixels
from metrics.scoring.prepared import FEWEST_POINTS, PreparedTruth, ScoringError
from metrics.scoring.truth import Truth, sample_mesh
from metrics.similarity import AlignmentError

ALIGN_POINTS = 20_000
FEWEST_PAIRS = 30
CORRESPONDENCE_PIXELS = 1.0


@dataclass(frozen=True)
class AlignmentStage:
    """One step of the alignment; `transform` is cumulative."""

    name: str
    truth_from_pred: F64  # (4, 4)
    residual: float  # percent of the diameter: median distance between the clouds after it, both directions
    gain: float  # residual before less residual after


@dataclass(frozen=True)
class Kept:
    """The prediction's points that the confidence and mask policies keep."""

    points: F32
    index: NDArray[np.int64]  # into the prediction's points; -1 where sampled from its mesh
    share: float = 1.0  # of the prediction's points that the confidence policy kept
    note: str = ""  # why that is not the share asked for


def kept_points(prediction: Reconstruction, prepared: PreparedTruth, views: tuple[str, ...]) -> Kept:
    protocol, truth = prepared.protocol, prepared.truth
    if len(prediction.points) == 0:
        mesh = prediction.mesh
        assert mesh is not None  # the contract: no points, then a mesh
        if protocol.measured:
            raise ScoringError("unsupported", "the protocol compares pixels; the adapter gives a mesh alone")
        samples = sample_mesh(mesh.vertices, mesh.faces, 4 * protocol.samples, protocol.seed)
        return Kept(samples, np.full(len(samples), -1))
    index, note = np.arange(len(prediction.points)), ""
    wanted = max(round(protocol.confidence_keep * len(index)), 1)
    if wanted < len(index):
        if prediction.confidence is None:
            note = "the adapter gives no confidence: every point is kept"
        else:
            # Points as sure as the last one kept are not told apart: leaving some out would keep the first views'.
            least = np.partition(prediction.confidence, -wanted)[-wanted]
            index = np.flatnonzero(prediction.confidence >= least)
            if len(index) > 1.01 * wanted:
                note = f"confidence ties: {len(index) / len(prediction.points):.0%} of the points kept"
    share = len(index) / len(prediction.points)
    if protocol.masks:
        if truth.masks is None:
            raise ScoringError("unsupported", "the protocol masks points; the scene has no masks")
        if prediction.view_index is None or prediction.pixel is None:
            raise ScoringError("unsupported", "the protocol masks points; the adapter gives no pixels")
        inside = np.zeros(len(prediction.points), np.bool_)
        for i, view in enumerate(views):
            if view in truth.view_names:
                mask = truth.masks[truth.view_names.index(view)]
                own = np.flatnonzero(prediction.view_index == i)
                x, y = np.minimum(prediction.pixel[own].astype(np.int64), np.array(mask.shape[::-1]) - 1).T
                inside[own] = mask[y, x]
        index = index[inside[index]]
    if protocol.measured:
        index = index[counted_pixels(prediction, truth, views, protocol.frame)[index]]
    if len(index) < FEWEST_POINTS:
        raise ScoringError("failed", f"{len(index)} points left to score, at least {FEWEST_POINTS} wanted")
    return Kept(prediction.points[index], index, share, note)


def align(
    prediction: Reconstruction, pred: Kept, prepared: PreparedTruth, views: tuple[str, ...], route: str
) -> tuple[tuple[AlignmentStage, ...], Bools, list[str]]:
    """The stages of `route`, then ICP; (K,) bool of points that were not used to align; remarks."""
    truth, protocol = prepared.truth, prepared.protocol
    held_out = np.ones(len(pred.points), np.bool_)
    notes: list[str] = []
    if route == "none":
        return (), held_out, notes
    rng = np.random.default_rng(protocol.seed)
    pred_some = pred.points[random_subset(len(pred.points), ALIGN_POINTS, rng)]
    seen = np.flatnonzero(prepared.visible)
    some = seen[random_subset(len(seen), ALIGN_POINTS, rng)]
    truth_some, normals_some = prepared.points[some], prepared.normals[some]
    try:
        if route == "cameras":
            transform = _from_cameras(prediction, truth, views)
        elif route == "boxes":
            transform = _from_boxes(pred.points, prepared.points)
        elif route == "correspondences":
            transform, held_out = _from_correspondences(prediction, pred, prepared, views)
        else:
            found = register(
                pred_some,
                _shape(prepared, truth_some, rng),
                seed=protocol.seed,
                refine=False,
                device=prepared.device,
            )
            transform = found.target_from_source
            if found.ambiguous:
                notes.append("the alignment is ambiguous: another pose fits about as well")
            if found.poor_fit:
                notes.append("the alignment is a poor fit: prediction and truth look unlike")
        residual = _residual(pred_some, truth_some, transform)
        stages = [AlignmentStage(route, transform, 100 * residual / truth.diameter, 0.0)]
        if protocol.align.icp:
            inside = similarity.apply(transform, pred_some)
            box = truth.crop
            near = np.ones(len(inside), np.bool_) if box is None or not protocol.crop else box.contains(inside)
            if near.sum() >= FEWEST_POINTS:
                stage = icp(pred_some[near], truth_some, normals_some, initial=transform, device=prepared.device)
                refined = stage.transform
                after = _residual(pred_some, truth_some, refined)
                stages.append(
                    AlignmentStage(
                        "icp", refined, 100 * after / truth.diameter, 100 * (residual - after) / truth.diameter
                    )
                )
    except AlignmentError as error:
        raise ScoringError("failed", f"alignment by {route}: {error}") from error
    return tuple(stages), held_out, notes


def _shape(prepared: PreparedTruth, counted: F32, rng: np.random.Generator) -> F32:
    """What a search for the pose looks at: all that was measured, since trusted surface may be patches, without shape;
    `counted` where the truth has no judge. Later stages fit to what is trusted."""
    if prepared.judge is None:
        return counted
    measured = np.flatnonzero(prepared.seen.any(axis=0))
    return prepared.points[measured[random_subset(len(measured), ALIGN_POINTS, rng)]]


def _residual(pred: F32, truth: F32, transform: F64) -> float:
    """Median nearest-neighbour distance, both directions pooled, truth's unit."""
    moved = similarity.apply(transform, pred)
    return float(np.median(np.r_[cKDTree(truth).query(moved)[0], cKDTree(moved).query(truth)[0]]))


def _from_cameras(prediction: Reconstruction, truth: Truth, views: tuple[str, ...]) -> F64:
    if prediction.cameras is None or prediction.registered is None:
        raise ScoringError("unsupported", "alignment by cameras: the adapter gives no cameras")
    pairs = [(i, truth.view_names.index(v)) for i, v in enumerate(views) if v in truth.view_names]
    pairs = [(i, j) for i, j in pairs if prediction.registered[i]]
    mine, theirs = [i for i, _ in pairs], [j for _, j in pairs]
    return align_cameras(prediction.cameras.take(mine), truth.cameras.take(theirs)).truth_from_pred


def _from_boxes(pred: F32, truth: F32) -> F64:
    """Centre on centre and longest side on longest side, nothing turned."""
    side = float(np.ptp(pred, axis=0).max())
    if side <= 0:
        raise AlignmentError("the predicted points lie in one place")
    scale = float(np.ptp(truth, axis=0).max()) / side
    centres = [(cloud.min(axis=0).astype(np.float64) + cloud.max(axis=0)) / 2 for cloud in (pred, truth)]
    return similarity.similarity(scale, np.eye(3), centres[1] - scale * centres[0])


def _from_correspondences(
    prediction: Reconstruction, pred: Kept, prepared: PreparedTruth, views: tuple[str, ...]
) -> tuple[F64, Bools]:
    """Robust Umeyama over pixels where prediction and truth both have a point; half the points only are used."""
    truth, protocol = prepared.truth, prepared.protocol
    if prediction.view_index is None or prediction.pixel is None or pred.index[0] < 0:
        raise ScoringError("unsupported", "alignment by correspondences: the adapter gives no pixels")
    used = np.random.default_rng(protocol.seed).random(len(pred.points)) < 0.5
    view_index, pixel = prediction.view_index[pred.index], prediction.pixel[pred.index]
    sources, targets = [], []
    for i, view in enumerate(views):
        own = np.flatnonzero(used & (view_index == i))
        if view not in truth.view_names or not len(own):
            continue
        seen = np.flatnonzero(prepared.seen_by((view,)))
        where, _ = truth.cameras.project(truth.view_names.index(view), prepared.points[seen])
        distance, match = cKDTree(pixel[own]).query(where, distance_upper_bound=CORRESPONDENCE_PIXELS)
        hit = np.isfinite(distance)
        sources.append(pred.points[own[np.asarray(match)[hit]]])
        targets.append(prepared.points[seen[hit]])
    count = sum(map(len, sources))
    if count < FEWEST_PAIRS:
        raise ScoringError(
            "failed", f"alignment by correspondences: {count} pairs seen, {FEWEST_PAIRS} at least wanted"
        )
    fit = similarity.robust_umeyama(np.concatenate(sources), np.concatenate(targets), seed=protocol.seed)
    return fit.target_from_source, ~used
