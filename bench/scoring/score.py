"""From predictions to score rows: every protocol and truth asked for, once each, without any model."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from adapters.contract import U8, InputError, Reconstruction, ScoreStatus
from bench.trials.plan import read_truth
from bench.trials.records import ScoredStage, ScoredValue, ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.scene import Scene
from metrics.points import device_of
from metrics.scoring.prepared import TRUTH_FIELDS
from metrics.scoring.protocol import Align, Protocol, load_protocol, metric_table
from metrics.scoring.score import ErrorCloud, Memo, PreparedTruth, Score, ScoringError, Value, score
from metrics.scoring.truth import Truth

UNSEEN = 200  # the grey of truth points that no image shows


@functools.lru_cache(maxsize=16)
def _prepared(path: Path, kind: str, protocol: Protocol) -> PreparedTruth:
    return PreparedTruth.of(read_truth(Scene.open(path), kind), protocol)


@functools.lru_cache(maxsize=1)
def _prediction(store: Store, name: str) -> Reconstruction:
    return store.prediction(name)


@functools.lru_cache(maxsize=64)
def _floors(path: Path, kind: str, protocol: Protocol) -> dict[tuple[str | None, int], dict[str, float]]:
    return {}


def prepare(scene: Scene, kind: str, protocol: Protocol) -> PreparedTruth:
    """A scene's truth made ready for a protocol, once a process for all that agree in what concerns the truth.

    InputError where the truth has too few points inside its crop volume."""
    path = scene.path.resolve()
    own = {field: getattr(protocol, field) for field in TRUTH_FIELDS}
    plain = msgspec.structs.replace(protocol, name="", description="", source="", unstated=(), differs=())
    alike = msgspec.structs.replace(plain, align=Align(), confidence_keep=1.0)
    try:
        ready = _prepared(path, kind, Protocol(name="", version=0, description="", **own))
    except ScoringError as error:
        raise InputError(f"{scene.path}: {error}") from error
    return ready.under(protocol, _floors(path, kind, alike))


def score_trial(
    store: Store,
    record: TrialRecord,
    scene: Scene,
    kind: str,
    protocol: Protocol | str,
    again: bool = False,
    brief: bool = False,
    device: str | None = None,
    memo: Memo | None = None,
) -> ScoreRecord:
    """The score of a trial under one truth and protocol (or its name): the stored one, or a new one, which is then
    stored; `brief` and `memo` as in `metrics.scoring.score.score`.

    A trial that failed is scored as failed in every metric: its rows must stand in the tables, or its failures would be
    averaged away.

    `device`, "cpu", "cuda" or "cuda:N": what measures, by default what the protocol's own backend asks for. A score
    measured by another backend than the protocol's has a hash of its own, and is not ranked. InputError where the
    device is not here."""
    if isinstance(protocol, str):
        protocol = load_protocol(protocol)
    truth = read_truth(scene, kind)
    device = device or protocol.backend
    backend = device.split(":")[0]
    digest = protocol.hash_on(backend)
    if not again and (known := store.score(record, digest, truth.id, brief)) is not None:
        return known
    lasting = True
    if record.status != "ok" or record.prediction is None:
        reason = f"{record.status}: {record.message}" if record.status != "ok" else "no prediction was stored"
        # What is not installed has not failed; whatever was asked and gave nothing has.
        status: ScoreStatus = "unsupported" if record.status == "unavailable" else "failed"
        result = Score({name: Value(status, note=reason[:300]) for name in metric_table(protocol)})
    else:
        device_of(device)  # what is not here is the user's to mend, not the trial's failure
        result, lasting = _guarded(partial(_score, store, record, scene, kind, protocol, brief, device, memo), protocol)
    done = score_record(record, truth, protocol, result, backend, brief)
    if lasting:
        store.put_score(done, result.cloud)
    return done


def score_record(
    record: TrialRecord, truth: Truth, protocol: Protocol, result: Score, backend: str = "cpu", brief: bool = False
) -> ScoreRecord:
    """What is kept of a score of `record` that `backend` measured."""
    units = metric_table(protocol)
    return ScoreRecord(
        trial=record.key,
        of=record.scored_as,
        truth=truth.kind,
        truth_id=truth.id,
        truth_made_by=list(truth.made_by),
        protocol=protocol.name,
        protocol_version=protocol.version,
        protocol_hash=protocol.hash_on(backend),
        values=[
            ScoredValue(
                name,
                *units[name],
                v.status,
                v.value,
                v.low,
                v.high,
                v.floor,
                v.before_icp,
                v.note,
                v.judged,
                v.least,
                v.most,
                v.lower,
                v.upper,
                v.gap,
                v.pairs,
            )
            for name, v in result.values.items()
        ],
        stages=[ScoredStage(s.name, s.truth_from_pred.tolist(), s.residual, s.gain) for s in result.stages],
        points=result.points,
        unobserved=result.unobserved,
        kept=result.kept,
        known=result.known,
        brief=brief,
        notes=[*result.notes, *([f"measured by the {backend} backend"] if backend != "cpu" else [])],
    )


def _finite(value: Value) -> Value:
    """The same where all of it is finite, else failed: what is not a number is no score."""
    numbers = [number for number in dataclasses.astuple(value) if isinstance(number, float)]
    return value if all(map(math.isfinite, numbers)) else Value("failed", note="what came out is not a finite number")


def _guarded(compute: Callable[[], Score], protocol: Protocol) -> tuple[Score, bool]:
    """The score that `compute` makes of a trial's prediction, and whether it is to be stored.

    Whatever goes wrong is a failed cell with its sentence: one trial's scoring never ends a run. What may be otherwise
    next time (a file that is missing, memory that ran out) is not stored."""
    try:
        result = compute()
        return dataclasses.replace(result, values={name: _finite(v) for name, v in result.values.items()}), True
    except Exception as error:  # noqa: BLE001 - the code of a metric may raise anything on numbers nobody foresaw
        mendable = isinstance(error, InputError)
        reason = str(error) if mendable else f"scoring broke: {type(error).__name__}: {error}"
        failed = Score({name: Value("failed", note=reason[:300]) for name in metric_table(protocol)})
        return failed, not isinstance(error, (InputError, OSError, MemoryError))


def _score(
    store: Store,
    record: TrialRecord,
    scene: Scene,
    kind: str,
    protocol: Protocol,
    brief: bool,
    device: str,
    memo: Memo | None,
) -> Score:
    assert record.prediction is not None
    prediction = _prediction(store, record.prediction)
    prepared = prepare(scene, kind, protocol).on(None if device == "cpu" else device)
    photos = () if brief else tuple(scene.image(view) for view in record.targets)
    result = score(
        prediction,
        prepared,
        tuple(record.views),
        scope=record.card.scope,
        # Made with one truth's cameras it is posed in that frame; the scene's other truths are registered to it.
        posed=record.posed,
        photos=photos,
        brief=brief,
        memo=memo,
    )
    if record.points_kept < record.points:
        drawn = f"a uniform draw of {record.points_kept} of {record.points} points was stored and scored"
        result = dataclasses.replace(result, notes=(drawn, *result.notes))
    if result.cloud is None:
        return result
    return dataclasses.replace(result, cloud=_coloured(result.cloud, scene, prepared))


_colors: dict[tuple[str, str, bytes], U8] = {}  # a process scores few truths


def _coloured(cloud: ErrorCloud, scene: Scene, prepared: PreparedTruth) -> ErrorCloud:
    """The same with the truth's own colours: of each point, the mean over the images that see it; without them where
    the images are not there, as in a bundle."""
    truth = prepared.truth
    if not all((scene.path / view.image).is_file() for view in scene.file.views):
        return cloud
    place = (str(scene.path), truth.id, cloud.shown.tobytes())
    if place not in _colors:
        total, times = np.zeros((len(cloud.shown), 3)), np.zeros(len(cloud.shown))
        for i, view in enumerate(truth.view_names):
            own = np.flatnonzero(prepared.visibility[i][cloud.shown])
            if len(own):
                image = scene.image(view)
                pixel, _ = truth.cameras.project(i, cloud.truth[own])
                x, y = np.clip(pixel.astype(np.int64), 0, np.array(image.shape[1::-1]) - 1).T
                total[own] += image[y, x]
                times[own] += 1
        colors = np.full(total.shape, UNSEEN, np.uint8)
        colors[times > 0] = np.round(total[times > 0] / times[times > 0, None]).astype(np.uint8)
        _colors[place] = colors
    return dataclasses.replace(cloud, truth_colors=_colors[place])
