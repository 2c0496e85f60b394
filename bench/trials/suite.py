"""Suites: which adapters meet which scenes, with how many views, timed how. Small TOML files."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from adapters.contract import InputError
from bench.systems.cards import Given, Options
from bench.systems.measure import Policy
from data.subsets import Order

SUITES = Path(__file__).parent / "suites"
ALL_VIEWS = 1_000_000  # as a count: every view that a scene has


class Contestant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One adapter of a suite, with its options and what it is given beside images."""

    name: str
    options: Options = {}
    give: list[Given] = []  # beyond what its card requires
    weights: str = "pretrained"  # or "random", which is timed only, or a checkpoint's path
    views: tuple[int, ...] = ()  # its own view counts, instead of the suite's
    timing_views: tuple[int, ...] = ()  # likewise for the timing part

    def __post_init__(self) -> None:
        """InputError where an option is a number that no record could hold."""
        for name, value in self.options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{self.name}: option {name}: {value} seen, a finite number wanted")


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Trials for the clock alone: their results are neither kept nor scored, so many view counts are cheap."""

    views: tuple[int, ...]
    policy: Policy
    scenes: tuple[str, ...] = ()  # none: the suite's


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole experiment."""

    name: str
    description: str = ""
    adapters: list[Contestant]
    # Names of embedded scenes, paths of Scene directories; "*" = every embedded scene; none: the user names his own.
    scenes: tuple[str, ...] = ("*",)
    views: tuple[int, ...] = (8,)
    seeds: tuple[int, ...] = (0,)
    draws: int = 3  # samples of a stochastic system in every cell, each by another seed; ranked by the mean
    # How the views of a count are chosen, nested and seeded: as far apart as they go, or each sharing surface with an
    # earlier one, as structure from motion needs them.
    order: Order = "spread"
    protocol: str = "object-v1"
    protocols: tuple[str, ...] = ()  # more of them, each scored from the same predictions
    truth: str = "colmap"
    device: str = "cpu"
    budget_seconds: float | None = None  # stop starting trials that would not end within it
    policy: Policy = msgspec.field(default_factory=Policy)
    timing: Timing | None = None

    def parts(self) -> list[Suite]:
        """The suite without its timing part, and that part as a suite of its own."""
        if self.timing is None:
            return [self]
        replace, timing = msgspec.structs.replace, self.timing
        timed = [replace(asked, views=asked.timing_views) for asked in self.adapters]
        policy = replace(timing.policy, timing_only=True)
        return [
            replace(self, timing=None),
            replace(
                self,
                adapters=timed,
                scenes=timing.scenes or self.scenes,
                views=timing.views,
                policy=policy,
                timing=None,
            ),
        ]

    def with_views(self, views: tuple[int, ...]) -> Suite:
        """The same with these counts everywhere: its contestants have none of their own, and its timing part these."""
        replace = msgspec.structs.replace
        contestants = [replace(contestant, views=(), timing_views=()) for contestant in self.adapters]
        timing = replace(self.timing, views=views) if self.timing is not None else None
        return replace(self, adapters=contestants, views=views, timing=timing)

    def check(self, where: str) -> None:
        """Raise InputError where a field is empty or out of range."""
        for field in ("adapters", "views", "seeds"):
            if not getattr(self, field):
                raise InputError(f"{where}: {field} is empty, at least one wanted")
        if self.timing is not None and not self.timing.views:
            raise InputError(f"{where}: timing.views is empty, at least one wanted")
        for part in self.parts():
            for views in (part.views, *(contestant.views for contestant in part.adapters)):
                if min(views, default=1) < 1:
                    raise InputError(f"{where}: views {min(views)} seen, at least 1 wanted")
        if min(self.seeds) < 0:
            raise InputError(f"{where}: seeds {min(self.seeds)} seen, 0 or more wanted")
        if self.draws < 1:
            raise InputError(f"{where}: draws {self.draws} seen, at least 1 wanted")


def load_suite(name: str) -> Suite:
    """The suite called `name`, or in the file `name`; InputError naming file and field otherwise."""
    path = Path(name) if name.endswith(".toml") else SUITES / f"{name}.toml"
    try:
        suite = msgspec.toml.decode(path.read_bytes(), type=Suite)
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.toml")))
        raise InputError(f"suite {name!r} is not known; known: {known}, or the path of a .toml file") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    suite.check(str(path))
    return suite
