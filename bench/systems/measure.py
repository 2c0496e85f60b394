"""Measurement: when to repeat, how much memory a process tree holds, what machine this is and whether it is busy."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import math
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil

from adapters.contract import InputError, TrialStatus
from bench.systems import cgroup

BUSY_SHARE = 0.15  # of the machine's cores used by others while a trial ran
POLL_SECONDS = 0.02
POLL_SHARE = 0.03  # of one core, at most, that a watch may take: it runs beside what it measures
_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").is_file()  # a kernel's own option


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def version() -> str:
    """Reconbench's own, from its package metadata."""
    return importlib.metadata.version("reconbench")


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a trial is timed and when it is stopped.

    One cold call is always timed and reported; then `warmups` discarded calls; then calls until both `repeats` and
    `min_seconds` are met, but none is started that would end after `max_seconds` of warm calls, and of calls that take
    microseconds a thousand are enough."""

    warmups: int = 1
    repeats: int = 3
    min_seconds: float = 1.0
    max_seconds: float = 120.0
    deadline: float = 1800.0  # seconds for loading and every call together
    memory_gib: float = 0.0  # limit on the process tree's resident memory; 0 = 90% of the machine's or its cgroup's
    timing_only: bool = False  # the result is neither kept nor scored

    def __post_init__(self) -> None:
        """InputError naming the field that no clock can meet."""
        for name in ("warmups", "repeats", "min_seconds", "max_seconds", "deadline", "memory_gib"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name}: {value} seen, a finite number from 0 up wanted")


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one call, the device synchronised at both ends of each step."""

    prepare: float
    infer: float
    finish: float
    total: float
    frames: list[float] = []  # of each output of a system that streams, in order; their sum is at most `infer`
    joules: float | None = None  # what its device drew in them, everything that ran on it together


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run of a worker."""

    status: TrialStatus
    message: str = ""
    load_seconds: float | None = None
    cold: Steps | None = None
    warm: list[Steps] = []
    peak_rss: int = 0  # bytes, the process tree
    device_allocator: int | None = None  # bytes
    device_driver: int | None = None  # bytes
    precision: str = ""  # as the adapter reports it, like the next three: see `adapters.contract.Execution`
    resolution: str = ""
    attention: str = ""
    foreground: str = ""
    others_share: float = 0.0  # of the machine's cores, used by others meanwhile
    isolated: bool = False  # run behind walls: truth, store and network out of its reach
    log_tail: str = ""

    @property
    def call_seconds(self) -> float | None:
        """Of a warm call, their median; of the cold one where there was no other."""
        warm, _ = median_and_iqr([steps.total for steps in self.warm])
        return warm if warm is not None else self.cold.total if self.cold is not None else None

    @property
    def frame_seconds(self) -> list[float]:
        """Of each output of a system that streams: median over the warm calls, the cold one's where there are none."""
        calls = [steps.frames for steps in self.warm] or ([self.cold.frames] if self.cold is not None else [])
        alike = len({len(call) for call in calls}) == 1
        return [float(seconds) for seconds in np.median(calls, axis=0)] if alike else []


def growth(seconds: list[float]) -> float | None:
    """How much longer the last tenth of a stream's outputs takes than its first: ratio of medians; None below ten."""
    tenth = -(-len(seconds) // 10)
    if len(seconds) < 10:
        return None
    return float(np.median(seconds[-tenth:]) / max(float(np.median(seconds[:tenth])), 1e-9))


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What timings depend on; timings of two fingerprints are never compared."""

    cpu: str
    cores: int
    memory_gib: int
    devices: list[str]
    system: str
    python: str

    @property
    def fingerprint(self) -> str:
        """12 hex digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]

    def __str__(self) -> str:
        devices = f", {', '.join(self.devices)}" if self.devices else ""
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib} GiB{devices}, {self.system} [{self.fingerprint}]"


@functools.cache
def hardware() -> Hardware:
    """This machine."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        devices = (
            subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip().splitlines()
        )
    except (OSError, subprocess.SubprocessError):
        devices = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = round(psutil.virtual_memory().total / 2**30)
    return Hardware(cpu, cores, memory, devices, f"{platform.system()} {platform.machine()}", platform.python_version())


def device_kind(device: str, machine: Hardware | None = None) -> str:
    """What a result depends on of "cpu" or "cuda:N" of `machine`, or this one: the device's model, not its number."""
    kind, _, number = device.partition(":")
    models = [name.rpartition(",")[0] for name in (machine or hardware()).devices]
    return f"{kind} {models[int(number or 0)]}" if kind == "cuda" and int(number or 0) < len(models) else kind


def median_and_iqr(values: list[float]) -> tuple[float | None, float | None]:
    """Median and interquartile range; both null for no values, the range for fewer than two."""
    if not values:
        return None, None
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(middle), float(high - low) if len(values) > 1 else None


@dataclass
class TreeUsage:
    """What a watched process tree used."""

    peak_rss: int = 0  # bytes, summed over the tree
    over_limit: bool = False
    starved: bool = False  # the machine had under 3% of its memory left, or the kernel ended some process for it
    oom_killed: bool = False  # the kernel ended a process of our control group
    others_share: float = 0.0  # share of the machine's cores that other processes used meanwhile


class TreeWatch:
    """Polls the resident memory of a process and its descendants; kills nothing, but calls `on_limit` once.

    The first `harness` generations, of which `pid` is the first, are ours and do not count. RLIMIT_AS is no substitute:
    it breaks CUDA, which reserves address space far beyond what it touches."""

    def __init__(self, pid: int, limit_bytes: int, on_limit: Callable[[], None], harness: int = 0) -> None:
        self.usage = TreeUsage()
        self._process = psutil.Process(pid)
        self._limit, self._on_limit, self._harness = limit_bytes, on_limit, harness
        self._stop = threading.Event()
        self._cpu: dict[int, float] = {}
        self._oom_kills = cgroup.oom_kills()
        self._machine_cpu, self._began = _busy_seconds(), time.perf_counter()
        self._thread = threading.Thread(target=self._run, daemon=True, name="memory watch")
        self._thread.start()

    def stop(self) -> TreeUsage:
        """End the watch and return what was seen."""
        self._stop.set()
        self._thread.join()
        group, machine = (now > before for now, before in zip(cgroup.oom_kills(), self._oom_kills, strict=True))
        self.usage.oom_killed, self.usage.starved = group, self.usage.starved or group or machine
        wall = max(time.perf_counter() - self._began, 1e-6)
        cores = psutil.cpu_count() or 1
        others = _busy_seconds() - self._machine_cpu - sum(self._cpu.values())
        self.usage.others_share = float(np.clip(others / (wall * cores), 0.0, 1.0))
        return self.usage

    def _run(self) -> None:
        known: dict[int, psutil.Process] = {}
        pause = POLL_SECONDS
        while not self._stop.wait(pause):
            began, total = time.thread_time(), 0
            if not self._process.is_running():
                return
            for pid in self._counted():
                try:
                    process = known.get(pid) or known.setdefault(pid, psutil.Process(pid))
                    total += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                except psutil.Error:
                    continue
            self.usage.peak_rss = max(self.usage.peak_rss, total)
            self.usage.starved |= psutil.virtual_memory().available < 0.03 * psutil.virtual_memory().total
            if total > self._limit and not self.usage.over_limit:
                self.usage.over_limit = True
                self._on_limit()
            pause = max(POLL_SECONDS, (time.thread_time() - began) / POLL_SHARE)

    def _counted(self) -> list[int]:
        """The processes beyond the harness's generations."""
        counted, generation, depth = list[int](), [self._process.pid], 0
        while generation:
            if depth >= self._harness:
                counted += generation
            generation = [child for pid in generation for child in _children(pid)]
            depth += 1
        return counted


def _children(pid: int) -> list[int]:
    """Of a process, none where it has ended. The kernel lists them by thread; without that, every process of the
    machine is looked at, which takes milliseconds."""
    children: list[int] = []
    if not _LISTS_CHILDREN:
        with contextlib.suppress(psutil.Error):
            children = [child.pid for child in psutil.Process(pid).children()]
        return children
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (thread / "children").read_bytes().split())
    return children


def memory_limit_bytes(policy: Policy) -> int:
    """The limit of `policy` in bytes; never more than the machine, or the control group that we are in, has."""
    room = min(psutil.virtual_memory().total, cgroup.memory_limit() or 2**62)
    return min(int(policy.memory_gib * 2**30), room) if policy.memory_gib else int(0.9 * room)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))
