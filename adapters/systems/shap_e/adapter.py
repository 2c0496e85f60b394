"""Shap-E: the weights of a signed distance from CLIP's view of an object, by a diffusion (Jun and Nichol, 2023), run by
diffusers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapters.contract import F32, U8, Execution, Mesh, Reconstruction, Views
from adapters.shared.checkpoint import published
from adapters.shared.network import to_numpy
from adapters.shared.objects import ObjectNetwork, Picture, field_mesh, grid_slices
from adapters.shared.torchvision import import_torchvision

SIDE = 224  # pixels of CLIP's picture
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of levels in [0, 1]
VISION: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                          "num_attention_heads": 16, "patch_size": 14, "projection_dim": 768}  # fmt: skip
PRIOR: dict[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 64, "num_layers": 24, "embedding_dim": 1024,
    "num_embeddings": 1024, "additional_embeddings": 0, "time_embed_act_fn": "gelu", "norm_in_type": "layer",
    "embedding_proj_norm_type": "layer", "encoder_hid_proj_type": None, "added_emb_type": None, "time_embed_dim": 4096,
    "embedding_proj_dim": 1024, "clip_embed_dim": 2048,
}  # fmt: skip
RENDERER: dict[str, Any] = {}  # as diffusers has it where nothing is said
SCHEDULE: dict[str, Any] = {
    "beta_schedule": "exp", "num_train_timesteps": 1024, "prediction_type": "sample", "use_karras_sigmas": True,
    "clip_sample": True, "clip_sample_range": 1.0,
}  # fmt: skip
DISTANCE: dict[str, Any] = {"direction": None, "ts": None, "nerf_level": "fine", "rendering_mode": "stf"}


@dataclasses.dataclass(eq=False)
class Adapter(ObjectNetwork):
    """`steps` of the diffusion, each but the last two evaluations; `guidance`: how far it is drawn towards the picture;
    `resolution`: points along an edge of the grid for marching cubes."""

    steps: int = 25
    guidance: float = 4.0
    resolution: int = 128
    casts = False
    ranges = (("steps", 2, 1024), ("resolution", 16, 512))

    def __post_init__(self) -> None:
        """ValueError where an option is out of its range."""
        super().__post_init__()
        if not 1 < self.guidance <= 100:
            raise ValueError(f"guidance: {self.guidance} seen, more than 1, at most 100 wanted")

    def load(self, device: str, weights: str, seed: int) -> None:
        """From the hub's folder, a folder in it for each network; Unavailable where one is absent or another's."""
        import_torchvision()
        import torch
        from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEImg2ImgPipeline
        from diffusers.pipelines.shap_e.renderer import ShapERenderer
        from transformers import CLIPVisionConfig, CLIPVisionModel

        torch.manual_seed(seed)
        network = torch.nn.Module()
        if weights == "random":
            network.prior = PriorTransformer(**PRIOR)
            network.renderer = ShapERenderer(**RENDERER)
            network.image_encoder = CLIPVisionModel(CLIPVisionConfig(**VISION))
        else:
            folder = Path(weights)
            network.prior = published(PriorTransformer, folder / "prior")
            network.renderer = published(ShapERenderer, folder / "shap_e_renderer")
            network.image_encoder = published(CLIPVisionModel, folder / "image_encoder")
        pipeline = ShapEImg2ImgPipeline(
            network.prior, network.image_encoder, None, HeunDiscreteScheduler(**SCHEDULE), network.renderer
        )
        pipeline.set_progress_bar_config(disable=True)
        self.network, self.device, self.seed = network.eval().to(device), device, seed
        self.network.pipeline = pipeline

    def prepare(self, views: Views) -> Picture:
        """The view's object as CLIP takes it."""
        shown = self.pictures(views.images, views.masks)
        return Picture((clip_picture(shown.images[0]),), shown.foreground)

    def infer(self, inputs: Picture) -> F32:
        """(G, G, G): the signed distance at the grid's points, x first, positive inside; the same for a seed."""
        import torch

        renderer = self.network.renderer
        with torch.no_grad():
            picture = torch.from_numpy(inputs.images[0][None]).to(self.device)
            torch.manual_seed(self.seed)
            told = self.network.pipeline(
                picture, num_inference_steps=self.steps, guidance_scale=self.guidance, output_type="latent"
            )
            weights = renderer.params_proj(told["images"])
            # As upstream's decode_to_mesh, whose tables of marching cubes are part of the checkpoint.
            given = {name.replace("nerstf.", ""): tensor[0] for name, tensor in weights.items()}
            renderer.mlp.load_state_dict(given, strict=False)
            slices, many = [], self.resolution**2
            for points in grid_slices(-1.0, 1.0, self.resolution):
                told = renderer.mlp(position=torch.from_numpy(points.reshape(1, many, 3)).to(self.device), **DISTANCE)
                slices.append(to_numpy(told.signed_distance[0]))
        return np.concatenate(slices).reshape(3 * (self.resolution,))

    def finish(self, outputs: F32, views: Views) -> Reconstruction:
        """A mesh in the object's own frame, z up."""
        import torch

        vertices, faces = field_mesh(outputs, 0.0, -1.0, 1.0)
        with torch.no_grad():
            at = torch.from_numpy(vertices[None]).to(self.device)
            shades = to_numpy(self.network.renderer.mlp(position=at, **DISTANCE).channels[0])
        colors = np.round(shades * 255).astype(np.uint8)
        mesh, up = Mesh(vertices, faces, colors), np.array([0.0, 0.0, 1.0])
        return Reconstruction(vertices, "object", "arbitrary", colors, mesh=mesh, up=up)

    def execution(self, inputs: Any) -> Execution:
        """Also the grid's resolution."""
        told = super().execution(inputs)
        return dataclasses.replace(told, resolution=f"{told.resolution}, grid {self.resolution}")


def clip_picture(image: U8) -> F32:
    """(3, 224, 224): `image` (H, W, 3), its shorter side resized bicubically, its middle square, normalised."""
    height, width = image.shape[:2]
    size = (SIDE * width // min(image.shape[:2]), SIDE * height // min(image.shape[:2]))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    levels = resized[top : top + SIDE, left : left + SIDE] / 255.0
    normalised: F32 = ((levels - MEAN) / SPREAD).transpose(2, 0, 1).astype(np.float32)
    return normalised
