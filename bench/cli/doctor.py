"""What this machine is, and what works on it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.engines.local import overhead_seconds
from bench.files import cache_dir
from bench.systems import walls
from bench.systems.measure import hardware
from bench.trials.scenes import embedded_scenes
from data.groundtruth import cuda

NEEDED = ("numpy", "scipy", "numba", "pycolmap", "trimesh", "point-cloud-utils", "plotly")
OPTIONAL = ("torch", "open3d", "mitsuba", "ray")
MOST_OVERHEAD = 0.01  # seconds: 1% of a one-second trial


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    observed: str
    good: bool | None = None  # None: a fact, neither good nor bad
    needed: bool = False  # nothing works without it


def examine() -> Iterator[Finding]:
    """Look at everything, one thing after the other; the harness's overhead is measured, not assumed."""
    yield Finding("machine", str(hardware()))
    yield Finding("python", platform.python_version(), sys.version_info >= (3, 11), needed=True)
    for package in NEEDED:
        yield Finding(package, importlib.metadata.version(package), True)
    for extra in OPTIONAL:
        try:
            yield Finding(f"{extra} (optional)", importlib.metadata.version(extra), True)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"{extra} (optional)", "not installed")
    dense = "yes" if cuda.available() else "no CUDA device: Reconbench's own stereo is used"
    yield Finding("COLMAP's dense stereo on CUDA", dense)
    isolated = walls.isolated()
    yield Finding(
        "walls around workers",
        "truth, stores and network are out of their reach" if isolated else "this system permits no namespaces: none",
        isolated,
    )
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding("disk", f"{free / 2**30:.0f} GiB free", free > 2 * 2**30)
    yield Finding("cache", str(cache_dir()))
    scenes = embedded_scenes()
    yield Finding("embedded scenes", ", ".join(scenes) or "none", bool(scenes), needed=True)
    overhead = overhead_seconds()
    if overhead is None:
        yield Finding("worker", "the null adapter did not run", False, needed=True)
    else:
        sentence = f"{overhead * 1e6:.0f} microseconds"
        yield Finding("harness overhead on a timed call", sentence, overhead < MOST_OVERHEAD)
