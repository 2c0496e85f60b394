"""Records and what tables call their systems."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.engines.local import run_plan
from bench.scoring.collect import make_tables
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.records import LeftOut, TrialRecord, system_label
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene
from reports.board import leaderboard

QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)


def test_a_system_is_its_adapter_its_options_and_its_own_weights() -> None:
    assert system_label("colmap", {}, "none") == "colmap"
    assert system_label("colmap", {"b": True, "a": 2}, "pretrained:0123456789abcdef") == "colmap (a=2, b=True)"
    assert system_label("vggt", {}, "path:0123456789abcdef") == "vggt (weights=01234567)"


def test_what_was_left_out_stands_with_the_system_whose_options_it_had(scene: Scene, tmp_path: Path) -> None:
    noisy = Contestant(name="noisy-oracle", options={"noise": 0.01})
    chosen = Suite(name="t", adapters=[noisy], views=(2,), truth="exact", policy=QUICK)
    store = Store(tmp_path / "store")
    trials = [trial for seed in (0, 1) for trial in plan(msgspec.structs.replace(chosen, seeds=(seed,)), [scene])]
    run_plan(trials[:1], store, protocol="object-v1", truth="exact")
    run_plan(trials[1:], store, protocol="object-v1", truth="exact", budget_seconds=0.0)
    board = leaderboard(make_tables(store, "object-v1", "exact"))
    (row,) = [row for group in board.groups for row in group.rows]
    assert len(row.left_out) == 1 and "budget" in row.left_out[0]


def test_records_of_before_are_read() -> None:
    old = {"adapter": "a", "inputs": "images", "scene": "s", "views": 2, "seed": 0, "reason": "r"}
    assert msgspec.convert(old, LeftOut).system == "a"
    assert "system" not in TrialRecord.__struct_fields__  # made, never kept: there is one place that makes it
