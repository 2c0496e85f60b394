"""What comes of a store: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.common import REPORT, STORE, Truth, console, output


def report(
    *,
    store: Annotated[Path, Parameter(help="the store to report on")] = STORE,
    out: Annotated[Path, Parameter(help="the folder to write the report to")] = REPORT,
    protocol: Annotated[str, Parameter(help="a protocol's name or .toml file")] = "object-v1",
    truth: Annotated[Truth, Parameter(help="the truth to rank under")] = "colmap",
) -> int:
    """Write leaderboard.html, leaderboard.csv, scores.csv and their peers."""
    from bench.store import Store
    from bench.tables import make_tables
    from reports.report import write_report

    with console.status("scoring what is not scored yet") as status:
        tables = make_tables(Store(store), protocol, truth, lambda label: status.update(f"scored {label}"))
        status.update("writing")
        paths = write_report(tables, out)
    for path in paths:
        if path.suffix in (".html", ".csv", ".md", ".tex") and path.parent == out:
            output.print(str(path), markup=False)
    return 0
