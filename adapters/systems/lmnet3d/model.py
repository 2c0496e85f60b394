"""The network after 3D-LMNet (Mandikal et al., BMVC 2018): points -> latent -> points, and image -> the same latent.

Parts: `image` (image encoder), `cloud` (PointNet encoder, training and the upper bound only), `points` (decoder). Of
variants: `spread` (the latent's standard deviation, probabilistic matching), `align` (features of another task's image
encoder to latents).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import ModuleType

from adapters.shared.functional import Array, Weights, amax, below
from adapters.shared.latent import (
    LATENT,
    Shapes,
    image_encoder,
    image_encoder_shapes,
    point_decoder,
    point_decoder_shapes,
)

CLOUD = (3, 64, 128, 256)  # channels of the PointNet


def shapes() -> Mapping[str, Shapes]:
    """Weights of each part."""
    pairs = list(pairwise(CLOUD))
    cloud: Shapes = {f"{i}.weight": (after, before) for i, (before, after) in enumerate(pairs)}
    cloud.update({f"{i}.bias": (after,) for i, (_, after) in enumerate(pairs)})
    cloud.update({"out.weight": (LATENT, CLOUD[-1]), "out.bias": (LATENT,)})
    return {"image": image_encoder_shapes(), "cloud": cloud, "points": point_decoder_shapes()}


def variant_shapes() -> Mapping[str, Shapes]:
    """Weights of the parts that only variants have."""
    square: Shapes = {"weight": (LATENT, LATENT), "bias": (LATENT,)}
    return {"spread": square, "align": {f"{i}.{name}": shape for i in range(3) for name, shape in square.items()}}


def encode_cloud(F: ModuleType, w: Weights, cloud: Array) -> Array:
    """Points (B, M, 3) to latents (B, LATENT): one small network on each, their maximum, one layer."""
    w, x = below(w, "cloud"), cloud * 4
    for i in range(len(CLOUD) - 1):
        x = F.relu(F.linear(x, w[f"{i}.weight"], w[f"{i}.bias"]))
    return F.linear(amax(x, 1), w["out.weight"], w["out.bias"])


def encode_image(F: ModuleType, w: Weights, image: Array) -> Array:
    """Images (B, 3, SIDE, SIDE) to latents (B, LATENT)."""
    return image_encoder(F, below(w, "image"), image)


def align(F: ModuleType, w: Weights, features: Array) -> Array:
    """Image features (B, LATENT) of a frozen encoder to latents (B, LATENT)."""
    w = below(w, "align")
    x = F.linear(F.relu(features), w["0.weight"], w["0.bias"])
    for i in (1, 2):
        x = x + F.linear(F.relu(x), w[f"{i}.weight"], w[f"{i}.bias"])
    return x


def spread(F: ModuleType, w: Weights, latent: Array) -> Array:
    """Standard deviations (B, LATENT) about an image's mean latent; probabilistic matching."""
    return F.softplus(F.linear(F.relu(latent), w["spread.weight"], w["spread.bias"]) - 3)


def decode(F: ModuleType, w: Weights, latent: Array) -> Array:
    """Latents (B, LATENT) to points (B, POINTS, 3)."""
    return point_decoder(F, below(w, "points"), latent)
