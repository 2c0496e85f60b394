"""Adapters whose `infer` runs what a test says, and waiting for what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bench.systems.cards import Adapter, get_adapter


def spy(folder: Path, body: str) -> Adapter:
    """An adapter whose `infer` runs `body`."""
    folder.mkdir()
    (folder / "adapter.toml").write_text('name = "spy"\ntitle = "Spy"\nlicence_code = "MIT"\nscope = "scene"\n')
    (folder / "adapter.py").write_text(
        "import numpy as np\nfrom adapters.contract import Reconstruction, Reconstructor\n"
        "class Adapter(Reconstructor):\n    def infer(self, inputs):\n"
        + "".join(f"        {line}\n" for line in body.splitlines())
        + f"        # {folder}\n"  # so that its staged code is like no other test's
        + "        return Reconstruction(np.zeros((1, 3), np.float32), 'object', 'arbitrary')\n"
    )
    return get_adapter(str(folder))


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> bool:
    """Whether `condition` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
