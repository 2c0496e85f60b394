"""What the networks are trained to make small."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from bench.training.variants import neighbours

CLAMP = 0.05  # diameters: signed distances beyond it count as it


def occupancy(predicted: torch.Tensor, true: torch.Tensor, unit: float) -> torch.Tensor:
    """Cross-entropy of inside against outside, softened over a `unit` of signed distance."""
    return functional.binary_cross_entropy_with_logits(-predicted / unit, torch.sigmoid(-true / unit))


def clamped(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of signed distances clamped to `CLAMP`, in units of it."""
    return (predicted.clamp(-CLAMP, CLAMP) - true.clamp(-CLAMP, CLAMP)).abs().mean() / CLAMP


def slope(gradient: torch.Tensor, normals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eikonal and normal loss of `gradient` (B, M, 3) at surface points with unit `normals`."""
    length = (gradient.square().sum(-1) + 1e-8).sqrt()
    return (length - 1).square().mean(), (1 - (gradient * normals).sum(-1) / length).mean()


def diversity(spread: torch.Tensor, azimuth: torch.Tensor) -> torch.Tensor:
    """What 3D-LMNet's probabilistic matching adds: the standard deviations `spread` (B, D) of latents shall be 0.2 on
    average where the object is seen from behind, and 0 where it is seen from elsewhere. `azimuth` (B,) in degrees.

    Weights and angles are those of the original. As there, the mean over a latent is compared, not every number."""
    behind = (azimuth % 360 - 180) / 20
    return 5.5 * (spread.mean(1) - 0.2 * torch.exp(-behind.square())).square().mean()


def repulsion(points: torch.Tensor, count: int = 4, reach: float = 0.02) -> torch.Tensor:
    """How much points (B, M, 3) crowd: the mean over each one's `count` nearest others of (1 - distance / `reach`)^2,
    0 beyond `reach` diameters. 1024 points spread evenly over an object lie about that far apart."""
    apart = (neighbours(points, count) - points[:, :, None]).square().sum(-1).add(1e-12).sqrt()
    return (1 - apart / reach).clamp(min=0).square().mean()
