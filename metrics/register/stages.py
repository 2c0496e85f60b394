"""What a registration returns, and the two clouds as refinement and judgement see them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from adapters.contract import F64, I32
from metrics.similarity import AlignmentError, apply, enough_points, invert, scale_of, similarity, spread

MIN_POINTS = 50
MAX_POINTS = 60_000  # points of a cloud that a search tree holds
NEIGHBOURS = 12  # for normals
STRAY = 10.0  # times the distance within which nine tenths of a cloud lie
SAMPLES = 3000  # of either cloud, from which pairs are formed
FINE, COARSE = 0.04, 0.12  # bounds of how near a counterpart is, radii of the truth


@dataclass(frozen=True)
class Stage:
    """One step of a registration."""

    name: str  # "correspondences" | "cameras" | "search" | "icp"
    transform: F64  # (4, 4) target_from_source once this stage is done, earlier stages included
    residual: float  # after it, truth's unit: median nearest-neighbour distance, both directions pooled
    gain: float  # residual before it less residual after, truth's unit; positive where it helped


@dataclass(frozen=True)
class Registration:
    """A similarity that brings a predicted cloud onto a true one, and how far it can be trusted."""

    target_from_source: F64  # (4, 4), truth from pred
    scale: float  # truth units a pred unit
    stages: tuple[Stage, ...]  # in order; the last one's transform is `target_from_source`
    residual: float  # that of the last stage
    margin: float | None  # lead over the best clearly different pose, relative; None where no search was made
    ambiguous: bool  # another, clearly different pose fits (nearly) as well: symmetry, or too little evidence
    poor_fit: bool  # less than half of one cloud matches the other, even in the best pose: treat as failed


@dataclass(frozen=True)
class Pairs:
    """Nearest-neighbour pairs of two clouds, those of pred's samples first; lengths in radii of the truth."""

    moved: F64  # (M, 3) pred's points under the pose
    rows: I32  # (M,) their partners, rows of `Matcher.truth`
    distance: F64  # (M,)
    forward: int  # how many belong to samples of pred; the rest for samples of truth


class Matcher:
    """Two clouds, truth brought to centroid 0 and radius 1, and their nearest neighbours in both directions.

    Pairs are formed for fixed random samples; distances are exact within the at most
    `MAX_POINTS` points of either cloud that are held. A pose is a (4, 4) similarity from pred to the unit truth."""

    def __init__(self, pred: F64, truth: F64, truth_normals: ArrayLike | None, seed: int, device: Any = None) -> None:
        """`device`: the torch device that pairs are searched on; None for the trees of the CPU."""
        rng = np.random.default_rng(seed)
        body = without_strays(truth)
        self.radius = float(np.linalg.norm(spread(body)))
        self.unit_from_truth = similarity(1 / self.radius, np.eye(3), -body.mean(axis=0) / self.radius)
        rows = _some(len(truth), MAX_POINTS, rng)
        self.pred = pred[_some(len(pred), MAX_POINTS, rng)]
        self.truth = apply(self.unit_from_truth, truth[rows])
        self._given_normals = None if truth_normals is None else np.asarray(truth_normals, np.float64)[rows]
        self._pred_sample = self.pred[_some(len(self.pred), SAMPLES, rng)]
        self._truth_sample = _some(len(self.truth), SAMPLES, rng)
        self._pred_tree, self.truth_tree = cKDTree(self.pred), cKDTree(self.truth)
        self._device = device

    @cached_property
    def normals(self) -> F64:
        """(K, 3) unit normals of `truth`, sign open."""
        return surface_normals(self.truth, self.truth_tree) if self._given_normals is None else self._given_normals

    @cached_property
    def spacing(self) -> float:
        """Median distance of truth's points from their nearest."""
        return _spacing(self.truth_tree, self.truth[self._truth_sample])

    def pairs(self, pose: F64) -> Pairs:
        """The pairs under `pose`."""
        moved = apply(pose, self._pred_sample)
        back = apply(invert(pose), self.truth[self._truth_sample])
        if self._device is None:
            to_truth, partner = self.truth_tree.query(moved)
            to_pred, source = self._pred_tree.query(back)
        else:
            from metrics.kernels.cuda.icp import nearest_rows

            pred, truth = self._on_device
            partner, source = nearest_rows(moved, truth), nearest_rows(back, pred)
            to_truth = np.linalg.norm(moved - self.truth[partner], axis=1)
            to_pred = np.linalg.norm(back - self.pred[source], axis=1)
        return Pairs(
            moved=np.concatenate([moved, apply(pose, self.pred[source])]),
            rows=np.concatenate([partner, self._truth_sample]).astype(np.int32),
            distance=np.concatenate([to_truth, to_pred * scale_of(pose)]),
            forward=len(moved),
        )

    @cached_property
    def _on_device(self) -> tuple[Any, Any]:
        from metrics.kernels.cuda.icp import on

        return on(self._device, self.pred), on(self._device, self.truth)

    def residual(self, pairs: Pairs) -> float:
        """The `residual` of a Stage that ends with these pairs, truth's unit."""
        return self.radius * float(np.median(pairs.distance))

    @cached_property
    def noise(self) -> float:
        """How thick pred's surface is in its better part, pred's unit: the root mean square distance of neighbours
        from their plane. What is thicker than that between the clouds is misfit, not noise."""
        _, rows = self._pred_tree.query(self._pred_sample, k=min(NEIGHBOURS + 1, len(self.pred)))
        variances = np.linalg.eigvalsh(_scatter(self.pred[rows]))[:, 0]
        return float(np.quantile(np.sqrt(np.maximum(variances, 0)), 0.3))

    def matched(self, pose: F64, pairs: Pairs) -> float:
        """The share of pred that has a counterpart in truth, or of truth in pred, whichever is less.

        Near means three times pred's own noise, within bounds, and never nearer than the points' spacing."""
        limit = float(np.clip(3 * self.noise * scale_of(pose), FINE, COARSE))
        spacing = scale_of(pose) * _spacing(self._pred_tree, self._pred_sample)
        to_truth, to_pred = pairs.distance[: pairs.forward], pairs.distance[pairs.forward :]
        return float(
            min((to_truth < max(limit, 1.5 * self.spacing)).mean(), (to_pred < max(limit, 1.5 * spacing)).mean())
        )


def cloud(name: str, points: ArrayLike) -> F64:
    """`points` (M, 3) as float64; AlignmentError naming `name` unless they can be registered."""
    array = enough_points(name, points, MIN_POINTS)
    distance = np.linalg.norm(array - np.median(array, axis=0), axis=1)
    core = array[distance <= np.quantile(distance, 0.9)]  # one point far away makes a line of any cloud
    if all(extent[1] <= 1e-3 * extent[0] for extent in (spread(core), spread(array))):
        raise AlignmentError(f"{name}: the points lie on a line or in one place, a surface wanted")
    return array


def without_strays(points: F64) -> F64:
    """`points` (M, 3) less those ten times as far from the median as nine tenths of them: no object has any, and one
    would decide the unit of length."""
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    return np.asarray(points[distance <= STRAY * np.quantile(distance, 0.9)], np.float64)


def surface_normals(points: F64, tree: cKDTree) -> F64:
    """(M, 3) unit normals of `points` (M, 3), sign open: least principal axis of the nearest 12 in `tree`."""
    _, rows = tree.query(points, k=min(NEIGHBOURS + 1, len(points)))
    return np.ascontiguousarray(np.linalg.eigh(_scatter(points[rows]))[1][:, :, 0])


def _scatter(groups: F64) -> F64:
    """(M, 3, 3) covariances of `groups` (M, k, 3) of points."""
    local = groups - groups.mean(axis=1, keepdims=True)
    return np.asarray(np.swapaxes(local, 1, 2) @ local / groups.shape[1], np.float64)


def _spacing(tree: cKDTree, points: F64) -> float:
    """Median distance of `points` (M, 3), which are in `tree`, from their nearest there."""
    distance, _ = tree.query(points, k=2)
    return float(np.median(np.asarray(distance)[:, 1]))


def _some(count: int, most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """At most `most` of the indices below `count`, at random, in order."""
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
