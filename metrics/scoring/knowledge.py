"""Judge where the truth knows: scores against a surface that was measured from photos and has holes.

What a measured truth knows (`Knowledge`) is surface that its neighbourhood bears out, and space that two views saw to
be free. The distance of a predicted point from the real surface then lies between the distance to the nearest place
that may hold surface (its lower bound) and that to the nearest trusted point (its upper bound). A point is right, or
far from any surface, or beside trusted surface yet not on it, or unknown; unknown ones are taken to be right as often
as what lies nearest to them and could be told, and the bounds of a score take all of them as wrong and as right.

Constants are shares of the diameter unless said otherwise. `docs/judge.md` has the rule in words and what it reads on
scenes whose exact surface is known. ETH3D (Schops et al., CVPR 2017) carves free space by laser beams and leaves out
what was not observed; DTU (Aanaes et al., IJCV 2016) judges all space that a scan could see, which holes do not allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

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
LAYER, STEPS = 0.01, 1e6  # surfaces that lie farther apart along a ray are two; to that part of the diameter
MISJUDGED = 0.1  # share of what is judged that the bounds allow to be judged wrongly: trusted points err too
MISTAKEN = 0.02  # share of right points that seem wrong because of them
DECIDED_AT = 0.01  # the threshold at which points are told apart where a metric has none
ASTRAY, OUTLINE = 0.05, 3.0  # share of the trusted surface that falls so many pixels off a mask: its camera is wrong
CELL = 0.01  # edge of the cells in which the images are compared with what a cloud covers
SCRAPS, COVERED = 0.5, 0.75  # share of the object's pixels: less is covered by scraps, from which on empty ones tell
SQUARE = 2  # cells, edge of the squares in which layers of surface are counted
COVERING = 40_000  # points whose coverage is looked at
PROBES, STRATUM = 1_500, 0.03  # unknown points that are looked into, taken evenly from cubes of that edge
NEARBY = 0.005  # share of a prediction's points by which an unknown one is judged: the nearest that were told
SOUGHT = 200_000  # points of a cloud among which these are sought; of more an even part is


@dataclass(frozen=True)
class _Outline:
    """One view of the object: which cells of its image the mask fills, and which of them show trusted surface."""

    view: int
    cell: int  # pixels
    object: Bools  # (rows, columns)
    known: Bools  # (rows, columns), some of `object`
    layers: int  # of what is not free space, see `_layers`


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
    outlines: tuple[_Outline, ...] = field(repr=False)
    known: float | None  # share of the object's pixels that show trusted surface; None without masks

    @staticmethod
    def of(truth: Truth, knowledge: Knowledge, rows: I64) -> Judge:
        """The judge of `truth` that asks for its trusted points among `rows`."""
        rows = rows[knowledge.trusted[rows]]
        surface, normals = truth.points[rows], truth.normals[rows]
        outlines = _outlines(truth, surface, normals, knowledge) if truth.masks is not None else ()
        cells = sum(int(o.object.sum()) for o in outlines)
        known = sum(int(o.known.sum()) for o in outlines) / cells if cells else None
        return Judge(truth, surface, normals, knowledge, outlines, known)

    def evidence(self, points: NDArray[np.floating], seed: int = 0) -> Evidence:
        """What there is to judge `points` (M, 3) by, which are cropped, equalised and in the truth's frame."""
        cloud, unit = np.asarray(points, np.float64), self.truth.diameter
        closest, back = nearest(cloud, self.surface), nearest(self.surface, cloud)
        height = _heights(cloud - self.surface[closest.index], self.normals[closest.index])
        aside = np.abs(_heights(cloud[back.index] - self.surface, self.normals))
        grid = self.knowledge
        at = np.clip(np.floor((cloud - grid.low) / grid.edge).astype(np.int64), 0, np.array(grid.free.shape) - 1)
        place = tuple(at.T)
        free = grid.free[place]
        lower = np.where(free, np.maximum(grid.clear[place] - 0.5 * grid.edge, 0.0), 0.0)
        lower = np.minimum(lower, closest.distance) / unit
        some = np.random.default_rng(seed).permutation(len(cloud))[:COVERING]
        covered, layers = self._coverage(cloud[some[lower[some] <= DECIDED_AT]])
        return Evidence(
            lower=lower,
            upper=closest.distance / unit,
            height=height / unit,
            free=free,
            reach=np.asarray(back.distance, np.float64) / unit,
            aside=aside / unit,
            covered=covered,
            layers=layers,
            error=grid.error,
            known=self.known,
            cloud=cloud / unit,
        )

    def _coverage(self, points: F64) -> tuple[tuple[float, float], float]:
        """Shares of the object's cells with and without trusted surface that `points` (M, 3) fall into or beside, and
        how many layers of surface they make along the views' rays, as a share of those of what is not free."""
        counts, layers = np.zeros((2, 2)), 0
        for outline in self.outlines:
            at, depth = _places(self.truth, outline.view, points, outline.cell)
            hit = binary_dilation(_marked(at, outline.object.shape), np.ones((3, 3), np.bool_))
            for row, where in enumerate((outline.known, outline.object & ~outline.known)):
                counts[row] += where.sum(), (hit & where).sum()
            layers += min(_layers(at, depth, outline.object, self.truth.diameter), outline.layers)
        known, unknown = (float(hit / max(of, 1)) for of, hit in counts)
        return (known, unknown), layers / max(sum(outline.layers for outline in self.outlines), 1)


@dataclass(frozen=True)
class _Told:
    """What is decided at one threshold of the M points, and how likely one is right of which nothing is."""

    right: Bools
    far: Bools
    near: Bools
    chance: float


@dataclass(frozen=True)
class Evidence:
    """What a `Judge` knows of one prediction of M points, and of its own K; lengths are shares of the diameter."""

    lower: F64  # (M,) the real surface is no nearer
    upper: F64  # (M,) distance to the nearest trusted point: it is no farther
    height: F64  # (M,) over that point's tangent plane, negative inside
    free: Bools  # (M,) in space known to be free
    reach: F64  # (K,) from each trusted point to the prediction
    aside: F64  # (K,) how far the nearest predicted point lies off its tangent plane
    covered: tuple[float, float]  # of the object's cells with and without trusted surface
    layers: float  # share of the layers of surface that the views' rays meet
    error: float  # of the trusted points, as expected
    known: float | None  # as in Judge
    cloud: F64 = field(repr=False)  # (M, 3) the prediction, its unit the diameter
    _told: dict[float, _Told] = field(default_factory=dict, repr=False, compare=False)

    def verdicts(self, threshold: float) -> tuple[Bools, Bools, Bools]:
        """(M,) right, (M,) far and (M,) near: what is decided at `threshold`; the rest is unknown.

        Far: no surface can be so near, wherever it is. Near: over trusted surface in free space, or straight under
        it."""
        told = self._at(threshold)
        return told.right, told.far, told.near

    def shares(self, threshold: float, rows: I64 | None = None, asked: I64 | None = None) -> Shares:
        """Precision, recall and F-score at `threshold` of the points `rows`, over the trusted points `asked`; of all
        where not given."""
        told = self._at(threshold)
        right, far, near, reach, aside = told.right, told.far, told.near, self.reach, self.aside
        doubt = min(self.error, DOUBT * threshold)
        crowded = self._crowded(right | far | near)
        if rows is not None:
            right, far, near = right[rows], far[rows], near[rows]
        if asked is not None:
            reach, aside = reach[asked], aside[asked]
        rights, fars, nears = float(right.mean()), float(far.mean()), float(near.mean())
        judged = rights + nears + fars
        worst, best = max(rights - MISJUDGED * judged, 0.0), min(1 - fars - nears + MISJUDGED * judged, 1.0)
        # Both tell how much of the unknown is wrong: what lies nearest to it, and how much of it there is.
        likely = (rights + (1 - judged) * told.chance) / (1 - MISTAKEN)
        precision = max(min(likely, 1 - fars - crowded, best), 0.0)

        reached, missed = float((reach <= threshold - doubt).mean()), float((reach > threshold + doubt).mean())
        recall = reached / (reached + missed) if reached + missed > 0 else 0.0
        fewest, most = max(reached - MISJUDGED, 0.0), min(1 - missed + MISJUDGED, 1.0)
        if self.known is not None:
            k = self.known
            fewest, most = k * fewest, k * most + (1 - k) * self.covered[1]
            displaced = (reach > threshold + doubt) & (reach <= BESIDE * threshold) & (aside >= ABOVE * reach)
            off = float(displaced.mean())
            estimate = self.there * reached / (reached + off) if reached + off > 0 else 0.0
            recall = min(max(estimate, k * recall), k * recall + 1 - k, most)
        return Shares(
            precision,
            recall,
            _harmonic(precision, recall),
            (worst, fewest, _harmonic(worst, fewest)),
            (best, most, _harmonic(best, most)),
            judged,
        )

    def _at(self, threshold: float) -> _Told:
        """What is decided at `threshold`; worked out once."""
        if threshold not in self._told:
            right, far, near, beside = self._decide(threshold)
            rows = self._neighbours
            told = int(beside[rows].sum())
            self._told[threshold] = _Told(right, far, near, float(right[rows].sum()) / told if told else 0.0)
        return self._told[threshold]

    def _decide(self, threshold: float) -> tuple[Bools, Bools, Bools, Bools]:
        """(M,) right, far and near as in `verdicts`, and (M,) what of them lies beside trusted surface."""
        doubt = min(self.error, DOUBT * threshold)
        right = self.upper <= threshold - doubt
        far = ~right & (self.lower > threshold)
        above = self.free & self.above & (self.upper - self.lower <= SLACK)
        below = ~self.free & (self.height <= -BELOW * self.upper) & (self.upper <= SOLID)
        near = ~right & ~far & (self.upper > threshold + doubt) & (above | below)
        return right, far, near, right | near | far & self.above & (self.upper <= BESIDE * threshold)

    @cached_property
    def _neighbours(self) -> I64:
        """(P, N) rows of the points beside trusted surface that lie nearest to P unknown ones, which these are judged
        by, since what is wrong of a reconstruction is wrong in patches."""
        right, far, near, beside = self._decide(DECIDED_AT)
        told, unknown = np.flatnonzero(beside), np.flatnonzero(~(right | far | near))
        if not len(told) or not len(unknown):
            return told[None]
        # Evenly from cube to cube, which leaves a tenth of what chance would do to the result.
        cube = np.floor(self.cloud[unknown] / STRATUM).astype(np.int64)
        order = np.lexsort(cube.T)
        probes = unknown[order[np.linspace(0, len(order) - 1, min(PROBES, len(order))).astype(np.int64)]]
        step = max(len(self.cloud) // SOUGHT, 1)
        told = told[::step]
        count = min(math.ceil(NEARBY * len(self.cloud) / step), len(told))
        rows = cKDTree(self.cloud[told]).query(self.cloud[probes], k=count)[1]
        return np.asarray(told[np.asarray(rows).reshape(len(probes), count)], np.int64)

    def _crowded(self, decided: Bools) -> float:
        """Share of the points that are unknown, deep, and more than unknown surface can hold: they count as wrong."""
        if not self.known:
            return 0.0
        room = len(self.reach) * (CROWD * (1 - self.known) / self.known + SPARE)
        deep = int((~decided & (self.upper > SOLID)).sum())
        return max(deep - room, 0.0) / len(decided)

    @cached_property
    def there(self) -> float:
        """Share of the object's surface that the prediction has at all, wherever it lies: by pixels that stay empty,
        or by layers of surface, whichever shows more. A ray meets surface going in and coming out, so a pixel is empty
        where both are missing; but thin parts lose both together. Layers are counted, but noise makes thin ones one.
        Scraps cover more pixels than surface: of a cloud that covers few, layers alone tell."""
        k, (on_known, on_unknown) = self.known or 0.0, self.covered
        covered = k * on_known + (1 - k) * on_unknown
        either = max(1 - math.sqrt(max(1 - covered, 0.0)), self.layers)
        trust = min(max((covered - SCRAPS) / (COVERED - SCRAPS), 0.0), 1.0)
        return trust * either + (1 - trust) * self.layers

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


def _heights(offsets: NDArray[np.floating], normals: F32) -> F64:
    """(M,) components of `offsets` (M, 3) along unit `normals` (M, 3)."""
    return np.asarray(np.einsum("mi,mi->m", offsets, normals.astype(np.float64)))


def _outlines(truth: Truth, surface: F32, normals: F32, knowledge: Knowledge) -> tuple[_Outline, ...]:
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
        whole = _filled(mask, cell)
        known = whole & _marked(_places(truth, view, surface[facing], cell)[0], whole.shape)
        layers = _layers(*_places(truth, view, knowledge.hull, cell), whole, truth.diameter)
        outlines.append(_Outline(view, cell, whole, known, layers))
    return tuple(outlines)


def astray(cameras: Cameras, masks: Sequence[Bools], surface: F32) -> Bools:
    """(V,) bool: which `cameras` see so much of the trusted `surface` (K, 3) off their masks, V of (H, W), that they
    must be wrong: good ones see less than half a percent of it there."""
    some = surface[:: max(len(surface) // COVERING, 1)]
    wrong = np.zeros(len(masks), np.bool_)
    around = np.arange(-int(OUTLINE), int(OUTLINE) + 1)
    disc = np.hypot(around[:, None], around) <= OUTLINE
    for view, mask in enumerate(masks):
        pixel, depth = cameras.project(view, some)
        column, row = np.floor(pixel).astype(np.int64).T
        there = (depth > 0) & (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
        beside = binary_dilation(mask, disc)
        wrong[view] = beside[row[there], column[there]].sum() < (1 - ASTRAY) * len(some)
    return wrong


def _places(truth: Truth, view: int, points: NDArray[np.floating], cell: int) -> tuple[I64, F64]:
    """Where `points` (M, 3) fall into whole cells of `cell` pixels: row and column (N, 2), and depth (N,)."""
    pixel, depth = truth.cameras.project(view, points)
    front = depth > 0
    at = np.floor(pixel[front][:, ::-1] / cell).astype(np.int64)
    inside = ((at >= 0) & (at < truth.sizes[view][::-1] // cell)).all(axis=1)
    return at[inside], depth[front][inside]


def _marked(at: I64, shape: tuple[int, ...]) -> Bools:
    """(rows, columns) bool: true at the places `at` (N, 2)."""
    marked = np.zeros(shape, np.bool_)
    marked[at[:, 0], at[:, 1]] = True
    return marked


def _filled(mask: Bools, edge: int) -> Bools:
    """Which squares of `edge` by `edge` are true throughout `mask` (H, W): (H // edge, W // edge)."""
    rows, columns = mask.shape[0] // edge, mask.shape[1] // edge
    squares = mask[: rows * edge, : columns * edge].reshape(rows, edge, columns, edge)
    return np.asarray(squares.all(axis=(1, 3)), np.bool_)


def _layers(at: I64, depth: F64, cells: Bools, unit: float) -> int:
    """How many layers of surface points at cells `at` (N, 2) and `depth` (N,) make, summed over the squares of the
    object's `cells`: in each as many as there are gaps along its rays, and one."""
    squares = _filled(cells, SQUARE)
    row, column = (at // SQUARE).T
    inside = (row < squares.shape[0]) & (column < squares.shape[1])
    inside[inside] = squares[row[inside], column[inside]]
    square, height = (row * squares.shape[1] + column)[inside], depth[inside] / unit * STEPS
    # One key sorts by square, then by depth; two of one square differ by their depths alone.
    key = np.sort((square << 40) + height.astype(np.int64))
    return len(key) - int((np.diff(key) <= LAYER * STEPS).sum())
