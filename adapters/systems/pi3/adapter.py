"""Pi3: points of each view in its own camera, and its pose, in no view's frame (Wang et al., 2025)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64, U8, Reconstruction, Reconstructor, Views
from adapters.shared.checkpoint import load_parameters
from adapters.shared.pointmaps import Pointmaps, homogeneous
from adapters.shared.precision import half_precision
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


class Adapter(Reconstructor):
    def __init__(self) -> None:
        self.network: Any = None
        self.device = "cpu"

    def load(self, device: str, weights: str, seed: int) -> None:
        """The network at full size. Raises Unavailable where the weights are not there."""
        import torch
        from pi3.models.pi3 import Pi3

        torch.manual_seed(seed)
        self.device = device
        self.network = load_parameters(Pi3(), weights).eval().to(device)

    def prepare(self, views: Views) -> Inputs:
        """All photos whole at the first one's size, whatever their own shape, as upstream does."""
        size = network_size(views.images[0])
        return Inputs.of(place(image, size, (0, 0), size, lanczos=True) for image in views.images)

    def infer(self, inputs: Inputs) -> Outputs:
        """One pass; on CUDA in bfloat16 (float16 before Ampere), as upstream's example has it, else in float32."""
        import torch

        with torch.no_grad(), half_precision(self.device):
            said = self.network(torch.from_numpy(np.stack(inputs.images)).to(self.device)[None])

        def array(tensor: Any) -> F32:
            return np.asarray(tensor[0].float().cpu().numpy())

        return Outputs(
            array(said["local_points"]),
            array(said["points"]),
            array(torch.sigmoid(said["conf"].float()))[..., 0],
            array(said["camera_poses"]),
            inputs.placements,
        )

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """Pi3 says no intrinsics: they are those that its points of each view fit best.

        A view whose points no camera before them fits is not registered."""
        sure = zip(outputs.local_points, outputs.confidence)  # noqa: B905 - Python 3.9
        K = np.stack([fitted_intrinsics(points, weights) for points, weights in sure])
        seeing = np.asarray((K[:, [0, 1], [0, 1]] > 0).all(axis=1))
        poses = np.asarray(np.linalg.inv(homogeneous(outputs.world_from_camera)), np.float64)
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
