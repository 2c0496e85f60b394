"""VGGT-Omega: cameras and depth of all views in one pass (Wang et al., 2026), run by its own package."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from adapters.contract import U8, Reconstruction, Views
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import PosedDepth
from adapters.shared.resize import Inputs, Size, place

SIDE, PATCH = 416, 16  # the size of the checkpoint that its authors ask benchmarks to use
STEEPEST = 2.0  # of the longer side to the shorter; what is longer is cropped


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`fit`: "balanced" gives every photo about `side` x `side` pixels in its own shape, upstream's default; "max_size"
    makes its longer side `side`, a multiple of 16: 416 of the reproduction checkpoint, 512 of the released one."""

    fit: Literal["balanced", "max_size"] = "balanced"
    side: int = SIDE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < PATCH or self.side % PATCH:
            raise ValueError(f"side: {self.side!r} seen, a multiple of {PATCH} wanted")

    def build(self, config: dict[str, Any] | None) -> Any:
        """Without text alignment."""
        from vggt_omega.models import VGGTOmega

        return VGGTOmega()

    def prepare(self, views: Views) -> Inputs:
        """All photos at one size: where shapes differ, white about the smaller ones, as upstream does."""
        windows = [middle(image) for image in views.images]
        sizes = [scaled_size(right - left, bottom - top, self.fit, self.side) for left, top, right, bottom in windows]
        network = (max(width for width, _ in sizes), max(height for _, height in sizes))
        network_images = []
        for image, (left, top, right, bottom), size in zip(views.images, windows, sizes):  # noqa: B905 - Python 3.9
            corner = ((network[0] - size[0]) // 2, (network[1] - size[1]) // 2)
            resized, of_window = place(image[top:bottom, left:right], size, corner, network)
            offset = (corner[0] - left * of_window.scale[0], corner[1] - top * of_window.scale[1])
            photo = (image.shape[1], image.shape[0])
            network_images.append((resized, dataclasses.replace(of_window, photo=photo, offset=offset)))
        return Inputs.of(network_images)

    def infer(self, inputs: Inputs) -> PosedDepth:
        """One pass; on CUDA upstream itself runs the trunk in bfloat16 (float16 before Ampere), else in float32."""
        import torch
        from vggt_omega.utils.pose_enc import encoding_to_camera

        images = self.batch(inputs)
        with torch.no_grad():
            predicted = self.network(images)
            poses, intrinsics = encoding_to_camera(predicted["pose_enc"], images.shape[2:])
        return PosedDepth(
            to_numpy(poses[0]),
            to_numpy(intrinsics[0]),
            to_numpy(predicted["depth"][0, ..., 0]),
            to_numpy(predicted["depth_conf"][0]),
            inputs.placements,
        )

    def finish(self, outputs: PosedDepth, views: Views) -> Reconstruction:
        """The confidence is 1 + exp of the network's."""
        return outputs.pointmaps().reconstruction(views, "exp_confidence")


def middle(image: U8) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is kept: at most twice as long as wide."""
    height, width = image.shape[:2]
    if height * STEEPEST < width:
        kept = max(1, round(height * STEEPEST))
        left = (width - kept) // 2
        return left, 0, left + kept, height
    if height > width * STEEPEST:
        kept = max(1, round(width * STEEPEST))
        top = (height - kept) // 2
        return 0, top, width, top + kept
    return 0, 0, width, height


def scaled_size(width: int, height: int, fit: str, side: int) -> Size:
    """Multiples of 16 near the shape of a photo, with as many patches as a square of `side` or its longer side that."""
    ratio = height / width
    if fit == "balanced":
        patches = (side // PATCH) ** 2
        across = float(np.sqrt(patches / ratio))
        return max(1, round(across)) * PATCH, max(1, round(patches / across)) * PATCH
    across, down = (side / ratio, float(side)) if ratio >= 1 else (float(side), side * ratio)
    return max(1, round(across / PATCH)) * PATCH, max(1, round(down / PATCH)) * PATCH
