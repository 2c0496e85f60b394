"""Calls that an adapter makes of upstream's code: recorded where that code runs, replayed where it does not.

A recording is the ordered list of the calls (and of the attributes read) that `infer` makes of upstream's functions,
of its network and of the objects they return, with what came back. Replayed, the same adapter code meets stand-ins for
torch and for upstream's modules: each call must be the recorded one (its name, its arguments, whether gradients are
on), and returns what upstream returned. So every `infer` runs, and its mistakes show, on a machine without torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import inspect
import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAMPLES = 24  # numbers of an array argument that a recording keeps
LEVEL = 1.01 / 255 / 0.224  # another Pillow may round a level otherwise: that much of a normalised image


class Tensor(np.ndarray[Any, Any]):
    """What adapters do with tensors, done by numpy."""

    device = "cpu"

    def __array_finalize__(self, origin: Any) -> None:
        self.device = getattr(origin, "device", "cpu")

    def to(self, device: Any) -> Tensor:
        moved = self.view()
        moved.device = str(device)
        return moved

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def float(self) -> Tensor:  # type: ignore[valid-type]
        return self.astype(np.float32)

    def detach(self) -> Tensor:
        return self

    def __float__(self) -> float:
        return float(np.asarray(self).item())

    def numpy(self) -> NDArray[Any]:
        assert self.device == "cpu", f"numpy() of a tensor on {self.device}"
        return np.asarray(self)


def tensor(values: Any) -> Tensor:
    return np.asarray(values).view(Tensor)


def describe(value: Any, names: dict[int, str]) -> Any:
    """An argument as JSON: arrays by shape, type and a sample of their numbers, upstream's objects by name."""
    if id(value) in names:
        return {"object": names[id(value)]}
    if isinstance(value, Stand | Recorded):
        return str(value) if isinstance(value, Stand) and value._shown else {"object": value._path}
    if isinstance(value, str) and Path(value).is_dir():
        return "a folder in the working one" if Path(value).resolve().parent == Path.cwd() else "a folder"
    if isinstance(value, dict):
        return {str(key): describe(member, names) for key, member in value.items()}
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | Image.Image):
        value = np.asarray(value)
        flat = value.ravel()
        rows = np.random.default_rng(len(flat)).integers(len(flat), size=min(SAMPLES, len(flat)))
        sample = [round(float(number), 5) for number in flat[rows]]
        return {"shape": list(value.shape), "dtype": value.dtype.name, "sample": sample}
    if isinstance(value, list | tuple) or type(value).__name__ == "ParameterList":
        return [describe(member, names) for member in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(value)
    return str(value).removeprefix("torch.")


def differs(recorded: Any, now: Any, where: str) -> str:
    """Where two descriptions differ, or nothing."""
    if isinstance(recorded, dict) and isinstance(now, dict) and recorded.keys() == now.keys():
        if "sample" in recorded:
            if (recorded["shape"], recorded["dtype"]) != (now["shape"], now["dtype"]):
                return f"{where}: {now['dtype']} {now['shape']}, recorded {recorded['dtype']} {recorded['shape']}"
            off = np.abs(np.subtract(recorded["sample"], now["sample"])).max(initial=0.0)
            return "" if off <= LEVEL else f"{where}: {off:.3g} off what was recorded"
        return next(filter(None, (differs(recorded[key], now[key], f"{where}.{key}") for key in recorded)), "")
    if isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        parts = (differs(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(recorded, now, strict=True)))
        return next(filter(None, parts), "")
    if isinstance(recorded, float) and isinstance(now, float):
        return "" if abs(recorded - now) <= 1e-3 * max(1, abs(recorded)) else f"{where}: {now}, recorded {recorded}"
    return "" if recorded == now and type(recorded) is type(now) else f"{where}: {now!r}, recorded {recorded!r}"


class Recorder:
    """Records calls: `functions` are upstream's, by dotted name; results of those in `opaque` are only passed on."""

    def __init__(self, functions: tuple[str, ...], opaque: tuple[str, ...]) -> None:
        self.functions, self.opaque = functions, opaque
        self.calls: list[dict[str, Any]] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.names: dict[int, str] = {}  # of opaque results, which are kept alive
        self._alive: list[Any] = []

    def call(self, path: str, function: Callable[..., Any], args: Any, options: Any) -> Any:
        import torch

        event = {
            "call": path,
            "args": describe(args, self.names),
            "options": describe(options, self.names),
            "grad": torch.is_grad_enabled(),
        }
        result = function(*unwrapped(args), **unwrapped(options))
        self.calls.append(event)
        return self.keep(path, event, result)

    def keep(self, path: str, event: dict[str, Any], result: Any) -> Any:
        if path in self.opaque:
            event["result"] = {"object": path}
            self.names[id(result)] = path
            self._alive.append(result)
            simple = isinstance(result, list | tuple | dict) or hasattr(result, "detach")
            return result if simple else Recorded(result, path, self)
        event["result"] = self.store(result)
        return result

    def store(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {"dict": {key: self.store(member) for key, member in value.items()}}
        if hasattr(value, "detach"):
            return {"tensor": self.store(value.detach().cpu().numpy())}
        if isinstance(value, np.ndarray):
            name = f"array_{len(self.arrays)}"
            small = np.float32 if value.dtype == np.float64 and value.ndim > 2 else value.dtype
            self.arrays[name] = value.astype(small)  # a copy: upstream may go on writing into its tensor
            return name
        if isinstance(value, list | tuple) or type(value).__name__ == "ParameterList":
            return [self.store(member) for member in value]
        if type(value).__name__ == "device":
            value = str(value)
        if isinstance(value, np.generic):
            value = value.item()
        # Anything else is of no use to an adapter, whose replay would end there.
        return {"value": value if isinstance(value, bool | int | float | str) else None}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for path in self.functions:
                module, _, name = path.rpartition(".")
                home = importlib.import_module(module)
                real = getattr(home, name)

                def wrapped(*args: Any, path: str = path, real: Any = real, **options: Any) -> Any:
                    return self.call(path, real, args, options)

                stack.enter_context(mock.patch.object(home, name, wrapped))
            yield


class Recorded:
    """An object of upstream's (a network, a scene) whose use is recorded."""

    def __init__(self, real: Any, path: str, recorder: Recorder) -> None:
        self._real, self._path, self._recorder = real, path, recorder

    def __getattr__(self, name: str) -> Any:
        path = f"{self._path}.{name}"
        value = getattr(self._real, name)
        if inspect.isroutine(value):
            return lambda *args, **options: self._recorder.call(path, value, args, options)
        if any(kind.__name__ == "Module" for kind in type(value).__mro__):  # a part of a network
            return Recorded(value, path, self._recorder)
        event = {"call": path}
        self._recorder.calls.append(event)
        return self._recorder.keep(path, event, value)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._recorder.call(self._path, self._real, args, options)

    def __getitem__(self, name: str) -> Recorded:
        return Recorded(self._real[name], f"{self._path}[{name}]", self._recorder)


def unwrapped(value: Any) -> Any:
    """Upstream's own objects in the place of those that record their use."""
    if isinstance(value, Recorded):
        return value._real
    if isinstance(value, tuple):
        return tuple(map(unwrapped, value))
    return {key: unwrapped(member) for key, member in value.items()} if type(value) is dict else value


class Stand:
    """In the place of an object of upstream's, or of a name in one of its modules."""

    def __init__(self, path: str, replay: Replay, shown: str = "") -> None:
        self._path, self._replay, self._shown = path, replay, shown

    def __str__(self) -> str:
        return self._shown

    def __getattr__(self, name: str) -> Any:
        path = f"{self._path}.{name}"
        if self._replay.next_is_read(path):
            return self._replay.take(path)
        return Stand(path, self._replay, f"{self._shown}.{name}")

    def __getitem__(self, name: str) -> Stand:
        return Stand(f"{self._path}[{name}]", self._replay)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError(f"{self._path} is gone through, which was not recorded")

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._replay.call(self._path, args, options)


class Replay:
    """Answers the recorded calls in their order; AssertionError for any other."""

    def __init__(self, calls: list[dict[str, Any]], arrays: dict[str, NDArray[Any]]) -> None:
        self.calls, self.arrays = list(calls), arrays  # those still to come
        self._lock = threading.Lock()
        self.grad, self.cast = True, ""
        self.devices: list[str] = []  # of the tensors that the network was called with
        self.casts: list[str] = []
        self.network = Stand("network", self)

    def next_is_read(self, path: str) -> bool:
        return bool(self.calls) and self.calls[0]["call"] == path and "args" not in self.calls[0]

    def call(self, path: str, args: Any, options: Any) -> Any:
        """Calls of one function in a row may come in any order: an adapter may spread them over threads."""
        now = {"args": describe(args, {}), "options": describe(options, {}), "grad": self.grad}
        if path.startswith("network"):
            given = [each for value in args for each in (value.values() if isinstance(value, dict) else [value])]
            self.devices += [value.device for value in given if isinstance(value, Tensor)]
            self.casts.append(self.cast)
        with self._lock:
            assert self.calls, f"{path} is called; nothing more was recorded"
            assert self.calls[0]["call"] == path, f"{path} is called, recorded {self.calls[0]['call']}"
            wrong = ""
            for i, event in enumerate(itertools.takewhile(lambda event: event["call"] == path, self.calls)):
                parts = (differs(event[part], value, f"{path} {part}") for part, value in now.items())
                here = next(filter(None, parts), "")
                if not here:
                    return self.restore(self.calls.pop(i)["result"])
                wrong = wrong or here
        raise AssertionError(wrong)

    def take(self, path: str) -> Any:
        return self.restore(self.calls.pop(0)["result"])

    def restore(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.arrays[value].copy()
        if isinstance(value, list):
            return [self.restore(member) for member in value]
        if "object" in value:
            return Stand(value["object"], self)
        if "tensor" in value:
            return tensor(self.restore(value["tensor"]))
        if "dict" in value:
            return {key: self.restore(member) for key, member in value["dict"].items()}
        return value["value"]

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        """Stand-ins for torch and for the modules of every recorded call; at the end all must have been made."""
        roots = {event["call"].split(".")[0] for event in self.calls} - {"network", "network[model]", "torch"}
        roots = {root for root in roots if root.isidentifier()}
        finder = _Finder(roots, self)
        kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] in {*roots, "torch"}}
        for name in kept:
            del sys.modules[name]
        sys.meta_path.insert(0, finder)
        sys.modules["torch"] = _torch(self)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.split(".")[0] in {*roots, "torch"}]:
                del sys.modules[name]
            sys.modules.update(kept)
        rest = [event["call"] for event in self.calls]
        assert not rest, f"recorded, but not called: {', '.join(rest)}"


class _Module(types.ModuleType):
    __path__: ClassVar[list[str]] = []
    _replay: Replay

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__ == "cv2" and name.startswith("INTER_"):
            return {"INTER_CUBIC": 2, "INTER_AREA": 3}[name]
        return Stand(f"{self.__name__}.{name}", self._replay, name)


class _Finder:
    """Any module below upstream's packages."""

    def __init__(self, roots: set[str], replay: Replay) -> None:
        self.roots, self.replay = roots, replay

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in self.roots else None

    def create_module(self, spec: Any) -> Any:
        module = _Module(spec.name)
        module._replay = self.replay
        return module

    def exec_module(self, module: Any) -> None:
        pass


def _torch(replay: Replay) -> Any:
    """The part of torch that adapters use, by numpy."""

    @contextlib.contextmanager
    def no_grad() -> Iterator[None]:
        before, replay.grad = replay.grad, False
        yield
        replay.grad = before

    @contextlib.contextmanager
    def autocast(kind: str, dtype: Any = None, enabled: bool = True) -> Iterator[None]:
        before, replay.cast = replay.cast, f"{kind} {dtype}" if enabled else ""
        yield
        replay.cast = before

    def seed(value: int) -> None:
        replay.call("torch.manual_seed", (value,), {})

    return types.SimpleNamespace(
        Tensor=Tensor,
        tensor=lambda values: tensor(np.asarray(values, np.float32)),
        from_numpy=tensor,
        no_grad=no_grad,
        autocast=autocast,
        manual_seed=seed,
        device=str,
        equal=lambda a, b: bool(np.array_equal(a, b)),
        quantile=lambda values, q: np.quantile(np.asarray(values, np.float64), q).astype(np.float32),
        cat=lambda tensors, dim=0: tensor(np.concatenate(tensors, dim)),
        ones_like=np.ones_like,
        sigmoid=lambda logits: 1 / (1 + np.exp(-logits)),
        bfloat16="bfloat16",
        float16="float16",
        cuda=types.SimpleNamespace(get_device_capability=lambda device: (8, 0)),
    )
