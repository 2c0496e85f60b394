"""A prediction against a ground truth under a protocol: align, crop, equalise, score.

A pure function of its three arguments: no model, no clock, no global random state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import t as student_t

from adapters.contract import (
    F32,
    F64,
    I32,
    U8,
    Bools,
    Cameras,
    OnDemand,
    Reconstruction,
    Unavailable,
    shapes_of,
)
from metrics import similarity
from metrics.cameras import pose_errors
from metrics.chamfer import chamfer_of
from metrics.depth import depth_errors_of_views
from metrics.emd import emd
from metrics.fscore import FScore, fscore_of
from metrics.image import lpips, psnr, ssim
from metrics.nearest import Distances, nearest
from metrics.scoring.align import Alignment, AlignmentStage, Kept, align, crop_box, kept_points
from metrics.scoring.equalise import bounded_subset, random_subset, voxel_subset
from metrics.scoring.knowledge import Shares
from metrics.scoring.memo import Memo
from metrics.scoring.meshes import mesh_values, moved_mesh, normal_cosine, volume_value
from metrics.scoring.pixels import given_surface, pointmap_errors
from metrics.scoring.prepared import FEWEST_POINTS, PreparedTruth, ScoringError
from metrics.scoring.protocol import Protocol, completeness, geometry_table
from metrics.scoring.truth import Truth, sample_mesh
from metrics.scoring.value import Value
from metrics.scoring.visibility import observed_space

__all__ = ["ErrorCloud", "Memo", "PreparedTruth", "Score", "ScoringError", "Value", "score"]

SHOWN_POINTS = 40_000  # of the clouds kept for looking at
NEIGHBOURS = 6  # of a point of the truth, over whose disc it is moved for a new sample
SHOWN_VIEWS = 4  # whose cameras are kept with them

IMAGE_METRICS = {"psnr": psnr, "ssim": ssim, "lpips": lpips}


@dataclass(frozen=True)
class ErrorCloud:
    """What a viewer shows, in the truth's frame."""

    points: F32  # (K, 3), the prediction, aligned and cropped
    error: F32  # (K,), distance to the truth, percent of the diameter
    colors: U8 | None  # (K, 3)
    truth: F32  # (T, 3)
    shown: NDArray[np.int64]  # (T,), the rows of the prepared truth that `truth` holds
    up: F32  # (3,), unit: the mean of where the truth's cameras have their top
    cameras: Cameras  # some of the truth's, spread over its views
    sizes: NDArray[np.int32]  # (len(cameras), 2) width and height of their images, pixels
    truth_colors: U8 | None = None  # (T, 3), which only the images know


@dataclass(frozen=True)
class Score:
    """Everything that a protocol says of one prediction."""

    values: dict[str, Value]
    stages: tuple[AlignmentStage, ...] = ()
    points: int = 0  # points of the prediction that entered the geometry metrics
    unobserved: int = 0  # cropped points left out because no camera of the truth can judge their place
    kept: float = 1.0  # share of the prediction's points that the confidence policy kept
    known: float | None = None  # share of the object's pixels that show surface which a measured truth trusts
    notes: tuple[str, ...] = ()
    cloud: ErrorCloud | None = None


def score(
    prediction: Reconstruction,
    prepared: PreparedTruth,
    views: tuple[str, ...],
    *,
    scope: str,
    posed: bool,
    photos: tuple[U8, ...] = (),
    brief: bool = False,
    memo: Memo | None = None,
) -> Score:
    """Score `prediction`, made from the scene's `views` (their names, in the prediction's order).

    `posed`: the prediction lives in the frame of the truth's own cameras, so nothing is aligned. `photos` are the
    views held back, (H, W, 3) each, for which the prediction's renderings were asked. `brief`: values alone, without
    floors, values before ICP and the cloud to look at. `memo`: what earlier calls on this prediction, views and truth
    computed, under whatever protocols."""
    memo = shared = memo or Memo()
    truth, protocol = prepared.truth, prepared.protocol
    values: dict[str, Value] = {}
    alignment = Alignment()
    count, unobserved, share = 0, 0, 1.0
    notes: list[str] = []
    cloud: ErrorCloud | None = None
    geometry = geometry_table(protocol)
    truth_from_pred: F64 | None = None
    try:
        pred = kept_points(prediction, prepared, views)
        share = pred.share
        notes += [pred.note] if pred.note else []
        route = protocol.align.route(scope, len(views), posed)
        # Of a mesh more than the stages so far decides the points: how many a later stage asks for.
        memo = memo.about(route, prepared.device, pred.samples if pred.mesh is not None else 0)
        aligned = partial(align, prediction, pred, prepared, views, route)
        alignment = memo.once("align", protocol, "equalisation", aligned)
        notes += alignment.notes
        if alignment.failure:
            raise ScoringError("failed", alignment.failure)
        truth_from_pred = alignment.truth_from_pred
        cut = partial(_crop, pred, truth_from_pred, prepared)
        final = memo.once("crop", protocol, "equalisation", cut)
        count, unobserved = len(final.points), final.unobserved
        given, visible = prepared.seen_by(views), prepared.visible
        if protocol.given_only:
            given = visible = given_surface(prepared, views, protocol.frame)
        mesh = moved_mesh(prediction.mesh, truth_from_pred)
        draws = _geometry(final.points, prepared, visible, given, memo, mesh)
        floors = {} if brief else _floors(prepared, count)
        before: dict[str, list[float]] = {}
        volume_before: Value | None = None
        if len(alignment.stages) > 1 and not brief:
            try:
                cropped = _crop(pred, alignment.stages[-2].truth_from_pred, prepared)
                earlier = moved_mesh(prediction.mesh, alignment.stages[-2].truth_from_pred)
                before = _geometry(cropped.points, prepared, visible, given, mesh=earlier).values
                volume_before = volume_value(earlier, prepared) if protocol.volume else None
            except ScoringError as error:
                notes.append(f"before ICP: {error}")
        for name in geometry:
            values[name] = _reading(name, draws, floors, before)
        if protocol.volume:
            before_icp = None if volume_before is None else volume_before.value
            values["volume-iou"] = replace(volume_value(mesh, prepared), before_icp=before_icp)
        cloud = None if brief else _error_cloud(final, prediction, truth_from_pred, prepared)
    except ScoringError as error:
        values.update({name: Value(error.status, note=str(error)) for name in geometry})
    values.update(_camera_values(prediction, truth, views, protocol, posed))
    values["scale-error"] = _scale_value(prediction, truth, truth_from_pred, posed)
    values.update(_depth_values(prediction, truth, views, truth_from_pred, protocol))
    if protocol.mesh:
        examine = partial(mesh_values, prediction.mesh)
        values.update(shared.once("mesh", protocol, "confidence", examine))
    if protocol.pointmaps:
        values.update(_pointmap_values(prediction, truth, views))
    values.update(_image_values(prediction, photos))
    known = prepared.judge.known if prepared.judge is not None else None
    return Score(values, alignment.stages, count, unobserved, share, known, tuple(notes), cloud)


@dataclass(frozen=True)
class _Draws:
    """Geometry metrics; what a measured truth adds to them is empty where the truth is exact."""

    values: dict[str, list[float]]  # one value a draw
    judged: dict[str, float]  # share of the points
    bounds: dict[str, tuple[float, float]]
    emd_bounds: list[tuple[float, float]]  # certified lower and upper, a draw


@dataclass(frozen=True)
class _Cropped:
    points: F64  # (K, 3) truth's frame, cropped, equalised, observed
    index: NDArray[np.int64]  # (K,) rows of the prediction's points; -1 where drawn from its mesh
    unobserved: int


def _crop(pred: Kept, truth_from_pred: F64, prepared: PreparedTruth) -> _Cropped:
    truth, protocol = prepared.truth, prepared.protocol
    points, index = pred.inside(truth_from_pred, crop_box(prepared))
    chosen = voxel_subset(points, protocol.voxel * truth.diameter)
    points, index = points[chosen], index[chosen]
    if protocol.observed_only and prepared.judge is None:
        observed = observed_space(points, truth, prepared.buffers, protocol.behind * truth.diameter)
    else:
        observed = np.ones(len(points), np.bool_)
    unobserved = int((~observed).sum())
    left = points[observed]
    if len(left) < FEWEST_POINTS:
        raise ScoringError("failed", f"{len(left)} points fall inside the crop volume, {FEWEST_POINTS} at least wanted")
    return _Cropped(left, index[observed], unobserved)


def _floors(prepared: PreparedTruth, count: int) -> dict[str, float]:
    """Every geometry metric of the truth's own surface as the prediction, with as many points as that has (`count`, two
    significant digits, rounded up) and against the very truth that is scored against: no sample is smaller here than
    there, so that nothing reads better by its size alone. What a measured truth has of the surface is not all of it, so
    shares of its judge have no floor: a perfect prediction would read better."""
    step = 10 ** max(len(str(count)) - 2, 0)
    count = -(-count // step) * step
    key = (prepared.device, count)
    if key not in prepared.floors:
        fresh = _fresh_surface(prepared, count, np.random.default_rng([prepared.protocol.seed, 1]))
        draws = _geometry(fresh, prepared, prepared.visible, prepared.visible, mesh=prepared.truth.mesh)
        prepared.floors[key] = {
            name: float(np.mean(values)) for name, values in draws.values.items() if name not in draws.bounds
        }
    return prepared.floors[key]


def _fresh_surface(prepared: PreparedTruth, count: int, rng: np.random.Generator) -> F64:
    """(count, 3) new points of the truth's surface, equalised as predictions are.

    Of a mesh they are drawn from it. Where only points are known, each is one of those, moved in its tangent plane to
    anywhere among its nearest: a new sample of the surface that the points and normals describe."""
    truth = prepared.truth
    if truth.mesh is not None:
        drawn, points = max(len(truth.points), count), np.zeros((0, 3))
        for _ in range(6):  # one point a voxel is kept: the fuller the voxels, the more must be drawn
            fresh = sample_mesh(*truth.mesh, drawn, seed=1)
            points = _crop(Kept(fresh, np.arange(len(fresh))), np.eye(4), prepared).points
            if len(points) >= count:
                break
            drawn *= 2
        return points[random_subset(len(points), count, rng)]
    rows = np.flatnonzero(prepared.visible) if prepared.judge is not None else np.arange(len(prepared.points))
    surface = prepared.points[rows].astype(np.float64)
    distance = np.asarray(cKDTree(surface).query(surface, k=NEIGHBOURS + 1)[0])[:, -1]
    chosen = rng.integers(0, len(rows), count)
    radius = distance[chosen] * np.sqrt(rng.random(count))
    direction = rng.normal(size=(count, 3))
    normals = prepared.normals[rows[chosen]].astype(np.float64)
    direction -= (direction * normals).sum(axis=1, keepdims=True) * normals
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(surface[chosen] + radius[:, None] * direction)


def _geometry(
    pred: F64,
    prepared: PreparedTruth,
    visible: Bools,
    given: Bools,
    memo: Memo | None = None,
    mesh: tuple[F64, I32] | None = None,
) -> _Draws:
    """Geometry metrics of `pred` against the truth; `visible` and `given` (M,) flag its points that count and that the
    given views see. A measured truth's judge asks for the visible ones. Lengths in the protocol's unit; a metric
    without enough points is absent. `memo`: of `pred`; `mesh`: what it was drawn from."""
    memo = memo or Memo()
    protocol, per_unit, device = prepared.protocol, 1 / prepared.unit, prepared.device
    whole = protocol.against == "whole"
    out = _Draws({}, {}, {}, [])
    judge = prepared.judge

    def note(name: str, value: float) -> None:
        out.values.setdefault(name, []).append(float(value))

    shown = np.flatnonzero(visible)
    of_given = np.flatnonzero(given & visible if judge is not None else given)
    evidence = None
    if judge is not None:
        evidence = memo.once("evidence", protocol, "equalisation", partial(judge.evidence, pred, protocol.seed))
    for draw in range(protocol.draws):
        rng = np.random.default_rng([protocol.seed, draw])
        rows = random_subset(len(pred), protocol.samples, rng)
        some, answer = pred[rows], pred if whole else pred[rows]
        asked_rows = np.arange(len(shown))
        if len(shown) >= FEWEST_POINTS:
            asked_rows = random_subset(len(shown), protocol.samples, rng)
        asked = shown[asked_rows]
        if evidence is not None:
            accuracy = evidence.distances[rows] * prepared.truth.diameter * per_unit
        else:
            if whole and protocol.given_only and len(asked) >= FEWEST_POINTS:
                make = partial(_distance, some, prepared.points[shown], device)
            elif whole or len(asked) < FEWEST_POINTS:
                make = partial(prepared.distance, some)
            else:
                make = partial(_distance, some, prepared.points[asked], device)
            accuracy = memo.once(("to truth", draw), protocol, "sampling", make) * per_unit
        note("accuracy", accuracy.mean())
        if len(asked) >= FEWEST_POINTS:
            make = partial(_distance, prepared.points[asked], answer, device)
            both = Distances(accuracy, memo.once(("to pred", draw), protocol, "sampling", make) * per_unit)
            distances = chamfer_of(both)
            note(completeness(protocol), distances.completeness)
            if protocol.medians:
                note("accuracy-median", float(np.median(both.to_truth)))
                note("completeness-median", float(np.median(both.to_pred)))
            if protocol.normals:
                source = mesh if protocol.face_normals else None
                cosines = partial(normal_cosine, some, pred, source, prepared.points[asked], prepared.normals[asked])
                key = ("normals", draw, protocol.face_normals)
                note("normal-consistency", memo.once(key, protocol, "sampling", cosines))
            for formula in protocol.chamfer:
                note(f"chamfer-{formula}", getattr(distances, formula.replace("-", "_")))
            for threshold in protocol.thresholds:
                label = protocol.label(threshold)
                shares: FScore | Shares
                if evidence is not None:
                    shares = evidence.shares(_of_diameter(threshold, prepared), rows, asked_rows)
                else:
                    shares = fscore_of(both, threshold if protocol.side else 100 * threshold)
                for name in ("precision", "recall", "fscore"):
                    note(f"{name}@{label}", getattr(shares, name))
        if len(of_given) >= FEWEST_POINTS and not protocol.given_only:
            asked = of_given[random_subset(len(of_given), protocol.samples, rng)]
            make = partial(_distance, prepared.points[asked], answer, device)
            reach = memo.once(("given to pred", draw), protocol, "sampling", make)
            note("completeness-given", reach.mean() * per_unit)
    if evidence is not None:
        pred = pred[evidence.decided]
        out.judged.update(dict.fromkeys(geometry_table(protocol), float(evidence.decided.mean())))
        for threshold in protocol.thresholds:
            whole_shares = evidence.shares(_of_diameter(threshold, prepared))
            for i, name in enumerate(("precision", "recall", "fscore")):
                metric = f"{name}@{protocol.label(threshold)}"
                out.judged[metric] = whole_shares.judged
                out.bounds[metric] = whole_shares.least[i], whole_shares.most[i]
    count = min(protocol.emd_samples, len(pred), len(shown))
    if count >= FEWEST_POINTS:
        for draw in range(protocol.emd_draws):
            rng = np.random.default_rng([protocol.seed, 1000 + draw])
            some, asked = pred[random_subset(len(pred), count, rng)], shown[random_subset(len(shown), count, rng)]
            make_transport = partial(emd, some, prepared.points[asked], device=device)
            transport = memo.once(("emd", draw, count), protocol, "equalisation", make_transport)
            note("emd", transport.value * per_unit)
            out.emd_bounds.append((transport.lower * per_unit, transport.upper * per_unit))
    return out


def _distance(queries: NDArray[np.floating], points: NDArray[np.floating], device: str | None) -> F64:
    return np.asarray(nearest(queries, points, device=device).distance, np.float64)


def _of_diameter(threshold: float, prepared: PreparedTruth) -> float:
    """A threshold of the protocol as a share of the diameter."""
    return threshold * prepared.unit / prepared.truth.diameter if prepared.protocol.side else threshold


def _reading(name: str, draws: _Draws, floors: dict[str, float], before: dict[str, list[float]]) -> Value:
    if name not in draws.values:
        return Value("unsupported", note="the views given see too little of the truth")
    values = np.array(draws.values[name])
    middle = float(values.mean())
    least, most = draws.bounds.get(name, (None, None))
    lower, upper = np.mean(draws.emd_bounds, axis=0).tolist() if name == "emd" else (None, None)
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Value(
        "ok",
        middle,
        middle - half,
        middle + half,
        floors.get(name),
        float(np.mean(before[name])) if name in before else None,
        judged=draws.judged.get(name),
        least=least,
        most=most,
        lower=lower,
        upper=upper,
    )


def _camera_values(
    prediction: Reconstruction, truth: Truth, views: tuple[str, ...], protocol: Protocol, posed: bool
) -> dict[str, Value]:
    names = ("rotation", "translation", *(f"auc@{degrees}" for degrees in protocol.auc), "centre-rmse")
    if posed:
        return dict.fromkeys(names, Value("unsupported", note="the cameras were given, not predicted"))
    if prediction.cameras is None or prediction.registered is None:
        return dict.fromkeys(names, Value("unsupported", note="the adapter gives no cameras"))
    known = [i for i, view in enumerate(views) if view in truth.view_names]
    if len(known) < 2:
        return dict.fromkeys(names, Value("unsupported", note="fewer than two given views have a true camera"))
    theirs = truth.cameras.take([truth.view_names.index(views[i]) for i in known])
    errors = pose_errors(prediction.cameras.take(known), theirs, prediction.registered[known])
    left_out = len(views) - len(known)
    note = f"{left_out} given views have no true camera" if left_out else ""
    pairs = len(errors.rotation)
    readings: dict[str, float | None] = {
        "rotation": float(errors.rotation.mean()),
        "translation": float(errors.translation.mean()),
        **{f"auc@{degrees}": errors.auc(degrees) for degrees in protocol.auc},
        "centre-rmse": None if errors.centre_rmse is None else 100 * errors.centre_rmse / truth.diameter,
    }
    absent = Value("failed", note="needs at least 3 registered, non-collinear cameras")
    return {
        k: absent if v is None else Value("ok", v, note=note, pairs=None if k == "centre-rmse" else pairs)
        for k, v in readings.items()
    }


def _scale_value(prediction: Reconstruction, truth: Truth, truth_from_pred: F64 | None, posed: bool) -> Value:
    """How wrong a metric prediction's scale is: `max(s, 1 / s) - 1` of s, its lengths over the true ones."""
    if posed:
        return Value("unsupported", note="the cameras were given, and with them the scale")
    if prediction.scale != "metric":
        return Value("unsupported", note="the system claims no metric scale")
    if truth.metres is None:
        return Value("unsupported", note=f"the {truth.kind} truth does not say how long its unit is in metres")
    if truth_from_pred is None:
        return Value("failed", note="the prediction could not be aligned, so its scale is unknown")
    ratio = 1 / (similarity.scale_of(truth_from_pred) * truth.metres)
    return Value("ok", max(ratio, 1 / ratio) - 1, note=f"predicted lengths are {ratio:.4g} of the true ones")


def _depth_values(
    prediction: Reconstruction,
    truth: Truth,
    views: tuple[str, ...],
    truth_from_pred: F64 | None,
    protocol: Protocol,
) -> dict[str, Value]:
    names = ("depth-absrel", *(f"depth-delta@{factor:g}" for factor in protocol.depth_deltas), "depth-coverage")
    pairs = [(i, truth.view_names.index(view)) for i, view in enumerate(views) if view in truth.view_names]
    if prediction.depth is None:
        return dict.fromkeys(names, Value("unsupported", note="the adapter gives no depth"))
    if truth.depth is None or not pairs:
        return dict.fromkeys(names, Value("unsupported", note=f"the {truth.kind} truth has no depth maps"))
    by_median = protocol.depth_scale == "median"
    if truth_from_pred is None and not by_median:
        return dict.fromkeys(
            names, Value("failed", note="the prediction could not be aligned, so its scale is unknown")
        )
    scale = np.float32(1.0 if by_median or truth_from_pred is None else similarity.scale_of(truth_from_pred))
    given, true = prediction.depth, truth.depth
    shapes = shapes_of(given)
    errors = depth_errors_of_views(
        OnDemand([shapes[i] for i, _ in pairs], lambda k: given[pairs[k][0]] * scale),
        OnDemand([shapes[i] for i, _ in pairs], lambda k: true[pairs[k][1]]),
        protocol.depth_deltas,
        "scale" if by_median else "none",
    )
    readings = (errors.absrel, *errors.deltas, errors.coverage)
    absent = Value("failed", note="no pixel has both a predicted and a true depth")
    return {k: absent if v is None else Value("ok", v) for k, v in zip(names, readings, strict=True)}


def _pointmap_values(prediction: Reconstruction, truth: Truth, views: tuple[str, ...]) -> dict[str, Value]:
    try:
        errors = pointmap_errors(prediction, truth, views)
    except ScoringError as error:
        return dict.fromkeys(("points-absrel", "points-delta@1.03"), Value(error.status, note=str(error)))
    return {"points-absrel": Value("ok", errors.absrel), "points-delta@1.03": Value("ok", errors.delta_1_03)}


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


def _error_cloud(
    final: _Cropped, prediction: Reconstruction, truth_from_pred: F64, prepared: PreparedTruth
) -> ErrorCloud:
    truth = prepared.truth
    chosen = bounded_subset(final.points, SHOWN_POINTS)
    points = final.points[chosen]
    if prepared.judge is not None:  # of what is unknown the least that is certain
        error = (100 * prepared.judge.evidence(points).certain).astype(np.float32)
    else:
        error = (prepared.distance(points) * 100 / truth.diameter).astype(np.float32)
    source, mesh = final.index[chosen], prediction.mesh
    colors: U8 | None = None
    if mesh is not None and mesh.colors is not None:
        corners = similarity.apply(truth_from_pred, mesh.vertices)
        colors = mesh.colors[np.asarray(cKDTree(corners).query(points)[1])]
    elif mesh is None and prediction.colors is not None:
        colors = prediction.colors[source]
    up = -truth.cameras.camera_from_world[:, 1, :3].mean(axis=0)
    up = (up / max(float(np.linalg.norm(up)), 1e-12)).astype(np.float32)
    shown = bounded_subset(prepared.points, SHOWN_POINTS)
    views = np.unique(np.linspace(0, len(truth.sizes), SHOWN_VIEWS, endpoint=False).astype(np.int64))
    return ErrorCloud(
        points.astype(np.float32),
        error,
        colors,
        prepared.points[shown],
        shown,
        up,
        truth.cameras.take(views),
        truth.sizes[views],
    )
