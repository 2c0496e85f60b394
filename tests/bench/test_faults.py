"""A seeded sample of the table of faults: `make soak-faults` runs all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.systems import walls
from tests.soak.faults import FAULTS, TOTAL, read_results, schedule

ROOT = Path(__file__).parents[2]
SAMPLE, SEED = 1, 11  # each fault once


def test_the_schedule_is_whole() -> None:
    every = schedule(310)
    assert len(every) >= 300 and len({(fault.name, number) for fault, number in every}) == len(every)
    assert sum(fault.name.startswith("host killed (SIGKILL)") for fault, _ in every) >= 50
    assert {fault.name for fault, _ in schedule(SAMPLE)} == {fault.name for fault in FAULTS}
    assert TOTAL > 0


@pytest.mark.skipif(not walls.isolated(), reason="this system permits no namespaces")
@pytest.mark.timeout(600)
def test_nothing_is_lost_left_or_left_running(tmp_path: Path) -> None:
    """In a process of its own: hosts are forks, and what forks must have no threads."""
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "tests.soak.faults", "--count", str(SAMPLE), "--seed", str(SEED), "--jobs", "2"]
    done = subprocess.run(
        [*command, "--results", str(results)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    unwell = [result for result in read_results(results, SEED) if not result.well]
    assert done.returncode == 0 and not unwell, f"{unwell} {done.stderr[-3000:]}"
