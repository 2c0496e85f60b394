"""What a system's scores owe to what should not matter: `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.common import Truth, console, options_of, output, split


def audit(
    *,
    adapter: Annotated[str, Parameter(help="an adapter's name or folder")],
    scene: Annotated[str, Parameter(help="an embedded scene or a Scene directory")],
    views: Annotated[int, Parameter(help="how many views to give")] = 8,
    truth: Annotated[Truth, Parameter(help="the truth to score against")] = "exact",
    protocol: Annotated[str, Parameter(help="a protocol's name or .toml file")] = "object-v1",
    give: Annotated[str | None, Parameter(help="masks, cameras: given if the adapter accepts them")] = None,
    option: Annotated[list[str] | None, Parameter(help="NAME=VALUE, an option of the adapter; may be repeated")] = None,
    weights: Annotated[str, Parameter(help="pretrained, or a checkpoint's path")] = "pretrained",
    device: str = "cpu",
    seed: int = 0,
    out: Annotated[Path | None, Parameter(help="a .csv to write the values to")] = None,
) -> int:
    """Run a system on the same views twice, reversed, and with another one first: the error bar of a single run.

    Exit code 1 where a run fails."""
    import msgspec
    import pandas as pd
    from rich.table import Table

    from adapters.contract import InputError
    from bench.scoring.audit import audit as audit_runs
    from bench.scoring.audit import error_bars, orders
    from bench.systems.cards import get_adapter
    from bench.trials.scenes import get_scene
    from bench.trials.suite import Contestant
    from metrics.scoring.protocol import load_protocol, metric_table
    from reports.schema import write_csv

    meant, opened = load_protocol(protocol), get_scene(scene)
    if views < 2:
        raise InputError(f"--views: {views} seen, 2 at least wanted: one view has no order")
    opened.truth(truth)  # InputError where it is absent
    fields = {"name": adapter, "options": options_of(option), "give": split(give or ""), "weights": weights}
    try:
        contestant = msgspec.convert(fields, Contestant)
    except msgspec.ValidationError as error:
        raise InputError(f"--give: {error}") from error
    runs = []
    total = len(orders(tuple(map(str, range(views)))))
    with console.status(f"run 1 of {total}") as status:
        for run in audit_runs(get_adapter(adapter), contestant, opened, views, truth, meant, device, seed):
            runs.append(run)
            status.update(f"run {len(runs) + 1} of {total}")
    trial = runs[0].trial
    output.print(f"{trial.label}, {trial.inputs}, seed {seed}", markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("metric", *(run.name for run in runs), "error bar"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    bars = error_bars(runs, meant)
    units = metric_table(meant)
    for metric, (values, bar) in bars.items():
        numbers = ["-" if value is None else f"{value:.4g}" for value in values]
        table.add_row(metric, *numbers, "-" if bar is None else f"±{bar:.2g} {units[metric][0]}")
    output.print(table)
    for run in runs[1:]:
        bits = "equal to the last bit" if run.same_bits else "differs"
        output.print(f"{run.name}: {bits if run.status == 'ok' else f'{run.status}, {run.message}'}", markup=False)
    if out is not None:
        names = [run.name for run in runs]
        of: dict[str, str | int] = {"system": trial.system, "inputs": trial.inputs, "scene": opened.name}
        of |= {"views": views, "seed": seed, "device": device, "truth": truth, "protocol": meant.name}
        rows = [
            {**of, "metric": m, **dict(zip(names, values, strict=True)), "error_bar": bar}
            for m, (values, bar) in bars.items()
        ]
        write_csv(out, pd.DataFrame(rows))
        output.print(str(out), markup=False)
    return 0 if all(run.status == "ok" for run in runs) else 1
