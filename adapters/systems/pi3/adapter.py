"""Pi3: points of each view in its own camera, and its pose, in no view's frame (Wang et al., 2025)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64, U8, Reconstruction, Views
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, inverse
from adapters.shared.resize import Inputs, Placement, Size, place

PIXELS, PATCH = 255_000, 14


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Pi3's predictions of N views (h, w)."""

    local_points: F32  # (N, h, w, 3), each view's in its own camera
    points: F32  # (N, h, w, 3), in a world of the network's choice
    confidence: F32  # (N, h, w), the sigmoid of its logits
    world_from_camera: F32  # (N, 4, 4)
    placements: tuple[Placement, ...]


class Adapter(NetworkAdapter):
    def build(self, config: dict[str, Any] | None) -> Any:
        from pi3.models.pi3 import Pi3

        return Pi3()

    def prepare(self, views: Views) -> Inputs:
        """All photos whole at the first one's size, whatever their own shape, as upstream does."""
        size = network_size(views.images[0])
        return Inputs.of(place(image, size, (0, 0), size, lanczos=True) for image in views.images)

    def infer(self, inputs: Inputs) -> Outputs:
        """One pass; on CUDA in bfloat16 (float16 before Ampere), as upstream's example has it, else in float32."""
        import torch

        with self.inference():
            predicted = self.network(self.batch(inputs)[None])
        return Outputs(
            to_numpy(predicted["local_points"][0]),
            to_numpy(predicted["points"][0]),
            to_numpy(torch.sigmoid(predicted["conf"][0, ..., 0].float())),
            to_numpy(predicted["camera_poses"][0]),
            inputs.placements,
        )

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """Pi3 says no intrinsics: they are those that its points of each view fit best.

        A view whose points no camera before them fits is not registered."""
        sure = zip(outputs.local_points, outputs.confidence)  # noqa: B905 - Python 3.9
        K = np.stack([fitted_intrinsics(points, weights) for points, weights in sure])
        seeing = np.asarray((K[:, [0, 1], [0, 1]] > 0).all(axis=1))
        poses = inverse(outputs.world_from_camera)
        maps = Pointmaps(outputs.placements, tuple(outputs.points), tuple(outputs.confidence), K, poses, seeing)
        return maps.reconstruction(views, "probability")


def network_size(image: U8) -> Size:
    """Multiples of 14 near the photo's shape, at most 255,000 pixels together."""
    height, width = image.shape[:2]
    scale = math.sqrt(PIXELS / (width * height))
    across, down = round(width * scale / PATCH), round(height * scale / PATCH)
    while across * down * PATCH**2 > PIXELS:
        if across / down > width / height:
            across -= 1
        else:
            down -= 1
    return max(1, across) * PATCH, max(1, down) * PATCH


def fitted_intrinsics(points: NDArray[np.floating], weights: NDArray[np.floating]) -> F64:
    """(3, 3) K for integer pixel indices: weighted least squares of the pixels of `points` (h, w, 3) on x/z and y/z.

    The principal point is free, so that a view's own points project to their own pixels. NaN where z is not positive
    and finite everywhere."""
    K = np.full((3, 3), np.nan)
    with np.errstate(all="ignore"):
        rays = points[..., :2].astype(np.float64) / points[..., 2:]
    if not (np.isfinite(rays).all() and np.isfinite(weights).all() and (points[..., 2] > 0).all()):
        return K
    K[:] = np.eye(3)
    v, u = np.mgrid[: points.shape[0], : points.shape[1]]
    share = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    for axis, index in enumerate((u, v)):
        ray = rays[..., axis]
        off = ray - (share * ray).sum()
        K[axis, axis] = (share * off * index).sum() / max((share * off**2).sum(), np.finfo(np.float64).tiny)
        K[axis, 2] = (share * (index - K[axis, axis] * ray)).sum()
    return K
