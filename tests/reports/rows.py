"""Tables made otherwise: rows changed, rows left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from reports.schema import Tables

R = TypeVar("R", bound=Any)


def altered(rows: tuple[R, ...], which: Callable[[R], bool], **values: Any) -> tuple[R, ...]:
    """`rows`, those that `which` picks with other `values`; a function among them is called with the row."""
    assert any(map(which, rows))
    return tuple(
        replace(row, **{name: value(row) if callable(value) else value for name, value in values.items()})
        if which(row)
        else row
        for row in rows
    )


def without(tables: Tables, which: Callable[[str], bool]) -> Tables:
    """`tables` without the trials whose key `which` picks, and without all that is said of them."""
    names = ("trials", "scores", "alignments", "clouds", "sweeps", "remarks")
    return replace(tables, **{name: tuple(r for r in getattr(tables, name) if not which(r.key)) for name in names})
