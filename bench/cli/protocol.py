"""Protocols: `protocol list`, `show`, `diff`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from bench.cli.common import STORE, Truth, console, output, split

if TYPE_CHECKING:
    from bench.scoring.explain import Difference
    from metrics.scoring.protocol import Protocol

app = App(name="protocol", help="How predictions are compared with ground truth: list, show, diff.")


@app.command(name="list")
def list_protocols() -> int:
    """Every protocol: its hash, what it ranks by, what it is."""
    from rich.table import Table

    from metrics.scoring.protocol import load_protocol, protocol_names

    table = Table(box=None, pad_edge=False)
    for column in ("protocol", "hash", "ranks by", "unit", "what it is"):
        table.add_column(column, no_wrap=column != "what it is")
    for name in protocol_names():
        protocol = load_protocol(name)
        unit = "% of the diameter" if protocol.unit == "%" else protocol.unit
        table.add_row(name, protocol.hash, protocol.rank_metric, unit, protocol.description)
    output.print(table)
    return 0


@app.command
def show(name: Annotated[str, Parameter(help="a protocol's name or .toml file")], /) -> int:
    """One protocol: every field by stage, its metrics, what its source leaves unstated and what is done otherwise."""
    import msgspec

    from metrics.scoring.protocol import STAGES, load_protocol, metric_table

    protocol = load_protocol(name)
    output.print(f"{protocol.name}, version {protocol.version}, hash {protocol.hash}", markup=False)
    output.print(f"  {protocol.description}", markup=False)
    if protocol.source:
        output.print(f"  source: {protocol.source}", markup=False)
    fields = msgspec.to_builtins(protocol)
    for stage, names in STAGES.items():
        output.print(f"{stage}:", markup=False)
        for field in names:
            output.print(f"  {field} = {_plain(fields[field])}", markup=False)
    output.print(f"reports draw the score at confidence_curve = {_plain(fields['confidence_curve'])}", markup=False)
    metrics = ", ".join(f"{metric} [{unit}]" for metric, (unit, _) in metric_table(protocol).items())
    output.print(f"metrics: {metrics}", markup=False)
    for heading, sentences in (("unstated by its source", protocol.unstated), ("done otherwise", protocol.differs)):
        if sentences:
            output.print(f"{heading}:", markup=False)
        for sentence in sentences:
            output.print(f"  - {sentence}", markup=False)
    return 0


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(content)}" for name, content in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@app.command
def diff(
    first: Annotated[str, Parameter(name="A", help="a protocol's name or .toml file")],
    second: Annotated[str, Parameter(name="B", help="another's")],
    /,
    *,
    store: Annotated[Path, Parameter(help="the store whose predictions are scored under both")] = STORE,
    truth: Annotated[Truth, Parameter(help="the truth to score against")] = "colmap",
    adapters: Annotated[str | None, Parameter(help="names of adapters, comma-separated; default: all")] = None,
    views: Annotated[str | None, Parameter(help="view counts, such as 8,24; default: all")] = None,
    out: Annotated[Path | None, Parameter(help="a .csv to write the parts to")] = None,
) -> int:
    """The same stored predictions under two protocols, and how much of the difference each stage makes.

    Stages are swapped one at a time from A to B, in the order of the pipeline and in reverse; a part is the mean of
    both, so the parts make up the whole: factors of lengths multiply to it, differences of shares add up to it."""
    from bench.cli.common import integers
    from bench.cli.show import progress_bar
    from bench.scoring.collect import newest
    from bench.scoring.explain import difference_rows, explain
    from bench.trials.store import Store
    from metrics.scoring.protocol import load_protocol
    from reports.schema import DifferenceRow, table, write_csv

    a, b = load_protocol(first), load_protocol(second)
    wanted, counts = split(adapters or ""), integers("--views", views or "")
    records = [
        record
        for record in newest(Store(store).trials())
        if (not wanted or record.adapter in wanted) and (not counts or len(record.views) in counts)
    ]
    with progress_bar(console) as progress:
        task = progress.add_task("scoring", total=2 * sum(record.prediction is not None for record in records))
        done = functools.partial(progress.update, task, advance=1)
        differences = list(explain(Store(store), records, truth, a, b, lambda label: done(description=label)))
    _print_differences(differences, a, b)
    if out is not None:
        write_csv(out, table(DifferenceRow, difference_rows(differences, a, b, truth)))
        output.print(str(out), markup=False)
    return 0


def _print_differences(differences: list[Difference], a: Protocol, b: Protocol) -> None:
    """A table a metric: what each protocol reads, and every stage's part."""
    from rich.table import Table

    from bench.scoring.explain import mean_parts
    from metrics.scoring.protocol import differing

    stages = differing(a, b)
    output.print(f"A = {a.name}, B = {b.name}; they differ in: {', '.join(stages)}.", markup=False)
    output.print(
        "Each part is the mean of two: swapped in that order, and in reverse (both in brackets where they differ by "
        "a tenth).",
        markup=False,
    )
    for family in dict.fromkeys(difference.family for difference in differences):
        of_family = [difference for difference in differences if difference.family == family]
        first = of_family[0]
        title = f"\n{family}: A {first.a.metric} [{first.a.unit}], B {first.b.metric} [{first.b.unit}]"
        output.print(title, markup=False)
        table = Table(box=None, pad_edge=False)
        for column in ("adapter", "scene", "views", "A", "B", *stages):
            table.add_column(column, justify="left" if column in ("adapter", "scene") else "right", no_wrap=True)
        whole = [difference for difference in of_family if difference.parts]
        for difference in whole:
            record = difference.record
            numbers = [f"{value.value:.4g}" for value in (difference.a, difference.b)]
            parts = [_part(p.mean, (p.forward, p.backward), difference.by_factor) for p in difference.parts]
            table.add_row(record.system, record.scene, str(len(record.views)), *numbers, *parts)
        if len(whole) > 1:
            parts = [_part(mean, (mean, mean), first.by_factor) for mean in mean_parts(whole).values()]
            table.add_row("mean", "", "", "", "", *parts)
        if whole:
            output.print(table)
        for difference in of_family:
            if not difference.parts:
                record = difference.record
                who = f"{record.system} on {record.scene}, {len(record.views)} views"
                output.print(f"  {who}: not compared, {difference.note}", markup=False)


def _part(mean: float, ends: tuple[float, float], by_factor: bool) -> str:
    def text(value: float) -> str:
        return f"×{value:.3g}" if by_factor else f"{value:+.3f}"

    apart = max(ends) > 1.1 * min(ends) if by_factor else abs(ends[0] - ends[1]) > max(0.1 * abs(mean), 0.005)
    return text(mean) + (f" ({text(min(ends))} {text(max(ends))})" if apart else "")
