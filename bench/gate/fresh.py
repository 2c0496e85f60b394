"""The end-to-end part: the suite's adapters run again, and their scores held against the baseline's.

The protocol draws samples, and adapters may draw too; so a difference counts only where it cannot be chance. Both are
measured, not guessed: the baseline holds several runs, each scored with `SEEDS` protocol seeds. A fresh run is scored
with the same seeds, and compared seed by seed (paired draws: what a seed does to both sides cancels)."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.stats import t as student_t

from adapters.contract import F64, Reconstruction
from bench.gate.baseline import Baseline, Fresh, load_frozen
from bench.gate.verdict import Finding, Mismatch, Verdict
from bench.scoring.score import prepare
from bench.systems.measure import Outcome
from bench.trials.plan import Trial, plan
from bench.trials.run import run_trial
from bench.trials.suite import Suite
from metrics.nearest import nearest
from metrics.scoring.prepared import ScoringError
from metrics.scoring.protocol import load_protocol, metric_table
from metrics.scoring.score import score

SEEDS = 5
RUNS = 2  # of each trial when a baseline is written
CONFIDENCE = 0.99  # of the paired difference
NOISE = 5.0  # standard errors of one score that a difference must exceed: fifty metrics are looked at
MOVED = 1e-4  # of the cloud's extent: a deterministic prediction that lies farther from the frozen one has changed
SMALLEST = 1e-6  # relative: nothing below is a difference, however quiet the metric


def name_of(trial: Trial) -> str:
    """What a trial is called in a baseline."""
    return f"{trial.label}, {trial.inputs}, seed {trial.seed}"


def frozen_name(trial: Trial) -> str:
    """What the frozen prediction of a trial is called; two settings, weights or inputs of one adapter are two."""
    name = f"{trial.adapter.name}-{trial.scene.name}-{len(trial.views)}-{trial.seed}"
    if trial.system == trial.adapter.name and not trial.contestant.give:
        return name
    return f"{name}-{hashlib.sha256(f'{trial.system} {trial.given}'.encode()).hexdigest()[:8]}"


def run_fresh(trial: Trial) -> tuple[Outcome, Reconstruction | None]:
    """One fresh run of a trial, as the benchmark makes it; nothing is stored."""
    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        return run_trial(trial, Path(folder) / "log.txt")


def is_posed(trial: Trial, prediction: Reconstruction) -> bool:
    """Whether a prediction lives in the frame of the cameras that its trial gave."""
    return prediction.frame == "world" and "cameras" in trial.given


def score_fresh(suite: Suite, trial: Trial, prediction: Reconstruction) -> dict[str, list[float]]:
    """Metric -> its value under each of the gate's seeds."""
    protocol = load_protocol(suite.protocol)
    protocol = msgspec.structs.replace(protocol, samples=10_000, emd_samples=256, draws=2, emd_draws=2)
    prepared = prepare(trial.scene, suite.truth, protocol)
    scope, posed = trial.adapter.card.scope, is_posed(trial, prediction)
    out: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        seeded = prepared.under(msgspec.structs.replace(protocol, seed=seed))
        result = score(prediction, seeded, trial.views, scope=scope, posed=posed, brief=True)
        for name, value in result.values.items():
            if value.value is not None:
                out.setdefault(name, []).append(value.value)
    return {name: values for name, values in out.items() if len(values) == SEEDS}


def write_fresh(suite: Suite, advance: Callable[[str], None]) -> list[Fresh]:
    """What the suite gives now, each trial run `RUNS` times; `advance` is called with each run."""
    out = []
    for trial in plan(suite):
        scores: dict[str, list[list[float]]] = {}
        status = "ok"
        for _ in range(RUNS):
            outcome, prediction = run_fresh(trial)
            status = outcome.status
            if prediction is not None:
                for name, values in score_fresh(suite, trial, prediction).items():
                    scores.setdefault(name, []).append(values)
            advance(trial.label)
        complete = {name: runs for name, runs in scores.items() if len(runs) == RUNS}
        out.append(Fresh(name=name_of(trial), status=status, scores=complete))
    return out


def check_fresh(folder: Path, baseline: Baseline) -> Iterator[Finding]:
    """Every trial of the suite, run again; one finding each.

    A shift of the whole cloud hardly moves a mean distance, which shrinks on one side as it grows on the other: so
    what an adapter that calls itself deterministic predicts must also lie where its frozen prediction lies."""
    known = {entry.name: entry for entry in baseline.fresh}
    for trial in plan(baseline.suite):
        started = time.perf_counter()
        name = name_of(trial)
        if name not in known:
            yield Finding("fresh", name, "broken", "the baseline does not know this trial: write it again")
            continue
        outcome, prediction = run_fresh(trial)
        if outcome.status != known[name].status:
            observed = f"{outcome.status}: {outcome.message}"
            worse = (Mismatch("status", known[name].status, observed),)
            yield Finding("fresh", name, "regression", observed, worse, time.perf_counter() - started)
            continue
        if prediction is not None and trial.adapter.card.deterministic:
            distance = distance_from(load_frozen(folder, frozen_name(trial)), prediction)
            if distance > MOVED:
                detail = f"a deterministic adapter predicts something else, {distance:.2%} of the cloud's extent away"
                yield Finding("fresh", name, "regression", detail, seconds=time.perf_counter() - started)
                continue
        try:
            scores = score_fresh(baseline.suite, trial, prediction) if prediction is not None else {}
        except ScoringError as error:
            yield Finding("fresh", name, "regression", f"cannot be scored: {error}")
            continue
        verdict, detail, mismatches = _compare(known[name], scores, baseline.suite)
        yield Finding("fresh", name, verdict, detail, mismatches, time.perf_counter() - started)


def distance_from(frozen: Reconstruction, prediction: Reconstruction) -> float:
    """Median distance of the frozen points, which are some of those once predicted, to the nearest predicted now, as a
    share of the frozen cloud's extent."""
    extent = float(np.linalg.norm(np.ptp(frozen.points, axis=0)))
    return float(np.median(nearest(frozen.points, prediction.points).distance)) / max(extent, 1e-300)


def _compare(
    expected: Fresh, observed: dict[str, list[float]], suite: Suite
) -> tuple[Verdict, str, tuple[Mismatch, ...]]:
    worse, better = beyond_chance(expected.scores, observed, suite.protocol)
    if worse:
        return (
            "regression",
            f"{len(worse)} of {len(expected.scores)} metrics are worse than chance allows",
            tuple(worse),
        )
    return "pass", f"better than the baseline: {', '.join(better[:4])}" if better else "", ()


def beyond_chance(
    expected: Mapping[str, Sequence[Sequence[float]]], observed: Mapping[str, Sequence[float]], protocol: str
) -> tuple[list[Mismatch], list[str]]:
    """The metrics of `observed` (seeds,) that are worse than `expected` (runs, seeds), and those that are better; what
    chance explains is neither."""
    table = metric_table(load_protocol(protocol))
    worse, better = [], []
    for name, runs in expected.items():
        base = np.array(runs)
        if name not in observed:
            worse.append(Mismatch(name, f"{base.mean():.6g}", "nothing"))
            continue
        shift = worsening(base, np.array(observed[name]), table[name][1])
        if shift > 0:
            worse.append(Mismatch(name, f"{base.mean():.6g}", f"{np.mean(observed[name]):.6g}"))
        elif shift < 0:
            better.append(f"{name} {base.mean():.4g} -> {np.mean(observed[name]):.4g}")
    return worse, better


def worsening(base: F64, observed: F64, direction: str) -> float:
    """How much worse `observed` (seeds,) is than `base` (runs, seeds), in its unit; 0 where chance explains it.

    Beyond chance means both: the `CONFIDENCE` t interval of the paired differences excludes zero, and their mean
    exceeds `NOISE` standard errors of a single run's score, from the spread over seeds and over runs."""
    paired = (observed - base.mean(axis=0)) * (1.0 if direction == "lower" else -1.0)
    count = len(paired)
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1) * paired.std(ddof=1) / np.sqrt(count))
    between = base.mean(axis=1).var(ddof=1) if len(base) > 1 else 0.0
    noise = float(np.sqrt(base.var(axis=1, ddof=1).mean() / count + between))
    shift = float(paired.mean())
    least = max(half, NOISE * noise, SMALLEST * max(1.0, abs(float(base.mean()))))
    return shift if abs(shift) > least else 0.0
