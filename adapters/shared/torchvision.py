"""torchvision beside a torch that it was not built for.

Runs inside the environments of the systems under test: torch and torchvision, Python 3.9 syntax.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_kept: list[Any] = []  # operators live as long as the library that declared them


def import_torchvision() -> None:
    """Import torchvision, also where its compiled operators do not fit torch, as with a CPU build of torch.

    Its transforms, all that the systems here use of it, need no operator; calling a missing one still raises."""
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist"
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
