"""Hunyuan3D 2.1, shape: a flow to a set of vectors, which decodes to a field (Tencent, 2025), run by its own code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from adapters.contract import F32, Execution, Mesh, Reconstruction, Views
from adapters.shared.absent import absent
from adapters.shared.checkpoint import insert_parameters, read_parts
from adapters.shared.network import to_numpy
from adapters.shared.objects import ObjectNetwork, Picture, by_area, field_mesh, grid_slices
from adapters.shared.torchvision import import_torchvision

SIDE = 512  # pixels of the picture that upstream's processor makes
REACH = 1.01  # half the edge of the cube
PARTS = ("model", "vae", "conditioner")  # of the checkpoint
ENCODING = ("encoder.", "pre_kl.")  # parts of the autoencoder that nothing here needs
VAE: dict[str, Any] = {
    "num_latents": 4096, "embed_dim": 64, "num_freqs": 8, "include_pi": False, "heads": 16, "width": 1024,
    "num_encoder_layers": 8, "num_decoder_layers": 16, "qkv_bias": False, "qk_norm": True,
    "scale_factor": 1.0039506158752403, "point_feats": 4, "pc_size": 81920, "pc_sharpedge_size": 0,
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "hidden_size": 1024, "image_size": 518, "layer_norm_eps": 1e-6, "num_attention_heads": 16,
    "num_hidden_layers": 24, "patch_size": 14,
}  # fmt: skip
FLOW: dict[str, Any] = {
    "input_size": 4096, "in_channels": 64, "hidden_size": 2048, "context_dim": 1024, "depth": 21, "num_heads": 16,
    "qk_norm": True, "text_len": 1370, "use_attention_pooling": False, "qkv_bias": False, "num_moe_layers": 6,
    "num_experts": 8, "moe_top_k": 2,
}  # fmt: skip


@dataclasses.dataclass(eq=False)
class Adapter(ObjectNetwork):
    """`steps` of the flow; `guidance`: how far it is drawn towards the picture; `resolution`: cells along an edge of
    the grid for marching cubes, 384 upstream."""

    steps: int = 50
    guidance: float = 5.0
    resolution: int = 384
    border = 0.15
    ranges = (("steps", 2, 1000), ("guidance", 0, 100), ("resolution", 16, 512))

    def build(self, config: dict[str, Any] | None) -> Any:
        """The three networks as published, and upstream's pipeline around them."""
        import_torchvision()
        import torch

        with absent("cv2", "pymeshlab", "skimage", "timm.models.vision_transformer", "torch_cluster"):
            from hy3dshape.models.autoencoders import ShapeVAE
            from hy3dshape.models.conditioner import SingleImageEncoder
            from hy3dshape.models.denoisers.hunyuandit import HunYuanDiTPlain
            from hy3dshape.pipelines import Hunyuan3DDiTFlowMatchingPipeline
            from hy3dshape.schedulers import FlowMatchEulerDiscreteScheduler

            network = torch.nn.Module()
            network.model = HunYuanDiTPlain(**FLOW)
            network.vae = ShapeVAE(**VAE)
            del network.vae.encoder, network.vae.pre_kl
            kwargs = {"config": dict(ENCODER), "image_size": ENCODER["image_size"], "use_cls_token": True}
            network.conditioner = SingleImageEncoder({"type": "DinoImageEncoder", "kwargs": kwargs})
        parts = {name: getattr(network, name) for name in PARTS}
        network.pipeline = Hunyuan3DDiTFlowMatchingPipeline(
            **parts,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            image_processor=None,
            device=self.device,
            dtype=torch.float32,
        )
        return network

    def load(self, device: str, weights: str, seed: int) -> None:
        """The published file holds all three; Unavailable where it is another's."""
        import torch

        torch.manual_seed(seed)
        self.device, self.seed = device, seed
        network = self.build(None)
        if weights != "random":
            for name, given in read_parts(Path(weights), PARTS).items():
                own = {key: tensor for key, tensor in given.items() if name != "vae" or not key.startswith(ENCODING)}
                insert_parameters(getattr(network, name), own, Path(weights))
        self.network = network.eval()

    def prepare(self, views: Views) -> Picture:
        """The view's object at 512 pixels."""
        shown = self.pictures(views.images, views.masks)
        levels = by_area(shown.images[0], SIDE).transpose(2, 0, 1) / np.float32(127.5) - 1
        return Picture((levels.astype(np.float32),), shown.foreground)

    def infer(self, inputs: Picture) -> F32:
        """(G, G, G): the field at the grid's points, x first, positive inside; the same for a seed."""
        import torch

        vae, slices, count = self.network.vae, [], self.resolution + 1
        with self.inference():
            picture = torch.from_numpy(inputs.images[0][None]).to(self.device)
            torch.manual_seed(self.seed)
            latents = self.network.pipeline(
                image=picture,
                mask=picture[:, :1],  # which its encoder does not look at
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                output_type="latent",
                enable_pbar=False,
            )
            codes = vae(latents / vae.scale_factor)
            for points in grid_slices(-REACH, REACH, count):
                queries = torch.from_numpy(points.reshape(1, count * count, 3)).to(self.device)
                slices.append(to_numpy(vae.geo_decoder(queries=queries, latents=codes)[0]))
        return np.concatenate(slices).reshape(3 * (count,))

    def finish(self, outputs: F32, views: Views) -> Reconstruction:
        """A mesh in the object's own frame, without colours."""
        vertices, faces = field_mesh(outputs, 0.0, -REACH, REACH)
        return Reconstruction(vertices, "object", "arbitrary", mesh=Mesh(vertices, faces))

    def execution(self, inputs: Any) -> Execution:
        """Also the grid's resolution."""
        told = super().execution(inputs)
        return dataclasses.replace(told, resolution=f"{told.resolution}, grid {self.resolution}")
