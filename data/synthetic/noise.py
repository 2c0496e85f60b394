"""Solid textures: lattice noise and scattered cells, hashed so that a seed gives the same pattern everywhere."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64


def lattice_hash(cells: NDArray[np.int64], seed: int) -> F64:
    """Uniform numbers in [0, 1), one for each integer cell (M, D); a 32-bit avalanche hash."""
    h = np.full(len(cells), seed * 0x9E3779B1 & 0xFFFFFFFF, np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    for column in cells.T:
        h = ((h ^ (column.astype(np.uint64) & mask)) * np.uint64(0x85EBCA6B)) & mask
        h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & mask
        h ^= h >> np.uint64(16)
    return np.asarray(h / 2.0**32)


def value_noise(p: F64, frequency: float, seed: int) -> F64:
    """Smooth noise in [0, 1], one lattice cell per 1/`frequency`; `p` is (M, D)."""
    q = p * frequency
    cell = np.floor(q).astype(np.int64)
    t = q - cell
    t = t * t * (3 - 2 * t)
    out = np.zeros(len(p))
    for corner in product((0, 1), repeat=p.shape[1]):
        weight = np.prod(np.where(np.array(corner), t, 1 - t), axis=1)
        out += weight * lattice_hash(cell + np.array(corner), seed)
    return out


def fbm(p: F64, frequency: float, seed: int, octaves: int = 4, gain: float = 0.55) -> F64:
    """Octaves of value noise, in [0, 1]."""
    weights = gain ** np.arange(octaves)
    layers = [w * value_noise(p, frequency * 2**k, seed + 101 * k) for k, w in enumerate(weights)]
    return np.asarray(np.sum(layers, axis=0) / weights.sum())


def smoothstep(low: float, high: float, x: F64) -> F64:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
