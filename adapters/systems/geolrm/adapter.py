"""GeoLRM: Gaussians about proposed voxels, from posed views (Zhang et al., 2024), run by its own code without CUDA."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np

from adapters.contract import F32, Bools, ContractError, Reconstruction, Unsupported, Views
from adapters.shared.checkpoint import insert_parameters, read_parameters
from adapters.shared.network import to_numpy
from adapters.shared.objects import Cube, ObjectNetwork, look_at_middle, object_cube, segmented
from adapters.shared.torchvision import import_torchvision
from adapters.systems.geolrm.standins import attend_to_tokens, installed

SIDE = 560  # pixels of the network's pictures
REACH = 0.45  # of the cube's [-0.5, 0.5], that the object fills
HALF = 0.54  # half a picture's width at the cube's middle: as upstream's field of view, 39.6 degrees at 1.5, has it
LEAST = 0.005  # opacity of a Gaussian that upstream keeps
LOSSES = ("lpips.", "ssim.", "depth_loss.", "tv_loss.")  # of upstream's training, in the checkpoint beside the networks
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera axes from OpenCV's
ENCODER: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 518}
SHARED: dict[str, Any] = {
    "use_bf16": False, "encoder_freeze": False, "encoder_feat_dim": 384, "grid_size": 128,
    "transformer_heads": 16, "num_deform_points": 8,
}  # fmt: skip
PROPOSAL: dict[str, Any] = {"transformer_dim": 384, "transformer_layers": 6, "token_res": 8, "max_seq_len": 8192}
RECONSTRUCTION: dict[str, Any] = {
    "transformer_dim": 768, "transformer_layers": 16, "gs_per_token": 32, "use_sh": False, "dropout": 0.0,
    "offset_max": 0.2, "scale_max": 0.02,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Inputs:
    """N pictures of a camera that looks at the cube's middle, and where that stands."""

    images: tuple[F32, ...]  # each (3, 560, 560), levels in [0, 1]
    world_from_camera: F32  # (N, 4, 4), OpenGL axes, in the cube
    intrinsics: F32  # (N, 3, 3), in picture widths
    cube: Cube
    foreground: str


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Gaussians of T voxels, G each."""

    gaussians: F32  # (T, G, 14): mean, opacity, scale, rotation, colour
    proposed: Bools  # (T,); the others are padding
    cube: Cube


@dataclasses.dataclass(eq=False)
class Adapter(ObjectNetwork):
    """`proposal` and `reconstruction`: what the self-attention of each network does. "heads", as released: in 32 bits
    upstream's code attends among the heads of each token and mixes tokens by their order. "tokens": as its training in
    half precision, where each token attends to all."""

    proposal: Literal["heads", "tokens"] = "heads"
    reconstruction: Literal["heads", "tokens"] = "heads"
    casts = False
    attends = "torch"

    def build(self, config: dict[str, Any] | None) -> Any:
        """Both networks at upstream's sizes, with DINOv2's shape and nobody's weights."""
        import_torchvision()
        import torch
        from transformers import Dinov2Backbone, Dinov2Config

        depth = ENCODER["num_hidden_layers"]
        shape = Dinov2Config(**ENCODER, patch_size=14, out_features=[f"stage{depth}"], apply_layernorm=True)
        untrained = classmethod(lambda backbone, *_, **__: backbone(shape))
        with installed(), mock.patch.object(Dinov2Backbone, "from_pretrained", untrained):
            from src.models.geolrm import GeoLRM
            from src.serializers.geo_srl import TransformerSerializer

            network = torch.nn.Module()
            network.serializer = TransformerSerializer(**SHARED, **PROPOSAL)
            network.lrm_generator = GeoLRM(**SHARED, **RECONSTRUCTION)
        for part, attention in ((network.serializer, self.proposal), (network.lrm_generator, self.reconstruction)):
            for layer in part.transformer.layers if attention == "tokens" else ():
                layer.self_attention.forward = functools.partial(attend_to_tokens, layer.self_attention)
        return network

    def load(self, device: str, weights: str, seed: int) -> None:
        """The released file holds both networks and the losses of their training; Unavailable where it is another's."""
        import torch

        torch.manual_seed(seed)
        network = self.build(None)
        if weights != "random":
            given = read_parameters(Path(weights))
            own = {name: tensor for name, tensor in given.items() if not name.startswith(LOSSES)}
            network = insert_parameters(network, own, Path(weights))
        self.device, self.seed = device, seed
        self.network = network.eval().to(device)

    def prepare(self, views: Views) -> Inputs:
        """Each view as a camera would see it that looks at the object from the same place."""
        if views.cameras is None:
            raise Unsupported("geolrm: cameras are wanted")
        masks = [segmented(image) for image in views.images] if self.foreground == "rembg" else views.masks
        if masks is None or self.foreground == "none":
            raise Unsupported("geolrm: masks are wanted, or foreground=rembg, to tell where the object is")
        cube = object_cube(views.cameras, masks, REACH)
        images, focals, poses = zip(  # noqa: B905 - Python 3.9
            *(
                look_at_middle(image, mask, K, pose, cube, HALF, SIDE)
                for image, mask, K, pose in zip(  # noqa: B905
                    views.images, masks, views.cameras.intrinsics, views.cameras.camera_from_world
                )
            )
        )
        intrinsics = np.array([[[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]] for focal in focals], np.float32)
        how = "given mask" if self.foreground == "mask" else "rembg"
        told = f"{how}, camera turned there, on white"
        return Inputs(images, (np.stack(poses) @ FLIP).astype(np.float32), intrinsics, cube, told)

    def infer(self, inputs: Inputs) -> Outputs:
        """Voxels where the first network expects surface, then Gaussians about each, by the second."""
        import torch

        images = torch.from_numpy(np.stack(inputs.images)[None]).to(self.device)
        poses = torch.from_numpy(inputs.world_from_camera[None]).to(self.device)
        K = torch.from_numpy(inputs.intrinsics[None]).to(self.device)
        torch.manual_seed(self.seed)  # upstream draws from more voxels than it takes
        with torch.no_grad():
            anchors, proposed = self.network.serializer(images, poses, K)
            latents = self.network.lrm_generator.forward_latents(anchors, images, K, poses)
            gaussians = self.network.lrm_generator.renderer.get_gaussians(anchors, latents)
        shape = (len(proposed[0]), gaussians.shape[1] // len(proposed[0]), gaussians.shape[2])
        return Outputs(to_numpy(gaussians).reshape(shape), to_numpy(proposed[0]) > 0, inputs.cube)

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """Means of the Gaussians that upstream keeps, of proposed voxels alone: where these are few it pads them with
        the cube's middle. ContractError where none is left."""
        proposed = outputs.gaussians[outputs.proposed]
        kept = proposed[proposed[..., 3] >= LEAST]
        if not len(kept):
            raise ContractError(
                f"points: no Gaussian is left: {len(proposed)} voxels proposed, opacity at most "
                f"{proposed[..., 3].max(initial=0):.3g} seen, {LEAST:g} wanted"
            )
        colors = (kept[:, -3:] * 255).round().clip(0, 255).astype(np.uint8)
        points, opacity = outputs.cube.to_world(kept[:, :3]), np.ascontiguousarray(kept[:, 3])
        return Reconstruction(points, "world", "arbitrary", colors, opacity, "probability")
