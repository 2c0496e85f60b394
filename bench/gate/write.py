"""Making a baseline: predictions frozen, their readings taken, the suite run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from adapters.contract import InputError, Reconstruction
from bench.gate.baseline import Baseline, Frozen, save_baseline, save_frozen
from bench.gate.exact import cases, quick
from bench.gate.fresh import frozen_name, is_posed, name_of, run_fresh, write_fresh
from bench.gate.frozen import PERTURBED, perturbed_truth, thin
from bench.trials.plan import plan
from bench.trials.suite import Suite


def write_baseline(folder: Path, suite: Suite, advance: Callable[[str], None]) -> Baseline:
    """Write the baseline of `suite` into `folder`, replacing one that is there; `advance` is called with each step."""
    trials = plan(suite)
    frozen: dict[str, tuple[Frozen, Reconstruction]] = {}
    for trial in trials:
        outcome, prediction = run_fresh(trial)
        advance(trial.label)
        if prediction is None:
            raise InputError(f"{name_of(trial)}: {outcome.status}: {outcome.message}; a suite that runs is wanted")
        name = frozen_name(trial)
        if name in frozen:
            raise InputError(f"{name_of(trial)}: twice in suite {suite.name}, distinct trials wanted")
        entry = Frozen(
            name=name,
            scene=trial.scene.name,
            views=trial.views,
            scope=trial.adapter.card.scope,
            posed=is_posed(trial, prediction),
        )
        frozen[name] = (entry, thin(prediction))
    for name in PERTURBED:
        frozen[name] = perturbed_truth(trials[0].scene.name, name, quick(suite.protocol))
        advance(name)
    for stale in folder.glob("*.npz"):
        if stale.stem not in frozen:
            stale.unlink()
    for name, (_, prediction) in frozen.items():
        save_frozen(folder, name, prediction)
    bare = Baseline(suite=suite, frozen=[entry for entry, _ in frozen.values()], exact={}, fresh=[])
    exact = {}
    for name, case in cases(folder, bare).items():
        exact[name] = case()
        advance(name)
    baseline = msgspec.structs.replace(bare, exact=exact, fresh=write_fresh(suite, advance))
    save_baseline(folder, baseline)
    return baseline
