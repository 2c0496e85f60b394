"""CUT3R: a state that each view reads and writes in its turn gives its points and its pose (Wang et al., CVPR 2025)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from adapters.contract import F32, Reconstruction, Views
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, are_cameras, inverse, transformed
from adapters.shared.resize import Inputs, Placement, place_longest
from adapters.shared.torchvision import import_torchvision

SIDE = 512
INFINITY = float("inf")
SHAPE: dict[str, Any] = {  # of the published network, in upstream's words, as its loader changes them
    "state_size": 768,
    "state_pe": "2d",
    "pos_embed": "RoPE100",
    "rgb_head": True,
    "pose_head": True,
    "patch_embed_cls": "PatchEmbedDust3R",
    "img_size": (SIDE, SIDE),
    "head_type": "dpt",
    "output_mode": "pts3d+pose",
    "depth_mode": ("exp", -INFINITY, INFINITY),
    "conf_mode": ("exp", 1, INFINITY),
    "pose_mode": ("exp", -INFINITY, INFINITY),
    "enc_embed_dim": 1024,
    "enc_depth": 24,
    "enc_num_heads": 16,
    "dec_embed_dim": 768,
    "dec_depth": 12,
    "dec_num_heads": 12,
    "landscape_only": False,
}


@dataclasses.dataclass(frozen=True)
class View:
    """What is said of one view (h, w), as soon as it was shown."""

    local_points: F32  # (h, w, 3), in its own camera
    local_confidence: F32  # (h, w), 1 + exp
    world_points: F32  # (h, w, 3), in a world about that of the first camera
    world_confidence: F32  # (h, w), 1 + exp
    world_from_camera: F32  # (4, 4)
    intrinsics: F32  # (3, 3), at the network's resolution, for integer pixel indices
    placement: Placement


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`points`: "local" moves each view's own points by its pose, as upstream's demo does; "world" takes those that
    the network says in the common frame, which its evaluation of reconstructions measures.

    The order of the views matters: each is answered from those before it, and is not answered again."""

    casts: ClassVar[bool] = False
    points: Literal["local", "world"] = "local"

    def build(self, config: dict[str, Any] | None) -> Any:
        """ViT-L encoder, two decoders of the state and of the image, DPT heads, 512 px.

        The pose's token stands at position -1, of which upstream's rotary embedding in plain torch has no row (its
        issues 26 and 89). Attention depends on differences of positions alone: all are moved on by one."""
        import_torchvision()
        from dust3r.model import ARCroco3DStereo, ARCroco3DStereoConfig

        network = ARCroco3DStereo(ARCroco3DStereoConfig(**copy.deepcopy(SHAPE)))
        network.rope.register_forward_pre_hook(lambda _, given: (given[0], given[1] + 1))
        return network

    def prepare(self, views: Views) -> Inputs:
        """Each photo at its own size, levels in [-1, 1]. Squares are cropped to 4:3, upstream's default."""
        return Inputs.of((place_longest(image, SIDE) for image in views.images), 0.5, 0.5)

    def stream(self, inputs: Inputs) -> Iterator[View]:
        """One view after the other through the steps of upstream's recurrent pass, in float32 on every device; each
        with the focal length that upstream's demo finds in its points, the principal point in the middle."""
        import torch
        from dust3r.post_process import estimate_focal_knowing_depth
        from dust3r.utils.camera import pose_encoding_to_camera

        def tensor(values: Any) -> Any:
            return torch.from_numpy(np.asarray(values)[None]).to(self.device)

        shown = {"img_mask": tensor(np.True_), "update": tensor(np.True_), "reset": tensor(np.False_)}
        for i, image in enumerate(inputs.images):
            height, width = image.shape[1:]
            with torch.no_grad():
                shape = tensor(np.array([height, width], np.int32))
                features, positions, _ = self.network._encode_image(tensor(image), shape)
                if i == 0:
                    state, state_positions = self.network._init_state(features[-1], positions)
                    memory = self.network.pose_retriever.mem
                    empty = {"init_state_feat": state, "init_mem": memory, "state_pos": state_positions}
                seen = {"feat_i": features[-1], "pos_i": positions, "shape_i": shape}
                predicted, (state, memory) = self.network._forward_decoder_step(
                    {i: shown}, i, state_feat=state, mem=memory, **seen, **empty
                )
                middle = tensor(np.array([width / 2, height / 2], np.float32))
                local = predicted["pts3d_in_self_view"]
                focal = float(estimate_focal_knowing_depth(local, middle, focal_mode="weiszfeld")[0])
                pose = to_numpy(pose_encoding_to_camera(predicted["camera_pose"])[0])
            K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
            yield View(
                to_numpy(local[0]),
                to_numpy(predicted["conf_self"][0]),
                to_numpy(predicted["pts3d_in_other_view"][0]),
                to_numpy(predicted["conf"][0]),
                pose,
                K,
                inputs.placements[i],
            )

    def finish(self, outputs: list[View], views: Views) -> Reconstruction:
        """A view whose camera is no camera is not registered."""
        K = np.stack([view.intrinsics for view in outputs]).astype(np.float64)
        poses = np.stack([view.world_from_camera for view in outputs]).astype(np.float64)
        if self.points == "local":
            posed = zip(outputs, poses)  # noqa: B905 - Python 3.9
            points = tuple(transformed(view.local_points, pose).astype(np.float32) for view, pose in posed)
            confidence = tuple(view.local_confidence for view in outputs)
        else:
            points = tuple(view.world_points for view in outputs)
            confidence = tuple(view.world_confidence for view in outputs)
        camera_from_world = inverse(poses)
        registered = are_cameras(K, camera_from_world)
        placements = tuple(view.placement for view in outputs)
        maps = Pointmaps(placements, points, confidence, K, camera_from_world, registered)
        return maps.reconstruction(views, "exp_confidence", "metric")
