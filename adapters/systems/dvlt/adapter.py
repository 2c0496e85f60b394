"""DVLT: rays and depth of all views, one block of attention looped (Burzio, Fischer et al., Deja View, 2026)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from adapters.contract import F32, U8, Reconstruction, Unsupported, Views
from adapters.shared.absent import absent
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, are_cameras, inverse, unprojected
from adapters.shared.resize import Inputs, Placement, Size

SIDE, PATCH = 504, 14


@dataclasses.dataclass(frozen=True)
class Outputs:
    """DVLT's predictions of N views (h, w), and the cameras that upstream fits to its rays."""

    world_from_camera: F32  # (N, 4, 4)
    intrinsics: F32  # (N, 3, 3), at the network's resolution, pixel centres at half-integers
    depth: F32  # (N, h, w)
    points: F32  # (N, h, w, 3), along the predicted rays
    confidence: F32  # (N, h, w), 1 + exp
    placements: tuple[Placement, ...]


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`steps`: how often the block is looped; upstream's evaluation takes 12, training up to 16.

    `points`: "depth" unprojects the depth by the fitted cameras, "rays" goes along the predicted rays, which are no
    pinhole camera's. Upstream does the first at integer pixel indices, by cameras that hold for pixel centres: that
    half pixel is not taken over."""

    steps: int = 12
    points: Literal["depth", "rays"] = "depth"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= 64:
            raise ValueError(f"steps: {self.steps} seen, 1 to 64 wanted")

    def build(self, config: dict[str, Any] | None) -> Any:
        """As upstream's `DVLT` builds it for inference; DINOv2's weights are the checkpoint's, not fetched."""
        with absent("open3d"):  # of upstream's evaluation
            from dvlt.model.dvlt.model import DVLT

        return DVLT(img_size=SIDE, load_patch_embed_weights=False, inference_steps=self.steps).model

    def prepare(self, views: Views) -> Inputs:
        """All photos at one size: each in its middle, on black."""
        sizes = [cropped_size(scaled_size(image)) for image in views.images]
        network = (max(size[0] for size in sizes), max(size[1] for size in sizes))
        images, placements = zip(*(laid(image, network) for image in views.images))  # noqa: B905 - Python 3.9
        return Inputs(images, placements)

    def infer(self, inputs: Inputs) -> Outputs:
        """One pass; on CUDA in bfloat16 (float16 before Ampere), as upstream's example has it, else in float32. The
        cameras are fitted in float32, all pixels alike, as upstream does."""
        import torch
        from dvlt.common.rays import rays_to_pose

        images = self.batch(inputs)[None]
        with self.inference():
            predicted = self.network({"images": images})
        rays, confidence = predicted["rays"].float(), predicted["depth_conf"].float()
        with torch.no_grad():
            poses, intrinsics = rays_to_pose(rays, torch.ones_like(confidence), *images.shape[3:], PATCH)
        return Outputs(
            to_numpy(poses[0]),
            to_numpy(intrinsics[0]),
            to_numpy(predicted["depth"][0, ..., 0]),
            to_numpy(predicted["world_points"][0]),
            to_numpy(confidence[0]),
            inputs.placements,
        )

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """A view whose camera is no camera is not registered."""
        K, poses = outputs.intrinsics.astype(np.float64), inverse(outputs.world_from_camera)
        K[:, :2, 2] -= 0.5  # for integer pixel indices
        points = tuple(outputs.points)
        if self.points == "depth":
            points = tuple(unprojected(depth, K[i], poses[i]) for i, depth in enumerate(outputs.depth))
        maps = Pointmaps(outputs.placements, points, tuple(outputs.confidence), K, poses, are_cameras(K, poses))
        return maps.reconstruction(views, "exp_confidence")


def scaled_size(image: U8) -> Size:
    """The longer side 504, the other in proportion."""
    height, width = image.shape[:2]
    scale = SIDE / (height if height > width else width)
    return round(width * scale), round(height * scale)


def cropped_size(scaled: Size) -> Size:
    """Down to multiples of 14."""
    if min(scaled) < PATCH:
        raise Unsupported(f"a photo of {scaled[0]} x {scaled[1]} pixels once resized, {PATCH} both ways wanted")
    return scaled[0] // PATCH * PATCH, scaled[1] // PATCH * PATCH


def laid(image: U8, network: Size) -> tuple[F32, Placement]:
    """`image` (H, W, 3) resized (bilinear with antialiasing, not rounded to levels), its middle cropped and centred on
    black: (3, h, w) in [0, 1]."""
    from PIL import Image

    scaled = scaled_size(image)
    size = cropped_size(scaled)
    channels = [Image.fromarray(np.ascontiguousarray(image[..., i], np.float32), "F") for i in range(3)]
    resized = np.stack([np.asarray(channel.resize(scaled, Image.Resampling.BILINEAR)) for channel in channels])
    cut = [(scaled[axis] - size[axis]) // 2 for axis in (0, 1)]
    start = [(network[axis] - size[axis]) // 2 for axis in (0, 1)]
    canvas = np.zeros((3, network[1], network[0]), np.float32)
    rows, columns = slice(cut[1], cut[1] + size[1]), slice(cut[0], cut[0] + size[0])
    canvas[:, start[1] : start[1] + size[1], start[0] : start[0] + size[0]] = resized[:, rows, columns] / np.float32(
        255
    )
    photo = (image.shape[1], image.shape[0])
    scale = (scaled[0] / photo[0], scaled[1] / photo[1])
    offset = (float(start[0] - cut[0]), float(start[1] - cut[1]))
    window = ((start[0], start[0] + size[0]), (start[1], start[1] + size[1]))
    return canvas, Placement(photo, network, scale, offset, window)
