"""Scoring as a stage: whatever a store holds, scored under a protocol and kept. Reports only read what this wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bench.scoring.score import score_trial
from bench.scoring.sweep import sweep
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.scene import Scene
from metrics.scoring.protocol import load_protocol


def score_records(
    store: Store,
    records: Iterable[TrialRecord],
    protocol: str,
    *,
    truth: str | None = None,
    sweeps: bool = False,
    again: bool = False,
    device: str | None = None,
    gone: Callable[[TrialRecord], None] = lambda record: None,
) -> Iterator[tuple[TrialRecord, ScoreRecord]]:
    """Score every record under `protocol` and every truth of its scene, or under `truth` alone; what is stored already
    is not computed again unless `again`. With `sweeps` the protocol's variants are scored too, and not yielded.
    `device` as in `score_trial`; the variants are always measured by the protocol's own backend.

    `gone` is told of a record whose scene is no longer where it was; what was run for the clock is passed over."""
    wanted = load_protocol(protocol)
    for record in records:
        if record.timed_only:
            continue
        if not Path(record.scene_path, "scene.json").is_file():
            gone(record)
            continue
        scene = Scene.open(Path(record.scene_path))
        for kind in scene.truth_kinds:
            if truth not in (None, kind):
                continue
            yield record, score_trial(store, record, scene, kind, wanted, again=again, device=device)
            if sweeps:
                for _ in sweep(store, record, scene, kind, wanted):
                    pass
