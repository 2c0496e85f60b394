"""The network after LAM3D (Cui et al., NeurIPS 2024): point set -> latent tri-planes -> planes -> signed distance, and
image -> the same latent tri-planes.

Parts: `cloud` (points to latent planes), `planes` (plane decoder, its planes kept apart by grouped convolutions, and
the refiner, which lets them meet), `field` (planes to signed distance), `image` (image encoder), and two ways from
image features to latent planes: by way of points (`points`; the cloud encoder reads them), or from those planes on by
diffusion (`diffuse`, see `diffusion.py`). Of variants: `align` (image features to latent planes in one step). Sizes
that the paper leaves unstated are ours.

The paper's variants are other weights: with a latent vector in place of planes, without a refiner, with a single U-Net.
The functions do what the shapes of the weights say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

import numpy as np

from adapters.shared.functional import Array, Weights, amax, below, concat, plane_mean, plane_sample
from adapters.shared.latent import (
    LATENT,
    Shapes,
    image_encoder,
    image_encoder_shapes,
    point_decoder,
    point_decoder_shapes,
)
from adapters.systems.lam3d import diffusion

AXES = ((0, 1), (0, 2), (1, 2))  # of the three planes: x-y, x-z, y-z
CELLS = 8  # cells along the side of a latent plane
DEPTH = 32  # channels of a latent plane
PLANES = (3 * DEPTH, CELLS, CELLS)
VECTOR = 512  # numbers of a latent vector, the variant without planes
BLOCK = 32_768  # grid points asked for at once
UNIT = 0.01  # diameters of signed distance for one unit of the field network's output


def _conv(out: int, inputs: int, size: int, groups: int = 3) -> Shapes:
    return {"weight": (groups * out, inputs, size, size), "bias": (groups * out,)}


def _linear(out: int, inputs: int) -> Shapes:
    return {"weight": (out, inputs), "bias": (out,)}


def _named(layers: Mapping[str, Shapes]) -> Shapes:
    return {f"{layer}.{name}": shape for layer, entries in layers.items() for name, shape in entries.items()}


@dataclass(frozen=True)
class Sizes:
    """Channels, a plane; of the refiner, shared by the planes."""

    cloud: int = 48  # inside the cloud encoder
    decoder: tuple[int, int, int] = (48, 32, 24)  # at 8, 16 and 32 cells
    mixed: int = 24  # inside the refiner
    fine: int = 12  # at 64 cells
    unet: int = 40  # of each of three parallel U-Nets; a single one of as many weights has 5 / 3 of it


SIZES = Sizes()


def shapes(
    sizes: Sizes = SIZES, vector: bool = False, refiner: bool = True, nets: int = 3, mapped: bool = False
) -> Mapping[str, Shapes]:
    """Weights of each part; with a latent vector, without the refiner, with one U-Net (`nets` 1), or with U-Nets that
    learn from image features alone (`mapped`), not from the points' latent planes."""
    points = {"0": _linear(64, 3), "1": _linear(64, 64), "2": _linear(3 * DEPTH, 64)}
    widths = (DEPTH, *sizes.decoder)
    planes = {str(i): _conv(out, inputs, 3) for i, (inputs, out) in enumerate(pairwise(widths))}
    if refiner:
        planes["mix"] = _conv(sizes.mixed, 3 * widths[-1], 1, groups=1)
        planes["refine"] = _conv(sizes.mixed, sizes.mixed, 3, groups=1)
        planes["part"] = _conv(3 * widths[-1], sizes.mixed, 1, groups=1)
    planes["fine"] = _conv(4 * sizes.fine, widths[-1], 1)
    if vector:
        cloud = {**points, "2": _linear(256, 64), "vector": _linear(VECTOR, 256)}
        planes["lift"] = _linear(3 * DEPTH * CELLS**2, VECTOR)
        diffuse_shapes = diffusion.vector_shapes(VECTOR, 8 * sizes.unet)
    else:
        cloud = {
            **points,
            "whole": _linear(3 * sizes.cloud, 3 * DEPTH),
            "a": _conv(sizes.cloud, DEPTH + 1, 3),
            "b": _conv(sizes.cloud, sizes.cloud, 3),
            "c": _conv(DEPTH, sizes.cloud, 3),
        }
        diffuse_shapes = diffusion.unet_shapes(
            3, DEPTH, CELLS, nets, sizes.unet if nets == 3 else sizes.unet * 5 // 3, mapped
        )
    field = {"0": _linear(64, 3 * sizes.fine), "1": _linear(64, 64), "2": _linear(1, 64)}
    return {
        "image": image_encoder_shapes(),
        "points": point_decoder_shapes(),
        "diffuse": diffuse_shapes,
        "cloud": _named(cloud),
        "planes": _named(planes),
        "field": _named(field),
    }


def variant_shapes(vector: bool = False) -> Mapping[str, Shapes]:
    """Weights of the part that only variants have: to latent planes, or to latent vectors."""
    if vector:
        align = {"0": _linear(VECTOR, LATENT), "1": _linear(VECTOR, VECTOR), "2": _linear(VECTOR, VECTOR)}
    else:
        align = {"0": _linear(3 * DEPTH * CELLS**2, LATENT), "1": _conv(DEPTH, DEPTH, 3), "2": _conv(DEPTH, DEPTH, 3)}
    return {"align": _named(align)}


def encode_cloud(F: ModuleType, w: Weights, cloud: Array) -> Array:
    """Points (B, M, 3) to latent planes (B, 3 DEPTH, CELLS, CELLS), or to latent vectors (B, VECTOR).

    A small network on each point; its outputs averaged over the cells of each plane that the point falls into; then
    convolutions, the cloud's maximum beside them. Of a vector: their maximum, one layer."""
    w, x = below(w, "cloud"), cloud * 4
    for i in range(3):
        x = F.linear(x if i == 0 else F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"])
    if "vector.weight" in w:
        return F.linear(F.relu(amax(x, 1)), w["vector.weight"], w["vector.bias"])
    whole = F.linear(amax(x, 1), w["whole.weight"], w["whole.bias"])
    x = concat(
        [
            plane_mean(x[:, :, i * DEPTH : (i + 1) * DEPTH], cloud[:, :, list(axes)] * 2, 2 * CELLS)
            for i, axes in enumerate(AXES)
        ],
        1,
    )
    x = F.conv2d(x, w["a.weight"], w["a.bias"], padding=1, groups=3) + whole[:, :, None, None]
    x = F.conv2d(F.relu(x), w["b.weight"], w["b.bias"], stride=2, padding=1, groups=3)
    return F.conv2d(F.relu(x), w["c.weight"], w["c.bias"], padding=1, groups=3)


def encode_image(F: ModuleType, w: Weights, image: Array) -> Array:
    """Images (B, 3, SIDE, SIDE) to features (B, LATENT)."""
    return image_encoder(F, below(w, "image"), image)


def encode_points(F: ModuleType, w: Weights, features: Array) -> Array:
    """Image features (B, LATENT) to the latent planes of the points that they stand for."""
    return encode_cloud(F, w, point_decoder(F, below(w, "points"), features)[:, ::2])


def diffuse(F: ModuleType, w: Weights, features: Array, noise: Array, steps: int) -> Array:
    """Image features (B, LATENT) to latent planes drawn by diffusion from `noise`, given those of their points."""
    known = diffusion.standard(w, encode_points(F, w, features))
    return diffusion.sample(F, w, features, noise, steps, known)


def align(F: ModuleType, w: Weights, features: Array) -> Array:
    """Image features (B, LATENT) to latent planes (B, 3 DEPTH, CELLS, CELLS) or vectors (B, VECTOR), in one step."""
    w = below(w, "align")
    x = F.linear(F.relu(features), w["0.weight"], w["0.bias"])
    if w["1.weight"].ndim == 2:
        for i in (1, 2):
            x = x + F.linear(F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"])
        return x
    x = x.reshape(len(features), 3 * DEPTH, CELLS, CELLS)
    for i in (1, 2):
        x = x + F.conv2d(F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"], padding=1, groups=3)
    return x


def decode(F: ModuleType, w: Weights, latent: Array, refined: bool = True) -> Array:
    """Latents to planes (3 B, C, 64, 64), an object's three in a row."""
    return refine(F, w, unfold(F, w, latent), refined)


def unfold(F: ModuleType, w: Weights, latent: Array) -> Array:
    """Latents to planes (B, 3 C, 32, 32), each by itself: the plane decoder. A vector is laid out as planes first."""
    w, x = below(w, "planes"), latent
    if "lift.weight" in w:
        x = F.linear(F.relu(x), w["lift.weight"], w["lift.bias"]).reshape(len(x), 3 * DEPTH, CELLS, CELLS)
    for i in range(3):
        if i:
            x = F.interpolate(F.relu(x), scale_factor=2, mode="bilinear", align_corners=False)
        x = F.conv2d(x, w[f"{i}.weight"], w[f"{i}.bias"], padding=1, groups=3)
    return F.relu(x)


def refine(F: ModuleType, w: Weights, x: Array, refined: bool = True) -> Array:
    """Unfolded planes to planes (3 B, C, 64, 64), after the refiner or, with `refined` False, without it."""
    w = below(w, "planes")
    if refined and "mix.weight" in w:
        mixed = F.relu(F.conv2d(x, w["mix.weight"], w["mix.bias"]))
        mixed = F.relu(F.conv2d(mixed, w["refine.weight"], w["refine.bias"], padding=1))
        x = x + F.conv2d(mixed, w["part.weight"], w["part.bias"])
    x = F.conv2d(x, w["fine.weight"], w["fine.bias"], groups=3)
    return F.pixel_shuffle(x.reshape(3 * len(x), -1, *x.shape[2:]), 2)


def distance(F: ModuleType, w: Weights, planes: Array, points: Array) -> Array:
    """Signed distances (B, M) in diameters, negative inside, of `points` (B, M, 3) from planes (3 B, C, 64, 64)."""
    w = below(w, "field")
    x = concat([plane_sample(planes[i::3], points[:, :, list(axes)] * 2) for i, axes in enumerate(AXES)], 2)
    for i in range(3):
        x = F.linear(x if i == 0 else F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"])
    return x[:, :, 0] * UNIT


def grid(resolution: int) -> np.ndarray:
    """(resolution^3, 3) float32 positions over the unit cube, cell centres, the last axis fastest."""
    line = ((np.arange(resolution) + 0.5) / resolution - 0.5).astype(np.float32)
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)


def field(F: ModuleType, w: Weights, latent: np.ndarray, resolution: int, refined: bool = True) -> np.ndarray:
    """(R, R, R) signed distances in diameters on the grid, of one object's `latent` (1, ...); arrays, not tensors."""
    planes, points = decode(F, w, latent, refined), grid(resolution)
    blocks = [points[start : start + BLOCK] for start in range(0, len(points), BLOCK)]
    values = [distance(F, w, planes, block[None])[0] for block in blocks]
    return np.concatenate(values).reshape((resolution,) * 3)
