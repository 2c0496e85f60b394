"""PatchMatch multi-view stereo with the cameras given. Shares code with dense ground truth (kin)."""

from __future__ import annotations

import numpy as np

from adapters.contract import Reconstruction, Unsupported, Views
from adapters.shared.mvs import StereoAdapter
from adapters.shared.stereo import Dense


class Adapter(StereoAdapter):
    """Depth maps, what they agree on, one cloud; frame and scale of the cameras given.

    Raises Unsupported without cameras, where no two views overlap, and where no two agree on any point."""

    system = "patchmatch"

    def infer(self, inputs: Views) -> Dense:
        """Stereo on all views."""
        if inputs.cameras is None:
            raise Unsupported("patchmatch: cameras of every view are wanted")
        return self.stereo(inputs.images, inputs.cameras)

    def finish(self, outputs: Dense, views: Views) -> Reconstruction:
        """In the frame of the cameras given, with every view's depth."""
        assert views.cameras is not None
        everywhere = np.ones(len(views), np.bool_)
        return self.reconstruction(outputs.cloud, "world", views.cameras, everywhere, outputs.depth)
