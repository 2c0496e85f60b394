"""Global search for the similarity between two clouds, from any start.

One score guides the search: the mean Geman-McClure weight t^2 / (t^2 + d^2) of nearest-neighbour distances, averaged
over both directions. (Pred to truth alone rewards shrinking onto a dense spot, truth to pred alone swelling.) Both
clouds are brought to radius 1, then many starts pass through ever finer, ever costlier refinement while only the
best and distinct ones survive:

1. Starts: rotations spread over SO(3) times scales, refined point to point with a wide kernel, then point to plane.
2. Variants: the leaders rescaled about their centre and the corners of their box, and shifted along the axes. Partial
   overlap hides in local minima of joint scale and translation that no descent leaves.
3. Symmetric poses: the best one turned about truth's centre by many rotations, as a symmetric shape would allow.
4. Where the winner leaves more than a tenth of either cloud unexplained, all of it again with more starts, among them
   ones whose centre is off: the centroid of half an object is some .6 radii from that of the whole.
5. The leaders are ranked at a kernel width fitted to the noise, with three quarters of the weight on pred to truth:
   what pred lacks is no evidence against a pose, and a wrong one that happens to cover the missing half must not win.

Deterministic for a seed; single-threaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from adapters.contract import F64, I32
from metrics.kernels.cpu.icp import Grid, fill_cells, pair_up, refine
from metrics.register.stages import MIN_POINTS, cloud, surface_normals, without_strays
from metrics.similarity import apply, invert, rotation_angle, similarity, spread

MAX_POINTS = 10_000  # points of either cloud the search works on
OUTLIER_RATIO = 2.5  # points whose neighbours are farther than this many medians are removed from pred
VOXELS = 56
NEIGHBOURS = 8
EXPLAINED = 0.9  # share of either cloud below which the search goes on
COARSE_SCALES = (0.72, 0.92, 1.18)  # relative to the ratio of the radii
FINE_SCALES = (0.62, 0.78, 0.98, 1.23)
OFF_CENTRE_SCALES = (0.7, 0.88)
OFF_CENTRE = 0.6  # radii
PRED_SHARE = 0.75  # weight of pred to truth in the final ranking
AMBIGUOUS_MARGIN = 0.012
AMBIGUOUS_Z = 2.0  # standard errors by which the winner must lead the runner-up


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search."""

    target_from_source: F64  # (4, 4), truth from pred
    margin: float  # lead over the best clearly different pose, relative to the score
    ambiguous: bool  # the lead is too small to mean anything


@dataclass(frozen=True)
class Pool:
    """Candidate poses and what they cost; lower is better."""

    cost: F64  # (K,)
    pose: F64  # (K, 4, 4)

    def take(self, rows: NDArray[np.intp] | list[int]) -> Pool:
        return Pool(self.cost[rows], self.pose[rows])

    def best(self, count: int) -> Pool:
        """The `count` cheapest, in order."""
        return self.take(np.argsort(self.cost, kind="stable")[:count])

    def half(self) -> Pool:
        return self.best(len(self.cost) // 2)

    def distinct(self, count: int, apart: float) -> Pool:
        """The `count` cheapest of which no two move the cloud alike: root mean square displacement above `apart`."""
        flat = np.concatenate([self.pose[:, :3, :3].reshape(-1, 9) / np.sqrt(3), self.pose[:, :3, 3]], axis=1)
        scale = np.sqrt((self.pose[:, :3, :3] ** 2).sum(axis=(1, 2)) / 3)
        keep: list[int] = []
        for i in np.argsort(self.cost, kind="stable"):
            if keep and (((flat[keep] - flat[i]) ** 2).sum(axis=1) < (apart * scale[i]) ** 2).any():
                continue
            keep.append(int(i))
            if len(keep) == count:
                break
        return self.take(keep)

    def __add__(self, other: Pool) -> Pool:
        return Pool(np.concatenate([self.cost, other.cost]), np.concatenate([self.pose, other.pose]))


def search(pred: F64, truth: F64, seed: int = 0, device: Any = None, up: tuple[F64, F64] | None = None) -> SearchResult:
    """The similarity that best brings `pred` (M, 3) onto `truth` (K, 3); see this module's docstring.

    `device`: the torch device that refines, or None for the CPU. `up`, where up is in pred's frame and in truth's, each
    (3,): pred is then turned about it alone, and its up lies on truth's.

    Raises AlignmentError where a cloud has fewer than 50 distinct points or lies on a line."""
    if up is not None:
        pred_upright, truth_upright = (_upright(direction) for direction in up)
        upright = _search(apply(pred_upright, pred), apply(truth_upright, truth), seed, device, True)
        back = invert(truth_upright) @ upright.target_from_source @ pred_upright
        return replace(upright, target_from_source=back)
    return _search(pred, truth, seed, device, False)


def _upright(up: F64) -> F64:
    """(4, 4): a rotation that brings the direction `up` (3,) to z."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.align_vectors([[0.0, 0.0, 1.0]], [up])[0].as_matrix()
    return pose


def _search(pred: F64, truth: F64, seed: int, device: Any, upright: bool) -> SearchResult:
    """`search`; `upright`: about z alone."""
    rng = np.random.default_rng(seed)
    source, target = _usable("pred", pred, rng), _usable("truth", without_strays(truth), rng)
    spacing = np.asarray(cKDTree(source).query(source, k=min(9, len(source)))[0])[:, 1:].mean(axis=1)
    inliers = source[spacing <= OUTLIER_RATIO * np.median(spacing)]
    source = inliers if len(inliers) >= MIN_POINTS else source
    unit_pred, unit_truth = _to_unit(source), _to_unit(target)
    searcher = _PoseSearch(apply(unit_pred, source), apply(unit_truth, target), rng, device, upright)
    pool = searcher.sharpen(searcher.starts(300, COARSE_SCALES), 60, 5)
    if min(searcher.explained(pool)) < EXPLAINED:
        more = searcher.starts(700, FINE_SCALES) + searcher.off_centre_starts(450, 1500)
        pool = pool + searcher.sharpen(more, 90, 8)
    final = searcher.finish(pool + searcher.symmetric_poses(pool))
    margin, z = final.lead()
    return SearchResult(
        target_from_source=invert(unit_truth) @ final.pose[0] @ unit_pred,
        margin=margin,
        ambiguous=margin < AMBIGUOUS_MARGIN or z < AMBIGUOUS_Z,
    )


@dataclass(frozen=True)
class _Final:
    """The sharpened leaders, best first, and the weights that they are ranked by."""

    pose: F64  # (K, 4, 4)
    to_truth: F64  # (K, A) kernel weights of pred's samples
    to_pred: F64  # (K, B) of truth's

    def lead(self) -> tuple[float, float]:
        """How far the winner leads the best pose more than 15 degrees or a quarter radius from it: the margin relative
        to its score, and in standard errors. (1, inf) where there is no such pose."""
        scale = np.sqrt((self.pose[:, :3, :3] ** 2).sum(axis=(1, 2)) / 3)
        rotation = self.pose[:, :3, :3] / scale[:, None, None]
        shift = np.linalg.norm(self.pose[:, :3, 3] - self.pose[0, :3, 3], axis=1) / scale[0]
        other = (rotation_angle(rotation @ rotation[0].T) > 15) | (np.hypot(scale / scale[0] - 1, shift) > 0.25)
        if not other.any():
            return 1.0, np.inf
        rival = int(np.argmax(other))
        to_truth, to_pred = self.to_truth[0] - self.to_truth[rival], self.to_pred[0] - self.to_pred[rival]
        lead = _balanced(to_truth.mean(), to_pred.mean())
        error = np.hypot(
            PRED_SHARE * to_truth.std() / np.sqrt(len(to_truth)),
            (1 - PRED_SHARE) * to_pred.std() / np.sqrt(len(to_pred)),
        )
        return lead / _balanced(self.to_truth[0].mean(), self.to_pred[0].mean()), lead / (float(error) + 1e-12)


def _balanced(to_truth: float, to_pred: float) -> float:
    """The score from the mean weights of either direction."""
    return float(PRED_SHARE * to_truth + (1 - PRED_SHARE) * to_pred)


class _PoseSearch:
    """The search's steps on two clouds of radius 1 about their centroids."""

    def __init__(
        self, pred: F64, truth: F64, rng: np.random.Generator, device: Any = None, upright: bool = False
    ) -> None:
        self.rng = rng
        self._upright = upright
        self.pred, self.pred_spacing = _grid(pred)
        self.truth, truth_spacing = _grid(truth)
        self.normals = surface_normals(truth, cKDTree(truth))
        self.floor = 1.5 * max(self.pred_spacing, truth_spacing)
        self._device = device

    def _samples(self, count: int) -> tuple[F64, I32]:
        """Some of pred's points and rows of truth's, kept in spatial order: memory is then read in order."""
        pred = np.sort(self.rng.permutation(len(self.pred.points))[:count])
        truth = np.sort(self.rng.permutation(len(self.truth.points))[:count])
        return np.ascontiguousarray(self.pred.points[pred]), truth.astype(np.int32)

    def _refine(
        self, pool: Pool, samples: int, steps: int, wide: float, narrow: float, hops: int = 0, share: float = 0.3
    ) -> Pool:
        """Refine every pose; kernel widths are never finer than the spacing of the points allows."""
        wide, narrow = max(wide, self.floor), max(narrow, self.floor)
        pose = np.ascontiguousarray(pool.pose)
        a, b = self._samples(samples)
        return Pool(*self._refined(pose, a, b, steps, wide, narrow, hops, share))

    def _refined(
        self, poses: F64, pred: F64, truth_rows: I32, steps: int, wide: float, narrow: float, hops: int, share: float
    ) -> tuple[F64, F64]:
        """Costs and poses refined from samples; on a device neighbours are exact, and `hops` means nothing.

        Poses that must stay upright are set so after every other step, and their costs are those of the last."""
        if self._upright:
            rounds = max(1, (steps + 1) // 2)
            widths = np.geomspace(wide, narrow, rounds + 1)
            for start, end in pairwise(widths):
                _, poses = self._free(poses, pred, truth_rows, 2, float(start), float(end), hops, share)
                poses = about_z(poses)
            costs, _ = self._free(poses, pred, truth_rows, 0, narrow, narrow, hops, share)
            return costs, poses
        return self._free(poses, pred, truth_rows, steps, wide, narrow, hops, share)

    def _free(
        self, poses: F64, pred: F64, truth_rows: I32, steps: int, wide: float, narrow: float, hops: int, share: float
    ) -> tuple[F64, F64]:
        """The kernel's refinement, free to turn about any axis."""
        if self._device is None:
            clouds = self.pred, self.truth, self.normals
            result: tuple[F64, F64] = refine(poses, pred, truth_rows, *clouds, steps, wide, narrow, hops, share)
            return result
        from metrics.kernels.cuda import icp

        return icp.refine(poses, pred, truth_rows, *self._on_device, steps, wide, narrow, share)

    @cached_property
    def _on_device(self) -> tuple[Any, Any, Any]:
        from metrics.kernels.cuda.icp import on

        clouds = self.pred.points, self.truth.points, self.normals
        return on(self._device, clouds[0]), on(self._device, clouds[1]), on(self._device, clouds[2])

    def _turns(self, count: int) -> F64:
        """(count, 3, 3) rotations spread evenly: over all, or about z."""
        if not self._upright:
            return even_rotations(count)
        return np.asarray(Rotation.from_euler("z", 2 * np.pi * np.arange(count)[:, None] / count).as_matrix())

    def _random_turn(self) -> F64:
        """(3, 3): a rotation drawn at random, about z where all must be."""
        drawn = Rotation.random(random_state=int(self.rng.integers(1 << 30)))
        return np.asarray(drawn.as_matrix()) if not self._upright else np.eye(3)

    def starts(self, rotations: int, scales: tuple[float, ...]) -> Pool:
        """Every scale with evenly spread rotations, centroid on centroid."""
        turn = self._turns(rotations) @ self._random_turn()
        pose = np.tile(np.eye(4), (len(scales) * rotations, 1, 1))
        pose[:, :3, :3] = (np.array(scales)[:, None, None, None] * turn).reshape(-1, 3, 3)
        return Pool(np.zeros(len(pose)), pose)

    def off_centre_starts(self, rotations: int, keep: int) -> Pool:
        """Starts with pred's centroid moved towards the faces and corners of a cube, screened with a small sample."""
        base = self.starts(rotations, OFF_CENTRE_SCALES).pose
        grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        directions = grid[np.isin(np.abs(grid).sum(axis=1), (1, 3))].astype(np.float64)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        directions = OFF_CENTRE * directions @ Rotation.random(random_state=int(self.rng.integers(1 << 30))).as_matrix()
        pose = np.repeat(base, len(directions), axis=0)
        pose[:, :3, 3] = np.tile(directions, (len(base), 1))
        return self._refine(Pool(np.zeros(len(pose)), pose), 60, 3, 0.5, 0.35, share=1).best(keep)

    def sharpen(self, pool: Pool, basins: int, leaders: int) -> Pool:
        """From raw starts to sharp, distinct poses."""
        pool = self._refine(pool, 100, 3, 0.5, 0.4, share=1).half()
        pool = self._refine(pool, 150, 4, 0.4, 0.28, share=1).half()
        pool = self._refine(pool, 200, 8, 0.28, 0.15, share=1)
        pool = self._refine(pool.distinct(basins, 0.17), 500, 15, 0.2, 0.07)
        poses = np.concatenate([self._variants(pose) for pose in pool.distinct(leaders, 0.12).pose])
        variants = self._refine(Pool(np.zeros(len(poses)), poses), 250, 8, 0.15, 0.07)
        pool = pool.distinct(32, 0.06) + variants.distinct(32, 0.06)
        return self._refine(pool.distinct(40, 0.06), 800, 6, 0.1, 0.05, 3)

    def _variants(self, pose: F64) -> F64:
        """(42, 4, 4): `pose` rescaled about pred's centre and the corners of its box, and shifted along its axes."""
        low, high = np.quantile(self.pred.points, (0.02, 0.98), axis=0)
        corners = [np.where([b & 1, b & 2, b & 4], low, high) for b in range(8)]
        out = [
            pose @ similarity(factor, np.eye(3), (1 - factor) * anchor)
            for anchor in (np.zeros(3), *corners)
            for factor in (0.8, 0.9, 1.1, 1.25)
        ]
        out += [pose @ similarity(1, np.eye(3), 0.3 * axis) for axis in np.concatenate([np.eye(3), -np.eye(3)])]
        return np.stack(out)

    def symmetric_poses(self, pool: Pool) -> Pool:
        """The winner of `pool` turned about truth's centroid, refined: the poses a symmetry would make as good."""
        pose = np.tile(pool.best(1).pose, (300, 1, 1))
        turn = np.tile(np.eye(4), (300, 1, 1))
        turn[:, :3, :3] = self._turns(300)
        turned = self._refine(Pool(np.zeros(300), turn @ pose), 150, 5, 0.3, 0.15, share=1).half()
        turned = self._refine(turned, 150, 3, 0.15, 0.1)
        return self._refine(turned.distinct(30, 0.17), 800, 8, 0.12, 0.05, 3)

    def finish(self, pool: Pool) -> _Final:
        """Sharpen the leaders, and others far from them, with a kernel fitted to the noise."""
        pool = self._refine(pool.distinct(9, 0.05) + pool.distinct(5, 0.3), 1000, 6, 0.08, 0.05, 6, 0.1)
        pred, truth_rows = self._samples(2500)
        width = self._width(pool, pred, truth_rows)
        near, far = pool.distinct(4, 0.05).pose, pool.distinct(5, 0.3).pose[1:]  # the winner would be in both
        leaders = np.concatenate([near, far])
        _, pose = self._refined(leaders, pred, truth_rows, 10, max(0.08, width), width, 6, 0.1)
        weights = [[1 / (1 + (d / width) ** 2) for d in self._distances(p, pred, truth_rows)] for p in pose]
        to_truth, to_pred = (np.stack([pair[side] for pair in weights]) for side in (0, 1))
        order = np.argsort(
            -(PRED_SHARE * to_truth.mean(axis=1) + (1 - PRED_SHARE) * to_pred.mean(axis=1)), kind="stable"
        )
        return _Final(pose[order], to_truth[order], to_pred[order])

    def explained(self, pool: Pool) -> tuple[float, float]:
        """Shares of pred and of truth that have a counterpart under the best of `pool`, once that is sharpened."""
        best = self._refine(pool.best(2), 1000, 6, 0.08, 0.05, 6, 0.1).best(1)
        samples = self._samples(2500)
        limit = 2.5 * self._width(best, *samples)
        to_truth, to_pred = self._distances(best.pose[0], *samples)
        return float((to_truth < limit).mean()), float((to_pred < limit).mean())

    def _width(self, pool: Pool, pred: F64, truth_rows: I32) -> float:
        """The kernel width that fits the noise left under the best of `pool`."""
        to_truth, _ = self._distances(pool.best(1).pose[0], pred, truth_rows)
        return float(np.clip(2.5 * np.quantile(to_truth, 0.3), max(0.03, self.floor), max(0.12, self.floor)))

    def _distances(self, pose: F64, pred: F64, truth_rows: I32) -> tuple[F64, F64]:
        """Distances (A,) from pred's samples and (B,) from truth's, truth's unit."""
        total = len(pred) + len(truth_rows)
        squared = np.empty(total)
        moved, rows = np.empty((total, 3)), np.empty(total, np.int32)
        pair_up(np.ascontiguousarray(pose), pred, truth_rows, self.pred, self.truth, 6, moved, rows, squared)
        distance = np.sqrt(squared)
        return distance[: len(pred)], distance[len(pred) :]


def about_z(poses: F64) -> F64:
    """Of similarities (K, 4, 4) the nearest that turn about z alone; where they bring the origin is kept."""
    out = poses.copy()
    scale = np.sqrt((poses[:, :3, :3] ** 2).sum(axis=(1, 2)) / 3)
    angle = np.arctan2(poses[:, 1, 0] - poses[:, 0, 1], poses[:, 0, 0] + poses[:, 1, 1])
    turn = np.asarray(Rotation.from_euler("z", angle[:, None]).as_matrix())
    out[:, :3, :3] = scale[:, None, None] * turn
    return out


def even_rotations(count: int) -> F64:
    """(count, 3, 3) rotations spread evenly over SO(3): the super-Fibonacci spiral (Alexa 2022)."""
    i = np.arange(count) + 0.5
    a, b = 2 * np.pi * i / np.sqrt(2), 2 * np.pi * i / 1.533751168755204288118041
    r, q = np.sqrt(i / count), np.sqrt(1 - i / count)
    quaternions = np.stack([r * np.sin(a), r * np.cos(a), q * np.sin(b), q * np.cos(b)], axis=1)
    return np.asarray(Rotation.from_quat(quaternions).as_matrix(), np.float64)


def _usable(name: str, points: F64, rng: np.random.Generator) -> F64:
    """At most MOST distinct points drawn at random, in spatial order."""
    some = points[rng.permutation(len(points))[: 2 * MAX_POINTS]]
    distinct = np.unique(some, axis=0)
    some = cloud(name, distinct[rng.permutation(len(distinct))[:MAX_POINTS]])
    return np.ascontiguousarray(some[_morton_order(some)])


def _morton_order(points: F64) -> NDArray[np.intp]:
    """(M,) rows of `points` (M, 3) along the Z-order curve (Morton 1966): near in space, near in memory."""
    low, high = points.min(axis=0), points.max(axis=0)
    at = ((points - low) / (high - low).max() * 1023).astype(np.uint64)
    for shift, mask in ((16, 0x30000FF), (8, 0x300F00F), (4, 0x30C30C3), (2, 0x9249249)):
        at = (at | (at << np.uint64(shift))) & np.uint64(mask)
    return np.argsort(at[:, 0] | (at[:, 1] << np.uint64(1)) | (at[:, 2] << np.uint64(2)), kind="stable")


def _to_unit(points: F64) -> F64:
    """The (4, 4) similarity that brings `points` to centroid 0 and root mean square radius 1."""
    radius = float(np.linalg.norm(spread(points)))
    return similarity(1 / radius, np.eye(3), -points.mean(axis=0) / radius)


def _grid(points: F64) -> tuple[Grid, float]:
    """`points` (M, 3) as a Grid with a margin around, and their median spacing."""
    distance, rows = map(np.asarray, cKDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points))))
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max())
    corner, cell = (low + high) / 2 - 0.85 * side, 1.7 * side / VOXELS
    narrow = np.ascontiguousarray(points, np.float32)
    cells = fill_cells(narrow, corner, cell, VOXELS)
    neighbours = np.ascontiguousarray(rows[:, 1:].astype(np.int16))
    return Grid(narrow, neighbours, cells, corner, cell), float(np.median(distance[:, 1]))
