"""What is compared by pixels: which of them count, and pointmaps against the truth's depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64, Bools, Reconstruction
from metrics.scoring.prepared import PreparedTruth, ScoringError
from metrics.scoring.truth import Truth

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class PointmapErrors:
    """Means over views; both pointmaps in the first camera's frame, divided by their mean distance from it."""

    absrel: float  # mean |pred - truth| / |truth|
    delta_1_03: float  # share of the pixels whose distances |pred|, |truth| differ by less than a factor of 1.03


def in_frame(pixel: NDArray[np.floating], size: NDArray[np.integer], share: float) -> Bools:
    """(M,) bool: which `pixel` (M, 2) of an image of `size` (width, height) lie in the centred square whose side is
    `share` of the shorter one; all of them for a share of 1."""
    if share >= 1:
        return np.ones(len(pixel), np.bool_)
    half = share * float(np.min(size)) / 2
    return np.asarray((np.abs(pixel - np.asarray(size, float) / 2) <= half).all(axis=1))


def counted_pixels(prediction: Reconstruction, truth: Truth, views: tuple[str, ...], frame: float) -> Bools:
    """(M,) bool: which predicted points come from a pixel with a true depth, inside the square that `frame` leaves."""
    out = np.zeros(len(prediction.points), np.bool_)
    for i, view, own, depth in _measured(prediction, truth, views):
        assert prediction.pixel is not None and i >= 0
        out[own] = (depth > 0) & in_frame(prediction.pixel[own], truth.sizes[view], frame)
    return out


def given_surface(prepared: PreparedTruth, views: tuple[str, ...], frame: float) -> Bools:
    """(M,) bool: which of the prepared truth's points the views of these names see, inside the square of `frame`."""
    truth = prepared.truth
    out = np.zeros(len(prepared.points), np.bool_)
    for view in (truth.view_names.index(name) for name in views if name in truth.view_names):
        own = np.flatnonzero(prepared.visibility[view])
        pixel, _ = truth.cameras.project(view, prepared.points[own])
        out[own[in_frame(pixel, truth.sizes[view], frame)]] = True
    return out


def pointmap_errors(prediction: Reconstruction, truth: Truth, views: tuple[str, ...]) -> PointmapErrors:
    """Errors of a prediction's points against the truth's, pixel by pixel. ScoringError where they cannot be told."""
    if not views or views[0] not in truth.view_names:
        raise ScoringError("unsupported", "the first given view has no true camera")
    first = truth.view_names.index(views[0])
    pred_from_points = np.eye(4)
    if prediction.frame != "first_camera":
        if prediction.cameras is None or prediction.registered is None or not prediction.registered[0]:
            raise ScoringError("unsupported", "the adapter gives no camera of the first view")
        pred_from_points = prediction.cameras.camera_from_world[0]
    pairs = []
    for _, view, own, depth in _measured(prediction, truth, views):
        assert prediction.pixel is not None
        own, depth = own[depth > 0], depth[depth > 0]
        true = truth.cameras.unproject(view, prediction.pixel[own], depth)
        if len(own):
            pairs.append(
                (_moved(pred_from_points, prediction.points[own]), _moved(truth.cameras.camera_from_world[first], true))
            )
    if not pairs:
        raise ScoringError("failed", "no pixel has both a predicted point and a true depth")
    unit = [float(np.linalg.norm(np.concatenate(side), axis=1).mean()) for side in zip(*pairs, strict=True)]
    if min(unit) <= 0:
        raise ScoringError("failed", "the predicted points lie in the first camera's centre")
    errors = []
    for predicted, true in ((p / unit[0], t / unit[1]) for p, t in pairs):
        distances = np.linalg.norm(predicted, axis=1), np.linalg.norm(true, axis=1)
        ratio = np.maximum(distances[0], 1e-12) / distances[1]
        errors.append(
            (
                float((np.linalg.norm(predicted - true, axis=1) / distances[1]).mean()),
                float((np.maximum(ratio, 1 / ratio) < 1.03).mean()),
            )
        )
    return PointmapErrors(*(float(np.mean(column)) for column in zip(*errors, strict=True)))


def _measured(
    prediction: Reconstruction, truth: Truth, views: tuple[str, ...]
) -> Iterator[tuple[int, int, I64, NDArray[np.floating]]]:
    """Of each given view with a true depth map: its place among the given ones and in the truth, the predicted points
    that come from it, and the true z-depth (0: none) at each of their pixels."""
    if prediction.view_index is None or prediction.pixel is None:
        raise ScoringError("unsupported", "the protocol compares pixels; the adapter gives none")
    if truth.depth is None:
        raise ScoringError("unsupported", f"the protocol compares pixels; the {truth.kind} truth has no depth maps")
    for i, name in enumerate(views):
        if name in truth.view_names:
            view = truth.view_names.index(name)
            depth = truth.depth[view]
            own = np.flatnonzero(prediction.view_index == i)
            x, y = np.clip(prediction.pixel[own].astype(np.int64), 0, np.array(depth.shape[::-1]) - 1).T
            yield i, view, own, depth[y, x]


def _moved(transform: F64, points: NDArray[np.floating]) -> F64:
    return np.asarray(np.asarray(points, np.float64) @ transform[:3, :3].T + transform[:3, 3], np.float64)
