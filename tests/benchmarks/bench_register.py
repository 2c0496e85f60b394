"""How often registration finds the pose, at what cost, and how well it knows when it has not.

    python -m tests.benchmarks.bench_register GROUP FIRST LAST [--scenarios a,b] [--csv FILE]

GROUP is common, held out, symmetric or wrong (shapes registered to other shapes). Seeds FIRST to LAST - 1. A success is
a rotation within 5 degrees and a scale within 5%. CPU seconds of one thread, compilation left out.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import os
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import trimesh  # noqa: E402

from metrics.register import register  # noqa: E402
from metrics.similarity import rotation_angle, rotation_of, scale_of  # noqa: E402
from tests.benchmarks.register_cases import GROUPS, SCENARIOS, make_case  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One registration."""

    group: str
    shape: str
    scenario: str
    seed: int
    success: bool
    rotation_error: float  # degrees
    scale_error: float  # |found / true - 1|
    margin: float
    ambiguous: bool
    poor_fit: bool
    cpu_s: float


@cache
def shapes(group: str) -> dict[str, trimesh.Trimesh]:
    if group == "wrong":
        return GROUPS["common"]() | GROUPS["held out"]()
    return GROUPS[group]()


def run(task: tuple[str, str, str, int]) -> Row:
    group, name, scenario, seed = task
    known = shapes(group)
    case = make_case(known[name], name, scenario, seed)
    truth = case.truth
    if group == "wrong":
        others = [other for other in known if other != name]
        wrong = others[seed % len(others)]
        truth = make_case(known[wrong], wrong, "clean", seed).truth
    started = time.process_time()
    found = register(case.pred, truth, seed=seed)
    spent = time.process_time() - started
    angle = float(rotation_angle(rotation_of(found.target_from_source) @ rotation_of(case.truth_from_pred).T))
    scale = abs(found.scale / scale_of(case.truth_from_pred) - 1)
    success = angle < 5 and scale < 0.05
    margin = found.margin if found.margin is not None else 1.0
    return Row(group, name, scenario, seed, success, angle, scale, margin, found.ambiguous, found.poor_fit, spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=[*GROUPS, "wrong"])
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS).replace(", ", "; "))
    parser.add_argument("--shapes", default="")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    chosen = parser.parse_args()
    scenarios = [s.replace("; ", ", ") for s in chosen.scenarios.split(",")]
    names = chosen.shapes.split(",") if chosen.shapes else list(shapes(chosen.group))
    tasks = [
        (chosen.group, name, scenario, seed)
        for scenario, name, seed in itertools.product(scenarios, names, range(chosen.first, chosen.last))
    ]
    first = make_case(shapes(chosen.group)[names[0]], names[0], "clean", 0)
    register(first.pred, first.truth)  # compiles, or reads what was compiled
    rows = []
    with multiprocessing.get_context("fork").Pool(chosen.processes) as pool:
        for row in pool.imap(run, tasks):
            rows.append(row)
            if not row.success and chosen.group in ("common", "held out"):
                print(f"  failed: {row}", flush=True)
    for scenario in scenarios:
        print(summary(scenario, [row for row in rows if row.scenario == scenario]))
    if chosen.csv:
        write(chosen.csv, rows)


def summary(scenario: str, rows: list[Row]) -> str:
    """One line: successes, ambiguous among successes and failures, poor fits, CPU seconds, median errors."""
    good = [row for row in rows if row.success]
    bad = [row for row in rows if not row.success]
    cpu = np.quantile([row.cpu_s for row in rows], (0.5, 0.95))
    text = f"{scenario:38s} {len(good):3d}/{len(rows):<3d} cpu {cpu[0]:.2f} {cpu[1]:.2f}"
    if good:
        errors = np.median([(row.rotation_error, row.scale_error) for row in good], axis=0)
        text += f"  median {errors[0]:.2f} deg {100 * errors[1]:.2f}%"
    flags = [f"{sum(r.ambiguous for r in part)}/{len(part)}" for part in (good, bad)]
    worst = max(row.margin for row in rows), min(row.margin for row in rows)
    return (
        f"{text}  ambiguous right {flags[0]} wrong {flags[1]}  poor fit {sum(r.poor_fit for r in rows)}/{len(rows)}"
        f"  margin {worst[1]:.4f}..{worst[0]:.4f}"
    )


def write(path: Path, rows: list[Row]) -> None:
    """Append `rows` to a CSV file, with a header where it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    main()
