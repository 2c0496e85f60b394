"""From a prediction to the truth's frame: which of it is kept, and the similarity that brings it there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from adapters.contract import F32, F64, I32, Mesh, Reconstruction
from metrics import similarity
from metrics.cameras import align_cameras
from metrics.register import Start, from_correspondences, from_shape, poor_fit, settle
from metrics.scoring.pixels import counted_pixels
from metrics.scoring.prepared import FEWEST_POINTS, PreparedTruth, ScoringError
from metrics.scoring.truth import Box, mesh_inside, sample_mesh
from metrics.similarity import AlignmentError

FEWEST_PAIRS = 30
CORRESPONDENCE_PIXELS = 1.0


@dataclass(frozen=True)
class AlignmentStage:
    """One step of the alignment; lengths in percent of the diameter, None where too few points could be compared.

    Both are measured on the predicted points inside the crop volume under the first step's pose."""

    name: str
    truth_from_pred: F64  # (4, 4), earlier steps included
    residual: float | None  # median distance between the clouds after it, both directions
    gain: float | None  # residual before it less residual after


@dataclass(frozen=True)
class Alignment:
    """The way into the truth's frame."""

    stages: tuple[AlignmentStage, ...] = ()  # none where the prediction is posed
    notes: tuple[str, ...] = ()
    failure: str = ""  # why what it gives is no alignment

    @property
    def truth_from_pred(self) -> F64:
        """(4, 4)"""
        return self.stages[-1].truth_from_pred if self.stages else np.eye(4)


@dataclass(frozen=True)
class Kept:
    """What of a prediction the confidence and mask policies keep: its mesh where it has one, else its points."""

    points: F32  # (K, 3) points, in the prediction's frame; those that a mesh comes with can be aligned by
    index: NDArray[np.int64]  # (K,) rows of the prediction's points
    mesh: Mesh | None = None  # scored in place of points, on `samples` points drawn from what is inside the crop volume
    samples: int = 0
    seed: int = 0
    share: float = 1.0  # of the prediction's points that the confidence policy kept
    note: str = ""  # why that is not the share asked for

    @cached_property
    def cloud(self) -> F32:
        """(M, 3) all that is kept, in the prediction's frame."""
        if self.mesh is None:
            return self.points
        return sample_mesh(self.mesh.vertices, self.mesh.faces, self.samples, self.seed)

    def inside(self, truth_from_pred: F64, box: Box | None) -> tuple[F64, NDArray[np.int64]]:
        """What lies inside `box` (None: everywhere) under a pose: points (M, 3) in the truth's frame, and their rows of
        the prediction's points (M,), -1 where they were drawn from its mesh."""
        if self.mesh is None:
            points = similarity.apply(truth_from_pred, self.points)
            if box is None:
                return points, self.index
            within = box.contains(points)
            return points[within], self.index[within]
        vertices, faces = similarity.apply(truth_from_pred, self.mesh.vertices), self.mesh.faces
        if box is not None:
            vertices, faces = mesh_inside(vertices, faces, np.array(box.low), np.array(box.high))
        if not _has_area(vertices, faces):
            return np.zeros((0, 3)), np.zeros(0, np.int64)
        points = np.asarray(sample_mesh(vertices, faces, self.samples, self.seed), np.float64)
        return points, np.full(len(points), -1)


def _has_area(vertices: F64, faces: I32) -> bool:
    if not len(faces):
        return False
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return bool((np.abs(np.cross(b - a, c - a)) > 0).any())


def crop_box(prepared: PreparedTruth) -> Box | None:
    """The volume that the protocol cuts both sides to; None where it cuts nothing."""
    return prepared.truth.crop if prepared.protocol.crop else None


def kept_points(prediction: Reconstruction, prepared: PreparedTruth, views: tuple[str, ...]) -> Kept:
    """Apply the protocol's confidence and mask policies; ScoringError where nothing is left or a policy cannot be."""
    protocol, truth = prepared.protocol, prepared.truth
    mesh = prediction.mesh
    if mesh is not None and protocol.masks:
        raise ScoringError("unsupported", "the protocol masks points; the adapter gives a mesh, which has no pixels")
    if mesh is not None and protocol.measured:
        raise ScoringError("unsupported", "the protocol compares pixels; the adapter gives a mesh, which has none")
    index, note = np.arange(len(prediction.points)), ""
    wanted = max(round(protocol.confidence_keep * len(index)), 1)
    if mesh is not None:
        note = "a mesh has no confidence: it is kept whole" if protocol.confidence_keep < 1 else ""
    elif wanted < len(index):
        if prediction.confidence is None:
            note = "the adapter gives no confidence: every point is kept"
        else:
            # Points as sure as the last one kept are not told apart: leaving some out would keep the first views'.
            least = np.partition(prediction.confidence, -wanted)[-wanted]
            index = np.flatnonzero(prediction.confidence >= least)
            if len(index) > 1.01 * wanted:
                note = f"confidence ties: {len(index) / len(prediction.points):.0%} of the points kept"
    share = len(index) / len(prediction.points) if len(prediction.points) else 1.0
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
    if mesh is None and len(index) < FEWEST_POINTS:
        raise ScoringError("failed", f"{len(index)} points left to score, at least {FEWEST_POINTS} wanted")
    if mesh is not None and not _has_area(mesh.vertices.astype(np.float64), mesh.faces):
        raise ScoringError("failed", "mesh: no face has an area, so no point can be drawn from it")
    return Kept(prediction.points[index], index, mesh, 4 * protocol.samples, protocol.seed, share, note)


def align(
    prediction: Reconstruction, pred: Kept, prepared: PreparedTruth, views: tuple[str, ...], route: str
) -> Alignment:
    """The first pose by `route`, then ICP where the protocol has it, on what lies inside the crop volume.

    Too few points there for ICP is a note; ScoringError where the route cannot be taken or its inputs do not determine
    a pose. A search whose pose fits poorly in the end is a failure: shape alone had to settle it, and did not."""
    truth, protocol = prepared.truth, prepared.protocol
    if route == "none":
        return Alignment()
    notes: list[str] = []
    try:
        if route == "cameras":
            start = _from_cameras(prediction, prepared, views)
        elif route == "boxes":
            start = _from_boxes(pred.cloud, prepared.points)
        elif route == "correspondences":
            start = _from_pixels(prediction, pred, prepared, views)
        else:
            up = (prediction.up, truth.up) if prediction.up is not None and truth.up is not None else None
            start = from_shape(pred.cloud, _shape(prepared), protocol.seed, prepared.device, up)
            notes += ["turned about the known up alone"] if up is not None else []
    except AlignmentError as error:
        raise ScoringError("failed", f"alignment by {route}: {error}") from error
    if start.ambiguous:
        notes.append("the alignment is ambiguous: another pose fits about as well")
    inside, _ = pred.inside(start.truth_from_pred, crop_box(prepared))
    inside = similarity.apply(similarity.invert(start.truth_from_pred), inside)
    rows = np.flatnonzero(prepared.visible)
    surface, normals = prepared.points[rows].astype(np.float64), prepared.normals[rows]
    try:
        settled = settle(start, inside, surface, normals, protocol.seed, protocol.align.icp, prepared.device)
    except AlignmentError as error:
        notes.append(f"no residual{' and no ICP' if protocol.align.icp else ''}: inside the crop volume, {error}")
        return Alignment((AlignmentStage(start.name, start.truth_from_pred, None, None),), tuple(notes))
    percent = 100 / truth.diameter
    stages = tuple(AlignmentStage(s.name, s.transform, s.residual * percent, s.gain * percent) for s in settled.stages)
    failure = ""
    if route == "search":
        # A measured truth may trust patches alone: all that it measured tells whether the shapes are alike.
        poor = settled.poor_fit
        if prepared.judge is not None:
            poor = poor_fit(inside, _shape(prepared), settled.target_from_source, protocol.seed)
        failure = "alignment by search: a poor fit, prediction and truth look unlike" if poor else ""
    return Alignment(stages, tuple(notes), failure)


def _shape(prepared: PreparedTruth) -> F64:
    """What a search for the pose looks at: all that was measured, since trusted surface may be patches, without shape;
    what counts where the truth has no judge. Later stages fit to what is trusted."""
    looked_at = prepared.visible if prepared.judge is None else prepared.visibility.any(axis=0)
    return prepared.points[looked_at].astype(np.float64)


def _from_cameras(prediction: Reconstruction, prepared: PreparedTruth, views: tuple[str, ...]) -> Start:
    truth = prepared.truth
    if prediction.cameras is None or prediction.registered is None:
        raise ScoringError("unsupported", "alignment by cameras: the adapter gives no cameras")
    pairs = [(i, truth.view_names.index(v)) for i, v in enumerate(views) if v in truth.view_names]
    pairs = [(i, j) for i, j in pairs if prediction.registered[i]]
    predicted = prediction.cameras.take([i for i, _ in pairs])
    true = truth.cameras.take([j for _, j in pairs])
    return Start("cameras", align_cameras(predicted, true).truth_from_pred)


def _from_boxes(pred: F32, truth: F32) -> Start:
    """Centre on centre and longest side on longest side, nothing turned."""
    side = float(np.ptp(pred, axis=0).max())
    if side <= 0:
        raise AlignmentError("the predicted points lie in one place")
    scale = float(np.ptp(truth, axis=0).max()) / side
    centres = [(cloud.min(axis=0).astype(np.float64) + cloud.max(axis=0)) / 2 for cloud in (pred, truth)]
    return Start("boxes", similarity.similarity(scale, np.eye(3), centres[1] - scale * centres[0]))


def _from_pixels(prediction: Reconstruction, pred: Kept, prepared: PreparedTruth, views: tuple[str, ...]) -> Start:
    """Robust Umeyama over pixels where prediction and truth both have a point.

    All pairs are used, and all points scored: a similarity has seven numbers, which thousands of pairs leave nothing to
    fit to themselves, and points held out would halve the density of what is scored."""
    truth, protocol = prepared.truth, prepared.protocol
    if prediction.view_index is None or prediction.pixel is None:
        raise ScoringError("unsupported", "alignment by correspondences: the adapter gives no pixels")
    view_index, pixel = prediction.view_index[pred.index], prediction.pixel[pred.index]
    predicted, true = [], []
    for i, view in enumerate(views):
        own = np.flatnonzero(view_index == i)
        if view not in truth.view_names or not len(own):
            continue
        visible = np.flatnonzero(prepared.seen_by((view,)))
        where, _ = truth.cameras.project(truth.view_names.index(view), prepared.points[visible])
        distance, match = cKDTree(pixel[own]).query(where, distance_upper_bound=CORRESPONDENCE_PIXELS)
        hit = np.isfinite(distance)
        predicted.append(pred.points[own[np.asarray(match)[hit]]])
        true.append(prepared.points[visible[hit]])
    count = sum(map(len, predicted))
    if count < FEWEST_PAIRS:
        raise ScoringError(
            "failed", f"alignment by correspondences: {count} pairs seen, {FEWEST_PAIRS} at least wanted"
        )
    return from_correspondences(np.concatenate(predicted), np.concatenate(true), seed=protocol.seed)
