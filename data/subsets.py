"""View subsets: nested, seeded, spread over the angles from which a scene was photographed."""

from __future__ import annotations

import numpy as np

from adapters.contract import F64


def nested_order(directions: F64, seed: int) -> list[int]:
    """An order of N views whose every prefix is spread out: farthest-point order on the sphere.

    `directions` (N, 3): from the scene's centre to each camera, any length. The first view is drawn with `seed`;
    each next one is the farthest, by angle, from all before it (Gonzalez 1985), ties going to the lower index.
    Prefixes are nested by construction: the views of a count are among those of every larger count."""
    count = len(directions)
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    angle = np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
    order = [int(np.random.default_rng(seed).integers(count))]
    nearest = angle[order[0]].copy()
    nearest[order[0]] = -1.0
    while len(order) < count:
        order.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, angle[order[-1]])
        nearest[order] = -1.0
    return order


def even_order(count: int, seed: int) -> list[int]:
    """The same for views without known cameras, taken in sequence round an object: positions on a circle."""
    turn = 2 * np.pi * np.arange(count) / max(count, 1)
    return nested_order(np.stack([np.cos(turn), np.sin(turn), np.zeros(count)], axis=1), seed)
