"""VGGT: cameras, depth and points of all views in one pass (Wang et al., CVPR 2025), run by its own package."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from adapters.contract import F32, U8, Reconstruction, Views
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, homogeneous, unprojected
from adapters.shared.resize import Inputs, Placement, Size, place_on_width, scaled_to_width

SIDE, PATCH = 518, 14


@dataclasses.dataclass(frozen=True)
class Outputs:
    """VGGT's predictions of N views (h, w) and its cameras as its own decoder gives them."""

    camera_from_world: F32  # (N, 3, 4)
    intrinsics: F32  # (N, 3, 3), at the network's resolution, for integer pixel indices
    depth: F32  # (N, h, w)
    depth_conf: F32  # (N, h, w), 1 + exp
    world_points: F32  # (N, h, w, 3), of the point head
    world_points_conf: F32  # (N, h, w), 1 + exp
    placements: tuple[Placement, ...]


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`points`: "depth" unprojects the depth by the cameras, as upstream advises; "head" takes the point head's.

    `fit`: "crop" makes each photo 518 wide and crops what is higher than 518, upstream's default; "pad" keeps all of
    it on a white square."""

    points: Literal["depth", "head"] = "depth"
    fit: Literal["crop", "pad"] = "crop"

    def build(self, config: dict[str, Any] | None) -> Any:
        from vggt.models.vggt import VGGT

        return VGGT()

    def prepare(self, views: Views) -> Inputs:
        """All photos at one size: where crops differ in height, white above and below, as upstream does."""
        sizes = [scaled_size(image, self.fit) for image in views.images]
        height = SIDE if self.fit == "pad" else max(min(size[1], SIDE) for size in sizes)
        return Inputs.of(place_on_width(image, sizes[i], (SIDE, height)) for i, image in enumerate(views.images))

    def infer(self, inputs: Inputs) -> Outputs:
        """One pass; on CUDA the trunk in bfloat16 (float16 before Ampere), as upstream advises, else in float32."""
        from vggt.utils.pose_enc import pose_encoding_to_extri_intri

        images = self.batch(inputs)
        with self.inference():
            predicted = self.network(images)
        poses, intrinsics = pose_encoding_to_extri_intri(predicted["pose_enc"].float(), images.shape[2:])
        return Outputs(
            to_numpy(poses[0]),
            to_numpy(intrinsics[0]),
            to_numpy(predicted["depth"][0, ..., 0]),
            to_numpy(predicted["depth_conf"][0]),
            to_numpy(predicted["world_points"][0]),
            to_numpy(predicted["world_points_conf"][0]),
            inputs.placements,
        )

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """VGGT registers every view; its world, about that of the first camera, is moved there exactly."""
        poses, K = homogeneous(outputs.camera_from_world), outputs.intrinsics.astype(np.float64)
        if self.points == "depth":
            points = tuple(unprojected(depth, K[i], poses[i]) for i, depth in enumerate(outputs.depth))
        else:
            points = tuple(outputs.world_points)
        confidence = outputs.depth_conf if self.points == "depth" else outputs.world_points_conf
        maps = Pointmaps(outputs.placements, points, tuple(confidence), K, poses, np.ones(len(views), np.bool_))
        return maps.reconstruction(views, "exp_confidence")


def scaled_size(image: U8, fit: str) -> Size:
    """Width 518 ("pad": the longer side 518); the other side in proportion, to the nearest multiple of 14."""
    height, width = image.shape[:2]
    if fit == "pad" and height > width:
        return round(width * (SIDE / height) / PATCH) * PATCH, SIDE
    return scaled_to_width(image.shape, SIDE, PATCH)
