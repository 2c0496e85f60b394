"""LGM: Gaussians of the pixels of four views that ImageDream paints (Tang et al., 2024), run by its own code without
CUDA."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from adapters.contract import F32, ContractError, Reconstruction, Unavailable, Views
from adapters.shared.absent import absent
from adapters.shared.checkpoint import load_parameters, published
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD, to_numpy
from adapters.shared.objects import ObjectNetwork, Picture, by_area
from adapters.shared.stable_diffusion import TEXT, VAE, VISION, NoWords
from adapters.shared.torchvision import import_torchvision

SIDE = 256  # pixels of the photo for the painter, and of each painted view
LEAST = 0.005  # opacity of a Gaussian that upstream keeps
GUIDANCE = 5.0  # of the painter, by the photo
# Upstream's "big"; its perceptual loss is of training alone.
NETWORK: dict[str, Any] = {
    "input_size": SIDE, "up_channels": (1024, 1024, 512, 256, 128), "up_attention": (True, True, True, False, False),
    "splat_size": 128, "lambda_lpips": 0.0,
}  # fmt: skip
UNET: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_head_channels": 64, "transformer_depth": 1,
    "context_dim": 1024, "camera_dim": 16, "ip_dim": 16,
}  # fmt: skip
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                            "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip


@dataclasses.dataclass(eq=False)
class Adapter(ObjectNetwork):
    """`steps` of the painter's diffusion."""

    steps: int = 30
    ranges = (("steps", 2, 1000),)

    def build(self, config: dict[str, Any] | None) -> Any:
        """Upstream's big network, without its renderer, which wants CUDA."""
        import_torchvision()
        import torch

        with without_cuda():
            import core.models
            import core.utils
            from core.options import Options

            with mock.patch.object(core.models, "GaussianRenderer", lambda options: None):
                network = core.models.LGM(Options(**NETWORK))

        def with_rays(levels: Any) -> Any:  # (4, 3, 256, 256), normalised
            return torch.cat([levels, network.prepare_default_rays(levels.device)], dim=1)[None]

        network.with_rays = with_rays
        return network

    def load(self, device: str, weights: str, seed: int) -> None:
        """From a folder of LGM's file, with the painter's networks in its folder painter; Unavailable where one is
        absent or another's."""
        import torch

        torch.manual_seed(seed)
        network = self.build(None)
        if weights != "random":
            path = Path(weights) / "model_fp16_fixrot.safetensors"
            if not path.is_file():
                raise Unavailable(f"weights: {weights} holds no {path.name}")
            load_parameters(network, path)
        self.device, self.seed, self.network = device, seed, network.eval().to(device)
        network.painter = painter(None if weights == "random" else Path(weights) / "painter")

    def prepare(self, views: Views) -> Picture:
        """The view's object on white; upstream resizes it by single pixels, here it comes at that size, by area."""
        shown = self.pictures(views.images, views.masks)
        levels = (by_area(shown.images[0], SIDE) / np.float32(255)).transpose(2, 0, 1)
        return Picture((levels.astype(np.float32),), shown.foreground)

    def infer(self, inputs: Picture) -> F32:
        """(N, 14): Gaussians of the pixels of four painted views; the same for a seed."""
        import torch

        with self.inference():
            torch.manual_seed(self.seed)
            painted = self.network.painter(
                "",
                np.ascontiguousarray(inputs.images[0].transpose(1, 2, 0)),
                guidance_scale=GUIDANCE,
                num_inference_steps=self.steps,
                elevation=0,
                device=torch.device(self.device),
            )
            # The painter begins at the right side, and ends with the photo itself.
            views = np.stack([painted[i] for i in (1, 2, 3, 0)]).transpose(0, 3, 1, 2)
            levels = torch.from_numpy(((views - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)).to(self.device)
            gaussians = self.network.forward_gaussians(self.network.with_rays(levels))
        return to_numpy(gaussians[0])

    def finish(self, outputs: F32, views: Views) -> Reconstruction:
        """Means of the Gaussians that upstream keeps, in the object's own frame, y up. ContractError where none is."""
        kept = outputs[outputs[:, 3] >= LEAST]
        if not len(kept):
            raise ContractError(
                f"points: no Gaussian is left: opacity at most {outputs[:, 3].max():.3g} seen, {LEAST:g} wanted"
            )
        colors = (kept[:, 11:] * 255).round().clip(0, 255).astype(np.uint8)
        points, opacity = np.ascontiguousarray(kept[:, :3]), np.ascontiguousarray(kept[:, 3])
        up = np.array([0.0, 1.0, 0.0])
        return Reconstruction(points, "object", "arbitrary", colors, opacity, "probability", up=up)


@contextmanager
def without_cuda() -> Iterator[None]:
    """While it lasts upstream's modules can be imported: xformers' attention is torch's, which is the same, and what
    renders and what draws cameras for training is empty."""
    import torch

    def attention(q: Any, k: Any, v: Any, attn_bias: Any = None, op: Any = None) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    made = {name: types.ModuleType(name) for name in ("xformers", "xformers.ops")}
    made["xformers.ops"].__dict__["memory_efficient_attention"] = attention
    made["xformers"].__dict__["ops"] = made["xformers.ops"]
    sys.modules.update(made)  # not by mock.patch.dict, which would forget what is imported meanwhile
    try:
        with absent("cv2", "diff_gaussian_rasterization", "roma"):
            yield
    finally:
        for name in made:
            sys.modules.pop(name)


def painter(folder: Path | None) -> Any:
    """Upstream's pipeline of ImageDream, from `folder` or drawn at random."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModel,
    )

    with without_cuda():
        from mvdream.mv_unet import MultiViewUNetModel
        from mvdream.pipeline_mvdream import MVDreamPipeline

    made: dict[str, Any] = {}
    if folder is None:
        made["unet"], made["vae"] = MultiViewUNetModel(**UNET), AutoencoderKL(**VAE)
        made["text_encoder"] = CLIPTextModel(CLIPTextConfig(**TEXT))
        made["image_encoder"] = CLIPVisionModel(CLIPVisionConfig(**VISION))
        made["tokenizer"], made["scheduler"] = NoWords(), DDIMScheduler(**SCHEDULE)
        made["feature_extractor"] = CLIPImageProcessor()
    else:
        kinds = {"unet": MultiViewUNetModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel,
                 "image_encoder": CLIPVisionModel}  # fmt: skip
        made.update({name: published(kind, folder / name) for name, kind in kinds.items()})
        given = {"tokenizer": CLIPTokenizer, "scheduler": DDIMScheduler, "feature_extractor": CLIPImageProcessor}
        for name, kind in given.items():
            made[name] = kind.from_pretrained(str(folder / name), local_files_only=True)
    for name in ("unet", "vae", "text_encoder", "image_encoder"):
        made[name].eval()
    pipeline = MVDreamPipeline(**made)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
