"""A surface through the dense cloud (Kazhdan and Hoppe, "Screened Poisson Surface Reconstruction", TOG 2013, as COLMAP
has it), cut back to where there is a cloud.

It runs in a process of its own: `python -m data.groundtruth.mesh CLOUD.ply MESH.ply`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pycolmap
import trimesh

from adapters.contract import F32, U8
from data.groundtruth.colmap import run_module
from metrics.nearest import nearest

DEPTH = 9  # of the octree: cells of about 1/500 of the box
SUPPORTED = 0.01  # share of the diameter: Poisson closes every hole, and what lies farther from the cloud is invented
TIMEOUT = 1800.0  # seconds


def poisson_mesh(points: F32, normals: F32, colors: U8, unit: float) -> trimesh.Trimesh:
    """The mesh of `points` (M, 3) with outward `normals` (M, 3) and `colors` (M, 3), `unit` being the diameter. Faces
    with a corner farther from the cloud than 1% of it are left out. Raises InputError where COLMAP fails."""
    with tempfile.TemporaryDirectory(prefix="poisson-") as folder:
        cloud, surface = Path(folder, "cloud.ply"), Path(folder, "mesh.ply")
        _write_cloud(cloud, points, normals, colors)
        run_module("data.groundtruth.mesh", [str(cloud), str(surface)], TIMEOUT)
        mesh = trimesh.load_mesh(surface, process=False)
    near = nearest(mesh.vertices, points).distance <= SUPPORTED * unit
    mesh.update_faces(near[mesh.faces].all(axis=1))
    mesh.remove_unreferenced_vertices()
    return mesh


def _write_cloud(path: Path, points: F32, normals: F32, colors: U8) -> None:
    """Binary PLY with normals, as COLMAP reads it."""
    columns = [*((name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")), *((c, "u1") for c in _COLOURS)]
    rows = np.empty(len(points), np.dtype(columns))
    for k, values in enumerate(np.concatenate([points, normals], axis=1).T):
        rows[columns[k][0]] = values
    for k, name in enumerate(_COLOURS):
        rows[name] = colors[:, k]
    kinds = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    lines += [f"property {kinds[kind]} {name}" for name, kind in columns] + ["end_header", ""]
    path.write_bytes("\n".join(lines).encode() + rows.tobytes())


_COLOURS = ("red", "green", "blue")


def main(cloud: Path, mesh: Path) -> None:
    """Mesh a written cloud, untrimmed."""
    options = pycolmap.PoissonMeshingOptions()
    options.depth, options.trim, options.num_threads = DEPTH, 0.0, 1
    pycolmap.poisson_meshing(cloud, mesh, options=options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
