"""GeoLRM from one photo: Zero123++ (Shi et al., 2023) paints six views of the object, which GeoLRM reconstructs; both
run by GeoLRM's own code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapters.contract import F32, U8, Reconstruction, Unavailable, Views
from adapters.shared.checkpoint import load_parameters, published
from adapters.shared.geolrm import Gaussians, GeoLRM
from adapters.shared.objects import Pictures, smoothed
from adapters.shared.stable_diffusion import TEXT, VAE, VISION, NoWords

TILE, SIDE = 320, 448  # pixels of a painted view, and of the network's pictures
# Of the six painted views, row by row of the sheet: degrees from the photo's side, and above the ground.
AZIMUTHS, ELEVATIONS = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0), (20.0, -10.0) * 3
DISTANCE, FOV = 1.5, 30.0  # of their cameras, as upstream's script has them
PAINTER, WHITE = "painter", "white"  # folders of the checkpoints beside GeoLRM's own
# Stable Diffusion 2's, which Zero123++ was tuned from.
UNET: dict[str, Any] = {
    "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True, "block_out_channels": [320, 640, 1280, 1280],
}  # fmt: skip
EYES = {"clip": 224, "vae": 320}  # pixels that the painter's encoders see the photo at
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
                            "prediction_type": "v_prediction", "steps_offset": 1}  # fmt: skip


@dataclasses.dataclass(eq=False)
class Adapter(GeoLRM):
    """`steps` of the painter's diffusion; the other options are `GeoLRM`'s."""

    steps: int = 75
    border = 0.15
    ranges = (("steps", 2, 1000),)

    def load(self, device: str, weights: str, seed: int) -> None:
        """From the folder of GeoLRM's file, with the painter's networks and the U-Net of white grounds in folders of
        it; Unavailable where one is absent or another's."""
        folder = Path(weights)
        super().load(device, weights if weights == "random" else str(folder / "geolrm.ckpt"), seed)
        self.network.painter = painter(None if weights == "random" else folder).to(device)

    def prepare(self, views: Views) -> Pictures:
        """The view's object on white, as upstream cuts it out."""
        return self.pictures(views.images, views.masks)

    def infer(self, inputs: Pictures) -> Gaussians:
        """Six painted views, then Gaussians about voxels; the same for a seed."""
        import torch

        with torch.no_grad():
            torch.manual_seed(self.seed)
            painted = self.network.painter(
                Image.fromarray(inputs.images[0]), num_inference_steps=self.steps, output_type="np", return_dict=False
            )
        return Gaussians(*self.gaussians(pictures(np.asarray(painted[0][0])), *cameras()))

    def finish(self, outputs: Gaussians, views: Views) -> Reconstruction:
        """Means of the Gaussians that upstream keeps, in the object's own frame, z up."""
        means, colors, opacity = outputs.kept()
        up = np.array([0.0, 0.0, 1.0])
        return Reconstruction(means, "object", "arbitrary", colors, opacity, "probability", up=up)


def pictures(painted: F32) -> F32:
    """(6, 3, 448, 448) in [0, 1] of the painter's sheet (960, 640, 3) in [0, 1], three rows of two views; upstream
    rounds it to 8 bits."""
    sheet: U8 = np.round(painted * 255).astype(np.uint8)
    tiles = [sheet[TILE * row : TILE * (row + 1), TILE * i : TILE * (i + 1)] for row in range(3) for i in range(2)]
    larger = [smoothed(tile, SIDE, Image.Resampling.BICUBIC) for tile in tiles]
    return np.stack(larger).clip(0, 1)


def cameras() -> tuple[F32, F32]:
    """(6, 4, 4), world_from_camera with OpenGL axes, of cameras that look at the cube's middle; their intrinsics
    (6, 3, 3) in picture widths."""
    focal = 0.5 / np.tan(np.radians(FOV) / 2)
    turned = np.tile(np.eye(4, dtype=np.float32), (6, 1, 1))
    for pose, azimuth, elevation in zip(turned, np.radians(AZIMUTHS), np.radians(ELEVATIONS)):  # noqa: B905 - Python 3.9
        right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        back = np.array([np.cos(elevation) * right[1], -np.cos(elevation) * right[0], np.sin(elevation)])
        pose[:3] = np.column_stack([right, np.cross(back, right), back, DISTANCE * back])
    intrinsics = np.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]], np.float32)
    return turned, np.stack([intrinsics] * 6)


def painter(folder: Path | None) -> Any:
    """Upstream's pipeline of Zero123++, from `folder` or drawn at random, with the U-Net that paints white grounds."""
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )
    from zero123plus.pipeline import Zero123PlusPipeline

    made: dict[str, Any] = {}
    if folder is None:
        made["unet"], made["vae"] = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
        made["text_encoder"] = CLIPTextModel(CLIPTextConfig(**TEXT))
        made["vision_encoder"] = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        made["tokenizer"] = NoWords()
        schedule, ramp = dict(SCHEDULE), np.linspace(0, 1, 77).tolist()
        for name, side in EYES.items():
            size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
            made[f"feature_extractor_{name}"] = CLIPImageProcessor(**size)
    else:
        own = folder / PAINTER
        try:
            made["unet"] = UNet2DConditionModel.from_config(json.loads((own / "unet" / "config.json").read_text()))
            schedule = json.loads((own / "scheduler" / "scheduler_config.json").read_text())
            ramp = json.loads((own / "model_index.json").read_text())["ramping_coefficients"]
        except (OSError, ValueError, KeyError) as error:
            raise Unavailable(f"{own}: not the folder of Zero123++: {error!r}") from error
        load_parameters(made["unet"], folder / WHITE / "diffusion_pytorch_model.bin")
        kinds = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "vision_encoder": CLIPVisionModelWithProjection}
        made.update({name: published(kind, own / name) for name, kind in kinds.items()})
        made["tokenizer"] = CLIPTokenizer.from_pretrained(str(own / "tokenizer"), local_files_only=True)
        for name in EYES:
            made[f"feature_extractor_{name}"] = CLIPImageProcessor.from_pretrained(
                str(own / f"feature_extractor_{name}"), local_files_only=True
            )
    schedule["timestep_spacing"] = "trailing"
    made["scheduler"] = EulerAncestralDiscreteScheduler.from_config(schedule)
    for name in ("unet", "vae", "text_encoder", "vision_encoder"):
        made[name].eval()
    pipeline = Zero123PlusPipeline(**made, ramping_coefficients=ramp)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
