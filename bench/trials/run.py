"""One trial, run as it was planned, by whoever asks: the engines, the gate and the audit."""

from __future__ import annotations

from pathlib import Path

from adapters.contract import Reconstruction
from bench.systems.measure import Outcome
from bench.systems.process import run_adapter
from bench.trials.plan import Trial


def run_trial(trial: Trial, log: Path | None = None) -> tuple[Outcome, Reconstruction | None]:
    """What becomes of `trial` in a fresh worker: see `run_adapter`. Nothing is stored.

    InputError where the scene cannot give what the trial asks for."""
    return run_adapter(
        trial.adapter,
        trial.make_views(),
        options=dict(trial.contestant.options),
        device=trial.device,
        weights=trial.contestant.weights,
        seed=trial.seed,
        policy=trial.policy,
        log=log,
    )
