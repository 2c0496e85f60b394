"""The process that runs one adapter: commands in, events out, as JSON lines on two private file descriptors.

Runs inside the adapter's own environment: numpy and the standard library only, Python 3.9 syntax. Its standard
output and error belong to the adapter and go to the log. Arrays travel as `.npz` files without pickle.

    {"op": "load", "module", "options", "device", "weights", "seed"}    -> loaded | failed
    {"op": "predict", "views", "out", "warmups", "repeats", "min_seconds", "max_seconds", "infer_only"}
                                                        -> cold, warm ..., done | failed
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, Optional, TextIO, Tuple

import numpy as np

from adapters.contract import ContractError, Reconstruction, Reconstructor, Unavailable, Unsupported, Views

Event = Dict[str, Any]


def failure_status(error: BaseException) -> str:
    """The failure kind that an exception stands for."""
    if isinstance(error, ContractError):
        return "invalid_output"
    if isinstance(error, Unsupported):
        return "unsupported"
    if isinstance(error, (Unavailable, ModuleNotFoundError)):
        return "unavailable"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    return "crash"


def make_adapter(module: str, options: Dict[str, Any]) -> Reconstructor:
    """Import `module` and construct its `Adapter`; an unknown option raises a TypeError that lists the known ones."""
    factory = importlib.import_module(module).Adapter
    known = [name for name in inspect.signature(factory).parameters if name not in ("args", "kwargs", "self")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"option {', '.join(unknown)} is not known; known: {', '.join(known) or 'none'}")
    adapter = factory(**options)
    if not isinstance(adapter, Reconstructor):
        raise TypeError(f"{module}.Adapter: a Reconstructor wanted")
    return adapter


class Worker:
    """One adapter, loaded once, run on views as often as asked."""

    def __init__(self, events: TextIO) -> None:
        self._events = events
        self._adapter: Optional[Reconstructor] = None
        self._device = "cpu"
        self._seed = 0

    def serve(self, commands: TextIO) -> None:
        """Answer commands until end of file; any failure ends the process after its event."""
        for line in commands:
            command = json.loads(line)
            try:
                if command["op"] == "load":
                    self._load(command)
                else:
                    self._predict(command)
            except BaseException as error:  # the boundary: whatever an adapter raises is a result
                if isinstance(error, KeyboardInterrupt):
                    raise
                traceback.print_exc()
                known = isinstance(error, (ContractError, Unsupported, Unavailable))
                message = str(error) if known else f"{type(error).__name__}: {error}"
                self._emit({"event": "failed", "status": failure_status(error), "message": message[:2000]})
                return

    def _emit(self, event: Event) -> None:
        self._events.write(json.dumps(event) + "\n")
        self._events.flush()

    def _torch(self) -> Any:
        """torch where the adapter uses it on a CUDA device, else None."""
        return sys.modules.get("torch") if self._device.startswith("cuda") else None

    def _synchronise(self) -> None:
        torch = self._torch()
        if torch is not None:
            torch.cuda.synchronize(self._device)

    def _reseed(self) -> None:
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)  # noqa: NPY002 - upstream code draws from the global generator
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.manual_seed(self._seed)

    def _load(self, command: Dict[str, Any]) -> None:
        self._device, self._seed = command["device"], int(command["seed"])
        start = time.perf_counter()
        self._adapter = make_adapter(command["module"], command["options"])
        self._reseed()
        self._adapter.load(self._device, command["weights"], self._seed)
        self._synchronise()
        self._emit({"event": "loaded", "seconds": time.perf_counter() - start})

    def _timed_call(self, views: Views, infer_only: bool) -> Tuple[Dict[str, float], Optional[Reconstruction]]:
        """One call: seconds of each step, the device synchronised around each, and the result.

        With `infer_only` that step alone counts: what random weights give is not finished."""
        adapter = self._adapter
        assert adapter is not None
        self._reseed()
        self._synchronise()
        t0 = time.perf_counter()
        inputs = adapter.prepare(views)
        self._synchronise()
        t1 = time.perf_counter()
        outputs = adapter.infer(inputs)
        self._synchronise()
        t2 = time.perf_counter()
        if infer_only:
            return {"prepare": 0.0, "infer": t2 - t1, "finish": 0.0, "total": t2 - t1}, None
        result = adapter.finish(outputs, views)
        self._synchronise()
        t3 = time.perf_counter()
        return {"prepare": t1 - t0, "infer": t2 - t1, "finish": t3 - t2, "total": t3 - t0}, result

    def _predict(self, command: Dict[str, Any]) -> None:
        views = Views.load(Path(command["views"]))
        infer_only = bool(command["infer_only"])
        torch = self._torch()
        if torch is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
        cold, result = self._timed_call(views, infer_only)
        if not infer_only:
            if not isinstance(result, Reconstruction):
                raise ContractError(f"finish: {type(result).__name__} seen, Reconstruction wanted")
            result.validate(views)
            result.save(Path(command["out"]))
        del result
        self._emit({"event": "cold", "seconds": cold})
        began, last = time.perf_counter(), cold["total"]

        def room() -> bool:
            return bool(time.perf_counter() - began + last <= command["max_seconds"])

        for _ in range(command["warmups"] if command["repeats"] else 0):
            if room():
                last = self._timed_call(views, infer_only)[0]["total"]
        done, spent = 0, 0.0
        while (done < command["repeats"] or spent < command["min_seconds"]) and command["repeats"] and room():
            seconds = self._timed_call(views, infer_only)[0]
            last = seconds["total"]
            done, spent = done + 1, spent + last
            self._emit({"event": "warm", "seconds": seconds})
        self._emit({"event": "done", **self._memory()})

    def _memory(self) -> Event:
        """Peaks in bytes: this process, and the device by allocator and driver."""
        torch = self._torch()
        allocator = driver = None
        if torch is not None:
            allocator = int(torch.cuda.max_memory_allocated(self._device))
            free, total = torch.cuda.mem_get_info(self._device)
            driver = int(total - free)
        return {
            "peak_rss": _peak_rss(),
            "device_allocator": allocator,
            "device_driver": driver,
        }


def _peak_rss() -> int:
    """High-water mark of this process's resident memory, bytes.

    Linux carries `ru_maxrss` over from the process that forked this one, so that a large host would be booked on every
    adapter: the mark of the address space itself is read instead."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(commands_fd: int, events_fd: int) -> None:
    """Serve on the two file descriptors."""
    with os.fdopen(commands_fd, "r") as commands, os.fdopen(events_fd, "w") as events:
        Worker(events).serve(commands)
