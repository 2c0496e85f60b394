"""The host's clock around a worker's: a step took what passed between two messages, whatever the worker says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import msgspec

from adapters.contract import ContractError
from bench.systems.energy import Meter, no_meter
from bench.systems.events import Cold, Event, Loaded, Warm
from bench.systems.measure import Steps

# Seconds and share of the host's time by which the worker's own may differ. The host's counts in any case, so this only
# has to tell a clock that was tampered with from a machine on which either process waits for its turn.
APART, SHARE = 3.0, 0.2
STEPS = ("prepare", "infer", "finish")


class HostClock:
    """Stopped by each mark of the worker, started again before that is answered: so a step is never timed too short.

    While the host hands over pixels it stands still."""

    def __init__(self, infer_only: bool = False, most_frames: int = 0, meter: Meter = no_meter) -> None:
        """`most_frames`: outputs that a system may give before `infer` ends; none where it does not stream.
        `meter` is read at both ends of what counts, when no clock runs."""
        self._wanted = STEPS[:2] if infer_only else STEPS  # of random weights `infer` alone counts
        self._counted = STEPS[1:2] if infer_only else STEPS
        self._ends = ("prepare" if infer_only else "begin", self._wanted[-1])  # of what counts
        self._started = time.perf_counter()
        self._paused = 0.0
        self._steps: dict[str, float] = {}
        self._most_frames = most_frames
        self._frames: list[float] = []
        self._meter = meter
        self._joules: list[float | None] = []  # at those ends

    def stop(self, step: str) -> None:
        """Note what passed since the start as the time of `step`; "begin" begins a call, "frame" is part of `infer`."""
        passed = time.perf_counter() - self._started - self._paused
        if step == "frame":
            if list(self._steps) != ["prepare"] or len(self._frames) >= self._most_frames:
                raise ContractError(
                    f"the worker's messages: an output too many seen, {self._most_frames} at most wanted"
                )
            self._frames.append(passed)
            return
        expected = "begin" if step == "begin" else next((name for name in self._wanted if name not in self._steps), "")
        if step != expected:
            raise ContractError(f"the worker's messages: the end of step {step} seen, {expected or 'none'} wanted")
        if step == "begin":
            self._steps, self._frames, self._joules = {}, [], []
        else:
            self._steps[step] = passed + (sum(self._frames) if step == "infer" else 0.0)
        if step in self._ends:
            self._joules.append(self._meter())

    def start(self) -> None:
        self._started, self._paused = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not the worker's time."""
        began = time.perf_counter()
        yield
        self._paused += time.perf_counter() - began

    def timed(self, event: Event) -> Event:
        """`event` with the host's times in place of the worker's; ContractError where the two disagree."""
        if isinstance(event, Loaded):
            loading = time.perf_counter() - self._started - self._paused
            _agree("loading", event.seconds, loading)
            return Loaded(loading)
        if not isinstance(event, (Cold, Warm)):
            return event
        told = event.seconds
        if missing := [name for name in self._wanted if name not in self._steps]:
            raise ContractError(f"the worker's messages: a call without its step {missing[0]} seen, every step wanted")
        passed = {name: self._steps[name] if name in self._counted else 0.0 for name in STEPS}
        for name in STEPS:
            _agree(name, getattr(told, name), passed[name])
        before, after = self._joules
        joules = after - before if before is not None and after is not None else None
        steps = Steps(**passed, total=sum(passed.values()), frames=self._frames, joules=joules)
        self._steps, self._frames = {}, []
        return msgspec.structs.replace(event, seconds=steps)


def _agree(what: str, told: float, passed: float) -> None:
    if abs(told - passed) > APART + SHARE * passed:
        raise ContractError(f"the worker's clock: {told:.3f} s for {what}, which took {passed:.3f} s by the host's")
