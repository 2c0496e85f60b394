"""The process that runs one adapter: commands and pixels in, events out, on three private file descriptors.

Runs inside the adapter's own environment: numpy and the standard library only, Python 3.9 syntax. Its standard
output and error belong to the adapter and go to the log. Arrays travel as `.npz` files without pickle.

    {"op": "load", "module", "options", "device", "weights", "seed"}    -> mark begin, loaded | failed
    {"op": "predict", "views", "out", "warmups", "repeats", "min_seconds", "max_seconds", "infer_only", "streams"}
                                                        -> marks and cold, marks and warm ..., done | failed

Each event is a JSON line. At `mark`, an end of a step, the worker waits for one byte: the host's clock times what lies
between. `pixels` asks for one image or mask, and its bytes come through the third descriptor.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import resource
import sys
import threading
import time
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, Dict, Optional, TextIO, Tuple

import numpy as np

from adapters.contract import (
    ContractError,
    Execution,
    Reconstruction,
    Reconstructor,
    Unavailable,
    Unsupported,
    Views,
)

Event = Dict[str, Any]
MOST_CALLS = 1000  # after which more of a call of microseconds tell nothing new, where no more repeats are asked for
KEPT_BYTES = 2**30  # of images and masks: those of a small scene are fetched once, those of a large one again


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

    def __init__(self, events: TextIO, replies: BinaryIO) -> None:
        self._events, self._replies = events, replies
        self._talking = threading.RLock()  # an adapter may read its images in several threads
        self._kept: "OrderedDict[Tuple[str, int], Any]" = OrderedDict()
        self._kept_bytes = 0
        self._waited = 0.0  # seconds for pixels, all together
        self._shapes: Any = None  # (N, 3), of the images
        self._execution: Any = None
        self._adapter: Optional[Reconstructor] = None
        self._streams = False
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
        with self._talking:
            self._events.write(json.dumps(event) + "\n")
            self._events.flush()

    def _mark(self, step: str) -> None:
        """Wait until the host has noted that `step` ended: it starts its clock again when it answers."""
        with self._talking:
            self._emit({"event": "mark", "step": step})
            self._receive(1)

    def _receive(self, count: int) -> bytearray:
        content = bytearray(count)
        view, done = memoryview(content), 0
        while done < count:
            got = self._replies.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError("the host went away")
            done += got
        return content

    def _pixels(self, what: str, index: int) -> Any:
        """Image or mask `index`: the kept one, or from the host. Waiting for it is nobody's time."""
        with self._talking:
            key = (what, index)
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            start = time.perf_counter()
            shape = tuple(int(n) for n in self._shapes[index][: 3 if what == "image" else 2])
            self._emit({"event": "pixels", "what": what, "index": index})
            array = np.frombuffer(self._receive(int(np.prod(shape))), np.uint8).reshape(shape)
            array = array if what == "image" else array.view(np.bool_)
            self._waited += time.perf_counter() - start
            if array.nbytes <= KEPT_BYTES:
                self._kept[key] = array
                self._kept_bytes += array.nbytes
                while self._kept_bytes > KEPT_BYTES:
                    self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
            return array

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
        self._mark("begin")
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
        seconds = {"prepare": 0.0, "infer": 0.0, "finish": 0.0}
        self._reseed()
        self._synchronise()
        self._mark("begin")
        start = self._clock()
        inputs = adapter.prepare(views)
        self._synchronise()
        seconds["prepare"] = self._clock() - start
        self._mark("prepare")
        outputs, seconds["infer"] = self._infer(adapter, inputs, len(views))
        self._mark("infer")
        if infer_only:
            self._note_execution(inputs)
            seconds["prepare"] = 0.0
            return {**seconds, "total": seconds["infer"]}, None
        start = self._clock()
        result = adapter.finish(outputs, views)
        if isinstance(result, Reconstruction):
            for i in range(len(result.depth or ())):  # what is made when it is asked for is part of the work
                result.depth[i]  # type: ignore[index]
        self._synchronise()
        seconds["finish"] = self._clock() - start
        self._mark("finish")
        self._note_execution(inputs)
        return {**seconds, "total": sum(seconds.values())}, result

    def _infer(self, adapter: Reconstructor, inputs: Any, views: int) -> Tuple[Any, float]:
        """What `infer` gives and its seconds; of a system that streams with a mark at each of its outputs."""
        start = self._clock()
        if not self._streams:
            outputs = adapter.infer(inputs)
            self._synchronise()
            return outputs, self._clock() - start
        outputs, seconds = [], 0.0
        for output in adapter.stream(inputs):
            self._synchronise()
            seconds += self._clock() - start
            outputs.append(output)
            if len(outputs) > views:
                raise ContractError(f"stream: more than {views} outputs seen, one a view at most wanted")
            self._mark("frame")
            start = self._clock()
        if not outputs:
            raise ContractError("stream: no output seen, at least one wanted")
        self._synchronise()
        return outputs, seconds + self._clock() - start

    def _note_execution(self, inputs: Any) -> None:
        """Ask the adapter how it ran, after its first call."""
        assert self._adapter is not None
        if self._execution is None:
            self._execution = self._adapter.execution(inputs)
            if not isinstance(self._execution, Execution):
                raise ContractError(f"execution: {type(self._execution).__name__} seen, Execution wanted")

    def _clock(self) -> float:
        """Seconds, but for those spent waiting for pixels."""
        return time.perf_counter() - self._waited

    def _open(self, path: Path) -> Views:
        """The views. Images and masks come from the host: the first ones at once, the rest when they are asked for."""
        with np.load(path, allow_pickle=False) as file:
            self._shapes = file["shapes"]
        views = Views.load(path, self._pixels)
        for i in range(len(views)):
            for array in (views.images, views.masks):
                if array is not None and self._kept_bytes < KEPT_BYTES // 2:
                    array[i]
        return views

    def _predict(self, command: Dict[str, Any]) -> None:
        views = self._open(Path(command["views"]))
        infer_only, self._streams = bool(command["infer_only"]), bool(command["streams"])
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
        most = max(MOST_CALLS, command["repeats"]) if command["repeats"] else 0
        while (done < command["repeats"] or spent < command["min_seconds"]) and done < most and room():
            seconds = self._timed_call(views, infer_only)[0]
            last = seconds["total"]
            done, spent = done + 1, spent + last
            self._emit({"event": "warm", "seconds": seconds})
        self._emit({"event": "done", **self._memory(), "execution": vars(self._execution)})

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


def main(commands_fd: int, events_fd: int, replies_fd: int) -> None:
    """Serve on the three file descriptors."""
    commands, events = os.fdopen(commands_fd, "r"), os.fdopen(events_fd, "w")
    with commands, events, os.fdopen(replies_fd, "rb", buffering=0) as replies:
        Worker(events, replies).serve(commands)
