"""Parity: one adapter under several settings (precision, quantised weights, a compiled graph), against the first.

Each setting meets the same scenes, views and seeds. Its prediction is equal to the last bit, or its scores are within
what chance explains (as fresh runs are judged, see `bench.gate.fresh`), or it has regressed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from adapters.contract import InputError, Reconstruction
from bench.gate.fresh import RUNS, beyond_chance, distance_from, run_fresh, score_fresh
from bench.gate.verdict import Finding, Verdict
from bench.scoring.audit import same
from bench.systems.measure import Outcome
from bench.trials.plan import Trial, plan
from bench.trials.suite import Contestant, Suite
from metrics.scoring.prepared import ScoringError

WEIGHTS = "weights"  # the one name of a setting that is no option
Answer = Literal["exact", "within noise", "better", "regressed"]
VERDICTS: Mapping[Answer, Verdict] = {
    "exact": "pass",
    "within noise": "pass",
    "better": "pass",
    "regressed": "regression",
}
Scores = dict[str, list[float]]  # metric -> value under each of the gate's protocol seeds


@dataclass(frozen=True)
class Setting:
    """One way to run the adapter."""

    text: str  # as it was asked for
    contestant: Contestant


@dataclass(frozen=True)
class _Run:
    outcome: Outcome
    prediction: Reconstruction
    scores: Scores


def check_parity(suite: Suite, settings: Sequence[Setting]) -> Iterator[Finding]:
    """Every trial of `suite` under each of `settings` but the first, compared with the first; a finding each."""
    reference, *others = settings
    for trial, *variants in zip(*(_trials(suite, setting) for setting in settings), strict=True):
        place = f"{trial.scene.name}, {len(trial.views)} views, seed {trial.seed}"
        began = time.perf_counter()
        try:
            base = [_run(suite, trial) for _ in range(RUNS)]
        except InputError as error:
            yield Finding("parity", f"{reference.text}: {place}", "broken", str(error))
            continue
        equal = all(same(base[0].prediction, run.prediction) for run in base[1:])
        noise = "two runs are equal to the last bit" if equal else "two runs differ"
        yield Finding(
            "parity", f"{reference.text}: {place}", "pass", f"reference: {noise}", seconds=time.perf_counter() - began
        )
        for setting, variant in zip(others, variants, strict=True):
            yield _compared(suite, base, setting, variant, place)


def _trials(suite: Suite, setting: Setting) -> list[Trial]:
    return plan(msgspec.structs.replace(suite, adapters=[setting.contestant]))


def _run(suite: Suite, trial: Trial) -> _Run:
    """InputError where it gives no scores."""
    outcome, prediction = run_fresh(trial)
    if prediction is None:
        raise InputError(f"{outcome.status}: {outcome.message}")
    try:
        return _Run(outcome, prediction, score_fresh(suite, trial, prediction))
    except ScoringError as error:
        raise InputError(f"it cannot be scored: {error}") from error


def _compared(suite: Suite, base: list[_Run], setting: Setting, trial: Trial, place: str) -> Finding:
    began, case = time.perf_counter(), f"{setting.text}: {place}"
    try:
        run = _run(suite, trial)
    except InputError as error:
        return Finding("parity", case, "regression", str(error), seconds=time.perf_counter() - began)
    expected = {name: [known.scores[name] for known in base if name in known.scores] for name in base[0].scores}
    worse, better = beyond_chance(expected, run.scores, suite.protocol)
    answer: Answer = "regressed" if worse else "better" if better else "within noise"
    if same(base[0].prediction, run.prediction):
        answer = "exact"
    parts: list[str] = [answer]
    if answer != "exact":
        parts.append(f"moved by {distance_from(base[0].prediction, run.prediction):.2g} of the cloud's extent")
    parts += [f"better: {', '.join(better[:4])}"] if better else []
    parts += _costs(base, run)
    return Finding("parity", case, VERDICTS[answer], "; ".join(parts), tuple(worse), time.perf_counter() - began)


def _costs(base: Sequence[_Run], run: _Run) -> list[str]:
    """Seconds and memory beside the reference's: told, not judged (`check --against` does that)."""
    out = []
    for name, unit in (("seconds", " s"), ("memory", " MiB"), ("device memory", " MiB")):
        known, own = [amount for each in base if (amount := _amount(each.outcome, name))], _amount(run.outcome, name)
        if known and own:
            out.append(f"{name} {np.mean(known):.3g} -> {own:.3g}{unit}")
    return out


def _amount(outcome: Outcome, name: str) -> float | None:
    if name == "seconds":
        return outcome.call_seconds
    size = outcome.peak_rss if name == "memory" else outcome.device_allocator
    return size / 2**20 if size else None
