"""What the census of a mesh takes: seconds and memory on a smooth sphere, and on a fan that compares all with all.

python tests/benchmarks/bench_mesh.py [--subdivisions 8] [--slivers 300000]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import trimesh

from metrics.mesh import mesh_validity


def fan(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Slivers from one point to a bent rim: their boxes overlap, they themselves do not."""
    angle = np.linspace(0, 1, count + 1)
    rim = np.stack([np.cos(angle), np.sin(angle), angle**2], axis=1)
    rows = np.arange(1, count + 1)
    return np.concatenate([np.zeros((1, 3)), rim]), np.stack([np.zeros(count, np.int64), rows, rows + 1], axis=1)


def main() -> None:
    """Print a line a mesh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subdivisions", type=int, default=8)
    parser.add_argument("--slivers", type=int, default=300_000)
    asked = parser.parse_args()
    small = trimesh.creation.icosphere(2)
    mesh_validity(small.vertices, small.faces)  # compiles
    sphere = trimesh.creation.icosphere(asked.subdivisions)
    for name, mesh in (("sphere", (sphere.vertices, sphere.faces)), ("fan", fan(asked.slivers))):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        census = mesh_validity(*mesh)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{name}: {census.faces} faces, {census.checked_faces} checked, {census.intersecting_faces} intersect, "
            f"{time.perf_counter() - start:.1f} s, {grown:.0f} MiB more at the peak"
        )


if __name__ == "__main__":
    main()
