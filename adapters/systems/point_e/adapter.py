"""Point-E: a cloud from CLIP's view of an object, by two diffusions (Nichol et al., 2022), run by its own code."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np

from adapters.contract import F32, Reconstruction, Unavailable, Views
from adapters.shared.checkpoint import insert_parameters, load_parameters, read_parameters
from adapters.shared.network import to_numpy
from adapters.shared.objects import ObjectNetwork, Pictures
from adapters.shared.torchvision import import_torchvision

POINTS = (1024, 3072)  # of the first diffusion, and those that the second adds
UPSAMPLE = "upsample_40m.pt"
CLIP_FILE = "clip/ViT-L-14.pt"
# CLIP ViT-L/14: embedding, image, layers, width and patch of vision; context, vocabulary, width, heads, layers of text.
CLIP = [768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12]


@dataclasses.dataclass(eq=False)
class Adapter(ObjectNetwork):
    """`model`: the first diffusion's network; its checkpoint is looked for beside that of the card's.

    `fusion` of several views, which upstream does not have: "tokens" gives the diffusions the patches of all views in a
    row, "mean" the mean of the views' patch grids. `steps` of each diffusion."""

    model: Literal["base40M", "base300M", "base1B"] = "base40M"
    fusion: Literal["tokens", "mean"] = "tokens"
    steps: int = 64
    ranges = (("steps", 2, 1024),)

    def build(self, config: dict[str, Any] | None) -> Any:
        """CLIP once, which both diffusions look through, and their networks."""
        import_torchvision()
        import clip.model
        import torch
        from clip.clip import _transform
        from point_e.diffusion.configs import DIFFUSION_CONFIGS, diffusion_from_config
        from point_e.models.configs import MODEL_CONFIGS, model_from_config

        network = torch.nn.Module()
        vision = clip.model.CLIP(*CLIP).eval()
        with mock.patch("clip.load", lambda *_, **__: (vision, _transform(CLIP[1]))):
            device = torch.device(self.device)
            network.base = model_from_config(MODEL_CONFIGS[self.model], device)
            network.upsample = model_from_config(MODEL_CONFIGS["upsample"], device)
        network.clip = network.base.clip.model
        network.upsample.clip = network.base.clip
        # Not their modules: the sampler would have these embed the images, each one for itself.
        network.stages = [network.base.forward, network.upsample.forward]
        network.diffusions = [diffusion_from_config(DIFFUSION_CONFIGS[name]) for name in (self.model, "upsample")]
        return network

    def load(self, device: str, weights: str, seed: int) -> None:
        """From the folder of both diffusions' files, with CLIP's in its folder clip; Unavailable where one is absent or
        another network's."""
        import torch

        torch.manual_seed(seed)
        self.device, self.seed = device, seed
        network = self.build(None)
        if weights == "random":
            with torch.no_grad():  # upstream starts them at 0, and noise alone would come out
                for stage in (network.base, network.upsample):
                    torch.nn.init.normal_(stage.output_proj.weight, std=0.02)
        else:
            files = [f"{self.model.replace('base', 'base_').lower()}.pt", UPSAMPLE, CLIP_FILE]
            if absent := [name for name in files if not (Path(weights) / name).is_file()]:
                raise Unavailable(f"weights: {weights} holds no {', '.join(absent)}")
            load_parameters(network.base, Path(weights) / files[0])
            load_parameters(network.upsample, Path(weights) / files[1])
            path = Path(weights) / CLIP_FILE
            insert_parameters(network.clip.clip_model, clip_parameters(path), path)
        network = network.eval().to(device)
        if device.startswith("cuda"):
            from clip.model import convert_weights

            convert_weights(network.clip.clip_model)  # half precision there, as upstream has it
        self.network = network

    def prepare(self, views: Views) -> Pictures:
        """Every view's object; CLIP resizes them itself."""
        return self.pictures(views.images, views.masks)

    def infer(self, inputs: Pictures) -> F32:
        """(6, 4096): positions and colours 0 to 255, the same for a seed."""
        import torch
        from point_e.diffusion.sampler import PointCloudSampler

        with torch.no_grad():
            grids = self.network.clip.embed_images_grid(list(inputs.images))  # (N, C, L)
            fused = torch.cat(list(grids), 1) if self.fusion == "tokens" else grids.mean(0)
            sampler = PointCloudSampler(
                device=torch.device(self.device),
                models=self.network.stages,
                diffusions=self.network.diffusions,
                num_points=POINTS,
                aux_channels=["R", "G", "B"],
                karras_steps=(self.steps,),
            )
            torch.manual_seed(self.seed)
            samples = sampler.sample_batch(batch_size=1, model_kwargs={"embeddings": fused[None]})
        return to_numpy(samples[0])

    def finish(self, outputs: F32, views: Views) -> Reconstruction:
        """Points in the object's own frame, z up."""
        colors = np.round(outputs[3:].T).clip(0, 255).astype(np.uint8)
        points = np.ascontiguousarray(outputs[:3].T)
        return Reconstruction(points, "object", "arbitrary", colors, up=np.array([0.0, 0.0, 1.0]))


def clip_parameters(path: Path) -> dict[str, Any]:
    """Named tensors of CLIP's file: a TorchScript archive, as it is published, or a file of tensors alone.

    TorchScript is no Python: reading such an archive imports nothing. What it holds beside the tensors is left out."""
    if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if script:
            import torch

            given = torch.jit.load(str(path), map_location="cpu").state_dict()
            return {name: tensor for name, tensor in given.items() if tensor.ndim or name == "logit_scale"}
    return read_parameters(path)
