"""The encoders of a later variant of 3D-LMNet, in torch alone since none of them ships: DGCNN for points and a small
vision transformer for images, in place of a PointNet and a convolutional network. Weights by name, as in the adapters.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as functional

from adapters.shared.latent import LATENT, SIDE, Shapes

Weights = dict[str, torch.Tensor]  # of a part, by name
NEIGHBOURS = 12
EDGES = (3, 64, 64, 128)  # channels of the DGCNN
PATCH, WIDTH, HEADS, BLOCKS = 8, 128, 4, 4  # of the transformer: pixels, channels, attention heads, blocks


def _linear(name: str, out: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def graph_encoder_shapes() -> Shapes:
    """Weights of `graph_encoder`."""
    shapes = _linear("out", LATENT, sum(EDGES[1:]))
    for i, (inputs, out) in enumerate(pairwise(EDGES)):
        shapes |= _linear(str(i), out, 2 * inputs)
    return shapes


def graph_encoder(w: Weights, cloud: torch.Tensor) -> torch.Tensor:
    """Points (B, M, 3) to latents (B, LATENT): three edge convolutions, each over the nearest neighbours in what the
    one before gave; the maximum over points of all three together; one layer."""
    x, layers = cloud * 4, []
    for i in range(len(EDGES) - 1):
        around = neighbours(x, NEIGHBOURS) - x[:, :, None]
        edges = torch.cat([x[:, :, None].expand_as(around), around], -1)
        x = functional.relu(functional.linear(edges, w[f"{i}.weight"], w[f"{i}.bias"])).amax(2)
        layers.append(x)
    return functional.linear(torch.cat(layers, -1).amax(1), w["out.weight"], w["out.bias"])


def neighbours(x: torch.Tensor, count: int) -> torch.Tensor:
    """(B, M, count, C): of each of the points (B, M, C) the nearest others."""
    with torch.no_grad():
        nearest = torch.cdist(x, x).topk(count + 1, largest=False).indices[:, :, 1:]
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return x[batch, nearest]


def patch_encoder_shapes() -> Shapes:
    """Weights of `patch_encoder`: 0.6 million numbers."""
    shapes = _linear("patch", WIDTH, 3 * PATCH**2) | {"place": ((SIDE // PATCH) ** 2, WIDTH)}
    for i in range(BLOCKS):
        for name, out, inputs in (
            ("tokens", 3 * WIDTH, WIDTH),
            ("heads", WIDTH, WIDTH),
            ("wide", 2 * WIDTH, WIDTH),
            ("narrow", WIDTH, 2 * WIDTH),
        ):
            shapes |= _linear(f"{i}.{name}", out, inputs)
        for name in ("first", "second"):
            shapes |= {f"{i}.{name}.norm.weight": (WIDTH,), f"{i}.{name}.norm.bias": (WIDTH,)}
    return shapes | {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)} | _linear("out", LATENT, WIDTH)


def patch_encoder(w: Weights, image: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, SIDE, SIDE), 0 to 1, to latents (B, LATENT): a transformer on patches, their mean, one layer."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (WIDTH,), w[f"{name}norm.weight"], w[f"{name}norm.bias"])

    patches = functional.unfold((image - 0.5) * 4, PATCH, stride=PATCH).transpose(1, 2)
    x = linear(patches, "patch") + w["place"]
    for i in range(BLOCKS):
        tokens = linear(norm(x, f"{i}.first."), f"{i}.tokens").unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + linear(functional.scaled_dot_product_attention(*tokens).transpose(1, 2).flatten(2), f"{i}.heads")
        x = x + linear(functional.gelu(linear(norm(x, f"{i}.second."), f"{i}.wide")), f"{i}.narrow")
    return linear(norm(x, "").mean(1), "out")
