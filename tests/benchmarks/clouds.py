"""Pairs of clouds to time on: a bumpy torus sampled twice, and what reconstructions do to it."""

from __future__ import annotations

import numpy as np

from adapters.contract import F64

KINDS = ("surface", "shift", "misaligned", "partial")


def surface(n: int, rng: np.random.Generator) -> F64:
    """(n, 3) noisy samples of an asymmetric surface of extent about 1."""
    u, v = 2 * np.pi * rng.random((2, n))
    r = 0.35 * (1 + 0.3 * np.sin(3 * u) + 0.2 * np.cos(2 * v + u))
    x, y, z = (1 + r * np.cos(v)) * np.cos(u), 0.7 * (1 + r * np.cos(v)) * np.sin(u), r * np.sin(v) + 0.2 * np.sin(u)
    return np.asarray((np.stack([x, y, z], axis=1) + rng.normal(size=(n, 3)) * 0.005) / 2.7)


def pair(kind: str, n: int, seed: int) -> tuple[F64, F64]:
    """Two clouds (n, 3). `partial`: the second is 60% of the surface (denser) and 20% floaters in a box around it."""
    rng = np.random.default_rng(seed)
    pred, truth = surface(n, rng), surface(n, rng)
    if kind == "shift":
        truth += [0.05, 0.02, -0.03]
    elif kind == "misaligned":
        c, s = np.cos(0.9), np.sin(0.9)
        truth = 0.3 * truth @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + [2.0, 1.0, 0.5]
    elif kind == "partial":
        dense = surface(4 * n, rng)
        part = dense[dense[:, 0] < np.quantile(dense[:, 0], 0.6)][: n - n // 5]
        low, high = pred.min(axis=0) - 0.2, pred.max(axis=0) + 0.2
        truth = np.concatenate([part, rng.uniform(low, high, (n - len(part), 3))])
    return pred, truth
