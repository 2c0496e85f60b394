"""Certified EMD beside an exact network simplex (POT's `emd`).

    python -m tests.benchmarks.bench_emd [--sizes 2048,8192,32768,100000] [--csv docs/benchmarks/emd.csv]

POT solves up to 8192 points (2.6 GB there). Repeats, five below 5000 points and one above, are interleaved and their
medians printed. `ratio`: how many times our CPU
seconds POT takes. `excess`: how far our value lies above the exact one. `memory_mb`: growth of the peak resident size
during one solve, in a process of its own, compiled code loaded before.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from metrics.emd import EMD, emd
from metrics.peers import emd_by
from tests.benchmarks.clouds import KINDS, pair

POT_UP_TO = 8192


@dataclass(frozen=True)
class Row:
    """One requested gap on one pair of clouds."""

    n: int
    kind: str
    wanted_gap: float
    repeats: int
    cpu_s: float
    wall_s: float
    memory_mb: float
    value: float
    lower: float
    gap: float
    pot_cpu_s: float  # NaN where POT did not run
    ratio: float
    excess: float


def measure(n: int, kind: str, repeats: int, gaps: tuple[float, ...]) -> list[Row]:
    pred, truth = pair(kind, n, seed=1)
    cpu: dict[float, list[float]] = {gap: [] for gap in gaps}
    wall: dict[float, list[float]] = {gap: [] for gap in gaps}
    answers: dict[float, EMD] = {}
    with_pot = n <= POT_UP_TO and importlib.util.find_spec("ot") is not None
    pot, exact = [], math.nan
    for _ in range(repeats):
        for gap in gaps:
            start = time.perf_counter(), time.process_time()
            answers[gap] = emd(pred, truth, gap)
            wall[gap].append(time.perf_counter() - start[0])
            cpu[gap].append(time.process_time() - start[1])
        if with_pot:
            started = time.process_time()
            exact = emd_by("pot", pred, truth)
            pot.append(time.process_time() - started)
    rows = []
    pot_cpu = float(np.median(pot)) if pot else math.nan
    for gap in gaps:
        result = answers[gap]
        if with_pot and not result.lower <= exact * (1 + 1e-9) <= result.upper * (1 + 2e-9):
            raise SystemExit(f"{n} {kind} {gap}: {exact} is not in {result.lower}..{result.upper}")
        own = float(np.median(cpu[gap]))
        rows.append(
            Row(
                n, kind, gap, repeats, round(own, 4), round(float(np.median(wall[gap])), 4), memory(n, kind, gap),
                result.value, result.lower, result.gap,
                round(pot_cpu, 3), round(pot_cpu / own, 1), result.value / exact - 1,
            )
        )  # fmt: skip
    return rows


def memory(n: int, kind: str, gap: float) -> float:
    """MB by which one solve raises the peak resident size of a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_emd", "--memory-of", str(n), kind, str(gap)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def grow(n: int, kind: str, gap: float) -> float:
    pred, truth = pair(kind, n, seed=1)
    emd(*pair("surface", 2000, seed=0))
    before = peak()
    emd(pred, truth, gap)
    return round(peak() - before, 1)


def peak() -> float:
    """MB, the peak resident size of this process (Linux; `getrusage` would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2048,8192,32768,100000")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--memory-of", nargs=3, metavar=("N", "KIND", "GAP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        n, kind, gap = options.memory_of
        print(grow(int(n), kind, float(gap)))
        return
    start = time.perf_counter(), time.process_time()
    emd(*pair("surface", 2000, seed=0))
    print(f"first call {time.perf_counter() - start[0]:.2f} s wall, {time.process_time() - start[1]:.2f} s CPU\n")
    print("| n | kind | gap wanted | CPU s | wall s | MB | value | gap | POT CPU s | POT / ours | above exact |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    for n in map(int, options.sizes.split(",")):
        for kind in KINDS:
            gaps = (0.01, 0.001) if n <= 32768 else (0.01,)
            for row in measure(n, kind, 5 if n < 5000 else 1, gaps):
                rows.append(row)
                print(
                    f"| {n} | {kind} | {row.wanted_gap:.1%} | {row.cpu_s:.3f} | {row.wall_s:.3f} | {row.memory_mb:.0f} "
                    f"| {row.value:.6f} | {row.gap:.3%} | {row.pot_cpu_s:.2f} | {row.ratio:.1f} | {row.excess:.3%} |",
                    flush=True,
                )
            if options.csv:
                save(options.csv, rows)


def save(path: Path, rows: list[Row]) -> None:
    """Write what is measured so far: a run takes minutes, and may be stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    main()
