"""Costs and quality against the number of views: `curves`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.common import STORE, Truth, output, refuse, say_not_scored

if TYPE_CHECKING:
    from reports.scaling import Quality, Series

OUT = Path("runs/curves")


def curves(
    file: Annotated[
        Path | None, Parameter(help="a CSV of your own with columns n,value (and perhaps repeat, sd); default: a store")
    ] = None,
    /,
    *,
    published: Annotated[bool, Parameter(help="the times and memories that published tables report")] = False,
    store: Annotated[Path, Parameter(help="the store to read")] = STORE,
    out: Annotated[Path | None, Parameter(help="the folder to write to; default: runs/curves for a store")] = None,
    limit: Annotated[
        float | None,
        Parameter(
            help="predict the largest count below this: GiB of memory for a store (default: this machine's), "
            "the file's own unit for a file"
        ),
    ] = None,
    protocol: Annotated[str, Parameter(help="a protocol's name or .toml file, for quality")] = "object-v1",
    truth: Annotated[Truth, Parameter(help="the truth that quality was scored under")] = "colmap",
    costs_only: Annotated[bool, Parameter(help="leave quality out")] = False,
) -> int:
    """Which law of growth time and memory follow, if the counts can tell; and how many views fit.

    Writes curves.csv, laws.csv and curves.html, and prints what each series can and cannot tell."""
    from reports.scaling import published_series, read_series, write_curves

    if published and file is not None:
        return refuse("FILE and --published: give one of them")
    quality: Quality = {}
    if file is not None:
        all_series = [read_series(file, limit)]
    elif published:
        all_series = published_series()
    else:
        all_series = _costs(store, limit)
        if not costs_only:
            quality = _quality(store, protocol, truth)
        out = out or OUT
    for series in all_series:
        _print(series)
    if out is not None:
        for path in write_curves(all_series, quality, out):
            if path.parent == out:
                output.print(str(path), markup=False)
    return 0


def _costs(store: Path, limit: float | None) -> list[Series]:
    from adapters.contract import InputError
    from bench.scoring.costs import cost_series
    from bench.systems.measure import Policy, memory_limit_bytes
    from bench.trials.store import Store

    limit_bytes = limit * 2**30 if limit is not None else float(memory_limit_bytes(Policy()))
    all_series = cost_series(Store(store).trials(), limit_bytes)
    if not all_series:
        raise InputError(f"{store}: no adapter with results at three view counts seen, one at least wanted")
    return all_series


def _quality(store: Path, protocol: str, truth: Truth) -> Quality:
    """The curves of every trial that is not for the clock alone; none where there is no such trial."""
    from bench.scoring.collect import make_tables
    from bench.trials.store import Store
    from reports.board import leaderboard
    from reports.curves import curves as quality_curves

    if all(record.policy.timing_only for record in Store(store).trials()):
        return {}
    tables = make_tables(Store(store), protocol, truth)
    say_not_scored(tables)
    scenes = sorted({trial.scene for trial in tables.trials})
    parts = {"": tables} | ({scene: tables.of_scene(scene) for scene in scenes} if len(scenes) > 1 else {})
    return {scene: quality_curves(leaderboard(part)) for scene, part in parts.items()}


def _print(series: Series) -> None:
    from rich.table import Table

    from reports import text

    output.print(series.title, markup=False, style="bold")
    table = Table(box=None, pad_edge=False)
    for column in ("law", "fit", "AICc weight", f"at n = {series.points.n[-1]:g} from the rest", "observed"):
        table.add_column(column, justify="left" if column in ("law", "fit") else "right")
    for fit in series.scaling.fits:
        weight, held = series.scaling.weights.get(fit.law), series.scaling.held_out.get(fit.law)
        row = [fit.law.name, fit.law.formula(fit.coefficients), "too few counts" if weight is None else f"{weight:.3f}"]
        if held is not None:
            outside = "" if held.holds else ", outside"
            row += [f"{text.number(held.low)} to {text.number(held.high)}", f"{text.number(held.observed)}{outside}"]
        table.add_row(*row)
    output.print(table)
    for sentence in series.sentences():
        output.print(f"  {sentence}", markup=False)
    output.print()
