"""What Ray adds to short trials, and what two nodes gain: `python -m tests.benchmarks.bench_cluster`.

Four ways to run trials of the null adapter, which are over when their worker has started, in turns, so that whatever
else the machine does meets all of them: the local engine; Ray with one trial at a time; two local engines side by side,
the best that two cores can do; Ray on two nodes of one processor each. The cluster is of this machine's loopback.
Ratios are of one round each; of them stand the median and the quartiles. Wants Ray (`make test-ray` makes an
environment that has it)."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import local
from bench.engines.engine import Engine
from bench.engines.local import Progress, run_plan
from bench.systems.cards import get_adapter
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.scenes import scene_of_images
from bench.trials.site import HERE, Site
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite

if TYPE_CHECKING:
    from bench.engines.ray import Cluster

SHORT = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=300.0, timing_only=True)
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


def suite(adapter: str, seeds: range) -> Suite:
    """One trial a seed."""
    return Suite(name="short", adapters=[Contestant(name=adapter)], views=(1,), seeds=tuple(seeds), policy=SHORT)


def refused(folder: Path) -> str:
    """An adapter whose card refuses every trial here: such a trial is all that engines and store do, and no more."""
    folder.mkdir()
    (folder / "adapter.py").write_bytes((get_adapter("null").folder / "adapter.py").read_bytes())
    card = 'name = "refused"\ntitle = "Refused"\nlicence_code = "Apache-2.0"\nscope = "scene"\nmin_views = 2\n'
    (folder / "adapter.toml").write_text(card)
    return str(folder)


class OneAtATime:
    """A cluster that is given the next trial when the last one has ended."""

    slots = 1

    def __init__(self, cluster: Cluster) -> None:
        self.open, self.start, self.finished = cluster.open, cluster.start, cluster.finished
        self.overhead_seconds = cluster.overhead_seconds


def seconds_of(
    adapter: str, photos: Path, store: Path, seeds: range, engine: Engine | None = None, site: Site = HERE
) -> float:
    """Seconds from the first trial's start to the end of the last one, in this process or by `engine`."""
    local.overhead_seconds = lambda calls=50: None  # one more worker a run
    trials = plan(suite(adapter, seeds), [scene_of_images(photos)], site=site)
    began: list[float] = []
    progress = Progress(started=lambda trial, estimate: began.append(time.perf_counter()))
    result = run_plan(trials, Store(store), protocol="object-v1", truth="exact", engine=engine, progress=progress)
    assert {record.status for record in result.records} <= {"ok", "unsupported"}, result
    assert len(result.records) == len(seeds), result.left_out
    return time.perf_counter() - began[0]


def quartiles(values: list[float]) -> str:
    """Median, and the quartiles about it."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="of Ray on two nodes")
    parser.add_argument("--round", type=int, default=40, help="of them in a round")
    parser.add_argument("--others", type=int, default=20, help="trials of each other way in a round")
    parser.add_argument("--nothing", action="store_true", help="trials that the card refuses: the engines' own time")
    parser.add_argument("--seconds", type=float, default=1e9, help="no round is started after so many")
    asked = parser.parse_args()
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_worker_niceness": "0"} | dict.fromkeys(THREADS, "1")
    from PIL import Image
    from ray.cluster_utils import Cluster as Nodes

    from bench.engines.ray import connected

    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        folder, photos = Path(name), Path(name, "photos")
        photos.mkdir()
        adapter = refused(folder / "refused") if asked.nothing else "null"
        Image.new("RGB", (8, 8)).save(photos / "a.png")
        stores: Iterator[Path] = (folder / f"store-{i}" for i in itertools.count())
        wait([pool.submit(seconds_of, adapter, photos, next(stores), range(2)) for _ in range(2)])
        small = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
        nodes = Nodes(True, head_node_args={**small, "num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=1, **small)
            os.environ["RAY_ADDRESS"] = nodes.address
            began = time.perf_counter()
            with connected(1, False, print) as cluster:
                site = cluster.site([suite(adapter, range(1))], [scene_of_images(photos)])

                cluster.overhead_seconds = lambda: None  # type: ignore[method-assign]

                def by_ray(seeds: range, engine: Engine) -> float:
                    return seconds_of(adapter, photos, next(stores), seeds, engine, site)

                by_ray(range(4), cluster)
                print(f"connected, asked and warm after {time.perf_counter() - began:.1f} s", file=sys.stderr)
                rows: list[tuple[float, float, float, float]] = []
                half = asked.others
                while len(rows) * asked.round < asked.trials and time.perf_counter() - began < asked.seconds:
                    seconds = dict[str, float]()
                    ways = ["local", "ray one", "side by side", "ray two"]
                    for way in ways if len(rows) % 2 else ways[::-1]:
                        if way == "local":
                            taken = pool.submit(seconds_of, adapter, photos, next(stores), range(half)).result()
                        elif way == "ray one":
                            taken = by_ray(range(half), OneAtATime(cluster))
                        elif way == "side by side":
                            parts = (range(half // 2), range(half // 2, half))
                            both = [pool.submit(seconds_of, adapter, photos, next(stores), part) for part in parts]
                            taken = max(future.result() for future in both)
                        else:
                            taken = by_ray(range(asked.round), cluster)
                        seconds[way] = taken / (asked.round if way == "ray two" else half)
                    rows.append((seconds["local"], seconds["ray one"], seconds["side by side"], seconds["ray two"]))
                    print(*(f"{value:.4f}" for value in rows[-1]), file=sys.stderr)
        finally:
            nodes.shutdown()
    one, ray_one, pair, ray_two = (list(column) for column in zip(*rows, strict=True))
    trials = len(rows) * asked.round
    print(f"{len(rows)} rounds; Ray on two nodes ran {trials} trials, each other way {len(rows) * half}\n")
    print("| way | seconds a trial | ratio |\n|---|---|---|")
    print(f"| local engine | {quartiles(one)} | |")
    ratio = quartiles([b / a for a, b in zip(one, ray_one, strict=True)])
    print(f"| Ray, one at a time | {quartiles(ray_one)} | {ratio} of the local engine's time |")
    ratio = quartiles([a / b for a, b in zip(one, pair, strict=True)])
    print(f"| two local engines side by side | {quartiles(pair)} | {ratio} times the local engine |")
    ratio = quartiles([a / b for a, b in zip(one, ray_two, strict=True)])
    share = quartiles([a / b for a, b in zip(pair, ray_two, strict=True)])
    print(f"| Ray, two nodes | {quartiles(ray_two)} | {ratio} times the local engine, {share} of side by side |")


if __name__ == "__main__":
    main()
