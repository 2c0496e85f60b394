"""Parts that our own single-image networks share: an image encoder, a decoder to points, and their inputs and files.

Frame of all their outputs: the object's own, z up, front +x, centred, the bounding box's diagonal 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from adapters.contract import Reconstruction, Reconstructor, Views
from adapters.shared import functional
from adapters.shared.functional import Array, Weights, below

SIDE = 64  # pixels of the networks' input
LATENT = 256
POINTS = 1024
WIDTHS = (48, 96, 192)  # channels of the image encoder's stages
Shapes = dict[str, tuple[int, ...]]  # of weights, by name


def image_encoder_shapes(widths: Sequence[int] = WIDTHS) -> Shapes:
    """Weights of `image_encoder`, with `widths` channels in its three stages: 1.9 million numbers of the usual."""
    shapes: Shapes = {"stem.weight": (24, 3, 5, 5), "stem.bias": (24,)}
    previous = 24
    for i, width in enumerate(widths):
        for name, inputs in (("down", previous), ("a", width), ("b", width)):
            shapes[f"{i}.{name}.weight"] = (width, inputs, 3, 3)
            shapes[f"{i}.{name}.bias"] = (width,)
            shapes[f"{i}.{name}.norm.weight"] = shapes[f"{i}.{name}.norm.bias"] = (width,)
        previous = width
    shapes["out.weight"], shapes["out.bias"] = (LATENT, 16 * previous), (LATENT,)
    return shapes


def image_encoder(F: ModuleType, w: Weights, image: Array) -> Array:
    """Images (B, 3, SIDE, SIDE), 0 to 1, to latents (B, LATENT): three residual stages with group normalisation."""

    def layer(x: Array, name: str, stride: int) -> Array:
        x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=1)
        return F.group_norm(x, 8, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])

    x = F.relu(F.conv2d((image - 0.5) * 4, w["stem.weight"], w["stem.bias"], stride=2, padding=2))
    for i in range(len(WIDTHS)):
        x = F.relu(layer(x, f"{i}.down", 2))
        x = F.relu(x + layer(F.relu(layer(x, f"{i}.a", 1)), f"{i}.b", 1))
    return F.linear(x.reshape(len(x), -1), w["out.weight"], w["out.bias"])


def point_decoder_shapes(hidden: int = 512) -> Shapes:
    """Weights of `point_decoder`, with `hidden` numbers between its layers: 2 million numbers of the usual."""
    sizes = (LATENT, hidden, hidden, 3 * POINTS)
    pairs = list(pairwise(sizes))
    shapes: Shapes = {f"{i}.weight": (after, before) for i, (before, after) in enumerate(pairs)}
    return {**shapes, **{f"{i}.bias": (after,) for i, (_, after) in enumerate(pairs)}}


def point_decoder(F: ModuleType, w: Weights, latent: Array) -> Array:
    """Latents (B, LATENT) to points (B, POINTS, 3)."""
    x = latent
    for i in range(3):
        x = F.linear(F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"])
    return x.reshape(len(x), POINTS, 3) * 0.25


def network_input(images: Sequence[np.ndarray]) -> Array:
    """Images (H, W, 3) uint8 to (B, 3, SIDE, SIDE) float32: the largest square in the middle, averaged down."""
    out = np.empty((len(images), 3, SIDE, SIDE), np.float32)
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side]))
        small = square.resize((SIDE, SIDE), Image.Resampling.BOX if side >= SIDE else Image.Resampling.BILINEAR)
        out[i] = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
    return out


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, as float32; ValueError where it is none, or holds anything but floats."""
    weights = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                kind = file.get_slice(name).get_dtype()
                if kind not in ("F16", "F32"):
                    raise ValueError(f"{path}: {name}: dtype {kind} seen, F16 or F32 wanted")
                weights[name] = file.get_tensor(name).astype(np.float32)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error
    return weights


def network_weights(folder: Path, weights: str) -> dict[str, np.ndarray]:
    """The weights that ship in an adapter's `folder`, or those of the file that a user named."""
    path = folder / "weights.safetensors" if weights == "none" else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; `python -m bench.training` makes it")
    return read_weights(path)


class PointsFromImages(Reconstructor):
    """An adapter of an image encoder and a point decoder, whose weights lie in its `folder`.

    The latents of all views are averaged, which needs no poses, since the frame is the object's own."""

    folder: Path

    def load(self, device: str, weights: str, seed: int) -> None:
        """The shipped weights, or a safetensors file of the same network."""
        self._weights = network_weights(self.folder, weights)

    def prepare(self, views: Views) -> Array:
        """(N, 3, SIDE, SIDE)"""
        return network_input(views.images)

    def infer(self, inputs: Array) -> Array:
        """(POINTS, 3)"""
        latent = image_encoder(functional, below(self._weights, "image"), inputs).mean(axis=0, keepdims=True)
        return point_decoder(functional, below(self._weights, "points"), latent)[0]

    def finish(self, outputs: Array, views: Views) -> Reconstruction:
        """Points in the object's own frame."""
        return Reconstruction(points=np.asarray(outputs, np.float32), frame="object", scale="arbitrary")
