"""Empty modules in the place of packages that upstream's code imports and that nothing here calls.

Runs inside the environments of the systems under test: Python 3.9 syntax.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any


class Absent(types.ModuleType):
    """A module whose every name is a class that cannot be made."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(kind: Any, *_: Any, **__: Any) -> Any:
            raise ImportError(f"{self.__name__}.{name} is called, and {self.__name__} is not installed here")

        return type(name, (), {"__new__": refuse})


@contextlib.contextmanager
def absent(*names: str) -> Iterator[None]:
    """While it lasts those of the dotted `names` that cannot be imported can be."""
    tops = {name.partition(".")[0] for name in names}
    missing = {top for top in tops if top not in sys.modules and importlib.util.find_spec(top) is None}
    made = {name: Absent(name) for name in names if name.partition(".")[0] in missing}
    made.update({top: Absent(top) for top in missing - set(made)})
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        if parent in made:
            setattr(made[parent], own, module)
    sys.modules.update(made)  # not by mock.patch.dict, which would forget what is imported meanwhile
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)
