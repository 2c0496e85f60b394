"""From a store to the tables that reports read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from adapters.contract import InputError, TruthKind
from bench.scoring.sweep import Variant, variants_of
from bench.systems.datasets import contamination
from bench.systems.measure import BUSY_SHARE, growth, median_and_iqr, now, version
from bench.trials.records import RunRecord, ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.groundtruth.quality import QualityCard
from data.scene import Scene, truth_id
from metrics.scoring.protocol import Protocol, geometry_table, load_protocol
from metrics.similarity import scale_of
from reports.schema import (
    TRUTHS,
    AlignmentRow,
    CloudRow,
    LeftOutRow,
    OfTrial,
    RemarkRow,
    RunInfo,
    SceneRow,
    ScoreRow,
    SweepRow,
    Tables,
    TrialRow,
    TruthCard,
    WeightsKind,
    checked,
)

PREVIEW_IMAGES = 32
FOR_GOOD = "9"  # after every time of ISO 8601


def make_tables(
    store: Store,
    protocol: str,
    truth: TruthKind | None = None,
    only: Collection[str] | None = None,
) -> Tables:
    """Every table of a report on `store` under one protocol, ranked under `truth`; without one, under the truth that
    ranks most systems of one table, the exact one first. Reads only: what was not
    scored yet under this protocol is named in `RunInfo.not_scored`; `score_trial` and `sweep` score it.

    Of trials that differ only in code, environment or policy the newest stands; `only` names the keys of the trials to
    report on. Sweeps are there where they were scored."""
    records = newest(
        [record for record in store.trials() if not record.policy.timing_only and (only is None or record.key in only)]
    )
    if not records:
        raise InputError(f"{store.path}: no finished trial seen, `reconbench run --store {store.path}` makes some")
    scenes = _open_scenes(records)
    wanted = load_protocol(protocol)
    stored_trials = [_stored(store, record, scenes.get(record.scene_path), wanted) for record in records]
    scores = [(record, score) for record, stored in zip(records, stored_trials, strict=True) for score in stored.scores]
    under = _ranks_most(scores, scenes.values(), wanted.rank_metric) if truth is None else truth
    swept = [pair for stored in stored_trials for pair in stored.swept.get(under, ())]
    if all(variant.protocol is wanted for variant, _ in swept):
        swept = []  # the ranked choice alone is no sweep
    runs = store.runs()
    clouds = ((score, store.cloud_path(score)) for _, score in scores)
    kinds = {score.truth for _, score in scores}
    missing = sum(stored.missing > 0 for stored in stored_trials)
    command = f"reconbench score --store {store.path} --protocol {protocol}"
    return checked(
        Tables(
            trials=tuple(_trial_row(store, record, scenes.get(record.scene_path)) for record in records),
            scores=tuple(row for record, score in scores for row in _score_rows(record, score)),
            alignments=tuple(row for _, score in scores for row in _stage_rows(score)),
            clouds=tuple(
                CloudRow(key=score.trial, truth=score.truth, path=path.resolve())
                for score, path in clouds
                if path.is_file()
            ),
            scenes=tuple(_scene_rows(records, scenes)),
            left_out=tuple(_left_out_rows(store.trials(), runs)),
            run=RunInfo(
                version=version(),
                created=now(),
                commands=tuple(dict.fromkeys(run.command for run in runs)),
                protocols={wanted.hash: msgspec.json.format(msgspec.json.encode(wanted), indent=1).decode()}
                | {variant.protocol.hash: _changed_text(wanted, variant.protocol) for variant, _ in swept},
                hardware="; ".join(dict.fromkeys(str(record.hardware) for record in records)),
                overhead_seconds=next((r.overhead_seconds for r in runs[::-1] if r.overhead_seconds is not None), None),
                remarks=tuple(dict.fromkeys(sentence for run in runs for sentence in run.remarks)),
                rank_metric=wanted.rank_metric,
                rank_truth=under if under in kinds or not kinds else min(kinds),
                not_scored=(
                    f"{missing} of {len(records)} trials are not scored under {wanted.name} yet: `{command}` scores "
                    f"{'it' if missing == 1 else 'them'}"
                    if missing
                    else ""
                ),
            ),
            sweeps=tuple(row for variant, score in swept for row in _sweep_rows(wanted, variant, score)),
            remarks=tuple(row for record, score in scores for row in _remark_rows(record, score)),
        )
    )


@dataclass(frozen=True)
class _Stored:
    """What a store holds of one trial's scores."""

    scores: list[ScoreRecord]  # under every truth of its scene
    swept: dict[TruthKind, list[tuple[Variant, ScoreRecord]]]  # of the truths under which every variant was scored
    missing: int  # truths under which it was not scored


def _stored(store: Store, record: TrialRecord, scene: Scene | None, protocol: Protocol) -> _Stored:
    out = _Stored([], {}, 0)
    if scene is None or record.timed_only:
        return out
    missing = 0
    for kind in scene.truth_kinds:
        truth = truth_id(scene.path / "truth" / kind)
        score = store.score(record, protocol.hash, truth)
        if score is None:
            missing += 1
            continue
        out.scores.append(score)
        pairs = [
            (variant, store.score(record, variant.protocol.hash, truth, brief=True))
            for variant in variants_of(store, record, protocol)
        ]
        whole = [(variant, variant_score) for variant, variant_score in pairs if variant_score is not None]
        if len(whole) == len(pairs):
            out.swept[kind] = whole
    return replace(out, missing=missing)


def _ranks_most(scores: Sequence[tuple[TrialRecord, ScoreRecord]], scenes: Collection[Scene], metric: str) -> TruthKind:
    """The truth under which one table ranks most systems; where they rank alike, the one that most scenes have.

    References, kin of the truth and systems that were given the cameras of another truth are not ranked."""
    ranked: dict[TruthKind, dict[tuple[str, str], set[str]]] = {kind: defaultdict(set) for kind in TRUTHS}
    barred: set[tuple[TruthKind, str]] = set()
    for record, score in scores:
        kin = {record.adapter, *record.card.kin} & {*score.truth_made_by}
        if kin or record.cameras_of not in (None, score.truth) or record.card.reference or record.external:
            barred.add((score.truth, record.system))
        elif any(value.metric == metric and value.status == "ok" for value in score.values):
            ranked[score.truth][record.inputs, record.card.scope].add(record.system)
    having = Counter(kind for scene in scenes for kind in scene.truth_kinds)

    def most(kind: TruthKind) -> tuple[int, int]:
        tables = (sum((kind, system) not in barred for system in own) for own in ranked[kind].values())
        return max(tables, default=0), having[kind]

    return max(TRUTHS, key=most)


def _left_out_rows(records: list[TrialRecord], runs: list[RunRecord]) -> Iterator[LeftOutRow]:
    """What some run left out and none has finished, each with the newest reason; once, whatever the seeds."""
    finished: dict[tuple[str, str, str, int, int], str] = {}
    for r in records:
        trial = (r.system, r.inputs, r.scene, len(r.views), r.seed)
        # What was missing may be told of anew; an answer is told of for good.
        finished[trial] = max(finished.get(trial, ""), r.finished if r.status == "unavailable" else FOR_GOOD)
    reasons: dict[tuple[str, str, str, int, int], tuple[str, str]] = {}
    for run in sorted(runs, key=lambda run: run.started):
        for left in run.left_out:
            reasons[left.system, left.inputs, left.scene, left.views, left.seed] = run.started, left.reason
    open_still = {
        (*trial[:-1], reason): None for trial, (told, reason) in reasons.items() if finished.get(trial, "") < told
    }
    for system, inputs, scene, views, reason in open_still:
        yield LeftOutRow(adapter=system, inputs=inputs, scene=scene, views=views, reason=reason)


def keys_of_run(store: Store, started: str) -> set[str]:
    """The trials of the one run of `store` whose start time begins with `started`; InputError otherwise."""
    runs = store.runs()
    matching = [run for run in runs if run.started.startswith(started)]
    if len(matching) != 1 or not started:
        known = ", ".join(run.started for run in runs) or "none"
        raise InputError(f"{store.path}: {len(matching)} runs start with {started!r}, one wanted of: {known}")
    return set(matching[0].trials)


def newest(records: list[TrialRecord]) -> list[TrialRecord]:
    """Of records that answer the same question on the same machine, the one that finished last.

    What says that something was missing gives way to an answer, wherever that came from. Clouds made elsewhere are
    told apart where they bear one name, by their keys: of what they hold, and of how they were aligned."""
    latest: dict[tuple[_Question, str, str], TrialRecord] = {}
    for record in sorted(records, key=lambda r: (r.status != "unavailable", r.finished)):
        # What came in a bundle takes no other's place.
        origin = record.origin.sha256 if record.origin else ""
        latest[_question(record), record.hardware.fingerprint, origin] = record
    answered = {question for (question, *_), record in latest.items() if record.status != "unavailable"}
    kept = [r for (question, *_), r in latest.items() if r.status != "unavailable" or question not in answered]
    names = Counter(_question(record)[1:] for record in kept if record.external)
    shared = {question[0] for question, count in names.items() if count > 1}
    return sorted(
        (
            msgspec.structs.replace(r, adapter=f"{r.adapter} {r.key[:6]}") if r.external and r.system in shared else r
            for r in kept
        ),
        key=lambda r: (r.scene, len(r.views), r.seed, r.system, r.key),
    )


_Question = tuple[str, str, str, str, tuple[str, ...], int, str]


def _question(record: TrialRecord) -> _Question:
    """What a record answers: another code, environment or policy answers the same."""
    cloud = record.key if record.external else ""
    views = tuple(record.views)
    return cloud, record.system, record.inputs, record.scene, views, record.seed, record.device


def _open_scenes(records: list[TrialRecord]) -> dict[str, Scene]:
    """The scenes that are still where they were."""
    paths = dict.fromkeys(record.scene_path for record in records)
    return {path: Scene.open(Path(path)) for path in paths if (Path(path) / "scene.json").is_file()}


def _trial_row(store: Store, record: TrialRecord, scene: Scene | None) -> TrialRow:
    warm, iqr = median_and_iqr([steps.total for steps in record.warm])
    calls = record.warm or ([record.cold] if record.cold else [])
    drawn = [steps.joules for steps in calls if steps.joules is not None]
    card, frames = record.card, record.frame_seconds
    path = store.prediction_path(record.prediction) if record.prediction else None
    return TrialRow(
        **vars(_of_trial(record)),
        title=card.title,
        view_ids=" ".join(record.views),
        device=record.device,
        status=record.status,
        message=record.message,
        log_tail=record.log_tail,
        load_seconds=record.load_seconds,
        cold_seconds=record.cold.total if record.cold else None,
        warm_seconds=warm,
        warm_iqr=iqr,
        warm_n=len(record.warm),
        prepare_seconds=_median([steps.prepare for steps in calls]),
        infer_seconds=_median([steps.infer for steps in calls]),
        finish_seconds=_median([steps.finish for steps in calls]),
        frames=len(frames) or None,
        last_frame_seconds=frames[-1] if frames else None,
        frame_growth=growth(frames),
        peak_rss_bytes=record.peak_rss or None,
        device_peak_bytes=record.device_allocator,
        device_driver_bytes=record.device_driver,
        device_joules=float(np.mean(drawn)) if drawn else None,
        precision=record.precision,
        resolution=record.resolution,
        attention=record.attention,
        foreground=record.foreground,
        parameters=card.parameters or None,
        kin=tuple(card.kin),
        contamination=contamination(card.training, scene.file.source) if scene else (),
        reference=card.reference,
        origin=str(record.origin) if record.origin else "",
        verified=record.origin.verified if record.origin else None,
        cameras_of=record.cameras_of,
        external=record.external,
        weights=_weights_kind(record),
        options=json.dumps(record.options, sort_keys=True),
        environment=record.environment,
        adapter_hash=record.adapter_hash,
        hardware=str(record.hardware),
        busy=record.others_share > BUSY_SHARE,
        isolated=record.isolated if record.ran else None,
        command=record.command,
        prediction=record.prediction or "",
        prediction_path=str(path.resolve()) if path is not None and path.is_file() else "",
        points=record.points or None,
        points_kept=record.points_kept or None,
        finished=record.finished,
    )


def _of_trial(record: TrialRecord) -> OfTrial:
    return OfTrial(
        key=record.key,
        adapter=record.system,
        inputs=record.inputs,
        scope=record.card.scope,
        scene=record.scene,
        views=len(record.views),
        repeat=record.seed,
    )


def _median(seconds: list[float]) -> float | None:
    return float(np.median(seconds)) if seconds else None


def _weights_kind(record: TrialRecord) -> WeightsKind:
    kind: WeightsKind = msgspec.convert(record.weights.partition(":")[0], WeightsKind)
    return kind


def _score_rows(record: TrialRecord, score: ScoreRecord) -> Iterator[ScoreRow]:
    for value in score.values:
        yield ScoreRow(
            **vars(_of_trial(record)),
            truth=score.truth,
            truth_id=score.truth_id,
            truth_made_by=tuple(score.truth_made_by),
            protocol=score.protocol,
            protocol_hash=score.protocol_hash,
            metric=value.metric,
            unit=value.unit,
            better=value.better,
            value=value.value,
            low=value.low,
            high=value.high,
            floor=value.floor,
            before_icp=value.before_icp,
            judged=value.judged,
            least=value.least,
            most=value.most,
            lower=value.lower,
            upper=value.upper,
            gap=value.gap,
            pairs=value.pairs,
            # What a truth knows stands beside the scores it gives: not beside those that ask nothing of its surface.
            known=score.known if value.judged is not None else None,
            status=value.status,
            note=value.note,
        )


def _stage_rows(score: ScoreRecord) -> Iterator[AlignmentRow]:
    for stage in score.stages:
        yield AlignmentRow(
            key=score.trial,
            truth=score.truth,
            protocol_hash=score.protocol_hash,
            stage=stage.name,
            residual=stage.residual,
            gain=stage.gain,
            scale=scale_of(np.array(stage.truth_from_pred)),
            truth_from_prediction=tuple(map(tuple, stage.truth_from_pred)),
        )


def _sweep_rows(protocol: Protocol, variant: Variant, score: ScoreRecord) -> Iterator[SweepRow]:
    for value in score.values:
        if value.metric in geometry_table(variant.protocol):
            yield SweepRow(
                key=score.trial,
                truth=score.truth,
                protocol_hash=protocol.hash,
                alignment=variant.alignment,
                keep=variant.keep,
                kept=score.kept,
                metric=value.metric,
                value=value.value,
                low=value.low,
                high=value.high,
                status=value.status,
            )


def _changed_text(protocol: Protocol, variant: Protocol) -> str:
    """What a variant changes of `protocol`, for the page's list of protocols."""
    old, new = msgspec.to_builtins(protocol), msgspec.to_builtins(variant)
    changes = {name: value for name, value in new.items() if old[name] != value and name != "name"}
    text = {"as": protocol.name, "but": changes}
    return f"{variant.name}\n{msgspec.json.format(msgspec.json.encode(text), indent=1).decode()}"


def _remark_rows(record: TrialRecord, score: ScoreRecord) -> Iterator[RemarkRow]:
    claims = [f"its bundle claims otherwise: {record.origin.why}"] if record.origin and record.origin.why else []
    for note in dict.fromkeys([*claims, *score.notes]):
        yield RemarkRow(key=score.trial, truth=score.truth, protocol_hash=score.protocol_hash, remark=note)


def _scene_rows(records: list[TrialRecord], scenes: dict[str, Scene]) -> Iterator[SceneRow]:
    paths: dict[str, str] = {}
    for record in records:
        if (known := paths.setdefault(record.scene, record.scene_path)) != record.scene_path:
            raise InputError(f"two scenes are called {record.scene}: {known} and {record.scene_path}")
    for name, path in paths.items():
        scene = scenes.get(path)
        if scene is None:
            yield SceneRow(scene=name, title=name, images={}, truths={})
            continue
        card = _quality(scene)
        photos = card.photos if card is not None else []
        yield SceneRow(
            scene=name,
            title=scene.file.title,
            images=_previews(scene),
            truths={kind: truth_card(scene, kind) for kind in scene.truth_kinds},
            refused=scene.refused,
            placed=tuple(photo.file for photo in photos if photo.placed),
            not_placed={photo.file: photo.why for photo in photos if not photo.placed},
        )


def _previews(scene: Scene) -> dict[str, Path]:
    """The first photos; none of a scene that came without any, as in a bundle."""
    paths = {view.name: (scene.path / view.image).resolve() for view in scene.file.views[:PREVIEW_IMAGES]}
    return paths if any(path.is_file() for path in paths.values()) else {}


def _quality(scene: Scene) -> QualityCard | None:
    path = scene.path / "quality.json"
    return QualityCard.read(path) if path.is_file() else None


def truth_card(scene: Scene, kind: TruthKind) -> TruthCard:
    """What a page says of a scene's truth: with its own error against the exact surface, where that is known."""
    folder = scene.path / "truth" / kind
    identity, diameter = truth_id(folder), scene.truth_file(kind).diameter
    if kind == "exact":
        return TruthCard(identity, diameter, "exact", 0.0, 0.0)
    card = _quality(scene) if kind == "colmap" else None
    if card is None:
        return TruthCard(identity, diameter)
    return TruthCard(
        identity,
        diameter,
        card.verdict,
        card.exact.accuracy_percent if card.exact else None,
        card.exact.completeness_percent if card.exact else None,
        tuple(card.reasons),
        (card.predicted.low_percent, card.predicted.high_percent) if card.predicted else None,
        card.fidelity.tau if card.fidelity else None,
        card.fidelity.perfect_fscore if card.fidelity else None,
        card.fidelity.judged if card.fidelity else None,
        card.fidelity.known if card.fidelity else None,
    )
