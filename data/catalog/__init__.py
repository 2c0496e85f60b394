"""Published datasets as Scene directories: one importer a file, each declared by its `LAYOUT`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping

from adapters.contract import InputError
from data.catalog.shared.layout import Layout


@functools.cache
def layouts() -> Mapping[str, Layout]:
    """Every importer of this folder, by the name that the command line gives it."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names if not name.startswith("_"))
    declared = [module.LAYOUT for module in modules]
    return {layout.name: layout for layout in declared}


def find_layout(name: str) -> Layout:
    """The importer of that name; InputError lists those that exist."""
    if name not in layouts():
        raise InputError(f"layout {name} seen, one of {', '.join(layouts())} wanted")
    return layouts()[name]
