"""How far measured truths can be trusted to judge: graded predictions under the exact surface and under COLMAP's truth.

    python -m tests.benchmarks.bench_judge SCENE_DIR ... [--csv FILE] [--systems]

Each scene has an exact and a COLMAP truth. The predictions are those of `data.groundtruth.fidelity`: the exact surface
and it spoilt in known ways; with `--systems` also visual hulls of 8 and 24 views. "Before" is the rule for truths that
do not say what they know: all surface and space that their cameras see is judged.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from adapters.contract import F64, Views
from adapters.systems.visual_hull.adapter import Adapter as Hull
from bench.trials.plan import view_order
from data.groundtruth.fidelity import Reading, prepared, rank_tau, readings
from data.scene import Scene
from metrics.scoring.prepared import PreparedTruth

GAP = 0.05  # exact F-scores farther apart must not be inverted


def hulls(scene: Scene, exact: PreparedTruth) -> Iterator[tuple[str, F64]]:
    """Visual hulls of 8 and of 24 views with the exact cameras."""
    for count in (8, 24):
        names = view_order(scene, 0)[:count]
        rows = [exact.truth.view_names.index(name) for name in names]
        images, masks = tuple(map(scene.image, names)), tuple(map(scene.mask, names))
        views = Views(images, tuple(names), masks, exact.truth.cameras.take(rows))
        adapter = Hull()
        adapter.load("cpu", "none", 0)
        yield f"hull {count}", adapter.finish(adapter.infer(adapter.prepare(views)), views).points.astype(np.float64)


def inverted(found: list[Reading], values: list[float]) -> list[tuple[str, str]]:
    """Pairs whose order `values` invert although their exact F-scores differ by more than GAP."""
    return [
        (found[i].name, found[j].name)
        for i, j in itertools.combinations(range(len(found)), 2)
        if abs(found[i].exact - found[j].exact) > GAP
        and (found[i].exact - found[j].exact) * (values[i] - values[j]) < 0
    ]


def main() -> None:
    """Print the tables; write the rows of all predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--systems", action="store_true")
    options = parser.parse_args()
    rows: list[list[object]] = []
    out = sys.stdout.write
    out("| scene | tau before | tau | exact surface reads, before | it reads | bounds | accuracy, % | own error, % |")
    out(" judged | known | bounds hold | inverted | s a prediction |\n" + "|---" * 13 + "|\n")
    for path in options.scenes:
        scene = Scene.open(path)
        truth = scene.truth("colmap")
        exact, colmap, bare = prepared(scene.truth("exact")), prepared(truth), prepared(replace(truth, knowledge=None))
        assert colmap.judge is not None
        more = list(hulls(scene, exact)) if options.systems else []
        start = time.process_time()
        found = list(readings(exact, colmap, more))
        seconds = (time.process_time() - start) / len(found)
        old = [r.measured for r in readings(exact, bare, more)]
        own = 100 * exact.distance(colmap.judge.surface).mean() / truth.diameter
        held = sum(r.possible[0] - 5e-4 <= r.exact <= r.possible[1] + 5e-4 for r in found)
        tau_before = float(kendalltau([r.exact for r in found], old).statistic)
        first, known = found[0], colmap.judge.known
        wrong = inverted(found, [r.measured for r in found])
        out(
            f"| {scene.name} | {tau_before:.2f} | {rank_tau(found):.2f} | {old[0]:.3f} | {first.measured:.3f} | "
            f"{first.possible[0]:.2f} to {first.possible[1]:.2f} | {first.accuracy:.2f} | {own:.2f} | "
            f"{first.judged:.0%} | {'–' if known is None else f'{known:.0%}'} | {held} of {len(found)} | "
            f"{len(wrong)} | {seconds:.1f} |\n"
        )
        for pair in wrong:
            sys.stderr.write(f"{scene.name}: inverted: {' and '.join(pair)}\n")
        rows += [
            [scene.name, r.name, *(round(v, 4) for v in (r.exact, was, r.measured, *r.possible, r.judged, r.accuracy))]
            for r, was in zip(found, old, strict=True)
        ]
        sys.stdout.flush()
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["scene", "prediction", "exact", "before", "measured", "least", "most", "judged", "accuracy"]
            )
            writer.writerows(rows)


if __name__ == "__main__":
    main()
