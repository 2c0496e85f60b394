"""Meshes that are built in tests, and their arrays."""

from __future__ import annotations

import numpy as np
import trimesh


def parts(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces."""
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def moved(mesh: trimesh.Trimesh, *by: float) -> trimesh.Trimesh:
    """A copy elsewhere."""
    copy = mesh.copy()
    copy.apply_translation(by)
    return copy
