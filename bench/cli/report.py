"""What comes of a store: `report`."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.common import REPORT, STORE, BundleScenes, Truth, console, output, say_not_scored, say_unreadable

if TYPE_CHECKING:
    from reports.schema import Tables


def report(
    *bundles: Path,
    store: Annotated[Path, Parameter(help="the store to report on")] = STORE,
    out: Annotated[Path, Parameter(help="the folder to write the report to")] = REPORT,
    protocol: Annotated[str, Parameter(help="a protocol's name or .toml file")] = "object-v1",
    truth: Annotated[
        Truth | None,
        Parameter(help="the truth to rank under; default: what ranks most systems, the exact one first"),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        Parameter(help="two stores, or runs as STORE@START of their start time: what changed from the first"),
    ] = None,
    scenes: BundleScenes = "",
    figures: Annotated[bool, Parameter(help="also figures/*.svg and *.png for papers (extra `figures`)")] = False,
    parquet: Annotated[bool, Parameter(help="also scores.parquet (extra `parquet`)")] = False,
) -> int:
    """Write leaderboard.html, leaderboard.csv, scores.csv and their peers; with --compare, compare.html and .csv.

    Of BUNDLES, files that `bundle` wrote, every score is computed again first: their rows say where they came from, and
    whether what was claimed is so. A store is only read: what is not scored yet is named, with the command that scores
    it. Rank stability is there where `score --sweep` made it."""
    if compare is not None:
        return _compare(compare, out, protocol, truth)
    if bundles:
        return _of_bundles(bundles, scenes, out, protocol, truth, figures, parquet)
    return _of_store(store, out, protocol, truth, figures, parquet)


def _of_bundles(
    bundles: tuple[Path, ...],
    scenes: str,
    out: Path,
    protocol: str,
    truth: Truth | None,
    figures: bool,
    parquet: bool,
) -> int:
    """The report on what bundles hold, in a store for the time being: one leaderboard of many, without a server."""
    from bench.cli.bundle import verify_all
    from bench.trials.store import Store

    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        verify_all(bundles, scenes, Store(Path(folder)))
        return _of_store(Path(folder), out, protocol, truth, figures, parquet, stays=False)


def _of_store(
    store: Path, out: Path, protocol: str, truth: Truth | None, figures: bool, parquet: bool, stays: bool = True
) -> int:
    """The report on a store; of one that does not stay, nothing that is in it is linked."""
    from bench.scoring.collect import make_tables
    from bench.trials.store import Store
    from reports.figures import need_matplotlib, write_figures
    from reports.report import need_pyarrow, write_parquet, write_report

    if figures:
        need_matplotlib()
    if parquet:
        need_pyarrow()
    with console.status("reading the store") as status:
        tables = make_tables(Store(store), protocol, truth)
        if not stays:
            tables = _standing_alone(tables, protocol)
        status.update("writing")
        paths = write_report(tables, out)
        paths += write_figures(tables, out) if figures else []
        paths += [write_parquet(tables, out)] if parquet else []
    say_unreadable(Store(store))
    say_not_scored(tables)
    for path in paths:
        if path.suffix in (".html", ".csv", ".md", ".tex", ".parquet") and path.parent == out:
            output.print(str(path), markup=False)
    if figures:
        output.print(f"{out / 'figures'}: {sum(path.parent.name == 'figures' for path in paths)} files", markup=False)
    return 0


def _standing_alone(tables: Tables, protocol: str) -> Tables:
    missing = f"some trials of these bundles have no score under {protocol}" if tables.run.not_scored else ""
    trials = tuple(dataclasses.replace(trial, prediction_path="") for trial in tables.trials)
    return dataclasses.replace(tables, trials=trials, run=dataclasses.replace(tables.run, not_scored=missing))


def _compare(runs: tuple[str, str], out: Path, protocol: str, truth: Truth | None) -> int:
    from reports.compare import sentences, write_comparison

    with console.status("reading the stores"):
        before, after = (_tables(run, protocol, truth) for run in runs)
        rows, paths = write_comparison(before, after, runs, out)
    for tables in (before, after):
        say_not_scored(tables)
    for sentence in sentences(rows):
        output.print(sentence, markup=False)
    for path in paths:
        output.print(str(path), markup=False)
    return 0


def _tables(run: str, protocol: str, truth: Truth | None) -> Tables:
    """The tables of `run`: a store, or STORE@START of one of its runs."""
    from adapters.contract import InputError
    from bench.scoring.collect import keys_of_run, make_tables
    from bench.trials.store import Store

    path, at, started = run.rpartition("@")
    if Path(run).is_dir() or not at:
        path, at = run, ""
    if not Path(path, "trials").is_dir():
        raise InputError(f"--compare: {path}: no trials/ seen, a store wanted")
    store = Store(Path(path))
    return make_tables(store, protocol, truth, only=keys_of_run(store, started) if at else None)
