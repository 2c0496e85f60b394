"""COLMAP's cameras and our stereo on the given views. Shares code with COLMAP-made ground truth (kin)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from adapters.contract import F32, Bools, Cameras, Reconstruction, Views
from adapters.shared.mvs import StereoAdapter
from adapters.shared.sfm import SparseModel, in_photo, sparse_model, undistorted
from adapters.shared.stereo import Fused


@dataclass(frozen=True)
class Solved:
    """The cameras found, in the frame of the first view registered, and the cloud they led to."""

    cloud: Fused  # pixels and views are those of the photos as given
    cameras: Cameras  # N; NaN poses where a view is not registered
    registered: Bools  # (N,)


class Adapter(StereoAdapter):
    """Structure from motion, lens distortion removed, depth maps, one cloud.

    Raises Unsupported for fewer than 2 views, where no model is found and where no two views agree on any point."""

    system = "colmap-mvs"

    def infer(self, inputs: Views) -> Solved:
        """Cameras of the largest model, then stereo on its views."""
        model = sparse_model(inputs.images, seed=self._seed, threads=os.cpu_count() or 1)
        views = np.flatnonzero(model.registered)
        first_from_world = model.cameras.camera_from_world[views[0]]
        poses = model.cameras.camera_from_world @ np.linalg.inv(first_from_world)
        points = model.points @ first_from_world[:3, :3].T + first_from_world[:3, 3]
        K = model.cameras.intrinsics
        dense = self.stereo(
            [undistorted(inputs.images[int(i)], K[i], float(model.radial[i]), float(K[i, 0, 0])) for i in views],
            Cameras(K[views], poses[views]),
            points=points,
            visible=model.visible[views],
        )
        return Solved(in_photos(dense.cloud, views, model), Cameras(K, poses), model.registered)

    def finish(self, outputs: Solved, views: Views) -> Reconstruction:
        """Cameras are pinholes, free of distortion."""
        return self.reconstruction(outputs.cloud, "first_camera", outputs.cameras, outputs.registered)


def in_photos(cloud: Fused, views: np.ndarray, model: SparseModel) -> Fused:
    """`cloud` of the registered `views` with view numbers and pixels of the photos as given; what lies beyond a photo's
    border is dropped."""
    index = views[cloud.view_index].astype(np.int32)
    pixel: F32 = cloud.pixel.copy()
    for i in views:
        rows, K = index == i, model.cameras.intrinsics[i]
        pixel[rows] = in_photo(pixel[rows].astype(np.float64), K, float(model.radial[i]), float(K[0, 0]))
    inside = ((pixel >= 0) & (pixel <= model.sizes[index])).all(axis=1)
    return Fused(
        cloud.points[inside],
        cloud.normals[inside],
        cloud.colors[inside],
        index[inside],
        pixel[inside],
        cloud.support[inside],
        cloud.cost[inside],
    )
