"""Grounding DINO finds the object, SAM cuts it out, Depth Anything V2 says how far it is; all run by transformers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from adapters.contract import F32, U8, Bools, ContractError, Execution, Reconstruction, Unavailable, Views, sizes_text
from adapters.shared.checkpoint import published
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD, NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, unprojected
from adapters.shared.resize import Inputs, Placement, Size

DETECTOR, SEGMENTER, DEPTH = (800, 1333), 1024, (518, 14)  # pixels: shorter and longest side; longer; shorter, multiple
WORDS = {"object": [101, 4874, 1012, 102]}  # of BERT's vocabulary, where a network is drawn at random
HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
        "global_attn_indexes": [7, 15, 23, 31]}  # fmt: skip
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518, "patch_size": 14,
         "out_features": ["stage3", "stage6", "stage9", "stage12"], "reshape_hidden_states": False,
         "apply_layernorm": True}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Photo:
    """One photo as each network takes it."""

    images: tuple[F32, ...]  # the detector's, the segmenter's and the depth network's, (3, h, w)
    placements: tuple[Placement, ...]
    masked: bool  # whether a mask was given


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the networks say of one photo."""

    depth: F32  # (h, w): metres, or inverse depth
    mask: F32 | None  # (256, 256) logits of the segmenter's square; None where a mask was given
    score: float  # the detector's, of the box that was segmented
    placements: tuple[Placement, ...]


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`prompt`: what the detector looks for, where no mask is given; `least`: its score at least.

    `depth`: "metric" takes the network's word for metres; "relative" is 1 / (`shift` + `scale` * d) of a network that
    gives inverse depth d, with the numbers that the user fitted: nothing is fitted here. `fov`: of the photo's longer
    side, degrees, where no camera is given."""

    prompt: str = "object"
    least: float = 0.25
    depth: Literal["metric", "relative"] = "metric"
    scale: float = 1.0
    shift: float = 0.0
    fov: float = 60.0
    words: Any = dataclasses.field(default=None, init=False, repr=False)  # the prompt's tokens

    def __post_init__(self) -> None:
        """ValueError where an option is out of its range."""
        super().__post_init__()
        if not 1 <= self.fov <= 170:
            raise ValueError(f"fov: {self.fov} seen, 1 to 170 degrees wanted")
        if not self.scale > 0:
            raise ValueError(f"scale: {self.scale} seen, more than 0 wanted")

    def build(self, config: dict[str, Any] | None) -> Any:
        """All three at their published sizes, drawn at random."""
        import torch
        from transformers import (
            DepthAnythingConfig,
            DepthAnythingForDepthEstimation,
            Dinov2Config,
            GroundingDinoConfig,
            GroundingDinoForObjectDetection,
            SamConfig,
            SamModel,
        )

        network = torch.nn.Module()
        network.detector = GroundingDinoForObjectDetection(GroundingDinoConfig())
        network.segmenter = SamModel(SamConfig(vision_config=dict(HUGE)))
        metric = {"depth_estimation_type": "metric", "max_depth": 20}
        network.depth = DepthAnythingForDepthEstimation(
            DepthAnythingConfig(backbone_config=Dinov2Config(**SMALL), **metric)
        )
        return network

    def load(self, device: str, weights: str, seed: int) -> None:
        """From a folder of the depth network's files, with those of the others in its folders detector and segmenter;
        Unavailable where one is absent or is another network's."""
        import torch

        torch.manual_seed(seed)
        self.device, self.seed = device, seed
        self.words = WORDS["object"]
        if weights == "random":
            self.network = self.build(None).eval().to(device)
            return
        from transformers import (
            AutoTokenizer,
            DepthAnythingForDepthEstimation,
            GroundingDinoForObjectDetection,
            SamModel,
        )

        folder = Path(weights)
        network = torch.nn.Module()
        network.depth = published(DepthAnythingForDepthEstimation, folder)
        network.detector = published(GroundingDinoForObjectDetection, folder / "detector")
        network.segmenter = published(SamModel, folder / "segmenter")
        kind = json.loads((folder / "config.json").read_text()).get("depth_estimation_type", "relative")
        if kind != self.depth:
            raise Unavailable(f"{folder}: a network of {kind} depth seen, one of {self.depth} depth wanted")
        tokenizer = AutoTokenizer.from_pretrained(str(folder / "detector"), local_files_only=True)
        self.words = list(tokenizer(self.prompt.lower().rstrip(".") + ".")["input_ids"])
        self.network = network.eval().to(device)

    def prepare(self, views: Views) -> Photo:
        """The photo at each network's size, as transformers' own processors have it."""
        photo = views.images[0]
        sizes = [detector_size(photo), segmenter_size(photo), depth_size(photo)]
        squares = [sizes[0], (SEGMENTER, SEGMENTER), sizes[2]]
        kinds = (Image.Resampling.BILINEAR, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
        laid_out = [laid(photo, *how) for how in zip(sizes, squares, kinds)]  # noqa: B905 - Python 3.9
        inputs = Inputs.of(laid_out, IMAGENET_MEAN, IMAGENET_STD)
        inputs.images[1][:, sizes[1][1] :], inputs.images[1][:, :, sizes[1][0] :] = 0, 0
        return Photo(inputs.images, inputs.placements, views.masks is not None)

    def infer(self, inputs: Photo) -> Outputs:
        """The whole photo's depth; where no mask is given, the surest box and the segmenter's surest mask of it."""
        import torch

        look, cut, far = (torch.from_numpy(image[None]).to(self.device) for image in inputs.images)
        mask, score = None, 1.0
        with self.inference():
            if not inputs.masked:
                words = torch.from_numpy(np.array([self.words])).to(self.device)
                detected = self.network.detector(pixel_values=look, input_ids=words)
                box, score = surest_box(to_numpy(detected.logits[0]), to_numpy(detected.pred_boxes[0]))
                corners = box * np.array(2 * segmented_size(inputs.placements[1]), np.float32)
                asked = torch.from_numpy(corners[None, None]).to(self.device)
                parts = self.network.segmenter(pixel_values=cut, input_boxes=asked)
                surest = int(to_numpy(parts.iou_scores[0, 0]).argmax())
                mask = to_numpy(parts.pred_masks[0, 0])[surest]
            depth = to_numpy(self.network.depth(pixel_values=far).predicted_depth[0])
        return Outputs(depth, mask, score, inputs.placements)

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """The side of the object that the photo shows, in its camera's frame."""
        if outputs.mask is None:
            assert views.masks is not None
            shown = np.asarray(views.masks[0])
        else:
            if outputs.score < self.least:
                raise ContractError(
                    f"points: the detector sees no {self.prompt}: {outputs.score:.2f} at best, {self.least:g} wanted"
                )
            shown = mask_of(outputs.mask, outputs.placements[1])
        placement, depth = outputs.placements[2], outputs.depth
        if self.depth == "relative":
            depth = 1 / np.maximum(self.shift + self.scale * depth, 1e-6)
        K = self.intrinsics(views)
        network = K.copy()
        network[:2] *= np.array(placement.scale)[:, None]
        network[:2, 2] -= 0.5
        x, y = np.moveaxis(placement.pixels().astype(np.int64), -1, 0)
        inside = shown[y.clip(0, shown.shape[0] - 1), x.clip(0, shown.shape[1] - 1)]
        points = np.where(inside[..., None], unprojected(depth, network, np.eye(4)), np.nan)
        pose, sure = np.eye(4)[None], np.full(depth.shape, outputs.score, np.float32)
        maps = Pointmaps((placement,), (points,), (sure,), network[None], pose, np.ones(1, np.bool_))
        return maps.reconstruction(views, "probability", "metric" if self.depth == "metric" else "arbitrary")

    def intrinsics(self, views: Views) -> Any:
        """(3, 3) at the photo's resolution: the camera's, or what `fov` says."""
        if views.cameras is not None:
            return views.cameras.intrinsics[0].copy()
        height, width = views.images[0].shape[:2]
        focal = max(width, height) / 2 / np.tan(np.radians(self.fov) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])

    def execution(self, inputs: Any) -> Execution:
        """The precision of the networks, the sizes of their images, and who cut the object out."""
        told = super().execution(None)
        sizes = sizes_text([placement.network for placement in inputs.placements])
        how = "given mask" if inputs.masked else f"Grounding DINO ({self.prompt}) and SAM"
        return dataclasses.replace(told, resolution=sizes, foreground=how)


def laid(photo: U8, size: Size, square: Size, kind: Image.Resampling) -> tuple[U8, Placement]:
    """`photo` (H, W, 3) resized to `size` in the top-left corner of `square`, and where it lies there."""
    canvas = np.zeros((square[1], square[0], 3), np.uint8)
    canvas[: size[1], : size[0]] = np.asarray(Image.fromarray(photo).resize(size, kind))
    height, width = photo.shape[:2]
    return canvas, Placement((width, height), square, (size[0] / width, size[1] / height), (0.0, 0.0))


def detector_size(photo: U8) -> Size:
    """Width and height: the shorter side 800, unless the longer one would exceed 1333."""
    height, width = photo.shape[:2]
    short, long = min(height, width), max(height, width)
    side = min(DETECTOR[0], DETECTOR[1] * short / long)
    other = int(side * long / short)
    return (round(side), other) if width <= height else (other, round(side))


def segmenter_size(photo: U8) -> Size:
    """Width and height: the longer side 1024."""
    height, width = photo.shape[:2]
    scale = SEGMENTER / max(height, width)
    return int(width * scale + 0.5), int(height * scale + 0.5)


def depth_size(photo: U8) -> Size:
    """Width and height: the side that needs less scaling to 518 sets the scale; each to the nearest multiple of 14."""
    height, width = photo.shape[:2]
    scale = min((DEPTH[0] / side for side in (width, height)), key=lambda factor: abs(1 - factor))
    return round(width * scale / DEPTH[1]) * DEPTH[1], round(height * scale / DEPTH[1]) * DEPTH[1]


def segmented_size(placement: Placement) -> Size:
    """Width and height of the photo in the segmenter's square."""
    return round(placement.photo[0] * placement.scale[0]), round(placement.photo[1] * placement.scale[1])


def surest_box(logits: F32, boxes: F32) -> tuple[F32, float]:
    """Of boxes (Q, 4), middle and size, the one whose surest word (Q, L) is surest: its corners (4,), x y x y, in
    shares of the photo, and its score."""
    scores = 1 / (1 + np.exp(-logits.max(axis=1).astype(np.float64)))
    best = int(scores.argmax())
    middle, half = boxes[best, :2], boxes[best, 2:] / 2
    return np.concatenate([middle - half, middle + half]).astype(np.float32), float(scores[best])


def mask_of(logits: F32, placement: Placement) -> Bools:
    """(H, W): where the segmenter's logits, bilinear at the photo's pixels, are above 0."""
    side = len(logits)
    share = side / SEGMENTER
    width, height = placement.photo
    x = ((np.arange(width) + 0.5) * placement.scale[0] * share - 0.5).clip(0, side - 1)
    y = ((np.arange(height) + 0.5) * placement.scale[1] * share - 0.5).clip(0, side - 1)
    left, top = np.minimum(x.astype(int), side - 2), np.minimum(y.astype(int), side - 2)
    along, down = x - left, (y - top)[:, None]
    rows = logits[top] * (1 - down) + logits[top + 1] * down
    return np.asarray(rows[:, left] * (1 - along) + rows[:, left + 1] * along > 0)
