"""The network after 3D-LMNet (Mandikal et al., BMVC 2018): points -> latent -> points, and image -> the same latent.

Parts: `image` (image encoder), `spread` (its second output, the latent's standard deviation, probabilistic variant),
`cloud` (PointNet encoder, training and the upper bound only), `points` (decoder).
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


def encode_cloud(F: ModuleType, w: Weights, cloud: Array) -> Array:
    """Points (B, M, 3) to latents (B, LATENT): one small network on each, their maximum, one layer."""
    w, x = below(w, "cloud"), cloud * 4
    for i in range(len(CLOUD) - 1):
        x = F.relu(F.linear(x, w[f"{i}.weight"], w[f"{i}.bias"]))
    return F.linear(amax(x, 1), w["out.weight"], w["out.bias"])


def encode_image(F: ModuleType, w: Weights, image: Array) -> Array:
    """Images (B, 3, SIDE, SIDE) to latents (B, LATENT)."""
    return image_encoder(F, below(w, "image"), image)


def decode(F: ModuleType, w: Weights, latent: Array) -> Array:
    """Latents (B, LATENT) to points (B, POINTS, 3)."""
    return point_decoder(F, below(w, "points"), latent)
