"""Tables that papers report: shown beside measured rows, marked as reported, never ranked with them.

A source is two files of `reports/published/`: NAME.toml says where the numbers come from and what its protocol leaves
unstated, NAME.csv holds them, one number a row, as printed.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports import text

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ReportedTable:
    """One table of a source: a row a system and number of views, a column a metric."""

    dataset: str
    heads: tuple[str, ...]  # metric, unit and arrow
    rows: tuple[tuple[str, int, tuple[str, ...]], ...]  # system, views, the numbers as printed ("" where none)


@dataclass(frozen=True)
class Source:
    """One publication."""

    name: str
    title: str
    cite: str
    url: str
    protocol: str
    unstated: str
    tables: tuple[ReportedTable, ...]


def sources(folder: Path = FOLDER) -> list[Source]:
    """Every source of `folder`, by name."""
    return [_source(path) for path in sorted(folder.glob("*.toml"))]


def _source(path: Path) -> Source:
    about = tomllib.loads(path.read_text(encoding="utf-8"))
    numbers = pd.read_csv(path.with_suffix(".csv"), dtype=str)
    tables = tuple(_table(str(name), group) for name, group in numbers.groupby("dataset", sort=False))
    return Source(path.stem, **about, tables=tables)


def _table(dataset: str, numbers: pd.DataFrame) -> ReportedTable:
    metrics = list(dict.fromkeys(zip(numbers["metric"], numbers["unit"], numbers["better"], strict=True)))
    values = {(row.system, row.views, row.metric): str(row.value) for row in numbers.itertuples(index=False)}
    rows = dict.fromkeys(zip(numbers["system"], numbers["views"], strict=True))
    return ReportedTable(
        dataset,
        tuple(text.metric_name(*metric) for metric in metrics),
        tuple(
            (system, int(views), tuple(values.get((system, views, name), "") for name, _, _ in metrics))
            for system, views in rows
        ),
    )
