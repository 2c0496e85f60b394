"""From predictions to score rows: every protocol and truth asked for, once each, without any model."""

from __future__ import annotations

import functools
from pathlib import Path

from bench.plan import read_truth
from bench.store import ScoredStage, ScoredValue, ScoreRecord, Store, TrialRecord
from data.images import DataError
from data.scene import Scene
from metrics.protocol import Protocol, load_protocol, metric_table
from metrics.scoring import PreparedTruth, Score, ScoringError, Status, Value, score


@functools.lru_cache(maxsize=16)
def _prepared(path: Path, kind: str, protocol_hash: str, protocol_name: str) -> PreparedTruth:
    return PreparedTruth.of(read_truth(Scene.open(path), kind), load_protocol(protocol_name))


def prepare(scene: Scene, kind: str, protocol: Protocol, protocol_name: str) -> PreparedTruth:
    """A scene's truth made ready for a protocol, once a process."""
    return _prepared(scene.path.resolve(), kind, protocol.hash, protocol_name)


def score_trial(
    store: Store,
    record: TrialRecord,
    scene: Scene,
    kind: str,
    protocol_name: str,
    again: bool = False,
) -> ScoreRecord:
    """The score of a trial under one truth and protocol: the stored one, or a new one, which is then stored.

    A trial that failed is scored as failed in every metric: its rows must stand in the tables, or its failures would be
    averaged away."""
    protocol = load_protocol(protocol_name)
    truth = read_truth(scene, kind)
    if not again and (known := store.score(record.key, protocol.hash, truth.id)) is not None:
        return known
    cloud = None
    if record.status != "ok" or record.prediction is None:
        reason = f"{record.status}: {record.message}" if record.status != "ok" else "no prediction was stored"
        # What is not installed has not failed; whatever was asked and gave nothing has.
        status: Status = "unsupported" if record.status == "unavailable" else "failed"
        result = Score({name: Value(status, note=reason[:300]) for name in metric_table(protocol)})
    else:
        result = _score(store, record, scene, kind, protocol, protocol_name)
        cloud = result.cloud
    units = metric_table(protocol)
    done = ScoreRecord(
        trial=record.key,
        truth=kind,
        truth_id=truth.id,
        truth_made_by=list(truth.made_by),
        protocol=protocol.name,
        protocol_version=protocol.version,
        protocol_hash=protocol.hash,
        values=[
            ScoredValue(name, *units[name], v.status, v.value, v.low, v.high, v.floor, v.before_icp, v.note)
            for name, v in result.values.items()
        ],
        stages=[ScoredStage(s.name, s.truth_from_pred.tolist(), s.residual, s.gain) for s in result.stages],
        points=result.points,
        unobserved=result.unobserved,
        notes=list(result.notes),
    )
    store.put_score(done, cloud)
    return done


def _score(store: Store, record: TrialRecord, scene: Scene, kind: str, protocol: Protocol, protocol_name: str) -> Score:
    assert record.prediction is not None
    prediction = store.prediction(record.prediction)
    try:
        prepared = prepare(scene, kind, protocol, protocol_name)
    except ScoringError as error:
        raise DataError(f"{scene.path}: {error}") from error
    # A prediction made with one truth's cameras is posed in that frame; the scene's other truths are registered to it.
    photos = tuple(scene.image(view) for view in record.targets)
    views = tuple(record.views)
    return score(prediction, prepared, views, scope=record.card.scope, posed=record.posed, photos=photos)
