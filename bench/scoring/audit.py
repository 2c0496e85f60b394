"""What a system's scores owe to what should not matter: the same input twice, its views reversed, another one first.

The largest difference from the first run is the error bar that a single run of the system hides. Nothing is stored: the
order of the views is not a thing that a benchmark varies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adapters.contract import Reconstruction
from bench.scoring.score import prepare
from bench.systems.cards import Adapter
from bench.systems.measure import Policy
from bench.trials.plan import Trial, view_order
from bench.trials.run import run_trial
from bench.trials.suite import Contestant
from data.scene import Scene
from metrics.scoring.protocol import Protocol, geometry_table
from metrics.scoring.score import Value, score

FIRST = "first run"


@dataclass(frozen=True)
class AuditRun:
    """One run of an audit."""

    trial: Trial  # with its system, inputs and views in the order of this run
    name: str
    status: str
    message: str
    same_bits: bool  # every array as in the first run
    values: dict[str, Value]


def orders(views: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The runs of an audit: their names and the order in which each gives the views."""
    middle = len(views) // 2
    runs = {
        FIRST: views,
        "same again": views,
        "reversed": views[::-1],
        "another first": views[middle:] + views[:middle],
    }
    return runs if len(views) > 2 else {name: order for name, order in runs.items() if name != "another first"}


def audit(
    adapter: Adapter,
    contestant: Contestant,
    scene: Scene,
    count: int,
    truth: str,
    protocol: Protocol,
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[AuditRun]:
    """Run `adapter` on `count` spread views of `scene` in each of `orders`, a fresh process each, and score it."""
    views = tuple(sorted(view_order(scene, seed)[:count]))
    prepared = prepare(scene, truth, protocol)
    first: Reconstruction | None = None
    for name, order in orders(views).items():
        policy = Policy(warmups=0, repeats=0, min_seconds=0.0)
        trial = Trial(adapter, contestant, scene, order, seed, device, policy, truth)
        outcome, made = run_trial(trial)
        if made is None:
            yield AuditRun(trial, name, outcome.status, outcome.message, False, {})
            continue
        posed = made.frame == "world" and "cameras" in trial.given
        result = score(made, prepared, order, scope=adapter.card.scope, posed=posed, brief=True)
        equal = first is not None and same(first, made)
        first = first or made
        yield AuditRun(trial, name, outcome.status, outcome.message, equal or name == FIRST, result.values)


def same(first: Reconstruction, second: Reconstruction) -> bool:
    """Whether the two hold the same arrays of the same numbers."""
    a, b = first.arrays(), second.arrays()
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in a)


def error_bars(runs: list[AuditRun], protocol: Protocol) -> dict[str, tuple[list[float | None], float | None]]:
    """Metric -> its value in every run, and the largest difference from the first run; None where a run has none."""
    out: dict[str, tuple[list[float | None], float | None]] = {}
    for metric in (*geometry_table(protocol), "rotation", "auc@30", "centre-rmse", "depth-absrel"):
        values = [run.values[metric].value if metric in run.values else None for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            continue
        whole = len(known) == len(values)
        out[metric] = (values, max(abs(value - known[0]) for value in known) if whole else None)
    return out
