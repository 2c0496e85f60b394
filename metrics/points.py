"""What every instrument asks of its arguments, so that the same mistake reads the same everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adapters.contract import F64

LARGEST = 1e100  # coordinates beyond this overflow when squared and summed; none is a length anyone measured


def checked_points(name: str, points: ArrayLike, least: int = 1) -> F64:
    """`points` as a contiguous (M, 3) float64 array; torch CPU tensors are taken as well.

    Raises ValueError naming the argument `name` unless the shape is (M, 3), M >= `least`, and all numbers are finite.
    """
    array = _as_array(name, points)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: dtype {array.dtype} seen, real numbers wanted")
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name}: shape {array.shape} seen, (M, 3) wanted")
    if len(array) < least:
        raise ValueError(f"{name}: {len(array)} points seen, at least {least} wanted")
    cloud = np.ascontiguousarray(array, np.float64)
    if not np.isfinite(cloud).all():
        raise ValueError(f"{name}: {int((~np.isfinite(cloud)).any(axis=1).sum())} points are not finite, all must be")
    if np.abs(cloud).max(initial=0.0) > LARGEST:
        raise ValueError(f"{name}: a coordinate of {np.abs(cloud).max():.3g} seen, at most {LARGEST:.0e} wanted")
    return cloud


def checked_faces(name: str, faces: ArrayLike, vertices: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """`faces` as (F, 3) int32 indices into `vertices` vertices; ValueError naming `name` otherwise."""
    array = _as_array(name, faces)
    if array.ndim != 2 or array.shape[1] != 3 or len(array) == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: {array.dtype} {array.shape} seen, integers (F, 3) with F > 0 wanted")
    if array.min() < 0 or array.max() >= vertices:
        raise ValueError(f"{name}: indices {array.min()}..{array.max()} seen, 0..{vertices - 1} wanted")
    return np.ascontiguousarray(array, np.int32)


def _as_array(name: str, values: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if hasattr(values, "detach"):  # a torch tensor: numpy reads it once it is free of its graph and in host memory
        if str(values.device) != "cpu":
            raise ValueError(f"{name}: a tensor on {values.device} seen, a CPU tensor or an array wanted")
        values = values.detach()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {type(values).__name__} seen, an array of numbers wanted ({error})") from error
