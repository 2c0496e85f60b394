"""How far a measured truth ranks as the exact surface does: graded predictions, scored under both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree
from scipy.stats import kendalltau

from adapters.contract import F64, Bools, Reconstruction
from data.groundtruth.quality import Fidelity
from metrics.scoring.prepared import PreparedTruth, ScoringError
from metrics.scoring.protocol import load_protocol
from metrics.scoring.score import Value, score
from metrics.scoring.truth import Truth

PROTOCOL = "object-v1"
POINTS = 100_000  # of the exact surface that the predictions are made of
HULL_EDGE = 0.0075  # share of the diameter, of a voxel of the visual hulls
PATCHES = 60  # into which the surface is cut before some are taken away


@dataclass(frozen=True)
class Reading:
    """One graded prediction's F-score at 1%."""

    name: str
    exact: float  # under the exact truth
    measured: float  # under the measured one
    possible: tuple[float, float]  # its bounds
    judged: float  # share of its points that the measured truth could judge
    accuracy: float  # % of the diameter, under the measured truth


def rank_fidelity(exact: Truth, measured: Truth) -> Fidelity | None:
    """The fidelity of `measured`, in the frame of `exact`; None where it cannot judge at all."""
    try:
        judge = prepared(measured)
    except ScoringError:
        return None
    surface = prepared(exact)
    readings = [reading(name, points, surface, judge) for name, points in graded(surface)]
    known = judge.judge.known if judge.judge is not None else None
    return Fidelity(
        tau=round(rank_tau(readings), 4),
        predictions=len(readings),
        perfect_fscore=round(readings[0].measured, 4),
        judged=round(readings[0].judged, 4),
        known=None if known is None else round(known, 4),
    )


def prepared(truth: Truth) -> PreparedTruth:
    """`truth` made ready for the protocol that fidelity is measured under."""
    return PreparedTruth.of(truth, msgspec.structs.replace(load_protocol(PROTOCOL), emd_draws=0, draws=2))


def reading(name: str, points: F64, exact: PreparedTruth, measured: PreparedTruth) -> Reading:
    """What a cloud (M, 3) in the truths' frame reads under both."""
    under_exact, under_measured = scored(points, exact)["fscore@1%"], scored(points, measured)
    value = under_measured["fscore@1%"]
    return Reading(
        name,
        under_exact.value or 0.0,
        value.value or 0.0,
        (value.least or 0.0, 1.0 if value.most is None else value.most),
        1.0 if value.judged is None else value.judged,
        under_measured["accuracy"].value or 0.0,
    )


def scored(points: F64, truth: PreparedTruth) -> dict[str, Value]:
    """The scores of a cloud (M, 3) in the truth's frame."""
    cloud = Reconstruction(points=points.astype(np.float32), frame="world", scale="metric")
    return score(cloud, truth, (), scope="scene", posed=True, brief=True).values


def rank_tau(readings: list[Reading]) -> float:
    """Kendall's tau between the two rankings."""
    return float(kendalltau([r.exact for r in readings], [r.measured for r in readings]).statistic)


def graded(exact: PreparedTruth) -> Iterator[tuple[str, F64]]:
    """The exact surface itself, then spoilt in known ways: names and points (M, 3) in its frame."""
    truth = exact.truth
    rng = np.random.default_rng(0)
    some = rng.permutation(len(truth.points))[:POINTS]
    p, n, unit = truth.points[some].astype(np.float64), truth.normals[some].astype(np.float64), truth.diameter
    yield "exact surface", p
    for percent in (0.25, 0.5, 1, 2):
        yield f"noise {percent:g}%", p + n * rng.normal(0, percent / 100 * unit, (len(p), 1))
    for percent in (10, 30, 50):
        yield f"missing {percent}%", p[_patches(p, percent / 100, percent)]
    for percent in (5, 30):
        yield f"floaters {percent}%", _floating(p, truth, percent / 100, percent)
    places = p[np.random.default_rng(4).choice(len(p), 4, replace=False)]
    bump = np.exp(-0.5 * (np.linalg.norm(p[:, None] - places, axis=2) / (0.12 * unit)) ** 2).max(axis=1)
    yield "bulge 3%", p + n * (0.03 * unit * bump)[:, None]
    middle = (p.min(axis=0) + p.max(axis=0)) / 2
    yield "scale 2%", middle + 1.02 * (p - middle)
    yield "grown 1.5%", p + 0.015 * unit * n
    yield "shrunk 1.5%", p - 0.015 * unit * n
    yield "flying 20%", np.concatenate([p, _displaced(p, n, 0.25, (0.02, 0.08), unit)])
    yield "inner 30%", np.concatenate([p, _displaced(p, n, 0.43, (-0.1, -0.015), unit)])
    yield "one view", exact.points[exact.visibility[0]].astype(np.float64)
    yield "two views", exact.points[exact.visibility[[0, len(exact.visibility) // 2]].any(axis=0)].astype(np.float64)
    if truth.masks is not None:
        for count in (8, 24):
            yield f"hull of {count} views", _hull(truth, count)
    part = p[_patches(p, 0.2, 77)]
    part = part + np.random.default_rng(5).normal(0, 0.005 * unit, part.shape)
    yield "mixture", _floating(part, truth, 0.1, 9)


def _patches(points: F64, share: float, seed: int) -> Bools:
    """(M,) which of `points` stay when patches that hold the `share` of them are cut out."""
    rng = np.random.default_rng(seed)
    _, cell = cKDTree(points[rng.choice(len(points), PATCHES, replace=False)]).query(points)
    order = rng.permutation(PATCHES)
    held = np.cumsum(np.bincount(cell, minlength=PATCHES)[order])
    return np.asarray(~np.isin(cell, order[: np.searchsorted(held, share * len(points)) + 1]))


def _hull(truth: Truth, count: int) -> F64:
    """(M, 3) the outermost voxels of what the masks of `count` views, spread over the truth's, leave."""
    low, high = _extent(truth)
    edge = HULL_EDGE * truth.diameter
    solid = np.ones(np.ceil((high - low) / edge).astype(np.int64), np.bool_)
    centres = low + edge * (np.argwhere(solid) + 0.5)
    for view in np.unique(np.linspace(0, len(truth.cameras), count, endpoint=False).astype(np.int64)):
        left = np.flatnonzero(solid.ravel())
        pixel, _ = truth.cameras.project(view, centres[left])
        column, row = np.clip(np.floor(pixel).astype(np.int64), 0, truth.sizes[view] - 1).T
        solid.ravel()[left[~(truth.masks or ())[view][row, column]]] = False
    return centres[(solid & ~binary_erosion(solid)).ravel()]


def _extent(truth: Truth) -> tuple[F64, F64]:
    """The corners of the truth's crop, or of its points."""
    if truth.crop is not None:
        return np.array(truth.crop.low), np.array(truth.crop.high)
    return truth.points.min(axis=0).astype(np.float64), truth.points.max(axis=0).astype(np.float64)


def _floating(points: F64, truth: Truth, share: float, seed: int) -> F64:
    """`points` with so many others, uniform in the truth's crop, that they are the `share` of all."""
    low, high = _extent(truth)
    count = round(share / (1 - share) * len(points))
    return np.concatenate([points, np.random.default_rng(seed).uniform(low, high, (count, 3))])


def _displaced(points: F64, normals: F64, share: float, along: tuple[float, float], unit: float) -> F64:
    """A `share` of `points`, moved along their normals by between the two shares `along` of `unit`."""
    rng = np.random.default_rng(11)
    some = rng.permutation(len(points))[: round(share * len(points))]
    return np.asarray(points[some] + normals[some] * rng.uniform(*along, (len(some), 1)) * unit)
