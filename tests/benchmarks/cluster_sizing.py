"""How long a large grid takes on a large cluster, and what holds it up: `python -m tests.benchmarks.cluster_sizing`.

20 systems x 500 scenes x 7 view counts on 64 GPUs, simulated trial by trial from seconds that were measured:
docs/benchmarks/cluster-parts.csv, what the host does with a prediction (`--measure` makes it on this machine);
docs/benchmarks/vggt-cpu.csv, a network's load and its forward passes on two cores; and, since no GPU was there, the
forward passes on an H100 that VGGT's authors print in their README. Every system is taken to be like VGGT at 518 px."""

from __future__ import annotations

import argparse
import csv
import heapq
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "docs" / "benchmarks"
PARTS = BENCHMARKS / "cluster-parts.csv"
SYSTEMS, SCENES, VIEWS = 20, 500, (1, 2, 4, 8, 16, 24, 32)
POINTS_A_VIEW = 518 * 392  # VGGT's grid on photos of 4:3
H100 = {1: 0.04, 2: 0.05, 4: 0.07, 8: 0.11, 10: 0.14, 20: 0.31, 50: 1.04}  # seconds, by VGGT's authors
SIZES = (60_000, 250_000, 1_000_000)


@dataclass(frozen=True)
class Farm:
    """A cluster, and how trials are run on it."""

    gpus: int = 64
    cores: int = 12  # a GPU, all together: one drives it, the others score
    storage: float = 2000.0  # MB/s, of all nodes together
    load: float = 10.5  # seconds: a network of 1.2 billion parameters; measured, docs/benchmarks/vggt-cpu.csv
    start: float = 5.0  # seconds: interpreter, imports of torch, the driver's context; assumed
    calls: int = 5  # one cold, one warm-up, three timed
    keep: float = float("inf")  # points stored and scored of a prediction
    score_on_gpu_s_time: bool = False  # the GPU waits until its trial is scored
    infer: float = 1.0  # factor on forward passes
    host: float = 1.0  # factor on what the host does with a prediction


@dataclass(frozen=True)
class Sums:
    """What a simulation came to; seconds."""

    hours: float
    gpu: Mapping[str, float]  # of all GPUs together, by what they waited for
    scoring: float  # of all cores together
    gigabytes: float


def parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Points and seconds of each thing that the host does, and megabytes stored, as measured."""
    with PARTS.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    names = ("read_s", "store_s", "score_s", "megabytes")
    points = np.array([float(row["points"]) for row in rows])
    return {name: (points, np.array([float(row[name]) for row in rows])) for name in names}


def line(measured: tuple[np.ndarray, np.ndarray], points: float) -> float:
    """At `points`: between what was measured, beyond it along the last piece."""
    x, y = measured
    if points <= x[-1]:
        return float(np.interp(points, x, y))
    return float(y[-1] + (points - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2]))


def costs(farm: Farm, views: int) -> tuple[dict[str, float], float, float]:
    """Of one trial: seconds of its GPU by what they go into, seconds of the core that scores it, megabytes kept."""
    measured, made = parts(), views * POINTS_A_VIEW
    kept = min(made, farm.keep)
    score = farm.host * line(measured["score_s"], kept)
    gpu = {
        "starting workers": farm.start,
        "loading weights": farm.load,
        "forward passes": farm.infer * farm.calls * float(np.interp(views, list(H100), list(H100.values()))),
        "reading and storing": farm.host * (line(measured["read_s"], made) + line(measured["store_s"], kept)),
        "scoring": score if farm.score_on_gpu_s_time else 0.0,
    }
    return gpu, 0.0 if farm.score_on_gpu_s_time else score, line(measured["megabytes"], kept)


def simulate(farm: Farm) -> Sums:
    """Every trial in the order of the plan: a GPU as soon as one is free, then a core to score it."""
    gpus, scorers = [0.0] * farm.gpus, [0.0] * max(farm.gpus * (farm.cores - 1), 1)
    spent, scoring, megabytes, end = Counter[str](), 0.0, 0.0, 0.0
    for views in VIEWS:
        gpu, score, size = costs(farm, views)
        busy, trials = sum(gpu.values()), SYSTEMS * SCENES
        for _ in range(trials):
            free = heapq.heappop(gpus) + busy
            heapq.heappush(gpus, free)
            if score:
                free = max(free, heapq.heappop(scorers)) + score
                heapq.heappush(scorers, free)
            end = max(end, free)
        spent.update({part: seconds * trials for part, seconds in gpu.items()})
        scoring, megabytes = scoring + score * trials, megabytes + size * trials
    return Sums(max(end, megabytes / farm.storage) / 3600, spent, scoring, megabytes / 1000)


def measure() -> None:
    """Write `PARTS`: CPU seconds of this process for predictions of several sizes of one scene."""
    from adapters.contract import Reconstruction, write_npz
    from bench.arrays import NpzFile
    from bench.scoring.score import prepare
    from bench.trials.plan import read_truth
    from bench.trials.scenes import get_scene
    from bench.trials.store import Store
    from metrics.scoring.compile import compile_kernels
    from metrics.scoring.protocol import load_protocol
    from metrics.scoring.score import score

    scene, protocol = get_scene("elephant"), load_protocol("object-v1")
    truth, views = read_truth(scene, "exact"), scene.view_names[:8]
    compile_kernels(protocol)
    prepared, rng = prepare(scene, "exact", protocol), np.random.default_rng(0)
    photos = tuple[np.ndarray, ...]()
    rows = []
    for size in SIZES:
        drawn = rng.integers(len(truth.points), size=size)
        moved = truth.points[drawn] + rng.normal(0, 0.003 * truth.diameter, (size, 3))
        prediction = Reconstruction(
            points=moved.astype(np.float32),
            colors=rng.integers(0, 256, (size, 3), np.uint8),
            confidence=rng.random(size, np.float32),
            confidence_kind="probability",
            view_index=rng.integers(8, size=size).astype(np.int32),
            frame="world",
            scale="arbitrary",
        )
        with tempfile.TemporaryDirectory() as folder:
            write_npz(Path(folder, "out.npz"), prediction.arrays())
            seconds = [time.process_time()]
            Reconstruction.from_arrays(NpzFile(Path(folder, "out.npz")))
            seconds.append(time.process_time())
            name, _ = Store(Path(folder)).put_prediction(prediction)
            seconds.append(time.process_time())
            megabytes = Store(Path(folder)).prediction_path(name).stat().st_size / 1e6
            score(prediction, prepared, views, scope="scene", posed=True, photos=photos)
            seconds.append(time.process_time())
        rows.append([size, *np.round(np.diff(seconds), 3), round(megabytes, 1)])
        print(*rows[-1])
    with PARTS.open("w", newline="") as file:
        file.write("# CPU seconds of the host for one prediction of so many points, elephant, object-v1, exact truth\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("points", "read_s", "store_s", "score_s", "megabytes"), *rows])


CASES = {
    "as it is: all points kept": Farm(),
    "a million points kept (`--keep-points 1000000`)": Farm(keep=1e6),
    "the same, scored while the GPU waits": Farm(keep=1e6, score_on_gpu_s_time=True),
    "the same, one call (`--warmups 0 --repeats 0`)": Farm(keep=1e6, calls=1),
    "a million points, 3 cores a GPU": Farm(keep=1e6, cores=3),
    "a million points, 32 GPUs": Farm(keep=1e6, gpus=32),
}
WITHOUT = {
    "starting workers": {"start": 0.0},
    "loading weights": {"load": 0.0},
    "forward passes": {"infer": 0.0},
    "what the host does with predictions": {"host": 0.0},
}


def main() -> None:
    """Print the tables of docs/clusters.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="first time the host's parts on this machine")
    if parser.parse_args().measure:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        measure()
    print(f"{SYSTEMS} systems x {SCENES} scenes x {len(VIEWS)} view counts: {SYSTEMS * SCENES * len(VIEWS):,} trials\n")
    parts_of_gpu = ("starting workers", "loading weights", "forward passes", "reading and storing")
    print("GPU hours by what the GPUs wait for, core hours of scoring:\n")
    print("| 64 GPUs, 12 cores each | hours | starting | loading | forward | storing | scoring | TB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, farm in CASES.items():
        sums = simulate(farm)
        cells = [f"{sums.hours:.1f}", *(f"{sums.gpu[part] / 3600:,.0f}" for part in parts_of_gpu)]
        cells += [f"{sums.scoring / 3600:,.0f}", f"{sums.gigabytes / 1000:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    base = CASES["a million points kept (`--keep-points 1000000`)"]
    whole = simulate(base).hours
    print("\n| a million points kept, and for nothing | hours | saved |\n|---|---|---|")
    for name, change in WITHOUT.items():
        hours = simulate(replace(base, **change)).hours  # type: ignore[arg-type]
        print(f"| {name} | {hours:.1f} | {1 - hours / whole:.0%} |")


if __name__ == "__main__":
    main()
