"""The precision that feed-forward networks run in.

Runs inside the environments of the systems under test: torch, Python 3.9 syntax.
"""

from __future__ import annotations

import contextlib
from typing import Any


def half_precision(device: str) -> contextlib.AbstractContextManager[Any]:
    """On CUDA torch's automatic casting to bfloat16 (float16 before Ampere); elsewhere nothing."""
    if not device.startswith("cuda"):
        return contextlib.nullcontext()
    import torch

    ampere = torch.cuda.get_device_capability(device)[0] >= 8
    return torch.autocast("cuda", dtype=torch.bfloat16 if ampere else torch.float16)  # type: ignore[no-any-return]
