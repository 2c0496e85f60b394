"""How often registration finds the pose, at what cost, and how well it knows when it has not.

    python -m tests.benchmarks.bench_register GROUP FIRST LAST [--scenarios a,b] [--csv FILE] [--table FILE]

GROUP is common, held out, symmetric or wrong (shapes registered to other shapes). Seeds FIRST to LAST - 1. A success is
a rotation within 5 degrees and a scale within 5%. CPU seconds of one thread, compilation left out. --csv appends a row
a case as they come, --table a row a scenario; in --scenarios a semicolon stands for the comma within a name.
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
    scale_error: float  # |estimated / true - 1|
    margin: float
    ambiguous: bool
    poor_fit: bool
    cpu_s: float


@dataclass(frozen=True)
class Line:
    """All cases of one group and scenario."""

    group: str
    scenario: str
    shapes: int
    first_seed: int
    last_seed: int
    cases: int
    successes: int
    ambiguous_successes: int
    ambiguous_failures: int
    poor_fits: int
    cpu_s_median: float
    cpu_s_95: float
    rotation_median: float | None  # degrees, of the successes
    scale_median: float | None  # relative, of the successes


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
    result = register(case.pred, truth, seed=seed)
    spent = time.process_time() - started
    angle = float(rotation_angle(rotation_of(result.target_from_source) @ rotation_of(case.truth_from_pred).T))
    scale = abs(result.scale / scale_of(case.truth_from_pred) - 1)
    success = angle < 5 and scale < 0.05
    margin = result.margin if result.margin is not None else 1.0
    return Row(group, name, scenario, seed, success, angle, scale, margin, result.ambiguous, result.poor_fit, spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=[*GROUPS, "wrong"])
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS).replace(", ", "; "))
    parser.add_argument("--shapes", default="")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--table", type=Path)
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
            if chosen.csv:
                append(chosen.csv, row)
    for scenario in scenarios:
        total = line([row for row in rows if row.scenario == scenario])
        print(
            f"{scenario:38s} {total.successes:3d}/{total.cases:<3d} cpu {total.cpu_s_median} {total.cpu_s_95}  median"
            f" {total.rotation_median} deg, scale {total.scale_median}  ambiguous {total.ambiguous_successes} right,"
            f" {total.ambiguous_failures} wrong  poor fit {total.poor_fits}"
        )
        if chosen.table:
            append(chosen.table, total)


def line(rows: list[Row]) -> Line:
    """What the cases of one group and scenario come to."""
    good = [row for row in rows if row.success]
    seeds = [row.seed for row in rows]
    cpu = np.quantile([row.cpu_s for row in rows], (0.5, 0.95))
    return Line(
        group=rows[0].group,
        scenario=rows[0].scenario,
        shapes=len({row.shape for row in rows}),
        first_seed=min(seeds),
        last_seed=max(seeds),
        cases=len(rows),
        successes=len(good),
        ambiguous_successes=sum(row.ambiguous for row in good),
        ambiguous_failures=sum(row.ambiguous for row in rows) - sum(row.ambiguous for row in good),
        poor_fits=sum(row.poor_fit for row in rows),
        cpu_s_median=round(float(cpu[0]), 2),
        cpu_s_95=round(float(cpu[1]), 2),
        rotation_median=round(float(np.median([row.rotation_error for row in good])), 3) if good else None,
        scale_median=round(float(np.median([row.scale_error for row in good])), 5) if good else None,
    )


def append(path: Path, row: Row | Line) -> None:
    """Append `row` to a CSV file, after a header where it is new."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(row)))
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


if __name__ == "__main__":
    main()
