"""From a store to the tables that reports read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adapters.contract import InputError
from bench.scoring.score import score_trial
from bench.scoring.sweep import Variant, sweep
from bench.systems.measure import BUSY_SHARE, median_and_iqr, now, version
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.scene import Scene, truth_id
from metrics.scoring.protocol import Protocol, geometry_table, load_protocol
from metrics.similarity import scale_of
from reports.schema import (
    ALIGNMENTS,
    CLOUDS,
    LEFT_OUT,
    REMARKS,
    SCENES,
    SCORES,
    SWEEPS,
    TRIALS,
    RunInfo,
    Tables,
    TruthCard,
    checked,
    frame,
)

PREVIEW_IMAGES = 32


def make_tables(
    store: Store,
    protocol: str,
    truth: str,
    advance: Callable[[str], None] = lambda label: None,
    sweeps: bool = False,
    only: Collection[str] | None = None,
) -> Tables:
    """Every table of a report on `store` under one protocol, ranked under `truth`.

    Of trials that differ only in code, environment or policy the newest stands; `only` names the keys of the trials to
    report on. What was not scored yet under this protocol is scored now, and with `sweeps` under its variants too;
    `advance` is told of each trial."""
    records = newest(
        [record for record in store.trials() if not record.policy.timing_only and (only is None or record.key in only)]
    )
    if not records:
        raise InputError(f"{store.path}: no finished trial seen, `reconbench run --store {store.path}` makes some")
    scenes = _open_scenes(records)
    meant = load_protocol(protocol)
    scores: list[tuple[TrialRecord, ScoreRecord]] = []
    swept: list[tuple[Variant, ScoreRecord]] = []
    for record in records:
        scene = scenes.get(record.scene_path)
        if scene is not None and not record.timed_only:
            scores += [(record, score_trial(store, record, scene, kind, meant)) for kind in scene.truth_kinds]
            if sweeps and truth in scene.truth_kinds:
                swept += sweep(store, record, scene, truth, meant)
        advance(f"{record.system} on {record.scene}")
    runs = store.runs()
    kinds = {score.truth for _, score in scores}
    return checked(
        Tables(
            trials=frame(TRIALS, (_trial_row(store, record) for record in records)),
            scores=frame(SCORES, [row for record, score in scores for row in _score_rows(record, score)]),
            alignments=frame(ALIGNMENTS, [row for _, score in scores for row in _stage_rows(score)]),
            clouds=frame(
                CLOUDS,
                [
                    {"key": s.trial, "truth": s.truth, "path": str(store.cloud_path(s).resolve())}
                    for _, s in scores
                    if store.cloud_path(s).is_file()
                ],
            ),
            scenes=frame(SCENES, _scene_rows(records, scenes)),
            left_out=frame(
                LEFT_OUT,
                {
                    (left.system, left.scene, left.views, left.reason): {
                        "adapter": left.system,
                        "scene": left.scene,
                        "views": left.views,
                        "reason": left.reason,
                    }
                    for left in (runs[-1].left_out if runs else [])
                }.values(),
            ),
            run=RunInfo(
                version=version(),
                created=now(),
                commands=tuple(dict.fromkeys(run.command for run in runs)),
                protocols={meant.hash: msgspec.json.format(msgspec.json.encode(meant), indent=1).decode()}
                | {variant.protocol.hash: _said(meant, variant.protocol) for variant, _ in swept},
                hardware="; ".join(dict.fromkeys(str(record.hardware) for record in records)),
                overhead_seconds=runs[-1].overhead_seconds if runs else None,
                rank_metric=meant.rank_metric,
                rank_truth=truth if truth in kinds or not kinds else min(kinds),
            ),
            sweeps=frame(SWEEPS, [row for variant, score in swept for row in _sweep_rows(meant, variant, score)]),
            remarks=frame(REMARKS, [row for _, score in scores for row in _remark_rows(score)]),
        )
    )


def keys_of_run(store: Store, started: str) -> set[str]:
    """The trials of the one run of `store` whose start time begins with `started`; InputError otherwise."""
    runs = store.runs()
    matching = [run for run in runs if run.started.startswith(started)]
    if len(matching) != 1 or not started:
        known = ", ".join(run.started for run in runs) or "none"
        raise InputError(f"{store.path}: {len(matching)} runs start with {started!r}, one wanted of: {known}")
    return set(matching[0].trials)


def newest(records: list[TrialRecord]) -> list[TrialRecord]:
    """Of records that answer the same question, the one that finished last."""
    latest: dict[tuple[Any, ...], TrialRecord] = {}
    for record in sorted(records, key=lambda r: r.finished):
        question = (record.system, record.inputs, record.scene, tuple(record.views), record.seed, record.device)
        latest[question] = record
    return sorted(latest.values(), key=lambda r: (r.scene, len(r.views), r.seed, r.system, r.key))


def _open_scenes(records: list[TrialRecord]) -> dict[str, Scene]:
    """The scenes that are still where they were."""
    paths = dict.fromkeys(record.scene_path for record in records)
    return {path: Scene.open(Path(path)) for path in paths if (Path(path) / "scene.json").is_file()}


def _trial_row(store: Store, record: TrialRecord) -> dict[str, Any]:
    warm, iqr = median_and_iqr([steps.total for steps in record.warm])
    calls = record.warm or ([record.cold] if record.cold else [])
    card = record.card
    return {
        "key": record.key,
        "adapter": record.system,
        "title": card.title,
        "inputs": record.inputs,
        "scope": card.scope,
        "scene": record.scene,
        "views": len(record.views),
        "view_ids": " ".join(record.views),
        "repeat": record.seed,
        "device": record.device,
        "status": record.status,
        "message": record.message,
        "log_tail": record.log_tail,
        "load_seconds": record.load_seconds,
        "cold_seconds": record.cold.total if record.cold else None,
        "warm_seconds": warm,
        "warm_iqr": iqr,
        "warm_n": len(record.warm),
        **{
            f"{step}_seconds": float(np.median([getattr(call, step) for call in calls])) if calls else None
            for step in ("prepare", "infer", "finish")
        },
        "peak_rss_bytes": record.peak_rss or None,
        "device_peak_bytes": record.device_allocator,
        "parameters": card.parameters or None,
        "kin": ",".join(card.kin),
        "reference": card.reference,
        "external": record.external,
        "weights": record.weights.partition(":")[0],
        "options": json.dumps(record.options, sort_keys=True),
        "environment": record.environment,
        "adapter_hash": record.adapter_hash,
        "hardware": str(record.hardware),
        "busy": record.others_share > BUSY_SHARE,
        "command": record.command,
        "prediction": record.prediction or "",
        "prediction_path": str(store.prediction_path(record.prediction).resolve()) if record.prediction else "",
        "points": record.points or None,
        "finished": record.finished,
    }


def _score_rows(record: TrialRecord, score: ScoreRecord) -> list[dict[str, Any]]:
    shared = {
        "key": record.key,
        "adapter": record.system,
        "inputs": record.inputs,
        "scope": record.card.scope,
        "scene": record.scene,
        "views": len(record.views),
        "repeat": record.seed,
        "truth": score.truth,
        "truth_id": score.truth_id,
        "truth_made_by": ",".join(score.truth_made_by),
        "protocol": score.protocol,
        "protocol_hash": score.protocol_hash,
    }
    return [{**shared, **msgspec.structs.asdict(value)} for value in score.values]


def _stage_rows(score: ScoreRecord) -> list[dict[str, Any]]:
    return [
        {
            "key": score.trial,
            "truth": score.truth,
            "protocol": score.protocol,
            "stage": stage.name,
            "residual": stage.residual,
            "gain": stage.gain,
            "scale": scale_of(np.array(stage.truth_from_pred)),
            "transform": json.dumps(stage.truth_from_pred),
        }
        for stage in score.stages
    ]


def _sweep_rows(protocol: Protocol, variant: Variant, score: ScoreRecord) -> list[dict[str, Any]]:
    shared = {"key": score.trial, "truth": score.truth, "protocol_hash": protocol.hash, "alignment": variant.alignment}
    return [
        {
            **shared,
            "keep": variant.keep,
            "kept": score.kept,
            **{name: getattr(value, name) for name in ("metric", "value", "low", "high", "status")},
        }
        for value in score.values
        if value.metric in geometry_table(variant.protocol)
    ]


def _said(protocol: Protocol, variant: Protocol) -> str:
    """What a variant changes of `protocol`, for the page's list of protocols."""
    old, new = msgspec.to_builtins(protocol), msgspec.to_builtins(variant)
    changes = {name: value for name, value in new.items() if old[name] != value and name != "name"}
    text = {"as": protocol.name, "but": changes}
    return f"{variant.name}\n{msgspec.json.format(msgspec.json.encode(text), indent=1).decode()}"


def _remark_rows(score: ScoreRecord) -> list[dict[str, Any]]:
    shared = {"key": score.trial, "truth": score.truth, "protocol_hash": score.protocol_hash}
    return [{**shared, "remark": note} for note in dict.fromkeys(score.notes)]


def _scene_rows(records: list[TrialRecord], scenes: dict[str, Scene]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if (known := rows.get(record.scene)) is not None:
            if known["path"] != record.scene_path:
                raise InputError(f"two scenes are called {record.scene}: {known['path']} and {record.scene_path}")
            continue
        scene = scenes.get(record.scene_path)
        images, cards = {}, {}
        if scene is not None:
            images = {v.name: str((scene.path / v.image).resolve()) for v in scene.file.views[:PREVIEW_IMAGES]}
            cards = {kind: msgspec.to_builtins(truth_card(scene, kind)) for kind in scene.truth_kinds}
        rows[record.scene] = {
            "scene": record.scene,
            "title": scene.file.title if scene else record.scene,
            "images": json.dumps(images),
            "truths": json.dumps(cards),
            "refused": _refusal(scene) if scene is not None else "",
            "path": record.scene_path,
        }
    return [{name: value for name, value in row.items() if name != "path"} for row in rows.values()]


def _refusal(scene: Scene) -> str:
    """Why the scene has no COLMAP truth, where one was tried and refused."""
    quality = scene.path / "quality.json"
    if "colmap" in scene.truth_kinds or not quality.is_file():
        return ""
    card = json.loads(quality.read_bytes())
    return "; ".join(map(str, card.get("reasons", ()))) if card.get("verdict") == "refused" else ""


def truth_card(scene: Scene, kind: str) -> TruthCard:
    """What a page says of a scene's truth: with its own error against the exact surface, where that is known."""
    folder = scene.path / "truth" / kind
    diameter = float(json.loads((folder / "truth.json").read_bytes())["diameter"])
    verdict, accuracy, completeness = ("exact", 0.0, 0.0) if kind == "exact" else ("", None, None)
    reasons: tuple[str, ...] = ()
    predicted: tuple[float, float] | None = None
    quality = scene.path / "quality.json"
    if kind == "colmap" and quality.is_file():
        card = json.loads(quality.read_bytes())
        verdict = str(card.get("verdict", ""))
        reasons = tuple(map(str, card.get("reasons", ())))
        against = card.get("exact") or {}
        accuracy, completeness = against.get("accuracy_percent"), against.get("completeness_percent")
        if foretold := card.get("predicted"):
            predicted = foretold["low_percent"], foretold["high_percent"]
    return TruthCard(truth_id(folder), diameter, verdict, accuracy, completeness, reasons, predicted)
