"""StreamVGGT: VGGT with causal attention, which answers each view from those before it (Zhuo et al., 2025)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from adapters.contract import F32, Reconstruction, Views
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, are_cameras, homogeneous, unprojected
from adapters.shared.resize import Inputs, Placement, place_on_width, scaled_to_width

SIDE, PATCH = 518, 14


@dataclasses.dataclass(frozen=True)
class View:
    """What is said of one view (h, w), as soon as it was shown."""

    camera_from_world: F32  # (3, 4)
    intrinsics: F32  # (3, 3), at the network's resolution, for integer pixel indices
    depth: F32  # (h, w)
    depth_conf: F32  # (h, w), 1 + exp
    world_points: F32  # (h, w, 3), of the point head
    world_points_conf: F32  # (h, w), 1 + exp
    placement: Placement


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`points`: "head" takes the point head's, as upstream's demo does; "depth" unprojects the depth by the cameras.

    The order of the views matters: each is answered from those before it, and is not answered again."""

    points: Literal["head", "depth"] = "head"

    def build(self, config: dict[str, Any] | None) -> Any:
        from streamvggt.models.streamvggt import StreamVGGT

        return StreamVGGT()

    def prepare(self, views: Views) -> Inputs:
        """As VGGT's, which upstream's demo uses: 518 wide, what is higher than 518 cropped."""
        sizes = [scaled_to_width(image.shape, SIDE, PATCH) for image in views.images]
        height = int(np.array(sizes)[:, 1].clip(max=SIDE).max())
        return Inputs.of(place_on_width(image, sizes[i], (SIDE, height)) for i, image in enumerate(views.images))

    def stream(self, inputs: Inputs) -> Iterator[View]:
        """One view after the other, each with the keys and values of all before it, through the steps of upstream's
        own loop; on CUDA the trunk in bfloat16 (float16 before Ampere), as upstream's demo has it, else in float32."""
        import torch
        from streamvggt.utils.pose_enc import pose_encoding_to_extri_intri

        trunk, camera_head = self.network.aggregator, self.network.camera_head
        memory, camera_memory = [None] * trunk.depth, [None] * camera_head.trunk_depth
        for i, placement in enumerate(inputs.placements):
            image = torch.from_numpy(inputs.images[i][None][None]).to(self.device)
            with self.inference():
                tokens, first, memory = trunk(image, past_key_values=memory, use_cache=True, past_frame_idx=i)
                with torch.autocast("cuda", enabled=False):
                    encoded, camera_memory = camera_head(tokens, past_key_values_camera=camera_memory, use_cache=True)
                    depth, depth_conf = self.network.depth_head(tokens, images=image, patch_start_idx=first)
                    points, conf = self.network.point_head(tokens, images=image, patch_start_idx=first)
                poses, intrinsics = pose_encoding_to_extri_intri(encoded[-1].float(), image.shape[3:])
            yield View(
                to_numpy(poses[0][0]),
                to_numpy(intrinsics[0][0]),
                to_numpy(depth[0][0][..., 0]),
                to_numpy(depth_conf[0][0]),
                to_numpy(points[0][0]),
                to_numpy(conf[0][0]),
                placement,
            )

    def finish(self, outputs: list[View], views: Views) -> Reconstruction:
        """A view whose camera is no camera is not registered; the world is moved to the first one's exactly."""
        poses = homogeneous(np.stack([view.camera_from_world for view in outputs]))
        K = np.stack([view.intrinsics for view in outputs]).astype(np.float64)
        if self.points == "head":
            points = tuple(view.world_points for view in outputs)
            confidence = tuple(view.world_points_conf for view in outputs)
        else:
            points = tuple(unprojected(view.depth, K[i], poses[i]) for i, view in enumerate(outputs))
            confidence = tuple(view.depth_conf for view in outputs)
        placements = tuple(view.placement for view in outputs)
        maps = Pointmaps(placements, points, confidence, K, poses, are_cameras(K, poses))
        return maps.reconstruction(views, "exp_confidence")
