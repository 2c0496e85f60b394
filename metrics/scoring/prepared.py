"""A ground truth made ready for one protocol, and how scoring says that it cannot go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64, Bools, ScoreStatus
from metrics.nearest import nearest, surface_distance
from metrics.scoring.equalise import voxel_subset
from metrics.scoring.knowledge import Judge
from metrics.scoring.protocol import Protocol
from metrics.scoring.truth import Truth
from metrics.scoring.visibility import DepthBuffer, depth_buffers, seen_surface

TRUTH_FIELDS = ("crop", "observed_only", "visible_within", "voxel")  # of a protocol: what `PreparedTruth.of` reads
Floors = dict[tuple[str | None, int], dict[str, float]]  # device, points -> metric -> value
FEWEST_POINTS = 16  # a cloud of fewer points after cropping is a failure, not a score


class ScoringError(Exception):
    """Geometry that cannot be scored: `failed` when the prediction is at fault, `unsupported` when its kind is."""

    def __init__(self, status: ScoreStatus, note: str) -> None:
        super().__init__(note)
        self.status: ScoreStatus = status


@dataclass(frozen=True)
class PreparedTruth:
    """A truth made ready for one protocol; build it once for many predictions."""

    truth: Truth
    protocol: Protocol
    points: F32  # (M, 3) cropped, equalised
    normals: F32  # (M, 3)
    buffers: Sequence[DepthBuffer]
    visibility: Bools  # (V, M), which views of the truth see which point
    visible: Bools  # (M,), those that count: seen by some of them, or all; where the truth has a judge, those it trusts
    judge: Judge | None = None  # of a measured truth, under protocols that leave out what was not observed
    floors: Floors = field(default_factory=dict, repr=False)  # by scoring
    device: str | None = None  # that the instruments run on; None is the CPU, whose digits are ranked

    @staticmethod
    def of(truth: Truth, protocol: Protocol) -> PreparedTruth:
        """Crop and equalise `truth`, and find what its cameras see."""
        keep = np.arange(len(truth.points))
        if protocol.crop and truth.crop is not None:
            keep = np.flatnonzero(truth.crop.contains(truth.points))
        keep = keep[voxel_subset(truth.points[keep], protocol.voxel * truth.diameter)]
        if len(keep) < FEWEST_POINTS:
            raise ScoringError("failed", f"the {truth.kind} truth holds {len(keep)} points inside its crop volume")
        buffers = depth_buffers(truth)
        points = truth.points[keep]
        visibility = seen_surface(points, truth, buffers, protocol.visible_within * truth.diameter)
        counts = np.asarray(visibility.any(axis=0)) if protocol.observed_only else np.ones(len(points), np.bool_)
        judge = None
        if protocol.observed_only and truth.knowledge is not None:
            counts = truth.knowledge.trusted[keep]
            if counts.sum() < FEWEST_POINTS:
                raise ScoringError("failed", f"the {truth.kind} truth trusts {counts.sum()} of its points")
            judge = Judge.of(truth, truth.knowledge, keep)
        return PreparedTruth(truth, protocol, points, truth.normals[keep], buffers, visibility, counts, judge)

    def under(self, protocol: Protocol, floors: Floors | None = None) -> PreparedTruth:
        """The same for a protocol that makes the truth ready alike: it agrees in `TRUTH_FIELDS`. `floors` is where its
        floors are kept, which protocols share that differ in confidence and alignment only."""
        return replace(self, protocol=protocol, floors={} if floors is None else floors)

    def on(self, device: str | None) -> PreparedTruth:
        """The same, measured on another device."""
        return replace(self, device=device)

    @property
    def unit(self) -> float:
        """The unit in which the protocol prints lengths, in the truth's own unit."""
        if not self.protocol.side:
            return self.truth.diameter / 100
        return float(np.ptp(self.points, axis=0).max()) / self.protocol.side

    def seen_by(self, views: tuple[str, ...]) -> Bools:
        """(M,) bool: which points the views of these names see."""
        rows = [self.truth.view_names.index(view) for view in views if view in self.truth.view_names]
        return np.asarray(self.visibility[rows].any(axis=0))

    def distance(self, points: NDArray[np.floating]) -> F64:
        """(K,) distances from `points` (K, 3) to the truth: its mesh, or its samples."""
        if self.truth.mesh is not None:
            return surface_distance(points, *self.truth.mesh)
        return np.asarray(nearest(points, self.points, device=self.device).distance, np.float64)
