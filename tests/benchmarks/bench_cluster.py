"""What Ray adds to short trials, and what two nodes gain: `python -m tests.benchmarks.bench_cluster`.

Four ways in turns, so that whatever else the machine does meets all of them: the local engine; Ray with one trial at a
time; two local engines side by side, the best that two cores can do; Ray on two nodes of one processor each, on this
machine's loopback. First trials that an adapter's card refuses: such a trial is all that engines and store do. Then
those of the null adapter, over when their worker has started: no trial is shorter.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

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
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"


Ways = dict[str, Callable[[str, int], float]]  # seconds of so many trials of an adapter


def in_turns(ways: Ways, adapter: str, counts: dict[str, int], most_rounds: int, seconds: float) -> None:
    """Print the table of `adapter`: every way in each round, the other way round in the next."""
    end, rows = time.perf_counter() + seconds, list[dict[str, float]]()
    while len(rows) < most_rounds and (not rows or time.perf_counter() < end):
        order = list(ways) if len(rows) % 2 else list(ways)[::-1]
        taken = {way: ways[way](adapter, counts[way]) / counts[way] for way in order}
        rows.append(taken)
        print(*(f"{way} {taken[way]:.4f}" for way in ways), file=sys.stderr)
    print(f"\n{len(rows)} rounds of {', '.join(f'{counts[way]} trials {way}' for way in ways)}\n")
    print("| way | ms a trial | of the local engine's | of two local engines' |\n|---|---|---|---|")
    for way in ways:
        alone, pair = ([row[way] / row[other] for row in rows] for other in ("local", "local twice"))
        print(f"| {way} | {quartiles([1000 * row[way] for row in rows])} | {quartiles(alone)} | {quartiles(pair)} |")


def main() -> None:
    """Both tables of docs/clusters.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of 200 trials that nothing computes in")
    parser.add_argument("--worked", type=int, default=50, help="rounds of 40 trials with a worker")
    parser.add_argument("--seconds", type=float, default=1e9, help="for either table, no round is started after them")
    asked = parser.parse_args()
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_worker_niceness": "0"} | dict.fromkeys(THREADS, "1")
    from PIL import Image
    from ray.cluster_utils import Cluster as Nodes

    from bench.engines.ray import connected

    small = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        folder, photos = Path(name), Path(name, "photos")
        photos.mkdir()
        Image.new("RGB", (8, 8)).save(photos / "a.png")
        nothing = refused(folder / "refused")
        stores: Iterator[Path] = (folder / f"store-{i}" for i in itertools.count())
        nodes = Nodes(True, head_node_args={**small, "num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=1, **small)
            os.environ["RAY_ADDRESS"] = nodes.address
            with connected(1, False, print) as cluster:
                suites = [suite(adapter, range(1)) for adapter in (nothing, "null")]
                site = cluster.site(
                    [msgspec.structs.replace(suites[0], adapters=[a for s in suites for a in s.adapters])],
                    [scene_of_images(photos)],
                )
                cluster.overhead_seconds = lambda: None  # type: ignore[method-assign]

                def twice(adapter: str, count: int) -> float:
                    parts = (range(count // 2), range(count // 2, count))
                    both = [pool.submit(seconds_of, adapter, photos, next(stores), part) for part in parts]
                    return max(future.result() for future in both)

                ways: Ways = {
                    "local": lambda a, n: pool.submit(seconds_of, a, photos, next(stores), range(n)).result(),
                    "Ray, one at a time": lambda a, n: seconds_of(
                        a, photos, next(stores), range(n), OneAtATime(cluster), site
                    ),
                    "local twice": twice,
                    "Ray, two nodes": lambda a, n: seconds_of(a, photos, next(stores), range(n), cluster, site),
                }
                for warm in (ways["local twice"], ways["Ray, two nodes"]):
                    warm("null", 4)
                in_turns(ways, nothing, dict.fromkeys(ways, 100) | {"Ray, two nodes": 200}, asked.rounds, asked.seconds)
                in_turns(ways, "null", dict.fromkeys(ways, 10) | {"Ray, two nodes": 40}, asked.worked, asked.seconds)
        finally:
            nodes.shutdown()


if __name__ == "__main__":
    main()
