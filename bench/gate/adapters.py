"""A model's own adapters as workloads: seconds and memory of this tree's against another commit's, alternately.

As for the kernels a round is three runs, the other tree, this one, the other again, in an order that turns: a ratio is
this tree's over the mean of the other two, and these over each other are the control. A run is a fresh worker behind
the walls; its time is the median of its warm calls, its memory the peak of its process tree, and of the device."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.contract import InputError
from bench.gate.timing import Rounds, checkout, judge, repository
from bench.gate.verdict import Finding, Verdict
from bench.systems.cards import get_adapter
from bench.systems.measure import Outcome
from bench.trials.plan import Trial, plan
from bench.trials.run import run_trial
from bench.trials.suite import Suite

STEP, MOST = 8, 48  # rounds between two looks, and at most: eight are the least that an interval of 99% takes
PATIENCE = 1200.0  # seconds after which no more rounds are begun
Run = Callable[[Trial], Outcome]


def own_trials(suite: Suite) -> list[Trial]:
    """The trials of `suite` whose adapter is a folder: the user's own."""
    if not any(get_adapter(contestant.name).origin == "folder" for contestant in suite.adapters):
        return []
    return [trial for trial in plan(suite) if trial.adapter.origin == "folder"]


def check_adapters(against: str, suite: Suite) -> Iterator[Finding]:
    """Every trial of `suite` with an adapter of the user's own, against the same adapter at the commit `against` of the
    repository that holds it, or in the folder `against`; one finding each."""
    with contextlib.ExitStack() as stack:
        trees: dict[Path, Path] = {}  # repository -> its other tree
        for trial in own_trials(suite):
            began = time.perf_counter()
            root = repository(trial.adapter.folder)
            if root not in trees:
                trees[root] = stack.enter_context(checkout(against, root))
            folder = trees[root] / trial.adapter.folder.relative_to(root)
            verdict, detail = _checked(trial, folder, against)
            yield Finding("time", trial.label, verdict, detail, seconds=time.perf_counter() - began)


def _checked(trial: Trial, folder: Path, against: str) -> tuple[Verdict, str]:
    if not (folder / "adapter.toml").is_file():
        return "unmeasured", f"{against} has no adapter in {folder.name}: nothing to compare with"
    other = dataclasses.replace(trial, adapter=get_adapter(str(folder)))
    if other.identity == trial.identity:
        return "pass", "same code, environment and weights"
    try:
        return measure(trial, other, lambda timed: run_trial(timed)[0])
    except _Failed as failed:
        return failed.verdict, str(failed)
    except InputError as error:
        return "broken", str(error)


class _Failed(Exception):
    """A run that gave nothing to time."""

    def __init__(self, verdict: Verdict, sentence: str) -> None:
        super().__init__(sentence)
        self.verdict = verdict


def measure(this: Trial, other: Trial, run: Run) -> tuple[Verdict, str]:
    """Round after round until the verdict is certain, or there were `MOST`."""
    rounds, began = Rounds({}), time.perf_counter()
    verdict: Verdict = "unmeasured"
    detail = ""
    for turn in range(MOST):
        costs: dict[int, _Cost] = {}
        for role in np.roll([0, 1, 2], turn):
            costs[int(role)] = _cost(run(this if role == 1 else other), this=role == 1)
        rounds.others_share = max(rounds.others_share, *(cost.others_share for cost in costs.values()))
        for name in costs[1].amounts:
            if all(name in cost.amounts for cost in costs.values()):
                a, b, control = (max(costs[role].amounts[name], 1e-9) for role in range(3))
                rounds.seconds.setdefault(name, []).append((a, b, control))
        if (turn + 1) % STEP == 0:
            verdict, detail = judge(rounds)
            if verdict in ("pass", "regression") or time.perf_counter() - began > PATIENCE:
                break
    return verdict, detail


@dataclass(frozen=True)
class _Cost:
    amounts: dict[str, float]  # seconds, or bytes
    others_share: float


def _cost(outcome: Outcome, this: bool) -> _Cost:
    if outcome.status != "ok" or outcome.cold is None:
        where = "this tree" if this else "the other tree"
        # What ran there and fails here has become worse; what did not run there cannot be compared with.
        raise _Failed("regression" if this else "unmeasured", f"{where}: {outcome.status}: {outcome.message}")
    amounts = {"wall": outcome.call_seconds or 0.0, "memory": float(outcome.peak_rss)}
    if outcome.device_allocator is not None:
        amounts["device memory"] = float(outcome.device_allocator)
    return _Cost({name: amount for name, amount in amounts.items() if amount > 0}, outcome.others_share)
