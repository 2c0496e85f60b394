"""A made-up run: seven systems, four scenes, four view counts, and everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.contract import TrialStatus, TruthKind
from reports.schema import (
    AlignmentRow,
    Better,
    CloudRow,
    LeftOutRow,
    OfTrial,
    RunInfo,
    SceneRow,
    Scope,
    ScoreRow,
    Tables,
    TrialRow,
    TruthCard,
    WeightsKind,
    columns,
)

SCENE_NAMES = ("toy", "vase", "skull", "plant")
HOSTILE = "<script>alert('x')</script> & \"q\" | $x_1$ {y} \\ %"


@dataclass(frozen=True)
class System:
    """How a made-up system behaves."""

    name: str
    title: str
    inputs: str = "images"
    scope: Scope = "scene"
    error: float = 2.0  # % of the diameter at one view
    seconds: float = 1.0
    kin: str = ""
    reference: bool = False
    external: bool = False
    weights: WeightsKind = "pretrained"
    parameters: int | None = None
    fails: tuple[tuple[str, int, TrialStatus], ...] = ()  # scene, views, status


SYSTEMS = (
    System("colmap", "COLMAP", error=1.2, seconds=6.0, kin="colmap", weights="none"),
    System(
        "densestereo",
        "Dense stereo",
        error=1.8,
        seconds=9.0,
        weights="none",
        fails=(("plant", 8, "timeout"), ("vase", 1, "unsupported"), ("toy", 1, "unsupported")),
    ),
    System("grid3r", "Grid3R", error=1.5, seconds=2.5, parameters=571_000_000, fails=(("skull", 8, "oom"),)),
    System("swiftrecon", "SwiftRecon", error=2.4, seconds=0.4, parameters=48_000_000),
    System("onepass", "OnePass large", error=2.1, seconds=1.4, parameters=1_200_000_000, weights="random"),
    System("elsewhere", "Made elsewhere", error=1.0, external=True),
    System("visual-hull", "Visual hull", inputs="images+masks+cameras", scope="object", error=4.0, weights="none"),
    System("carver", "Carver", inputs="images+masks+cameras", scope="object", error=3.0, weights="none"),
    System("oracle", "Oracle", inputs="images+truth", error=0.2, reference=True, weights="none"),
    System("noisy-oracle", "Noisy oracle", inputs="images+truth", error=0.8, reference=True, weights="none"),
)
METRICS: tuple[tuple[str, str, Better, float], ...] = (
    ("accuracy", "%", "lower", 1.0),
    ("completeness-visible", "%", "lower", 1.3),
    ("completeness-given", "%", "lower", 1.1),
    ("chamfer-l1-sum", "%", "lower", 2.3),
    ("chamfer-l2sq-mean", "%", "lower", 0.4),
    ("fscore@1%", "ratio", "higher", 0.0),
    ("emd", "%", "lower", 1.7),
    ("auc@30", "ratio", "higher", 0.0),
)
TRUTH_OFFSETS: tuple[tuple[TruthKind, float], ...] = (("colmap", 0.25), ("exact", 0.0))
# What a trial that failed has no value for.
RESULTS_ABSENT = {
    **dict.fromkeys(("load_seconds", "cold_seconds", "prepare_seconds", "infer_seconds", "finish_seconds")),
    "peak_rss_bytes": None,
    "points": None,
    "prediction": "",
    "prediction_path": "",
}


def build(
    folder: Path,
    systems: Sequence[System] = SYSTEMS,
    scenes: Sequence[str] = SCENE_NAMES,
    views: Sequence[int] = (1, 2, 4, 8),
    cloud_points: int = 0,
    clouds: int = 1000,
    images: int = 0,
) -> Tables:
    """Tables of a run of `systems`, files (clouds, images) in `folder`."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    trials: list[TrialRow] = []
    scores: list[ScoreRow] = []
    alignments: list[AlignmentRow] = []
    cloud_rows: list[CloudRow] = []
    hard = {scene: 1 + 0.35 * i for i, scene in enumerate(scenes)}
    scene_rows = [_scene(folder, scene, hard[scene], images, rng) for scene in scenes]
    for system in systems:
        for count in views:
            for scene in scenes:
                trial = _trial(folder, system, scene, count, rng)
                trials.append(trial)
                if trial.status != "ok" or system.weights == "random":
                    continue
                for truth, offset in TRUTH_OFFSETS:
                    error = (system.error + offset) * hard[scene] / count**0.45 * float(rng.uniform(0.97, 1.03))
                    scores += [_score(trial, truth, metric, error) for metric in METRICS]
                    alignments += [
                        AlignmentRow(
                            key=trial.key,
                            truth=truth,
                            protocol_hash="5e1f00",
                            stage=stage,
                            residual=residual,
                            gain=gain,
                            scale=1.37,
                            truth_from_prediction=tuple(map(tuple, np.eye(4).tolist())),
                        )
                        for stage, residual, gain in (("umeyama", error * 1.2, None), ("icp", error, error * 0.2))
                    ]
                if cloud_points and len(cloud_rows) < clouds:
                    path = folder / f"{trial.key}.npz"
                    write_cloud(path, rng, cloud_points, error, scene)
                    cloud_rows.append(CloudRow(key=trial.key, truth="exact", path=path))
    return Tables(
        trials=tuple(trials),
        scores=tuple(scores),
        alignments=tuple(alignments),
        clouds=tuple(cloud_rows),
        scenes=tuple(scene_rows),
        left_out=(
            LeftOutRow(
                adapter="carver",
                inputs="images+masks+cameras",
                scene="plant",
                views=16,
                reason="over the budget of 600 s",
            ),
        ),
        run=RunInfo(
            version="0.1.0",
            created="2026-05-04T10:00:00+00:00",
            commands=("reconbench run --suite standard --store runs/store",),
            protocols={"5e1f00": "version = 1\nname = 'standard'\nvoxel = 0.2\n"},
            hardware="2 x Xeon, 24 GiB",
            overhead_seconds=0.006,
            rank_metric="chamfer-l1-sum",
            rank_truth="colmap",
        ),
    )


def _scene(folder: Path, scene: str, hard: float, images: int, rng: np.random.Generator) -> SceneRow:
    paths = {}
    for i in range(images):
        shade = rng.integers(40, 220, size=(5, 5, 3), dtype=np.uint8)
        paths[f"v{i:02d}"] = folder / f"{scene}-{i:02d}.png"
        Image.fromarray(shade).resize((518, 518), Image.Resampling.BICUBIC).save(paths[f"v{i:02d}"])
    colmap = TruthCard(f"c-{scene}", 1.7, "good", 0.31 * hard, 0.44 * hard, predicted=(0.2 * hard, 0.5 * hard))
    exact = TruthCard(f"e-{scene}", 1.7, "exact")
    return SceneRow(scene=scene, title=scene.capitalize(), images=paths, truths={"colmap": colmap, "exact": exact})


def _trial(folder: Path, system: System, scene: str, count: int, rng: np.random.Generator) -> TrialRow:
    key = f"{system.name}-{scene}-{count}"
    status = next((s for name, n, s in system.fails if (name, n) == (scene, count)), "ok")
    seconds = system.seconds * count**1.2 * float(rng.uniform(0.95, 1.05))
    trial = TrialRow(
        key=key,
        adapter=system.name,
        inputs=system.inputs,
        scope=system.scope,
        scene=scene,
        views=count,
        repeat=0,
        title=system.title,
        view_ids=" ".join(f"v{i:02d}" for i in range(count)),
        device="cpu",
        status="ok",
        log_tail="loading\nreconstructing\ndone",
        load_seconds=0.8,
        cold_seconds=seconds * 1.6,
        prepare_seconds=seconds * 0.1,
        infer_seconds=seconds * 0.8,
        finish_seconds=seconds * 0.1,
        peak_rss_bytes=int((300 + 90 * count * system.seconds) * 2**20),
        parameters=system.parameters,
        kin=(system.kin,) if system.kin else (),
        reference=system.reference,
        external=system.external,
        weights=system.weights,
        options="{}",
        environment="9f31c2",
        adapter_hash="77aa01",
        hardware="2 x Xeon, 24 GiB",
        command=f"reconbench run --adapters {system.name} --scenes {scene} --views {count}",
        prediction=f"p-{key}",
        prediction_path=str(folder / "predictions" / key),
        points=20_000 * count,
        finished="2026-05-04T10:00:00+00:00",
    )
    if status != "ok":
        output = {"message": f"{system.name} gave up on {scene}", "log_tail": "loading\nreconstructing\nKilled"}
        return replace(trial, status=status, **output, **RESULTS_ABSENT)
    return trial if system.external else replace(trial, warm_seconds=seconds, warm_iqr=seconds * 0.03, warm_n=5)


def _score(trial: TrialRow, truth: TruthKind, metric: tuple[str, str, Better, float], error: float) -> ScoreRow:
    name, unit, better, factor = metric
    value = error * factor if better == "lower" else float(np.exp(-error / 2))
    score = ScoreRow(
        **{column.name: getattr(trial, column.name) for column in columns(OfTrial)},
        truth=truth,
        truth_id=f"{truth[0]}-{trial.scene}",
        truth_made_by=("colmap",) if truth == "colmap" else (),
        protocol="standard",
        protocol_hash="5e1f00",
        metric=name,
        unit=unit,
        better=better,
        value=value,
        low=value * 0.99,
        high=value * 1.01,
        floor=0.12 if better == "lower" else 0.99,
        before_icp=value * (1.2 if better == "lower" else 0.9),
        status="ok",
    )
    return failed(score, "no overlap with the truth") if trial.key == "carver-skull-2" else score


def failed(score: ScoreRow, note: str) -> ScoreRow:
    """The score of a prediction that could not be scored."""
    return replace(score, status="failed", note=note, value=None, low=None, high=None, before_icp=None)


def write_cloud(path: Path, rng: np.random.Generator, count: int, error: float, scene: str) -> None:
    """A bumpy knot, and the same with noise that grows to one side."""
    t, u = np.random.default_rng(len(scene)).uniform(0, 2 * np.pi, size=(2, 2 * count))
    lobes = 2 + len(scene) % 3
    ring = 1 + 0.35 * np.cos(lobes * t) + 0.28 * np.cos(u)
    surface = np.stack([ring * np.cos(t), 0.28 * np.sin(u) + 0.3 * np.sin(lobes * t), ring * np.sin(t)], axis=1)
    truth, result = surface[:count].astype(np.float32), surface[count:]
    share = error * 0.02 * (0.2 + np.clip(result[:, 0], 0, None))
    noise = rng.normal(size=result.shape) * share[:, None]
    shade = (127 + 120 * np.sin(3 * t)).astype(np.uint8)
    colors = np.stack([shade, 255 - shade, np.full_like(shade, 140)], axis=1)
    np.savez(
        path,
        pred=(result + noise).astype(np.float32),
        error=(np.linalg.norm(noise, axis=1) * 30).astype(np.float32),
        pred_colors=colors[count:],
        truth=truth,
        truth_colors=colors[:count],
        up=np.array([0.0, 1.0, 0.0], np.float32),
    )


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """The whole made-up run, without clouds or images."""
    return build(tmp_path / "run")


@pytest.fixture(scope="session")
def builder() -> Callable[..., Tables]:
    """`build` itself."""
    return build


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Tables]:
    """`build` in a folder of the test's own."""
    return lambda **options: build(tmp_path / "made", **options)


@pytest.fixture
def hostile(tmp_path: Path) -> Tables:
    """A run where every name is an attack."""
    plain = build(tmp_path / "hostile", views=(2, 4), cloud_points=50, images=1)
    texts = {
        "trials": (
            *("title", "message", "log_tail", "device", "options", "hardware", "command", "environment", "adapter"),
        ),
        "scores": ("note", "protocol", "adapter"),
        "alignments": ("stage",),
        "scenes": ("title",),
        "left_out": ("adapter", "scene", "reason"),
    }
    changed = {
        name: tuple(
            replace(row, **{field: f"{getattr(row, field)}{HOSTILE}" for field in names})
            for row in getattr(plain, name)
        )
        for name, names in texts.items()
    }
    run = replace(plain.run, version=HOSTILE, hardware=HOSTILE, commands=(HOSTILE,), protocols={"5e1f00": HOSTILE})
    return replace(plain, run=run, **changed)
