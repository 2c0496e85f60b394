"""Running a plan: each trial in a worker of its own, stored when finished, scored at once, resumed when asked again; on
this machine, one after the other, unless another engine is named."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from adapters.contract import Views
from bench.engines.engine import Engine, Finished, Job, Settings, run_and_keep, score_kept, truths_of
from bench.systems.cards import get_adapter
from bench.systems.measure import Policy, hardware, median_and_iqr, now, version
from bench.systems.process import run_adapter
from bench.trials.plan import Trial, estimate_seconds
from bench.trials.records import LeftOut, RunRecord, ScoreRecord, TrialRecord
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
    remark: Callable[[str], None] = field(default=lambda sentence: None)  # on what befell the engine


@dataclass(frozen=True)
class RunResult:
    """What came of a plan."""

    records: list[TrialRecord]
    left_out: list[LeftOut]


class Local:
    """This machine: one trial at a time, when it is waited for."""

    slots = 1

    def open(self, store: Store, settings: Settings, run: str, scored: bool, tell: Callable[[str], None]) -> None:
        """As `Engine.open`."""
        self._store, self._settings = store, settings
        if scored:
            compile_kernels(settings.protocols[0])

    def start(self, job: Job) -> None:
        """As `Engine.start`."""
        self._job = job

    def finished(self) -> Finished:
        """As `Engine.finished`: runs the job."""
        job, store, settings = self._job, self._store, self._settings
        record = job.record or run_and_keep(job.trial, store, settings.keep_points, job.most_seconds)
        return Finished(job, record, score_kept(job.trial, record, store, settings) if record is not None else [])

    def overhead_seconds(self) -> float | None:
        """As `Engine.overhead_seconds`."""
        return overhead_seconds()


def run_plan(
    trials: Sequence[Trial],
    store: Store,
    *,
    protocol: str,
    truth: str,
    protocols: Sequence[str] = (),
    engine: Engine | None = None,
    budget_seconds: float | None = None,
    strictly: bool = False,
    keep_points: int | None = None,
    metrics_device: str | None = None,
    progress: Progress | None = None,
    left_out: Sequence[LeftOut] = (),
    remarks: Sequence[str] = (),
) -> RunResult:
    """Run every trial that the store has not finished, score it under `truth` and every other truth of its scene, by
    `protocol` and then by `protocols`; with `engine`, by default on this machine.

    With a budget, a trial whose estimate does not fit into what is left is not started, and is named in the result;
    what is compiled once for an installation, so that results can be scored, is not counted. `strictly`: what takes
    longer than foreseen is stopped with the budget, and left out.
    Of predictions of more than `keep_points` points a uniform draw is stored and scored, of others everything.
    A trial that another run holds is left out as well; what was `left_out` before is recorded with these, and so are
    the plan's `remarks`. Scenes without truth are run and timed, not scored."""
    run = _Run(trials, store, protocol, truth, progress or Progress(), [*left_out], [*remarks])
    settings = Settings(truth, tuple(map(load_protocol, (protocol, *protocols))), keep_points, metrics_device)
    return run.through(engine or Local(), settings, budget_seconds, strictly)


class _Run:
    """One run of a plan: what it has come to, and the record of it."""

    def __init__(
        self,
        trials: Sequence[Trial],
        store: Store,
        protocol: str,
        truth: str,
        progress: Progress,
        left_out: list[LeftOut],
        remarks: list[str],
    ) -> None:
        self._trials, self._store, self._protocol, self._truth = trials, store, protocol, truth
        self._progress, self._left_out, self._remarks = progress, left_out, remarks
        self._records: list[TrialRecord] = []
        self._began, self._started, self._uncounted = time.perf_counter(), now(), 0.0
        self._name = store.new_run(self._started)
        machines = {machine.fingerprint for trial in trials for machine in trial.site.machines}
        self._known = [record for record in store.trials() if record.hardware.fingerprint in machines]

    def through(self, engine: Engine, settings: Settings, budget: float | None, strictly: bool) -> RunResult:
        """Every trial, one way or the other."""
        try:
            self._keep(None)
            scored = any(truths_of(t, self._truth) and self._store.measured(*t.keys) is None for t in self._trials)
            if scored:
                self._progress.compiling()
            engine.open(self._store, settings, self._name, scored, self._tell)
            self._uncounted = time.perf_counter() - self._began
            self._run(engine, budget, strictly)
        finally:
            self._keep(engine.overhead_seconds() if self._records else None)
        return RunResult(self._records, self._left_out)

    def _run(self, engine: Engine, budget: float | None, strictly: bool) -> None:
        waiting = deque(self._trials)
        running: dict[tuple[str, ...], ExitStack] = {}  # what holds the locks, by the keys of the trial
        with ExitStack() as held:
            while waiting or running:
                # A trial that is planned twice waits for itself.
                while waiting and len(running) < engine.slots and waiting[0].keys not in running:
                    locks = held.enter_context(ExitStack())
                    job = self._admitted(waiting.popleft(), locks, budget, strictly)
                    if job is not None:
                        running[job.trial.keys] = locks
                        engine.start(job)
                if running:
                    done = engine.finished()
                    running.pop(done.job.trial.keys).close()
                    self._finish(done)

    def _admitted(self, trial: Trial, locks: ExitStack, budget: float | None, strictly: bool) -> Job | None:
        """The job that `trial` is, its locks held by `locks` where it is to run; None where it is left out."""
        record = self._store.measured(*trial.keys)
        if record is not None:
            return Job(trial, record)
        estimate = estimate_seconds(trial, self._known) if trial.available and not trial.lacks else 0.0
        spent = time.perf_counter() - self._began - self._uncounted
        left = budget - spent if budget is not None else math.inf
        if estimate > max(left, 0.0):
            self._leave(trial, f"about {estimate:.0f} s wanted, {max(left, 0):.0f} s of the budget left")
            return None
        if not all(locks.enter_context(self._store.lock(key)) for key in trial.keys):
            self._leave(trial, "another run holds this trial")
            return None
        record = self._store.measured(*trial.keys)  # finished by another run since we looked
        if record is not None:
            return Job(trial, record)
        self._progress.started(trial, estimate)
        return Job(trial, most_seconds=left if strictly else math.inf)

    def _finish(self, done: Finished) -> None:
        trial, reused = done.job.trial, done.job.record is not None
        if done.record is None:
            stopped = f"stopped after the {done.job.most_seconds:.0f} s that were left of the budget"
            self._leave(trial, done.reason or stopped)
            return
        if not reused:
            self._known.append(done.record)
        self._records.append(done.record)
        self._progress.finished(trial, done.record, done.scores, reused)

    def _leave(self, trial: Trial, reason: str) -> None:
        self._left_out.append(trial.left_out(reason))
        self._progress.left_out(trial, reason)

    def _tell(self, sentence: str) -> None:
        self._remarks.append(sentence)
        self._progress.remark(sentence)

    def _keep(self, overhead: float | None) -> None:
        """Store the run as it stands: what is planned and was not reached is left out, should nothing follow."""
        reached = {record.key for record in self._records}
        told = {(left.system, left.inputs, left.scene, left.views, left.seed) for left in self._left_out}
        waiting = [(trial, trial.left_out(NOT_REACHED)) for trial in self._trials]
        open_still = [
            left
            for trial, left in waiting
            if (left.system, left.inputs, left.scene, left.views, left.seed) not in told and not reached & {*trial.keys}
        ]
        run = RunRecord(
            version=version(),
            command=shlex.join(["reconbench", *sys.argv[1:]]),
            started=self._started,
            seconds=time.perf_counter() - self._began,
            hardware=hardware(),
            overhead_seconds=overhead,
            trials=[record.key for record in self._records],
            left_out=[*self._left_out, *open_still],
            remarks=self._remarks,
            protocol=self._protocol,
            truth=self._truth,
        )
        self._store.put_run(run, self._name)


def overhead_seconds(calls: int = 50) -> float | None:
    """What the harness adds to one timed call: the median of warm calls of the null adapter, which does nothing."""
    views = Views(images=(np.zeros((8, 8, 3), np.uint8),), names=("000",))
    policy = Policy(warmups=2, repeats=calls, min_seconds=0.0, max_seconds=5.0, deadline=60.0)
    outcome, _ = run_adapter(get_adapter("null"), views, policy=policy)
    return median_and_iqr([steps.total for steps in outcome.warm])[0]
