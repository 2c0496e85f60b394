"""PatchMatch multi-view stereo with the cameras given. Shares code with dense ground truth (kin)."""

from __future__ import annotations

import numpy as np

from adapters.contract import Reconstruction, Reconstructor, Unsupported, Views
from adapters.shared.stereo import Dense, reconstruct, warm_up


class Adapter(Reconstructor):
    """Depth maps, what they agree on, one cloud; frame and scale of the cameras given.

    Raises Unsupported without cameras, where no two views overlap, and where no two agree on any point."""

    def __init__(self) -> None:
        self._seed = 0

    def load(self, device: str, weights: str, seed: int) -> None:
        """Compile, so that no call is timed with it."""
        self._seed = seed
        warm_up()

    def infer(self, inputs: Views) -> Dense:
        """Stereo on all views."""
        if inputs.cameras is None:
            raise Unsupported("patchmatch: cameras of every view are wanted")
        cameras = inputs.cameras
        try:
            dense = reconstruct(inputs.images, cameras.intrinsics, cameras.camera_from_world, self._seed)
        except ValueError as error:
            raise Unsupported(f"patchmatch: {error}") from error
        if len(dense.cloud.points) == 0:
            raise Unsupported(f"patchmatch: no two of {len(inputs)} views agree on any point")
        return dense

    def finish(self, outputs: Dense, views: Views) -> Reconstruction:
        """Confidence is the mean NCC of the pixels that agree."""
        cloud = outputs.cloud
        return Reconstruction(
            points=cloud.points,
            frame="world",
            scale="arbitrary",
            colors=cloud.colors,
            confidence=1 - cloud.cost,
            confidence_kind="photo_consistency",
            view_index=cloud.view_index,
            pixel=cloud.pixel,
            cameras=views.cameras,
            registered=np.ones(len(views), np.bool_),
            depth=outputs.depth,
        )
