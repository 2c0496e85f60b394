"""Named workloads, timed inside one process: `python -I workloads.py TREE NAME`.

A file of its own, importing nothing but what the tree under test offers, so that one and the same script measures two
trees. It prints a JSON line when ready; then, for each line it reads, does the work once and prints the seconds."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Work = Callable[[], object]


def _clouds(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy samples (count, 3) of a bumpy sphere."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(2):
        unit = rng.normal(size=(count, 3))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        out.append(unit * (1 + 0.2 * np.sin(5 * unit[:, :1])) + rng.normal(0, 0.003, (count, 3)))
    return out[0], out[1]


def _nearest() -> Work:
    from metrics import nearest

    pred, truth = _clouds(60_000)
    return lambda: nearest(pred, truth)


def _chamfer() -> Work:
    from metrics import chamfer

    pred, truth = _clouds(40_000)
    return lambda: chamfer(pred, truth)


def _emd() -> Work:
    from metrics import emd

    pred, truth = _clouds(1024)
    return lambda: emd(pred, truth)


def _register() -> Work:
    from metrics import register

    pred, truth = _clouds(4000)
    rotation = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    return lambda: register(0.4 * pred @ rotation, truth, seed=0)


def _stereo() -> Work:
    from adapters.shared.stereo import depth_map

    # A textured plane, fronto-parallel at depth 4, seen by two cameras a baseline of 0.5 apart.
    grid = np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8)
    wide = np.repeat(np.repeat(grid, 5, axis=0), 5, axis=1)
    images = [wide[:, :160], wide[:, 20:180]]
    K, pose = np.tile(np.array([[160.0, 0, 80], [0, 160, 60], [0, 0, 1]]), (2, 1, 1)), np.tile(np.eye(4), (2, 1, 1))
    pose[1, 0, 3] = -0.5
    return lambda: depth_map(images, K, pose, 0, [1], (2.0, 8.0), 0)


def _worker() -> Work:
    from adapters.contract import Views
    from bench.systems.cards import get_adapter
    from bench.systems.measure import Policy
    from bench.systems.process import run_adapter

    views = Views(images=(np.zeros((8, 8, 3), np.uint8),), names=("000",))
    policy = Policy(warmups=2, repeats=50, min_seconds=0.0, max_seconds=5.0, deadline=60.0)
    return lambda: run_adapter(get_adapter("null"), views, policy=policy)


WORKLOADS: dict[str, Callable[[], Work]] = {
    "nearest": _nearest,
    "chamfer": _chamfer,
    "emd": _emd,
    "register": _register,
    "stereo": _stereo,
    "worker": _worker,
}


def _cpu_seconds() -> float:
    """User and system seconds of this process, its threads, and the children that it has waited for."""
    used = [resource.getrusage(scope) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main(tree: str, name: str) -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, tree)
    # An editable installation must not fill in for what TREE lacks.
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(getattr(f, "__module__", ""))]
    try:
        work = WORKLOADS[name]()
    except ImportError as error:
        sys.stdout.write(json.dumps({"absent": str(error)}) + "\n")
        return
    import adapters

    if not Path(str(adapters.__file__)).is_relative_to(tree):
        raise SystemExit(f"{adapters.__file__} was imported, {tree} wanted")
    work()  # compiled, or loaded from the cache; threads and pages are there
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        work()
        sys.stdout.write(json.dumps({"cpu": _cpu_seconds() - cpu, "wall": time.perf_counter() - wall}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
