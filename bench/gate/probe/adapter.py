"""An adapter of which the gate knows what the harness must report: its times, its memory, its numbers."""

from __future__ import annotations

import sys
import threading
import time
import types

import numpy as np

from adapters.contract import Reconstruction, Reconstructor, Views

PREPARE, INFER, FINISH = 0.02, 0.1, 0.1  # seconds that each step takes at least
MEBIBYTES = 96  # resident at the peak, beside the interpreter


class LateDevice(types.ModuleType):
    """Stands in for torch: work is queued at once, and done when somebody synchronises."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.cuda = self
        self._queue: list[threading.Thread] = []

    def submit(self, seconds: float) -> None:
        """Start work that takes `seconds`, and do not wait for it."""
        thread = threading.Thread(target=time.sleep, args=(seconds,))
        thread.start()
        self._queue.append(thread)

    def synchronize(self, device: str | None = None) -> None:
        while self._queue:
            self._queue.pop().join()

    def manual_seed(self, seed: int) -> None:
        """Nothing here draws from it."""

    def reset_peak_memory_stats(self, device: str | None = None) -> None:
        """Nothing is allocated."""

    def max_memory_allocated(self, device: str | None = None) -> int:
        return 12345

    def mem_get_info(self, device: str | None = None) -> tuple[int, int]:
        return 1000, 3000


class Adapter(Reconstructor):
    """Ten points drawn from the global generator, and ten from one of its own with the seed it was given."""

    def load(self, device: str, weights: str, seed: int) -> None:
        self._seed = seed
        np.ones(MEBIBYTES * 2**17).sum()  # here, lest it pass for the time of a step
        self._device = sys.modules["torch"] = LateDevice()

    def prepare(self, views: Views) -> Views:
        time.sleep(PREPARE)
        return views

    def infer(self, inputs: Views) -> np.ndarray:
        self._device.submit(INFER)
        own = np.random.default_rng(self._seed)
        return np.concatenate([np.random.rand(10, 3), own.random((10, 3))])  # noqa: NPY002 - seeded by the harness

    def finish(self, outputs: np.ndarray, views: Views) -> Reconstruction:
        self._device.submit(FINISH)
        return Reconstruction(points=outputs.astype(np.float32), frame="object", scale="arbitrary")
