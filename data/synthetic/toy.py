"""A toy: its solid, its paint and the table it stands on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adapters.contract import F64
from data.synthetic.paint import Paint
from data.synthetic.sdf import Solid


@dataclass(frozen=True)
class Look:
    """The colours around a toy, sRGB hex."""

    ground: str  # the table's stone
    chips: tuple[str, ...]  # the stones cast into it
    wall: str  # behind the table
    ceiling: str  # the sky light's tint
    sizes: tuple[tuple[float, float], ...] = ((0.018, 0.22), (0.034, 0.30), (0.060, 0.24))  # of chips: metres, share


@dataclass(frozen=True)
class Toy:
    """One modelled toy. Lengths in decimetres, z up, the table at z = 0."""

    name: str
    title: str
    difficulty: str  # as in SceneFile
    solid: Solid
    low: F64  # (3,) a box around the solid
    high: F64  # (3,)
    cell: float  # of the marching-cubes grid
    paint: Paint
    look: Look


def variation(seed: int, recipe: int) -> Callable[[float, float], float]:
    """`vary(middle, spread)` of one recipe: a value within `spread` of `middle`; seed 0 gives `middle` itself."""
    rng = np.random.default_rng([seed, recipe])

    def vary(middle: float, spread: float) -> float:
        return middle + (spread * float(rng.uniform(-1, 1)) if seed else 0.0)

    return vary
