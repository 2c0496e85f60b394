"""TripoSR: a density in planes from one picture, then marching cubes (Tochilkin et al., 2024), run by its own code."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

import numpy as np

from adapters.contract import Execution, Mesh, Reconstruction, Views
from adapters.shared.absent import absent
from adapters.shared.network import to_numpy
from adapters.shared.objects import ObjectNetwork, Picture, PlaneDensity, bilinear, field_mesh, grid_slices

SIDE = 512  # pixels of the network's picture
LEVEL = 25.0  # of the density, where upstream has the surface
RADIUS = 0.87  # half the edge of the cube
# The published config.yaml, whose names of classes are not read: upstream would import whatever a file says.
CONFIG: dict[str, Any] = {
    "cond_image_size": SIDE,
    "image_tokenizer_cls": "tsr.models.tokenizers.image.DINOSingleImageTokenizer",
    "image_tokenizer": {},
    "tokenizer_cls": "tsr.models.tokenizers.triplane.Triplane1DTokenizer",
    "tokenizer": {"plane_size": 32, "num_channels": 1024},
    "backbone_cls": "tsr.models.transformer.transformer_1d.Transformer1D",
    "backbone": {"in_channels": 1024, "num_attention_heads": 16, "attention_head_dim": 64, "num_layers": 16,
                 "cross_attention_dim": 768},
    "post_processor_cls": "tsr.models.network_utils.TriplaneUpsampleNetwork",
    "post_processor": {"in_channels": 1024, "out_channels": 40},
    "decoder_cls": "tsr.models.network_utils.NeRFMLP",
    "decoder": {"in_channels": 120, "n_neurons": 64, "n_hidden_layers": 9, "activation": "silu"},
    "renderer_cls": "tsr.models.nerf_renderer.TriplaneNeRFRenderer",
    "renderer": {"radius": RADIUS, "feature_reduction": "concat", "density_activation": "exp", "density_bias": -1.0},
}  # fmt: skip
ENCODER: dict[str, Any] = {}  # of DINO ViT-B/16, which is what transformers has where nothing is said


@dataclasses.dataclass(eq=False)
class Adapter(ObjectNetwork):
    """`resolution`: points along an edge of the grid for marching cubes, 256 upstream."""

    resolution: int = 256
    grey = 127
    border = 0.15
    casts = False
    ranges = (("resolution", 16, 512),)

    def build(self, config: dict[str, Any] | None) -> Any:
        """The network as published, DINO's shape and nobody's weights in it."""
        from omegaconf import OmegaConf
        from transformers import ViTConfig

        shape = mock.patch.object(ViTConfig, "from_pretrained", lambda *_, **__: ViTConfig(**ENCODER))
        with absent("torchmcubes", "rembg"):  # the surface is read by our own code, the object cut out as well
            import tsr.models.tokenizers.image as image
            from tsr.system import TSR

            with shape, mock.patch.object(image, "hf_hub_download", lambda **_: ""):
                return TSR(OmegaConf.create(CONFIG))

    def prepare(self, views: Views) -> Picture:
        """The view's object at 512 pixels, on upstream's grey."""
        shown = self.pictures(views.images, views.masks)
        return Picture((bilinear(shown.images[0], SIDE),), shown.foreground)

    def infer(self, inputs: Picture) -> PlaneDensity:
        """The planes, and the density on the grid, slice by slice; in 32 bits, as upstream has it."""
        import torch

        slices = []
        with torch.no_grad():
            planes = self.network([inputs.images[0].transpose(1, 2, 0)], self.device)
            renderer, decoder = self.network.renderer, self.network.decoder
            for points in grid_slices(-RADIUS, RADIUS, self.resolution):
                told = renderer.query_triplane(decoder, torch.from_numpy(points).to(self.device), planes[0])
                slices.append(to_numpy(told["density_act"][..., 0]))
        return PlaneDensity(np.stack(slices), planes)

    def finish(self, outputs: PlaneDensity, views: Views) -> Reconstruction:
        """A mesh in the frame of the picture's camera, which lies on +x, z upwards in the picture."""
        import torch

        vertices, faces = field_mesh(outputs.density, LEVEL, -RADIUS, RADIUS)
        with torch.no_grad():
            at = torch.from_numpy(vertices).to(self.device)
            told = self.network.renderer.query_triplane(self.network.decoder, at, outputs.planes[0])
        colors = (to_numpy(told["color"]) * 255).astype(np.uint8)
        return Reconstruction(vertices, "object", "arbitrary", colors, mesh=Mesh(vertices, faces, colors))

    def execution(self, inputs: Any) -> Execution:
        """Also the grid's resolution."""
        told = super().execution(inputs)
        return dataclasses.replace(told, resolution=f"{told.resolution}, grid {self.resolution}")
