"""Prove the gate by seeding: regressions and harmless changes, one at a time, in a copy of the tree.

    python -m tests.soak.soak [--csv FILE] [--only WORDS]

The unchanged copy must pass first; that also compiles what the copies then share. What each case is stands in
`cases.toml`. Exit code 1 where a regression slipped through or a harmless change raised an alarm."""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = ("adapters", "baselines", "bench", "data", "metrics", "reports")
CAUGHT, ALARMS = (1, 5), (1, 5)  # exit codes: a regression, a check that broke
COMMAND = [sys.executable, "-P", "-c", "from bench.cli import main; main()", "check", "--fail-fast"]


@dataclass(frozen=True)
class Case:
    """One change and what of the gate it is put through."""

    kind: str  # "regression" | "harmless"
    name: str
    edits: tuple[tuple[str, str, str], ...]  # file, old, new
    parts: str = "exact"
    time: str = ""  # the workload, where `parts` is "time"


@dataclass(frozen=True)
class Row:
    """The gate's result on one case."""

    kind: str
    change: str
    parts: str
    exit_code: int
    as_expected: bool
    caught_by: str
    cpu_seconds: float
    wall_seconds: float


def read_cases() -> list[Case]:
    """Every case of `cases.toml`."""
    table = tomllib.loads((Path(__file__).parent / "cases.toml").read_text())
    return [
        Case(
            kind,
            entry["name"],
            tuple((file, old, new) for file, old, new in entry["edits"]),
            ",".join(entry.get("parts", ["exact"])),
            entry.get("time", ""),
        )
        for kind in ("regression", "harmless")
        for entry in table[kind]
    ]


def apply(case: Case, tree: Path) -> None:
    """Make the edits of `case` in `tree`; ValueError where one does not apply exactly once."""
    for file, old, new in case.edits:
        path = tree / file
        if not old:
            if path.exists():
                raise ValueError(f"{case.name}: {file} is there already")
            path.write_text(new)
            continue
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{case.name}: {file} holds {text.count(old)} times {old!r}, once wanted")
        path.write_text(text.replace(old, new))


def copy_tree(source: Path, target: Path) -> Path:
    """A copy of what the gate needs of `source`; modification times stay, so that compiled kernels stay valid."""
    for name in COPIED:
        shutil.copytree(source / name, target / name)
    return target


def run_case(case: Case, base: Path, folder: Path) -> Row:
    """Put `case` through the gate in a copy of `base`, made in `folder` and removed."""
    tree = copy_tree(base, folder / "tree")
    try:
        apply(case, tree)
        began, cpu = time.perf_counter(), _children_cpu()
        more = ["--against", str(base), "--workloads", case.time] if case.time else []
        code, output = check(tree, ["--only", case.parts, *more], folder)
    finally:
        shutil.rmtree(tree)
    expected = code in CAUGHT if case.kind == "regression" else code not in ALARMS
    seconds = (_children_cpu() - cpu, time.perf_counter() - began)
    return Row(case.kind, case.name, case.parts, code, expected, output, *(round(s, 1) for s in seconds))


def check(tree: Path, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run the gate of `tree` on itself: the exit code, and what raised the first alarm."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "RECONBENCH_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(("regression  ", "broken  ")) and i + 1 < len(lines):
            about = " ".join(line.rsplit(" (", 1)[0].split()[1:])
            details = "; ".join(more.strip() for more in lines[i + 1 : i + 3] if more.startswith("    "))
            return done.returncode, f"{about}: {details}"
    return done.returncode, "" if done.returncode in (0, 3, 4) else done.stderr.strip()[-300:]


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Run the soak and print, and perhaps write, its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="write the table here")
    parser.add_argument("--only", default="", help="cases whose name holds these words")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="reconbench-") as temporary:
        folder = Path(temporary).resolve()
        base = copy_tree(ROOT, folder / "base")
        code, output = check(base, ["--only", "exact"], folder)
        if code != 0:
            sys.stderr.write(f"the unchanged tree does not pass (exit code {code}): {output}\n")
            return 5
        for case in (case for case in read_cases() if options.only in case.name):
            row = run_case(case, base, folder)
            rows.append(row)
            mark = "as expected" if row.as_expected else "UNEXPECTED"
            sys.stderr.write(
                f"{mark:14}{row.kind:11}{row.change} [{row.exit_code}, {row.cpu_seconds} s] {row.caught_by}\n"
            )
            if options.csv is not None:
                with options.csv.open("w", newline="") as file:
                    table = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
                    table.writeheader()
                    table.writerows(map(asdict, rows))
    caught = [sum(row.as_expected for row in rows if row.kind == kind) for kind in ("regression", "harmless")]
    total = [sum(row.kind == kind for row in rows) for kind in ("regression", "harmless")]
    sys.stderr.write(
        f"{caught[0]} of {total[0]} regressions caught, {total[1] - caught[1]} false alarms of {total[1]}\n"
    )
    return 0 if all(row.as_expected for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
