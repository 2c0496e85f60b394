"""How far measured truths can be trusted to judge: graded predictions under the exact surface and under COLMAP's truth.

    python -m tests.benchmarks.bench_judge SCENE_DIR ... [--held-out SCENE_DIR ...] [--csv FILE] [--keep DIR]

Each scene has an exact and a COLMAP truth. The predictions are those of `data.groundtruth.fidelity`, the exact surface
and it spoilt in known ways, and PatchMatch stereo of 8 views. "Before" is the rule for truths that do not say what they
know: all surface and space that their cameras see is judged. Inverted are pairs whose exact F-scores differ by more
than 0.05.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image
from scipy.stats import kendalltau

from adapters.contract import F64
from adapters.shared.stereo import depth_maps, depth_ranges_from_points, filter_consistent, fuse, select_neighbours
from bench.trials.plan import view_order
from data.groundtruth.dense import shrink_mask
from data.groundtruth.fidelity import Reading, graded, prepared, rank_tau, reading, scored
from data.scene import Scene
from metrics.scoring.prepared import PreparedTruth
from metrics.scoring.truth import Truth

GAP = 0.05  # exact F-scores farther apart must not be inverted


def stereo(scene: Scene, exact: PreparedTruth) -> F64:
    """(M, 3) PatchMatch stereo of 8 views at half size, inside the masks, with the exact cameras."""
    names = view_order(scene, 0)[:8]
    cameras = exact.truth.cameras.take([exact.truth.view_names.index(name) for name in names])
    K, pose = cameras.intrinsics * np.array([0.5, 0.5, 1.0])[:, None], cameras.camera_from_world
    images = [np.asarray(Image.fromarray(scene.image(name)).reduce(2)) for name in names]
    masks = [shrink_mask(scene.mask(name), image.shape[1::-1]) for name, image in zip(names, images, strict=True)]
    sizes = [image.shape[1::-1] for image in images]
    some = exact.truth.points[::100]
    ranges, neighbours = depth_ranges_from_points(some, K, pose, sizes), select_neighbours(some, K, pose, sizes)
    kept = filter_consistent(depth_maps(images, K, pose, ranges, neighbours, 0, valid=masks), K, pose, neighbours)
    return fuse(kept, images, K, pose, neighbours, min_support=3).points.astype(np.float64)


def inverted(result: list[Reading], values: list[float]) -> list[tuple[str, str]]:
    """Pairs whose order `values` invert although their exact F-scores differ by more than GAP."""
    return [
        (result[i].name, result[j].name)
        for i, j in itertools.combinations(range(len(result)), 2)
        if abs(result[i].exact - result[j].exact) > GAP
        and (result[i].exact - result[j].exact) * (values[i] - values[j]) < 0
    ]


@dataclass(frozen=True)
class Fidelity:
    """One scene's figures."""

    scene: str
    readings: list[Reading]
    before: list[float]  # F-scores by the rule that takes the truth at its word
    known: float | None
    own_error: float  # of the trusted points, % of the diameter
    seconds: float  # CPU, to score the exact surface

    @staticmethod
    def of(path: Path, keep: Path | None) -> Fidelity:
        """Measured, or read from the folder `keep`, where it is kept: a killed run goes on where it stopped."""
        scene = Scene.open(path)
        truth = scene.truth("colmap")
        kept = keep / f"{scene.name}-{truth.id}.json" if keep is not None else None
        if kept is not None and kept.is_file():
            return msgspec.json.decode(kept.read_bytes(), type=Fidelity)
        fidelity = Fidelity._measured(path, scene, truth)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(msgspec.json.encode(fidelity))
        return fidelity

    @staticmethod
    def _measured(path: Path, scene: Scene, truth: Truth) -> Fidelity:
        exact, colmap, bare = prepared(scene.truth("exact")), prepared(truth), prepared(replace(truth, knowledge=None))
        if colmap.judge is None:
            raise SystemExit(f"{path}: a truth that does not say what it knows: rebuild it by `reconbench groundtruth`")
        clouds = [*graded(exact), ("stereo of 8 views", stereo(scene, exact))]
        result = [reading(name, points, exact, colmap) for name, points in clouds]
        start = time.process_time()
        scored(clouds[0][1], colmap)
        seconds = time.process_time() - start
        return Fidelity(
            scene.name,
            result,
            [scored(points, bare)["fscore@1%"].value or 0.0 for _, points in clouds],
            colmap.judge.known,
            float(100 * exact.distance(colmap.judge.surface).mean() / truth.diameter),
            seconds,
        )

    def row(self, part: str) -> str:
        """Its line of the first table."""
        result = self.readings
        first, exact = result[0], [r.exact for r in result]
        held = sum(r.possible[0] - 5e-4 <= r.exact <= r.possible[1] + 5e-4 for r in result)
        before, now = inverted(result, self.before), inverted(result, [r.measured for r in result])
        for pair in now:
            sys.stderr.write(f"{self.scene}: inverted: {' and '.join(pair)}\n")
        cells = (
            self.scene,
            part,
            f"{self.before[0]:.3f}",
            f"{first.measured:.3f}",
            f"{first.possible[0]:.2f} to {first.possible[1]:.2f}",
            f"{first.accuracy:.2f}",
            f"{self.own_error:.2f}",
            f"{kendalltau(exact, self.before).statistic:.3f}",
            f"{rank_tau(result):.3f}",
            f"{len(before)}",
            f"{len(now)}",
            f"{held} of {len(result)}",
            f"{first.judged:.0%}",
            "–" if self.known is None else f"{self.known:.0%}",
            f"{self.seconds:.1f}",
        )
        return f"| {' | '.join(cells)} |\n"


COLUMNS = (
    "scene",
    "part",
    "exact surface reads, before",
    "now",
    "its bounds",
    "its accuracy, %",
    "trusted points' own error, %",
    "tau, before",
    "now",
    "inverted, before",
    "now",
    "bounds hold",
    "judged",
    "known",
    "s",
)


def main() -> None:
    """Print the tables; write the rows of all predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--held-out", nargs="*", type=Path, default=[], help="scenes that chose no constant")
    parser.add_argument("--csv", type=Path, help="a row a prediction")
    parser.add_argument("--keep", type=Path, help="a folder of what is measured already; empty it to measure anew")
    options = parser.parse_args()
    out = sys.stdout.write
    out(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n")
    parts = [("embedded", path) for path in options.scenes] + [("held out", path) for path in options.held_out]
    done = []
    for part, path in parts:
        done.append(Fidelity.of(path, options.keep))
        out(done[-1].row(part))
        sys.stdout.flush()
    out(f"\n| exact, before, now | {' | '.join(fidelity.scene for fidelity in done)} |\n{'|---' * (len(done) + 1)}|\n")
    for row, name in enumerate(r.name for r in done[0].readings):
        cells = (f"{f.readings[row].exact:.2f}, {f.before[row]:.2f}, {f.readings[row].measured:.2f}" for f in done)
        out(f"| {name} | {' | '.join(cells)} |\n")
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["scene", "part", "prediction", "exact", "before", "measured", "least", "most", "judged", "accuracy"]
            )
            for (part, _), fidelity in zip(parts, done, strict=True):
                for r, was in zip(fidelity.readings, fidelity.before, strict=True):
                    values = (r.exact, was, r.measured, *r.possible, r.judged, r.accuracy)
                    writer.writerow([fidelity.scene, part, r.name, *(round(v, 4) for v in values)])


if __name__ == "__main__":
    main()
