"""Which device a computation runs on, how it is launched there, and what stands in the way.

Kernels are launched with the tensors' own device made current: launched elsewhere, they would read another device's
memory, or leave zeros where an answer should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import triton

from adapters.contract import InputError

Tensor: TypeAlias = Any  # a torch.Tensor: torch is not installed everywhere, and then has no types
Kernel: TypeAlias = Any  # a function under triton.jit
Device: TypeAlias = Any  # a torch.device

OLDEST = (8, 0)  # compute capability: 64-bit atomics and fast double precision
PROGRAMS_PER_PROCESSOR = 4  # enough to hide latency; more splits would only repeat work
PROCESSORS_INTERPRETED = 1
OPTIONS = {"enable_fp_fusion": True}  # one rounding less a product; said, because the default is about to change


@dataclass(frozen=True)
class Tile:
    """The shape of a program: how many rows it answers, how many points it compares them with at a time."""

    rows: int
    points: int
    warps: int = 4


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors: decided before they are first imported."""
    return bool(triton.knobs.runtime.interpret)


def resolve(name: str) -> Device:
    """The torch device called `name`, "cuda" or "cuda:N"; the CPU under Triton's interpreter.

    Raises InputError where there is none, or none that the kernels can be compiled for."""
    if interpreted():
        return torch.device("cpu")
    device = torch.device(name)
    if not torch.cuda.is_available():
        raise InputError(f"device {name}: torch {torch.__version__} sees no CUDA device here")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise InputError(f"device {name}: {torch.cuda.device_count()} CUDA devices are here, numbered from 0")
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        raise InputError(
            f"device {name}: compute capability {'.'.join(map(str, capability))} seen, "
            f"{'.'.join(map(str, OLDEST))} or newer wanted"
        )
    return torch.device("cuda", index)


def launch(kernel: Kernel, grid: tuple[int, ...], tile: Tile, *arguments: object, **constants: object) -> None:
    """Run `kernel` on the device of its first argument, a tensor."""
    device = arguments[0].device  # type: ignore[attr-defined]
    if device.type == "cpu":
        kernel[grid](*arguments, **constants)
        return
    with torch.cuda.device(device):
        kernel[grid](*arguments, **constants, num_warps=tile.warps, **OPTIONS)


def splits(device: Device, programs: int, most: int) -> int:
    """Into how many parts the points are cut, so that `programs` times as many programs fill the device."""
    if device.type == "cpu":
        processors = PROCESSORS_INTERPRETED
    else:
        processors = int(torch.cuda.get_device_properties(device).multi_processor_count)
    wanted = -(-PROGRAMS_PER_PROCESSOR * processors // max(programs, 1))
    return max(1, min(wanted, most))


def columns(points: Tensor, dtype: object) -> Tensor:
    """(3, n) contiguous of `points` (n, 3): neighbouring threads read neighbouring numbers."""
    return points.to(dtype).T.contiguous()
