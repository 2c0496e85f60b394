"""Rings of cameras and a similarity, for the tests of ground truth."""

from __future__ import annotations

import numpy as np
import trimesh

from adapters.contract import Cameras
from data.synthetic.rig import look_at
from metrics.similarity import similarity


def ring(count: int, radius: float = 3.0, height: float = 1.0, focal: float = 300.0, size: int = 200) -> Cameras:
    """Cameras on a circle round the z axis, upright, looking at the origin."""
    poses = []
    for angle in np.arange(count) * 2 * np.pi / count:
        centre = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        poses.append(look_at(centre, np.zeros(3)))
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Cameras(np.tile(K, (count, 1, 1)), np.array(poses))


def some_similarity(seed: int = 0) -> np.ndarray:
    R = trimesh.transformations.random_rotation_matrix(np.random.default_rng(seed).uniform(size=3))[:3, :3]
    return similarity(2.5, R, np.array([1.0, -2.0, 0.5]))
