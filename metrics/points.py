"""What every instrument asks of its arguments, so that the same mistake reads the same everywhere."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adapters.contract import F64, InputError

LARGEST = 1e100  # coordinates beyond this overflow when squared and summed; none is a length anyone measured


def checked_points(name: str, points: ArrayLike, least: int = 1) -> F64:
    """`points` as a contiguous (M, 3) float64 array; torch tensors are taken as well, and copied to the host.

    Raises ValueError naming the argument `name` unless the shape is (M, 3), M >= `least`, and all numbers are finite.
    """
    array = _as_array(name, points)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: dtype {array.dtype} seen, real numbers wanted")
    _check_shape(name, array.shape, least)
    cloud = np.ascontiguousarray(array, np.float64)
    if not np.isfinite(cloud).all():
        raise ValueError(f"{name}: {int((~np.isfinite(cloud)).any(axis=1).sum())} points are not finite, all must be")
    if np.abs(cloud).max(initial=0.0) > LARGEST:
        raise ValueError(f"{name}: a coordinate of {np.abs(cloud).max():.3g} seen, at most {LARGEST:.0e} wanted")
    return cloud


def device_of(device: str | None, **clouds: ArrayLike) -> Any:
    """The torch device to work on: `device` where one is named, else that of the CUDA tensors among `clouds`; None for
    the CPU's own path.

    Raises ValueError where two devices are asked for, InputError where the one asked for cannot be had."""
    if device == "cpu":
        return None
    if device is None:
        devices = {name: str(cloud.device) for name, cloud in clouds.items() if _is_tensor(cloud)}  # type: ignore[union-attr]
        away = {name: place for name, place in devices.items() if place != "cpu"}
        if len(set(away.values())) > 1:
            listed = ", ".join(f"{name} on {place}" for name, place in away.items())
            raise ValueError(f"{listed}: tensors on one device wanted")
        if not away:
            return None
        name, device = next(iter(away.items()))
        if not device.startswith("cuda"):
            raise ValueError(f"{name}: a tensor on {device} seen, a CPU or CUDA tensor or an array wanted")
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise InputError(f"device: {device!r} seen, cpu, cuda or cuda:N wanted")
    try:
        from metrics.kernels.cuda.device import resolve
    except ImportError as error:
        raise InputError(f"device {device}: {error.name} is not installed (pip install 'reconbench[gpu]')") from error
    return resolve(device)


def device_points(name: str, points: ArrayLike, device: Any, least: int = 1) -> Any:
    """`points` as a contiguous (M, 3) float64 tensor on `device`, which keeps what is there already where it is.

    Any strides and any real dtype are taken. Errors as in `checked_points`."""
    import torch

    if not _is_tensor(points):
        return torch.from_numpy(checked_points(name, points, least)).to(device)
    tensor: Any = points
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: dtype {tensor.dtype} seen, real numbers wanted")
    _check_shape(name, tuple(tensor.shape), least)
    cloud = tensor.detach().to(device, torch.float64).contiguous()
    bad = int((~cloud.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(f"{name}: {bad} points are not finite, all must be")
    if len(cloud) and (largest := float(cloud.abs().max())) > LARGEST:
        raise ValueError(f"{name}: a coordinate of {largest:.3g} seen, at most {LARGEST:.0e} wanted")
    return cloud


def checked_faces(name: str, faces: ArrayLike, vertices: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """`faces` as (F, 3) int32 indices into `vertices` vertices; ValueError naming `name` otherwise."""
    array = _as_array(name, faces)
    if array.ndim != 2 or array.shape[1] != 3 or len(array) == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: {array.dtype} {array.shape} seen, integers (F, 3) with F > 0 wanted")
    if array.min() < 0 or array.max() >= vertices:
        raise ValueError(f"{name}: indices {array.min()}..{array.max()} seen, 0..{vertices - 1} wanted")
    return np.ascontiguousarray(array, np.int32)


def _check_shape(name: str, shape: tuple[int, ...], least: int) -> None:
    if len(shape) != 2 or shape[1] != 3:
        raise ValueError(f"{name}: shape {shape} seen, (M, 3) wanted")
    if shape[0] < least:
        raise ValueError(f"{name}: {shape[0]} points seen, at least {least} wanted")


def _is_tensor(values: object) -> bool:
    return hasattr(values, "detach") and hasattr(values, "device")


def _as_array(name: str, values: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if _is_tensor(values):  # numpy reads it once it is free of its graph and in host memory
        values = values.detach()
        if str(values.device) != "cpu":
            values = values.cpu()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {type(values).__name__} seen, an array of numbers wanted ({error})") from error
