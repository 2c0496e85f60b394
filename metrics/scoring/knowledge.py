"""Judge where the truth knows: scores against a surface that was measured from photos and has holes.

What a measured truth knows (`Knowledge`) is surface that its neighbourhood bears out, and space that two views saw to
be free. The distance of a predicted point from the real surface then lies between the distance to the nearest place
that may hold surface (its lower bound) and that to the nearest trusted point (its upper bound). A point is right, or
far from any surface, or beside trusted surface yet not on it, or unknown; unknown ones are taken to be right as often
as those beside trusted surface, and the bounds of a score take all of them as wrong and as right.

Constants are shares of the diameter unless said otherwise. `docs/judge.md` has the rule in words and what it reads on
scenes whose exact surface is known. ETH3D (Schops et al., CVPR 2017) carves free space by laser beams and leaves out
what was not observed; DTU (Aanaes et al., IJCV 2016) judges all space that a scan could see, which holes do not allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt

from adapters.contract import F32, F64, Bools, Cameras
from metrics.nearest import nearest
from metrics.scoring.truth import Knowledge, Truth

I64 = NDArray[np.int64]

DOUBT = 0.5  # of the threshold at most: the truth's own error, within which of the threshold nothing is decided
SLACK = 0.0125  # between the bounds at most, for a point in free space to be beside trusted surface
SOLID = 0.025  # the object is taken to be at least so thick behind trusted surface
ABOVE, BELOW = 0.8, 0.95  # cosine: what lies over or under a trusted point, not beside the end of a trusted patch
CROWD, SPARE = 1.0, 0.5  # times the surface that is not known, and that is known: as many unknown points are believed
BESIDE = 2.0  # thresholds: so far over trusted surface, or from it, a point is a poor attempt at it, not another thing
CROSSINGS = 2  # surfaces that a ray through the object meets
MISJUDGED = 0.1  # share of what is judged that the bounds allow to be judged wrongly: trusted points err too
DECIDED_AT = 0.01  # the threshold at which points are told apart where a metric has none
ASTRAY, OUTLINE = 0.05, 3.0  # share of the trusted surface that falls so many pixels off a mask: its camera is wrong
CELL = 0.01  # edge of the cells in which the images are compared with what a cloud covers
COVERING = 40_000  # points whose coverage is looked at


@dataclass(frozen=True)
class _Outline:
    """One view of the object: which cells of its image the mask fills, and which of them show trusted surface."""

    view: int
    cell: int  # pixels
    object: Bools  # (rows, columns)
    known: Bools  # (rows, columns), some of `object`


@dataclass(frozen=True)
class Shares:
    """Precision, recall and F-score at one threshold, with bounds: all that is unknown wrong, and all right."""

    precision: float
    recall: float
    fscore: float
    least: tuple[float, float, float]  # of precision, recall, F-score
    most: tuple[float, float, float]
    judged: float  # share of the predicted points that were


@dataclass(frozen=True)
class Judge:
    """A measured truth made ready to judge; build it once for many predictions."""

    truth: Truth
    surface: F32  # (K, 3) trusted points, cropped and equalised as predictions are
    normals: F32  # (K, 3)
    knowledge: Knowledge
    clear: F32 = field(repr=False)  # (X, Y, Z) distance to the nearest voxel that is not free, in the truth's unit
    outlines: tuple[_Outline, ...] = field(repr=False)
    known: float | None  # share of the object's pixels that show trusted surface; None without masks

    @staticmethod
    def of(truth: Truth, knowledge: Knowledge, rows: I64) -> Judge:
        """The judge of `truth` that asks for its trusted points among `rows`."""
        rows = rows[knowledge.trusted[rows]]
        surface, normals = truth.points[rows], truth.normals[rows]
        clear = (distance_transform_edt(knowledge.free) * knowledge.edge).astype(np.float32)
        outlines = _outlines(truth, surface, normals) if truth.masks is not None else ()
        cells = sum(int(o.object.sum()) for o in outlines)
        known = sum(int(o.known.sum()) for o in outlines) / cells if cells else None
        return Judge(truth, surface, normals, knowledge, clear, outlines, known)

    def evidence(self, points: NDArray[np.floating], seed: int = 0) -> Evidence:
        """What there is to judge `points` (M, 3) by, which are cropped, equalised and in the truth's frame."""
        cloud, unit = np.asarray(points, np.float64), self.truth.diameter
        closest = nearest(cloud, self.surface)
        offset = cloud - self.surface[closest.index]
        height = np.einsum("mi,mi->m", offset, self.normals[closest.index].astype(np.float64))
        grid = self.knowledge
        at = np.clip(np.floor((cloud - grid.low) / grid.edge).astype(np.int64), 0, np.array(grid.free.shape) - 1)
        place = tuple(at.T)
        free = grid.free[place]
        lower = np.where(free, np.maximum(self.clear[place] - 0.5 * grid.edge, 0.0), 0.0)
        some = cloud[np.random.default_rng(seed).permutation(len(cloud))[:COVERING]]
        return Evidence(
            lower=np.minimum(lower, closest.distance) / unit,
            upper=closest.distance / unit,
            height=height / unit,
            free=free,
            reach=np.asarray(nearest(self.surface, cloud).distance, np.float64) / unit,
            covered=self._coverage(some),
            error=grid.error,
            known=self.known,
        )

    def _coverage(self, points: F64) -> tuple[float, float]:
        """Shares of the object's cells with and without trusted surface that `points` (M, 3) fall into or beside."""
        counts = np.zeros((2, 2))
        for outline in self.outlines:
            hit = _cells(self.truth, outline.view, points, outline.cell)
            hit = binary_dilation(hit, np.ones((3, 3), np.bool_))
            for row, where in enumerate((outline.known, outline.object & ~outline.known)):
                counts[row] += where.sum(), (hit & where).sum()
        known, unknown = (float(hit / max(of, 1)) for of, hit in counts)
        return known, unknown


@dataclass(frozen=True)
class Evidence:
    """What a `Judge` knows of one prediction of M points, and of its own K; lengths are shares of the diameter."""

    lower: F64  # (M,) the real surface is no nearer
    upper: F64  # (M,) distance to the nearest trusted point: it is no farther
    height: F64  # (M,) over that point's tangent plane, negative inside
    free: Bools  # (M,) in space known to be free
    reach: F64  # (K,) from each trusted point to the prediction
    covered: tuple[float, float]  # of the object's cells with and without trusted surface
    error: float  # of the trusted points, as expected
    known: float | None  # as in Judge

    def verdicts(self, threshold: float) -> tuple[Bools, Bools, Bools]:
        """(M,) right, (M,) far and (M,) near: what is decided at `threshold`; the rest is unknown.

        Far: no surface can be so near, wherever it is. Near: over trusted surface in free space, or straight under
        it."""
        doubt = min(self.error, DOUBT * threshold)
        right = self.upper <= threshold - doubt
        far = ~right & (self.lower > threshold)
        above = self.free & self.above & (self.upper - self.lower <= SLACK)
        below = ~self.free & (self.height <= -BELOW * self.upper) & (self.upper <= SOLID)
        near = ~right & ~far & (self.upper > threshold + doubt) & (above | below)
        return right, far, near

    def shares(self, threshold: float, rows: I64 | None = None, asked: I64 | None = None) -> Shares:
        """Precision, recall and F-score at `threshold` of the points `rows`, over the trusted points `asked`; of all
        where not given."""
        right, far, near = self.verdicts(threshold)
        doubt = min(self.error, DOUBT * threshold)
        crowded = self._crowded(right | far | near)
        over = far & self.above & (self.upper <= BESIDE * threshold)
        reach = self.reach
        if rows is not None:
            right, far, near, over = right[rows], far[rows], near[rows], over[rows]
        if asked is not None:
            reach = reach[asked]
        rights, fars, nears = float(right.mean()), float(far.mean()), float(near.mean())
        overs = float(over.mean())
        beside = rights + nears + overs
        rate = rights / beside if beside > 0 else 0.0
        # Both tell how much of the unknown is wrong: by what lies beside trusted surface, and by how much there is.
        precision = max(min((1 - fars + overs) * rate, 1 - fars - crowded), 0.0)

        reached, missed = float((reach <= threshold - doubt).mean()), float((reach > threshold + doubt).mean())
        recall = reached / (reached + missed) if reached + missed > 0 else 0.0
        fewest, most = max(reached - MISJUDGED, 0.0), min(1 - missed + MISJUDGED, 1.0)
        if self.known is not None:
            k, (on_known, on_unknown) = self.known, self.covered
            fewest, most = k * fewest, k * most + (1 - k) * on_unknown
            # A ray meets surface going in and coming out: a pixel stays empty where both are missing.
            there = 1 - (1 - (k * on_known + (1 - k) * on_unknown)) ** (1 / CROSSINGS)
            off = float(((reach > threshold + doubt) & (reach <= BESIDE * threshold)).mean())
            estimate = there * reached / (reached + off) if reached + off > 0 else 0.0
            recall = min(max(estimate, k * recall), k * recall + 1 - k, most)
        slip = MISJUDGED * (rights + nears + fars)
        worst, best = max(rights - slip, 0.0), min(1 - fars - nears + slip, 1.0)
        return Shares(
            precision,
            recall,
            _harmonic(precision, recall),
            (worst, fewest, _harmonic(worst, fewest)),
            (best, most, _harmonic(best, most)),
            rights + nears + fars,
        )

    def _crowded(self, decided: Bools) -> float:
        """Share of the points that are unknown, deep, and more than unknown surface can hold: they count as wrong."""
        if not self.known:
            return 0.0
        room = len(self.reach) * (CROWD * (1 - self.known) / self.known + SPARE)
        deep = int((~decided & (self.upper > SOLID)).sum())
        return max(deep - room, 0.0) / len(decided)

    @cached_property
    def above(self) -> Bools:
        """(M,) over the nearest trusted point, not beside the end of its patch."""
        return np.asarray(self.height >= ABOVE * self.upper)

    @cached_property
    def decided(self) -> Bools:
        """(M,) what distances are taken from: what is decided at 1% of the diameter."""
        right, far, near = self.verdicts(DECIDED_AT)
        return right | far | near

    @cached_property
    def certain(self) -> F64:
        """(M,) distance from the surface: over the tangent plane of the nearest trusted point where a point is right,
        to that point where it is near, elsewhere the least possible."""
        right, _, near = self.verdicts(DECIDED_AT)
        return np.where(right, np.abs(self.height), np.where(near, self.upper, self.lower))

    @cached_property
    def distances(self) -> F64:
        """(M,) the same, but for unknown points the mean of those beside trusted surface."""
        right, _, near = self.verdicts(DECIDED_AT)
        beside = right | near
        typical = float(self.certain[beside].mean()) if beside.any() else DECIDED_AT
        return np.where(self.decided, self.certain, typical)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _outlines(truth: Truth, surface: F32, normals: F32) -> tuple[_Outline, ...]:
    """The object in each of the truth's views, on cells about CELL wide where the object stands."""
    masks: Sequence[Bools] = truth.masks or ()
    wrong = astray(truth.cameras, masks, surface)
    outlines = []
    for view, mask in enumerate(masks):
        if wrong[view]:
            continue
        facing = ((truth.cameras.centres[view] - surface) * normals).sum(axis=1) > 0
        depths = truth.cameras.project(view, surface)[1]
        depth = float(np.median(depths[depths > 0])) if (depths > 0).any() else 1.0
        focal = float(truth.cameras.intrinsics[view, 0, 0])
        cell = max(round(CELL * truth.diameter * focal / depth), 1)
        rows, columns = mask.shape[0] // cell, mask.shape[1] // cell
        blocks = mask[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
        whole = np.asarray(blocks.all(axis=(1, 3)), np.bool_)
        outlines.append(_Outline(view, cell, whole, whole & _cells(truth, view, surface[facing], cell)))
    return tuple(outlines)


def astray(cameras: Cameras, masks: Sequence[Bools], surface: F32) -> Bools:
    """(V,) bool: which `cameras` see so much of the trusted `surface` (K, 3) off their masks, V of (H, W), that they
    must be wrong: good ones see less than half a percent of it there."""
    some = surface[:: max(len(surface) // COVERING, 1)]
    wrong = np.zeros(len(masks), np.bool_)
    for view, mask in enumerate(masks):
        pixel, depth = cameras.project(view, some)
        column, row = np.floor(pixel).astype(np.int64).T
        there = (depth > 0) & (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
        away = distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
        wrong[view] = (away[row[there], column[there]] <= OUTLINE).sum() < (1 - ASTRAY) * len(some)
    return wrong


def _cells(truth: Truth, view: int, points: NDArray[np.floating], cell: int) -> Bools:
    """(rows, columns) bool: into which cells of `cell` pixels some of `points` (M, 3) fall."""
    width, height = truth.sizes[view]
    shape = int(height) // cell, int(width) // cell
    pixel, depth = truth.cameras.project(view, points)
    at = np.floor(pixel[depth > 0] / cell).astype(np.int64)
    at = at[((at >= 0) & (at < shape[::-1])).all(axis=1)]
    hit = np.zeros(shape, np.bool_)
    hit[at[:, 1], at[:, 0]] = True
    return hit
