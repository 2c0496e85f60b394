"""Why two protocols disagree: the same stored predictions under both, the difference broken down by stage.

One stage after the other is swapped from the first protocol to the second, once in the order of the pipeline
(confidence, alignment, crop, equalisation, sampling, formula), once in reverse; a stage's part is the mean of its two,
so the parts make up the whole exactly. Lengths are compared by factors, whose product is the ratio of the two values
whatever their units; shares of points by differences, whose sum is theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.contract import InputError
from bench.scoring.score import score_trial
from bench.trials.records import ScoredValue, ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.scene import Scene
from metrics.scoring.memo import Memo
from metrics.scoring.protocol import Protocol, completeness, differing
from reports.schema import DifferenceRow


@dataclass(frozen=True)
class Part:
    """What swapping one stage does: a factor of a length, a difference of a share."""

    stage: str
    forward: float  # swapped after the stages before it
    backward: float  # swapped after the stages behind it
    mean: float  # of the two: geometric for factors


@dataclass(frozen=True)
class Difference:
    """One trial's value under two protocols, and where the difference comes from."""

    record: TrialRecord
    family: str  # what the two metrics have in common: chamfer, fscore ...
    a: ScoredValue
    b: ScoredValue
    by_factor: bool
    parts: tuple[Part, ...]  # none where the two cannot be compared
    note: str = ""  # why not


def explain(
    store: Store,
    records: Sequence[TrialRecord],
    truth: str,
    a: Protocol,
    b: Protocol,
    advance: Callable[[str], None] = lambda label: None,
) -> Iterator[Difference]:
    """Every difference of every record's trial, a trial at a time. What is scored on the way is stored.

    InputError where the two protocols score alike; InputError where nothing can be scored."""
    stages = differing(a, b)
    if not stages:
        raise InputError(f"{a.name} and {b.name} score alike: there is nothing to explain")
    judged = 0
    # A scene at a time: its truth, made ready for each protocol, is kept in memory.
    for record in sorted(records, key=lambda record: record.scene_path):
        scene = _scene(record, truth)
        if scene is None or record.prediction is None:
            continue
        judged += 1
        walks = []
        memo = Memo()  # what the walks share: alignment, crop, distances under another formula
        for order in (stages, stages[::-1]):
            walk = [a.swapped(b, order[:i]) for i in range(len(order) + 1)]
            walks.append([_scored(store, record, scene, truth, step, memo) for step in walk])
            advance(f"{record.system} on {record.scene}, {len(record.views)} views")
        for family in families(a):
            if family in families(b):
                yield _difference(record, family, stages, walks)
    if not judged:
        raise InputError(f"{store.path}: no trial with a prediction and {truth} truth seen, one at least wanted")


def families(protocol: Protocol) -> dict[str, str]:
    """What a metric measures -> the id of the one this protocol prints of it, the headline one where it has several."""
    ranked = protocol.rank_metric.partition("@")[2] if protocol.rank_metric.startswith("fscore@") else ""
    threshold = ranked or protocol.label(protocol.thresholds[0])
    metrics = {"accuracy": "accuracy", "completeness": completeness(protocol)}
    metrics["chamfer"] = f"chamfer-{protocol.chamfer[0]}"
    metrics |= {name: f"{name}@{threshold}" for name in ("precision", "recall", "fscore")}
    return metrics | ({"emd": "emd"} if protocol.emd_draws else {})


def _scene(record: TrialRecord, truth: str) -> Scene | None:
    if not Path(record.scene_path, "scene.json").is_file():
        return None
    scene = Scene.open(Path(record.scene_path))
    return scene if truth in scene.truth_kinds else None


def _scored(
    store: Store,
    record: TrialRecord,
    scene: Scene,
    truth: str,
    step: Protocol,
    memo: Memo,
) -> dict[str, ScoredValue]:
    score: ScoreRecord = score_trial(store, record, scene, truth, step, brief=True, memo=memo)
    values = {value.metric: value for value in score.values}
    return {family: values[metric] for family, metric in families(step).items() if metric in values}


def _difference(
    record: TrialRecord, family: str, stages: Sequence[str], walks: list[list[dict[str, ScoredValue]]]
) -> Difference:
    values = [[step.get(family) for step in walk] for walk in walks]
    a, b = walks[0][0][family], walks[0][-1][family]
    by_factor = a.unit != "ratio"
    for walk in values:
        for step in walk:
            if step is None or step.value is None:
                note = step.note if step is not None else "a stage between them does not measure it"
                return Difference(record, family, a, b, by_factor, (), note)
            if by_factor and step.value <= 0:
                return Difference(record, family, a, b, by_factor, (), "a distance of 0 has no factor")
    steps = [[_gain(walk[i], walk[i + 1], by_factor) for i in range(len(stages))] for walk in values]
    forward = dict(zip(stages, steps[0], strict=True))
    backward = dict(zip(stages[::-1], steps[1], strict=True))
    parts = tuple(
        Part(
            stage,
            *(_shown(x, by_factor) for x in (forward[stage], backward[stage], (forward[stage] + backward[stage]) / 2)),
        )
        for stage in stages
    )
    return Difference(record, family, a, b, by_factor, parts)


def _gain(before: ScoredValue | None, after: ScoredValue | None, by_factor: bool) -> float:
    assert before is not None and after is not None and before.value is not None and after.value is not None
    return math.log(after.value / before.value) if by_factor else after.value - before.value


def _shown(gain: float, by_factor: bool) -> float:
    return math.exp(gain) if by_factor else gain


def mean_parts(differences: Sequence[Difference]) -> dict[str, float]:
    """Stage -> mean part of differences of one family, geometric for factors: these make up the mean whole as well."""
    out: dict[str, float] = {}
    for i, part in enumerate(differences[0].parts):
        gains = [math.log(d.parts[i].mean) if d.by_factor else d.parts[i].mean for d in differences]
        out[part.stage] = _shown(math.fsum(gains) / len(gains), differences[0].by_factor)
    return out


def difference_rows(differences: Sequence[Difference], a: Protocol, b: Protocol, truth: str) -> Iterator[DifferenceRow]:
    """A row a trial, metric and stage; a row without a stage says why two values cannot be compared."""
    for difference in differences:
        record = difference.record
        whole = DifferenceRow(
            adapter=record.system,
            inputs=record.inputs,
            scene=record.scene,
            views=len(record.views),
            seed=record.seed,
            truth=truth,
            measures=difference.family,
            protocol_a=a.name,
            metric_a=difference.a.metric,
            unit_a=difference.a.unit,
            value_a=difference.a.value,
            protocol_b=b.name,
            metric_b=difference.b.metric,
            unit_b=difference.b.unit,
            value_b=difference.b.value,
            parts_are="factors" if difference.by_factor else "differences",
        )
        for part in difference.parts:
            yield replace(whole, stage=part.stage, part=part.mean, in_order=part.forward, in_reverse=part.backward)
        if not difference.parts:
            yield replace(whole, note=difference.note)
