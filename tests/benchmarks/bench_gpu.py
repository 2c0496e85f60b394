"""The CUDA backend beside its peers on a GPU; without one, its kernels compiled and what they are expected to take.

    python -m tests.benchmarks.bench_gpu [--sizes 2000,16000,100000,1000000] [--csv docs/benchmarks/gpu.csv]
    python -m tests.benchmarks.bench_gpu --compile 80,90,100     registers, spills, instructions; no GPU wanted
    python -m tests.benchmarks.bench_gpu --visits 2000,8000      tiles the interpreter visits; no GPU wanted

On a GPU: both directions of nearest distance, certified EMD and the batch search, each with the arithmetic floor beside
it (8 instructions a pair of an exhaustive search at the device's single-precision rate; of the EMD, one bid of every
person). Peers that are installed take part: torch.cdist (exact mode), PyTorch3D's knn, KeOps. Times are medians by CUDA
events, the device warm, synchronised at both ends; `memory_mb` is the allocator's peak above the inputs. The CPU
instruments run in the same process.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metrics.chamfer import chamfer
from metrics.emd import emd
from tests.benchmarks.clouds import KINDS, pair

EXHAUSTIVE_UP_TO = 100_000
EMD_UP_TO = 100_000


@dataclass(frozen=True)
class Row:
    """One implementation on one pair of clouds."""

    device: str
    what: str
    n: int
    kind: str
    by: str
    seconds: float
    floor_seconds: float  # arithmetic floor on this device; NaN on the CPU
    memory_mb: float
    value: float


@dataclass(frozen=True)
class Kernel:
    """One kernel, compiled for one architecture."""

    kernel: str
    architecture: int
    registers: int
    spills: int
    shared: int
    occupancy: float
    per_pair: float | str  # instructions of the loop that compares, a pair; empty where there is none
    share_of_floor: float | str  # of the H200's arithmetic floor that this loop leaves
    h200_100k_ms: float | str  # expected of 100,000 x 100,000 pairs on an H200


def compiled_rows(architectures: list[int]) -> Iterator[Kernel]:
    from metrics.kernels.cuda import auction, nearest
    from metrics.kernels.cuda.compiled import WARP, compiled, variants
    from metrics.kernels.cuda.model import FLOOR, H200, loop, occupancy, seconds

    tiles = {"search_pairs f32": nearest.BATCH, "bid f32": auction.BID, "bid f64": auction.BID_DOUBLE}
    for variant in variants():
        for architecture in architectures:
            made = compiled(variant, architecture)
            per_pair: float | str = ""
            share: float | str = ""
            expected: float | str = ""
            if (tile := tiles.get(variant.name)) is not None:
                body = loop(made, tile.rows * tile.points // (WARP * tile.warps))
                per_pair = round(body.per_pair, 2)
                if architecture == 90:
                    share = round(FLOOR / H200.lanes / body.cycles(H200), 3)
                    expected = round(1e3 * seconds(1e10, body, H200), 2)
            yield Kernel(
                made.name, architecture, made.registers, made.spills, made.shared, round(occupancy(made), 3),
                per_pair, share, expected,
            )  # fmt: skip


def visit_rows(sizes: list[int]) -> Iterator[dict[str, object]]:
    """How many points a query is compared with, of the exact search's tiles."""
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from metrics.kernels.cuda.nearest import SEARCH, TileTree

    for n in sizes:
        for kind in ("surface", "misaligned"):
            pred, truth = (TileTree(torch.from_numpy(cloud)) for cloud in pair(kind, n, seed=1))
            _, _, observed = truth.counted(pred)
            per_query = observed.tiles * SEARCH.rows * SEARCH.points / n
            yield {
                "n": n, "kind": kind, "compared_per_query": round(per_query, 1), "share": round(per_query / n, 4),
                "boxes_per_query": round(observed.boxes / n, 1),
            }  # fmt: skip


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Median seconds by events, MB that the allocator's peak rose by, and the answer."""
    import torch

    answer = run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        answer = run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(np.median(times)), (torch.cuda.max_memory_allocated() - before) / 2**20, answer


def gpu_rows(sizes: list[int]) -> Iterator[Row]:
    import torch

    from metrics.kernels.cuda.nearest import search_batch

    properties = torch.cuda.get_device_properties(0)
    name = properties.name
    clock = 1e3 * float(getattr(properties, "clock_rate", 1_980_000))
    rate = 128 * properties.multi_processor_count * clock
    for n in sizes:
        for kind in KINDS:
            host = pair(kind, n, seed=1)
            pred, truth = (torch.from_numpy(cloud).cuda() for cloud in host)
            single = pred.float()[None], truth.float()[None]
            floor = 2 * n * n * 8 / rate
            repeats = 20 if n <= EXHAUSTIVE_UP_TO else 5
            took, memory, answer = timed(lambda a=pred, b=truth: chamfer(a, b).l1_sum, repeats)
            yield Row(name, "chamfer", n, kind, "ours, exact", took, floor, memory, answer)
            began = time.perf_counter()
            value = chamfer(*host).l1_sum
            yield Row("cpu", "chamfer", n, kind, "ours", time.perf_counter() - began, np.nan, np.nan, value)
            if abs(answer - value) > 1e-12 * value:
                raise SystemExit(f"{n} {kind}: {answer} on the GPU, {value} on the CPU")
            for by, both in batch_peers(search_batch).items():
                if n > EXHAUSTIVE_UP_TO and by != "ours, batch":
                    continue
                took, memory, (ahead, back) = timed(lambda run=both, pair=single: run(*pair), 5)
                value = float(ahead.double().sqrt().mean() + back.double().sqrt().mean())
                yield Row(name, "chamfer", n, kind, by, took, floor, memory, value)
            if n <= EMD_UP_TO:
                torch.cuda.reset_peak_memory_stats()
                emd(pred, truth)
                began = time.perf_counter()
                result = emd(pred, truth)
                torch.cuda.synchronize()
                took, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated() / 2**20
                yield Row(name, "emd 1%", n, kind, "ours", took, n * n * 10 / rate, peak, result.value)
                began = time.perf_counter()
                cpu = emd(*host)
                yield Row("cpu", "emd 1%", n, kind, "ours", time.perf_counter() - began, np.nan, np.nan, cpu.value)
                if max(result.lower, cpu.lower) > min(result.upper, cpu.upper):
                    raise SystemExit(f"{n} {kind}: the intervals of GPU and CPU do not meet")


def batch_peers(search_batch: Callable[[Any, Any], Any]) -> dict[str, Callable[[Any, Any], tuple[Any, Any]]]:
    """Squared distances in both directions, of (1, n, 3) float32, by everything that is installed."""
    import torch

    def by_cdist(a: Any, b: Any) -> tuple[Any, Any]:
        exact = "donot_use_mm_for_euclid_dist"
        rows = [torch.cdist(part, b[0], compute_mode=exact).amin(1) for part in a[0].split(4096)]
        back = [torch.cdist(part, a[0], compute_mode=exact).amin(1) for part in b[0].split(4096)]
        return torch.cat(rows) ** 2, torch.cat(back) ** 2

    table: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
        "ours, batch": lambda a, b: (search_batch(a, b)[0], search_batch(b, a)[0]),
        "torch.cdist": by_cdist,
    }
    if importlib.util.find_spec("pytorch3d"):
        from pytorch3d.ops import knn_points

        table["pytorch3d"] = lambda a, b: (knn_points(a, b, K=1).dists, knn_points(b, a, K=1).dists)
    if importlib.util.find_spec("pykeops"):
        from pykeops.torch import LazyTensor

        def by_keops(a: Any, b: Any) -> tuple[Any, Any]:
            x, y = LazyTensor(a[0][:, None]), LazyTensor(b[0][None])
            squared = ((x - y) ** 2).sum(-1)
            return squared.min(1)[:, 0], squared.min(0)[:, 0]

        table["keops"] = by_keops
    return table


def write(rows: Iterator[Any], path: Path | None) -> None:
    """CSV to stdout, a row at a time, and to a file once all are there."""
    kept: list[dict[str, object]] = []
    out = None
    for row in rows:
        values = row if isinstance(row, dict) else asdict(row)
        if out is None:
            out = csv.DictWriter(sys.stdout, list(values), lineterminator="\n")
            out.writeheader()
        out.writerow(values)
        sys.stdout.flush()
        kept.append(values)
    if path is not None and kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(kept[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2000,16000,100000,1000000")
    parser.add_argument("--compile", metavar="ARCHITECTURES", help="such as 80,90,100")
    parser.add_argument("--visits", metavar="SIZES")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    if options.compile:
        write(compiled_rows([int(part) for part in options.compile.split(",")]), options.csv)
        return
    if options.visits:
        write(visit_rows([int(part) for part in options.visits.split(",")]), options.csv)
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: --compile and --visits say what can be known without one")
    write(gpu_rows([int(part) for part in options.sizes.split(",")]), options.csv)


if __name__ == "__main__":
    main()
