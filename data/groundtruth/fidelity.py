"""How far a measured truth ranks as the exact surface does: graded predictions, scored under both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import kendalltau

from adapters.contract import F64, Bools, Reconstruction
from data.groundtruth.quality import Fidelity
from metrics.scoring.prepared import PreparedTruth, ScoringError
from metrics.scoring.protocol import load_protocol
from metrics.scoring.score import score
from metrics.scoring.truth import Truth

PROTOCOL = "object-v1"
POINTS = 100_000  # of the exact surface that the predictions are made of
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
    found = list(readings(prepared(exact), judge))
    known = judge.judge.known if judge.judge is not None else None
    return Fidelity(
        tau=round(rank_tau(found), 4),
        predictions=len(found),
        perfect_fscore=round(found[0].measured, 4),
        judged=round(found[0].judged, 4),
        known=None if known is None else round(known, 4),
    )


def prepared(truth: Truth) -> PreparedTruth:
    """`truth` made ready for the protocol that fidelity is measured under."""
    return PreparedTruth.of(truth, msgspec.structs.replace(load_protocol(PROTOCOL), emd_draws=0, draws=2))


def readings(exact: PreparedTruth, measured: PreparedTruth, more: Iterable[tuple[str, F64]] = ()) -> Iterator[Reading]:
    """Every graded prediction, the exact surface first, and `more` of them, under both truths."""
    for name, points in (*graded(exact), *more):
        cloud = Reconstruction(points=points.astype(np.float32), frame="world", scale="metric")
        one, other = (
            score(cloud, truth, (), scope="scene", posed=True, brief=True).values for truth in (exact, measured)
        )
        value = other["fscore@1%"]
        yield Reading(
            name,
            one["fscore@1%"].value or 0.0,
            value.value or 0.0,
            (value.least or 0.0, 1.0 if value.most is None else value.most),
            1.0 if value.judged is None else value.judged,
            other["accuracy"].value or 0.0,
        )


def rank_tau(found: list[Reading]) -> float:
    """Kendall's tau between the two rankings."""
    return float(kendalltau([r.exact for r in found], [r.measured for r in found]).statistic)


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
    yield "one view", exact.points[exact.seen[0]].astype(np.float64)
    yield "two views", exact.points[exact.seen[[0, len(exact.seen) // 2]].any(axis=0)].astype(np.float64)
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


def _floating(points: F64, truth: Truth, share: float, seed: int) -> F64:
    """`points` with so many others, uniform in the truth's crop, that they are the `share` of all."""
    low, high = (
        (truth.crop.low, truth.crop.high) if truth.crop else (truth.points.min(axis=0), truth.points.max(axis=0))
    )
    count = round(share / (1 - share) * len(points))
    return np.concatenate([points, np.random.default_rng(seed).uniform(low, high, (count, 3))])


def _displaced(points: F64, normals: F64, share: float, along: tuple[float, float], unit: float) -> F64:
    """A `share` of `points`, moved along their normals by between the two shares `along` of `unit`."""
    rng = np.random.default_rng(11)
    some = rng.permutation(len(points))[: round(share * len(points))]
    return np.asarray(points[some] + normals[some] * rng.uniform(*along, (len(some), 1)) * unit)
