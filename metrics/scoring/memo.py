"""What protocols share: one prediction scored under many that differ in some stages alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from metrics.scoring.protocol import STAGES, Protocol

T = TypeVar("T")


class Memo:
    """What was computed of one prediction against one truth, by all that it depends on: kept for as long as this is.

    Alignment, crop and distances depend on the protocol's stages up to their own, so that protocols which differ later
    find them here. Nothing kept is ever changed."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}
        self._about: tuple[Hashable, ...] = ()

    def about(self, *what: Hashable) -> Memo:
        """The part of this memo where besides the stages all depends on `what`."""
        part = Memo()
        part._kept, part._about = self._kept, (*self._about, *what)
        return part

    def once(self, what: Hashable, protocol: Protocol, stage: str, make: Callable[[], T]) -> T:
        """The value of `make()`, which depends on `what` it is, and on the protocol's seed and stages up to `stage`."""
        key = (what, self._about, protocol.seed, *upto(protocol, stage))
        if key not in self._kept:
            self._kept[key] = make()
        return cast("T", self._kept[key])


def upto(protocol: Protocol, stage: str) -> tuple[Hashable, ...]:
    """The protocol's fields of all stages up to `stage`."""
    stages = list(STAGES)[: list(STAGES).index(stage) + 1]
    return tuple(getattr(protocol, field) for name in stages for field in STAGES[name])
