"""What the walls add to a trial: `python -m tests.benchmarks.bench_walls [--pairs 60]`.

The smallest command with and without them, in turn, in CPU time of all its processes; the paired differences."""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

from bench.systems import walls


def once(enclosed: bool) -> tuple[float, float]:
    """Milliseconds of CPU and of wall time for one command that does nothing."""
    with walls.work_folder() as folder:
        (folder / "work").mkdir()
        command = [sys.executable, "-I", "-S", "-c", ""]
        command = walls.enclosed(command, folder) if enclosed else command
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, cwd=folder / "work")
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), 1000 * wall


def main() -> None:
    """Print medians and quartiles of the differences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=60)
    pairs = parser.parse_args().pairs
    assert walls.isolated(), "this system permits no namespaces"
    once(True), once(False)
    differences = []
    for turn in range(pairs):
        first, second = once(turn % 2 == 0), once(turn % 2 == 1)
        with_walls, without = (first, second) if turn % 2 == 0 else (second, first)
        differences.append([a - b for a, b in zip(with_walls, without, strict=True)])
    for name, values in zip(("CPU", "wall"), zip(*differences, strict=True), strict=True):
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name}: {middle:.1f} ms more, quartiles {low:.1f} to {high:.1f}, {pairs} pairs")


if __name__ == "__main__":
    main()
