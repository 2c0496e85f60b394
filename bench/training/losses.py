"""What the networks are trained to make small."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from numba import njit
from numpy.typing import NDArray

CLAMP = 0.05  # diameters: signed distances beyond it count as it


@njit(fastmath=True, cache=True, nogil=True)
def _matches(
    first: NDArray[np.float32], second: NDArray[np.float32], to_second: NDArray[np.int64], to_first: NDArray[np.int64]
) -> None:
    """Both nearest-neighbour maps of (B, 3, N) and (B, 3, M) in one sweep of rows that the compiler vectorises."""
    batch, n, m = first.shape[0], first.shape[2], second.shape[2]
    row, best, arg = np.empty(m, np.float32), np.empty(m, np.float32), np.empty(m, np.int32)
    for b in range(batch):
        X, Y, Z = second[b, 0], second[b, 1], second[b, 2]
        best[:] = np.float32(1e9)
        arg[:] = 0
        for i in range(n):
            x, y, z = first[b, 0, i], first[b, 1, i], first[b, 2, i]
            low = np.float32(1e9)
            this = np.int32(i)
            for j in range(m):
                dx, dy, dz = X[j] - x, Y[j] - y, Z[j] - z
                d = dx * dx + dy * dy + dz * dz
                row[j] = d
                low = min(low, d)
            for j in range(m):
                arg[j] = this if row[j] < best[j] else arg[j]
                best[j] = min(best[j], row[j])
            for j in range(m):
                if row[j] == low:
                    to_second[b, i] = j
                    break
        to_first[b, :] = arg


def matches(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each point of `first` (B, N, 3) its nearest in `second` (B, M, 3), (B, N) int64, and the other way round."""
    first, second = first.detach().float(), second.detach().float()
    if first.device.type != "cpu":
        distances = torch.cdist(first, second)
        return distances.argmin(2), distances.argmin(1)
    there, back = np.zeros(first.shape[:2], np.int64), np.zeros(second.shape[:2], np.int64)
    clouds = [np.ascontiguousarray(cloud.transpose(1, 2).numpy()) for cloud in (first, second)]
    _matches(clouds[0], clouds[1], there, back)
    return torch.from_numpy(there), torch.from_numpy(back)


def chamfer(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(B,): the mean of both directions' mean unsquared distances."""
    there, back = matches(first, second)

    def away(points: torch.Tensor, others: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        nearest = torch.gather(others, 1, index[..., None].expand(-1, -1, 3))
        return ((points - nearest).square().sum(-1) + 1e-10).sqrt().mean(1)

    return (away(first, second, there) + away(second, first, back)) / 2


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
