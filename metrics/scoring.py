"""A prediction against a ground truth under a protocol: align, crop, equalise, score.

A pure function of its three arguments: no model, no clock, no global random state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import t as student_t

from adapters.contract import F32, F64, U8, Bools, Reconstruction, Unavailable
from metrics import similarity
from metrics.cameras import align_cameras, pose_errors
from metrics.chamfer import chamfer_of
from metrics.depth import depth_errors
from metrics.emd import emd
from metrics.equalise import bounded_subset, random_subset, voxel_subset
from metrics.fscore import fscore_of
from metrics.image import lpips, psnr, ssim
from metrics.nearest import Distances, nearest, surface_distance
from metrics.protocol import Protocol, metric_table, percent
from metrics.register import icp, register
from metrics.similarity import AlignmentError
from metrics.truth import Truth, sample_mesh
from metrics.visibility import DepthBuffer, depth_buffers, observed_space, seen_surface

SHOWN_POINTS = 40_000  # of the clouds kept for looking at
ALIGN_POINTS = 20_000
FEWEST_POINTS = 16  # a cloud of fewer points after cropping is a failure, not a score
FEWEST_PAIRS = 30
CORRESPONDENCE_PIXELS = 1.0

IMAGE_METRICS = {"psnr": psnr, "ssim": ssim, "lpips": lpips}

Status = Literal["ok", "failed", "unsupported"]


@dataclass(frozen=True)
class Value:
    """One metric's reading. `value` is null unless status is ok; lengths in percent of the truth's diameter."""

    status: Status
    value: float | None = None
    low: float | None = None  # 95% interval over draws
    high: float | None = None
    floor: float | None = None  # the truth against itself at the same sample count
    before_icp: float | None = None
    note: str = ""


@dataclass(frozen=True)
class AlignmentStage:
    """One step of the alignment; `transform` is cumulative."""

    name: str
    truth_from_pred: F64  # (4, 4)
    residual: float  # percent of the diameter: median distance between the clouds after it, both directions
    gain: float  # residual before less residual after


@dataclass(frozen=True)
class ErrorCloud:
    """What a viewer shows, in the truth's frame."""

    points: F32  # (K, 3), the prediction, aligned and cropped
    error: F32  # (K,), distance to the truth, percent of the diameter
    colors: U8 | None  # (K, 3)
    truth: F32  # (T, 3)
    up: F32  # (3,), unit: the mean of where the truth's cameras have their top


@dataclass(frozen=True)
class Score:
    """Everything that a protocol says of one prediction."""

    values: dict[str, Value]
    stages: tuple[AlignmentStage, ...] = ()
    points: int = 0  # points of the prediction that entered the geometry metrics
    unobserved: int = 0  # cropped points left out because no camera of the truth can judge their place
    notes: tuple[str, ...] = ()
    cloud: ErrorCloud | None = None


class ScoringError(Exception):
    """Geometry that cannot be scored: `failed` when the prediction is at fault, `unsupported` when its kind is."""

    def __init__(self, status: Status, note: str) -> None:
        super().__init__(note)
        self.status: Status = status


@dataclass(frozen=True)
class PreparedTruth:
    """A truth made ready for one protocol; build it once for many predictions."""

    truth: Truth
    protocol: Protocol
    points: F32  # (M, 3) cropped, equalised
    normals: F32  # (M, 3)
    buffers: tuple[DepthBuffer, ...]
    seen: Bools  # (V, M), which views of the truth see which point
    visible: Bools  # (M,), seen by some of them
    _floors: dict[int, dict[str, float]] = field(default_factory=dict, repr=False)

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
        seen = seen_surface(points, truth, buffers, protocol.visible_within * truth.diameter)
        return PreparedTruth(truth, protocol, points, truth.normals[keep], buffers, seen, np.asarray(seen.any(axis=0)))

    def seen_by(self, views: tuple[str, ...]) -> Bools:
        """(M,) bool: which points the views of these names see."""
        rows = [self.truth.view_names.index(view) for view in views if view in self.truth.view_names]
        return np.asarray(self.seen[rows].any(axis=0))

    def floors(self, count: int) -> dict[str, float]:
        """Every geometry metric of the truth against itself, with `count` points (two significant digits, rounded
        down) as the prediction: a fresh sample of its mesh; where it is a cloud, one random half against the other."""
        step = 10 ** max(len(str(count)) - 2, 0)
        count = count // step * step
        if count not in self._floors:
            rng = np.random.default_rng([self.protocol.seed, 1])
            if self.truth.vertices is not None and self.truth.faces is not None:
                fresh = sample_mesh(self.truth.vertices, self.truth.faces, len(self.truth.points), seed=1)
                everything = np.ones(len(fresh), np.bool_)
                first = _crop(_Kept(fresh, np.arange(len(fresh))), np.eye(4), self, everything).points
                second = np.arange(len(self.points))
            else:
                order = rng.permutation(len(self.points))
                first, second = self.points[np.sort(order[::2])], np.sort(order[1::2])
            first = first[random_subset(len(first), count, rng)]
            draws = _geometry(first, self, second, self.visible[second], self.visible[second])
            self._floors[count] = {name: float(np.mean(values)) for name, values in draws.items()}
        return self._floors[count]

    def distance(self, points: NDArray[np.floating], index: NDArray[np.int64] | None = None) -> F64:
        """(K,) distances from `points` (K, 3) to the truth: its mesh, or its samples (those of `index`)."""
        if self.truth.vertices is not None and self.truth.faces is not None:
            return surface_distance(points, self.truth.vertices, self.truth.faces)
        samples = self.points if index is None else self.points[index]
        return np.asarray(nearest(points, samples).distance, np.float64)


def score(
    prediction: Reconstruction,
    prepared: PreparedTruth,
    views: tuple[str, ...],
    *,
    scope: str,
    posed: bool,
    photos: tuple[U8, ...] = (),
) -> Score:
    """Score `prediction`, made from the scene's `views` (their names, in the prediction's order).

    `posed`: the prediction lives in the frame of the truth's own cameras, so nothing is aligned. `photos` are the
    views held back, (H, W, 3) each, for which the prediction's renderings were asked."""
    truth, protocol = prepared.truth, prepared.protocol
    values: dict[str, Value] = {}
    stages: tuple[AlignmentStage, ...] = ()
    count = unobserved = 0
    notes: list[str] = []
    cloud: ErrorCloud | None = None
    geometry = list(metric_table(protocol))[: list(metric_table(protocol)).index("emd") + 1]
    truth_from_pred: F64 | None = None
    try:
        pred = _kept(prediction, prepared, views)
        route = protocol.align.route(scope, len(views), posed)
        stages, held_out, remarks = _align(prediction, pred, prepared, views, route)
        notes += remarks
        truth_from_pred = stages[-1].truth_from_pred if stages else np.eye(4)
        final = _crop(pred, truth_from_pred, prepared, held_out)
        count, unobserved = len(final.points), final.unobserved
        given = prepared.seen_by(views)
        everything = np.arange(len(prepared.points))
        draws = _geometry(final.points, prepared, everything, prepared.visible, given)
        floors = prepared.floors(count)
        before: dict[str, list[float]] = {}
        if stages and stages[-1].name == "icp":
            earlier = stages[-2].truth_from_pred if len(stages) > 1 else np.eye(4)
            try:
                cropped = _crop(pred, earlier, prepared, held_out)
                before = _geometry(cropped.points, prepared, everything, prepared.visible, given)
            except ScoringError as error:
                notes.append(f"before ICP: {error}")
        for name in geometry:
            values[name] = _reading(name, draws, floors, before)
        cloud = _error_cloud(final, prediction, pred, prepared)
    except ScoringError as error:
        values.update({name: Value(error.status, note=str(error)) for name in geometry})
    values.update(_camera_values(prediction, truth, views))
    values.update(_depth_values(prediction, truth, views, truth_from_pred))
    values.update(_image_values(prediction, photos))
    return Score(values, stages, count, unobserved, tuple(notes), cloud)


@dataclass(frozen=True)
class _Kept:
    """The prediction's points that the confidence and mask policies keep."""

    points: F32
    index: NDArray[np.int64]  # into the prediction's points; -1 where sampled from its mesh


def _kept(prediction: Reconstruction, prepared: PreparedTruth, views: tuple[str, ...]) -> _Kept:
    protocol, truth = prepared.protocol, prepared.truth
    if len(prediction.points) == 0:
        mesh = prediction.mesh
        assert mesh is not None  # the contract: no points, then a mesh
        samples = sample_mesh(mesh.vertices, mesh.faces, 4 * protocol.samples, protocol.seed)
        return _Kept(samples, np.full(len(samples), -1))
    index = np.arange(len(prediction.points))
    if protocol.confidence_keep < 1:
        if prediction.confidence is None:
            raise ScoringError("unsupported", "the protocol keeps the surest points; the adapter gives no confidence")
        order = np.argsort(-prediction.confidence, kind="stable")
        index = np.sort(order[: max(round(protocol.confidence_keep * len(order)), 1)])
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
    if len(index) < FEWEST_POINTS:
        raise ScoringError("failed", f"{len(index)} points left to score, at least {FEWEST_POINTS} wanted")
    return _Kept(prediction.points[index], index)


def _align(
    prediction: Reconstruction, pred: _Kept, prepared: PreparedTruth, views: tuple[str, ...], route: str
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
        elif route == "correspondences":
            transform, held_out = _from_correspondences(prediction, pred, prepared, views)
        else:
            found = register(pred_some, truth_some, seed=protocol.seed, refine=False)
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
                refined = icp(pred_some[near], truth_some, normals_some, initial=transform).transform
                after = _residual(pred_some, truth_some, refined)
                stages.append(
                    AlignmentStage(
                        "icp", refined, 100 * after / truth.diameter, 100 * (residual - after) / truth.diameter
                    )
                )
    except AlignmentError as error:
        raise ScoringError("failed", f"alignment by {route}: {error}") from error
    return tuple(stages), held_out, notes


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


def _from_correspondences(
    prediction: Reconstruction, pred: _Kept, prepared: PreparedTruth, views: tuple[str, ...]
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


@dataclass(frozen=True)
class _Cropped:
    points: F32  # (K, 3) truth's frame, cropped, equalised, observed
    index: NDArray[np.int64]  # (K,) into the kept points
    unobserved: int


def _crop(pred: _Kept, truth_from_pred: F64, prepared: PreparedTruth, held_out: Bools) -> _Cropped:
    truth, protocol = prepared.truth, prepared.protocol
    index = np.flatnonzero(held_out)
    points = similarity.apply(truth_from_pred, pred.points[index])
    if protocol.crop and truth.crop is not None:
        inside = truth.crop.contains(points)
        points, index = points[inside], index[inside]
    chosen = voxel_subset(points, protocol.voxel * truth.diameter)
    points, index = points[chosen], index[chosen]
    observed = observed_space(points, truth, prepared.buffers, protocol.behind * truth.diameter)
    unobserved = int((~observed).sum())
    left = points[observed].astype(np.float32)
    if len(left) < FEWEST_POINTS:
        raise ScoringError("failed", f"{len(left)} points fall inside the crop volume, {FEWEST_POINTS} at least wanted")
    return _Cropped(left, index[observed], unobserved)


def _geometry(
    pred: F32, prepared: PreparedTruth, index: NDArray[np.int64], visible: Bools, given: Bools
) -> dict[str, list[float]]:
    """Geometry metrics of `pred` against the truth points `index`, a list over draws; `visible` and `given` are
    (len(index),) flags. Lengths in percent of the diameter; a metric without enough points is absent."""
    truth, protocol = prepared.truth, prepared.protocol
    percent_of = 100 / truth.diameter
    out: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        out.setdefault(name, []).append(float(value))

    seen = index[visible]
    for draw in range(protocol.draws):
        rng = np.random.default_rng([protocol.seed, draw])
        some = pred[random_subset(len(pred), protocol.samples, rng)]
        accuracy = prepared.distance(some, index) * percent_of
        note("accuracy", accuracy.mean())
        if len(seen) >= FEWEST_POINTS:
            asked = seen[random_subset(len(seen), protocol.samples, rng)]
            both = Distances(accuracy, nearest(prepared.points[asked], pred).distance * percent_of)
            distances = chamfer_of(both)
            note("completeness-visible", distances.completeness)
            note("chamfer-l1-sum", distances.l1_sum)
            note("chamfer-l2sq-mean", distances.l2sq_mean)
            for threshold in protocol.thresholds:
                shares = fscore_of(both, 100 * threshold)
                note(f"precision@{percent(threshold)}", shares.precision)
                note(f"recall@{percent(threshold)}", shares.recall)
                note(f"fscore@{percent(threshold)}", shares.fscore)
        of_given = index[given]
        if len(of_given) >= FEWEST_POINTS:
            asked = of_given[random_subset(len(of_given), protocol.samples, rng)]
            note("completeness-given", nearest(prepared.points[asked], pred).distance.mean() * percent_of)
    count = min(protocol.emd_samples, len(pred), len(seen))
    if count >= FEWEST_POINTS:
        for draw in range(protocol.emd_draws):
            rng = np.random.default_rng([protocol.seed, 1000 + draw])
            some, asked = pred[random_subset(len(pred), count, rng)], seen[random_subset(len(seen), count, rng)]
            note("emd", emd(some, prepared.points[asked]).value * percent_of)
    return out


def _reading(
    name: str, draws: dict[str, list[float]], floors: dict[str, float], before: dict[str, list[float]]
) -> Value:
    if name not in draws:
        return Value("unsupported", note="the views given see too little of the truth")
    values = np.array(draws[name])
    middle = float(values.mean())
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Value(
        "ok",
        middle,
        middle - half,
        middle + half,
        floors.get(name),
        float(np.mean(before[name])) if name in before else None,
    )


def _camera_values(prediction: Reconstruction, truth: Truth, views: tuple[str, ...]) -> dict[str, Value]:
    names = ("rotation", "translation", "auc@5", "auc@10", "auc@30", "centre-rmse")
    if prediction.cameras is None or prediction.registered is None:
        return dict.fromkeys(names, Value("unsupported", note="the adapter gives no cameras"))
    known = [i for i, view in enumerate(views) if view in truth.view_names]
    if len(known) < 2:
        return dict.fromkeys(names, Value("unsupported", note="fewer than two given views have a true camera"))
    theirs = truth.cameras.take([truth.view_names.index(views[i]) for i in known])
    errors = pose_errors(prediction.cameras.take(known), theirs, prediction.registered[known])
    left_out = len(views) - len(known)
    note = f"{left_out} given views have no true camera" if left_out else ""
    readings: dict[str, float | None] = {
        "rotation": float(errors.rotation.mean()),
        "translation": float(errors.translation.mean()),
        "auc@5": errors.auc_5,
        "auc@10": errors.auc_10,
        "auc@30": errors.auc_30,
        "centre-rmse": None if errors.centre_rmse is None else 100 * errors.centre_rmse / truth.diameter,
    }
    absent = Value("failed", note="needs at least 3 registered, non-collinear cameras")
    return {k: absent if v is None else Value("ok", v, note=note) for k, v in readings.items()}


def _depth_values(
    prediction: Reconstruction, truth: Truth, views: tuple[str, ...], truth_from_pred: F64 | None
) -> dict[str, Value]:
    names = ("depth-absrel", "depth-delta@1.03", "depth-coverage")
    pairs = [(i, truth.view_names.index(view)) for i, view in enumerate(views) if view in truth.view_names]
    if prediction.depth is None:
        return dict.fromkeys(names, Value("unsupported", note="the adapter gives no depth"))
    if truth.depth is None or not pairs:
        return dict.fromkeys(names, Value("unsupported", note=f"the {truth.kind} truth has no depth maps"))
    if truth_from_pred is None:
        return dict.fromkeys(
            names, Value("failed", note="the prediction could not be aligned, so its scale is unknown")
        )
    scale = np.float32(similarity.scale_of(truth_from_pred))
    pred = np.concatenate([prediction.depth[i].ravel() * scale for i, _ in pairs])[None]
    errors = depth_errors(pred, np.concatenate([truth.depth[j].ravel() for _, j in pairs])[None])
    readings = (errors.absrel, errors.delta_1_03, errors.coverage)
    absent = Value("failed", note="no pixel has both a predicted and a true depth")
    return {k: absent if v is None else Value("ok", v) for k, v in zip(names, readings, strict=True)}


def _image_values(prediction: Reconstruction, photos: tuple[U8, ...]) -> dict[str, Value]:
    if prediction.renderings is None or not photos:
        note = "the adapter gives no renderings" if prediction.renderings is None else "no view was held back"
        return dict.fromkeys(IMAGE_METRICS, Value("unsupported", note=note))
    values = {}
    for name, metric in IMAGE_METRICS.items():
        try:
            readings = [metric(*pair) for pair in zip(prediction.renderings, photos, strict=True)]
            values[name] = Value("ok", float(np.mean(readings)))
        except (Unavailable, ValueError) as error:  # LPIPS without its backbone; images too small for a window
            values[name] = Value("unsupported", note=str(error))
    return values


def _error_cloud(final: _Cropped, prediction: Reconstruction, pred: _Kept, prepared: PreparedTruth) -> ErrorCloud:
    chosen = bounded_subset(final.points, SHOWN_POINTS)
    points = final.points[chosen]
    error = (prepared.distance(points) * 100 / prepared.truth.diameter).astype(np.float32)
    source = pred.index[final.index[chosen]]
    colors = prediction.colors[source] if prediction.colors is not None and (source >= 0).all() else None
    up = -prepared.truth.cameras.camera_from_world[:, 1, :3].mean(axis=0)
    up = (up / max(float(np.linalg.norm(up)), 1e-12)).astype(np.float32)
    return ErrorCloud(points, error, colors, prepared.points[bounded_subset(prepared.points, SHOWN_POINTS)], up)
