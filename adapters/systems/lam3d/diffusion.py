"""Image features to latents by diffusion: the aligner of LAM3D, which predicts the clean latent and samples with DDIM.

Latent planes are denoised by U-Nets of two levels: three in parallel, one for each plane, which share nothing (every
convolution and norm keeps the planes apart), or a single one that sees all planes. A latent vector is denoised by
layers on it. Which of them it is, the shapes of the weights say. Time runs from 0, clean, to 1, noise alone; the share
of the signal's variance is cos(pi time / 2)^2.
"""

from __future__ import annotations

import math
from types import ModuleType

from adapters.shared.functional import Array, Weights, below, concat, waves
from adapters.shared.latent import LATENT, Shapes

EMBEDDING = 128  # numbers that tell a block the time and the image
WAVES = tuple(2 ** (i / 2) for i in range(16))  # radians at time 1, of the time's embedding
NORMS = 4  # groups of a norm, in each U-Net


def unet_shapes(planes: int, depth: int, cells: int, nets: int, width: int, mapped: bool = True) -> Shapes:
    """Weights of `denoise` for `planes` latent planes of `depth` channels and `cells` x `cells` cells.

    `nets` U-Nets share the planes out among them; each has `width` channels, twice as many at half the cells. With
    `mapped` they learn to make planes of image features; without, they are given some (`known`)."""
    each, numbers = depth * planes // nets, planes * depth * cells**2
    shapes: Shapes = {"map.weight": (numbers, LATENT), "map.bias": (numbers,)} if mapped else {}
    shapes |= _embedding_shapes((planes * depth, cells, cells))
    for name, inputs, out in (
        ("in", 2 * each, width),
        ("a.0", width, width),
        ("a.1", width, width),
        ("down", width, 2 * width),
        ("b.0", 2 * width, 2 * width),
        ("b.1", 2 * width, 2 * width),
        ("up", 2 * width, width),
        ("c.0", width, width),
        ("c.1", width, width),
        ("out", width, each),
    ):
        shapes |= {f"{name}.weight": (nets * out, inputs, 3, 3), f"{name}.bias": (nets * out,)}
        if name[-1] in "01":
            shapes |= {f"{name}.norm.weight": (nets * out,), f"{name}.norm.bias": (nets * out,)}
        if name.endswith(".0"):
            shapes |= {f"{name}.time.weight": (nets * out, EMBEDDING), f"{name}.time.bias": (nets * out,)}
    return shapes


def vector_shapes(size: int, width: int) -> Shapes:
    """Weights of `denoise` for latent vectors of `size` numbers: three residual blocks of `width`."""
    shapes: Shapes = {"map.weight": (size, LATENT), "map.bias": (size,), **_embedding_shapes((size,))}
    shapes |= {"in.weight": (width, 2 * size), "in.bias": (width,), "out.weight": (size, width), "out.bias": (size,)}
    for name in ("a", "b", "c"):
        shapes |= {f"{name}.0.time.weight": (width, EMBEDDING), f"{name}.0.time.bias": (width,)}
        for i in (0, 1):
            shapes |= {f"{name}.{i}.weight": (width, width), f"{name}.{i}.bias": (width,)}
    return shapes


def _embedding_shapes(latent: tuple[int, ...]) -> Shapes:
    return {
        "embed.weight": (EMBEDDING, LATENT + 2 * len(WAVES)),
        "embed.bias": (EMBEDDING,),
        "mean": latent,
        "scale": (latent[0], *(1 for _ in latent[1:])),
    }


def shares(time: Array, latent: Array) -> tuple[Array, Array]:
    """Factors of the noise and of the clean latent at `time` (B,), 0 to 1, with the dimensions of `latent` (B, ...)."""
    both = waves(time, (math.pi / 2,)).reshape(len(latent), 2, *(1 for _ in latent.shape[1:]))
    return both[:, 0], both[:, 1]


def standard(w: Weights, latent: Array) -> Array:
    """Latents less the training latents' mean, divided by their standard deviation (of a channel)."""
    return (latent - w["diffuse.mean"]) / w["diffuse.scale"]


def denoise(F: ModuleType, w: Weights, noisy: Array, time: Array, features: Array, known: Array | None = None) -> Array:
    """The clean latents, standardised, of `noisy` ones at `time` (B,), given image features (B, LATENT).

    `known` are standardised latents that the features stand for, of another aligner; without, a layer makes some."""
    w, features = below(w, "diffuse"), F.relu(features)
    if known is None:
        known = F.linear(features, w["map.weight"], w["map.bias"]).reshape(noisy.shape)
    embedding = F.relu(F.linear(concat([features, waves(time, WAVES)], 1), w["embed.weight"], w["embed.bias"]))
    net = _vector_net if len(noisy.shape) == 2 else _unet
    return known + net(F, w, noisy, known, embedding)


def _vector_net(F: ModuleType, w: Weights, noisy: Array, known: Array, embedding: Array) -> Array:
    x = F.linear(concat([noisy, known], 1), w["in.weight"], w["in.bias"])
    for name in ("a", "b", "c"):
        inner = F.linear(F.relu(x), w[f"{name}.0.weight"], w[f"{name}.0.bias"])
        inner = inner + F.linear(embedding, w[f"{name}.0.time.weight"], w[f"{name}.0.time.bias"])
        x = x + F.linear(F.relu(inner), w[f"{name}.1.weight"], w[f"{name}.1.bias"])
    return F.linear(F.relu(x), w["out.weight"], w["out.bias"])


def _unet(F: ModuleType, w: Weights, noisy: Array, known: Array, embedding: Array) -> Array:
    nets = 2 * noisy.shape[1] // w["in.weight"].shape[1]

    def conv(x: Array, name: str, stride: int = 1) -> Array:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=1, groups=nets)

    def block(x: Array, name: str) -> Array:
        def layer(x: Array, part: str) -> Array:
            return conv(F.relu(F.group_norm(x, NORMS * nets, w[f"{part}.norm.weight"], w[f"{part}.norm.bias"])), part)

        inner = layer(x, f"{name}.0")
        inner = inner + F.linear(embedding, w[f"{name}.0.time.weight"], w[f"{name}.0.time.bias"])[:, :, None, None]
        return x + layer(inner, f"{name}.1")

    split = (len(noisy), nets, -1, *noisy.shape[2:])
    both = concat([noisy.reshape(split), known.reshape(split)], 2)
    fine = block(conv(both.reshape(len(noisy), -1, *noisy.shape[2:]), "in"), "a")
    coarse = block(conv(F.relu(fine), "down", stride=2), "b")
    coarse = F.interpolate(F.relu(coarse), scale_factor=2, mode="bilinear", align_corners=False)
    return conv(F.relu(block(fine + conv(coarse, "up"), "c")), "out")


def sample(F: ModuleType, w: Weights, features: Array, noise: Array, steps: int, known: Array | None = None) -> Array:
    """Latents that `noise`, standard normal, becomes in `steps` DDIM steps, given image features (B, LATENT) and, where
    the networks want them, standardised latents `known`."""
    x, zero = noise, noise.reshape(len(noise), -1)[:, 0] * 0
    for i in range(steps):
        now, after = zero + (1 - i / steps), zero + (1 - (i + 1) / steps)
        clean = denoise(F, w, x, now, features, known)
        (noisy, kept), (noisy_after, kept_after) = shares(now, x), shares(after, x)
        x = kept_after * clean + noisy_after / noisy * (x - kept * clean)
    return x * w["diffuse.scale"] + w["diffuse.mean"]
