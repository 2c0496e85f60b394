"""Running a plan: each trial in a worker of its own, stored when finished, scored at once, resumed when asked again."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from adapters.contract import Views
from bench.scoring.score import score_trial
from bench.systems.cards import get_adapter
from bench.systems.measure import Outcome, Policy, hardware, median_and_iqr, now, version
from bench.systems.process import run_adapter
from bench.systems.weights import RANDOM
from bench.trials.plan import Trial, estimate_seconds
from bench.trials.records import LeftOut, RunRecord, ScoreRecord, TrialRecord
from bench.trials.run import run_trial
from bench.trials.store import Store
from metrics.scoring.compile import compile_kernels
from metrics.scoring.protocol import load_protocol

NOT_REACHED = "not reached: the run was interrupted before it, or goes on still"


@dataclass
class Progress:
    """What a run tells whoever shows it; the default shows nothing."""

    compiling: Callable[[], None] = field(default=lambda: None)  # for scoring, before the budget begins
    started: Callable[[Trial, float], None] = field(default=lambda trial, seconds: None)  # with its estimate
    # with its scores, and whether it was finished before
    finished: Callable[[Trial, TrialRecord, list[ScoreRecord], bool], None] = field(
        default=lambda trial, record, scores, reused: None
    )
    left_out: Callable[[Trial, str], None] = field(default=lambda trial, reason: None)


@dataclass(frozen=True)
class RunResult:
    """What came of a plan."""

    records: list[TrialRecord]
    left_out: list[LeftOut]


def run_plan(
    trials: list[Trial],
    store: Store,
    *,
    protocol: str,
    truth: str,
    budget_seconds: float | None = None,
    strictly: bool = False,
    keep_points: int | None = None,
    metrics_device: str | None = None,
    progress: Progress | None = None,
    left_out: Sequence[LeftOut] = (),
    remarks: Sequence[str] = (),
) -> RunResult:
    """Run every trial that the store has not finished, score it under `truth` and every other truth of its scene.

    With a budget, a trial whose estimate does not fit into what is left is not started, and is named in the result;
    what is compiled once for an installation, so that results can be scored, is not counted. `strictly`: what takes
    longer than foreseen is stopped with the budget, and left out.
    Of predictions of more than `keep_points` points a uniform draw is stored and scored, of others everything.
    A trial that another run holds is left out as well; what was `left_out` before is recorded with these, and so are
    the plan's `remarks`. Scenes without truth are run and timed, not scored."""
    progress = progress or Progress()
    began, started, uncounted = time.perf_counter(), now(), 0.0
    known = [record for record in store.trials() if record.hardware.fingerprint == hardware().fingerprint]
    records: list[TrialRecord] = []
    all_left_out = list(left_out)

    def leave(trial: Trial, reason: str) -> None:
        all_left_out.append(trial.left_out(reason))
        progress.left_out(trial, reason)

    name = store.new_run(started)

    def keep(overhead: float | None) -> None:
        """Store the run as it stands: what is planned and was not reached is left out, should nothing follow."""
        reached = {record.key for record in records}
        told = {(left.system, left.inputs, left.scene, left.views, left.seed) for left in all_left_out}
        waiting = [(trial, trial.left_out(NOT_REACHED)) for trial in trials]
        open_still = [
            left
            for trial, left in waiting
            if (left.system, left.inputs, left.scene, left.views, left.seed) not in told and trial.key not in reached
        ]
        run = RunRecord(
            version=version(),
            command=shlex.join(["reconbench", *sys.argv[1:]]),
            started=started,
            seconds=time.perf_counter() - began,
            hardware=hardware(),
            overhead_seconds=overhead,
            trials=[record.key for record in records],
            left_out=[*all_left_out, *open_still],
            remarks=list(remarks),
            protocol=protocol,
            truth=truth,
        )
        store.put_run(run, name)

    try:
        keep(None)
        if any(_truths(trial, truth) and store.measured(trial.key) is None for trial in trials):
            progress.compiling()
            compile_kernels(load_protocol(protocol))
            uncounted = time.perf_counter() - began
        for trial in trials:
            key = trial.key
            record = store.measured(key)
            reused = record is not None
            if record is None:
                estimate = estimate_seconds(trial, known) if trial.available and not trial.lacks else 0.0
                spent = time.perf_counter() - began - uncounted
                left = budget_seconds - spent if budget_seconds is not None else float("inf")
                if estimate > max(left, 0.0):
                    leave(trial, f"about {estimate:.0f} s wanted, {max(left, 0):.0f} s of the budget left")
                    continue
                with store.lock(key) as held:
                    if not held:
                        leave(trial, "another run holds this trial")
                        continue
                    record = store.measured(key)  # finished by another run since we looked
                    if record is None:
                        progress.started(trial, estimate)
                        record = _run_one(trial, key, store, keep_points, left if strictly else float("inf"))
                if record is None:
                    leave(trial, f"stopped after the {left:.0f} s that were left of the budget")
                    continue
                known.append(record)
            records.append(record)
            scores = [
                score_trial(store, record, trial.scene, kind, protocol, device=metrics_device)
                for kind in _truths(trial, truth)
            ]
            progress.finished(trial, record, scores, reused)
    finally:
        keep(overhead_seconds() if records else None)
    return RunResult(records, all_left_out)


def _truths(trial: Trial, truth: str) -> list[str]:
    """The truths to score under: the one asked for first, then every other one of the scene; none for the clock."""
    if trial.policy.timing_only or trial.weights == RANDOM:
        return []
    kinds = trial.scene.truth_kinds
    if kinds and truth not in kinds:
        trial.scene.truth(truth)  # raises, naming what there is
    return [truth, *(kind for kind in kinds if kind != truth)] if kinds else []


def _run_one(
    trial: Trial, key: str, store: Store, keep_points: int | None, most_seconds: float = math.inf
) -> TrialRecord | None:
    """The stored record of `trial`; None, and nothing stored, where it did not end within `most_seconds`."""
    outcome, prediction = _refusal(trial), None
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


def overhead_seconds(calls: int = 50) -> float | None:
    """What the harness adds to one timed call: the median of warm calls of the null adapter, which does nothing."""
    views = Views(images=(np.zeros((8, 8, 3), np.uint8),), names=("000",))
    policy = Policy(warmups=2, repeats=calls, min_seconds=0.0, max_seconds=5.0, deadline=60.0)
    outcome, _ = run_adapter(get_adapter("null"), views, policy=policy)
    return median_and_iqr([steps.total for steps in outcome.warm])[0]
