"""A small network after LAM3D, trained by Reconbench on its procedural family; runs in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters.contract import Mesh, Reconstruction, Reconstructor, Views
from adapters.shared import functional
from adapters.shared.latent import network_input, network_weights
from adapters.shared.surface import isosurface, no_surface
from adapters.systems.lam3d import model

BLOCK = 32_768  # grid points asked for at once


class Adapter(Reconstructor):
    """Marching cubes at signed distance `level` (diameters) on a grid of `resolution` cells along the unit cube.

    The image features of all views are averaged. A level above 0 keeps thin parts, on which the network is unsure, at
    the cost of fatter surfaces."""

    def __init__(self, resolution: int = 64, level: float = 0.0) -> None:
        if not 16 <= resolution <= 256:
            raise ValueError(f"resolution: {resolution} seen, 16 to 256 wanted")
        if not -0.1 <= level <= 0.1:
            raise ValueError(f"level: {level} seen, -0.1 to 0.1 wanted")
        self._resolution, self._level = resolution, level

    def load(self, device: str, weights: str, seed: int) -> None:
        """The shipped weights, or a safetensors file of the same network."""
        self._weights = network_weights(Path(__file__).parent, weights)

    def prepare(self, views: Views) -> functional.Array:
        """(N, 3, SIDE, SIDE)"""
        return network_input(views.images)

    def infer(self, inputs: functional.Array) -> functional.Array:
        """(R, R, R) signed distances in diameters on the grid."""
        features = model.encode_image(functional, self._weights, inputs).mean(axis=0, keepdims=True)
        planes = model.decode(functional, self._weights, model.align(functional, self._weights, features))
        points = model.grid(self._resolution)
        blocks = [points[start : start + BLOCK] for start in range(0, len(points), BLOCK)]
        values = [model.distance(functional, self._weights, planes, block[None])[0] for block in blocks]
        return np.concatenate(values).reshape((self._resolution,) * 3)

    def finish(self, outputs: functional.Array, views: Views) -> Reconstruction:
        """A mesh in the object's own frame. ContractError where the field is positive everywhere: no surface."""
        step = 1.0 / self._resolution
        inside = (self._level - outputs).astype(np.float32)
        vertices, faces = isosurface(inside, np.full(3, (step - 1) / 2), step)
        if len(faces) == 0:
            raise no_surface(outputs, self._level)
        points = vertices.astype(np.float32)
        return Reconstruction(points=points, frame="object", scale="arbitrary", mesh=Mesh(points, faces, None))
