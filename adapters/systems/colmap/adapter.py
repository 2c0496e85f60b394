"""COLMAP's sparse model of the given views. Shares code with COLMAP-made ground truth (kin)."""

from __future__ import annotations

import os

import numpy as np

from adapters.contract import Cameras, Reconstruction, Reconstructor, Views
from adapters.shared.sfm import SparseModel, sparse_model


class Adapter(Reconstructor):
    """Structure from motion; the frame is that of the first view registered.

    Raises Unsupported for fewer than 2 views and where no model is found."""

    def __init__(self) -> None:
        self._seed = 0

    def load(self, device: str, weights: str, seed: int) -> None:
        """There is no network: only the seed of matching and mapping is kept."""
        self._seed = seed

    def infer(self, inputs: Views) -> SparseModel:
        """The largest model of the views."""
        return sparse_model(inputs.images, seed=self._seed, threads=os.cpu_count() or 1)

    def finish(self, outputs: SparseModel, views: Views) -> Reconstruction:
        """Points with their colours, track lengths and the first pixel that each was seen at; pinhole cameras."""
        poses = outputs.cameras.camera_from_world
        first_from_world = poses[np.flatnonzero(outputs.registered)[0]]
        rotation, translation = first_from_world[:3, :3], first_from_world[:3, 3]
        first = np.searchsorted(outputs.observation_point, np.arange(len(outputs.points)))
        return Reconstruction(
            points=(outputs.points @ rotation.T + translation).astype(np.float32),
            frame="first_camera",
            scale="arbitrary",
            colors=outputs.colors,
            confidence=outputs.track_length.astype(np.float32),
            confidence_kind="track_length",
            view_index=outputs.observation_view[first],
            pixel=outputs.observation_pixel[first],
            cameras=Cameras(outputs.cameras.intrinsics, poses @ np.linalg.inv(first_from_world)),
            registered=outputs.registered,
        )
