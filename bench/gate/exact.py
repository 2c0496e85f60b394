"""The exact part: everything that turns a prediction into a rank, on frozen predictions, reading by reading.

Each case is a function without arguments that gives readings; which cases there are follows from the baseline."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from adapters.contract import Reconstruction, Views
from bench.gate.baseline import Baseline, Frozen, load_frozen
from bench.gate.probe.adapter import FINISH, INFER, MEBIBYTES, PREPARE
from bench.gate.ranks import leaderboard_readings
from bench.gate.readings import Reading, Readings, differences, read
from bench.gate.verdict import Finding
from bench.scoring.score import prepare
from bench.systems.cards import get_adapter
from bench.systems.measure import Policy
from bench.systems.process import run_adapter
from bench.trials.plan import plan, read_truth
from bench.trials.scenes import get_scene
from data.scene import Scene
from metrics import chamfer, emd, fscore, register
from metrics.cameras import align_cameras, pose_errors
from metrics.depth import depth_errors
from metrics.image import psnr, ssim
from metrics.normals import normal_consistency
from metrics.register import icp
from metrics.scoring.prepared import PreparedTruth, ScoringError
from metrics.scoring.protocol import Protocol, load_protocol
from metrics.scoring.score import score
from metrics.volume import volume_iou

Case = Callable[[], Readings]
SEED = 1  # not the default: a seed that is ignored must show
GAP = 0.01  # the gap that `emd` guarantees by default


def quick(name: str) -> Protocol:
    """The protocol `name` with few samples: these are readings to compare, not scores to publish."""
    return msgspec.structs.replace(load_protocol(name), samples=2000, emd_samples=256, draws=2, emd_draws=2, seed=SEED)


def cases(folder: Path, baseline: Baseline) -> dict[str, Case]:
    """Every case of the exact part, by name."""
    out: dict[str, Case] = {}
    base = quick(baseline.suite.protocol)

    def scored(entry: Frozen, kind: str, protocol: Protocol = base, scope: str = "") -> Case:
        def run() -> Readings:
            scene = get_scene(entry.scene)
            return _score(
                load_frozen(folder, entry.name), scene, prepare(scene, kind, protocol), entry, scope or entry.scope
            )

        return run

    for name in dict.fromkeys(entry.scene for entry in baseline.frozen):
        out[f"scene {name}"] = lambda name=name: _scene(get_scene(name))  # type: ignore[misc]
    out["plan"] = lambda: _plan(baseline)
    for entry in baseline.frozen:
        for kind in get_scene(entry.scene).truth_kinds:
            out[f"{entry.name}, {kind} truth"] = scored(entry, kind)
    for entry in (e for e in baseline.frozen if e.name == "perturbed"):
        kind = get_scene(entry.scene).truth_kinds[0]
        align = msgspec.structs.replace(base.align, icp=False)
        picky = msgspec.structs.replace(base, masks=True, confidence_keep=0.8, crop=False, align=align)
        out["perturbed, masked, most confident, without crop and ICP"] = scored(entry, kind, picky)
        out["perturbed, global search"] = scored(entry, kind, scope="object")
        out["instruments"] = lambda entry=entry: _instruments(load_frozen(folder, entry.name), entry)  # type: ignore[misc]
        out["leaderboard"] = lambda entry=entry: leaderboard_readings(get_scene(entry.scene), entry.views)  # type: ignore[misc]
    out["worker"] = _worker
    return out


def check_exact(folder: Path, baseline: Baseline) -> Iterator[Finding]:
    """Every case against the baseline, one finding each. A case that raises has broken, and the rest goes on."""
    known = cases(folder, baseline)
    for name in [*known, *(name for name in baseline.exact if name not in known)]:
        started = time.perf_counter()
        if name not in known or name not in baseline.exact:
            side = "the baseline" if name not in baseline.exact else "this code"
            yield Finding("exact", name, "broken", f"{side} does not know this case: write the baseline again")
            continue
        try:
            observed = known[name]()
        except Exception as error:  # noqa: BLE001 - whatever the code under test raises is a finding
            yield Finding("exact", name, "broken", f"{type(error).__name__}: {error}")
            continue
        mismatches = differences(baseline.exact[name], observed)
        seconds = time.perf_counter() - started
        detail = f"{len(mismatches)} of {len(baseline.exact[name])} readings differ" if mismatches else ""
        yield Finding("exact", name, "regression" if mismatches else "pass", detail, mismatches, seconds)


def _score(prediction: Reconstruction, scene: Scene, prepared: PreparedTruth, entry: Frozen, scope: str) -> Readings:
    photos = [scene.image(name) for name in scene.view_names[:2]]
    shown = dataclasses.replace(prediction, renderings=(photos[1],))
    try:
        result = score(shown, prepared, entry.views, scope=scope, posed=entry.posed, photos=(photos[0],))
    except ScoringError as error:
        return {"refused": str(error)}
    values = {name: value for name, value in result.values.items() if name != "lpips"}  # needs what may be absent
    return read("", dataclasses.replace(result, values=values))


def _scene(scene: Scene) -> Readings:
    """What the files of a scene are read as."""
    name = scene.view_names[-1]
    out = read("image", scene.image(name)) | (read("mask", scene.mask(name)) if scene.has_masks else {})
    for kind in scene.truth_kinds:
        truth = read_truth(scene, kind)
        parts = {field.name: getattr(truth, field.name) for field in dataclasses.fields(truth)}
        maps = {name: parts.pop(name) for name in ("depth", "masks")}
        out |= read(kind, {**parts, "view_names": " ".join(truth.view_names)})
        out |= read(kind, {name: values[0] for name, values in maps.items() if values})
    return out


def _plan(baseline: Baseline) -> Readings:
    """Which views each trial gets, and what of them it is given."""
    out: Readings = {}
    for seed in (0, SEED):
        suite = msgspec.structs.replace(baseline.suite, seeds=(seed,))
        for trial in plan(suite):
            name = f"{trial.label}, seed {seed}"
            out[f"{name}.views"] = " ".join(trial.views)
            out[f"{name}.inputs"] = trial.inputs
            given = trial.make_views()
            for field in dataclasses.fields(Views):
                value = getattr(given, field.name)
                first = value[0] if field.name in ("images", "masks") and value else value
                out |= read(f"{name}.{field.name}", first)
    return out


def _instruments(prediction: Reconstruction, entry: Frozen) -> Readings:
    """The metrics that people use on their own, with what scoring does not print."""
    scene = get_scene(entry.scene)
    truth = read_truth(scene, scene.truth_kinds[0])
    assert prediction.cameras is not None and prediction.depth is not None
    rows = [truth.view_names.index(view) for view in entry.views]
    cameras = truth.cameras.take(rows)
    alignment = align_cameras(prediction.cameras, cameras)
    pred = prediction.points @ alignment.truth_from_pred[:3, :3].T + alignment.truth_from_pred[:3, 3]
    some = np.arange(0, len(truth.points), len(truth.points) // 3000)
    samples, normals = truth.points[some], truth.normals[some]
    out = read("chamfer", chamfer(pred, samples)) | read("fscore", fscore(pred, samples, 0.01 * truth.diameter))
    if truth.mesh is not None:
        out |= read("to-mesh", chamfer(pred, samples, mesh=truth.mesh))
        vertices, faces = truth.mesh
        out |= read("volume", volume_iou(vertices * 0.98, faces, vertices, faces, resolution=24))
    out |= read("cameras", alignment)
    out |= read("poses", pose_errors(prediction.cameras, cameras, prediction.registered))
    if truth.depth is not None:
        for align in ("none", "scale", "scale_shift"):
            out |= read(f"depth.{align}", depth_errors(prediction.depth[0], truth.depth[rows[0]], align))
    out |= read("normals", normal_consistency(pred, pred - pred.mean(axis=0), samples, normals, oriented=True))
    photos = [scene.image(name) for name in scene.view_names[:2]]
    out |= {"psnr": psnr(*photos), "ssim": ssim(*photos)}
    out |= read("icp", icp(pred, samples, normals))
    out |= read("register", register(prediction.points, samples, cameras=(prediction.cameras, cameras)))
    return out | _emd(pred[:256], samples[:256])


def _emd(pred: np.ndarray, truth: np.ndarray) -> Readings:
    """An EMD and its certificate, held against the optimum and against what it stands on."""
    result = emd(pred, truth)
    cost = cdist(pred, truth)
    best = float(cost[linear_sum_assignment(cost)].mean())
    dual = float((cost + result.prices).min(axis=1).mean() - result.prices.mean())
    margin = 1 + 1e-9
    mean = float(cost[np.arange(len(pred)), result.assignment].mean())
    certificate: dict[str, Reading] = {
        "value": result.value,
        "upper is the assignment's": abs(mean / result.upper - 1) < 1e-9,
        "assignment is a bijection": bool((np.bincount(result.assignment, minlength=len(pred)) == 1).all()),
        "lower is proved by the prices": result.lower <= dual * margin,
        "optimum lies between": result.lower <= best * margin and best <= result.upper * margin,
        "gap is kept": result.gap <= GAP * margin and result.upper <= result.lower * (1 + GAP) * margin,
    }
    return read("emd", certificate)


def _worker() -> Readings:
    """What the harness reports for an adapter of known times, memory and numbers. Sleeping never ends early, so a
    time below what was slept is a clock that stopped too soon, however busy the machine."""
    policy = Policy(warmups=1, repeats=3, min_seconds=0.0, deadline=60.0)
    views = Views(images=(np.zeros((8, 8, 3), np.uint8),), names=("000",))
    adapter = get_adapter(str(Path(__file__).parent / "probe"))
    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        outcome, result = run_adapter(
            adapter, views, device="cuda:0", seed=SEED, policy=policy, log=Path(folder) / "log.txt"
        )
    calls = [*([outcome.cold] if outcome.cold else []), *outcome.warm]
    out: Readings = {"status": f"{outcome.status}: {outcome.message}", "calls": len(calls)}
    for step, least in (("prepare", PREPARE), ("infer", INFER), ("finish", FINISH)):
        out[f"{step} waits for its work"] = all(getattr(call, step) >= least for call in calls)
    out["steps add up"] = all(abs(call.prepare + call.infer + call.finish - call.total) < 1e-6 for call in calls)
    out["peak memory holds the work's"] = outcome.peak_rss >= MEBIBYTES * 2**20
    device = {"allocator": outcome.device_allocator, "driver": outcome.device_driver}
    return out | read("device", device) | read("points", result.points if result else None)
