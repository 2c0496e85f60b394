"""The face of an engine, and what every engine does with one trial: run it, keep it, score it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from bench.scoring.score import score_trial
from bench.systems.measure import Outcome, hardware, now
from bench.systems.weights import RANDOM
from bench.trials.plan import Trial
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.run import run_trial
from bench.trials.store import Store
from metrics.scoring.protocol import Protocol as Scoring


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for every trial of a run."""

    truth: str  # the kind to rank under
    protocols: tuple[Scoring, ...]  # the first one ranks
    keep_points: int | None = None  # of a prediction of more points a uniform draw of so many is kept
    metrics_device: str | None = None


@dataclass(frozen=True)
class Job:
    """One trial handed to an engine, to be scored alone where it was run before."""

    trial: Trial
    record: TrialRecord | None = None  # of before
    most_seconds: float = math.inf  # what takes longer is stopped, and nothing of it is kept


@dataclass(frozen=True)
class Finished:
    """What became of a job; without a record nothing was kept, and `reason` says why unless the time was up."""

    job: Job
    record: TrialRecord | None
    scores: list[ScoreRecord] = field(default_factory=list)  # under the first protocol and every truth of the scene
    reason: str = ""


class Engine(Protocol):
    """Where a plan runs. The plan's own bookkeeping (what is stored already, locks, budget) is `run_plan`'s."""

    @property
    def slots(self) -> int:
        """How many jobs it takes before the first of them must be waited for."""

    def open(self, store: Store, settings: Settings, run: str, scored: bool, tell: Callable[[str], None]) -> None:
        """Make ready to run into `store`, which holds the record of `run`; what scores is compiled where `scored`.
        `tell` gets a sentence on what befalls the engine itself. InputError where it cannot run."""

    def start(self, job: Job) -> None:
        """Take a job."""

    def finished(self) -> Finished:
        """Wait for the next of the jobs taken to end."""

    def overhead_seconds(self) -> float | None:
        """What the harness adds to one timed call there."""


def truths_of(trial: Trial, truth: str) -> list[str]:
    """The truths to score under: the one asked for first, then every other one of the scene; none for the clock."""
    if trial.policy.timing_only or trial.weights == RANDOM:
        return []
    kinds = trial.scene.truth_kinds
    if kinds and truth not in kinds:
        trial.scene.truth(truth)  # raises, naming what there is
    return [truth, *(kind for kind in kinds if kind != truth)] if kinds else []


def score_kept(trial: Trial, record: TrialRecord, store: Store, settings: Settings) -> list[ScoreRecord]:
    """Score a kept trial under every protocol and truth; the scores under the first protocol."""
    scores = [
        [
            score_trial(store, record, trial.scene, kind, protocol, device=settings.metrics_device)
            for kind in truths_of(trial, settings.truth)
        ]
        for protocol in settings.protocols
    ]
    return scores[0]


def run_and_keep(
    trial: Trial, store: Store, keep_points: int | None, most_seconds: float = math.inf
) -> TrialRecord | None:
    """Run `trial` on this machine; its stored record, or None, and nothing stored, where it did not end within
    `most_seconds`."""
    outcome, prediction, key = _refusal(trial), None, trial.key
    if outcome is None:
        asked = trial.policy
        hurried = msgspec.structs.replace(asked, deadline=max(min(asked.deadline, most_seconds), 1.0))
        outcome, prediction = run_trial(replace(trial, policy=hurried), store.log_path(key))
        if outcome.status == "timeout" and hurried.deadline < asked.deadline:
            return None
    identity, kept = None, 0
    if prediction is not None and not trial.policy.timing_only:
        identity, kept = store.put_prediction(prediction, keep_points)
    record = TrialRecord(
        key=key,
        identity=trial.identity,
        adapter=trial.adapter.name,
        adapter_hash=trial.adapter.hash,
        card=trial.adapter.card,
        environment=trial.environment,
        weights=trial.weights,
        options=trial.contestant.options,
        inputs=trial.inputs,
        scene=trial.scene.name,
        scene_path=str(trial.scene.path.resolve()),
        inputs_hash=trial.inputs_hash,
        views=list(trial.views),
        order=trial.order,
        targets=list(trial.targets),
        seed=trial.seed,
        device=trial.device,
        policy=trial.policy,
        posed=prediction is not None and prediction.frame == "world" and "cameras" in trial.given,
        cameras_of=trial.cameras_of,
        **msgspec.structs.asdict(outcome),
        hardware=hardware(),
        prediction=identity,
        points=len(prediction.points) if prediction is not None else 0,
        points_kept=kept,
        finished=now(),
        command=trial.command,
    )
    store.put_trial(record)
    return record


def _refusal(trial: Trial) -> Outcome | None:
    """The outcome of a trial that the card rules out, without starting a worker."""
    card, count = trial.adapter.card, len(trial.views)
    if count < card.min_views or (card.max_views is not None and count > card.max_views):
        most = "" if card.max_views is None else f", at most {card.max_views}"
        return Outcome(status="unsupported", message=f"{count} views given, at least {card.min_views}{most} wanted")
    if trial.lacks:
        return Outcome(status="unsupported", message=trial.lacks)
    return None
