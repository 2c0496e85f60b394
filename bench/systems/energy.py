"""What a CUDA device draws, by its own counter: NVML's `nvmlDeviceGetTotalEnergyConsumption`, Volta and newer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

# None: the device has no such counter, there is no driver, or `nvidia-ml-py` is not installed.
Meter = Callable[[], float | None]


def no_meter() -> float | None:
    """Of a device without a counter."""
    return None


def meter_of(device: str) -> Meter:
    """A function that gives the joules which "cuda:N" drew since its driver was loaded, everything on it together.

    N counts the devices that CUDA_VISIBLE_DEVICES leaves, in the order of the bus, as workers count them. The counter
    moves in steps of up to 100 ms, so that one short call says little, and calls of a second together do."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return no_meter
    try:
        import pynvml
    except ImportError:
        return no_meter
    try:
        pynvml.nvmlInit()
        name = _physical(int(number or 0))
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
        )
    except (pynvml.NVMLError, IndexError):
        return no_meter

    def joules() -> float | None:
        with contextlib.suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        return None

    return joules


def _physical(number: int) -> str:
    """Index or UUID of the device that CUDA calls `number`; IndexError where CUDA does not see so many."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if visible is None else visible.split(",")[number].strip()
