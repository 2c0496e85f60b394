"""Fast3R: pointmaps of all views in one pass (Yang et al., CVPR 2025), cameras from its points by its own PnP."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
from typing import Any, Literal

import numpy as np

from adapters.contract import F32, Bools, Reconstruction, Views
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, inverse
from adapters.shared.resize import Inputs, Placement, place_longest
from adapters.shared.torchvision import import_torchvision

SIDE = 512
SUREST = 0.85  # pixels below this quantile of confidence do not steer a view's own points to the common frame
FOCAL_FROM = 0.1  # pixels below this quantile of confidence do not vote on the focal length
TRUNK = {"embed_dim": 1024, "num_heads": 16, "depth": 24, "mlp_ratio": 4.0, "attn_implementation": "flash_attention"}
ENCODER = {"encoder_type": "croco", "img_size": SIDE, "patch_size": 16, "patch_embed_cls": "PatchEmbedDust3R"}
DECODER = {"decoder_type": "fast3r", "random_image_idx_embedding": True, "enc_embed_dim": 1024}
SHAPE: dict[str, dict[str, Any]] = {  # of the published network, in upstream's words
    "encoder_args": {**ENCODER, "pos_embed": "RoPE100", **TRUNK},
    "decoder_args": {**DECODER, "qkv_bias": True, "attn_bias_for_inference_enabled": False, **TRUNK},
    "head_args": {
        "head_type": "dpt",
        "output_mode": "pts3d",
        "landscape_only": False,
        "depth_mode": ["exp", -float("inf"), float("inf")],
        "conf_mode": ["exp", 1, float("inf")],
        "patch_size": 16,
        "with_local_head": True,
    },
}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """N views in the frame of the first one's camera."""

    points: tuple[F32, ...]  # each (h, w, 3)
    confidence: tuple[F32, ...]  # each (h, w), 1 + exp
    world_from_camera: F32  # (N, 4, 4); the identity where PnP found none
    intrinsics: F32  # (N, 3, 3), at the network's resolution, for integer pixel indices; one focal length
    registered: Bools  # (N,)
    placements: tuple[Placement, ...]


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`points`: "local" moves each view's own points to the common frame by the similarity that fits the surest of
    them, as upstream's demo does; "global" takes the points that the network says in the common frame."""

    points: Literal["local", "global"] = "local"

    def build(self, config: dict[str, Any] | None) -> Any:
        """ViT-L encoder and decoder, 512 px, or what the checkpoint's config.json says."""
        import_torchvision()
        from fast3r.models.fast3r import Fast3R

        shape = config or SHAPE
        return Fast3R(**{part: copy.deepcopy(shape[part]) for part in SHAPE})

    def prepare(self, views: Views) -> Inputs:
        """Each photo at its own size, levels in [-1, 1]. Squares are cropped to 4:3, upstream's default."""
        return Inputs.of((place_longest(image, SIDE) for image in views.images), 0.5, 0.5)

    def infer(self, inputs: Inputs) -> Outputs:
        """One pass, then the alignment of local points and PnP. Float32 on the CPU, bfloat16 on CUDA.

        The pass draws an index for each view: the seed is set before every call."""
        import torch
        from fast3r.dust3r.inference_multiview import inference

        images = [
            {
                "img": torch.from_numpy(image)[None],
                "true_shape": np.array([image.shape[1:]], np.int32),
                "idx": i,
                # A slow encoder has upstream print these three: without them it raises.
                "instance": str(i),
                "dataset": "photos",
                "label": str(i),
            }
            for i, image in enumerate(inputs.images)
        ]
        torch.manual_seed(self.seed)
        # The word: torch.float32 would leave automatic casting on.
        precision = torch.bfloat16 if self.device.startswith("cuda") else "32"
        predicted = inference(images, self.network, torch.device(self.device), dtype=precision, verbose=False)["preds"]
        predicted = [{name: tensor[0].float() for name, tensor in view.items()} for view in predicted]
        poses, intrinsics, registered = solve_cameras(predicted)
        points = [aligned(view) if self.points == "local" else view["pts3d_in_other_view"] for view in predicted]
        name = "conf_local" if self.points == "local" else "conf"
        return Outputs(
            tuple(map(to_numpy, points)),
            tuple(to_numpy(view[name]) for view in predicted),
            poses,
            intrinsics,
            registered,
            inputs.placements,
        )

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """All points are kept, those of views without a camera too: they do not hang on it."""
        K, poses = outputs.intrinsics.astype(np.float64), inverse(outputs.world_from_camera)
        maps = Pointmaps(outputs.placements, outputs.points, outputs.confidence, K, poses, outputs.registered)
        return maps.reconstruction(views, "exp_confidence")


def aligned(view: Any) -> Any:
    """(h, w, 3): a view's own points in the common frame, by the similarity of its surest pixels."""
    import roma
    import torch

    sure = view["conf"] >= torch.quantile(view["conf"].flatten(), SUREST)
    R, t, s = roma.rigid_points_registration(
        view["pts3d_local"][sure], view["pts3d_in_other_view"][sure], compute_scaling=True
    )
    return s * view["pts3d_local"] @ R.T + t


def solve_cameras(predicted: Any) -> tuple[F32, F32, Bools]:
    """Upstream's demo: the first view's points give the focal length of all, PnP on the points each view's pose.

    World_from_camera (N, 4, 4), intrinsics (N, 3, 3) and whether PnP found a pose (N,): upstream's own wrapper puts
    the identity there and does not say so."""
    import torch
    from fast3r.dust3r.cloud_opt.init_im_poses import fast_pnp
    from fast3r.dust3r.post_process import estimate_focal_knowing_depth_and_confidence_mask

    predicted = [{name: tensor.cpu() for name, tensor in view.items()} for view in predicted]
    points, confidence = predicted[0]["pts3d_in_other_view"], predicted[0]["conf"]
    height, width = confidence.shape
    sure = confidence >= torch.quantile(confidence.flatten(), FOCAL_FROM)
    middle = torch.tensor([[[width / 2, height / 2]]])
    focal = float(
        estimate_focal_knowing_depth_and_confidence_mask(points[None], middle, sure[None], focal_mode="weiszfeld")
    )

    def solve(view: Any) -> Any:
        return fast_pnp(view["pts3d_in_other_view"], focal, view["conf"] > 1, "cpu", pp=None, niter_PnP=100)[1]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        poses_or_none = list(pool.map(solve, predicted))
    poses = np.stack([np.eye(4) if pose is None else pose.numpy() for pose in poses_or_none]).astype(np.float32)
    K = np.tile(np.diag([focal, focal, 1]), (len(predicted), 1, 1)).astype(np.float32)
    shapes = [view["conf"].shape for view in predicted]
    K[:, :2, 2] = [(width / 2, height / 2) for height, width in shapes]
    return poses, K, np.array([pose is not None for pose in poses_or_none])
