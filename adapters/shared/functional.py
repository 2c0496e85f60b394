"""The operations that our own networks are made of, for NumPy arrays, named and called as in torch.nn.functional.

A network is written once, as functions of `F`, its weights by name, and its input: training calls it with torch's
module and tensors, prediction with this one and arrays, so that a machine without torch runs it. What torch spells
otherwise (`plane_sample`, `plane_mean`, `amax`, `concat`, `waves`) is here for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = Any  # a NumPy array or a torch tensor, float32
Weights = Mapping[str, Array]  # of a network, by name


def below(weights: Weights, prefix: str) -> Weights:
    """The weights whose names start with `prefix` and a dot, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(f"{prefix}.")}


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softplus(x: Array) -> Array:
    return np.logaddexp(x, 0).astype(x.dtype)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """(..., I) to (..., O); `weight` (O, I)."""
    return x @ weight.T + bias


def conv2d(x: Array, weight: Array, bias: Array, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """(B, C, H, W) to (B, O, H', W'); `weight` (O, C / groups, K, K)."""
    out, each, k, _ = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]  # (B, C, H', W', K, K)
    batch, _, height, width = windows.shape[:4]
    columns = windows.reshape(batch, groups, each, height, width, k * k)
    columns = columns.transpose(1, 0, 3, 4, 2, 5).reshape(groups, batch * height * width, each * k * k)
    kernels = weight.reshape(groups, out // groups, each * k * k).transpose(0, 2, 1)
    result = (columns @ kernels).reshape(groups, batch, height, width, out // groups)
    return result.transpose(1, 0, 4, 2, 3).reshape(batch, out, height, width) + bias[:, None, None]


def group_norm(x: Array, num_groups: int, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """(B, C, H, W), each group of channels to mean 0 and variance 1, then scaled and shifted by channel."""
    flat = x.reshape(len(x), num_groups, -1)
    flat = (flat - flat.mean(axis=2, keepdims=True)) / np.sqrt(flat.var(axis=2, keepdims=True) + eps)
    return flat.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def interpolate(x: Array, scale_factor: int, mode: str, align_corners: bool) -> Array:
    """(B, C, H, W) to (B, C, 2 H, 2 W), bilinear with pixel centres at halves: the one case that is used."""
    if (scale_factor, mode, align_corners) != (2, "bilinear", False):
        raise ValueError(f"interpolate: {scale_factor} {mode} {align_corners} seen, 2 bilinear False wanted")
    for axis in (2, 3):
        before = np.concatenate([x.take([0], axis), x.take(range(x.shape[axis] - 1), axis)], axis)
        after = np.concatenate([x.take(range(1, x.shape[axis]), axis), x.take([-1], axis)], axis)
        pair = np.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def pixel_shuffle(x: Array, upscale_factor: int) -> Array:
    """(B, C r r, H, W) to (B, C, r H, r W): channels become pixels."""
    r = upscale_factor
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels // r**2, r, r, height, width).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, channels // r**2, r * height, r * width)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays or tensors joined along `axis`."""
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays, axis)
    import torch

    return torch.cat(list(arrays), axis)


def amax(x: Array, axis: int) -> Array:
    """The largest along `axis`, of an array or a tensor."""
    return x.max(axis) if isinstance(x, np.ndarray) else x.amax(axis)


def waves(x: Array, frequencies: Sequence[float]) -> Array:
    """Sines, then cosines, (B, 2 K) of `x` (B,) times each of K `frequencies`, in radians."""
    if isinstance(x, np.ndarray):
        angles = x[:, None] * np.array(frequencies, x.dtype)
        return np.concatenate([np.sin(angles), np.cos(angles)], 1)
    import torch

    angles = x[:, None] * torch.tensor(frequencies, dtype=x.dtype, device=x.device)
    return torch.cat([angles.sin(), angles.cos()], 1)


def plane_sample(plane: Array, position: Array) -> Array:
    """Bilinear values (B, M, C) of `plane` (B, C, H, W) at `position` (B, M, 2), x then y, -1 to 1 over the plane.

    Pixel centres lie at halves and the border's values go on beyond it: torch's grid_sample with align_corners False
    and padding "border"."""
    if not isinstance(plane, np.ndarray):
        import torch

        grid = position[:, None]
        sampled = torch.nn.functional.grid_sample(plane, grid, align_corners=False, padding_mode="border")
        return sampled[:, :, 0].transpose(1, 2)
    batch, channels, height, width = plane.shape
    size = np.array([width, height], np.float32)
    at = np.clip((position + 1) * size / 2 - 0.5, 0, size - 1)
    low = np.minimum(at.astype(np.int64), size.astype(np.int64) - 2)
    share = (at - low).astype(np.float32)
    values = np.ascontiguousarray(plane.transpose(0, 2, 3, 1)).reshape(batch, height * width, channels)
    start = low[..., 1] * width + low[..., 0]
    out = np.empty((*position.shape[:2], channels), np.float32)
    for b in range(batch):
        x, y = share[b, :, :1], share[b, :, 1:]
        v, i = values[b], start[b]
        upper = v[i] * (1 - x) + v[i + 1] * x
        out[b] = upper * (1 - y) + (v[i + width] * (1 - x) + v[i + width + 1] * x) * y
    return out


def plane_mean(features: Array, position: Array, cells: int) -> Array:
    """Means (B, C + 1, cells, cells) of `features` (B, M, C) over the cells that their `position` (B, M, 2), -1 to 1,
    x then y, falls into; 0 in empty ones. The last channel is log(1 + their number)."""
    count, width = position.shape[0], features.shape[2] + 1
    if isinstance(features, np.ndarray):
        cell = np.clip(((position + 1) * (cells / 2)).astype(np.int64), 0, cells - 1)
        flat = (np.arange(count)[:, None] * cells + cell[..., 1]) * cells + cell[..., 0]
        total = np.zeros((count * cells * cells, width), np.float32)
        np.add.at(
            total, flat.ravel(), np.concatenate([features, np.ones_like(features[..., :1])], 2).reshape(-1, width)
        )
        mean = np.concatenate([total[:, :-1] / np.maximum(total[:, -1:], 1), np.log1p(total[:, -1:])], 1)
        return mean.reshape(count, cells, cells, width).transpose(0, 3, 1, 2)
    import torch

    cell = ((position + 1) * (cells / 2)).long().clamp(0, cells - 1)
    start = torch.arange(count, device=position.device)[:, None]
    flat = (start * cells + cell[..., 1]) * cells + cell[..., 0]
    ones = torch.ones_like(features[..., :1])
    total = features.new_zeros(count * cells * cells, width)
    total = total.index_add(0, flat.reshape(-1), torch.cat([features, ones], 2).reshape(-1, width))
    mean = torch.cat([total[:, :-1] / total[:, -1:].clamp(min=1), total[:, -1:].log1p()], 1)
    return mean.reshape(count, cells, cells, width).permute(0, 3, 1, 2)
