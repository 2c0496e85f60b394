"""Where trials run, as far as their identity depends on it: this machine, or the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from adapters.contract import Unavailable
from bench.systems import environments, measure, weights
from bench.systems.cards import Adapter
from bench.systems.measure import Hardware
from bench.systems.walls import thread_settings

ABSENT = "absent"  # the environment's id where there is none


class Site(Protocol):
    """What a place brings to the trials that run there."""

    @property
    def machines(self) -> tuple[Hardware, ...]:
        """Every kind of machine that may run a trial; at least one."""

    @property
    def threads(self) -> Mapping[str, str]:
        """The variables there that say how libraries use threads: sums depend on how they are split."""

    def environment(self, adapter: Adapter) -> str:
        """Id of what `adapter` runs in: specification, interpreter, packages; ABSENT where there is none."""

    def weights(self, adapter: Adapter, requested: str) -> str:
        """Id of the weights `requested`: of the very files; the bare "pretrained" where they are not there. InputError:
        no such path."""


@dataclass(frozen=True)
class Here:
    """The machine that this process runs on."""

    @property
    def machines(self) -> tuple[Hardware, ...]:
        return (measure.hardware(),)

    @property
    def threads(self) -> Mapping[str, str]:
        return thread_settings()

    def environment(self, adapter: Adapter) -> str:
        try:
            return environments.find(adapter).id
        except Unavailable:
            return ABSENT

    def weights(self, adapter: Adapter, requested: str) -> str:
        try:
            return weights.resolve(adapter, requested).id
        except Unavailable:
            return requested


HERE: Site = Here()


@dataclass(frozen=True)
class Elsewhere:
    """Machines that were asked before; those of a cluster agree in all but their hardware."""

    machines: tuple[Hardware, ...]
    threads: Mapping[str, str] = field(hash=False)
    environment_of: Mapping[str, str] = field(hash=False)  # by `Adapter.argument`
    weights_of: Mapping[tuple[str, str], str] = field(hash=False)  # by `Adapter.argument` and what was requested

    def environment(self, adapter: Adapter) -> str:
        return self.environment_of[adapter.argument]

    def weights(self, adapter: Adapter, requested: str) -> str:
        return self.weights_of[adapter.argument, requested]
