"""What networks share that answer each view with points in its own camera and that camera's pose, without intrinsics.

Runs inside the environments of the systems under test: numpy alone, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64
from adapters.shared.pointmaps import Pointmaps, inverse
from adapters.shared.resize import Placement


@dataclasses.dataclass(frozen=True)
class LocalPoints:
    """A network's predictions of N views (h, w)."""

    local_points: F32  # (N, h, w, 3), each view's in its own camera
    points: F32  # (N, h, w, 3), in a world of the network's choice
    confidence: F32  # (N, h, w)
    world_from_camera: F32  # (N, 4, 4)
    placements: tuple[Placement, ...]

    def pointmaps(self) -> Pointmaps:
        """The points in the world, each view's intrinsics those that its own points fit best.

        A view whose points no camera before them fits is not registered."""
        sure = zip(self.local_points, self.confidence)  # noqa: B905 - Python 3.9
        K = np.stack([fitted_intrinsics(points, weights) for points, weights in sure])
        seeing = np.asarray((K[:, [0, 1], [0, 1]] > 0).all(axis=1))
        poses = inverse(self.world_from_camera)
        return Pointmaps(self.placements, tuple(self.points), tuple(self.confidence), K, poses, seeing)


def fitted_intrinsics(points: NDArray[np.floating], weights: NDArray[np.floating]) -> F64:
    """(3, 3) K for integer pixel indices: weighted least squares of the pixels of `points` (h, w, 3) on x/z and y/z.

    The principal point is free, so that a view's own points project to their own pixels. NaN where z is not positive
    and finite everywhere."""
    K = np.full_like(np.eye(3), np.nan)
    weights = weights.astype(np.float64)
    with np.errstate(all="ignore"):
        rays = points[..., (0, 1)].astype(np.float64) / points[..., 2:]
    if not (np.isfinite(rays).all() and np.isfinite(weights).all() and (points[..., 2] > 0).all()):
        return K
    K[:] = np.eye(3)
    share = weights / weights.sum()
    for axis, index in enumerate(np.indices(points.shape[:2])[::-1]):
        ray = rays[..., axis]
        off = ray - (share * ray).sum()
        with np.errstate(all="ignore"):  # of a view whose rays are all one there is no focal length
            focal = (share * off * index).sum() / (share * off**2).sum()
        K[axis, [axis, 2]] = focal, (share * (index - focal * ray)).sum()
    return K
