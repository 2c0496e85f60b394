"""The CUDA kernels run in Triton's interpreter where there is no GPU, and on the GPU where there is one."""

from __future__ import annotations

import os
import types
from importlib.util import find_spec


def _interpret() -> None:
    """Before Triton is first imported: `triton.jit` decides then, also for Triton's own functions."""
    import torch

    if torch.cuda.is_available():
        return
    os.environ["TRITON_INTERPRET"] = "1"
    import triton
    import triton.language as tl
    from triton.runtime import interpreter

    triton.knobs.runtime.interpret = True
    # Every call of a helper patches the language anew, at half of the whole time: once is enough.
    if hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        interpreter._patch_lang = lambda function: interpreter._LangPatchScope()


if find_spec("torch") is not None and find_spec("triton") is not None:
    _interpret()
