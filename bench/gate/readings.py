"""Readings: what is compared, as flat names and plain values, and when two of them agree.

Numbers are compared to a relative 1e-9, not bit for bit: a sum in another order, another chunk size or another
processor's vector width moves the last bits and means nothing, while the smallest real change known (one point of two
thousand on the other side of a threshold) is 5e-4. Text, counts and statuses must be equal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gate.verdict import Mismatch

Reading = str | int | float | bool
Readings = dict[str, Reading]

TOLERANCE = 1e-9  # relative, and absolute below 1
# An EMD is certified to one percent only: a rounding error may lead its auction to another answer within that.
LOOSE = {"emd": 0.01}
ARRAY_WAVE = 0.7  # radians an element: see `summary`


def read(prefix: str, value: Any) -> Readings:
    """`value` as readings whose names begin with `prefix`: dataclasses by field, mappings by key, arrays by `summary`.

    What is None has no reading."""
    if value is None:
        return {}
    if isinstance(value, (str, bool, int)):
        return {prefix: value}
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return {prefix: number if math.isfinite(number) else str(number)}
    if isinstance(value, (np.bool_, np.integer)):
        return {prefix: value.item()}
    if isinstance(value, np.ndarray):
        return {f"{prefix}.{name}": reading for name, reading in summary(value).items()}
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        parts = {str(name): part for name, part in value.items()}
    else:
        parts = {str(i): part for i, part in enumerate(value)}
    out: Readings = {}
    for name, part in parts.items():
        if not name.startswith("_"):
            out |= read(f"{prefix}.{name}" if prefix else name, part)
    return out


def summary(array: NDArray[Any]) -> Readings:
    """Shape, mean, and the mean product with a wave over the elements, which their order changes."""
    flat = np.asarray(array, np.float64).ravel()
    shape = "x".join(map(str, array.shape))
    if not flat.size:
        return {"shape": shape}
    wave = np.cos(ARRAY_WAVE * np.arange(flat.size))
    return {"shape": shape, "mean": float(flat.mean()), "wave": float((flat * wave).mean())}


def differences(expected: Readings, observed: Readings) -> tuple[Mismatch, ...]:
    """Every reading that does not agree, in the baseline's order; then those that only one side has."""
    out = [
        Mismatch(name, repr(value), repr(observed[name]) if name in observed else "nothing")
        for name, value in expected.items()
        if name not in observed or not agree(name, value, observed[name])
    ]
    return (*out, *(Mismatch(name, "nothing", repr(observed[name])) for name in observed if name not in expected))


def agree(name: str, expected: Reading, observed: Reading) -> bool:
    """Whether two readings called `name` mean the same."""
    if isinstance(expected, float) and isinstance(observed, (int, float)) and not isinstance(observed, bool):
        tolerance = next((loose for part, loose in LOOSE.items() if part in name.split(".")), TOLERANCE)
        return abs(observed - expected) <= tolerance * max(1.0, abs(expected))
    return type(expected) is type(observed) and expected == observed
