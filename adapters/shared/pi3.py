"""What Pi3 and Pi3X share: the size of their images, their pass, and what is read from it.

Runs inside the environments of the systems under test: numpy and torch, Python 3.9 syntax.
"""

from __future__ import annotations

import math
from typing import ClassVar

from adapters.contract import U8, Reconstruction, Views
from adapters.shared.local_points import LocalPoints
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.resize import Inputs, Size, place

PIXELS, PATCH = 255_000, 14
CORNER = (0, 0)  # where a photo begins in its network image


class Pi3Adapter(NetworkAdapter):
    """Points of each view in its own camera, and its pose, in no view's frame; a subclass builds the network."""

    scale: ClassVar[str] = "arbitrary"

    def prepare(self, views: Views) -> Inputs:
        """All photos whole at the first one's size, whatever their own shape, as upstream does."""
        size = network_size(views.images[0])
        return Inputs.of(place(image, size, CORNER, size, lanczos=True) for image in views.images)

    def infer(self, inputs: Inputs) -> LocalPoints:
        """One pass; on CUDA in bfloat16 (float16 before Ampere), as upstream's example has it, else in float32.

        The confidence is the sigmoid of the network's logits."""
        import torch

        with self.inference():
            predicted = self.network(self.batch(inputs)[None])
        return LocalPoints(
            to_numpy(predicted["local_points"][0]),
            to_numpy(predicted["points"][0]),
            to_numpy(torch.sigmoid(predicted["conf"][0, ..., 0].float())),
            to_numpy(predicted["camera_poses"][0]),
            inputs.placements,
        )

    def finish(self, outputs: LocalPoints, views: Views) -> Reconstruction:
        """No intrinsics are given: they are those that the points of each view fit best."""
        return outputs.pointmaps().reconstruction(views, "probability", self.scale)


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
    return (across or 1) * PATCH, (down or 1) * PATCH
