"""How good and how fast the stereo is on scenes whose surface is known exactly.

    python -m tests.benchmarks.bench_stereo SCENE_DIR [SCENE_DIR ...] [--views N] [--csv FILE]

Exact cameras, full frames, depth ranges from the cameras alone. Depth errors are relative, over pixels of the object's
mask; `raw` is every pixel's best guess, the rest what the consistency filter keeps. The cloud is cut to the truth's
crop volume; precision and completeness are the shares within 1% of the diameter of the exact mesh and of the surface
seen by three views or more. CPU seconds of all threads, compilation left out.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from adapters.shared.stereo import (
    depth_maps,
    depth_ranges_from_points,
    filter_consistent,
    fuse,
    select_neighbours,
    viewing_volume,
    warm_up,
)
from data.scene import Scene
from metrics.nearest import nearest, surface_distance

JUDGED = 50_000  # points of the cloud and of the surface that are judged, drawn by a fixed seed


@dataclass(frozen=True)
class Row:
    """One scene; shares are of 1, errors in percent."""

    scene: str
    views: int
    pixels: int  # of one image
    cpu_s_per_frame: float  # depth maps
    fusion_cpu_s_per_frame: float  # consistency filter and fusion
    raw_median_error: float
    raw_within_1_percent: float
    median_error: float
    within_1_percent: float
    coverage: float  # share of the mask's pixels with a confirmed depth
    points: int  # in the crop volume
    median_distance: float  # of the diameter
    precision: float
    completeness: float
    f_score: float


def measure(path: Path, views: int | None) -> Row:
    """Run everything on one scene with exact ground truth."""
    scene = Scene.open(path)
    truth = scene.truth("exact")
    assert truth.depth is not None and truth.masks is not None and truth.crop is not None
    assert truth.vertices is not None and truth.faces is not None
    chosen = np.arange(len(truth.view_names))
    if views is not None:
        chosen = np.linspace(0, len(chosen), min(views, len(chosen)), endpoint=False).astype(int)
    images = [scene.image(truth.view_names[i]) for i in chosen]
    cameras, sizes = truth.cameras.take(chosen), truth.sizes[chosen]
    K, pose = cameras.intrinsics, cameras.camera_from_world
    warm_up()
    start = time.process_time()
    volume = viewing_volume(K, pose, sizes)
    ranges = depth_ranges_from_points(volume, K, pose, sizes)
    neighbours = select_neighbours(volume, K, pose, sizes)
    maps = depth_maps(images, K, pose, ranges, neighbours, seed=0)
    middle = time.process_time()
    kept = filter_consistent(maps, K, pose, neighbours)
    cloud = fuse(kept, images, K, pose, neighbours, min_support=3)  # as `reconstruct` does with so many views
    end = time.process_time()

    exact = [truth.depth[i] for i in chosen]
    expected = [truth.masks[i] & (depth > 0) for i, depth in zip(chosen, exact, strict=True)]

    def errors(depths: list[np.ndarray]) -> np.ndarray:
        pairs = [(d[w & (d > 0)], e[w & (d > 0)]) for d, e, w in zip(depths, exact, expected, strict=True)]
        result, true = (np.concatenate(side) for side in zip(*pairs, strict=True))
        return np.asarray(100 * np.abs(result / true - 1))

    raw, good = errors([m.depth for m in maps]), errors([m.depth for m in kept])
    rng = np.random.default_rng(0)
    points = cloud.points[truth.crop.contains(cloud.points)]
    judged = points[rng.permutation(len(points))[:JUDGED]]
    distance = surface_distance(judged, truth.vertices, truth.faces) / truth.diameter
    surface = truth.points[truth.crop.contains(truth.points)]
    surface = surface[rng.permutation(len(surface))[:JUDGED]]
    observed = np.zeros(len(surface), int)
    for i, depth in enumerate(exact):
        pixel, z = cameras.project(i, surface)
        inside = (z > 0) & (pixel >= 0).all(axis=1) & (pixel < sizes[i]).all(axis=1)
        column, row = pixel[inside].astype(int).T
        observed[inside] += np.abs(depth[row, column] - z[inside]) < 0.005 * truth.diameter
    missed = nearest(surface[observed >= 3], points).distance / truth.diameter
    precision, completeness = float((distance < 0.01).mean()), float((missed < 0.01).mean())
    return Row(
        scene=scene.name,
        views=len(chosen),
        pixels=int(np.prod(sizes[0])),
        cpu_s_per_frame=(middle - start) / len(chosen),
        fusion_cpu_s_per_frame=(end - middle) / len(chosen),
        raw_median_error=float(np.median(raw)),
        raw_within_1_percent=float((raw < 1).mean()),
        median_error=float(np.median(good)),
        within_1_percent=float((good < 1).mean()),
        coverage=len(good) / sum(int(w.sum()) for w in expected),
        points=len(points),
        median_distance=100 * float(np.median(distance)),
        precision=precision,
        completeness=completeness,
        f_score=2 * precision * completeness / max(precision + completeness, 1e-9),
    )


def main() -> None:
    """Print a line a scene; --csv writes them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--views", type=int, help="so many views, evenly spread over the list (default: all)")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = []
    for path in options.scenes:
        row = {
            key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(measure(path, options.views)).items()
        }
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Row)])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
