"""The network after LAM3D (Cui et al., NeurIPS 2024): point set -> latent tri-planes -> planes -> signed distance, and
image -> the same latent tri-planes.

Parts: `cloud` (points to latent planes), `planes` (plane decoder, its planes kept apart by grouped convolutions, and
the refiner, which lets them meet), `field` (planes to signed distance), `image` (image encoder), `align` (image
features to latent planes, deterministic variant). Sizes that the paper leaves unstated are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import ModuleType

import numpy as np

from adapters.shared.functional import Array, Weights, amax, below, concat, plane_mean, plane_sample
from adapters.shared.latent import LATENT, Shapes, image_encoder, image_encoder_shapes

AXES = ((0, 1), (0, 2), (1, 2))  # of the three planes: x-y, x-z, y-z
CELLS = 8  # cells along the side of a latent plane
DEPTH = 32  # channels of a latent plane
CLOUD = 48  # channels a plane inside the cloud encoder
DECODER = (DEPTH, 48, 32, 24)  # channels a plane at 8, 16 and 32 cells
MIXED = 24  # channels of the refiner, shared by the planes
FINE = 12  # channels a plane at 64 cells
UNIT = 0.01  # diameters of signed distance for one unit of the field network's output


def _conv(out: int, inputs: int, size: int, groups: int = 3) -> Shapes:
    return {"weight": (groups * out, inputs, size, size), "bias": (groups * out,)}


def _linear(out: int, inputs: int) -> Shapes:
    return {"weight": (out, inputs), "bias": (out,)}


def _named(layers: Mapping[str, Shapes]) -> Shapes:
    return {f"{layer}.{name}": shape for layer, entries in layers.items() for name, shape in entries.items()}


def shapes() -> Mapping[str, Shapes]:
    """Weights of each part."""
    cloud = {
        "0": _linear(64, 3),
        "1": _linear(64, 64),
        "2": _linear(3 * DEPTH, 64),
        "whole": _linear(3 * CLOUD, 3 * DEPTH),
        "a": _conv(CLOUD, DEPTH + 1, 3),
        "b": _conv(CLOUD, CLOUD, 3),
        "c": _conv(DEPTH, CLOUD, 3),
    }
    planes = {str(i): _conv(out, inputs, 3) for i, (inputs, out) in enumerate(pairwise(DECODER))}
    planes["mix"] = _conv(MIXED, 3 * DECODER[-1], 1, groups=1)
    planes["refine"] = _conv(MIXED, MIXED, 3, groups=1)
    planes["part"] = _conv(3 * DECODER[-1], MIXED, 1, groups=1)
    planes["fine"] = _conv(4 * FINE, DECODER[-1], 1)
    field = {"0": _linear(64, 3 * FINE), "1": _linear(64, 64), "2": _linear(1, 64)}
    align = {"0": _linear(3 * DEPTH * CELLS**2, LATENT), "1": _conv(DEPTH, DEPTH, 3), "2": _conv(DEPTH, DEPTH, 3)}
    return {
        "image": image_encoder_shapes(),
        "align": _named(align),
        "cloud": _named(cloud),
        "planes": _named(planes),
        "field": _named(field),
    }


def encode_cloud(F: ModuleType, w: Weights, cloud: Array) -> Array:
    """Points (B, M, 3) to latent planes (B, 3 DEPTH, CELLS, CELLS).

    A small network on each point; its outputs averaged over the cells of each plane that the point falls into; then
    convolutions, the cloud's maximum beside them."""
    w, x = below(w, "cloud"), cloud * 4
    for i in range(3):
        x = F.linear(x if i == 0 else F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"])
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


def align(F: ModuleType, w: Weights, features: Array) -> Array:
    """Image features (B, LATENT) to latent planes (B, 3 DEPTH, CELLS, CELLS), in one step."""
    w = below(w, "align")
    x = F.linear(F.relu(features), w["0.weight"], w["0.bias"]).reshape(len(features), 3 * DEPTH, CELLS, CELLS)
    for i in (1, 2):
        x = x + F.conv2d(F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"], padding=1, groups=3)
    return x


def decode(F: ModuleType, w: Weights, latent: Array) -> Array:
    """Latent planes to planes (3 B, FINE, 64, 64), an object's three in a row."""
    return refine(F, w, unfold(F, w, latent))


def unfold(F: ModuleType, w: Weights, latent: Array) -> Array:
    """Latent planes to planes (B, 3 DECODER[-1], 32, 32), each by itself: the plane decoder."""
    w, x = below(w, "planes"), latent
    for i in range(len(DECODER) - 1):
        if i:
            x = F.interpolate(F.relu(x), scale_factor=2, mode="bilinear", align_corners=False)
        x = F.conv2d(x, w[f"{i}.weight"], w[f"{i}.bias"], padding=1, groups=3)
    return F.relu(x)


def refine(F: ModuleType, w: Weights, x: Array, refined: bool = True) -> Array:
    """Unfolded planes to planes (3 B, FINE, 64, 64), after the refiner or, with `refined` False, without it."""
    w = below(w, "planes")
    if refined:
        mixed = F.relu(F.conv2d(x, w["mix.weight"], w["mix.bias"]))
        mixed = F.relu(F.conv2d(mixed, w["refine.weight"], w["refine.bias"], padding=1))
        x = x + F.conv2d(mixed, w["part.weight"], w["part.bias"])
    x = F.conv2d(x, w["fine.weight"], w["fine.bias"], groups=3)
    return F.pixel_shuffle(x.reshape(3 * len(x), 4 * FINE, *x.shape[2:]), 2)


def distance(F: ModuleType, w: Weights, planes: Array, points: Array) -> Array:
    """Signed distances (B, M) in diameters, negative inside, of `points` (B, M, 3) from planes (3 B, FINE, 64, 64)."""
    w = below(w, "field")
    x = concat([plane_sample(planes[i::3], points[:, :, list(axes)] * 2) for i, axes in enumerate(AXES)], 2)
    for i in range(3):
        x = F.linear(x if i == 0 else F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"])
    return x[:, :, 0] * UNIT


def grid(resolution: int) -> np.ndarray:
    """(resolution^3, 3) float32 positions over the unit cube, cell centres, the last axis fastest."""
    line = ((np.arange(resolution) + 0.5) / resolution - 0.5).astype(np.float32)
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
