"""A small network after LAM3D, trained by Reconbench on its procedural family; runs in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters.contract import Mesh, Reconstruction, Reconstructor, Views
from adapters.shared import functional
from adapters.shared.latent import network_input, network_weights
from adapters.shared.surface import isosurface, no_surface
from adapters.systems.lam3d import model

LEVEL = 0.0  # diameters; that with the highest F@5% on the validation split, see docs/objects.md


class Adapter(Reconstructor):
    """Marching cubes at signed distance `level` (diameters) on a grid of `resolution` cells along the unit cube.

    The image features of all views are averaged. A level above 0 keeps thin parts, on which the network is unsure, at
    the cost of fatter surfaces.

    `aligner` says how features become latent planes: by way of "points", which a decoder makes of them and the cloud
    encoder reads, or by "diffusion", which draws one of the shapes that may be behind a picture in `steps` DDIM steps
    from noise of the trial's seed. Without `refiner` the planes are read before they meet."""

    def __init__(
        self, resolution: int = 64, level: float = LEVEL, aligner: str = "points", steps: int = 8, refiner: bool = True
    ) -> None:
        if not 16 <= resolution <= 256:
            raise ValueError(f"resolution: {resolution} seen, 16 to 256 wanted")
        if not -0.1 <= level <= 0.1:
            raise ValueError(f"level: {level} seen, -0.1 to 0.1 wanted")
        if aligner not in ("points", "diffusion"):
            raise ValueError(f"aligner: {aligner!r} seen, points or diffusion wanted")
        if not 1 <= steps <= 1000:
            raise ValueError(f"steps: {steps} seen, 1 to 1000 wanted")
        self._resolution, self._level, self._refiner = resolution, level, refiner
        self._steps = steps if aligner == "diffusion" else 0

    def load(self, device: str, weights: str, seed: int) -> None:
        """The shipped weights, or a safetensors file of the same network."""
        self._weights, self._seed = network_weights(Path(__file__).parent, weights), seed
        if self._steps and "diffuse.mean" not in self._weights:
            raise ValueError(f"weights: {weights} has no part diffuse; a training of lam3d-diffusion makes it")

    def prepare(self, views: Views) -> functional.Array:
        """(N, 3, SIDE, SIDE)"""
        return network_input(views.images)

    def infer(self, inputs: functional.Array) -> functional.Array:
        """(R, R, R) signed distances in diameters on the grid."""
        features = model.encode_image(functional, self._weights, inputs).mean(axis=0, keepdims=True)
        return model.field(functional, self._weights, self._latent(features), self._resolution, self._refiner)

    def _latent(self, features: functional.Array) -> functional.Array:
        if not self._steps:
            return model.encode_points(functional, self._weights, features)
        noise = np.random.default_rng(self._seed).standard_normal((1, *model.PLANES), np.float32)
        return model.diffuse(functional, self._weights, features, noise, self._steps)

    def finish(self, outputs: functional.Array, views: Views) -> Reconstruction:
        """A mesh in the object's own frame. ContractError where the field is positive everywhere: no surface."""
        step = 1.0 / self._resolution
        inside = (self._level - outputs).astype(np.float32)
        vertices, faces = isosurface(inside, np.full(3, (step - 1) / 2), step)
        if len(faces) == 0:
            raise no_surface(outputs, self._level)
        points = vertices.astype(np.float32)
        return Reconstruction(points=points, frame="object", scale="arbitrary", mesh=Mesh(points, faces, None))
