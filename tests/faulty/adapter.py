"""Fails on request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np

from adapters.contract import Reconstruction, Reconstructor, Unavailable, Unsupported, Views


class Adapter(Reconstructor):
    """`mode` names the failure; "ok" returns one coloured point a view."""

    def __init__(self, mode: str = "ok", seconds: float = 0.0) -> None:
        self._mode, self._seconds = mode, seconds

    def infer(self, inputs: Views) -> Views:
        time.sleep(self._seconds)
        sys.stderr.write(f"about to be {self._mode}\n")
        if self._mode == "raise":
            raise RuntimeError("something broke")
        if self._mode == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._mode == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._mode == "exit":
            os._exit(3)
        if self._mode == "hang":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            time.sleep(600)
        if self._mode == "allocate":
            hoard = []
            while True:
                hoard.append(np.ones(4_000_000))
        if self._mode == "memory-error":
            raise MemoryError("no room")
        if self._mode == "unsupported":
            raise Unsupported("not these views")
        if self._mode == "unavailable":
            raise Unavailable("no weights here")
        return inputs

    def finish(self, outputs: Views, views: Views) -> Reconstruction:
        points = np.arange(3 * len(views), dtype=np.float32).reshape(-1, 3)
        if self._mode == "nan":
            points[0, 0] = np.nan
        if self._mode == "nothing":
            points = points[:0]
        if self._mode == "wrong-shape":
            points = points[:, :2]
        if self._mode == "none":
            return None  # type: ignore[return-value]
        return Reconstruction(points=points, frame="object", scale="arbitrary")
