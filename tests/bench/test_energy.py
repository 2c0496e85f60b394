"""The energy of a call, against a driver's library that counts what it is asked."""

from __future__ import annotations

import sys
import types

import pytest

from bench.systems.clock import HostClock
from bench.systems.energy import meter_of, no_meter
from bench.systems.events import Cold
from bench.systems.measure import Steps

COLD = Cold(Steps(prepare=0.0, infer=0.0, finish=0.0, total=0.0))


class Driver(types.ModuleType):
    """Stands in for `pynvml`: two devices, of which the second has no counter. Each reading takes 2 J."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.drawn = 5000
        self.devices = {"GPU-a": 0, "GPU-b": 1}

    def nvmlInit(self) -> None:  # noqa: N802 - the library's names
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index > 1:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        if uuid not in self.devices:
            raise self.NVMLError("Not Found")
        return self.devices[uuid]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        if handle == 1:
            raise self.NVMLError("Not Supported")
        self.drawn += 2000
        return self.drawn


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    stub = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", stub)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return stub


@pytest.mark.parametrize(
    ("visible", "device", "counts"),
    [
        (None, "cuda:0", True),
        (None, "cuda", True),
        (None, "cuda:1", False),  # no counter
        (None, "cuda:2", False),  # no such device
        (None, "cpu", False),
        ("1,0", "cuda:1", True),
        ("1,0", "cuda:0", False),
        ("GPU-b, GPU-a", "cuda:1", True),
        ("GPU-c", "cuda:0", False),
        ("0", "cuda:1", False),
        ("", "cuda:0", False),
    ],
)
def test_the_device_that_cuda_means_is_metered(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, counts: bool
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = meter_of(device)
    assert (meter(), meter()) == ((7.0, 9.0) if counts else (None, None))


def test_without_the_drivers_library_or_the_driver_there_is_no_energy(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver() -> None:
        raise driver.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(driver, "nvmlInit", no_driver)
    assert meter_of("cuda:0") is no_meter
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert meter_of("cuda:0") is no_meter


@pytest.mark.parametrize("infer_only", [False, True])
def test_a_call_draws_what_the_counter_moved_by_in_the_steps_that_count(infer_only: bool) -> None:
    drawn = {"begin": 1.0, "prepare": 10.0, "infer": 300.0, "finish": 305.0}
    at = ""

    def meter() -> float:
        return drawn[at]

    clock = HostClock(infer_only, meter=meter)
    for _ in range(2):
        for at in list(drawn)[: 3 if infer_only else 4]:
            clock.start()
            clock.stop(at)
        timed = clock.timed(COLD)
        assert isinstance(timed, Cold) and timed.seconds.joules == (290.0 if infer_only else 304.0)


def test_what_a_worker_says_of_energy_does_not_count() -> None:
    clock = HostClock()
    for step in ("begin", "prepare", "infer", "finish"):
        clock.start()
        clock.stop(step)
    timed = clock.timed(Cold(Steps(prepare=0.0, infer=0.0, finish=0.0, total=0.0, joules=1.0)))
    assert isinstance(timed, Cold) and timed.seconds.joules is None
