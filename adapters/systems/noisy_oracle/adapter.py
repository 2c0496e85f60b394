"""The truth under a known similarity, with known noise, floaters and a known part missing.

What a metric should read, lengths in percent of the diameter: noise of s displaces every point along its normal by
N(0, s^2), so the distance to the surface is half-normal: accuracy s sqrt(2 / pi), precision@t erf(t / (s sqrt 2)).
A share f of floaters at a distance d, outside, adds f d to the accuracy and takes f of the precision for t < d. A
missing share m takes m of the recall."""

from __future__ import annotations

import numpy as np

from adapters.contract import Cameras, Reconstruction, Reconstructor, Surface, Unsupported, Views


class Adapter(Reconstructor):
    """Lengths are shares of the diameter; angles degrees. The similarity is undone by aligning the cameras."""

    def __init__(
        self,
        noise: float = 0.005,
        floaters: float = 0.05,
        floater_distance: float = 0.015,
        missing: float = 0.1,
        rotation: float = 40.0,
        scale: float = 0.37,
    ) -> None:
        self._noise, self._floaters, self._floater_distance = noise, floaters, floater_distance
        self._missing, self._rotation, self._scale = missing, rotation, scale
        self._seed = 0

    def load(self, device: str, weights: str, seed: int) -> None:
        self._seed = seed

    def infer(self, inputs: Views) -> Reconstruction:
        if inputs.truth is None or inputs.cameras is None:
            raise Unsupported("the truth and its cameras were not given")
        rng = np.random.default_rng(self._seed)
        points = self._spoil(inputs.truth, rng)
        turn = _rotation_about(np.array([0.3, -0.5, 0.8]), np.radians(self._rotation))
        shift = np.array([0.4, -1.1, 0.7]) * inputs.truth.diameter
        moved = self._scale * points @ turn.T + shift
        poses = inputs.cameras.camera_from_world.copy()
        # x_cam = R X + t and X' = s Q X + u give, up to the scale s: x_cam' = R Q^T X' + (s t - R Q^T u)
        poses[:, :3, :3] = poses[:, :3, :3] @ turn.T
        poses[:, :3, 3] = self._scale * poses[:, :3, 3] - poses[:, :3, :3] @ shift
        return Reconstruction(
            points=moved.astype(np.float32),
            frame="object",
            scale="arbitrary",
            cameras=Cameras(inputs.cameras.intrinsics, poses),
            registered=np.ones(len(inputs), np.bool_),
        )

    def _spoil(self, truth: Surface, rng: np.random.Generator) -> np.ndarray:
        points, normals = truth.points.astype(np.float64), truth.normals.astype(np.float64)
        if self._missing:
            side = points @ np.array([0.0, 0.6, 0.8])
            keep = side <= np.quantile(side, 1 - self._missing)
            points, normals = points[keep], normals[keep]
        noisy = points + normals * rng.normal(0, self._noise * truth.diameter, (len(points), 1))
        count = round(self._floaters / (1 - self._floaters) * len(points))
        return np.concatenate([noisy, self._float(truth, count, rng)])

    def _float(self, truth: Surface, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` points at `floater_distance` outside the surface, where its hull makes that the nearest distance."""
        from scipy.spatial import ConvexHull

        distance = self._floater_distance * truth.diameter
        hull = ConvexHull(truth.points)
        # Above a vertex of the hull, along the mean of its facets' normals, the vertex itself is the nearest point.
        normals = np.zeros((len(truth.points), 3))
        for simplex, equation in zip(hull.simplices, hull.equations, strict=True):
            normals[simplex] += equation[:3]
        vertices = hull.vertices[rng.integers(len(hull.vertices), size=count)]
        outward = normals[vertices] / np.linalg.norm(normals[vertices], axis=1, keepdims=True)
        return np.asarray(truth.points[vertices] + distance * outward)


def _rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues: (3, 3) rotation by `angle` radians about `axis`."""
    x, y, z = axis / np.linalg.norm(axis)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K)
