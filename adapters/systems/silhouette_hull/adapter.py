"""The visual hull of one silhouette, ended by a ball: all that a mask and a camera say without knowing any shape."""

from __future__ import annotations

import numpy as np

from adapters.contract import Mesh, Reconstruction, Reconstructor, Unsupported, Views
from adapters.shared.surface import isosurface


class Adapter(Reconstructor):
    """The cone through the first view's mask, cut by the ball around the point of its axis that is nearest to the
    world's origin, as wide as the mask is there. `resolution` cells along the ball's diameter.

    Raises Unsupported where mask or camera is missing, or the mask is empty."""

    def __init__(self, resolution: int = 64) -> None:
        if not 8 <= resolution <= 256:
            raise ValueError(f"resolution: {resolution} seen, 8 to 256 wanted")
        self._resolution = resolution

    def infer(self, inputs: Views) -> Reconstruction:
        """A mesh in the frame of the cameras given."""
        if inputs.masks is None or inputs.cameras is None:
            raise Unsupported("silhouette-hull: mask and camera of the first view are wanted")
        mask, camera = inputs.masks[0], inputs.cameras.take([0])
        row, column = np.nonzero(mask)
        if len(row) == 0:
            raise Unsupported("masks[0]: no object pixel seen, at least one wanted")
        pixel = np.stack([column, row], axis=1) + 0.5
        middle = (pixel.min(axis=0) + pixel.max(axis=0)) / 2
        reach = float(np.linalg.norm(pixel - middle, axis=1).max() + 0.5)
        eye = camera.centres[0]
        ray = camera.unproject(0, middle[None], np.ones(1))[0] - eye
        depth = max(float(-eye @ ray / (ray @ ray)), 1e-6)  # of the point nearest to the origin, in z-depth
        focal = float(np.sqrt(camera.intrinsics[0, 0, 0] * camera.intrinsics[0, 1, 1]))
        centre, radius = eye + depth * ray, depth * reach / focal
        step = 2 * radius / self._resolution
        line = (np.arange(self._resolution) + 0.5) * step - radius
        offset = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
        at, front = camera.project(0, centre + offset)
        x, y = np.floor(at).astype(int).T
        within = (front > 0) & (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
        inside = np.zeros(len(offset), np.bool_)
        inside[within] = mask[y[within], x[within]]
        inside &= np.linalg.norm(offset, axis=1) < radius
        field = np.where(inside, 1.0, -1.0).astype(np.float32).reshape((self._resolution,) * 3)
        vertices, faces = isosurface(np.pad(field, 1, constant_values=-1.0), centre - radius - 0.5 * step, step)
        if len(faces) == 0:
            raise Unsupported("masks[0]: too small a silhouette to carve a solid from")
        points = vertices.astype(np.float32)
        return Reconstruction(points=points, frame="world", scale="arbitrary", mesh=Mesh(points, faces))
