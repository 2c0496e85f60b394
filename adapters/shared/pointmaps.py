"""From what a feed-forward network says of each view to a Reconstruction: one home for eight systems' bookkeeping.

Runs inside the environments of the systems under test: numpy alone, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64, Bools, Cameras, OnDemand, Reconstruction, Views, shapes_of
from adapters.shared.resize import Placement


@dataclasses.dataclass(frozen=True)
class Pointmaps:
    """A point for every pixel of N network images (h, w), and a camera for every view.

    Intrinsics are as these networks mean them: at the network's resolution, for integer pixel indices."""

    placements: tuple[Placement, ...]
    points: tuple[F32, ...]  # N of (h, w, 3), in the network's own world; may hold what is not finite
    confidence: tuple[F32, ...]  # N of (h, w)
    intrinsics: F64  # (N, 3, 3)
    camera_from_world: F64  # (N, 4, 4)
    registered: Bools  # (N,)

    def reconstruction(self, views: Views, confidence_kind: str, scale: str = "arbitrary") -> Reconstruction:
        """Every finite point that shows a photo, its pixel in the photo, cameras and depth at the photo's resolution.

        The world is moved to the first registered camera. Colours are the photo's. The depth of a view is its own
        points' z; that of a view not registered is nowhere known, and its camera is NaN."""
        registered = np.flatnonzero(self.registered)
        anchor = self.camera_from_world[registered[0]] if len(registered) else np.eye(4)
        poses = self.camera_from_world @ np.linalg.inv(anchor)
        poses[registered[:1]] = np.eye(4)
        poses[~self.registered] = np.nan
        gathered: list[tuple[NDArray[np.floating], ...]] = []
        intrinsics = np.empty((len(views), 3, 3))
        for i, placement in enumerate(self.placements):
            points = transformed(self.points[i], anchor)
            intrinsics[i] = placement.intrinsics(self.intrinsics[i])
            keep = placement.inside() & np.isfinite(points).all(axis=-1)
            gathered.append((points[keep], placement.pixels()[keep], self.confidence[i][keep]))

        def depth(i: int) -> F32:
            """At the photo's resolution: of many large photos, one at a time."""
            points = transformed(self.points[i], anchor)
            return self.placements[i].restore(points @ poses[i, 2, :3] + poses[i, 2, 3])

        pixel = np.concatenate([pixels for _, pixels, _ in gathered])
        index = np.repeat(np.arange(len(views)), [len(points) for points, _, _ in gathered])
        return Reconstruction(
            points=np.concatenate([points for points, _, _ in gathered]).astype(np.float32),
            frame="first_camera",
            scale=scale,
            colors=np.concatenate([colours(views, i, pixels) for i, (_, pixels, _) in enumerate(gathered)]),
            confidence=np.concatenate([confidence for _, _, confidence in gathered]).astype(np.float32),
            confidence_kind=confidence_kind,
            view_index=index.astype(np.int32),
            pixel=pixel.astype(np.float32),
            cameras=Cameras(intrinsics, poses),
            registered=self.registered,
            depth=OnDemand([shape[:2] for shape in shapes_of(views.images)], depth),
        )


@dataclasses.dataclass(frozen=True)
class PosedDepth:
    """What networks say that answer N images of one size (h, w) with depth and cameras."""

    camera_from_world: F32  # (N, 3, 4)
    intrinsics: F32  # (N, 3, 3), at the network's resolution, for integer pixel indices
    depth: F32  # (N, h, w)
    confidence: F32  # (N, h, w)
    placements: tuple[Placement, ...]

    def pointmaps(self) -> Pointmaps:
        """The depth unprojected by the cameras; a view whose camera is no camera is not registered."""
        poses, K = homogeneous(self.camera_from_world), self.intrinsics.astype(np.float64)
        points = tuple(unprojected(depth, K[i], poses[i]) for i, depth in enumerate(self.depth))
        return Pointmaps(self.placements, points, tuple(self.confidence), K, poses, are_cameras(K, poses))


def colours(views: Views, index: int, pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(M, 3) of the photo `index` at `pixels` (M, 2), as float32 has them: so a Reconstruction says them."""
    image = views.images[index]
    x, y = np.minimum(pixels.astype(np.float32).astype(np.int64), [image.shape[1] - 1, image.shape[0] - 1]).T
    return np.asarray(image[y, x])


def unprojected(depth: NDArray[np.floating], K: F64, camera_from_world: F64) -> F32:
    """(h, w, 3) float32 world points of a depth map (h, w), its K holding for integer pixel indices."""
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(depth.shape)], axis=-1)
    local = rays * depth[..., None] - camera_from_world[:3, 3]
    return np.asarray(local @ camera_from_world[:3, :3], np.float32)


def transformed(points: NDArray[np.floating], rigid: F64) -> F64:
    """(..., 3) float64 points moved by a transform (4, 4) or (3, 4)."""
    return np.asarray(points.astype(np.float64) @ rigid[:3, :3].T + rigid[:3, 3])


def homogeneous(rigid: NDArray[np.floating]) -> F64:
    """(N, 4, 4) float64 from (N, 3, 4) or (N, 4, 4)."""
    square = np.tile(np.eye(4), (len(rigid), 1, 1))
    square[:, :3] = rigid[:, :3, :4]
    return square


def inverse(rigid: NDArray[np.floating]) -> F64:
    """(N, 4, 4) float64: the inverses of (N, 3, 4) or (N, 4, 4); NaN where a matrix is not finite."""
    square = homogeneous(rigid)
    finite = np.isfinite(square).all(axis=(1, 2))
    inverted = np.full(square.shape, np.nan)
    inverted[finite] = np.linalg.inv(square[finite])
    return inverted


def are_cameras(K: F64, camera_from_world: F64) -> Bools:
    """(N,): where intrinsics (N, 3, 3) and poses (N, 4, 4) are finite and the focal lengths positive."""
    finite = np.isfinite(K).all(axis=(1, 2)) & np.isfinite(camera_from_world).all(axis=(1, 2))
    return np.asarray(finite & (K[:, [0, 1], [0, 1]] > 0).all(axis=1))
