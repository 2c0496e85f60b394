"""The flags of `run`, and the suite that they make of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bench.cli.common import Truth, Weights, integers, options_of, split

if TYPE_CHECKING:
    from bench.trials.suite import Suite


@Parameter(name="*")
@dataclass(frozen=True)
class RunFlags:
    """What to run; a flag that is given overrides the suite."""

    suite: Annotated[str | None, Parameter(help="a suite's name or .toml file; default: embedded")] = None
    adapters: Annotated[str | None, Parameter(help="names or folders of adapters, comma-separated")] = None
    scenes: Annotated[str | None, Parameter(help="embedded scenes or Scene directories, comma-separated")] = None
    views: Annotated[str | None, Parameter(help="view counts, such as 1,2,4; default: all")] = None
    seeds: Annotated[str | None, Parameter(help="seeds, each a repeat with its own view subset: 0,1,2")] = None
    draws: Annotated[int | None, Parameter(help="samples of a stochastic system in every cell; default: 3")] = None
    order: Annotated[
        Literal["spread", "overlap", "sequence"] | None, Parameter(help="of the views that a count takes")
    ] = None
    give: Annotated[str | None, Parameter(help="masks, cameras, targets: given to adapters that accept them")] = None
    option: Annotated[list[str] | None, Parameter(help="NAME=VALUE, an option of the adapter; may be repeated")] = None
    protocol: Annotated[str | None, Parameter(help="how to score: a protocol's name or .toml file")] = None
    truth: Annotated[Truth | None, Parameter(help="the truth to rank under; others are printed beside it")] = None
    weights: Weights | None = None
    device: Annotated[str | None, Parameter(help="cpu or cuda:N")] = None
    budget: Annotated[float | None, Parameter(help="seconds; trials that do not fit are named and left out")] = None
    deadline: Annotated[float | None, Parameter(help="seconds that a trial may take")] = None
    memory: Annotated[float | None, Parameter(help="GiB that a trial's processes may hold")] = None
    repeats: Annotated[int | None, Parameter(help="timed calls after the cold one and the warm-ups")] = None
    warmups: Annotated[int | None, Parameter(help="calls after the cold one that are not counted")] = None
    min_seconds: Annotated[float | None, Parameter(help="seconds that the timed calls last at least")] = None
    max_seconds: Annotated[float | None, Parameter(help="seconds after which no warm call is started")] = None
    timing_only: Annotated[bool | None, Parameter(help="for the clock alone: nothing is kept or scored")] = None


def suite_of(flags: RunFlags) -> Suite:
    """The suite asked for, or one made of the flags; flags that were given override the suite's fields."""
    import msgspec

    from adapters.contract import InputError
    from bench.trials.suite import ALL_VIEWS, Contestant, Suite, load_suite

    if flags.suite is None and flags.adapters is not None:
        base = Suite(name="command line", adapters=[Contestant(name="null")], views=(ALL_VIEWS,))
    else:
        base = load_suite(flags.suite or "embedded")
    changes: dict[str, object] = {}
    given = split(flags.give or "")
    if unknown := [word for word in given if word not in ("masks", "cameras", "targets", "truth")]:
        raise InputError(f"--give: {unknown[0]!r} seen, masks, cameras, targets or truth wanted")
    if flags.adapters is not None:
        options = options_of(flags.option)
        weights = flags.weights or "pretrained"
        changes["adapters"] = [
            {"name": name, "options": options, "give": given, "weights": weights} for name in split(flags.adapters)
        ]
    elif given or flags.option or flags.weights:
        raise InputError("--give, --option and --weights: --adapters is wanted with them")
    if flags.views is not None:
        base = base.with_views(integers("--views", flags.views))
    if flags.seeds is not None:
        changes["seeds"] = integers("--seeds", flags.seeds)
    if flags.protocol is not None:
        changes["protocols"] = ()
    plain = {
        "draws": flags.draws,
        "order": flags.order,
        "protocol": flags.protocol,
        "truth": flags.truth,
        "device": flags.device,
        "budget_seconds": flags.budget,
    }
    changes |= {field: value for field, value in plain.items() if value is not None}
    policy = {
        "deadline": flags.deadline,
        "memory_gib": flags.memory,
        "repeats": flags.repeats,
        "warmups": flags.warmups,
        "min_seconds": flags.min_seconds,
        "max_seconds": flags.max_seconds,
        "timing_only": flags.timing_only,
    }
    stated = {field: value for field, value in policy.items() if value is not None}
    if stated:
        changes["policy"] = {**msgspec.to_builtins(base.policy), **stated}
    if base.timing is not None:
        timing = msgspec.to_builtins(base.timing)
        scenes = () if flags.scenes is not None else timing["scenes"]
        changes["timing"] = {**timing, "scenes": scenes, "policy": {**timing["policy"], **stated}}
    if flags.scenes is not None:
        changes["scenes"] = split(flags.scenes)
    try:
        merged = msgspec.convert({**msgspec.to_builtins(base), **changes}, Suite)
    except msgspec.ValidationError as error:
        raise InputError(f"the command line: {error}") from error
    merged.check("the command line" if flags.suite is None else flags.suite)
    return merged
