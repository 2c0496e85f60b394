"""What adapters of multi-view stereo share: they differ in where their cameras come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, U8, Bools, Cameras, Reconstruction, Reconstructor, Unsupported
from adapters.shared.stereo import Dense, Fused, reconstruct, warm_up


class StereoAdapter(Reconstructor):
    """Stereo by this project's PatchMatch; `system` names the adapter in sentences."""

    system: ClassVar[str]

    def __init__(self) -> None:
        self._seed = 0

    def load(self, device: str, weights: str, seed: int) -> None:
        """Compile, so that no call is timed with it."""
        self._seed = seed
        warm_up()

    def stereo(
        self,
        images: Sequence[U8],
        cameras: Cameras,
        points: NDArray[np.floating] | None = None,
        visible: Bools | None = None,
    ) -> Dense:
        """`reconstruct`, with a sentence for users where it finds nothing: raises Unsupported."""
        K, poses = cameras.intrinsics, cameras.camera_from_world
        try:
            dense = reconstruct(images, K, poses, self._seed, points=points, visible=visible)
        except ValueError as error:
            raise Unsupported(f"{self.system}: {error}") from error
        if len(dense.cloud.points) == 0:
            raise Unsupported(f"{self.system}: no two of {len(images)} views agree on any point")
        return dense

    def reconstruction(
        self, cloud: Fused, frame: str, cameras: Cameras, registered: Bools, depth: tuple[F32, ...] | None = None
    ) -> Reconstruction:
        """`cloud` as an answer; confidence is the mean NCC of the pixels that agree."""
        return Reconstruction(
            points=cloud.points,
            frame=frame,
            scale="arbitrary",
            colors=cloud.colors,
            confidence=1 - cloud.cost,
            confidence_kind="photo_consistency",
            view_index=cloud.view_index,
            pixel=cloud.pixel,
            cameras=cameras,
            registered=registered,
            depth=depth,
        )
