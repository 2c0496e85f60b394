"""The instruments: exact distances, certified transport and registration of point clouds.

`from metrics import nearest, chamfer, fscore, emd, register` gives functions; each is loaded when it is first asked
for, so that importing any module of this package stays cheap.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.chamfer import chamfer
    from metrics.emd import emd
    from metrics.fscore import fscore
    from metrics.nearest import nearest
    from metrics.register import register

__all__ = ["chamfer", "emd", "fscore", "nearest", "register"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    globals()[name] = function
    return function


class _Instruments(ModuleType):
    """This package. Each instrument's function bears the name of its module, and the function keeps it.

    Python binds a submodule to its package when it is first imported: without this, `from metrics import chamfer`
    would give the module or the function depending on what was imported before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Instruments
