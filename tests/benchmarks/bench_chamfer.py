"""Both directions of nearest distance, trees built included: ours beside other people's.

    python -m tests.benchmarks.bench_chamfer [--sizes 2000,16000,100000,1000000] [--csv docs/benchmarks/chamfer.csv]

Peers that are installed take part, each in float64 and, as `peer-f32`, in float32. Repeats are interleaved, medians
printed. `cpu_s` counts all threads of this process and is the figure to trust on a busy machine. `ratio` and
`wall_ratio`: how many times ours a peer takes. `error`: the largest distance error, against ours.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from metrics.nearest import distances
from metrics.peers import NEAREST, Cloud, installed, nearest_by
from tests.benchmarks.clouds import pair

Both = Callable[[Cloud, Cloud], tuple[Cloud, Cloud]]


@dataclass(frozen=True)
class Row:
    """One implementation on one pair of clouds."""

    n: int
    kind: str
    peer: str
    repeats: int
    cpu_s: float
    wall_s: float
    ratio: float
    wall_ratio: float
    error: float


def ours(pred: Cloud, truth: Cloud) -> tuple[Cloud, Cloud]:
    both = distances(pred, truth)
    return both.to_truth, both.to_pred


def by_peer(peer: str, pred: Cloud, truth: Cloud) -> tuple[Cloud, Cloud]:
    return nearest_by(peer, pred, truth).distance, nearest_by(peer, truth, pred).distance


def runners() -> dict[str, tuple[Both, type]]:
    """Every implementation, and the precision it is given."""
    table: dict[str, tuple[Both, type]] = {"ours": (ours, np.float64)}
    for peer in installed(NEAREST):
        if peer != "pytorch3d":  # single precision alone
            table[peer] = partial(by_peer, peer), np.float64
        if peer != "scipy":  # double precision alone
            table[f"{peer}-f32"] = partial(by_peer, peer), np.float32
    return table


def measure(n: int, kind: str, repeats: int) -> list[Row]:
    clouds = pair(kind, n, seed=1)
    table = runners()
    single = clouds[0].astype(np.float32), clouds[1].astype(np.float32)
    cpu: dict[str, list[float]] = {name: [] for name in table}
    wall: dict[str, list[float]] = {name: [] for name in table}
    answers = {}
    for _ in range(repeats):
        for name, (run, precision) in table.items():
            start = time.perf_counter(), time.process_time()
            answers[name] = run(*(single if precision is np.float32 else clouds))
            wall[name].append(time.perf_counter() - start[0])
            cpu[name].append(time.process_time() - start[1])
    rows = []
    for name in table:
        c, w = float(np.median(cpu[name])), float(np.median(wall[name]))
        ratios = c / float(np.median(cpu["ours"])), w / float(np.median(wall["ours"]))
        error = max(float(np.abs(a - b).max()) for a, b in zip(answers[name], answers["ours"], strict=True))
        rows.append(
            Row(n, kind, name, repeats, round(c, 5), round(w, 5), round(ratios[0], 2), round(ratios[1], 2), error)
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2000,16000,100000,1000000")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    start = time.perf_counter(), time.process_time()
    distances(*pair("surface", 2000, seed=0))
    print(f"first call {time.perf_counter() - start[0]:.2f} s wall, {time.process_time() - start[1]:.2f} s CPU\n")
    for run, precision in runners().values():
        run(*(cloud.astype(precision) for cloud in pair("surface", 2000, seed=0)))
    rows: list[Row] = []
    for n in map(int, options.sizes.split(",")):
        for kind in ("surface", "misaligned") if n <= 100_000 else ("surface",):
            print("| n | kind | implementation | CPU s | wall s | CPU / ours | wall / ours | error |")
            print("|---|---|---|---|---|---|---|---|")
            for row in measure(n, kind, repeats=15 if n < 10_000 else 7 if n <= 20_000 else 3):
                rows.append(row)
                seconds, ratios = f"{row.cpu_s:.4f} | {row.wall_s:.4f}", f"{row.ratio:.2f} | {row.wall_ratio:.2f}"
                print(f"| {n} | {kind} | {row.peer} | {seconds} | {ratios} | {row.error:.1e} |", flush=True)
            print()
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    main()
