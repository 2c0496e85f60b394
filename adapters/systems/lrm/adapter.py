"""LRM: a density in planes from one picture, then marching cubes (Hong et al., 2024), run by OpenLRM's own code."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal
from unittest import mock

import numpy as np

from adapters.contract import Execution, Mesh, Reconstruction, Views
from adapters.shared.network import to_numpy
from adapters.shared.objects import ObjectNetwork, Picture, PlaneDensity, bicubic, by_area, field_mesh
from adapters.shared.torchvision import import_torchvision

SQUARE = 512  # pixels that upstream brings a cut-out object to
LEVEL = 3.0  # of the density, where upstream has the surface
# Camera of every picture: on -y, z up, upstream's normalised intrinsics; 2 from the middle of the cube [-1, 1]^3.
CAMERA = (1, 0, 0, 0, 0, 0, -1, -2, 0, 1, 0, 0, 0.75, 0.75, 0.5, 0.5)
COMMON = {
    "camera_embed_dim": 1024,
    "rendering_samples_per_ray": 96,
    "triplane_low_res": 32,
    "triplane_high_res": 64,
    "encoder_freeze": False,
    "encoder_type": "dinov2",
}
SIZES: dict[str, dict[str, Any]] = {
    "small": {"transformer_dim": 512, "transformer_layers": 12, "transformer_heads": 8, "triplane_dim": 32,
              "encoder_model_name": "dinov2_vits14_reg", "encoder_feat_dim": 384},
    "base": {"transformer_dim": 768, "transformer_layers": 12, "transformer_heads": 12, "triplane_dim": 48,
             "encoder_model_name": "dinov2_vitb14_reg", "encoder_feat_dim": 768},
    "large": {"transformer_dim": 1024, "transformer_layers": 16, "transformer_heads": 16, "triplane_dim": 80,
              "encoder_model_name": "dinov2_vitb14_reg", "encoder_feat_dim": 768},
}  # fmt: skip
SIDES = {"small": 224, "base": 336, "large": 448}  # pixels of the network's picture


@dataclasses.dataclass(eq=False)
class Adapter(ObjectNetwork):
    """`size` of the network, whose checkpoint must be of it; `resolution`: points along an edge of the grid for
    marching cubes, 384 upstream."""

    size: Literal["small", "base", "large"] = "base"
    resolution: int = 384
    casts = False
    attends = "torch"  # DINOv2 without xformers multiplies plainly, the decoder by torch's own module
    ranges = (("resolution", 16, 512),)

    def build(self, config: dict[str, Any] | None) -> Any:
        """The network of this size, or as the checkpoint's config.json has it; never with weights of DINOv2's own."""
        import_torchvision()
        import torch
        from accelerate import PartialState

        PartialState(cpu=True)  # upstream's logger wants one
        torch.compiler.set_stance("force_eager")  # upstream compiles, which this torch cannot
        from openlrm.models.encoders.dinov2_wrapper import Dinov2Wrapper
        from openlrm.models.modeling_lrm import ModelLRM

        untrained = functools.partial(Dinov2Wrapper._build_dinov2, pretrained=False)
        with mock.patch.object(Dinov2Wrapper, "_build_dinov2", staticmethod(untrained)):
            return ModelLRM(**(config or {**COMMON, **SIZES[self.size]}))

    def prepare(self, views: Views) -> Picture:
        """The view's object at 512 pixels, then at the network's size, as upstream's application has it."""
        shown = self.pictures(views.images, views.masks)
        picture = bicubic(by_area(shown.images[0], SQUARE), SIDES[self.size])
        return Picture((picture,), shown.foreground)

    def infer(self, inputs: Picture) -> PlaneDensity:
        """The planes, and the density on the grid; in 32 bits, as upstream has it."""
        import torch

        with torch.no_grad():
            picture = torch.from_numpy(inputs.images[0][None]).to(self.device)
            camera = torch.tensor([CAMERA]).to(self.device)
            planes = self.network.forward_planes(picture, camera)
            grid = self.network.synthesizer.forward_grid(planes, self.resolution)
        return PlaneDensity(to_numpy(grid["sigma"][0, ..., 0]), planes)

    def finish(self, outputs: PlaneDensity, views: Views) -> Reconstruction:
        """A mesh in the frame of the picture's camera, which lies on -y; the object's own up is not known."""
        import torch

        vertices, faces = field_mesh(outputs.density, LEVEL, -1.0, 1.0)
        with torch.no_grad():
            at = torch.from_numpy(vertices[None]).to(self.device)
            rgb = to_numpy(self.network.synthesizer.forward_points(outputs.planes, at)["rgb"][0])
        colors = (rgb * 255).clip(0, 255).astype(np.uint8)
        return Reconstruction(vertices, "object", "arbitrary", colors, mesh=Mesh(vertices, faces, colors))

    def execution(self, inputs: Any) -> Execution:
        """Also the grid's resolution."""
        told = super().execution(inputs)
        return dataclasses.replace(told, resolution=f"{told.resolution}, grid {self.resolution}")
