"""GeoLRM's networks: Gaussians about proposed voxels, from posed pictures (Zhang et al., 2024), run by its own code
without CUDA. Its adapters differ in where the pictures come from.

Runs inside the environments of the systems under test: numpy and torch, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np

from adapters.contract import F32, U8, Bools, ContractError
from adapters.shared.checkpoint import insert_parameters, read_parameters
from adapters.shared.geolrm_standins import attend_to_tokens, installed
from adapters.shared.network import to_numpy
from adapters.shared.objects import ObjectNetwork
from adapters.shared.torchvision import import_torchvision

LEAST = 0.005  # opacity of a Gaussian that upstream keeps
LOSSES = ("lpips.", "ssim.", "depth_loss.", "tv_loss.")  # of upstream's training, in the checkpoint beside the networks
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
class Gaussians:
    """G Gaussians about each of T voxels of the cube [-0.5, 0.5]^3."""

    gaussians: F32  # (T, G, 14): mean, opacity, scale, rotation, colour
    proposed: Bools  # (T,); the others are padding

    def kept(self) -> tuple[F32, U8, F32]:
        """Means (K, 3), colours (K, 3) and opacities (K,) of those that upstream keeps, of proposed voxels alone: where
        these are few it pads them with the cube's middle. ContractError where none is left."""
        proposed = self.gaussians[self.proposed]
        kept = proposed[proposed[..., 3] >= LEAST]
        if not len(kept):
            raise ContractError(
                f"points: no Gaussian is left: {len(proposed)} voxels proposed, opacity at most "
                f"{proposed[..., 3].max(initial=0):.3g} seen, {LEAST:g} wanted"
            )
        colors = (kept[:, -3:] * 255).round().clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(kept[:, :3]), colors, np.ascontiguousarray(kept[:, 3])


@dataclasses.dataclass(eq=False)
class GeoLRM(ObjectNetwork):
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

    def gaussians(self, images: F32, poses: F32, intrinsics: F32) -> tuple[F32, Bools]:
        """Voxels where the first network expects surface, then Gaussians about each, by the second: see `Gaussians`.

        Of N pictures (N, 3, h, h), levels in [0, 1], their world_from_camera (N, 4, 4) with OpenGL axes in the cube,
        and intrinsics (N, 3, 3) in picture widths."""
        import torch

        shown, turned, K = (torch.from_numpy(given[None]).to(self.device) for given in (images, poses, intrinsics))
        torch.manual_seed(self.seed)  # upstream draws from more voxels than it takes
        with torch.no_grad():
            anchors, proposed = self.network.serializer(shown, turned, K)
            latents = self.network.lrm_generator.forward_latents(anchors, shown, K, turned)
            gaussians = self.network.lrm_generator.renderer.get_gaussians(anchors, latents)
        shape = (len(proposed[0]), gaussians.shape[1] // len(proposed[0]), gaussians.shape[2])
        return to_numpy(gaussians).reshape(shape), to_numpy(proposed[0]) > 0
