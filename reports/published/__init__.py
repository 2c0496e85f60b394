"""Tables that papers report: shown beside measured rows where protocol or data fit, marked as reported, never ranked
with them.

A source is two files of `reports/published/`: NAME.toml says where the numbers come from, under which protocol, and
what that leaves unstated; NAME.csv holds them, one number a row, as printed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import msgspec

from adapters.contract import InputError
from reports import text
from reports.schema import Better

FOLDER = Path(__file__).parent
COLUMNS = ("dataset", "system", "views", "metric", "unit", "better", "value")


class TableFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table, as NAME.toml describes it."""

    where: str  # it stands in the source
    data: tuple[str, ...] = ()  # what a scene of the same data has in its name or title


class SourceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NAME.toml."""

    title: str
    cite: str
    protocol: str  # how the numbers were made, as far as that is stated
    unstated: str  # and what is not
    confirmed: bool  # read in the source itself; else known at second hand
    tables: dict[str, TableFile]  # by dataset
    url: str = ""
    presets: tuple[str, ...] = ()  # the protocols here that reproduce its own


@dataclass(frozen=True)
class _Number:
    """A row of NAME.csv."""

    dataset: str
    system: str
    views: int | None  # None where the source does not say
    metric: str
    unit: str
    better: Better
    value: str  # as printed


@dataclass(frozen=True)
class ReportedTable:
    """One table of a source: a row a system and number of views, a column a metric."""

    dataset: str
    where: str
    data: tuple[str, ...]
    heads: tuple[str, ...]  # metric, unit and arrow
    rows: tuple[tuple[str, int | None, tuple[str, ...]], ...]  # system, views where stated, numbers as printed or ""


@dataclass(frozen=True)
class Source:
    """One publication."""

    name: str
    file: SourceFile
    tables: tuple[ReportedTable, ...]


def sources(folder: Path = FOLDER) -> list[Source]:
    """Every source of `folder`, by name; InputError where one is incomplete or not of its types."""
    return [_source(path) for path in sorted(folder.glob("*.toml"))]


def fitting(every: Iterable[Source], protocols: Collection[str], scenes: Collection[str]) -> list[Source]:
    """The sources, or those tables of them, that belong beside rows under `protocols` (their names) of `scenes` (names
    and titles): made under what such a protocol reproduces, or on the same data."""
    out = []
    for source in every:
        same = not set(protocols).isdisjoint(source.file.presets)
        kept = tuple(table for table in source.tables if same or _same_data(table, scenes))
        if kept:
            out.append(replace(source, tables=kept))
    return out


def _same_data(table: ReportedTable, scenes: Collection[str]) -> bool:
    return any(words.casefold() in scene.casefold() for words in table.data for scene in scenes)


def _source(path: Path) -> Source:
    try:
        about = msgspec.toml.decode(path.read_bytes(), type=SourceFile)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    for field in ("title", "cite", "protocol", "unstated"):
        if not getattr(about, field):
            raise InputError(f'{path}: {field} "" seen, a text wanted')
    numbers = _numbers(path.with_suffix(".csv"))
    named = list(dict.fromkeys(row.dataset for row in numbers))
    if sorted(named) != sorted(about.tables):
        raise InputError(f"{path}: tables {sorted(about.tables)} seen, those of the .csv wanted: {sorted(named)}")
    tables = tuple(_table(name, about.tables[name], [row for row in numbers if row.dataset == name]) for name in named)
    return Source(path.stem, about, tables)


def _numbers(path: Path) -> list[_Number]:
    """The rows of NAME.csv, once each is of its type."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *lines = csv.reader(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    if tuple(head) != COLUMNS:
        raise InputError(f"{path}: columns {', '.join(head)} seen, {', '.join(COLUMNS)} wanted")
    out: list[_Number] = []
    kinds: dict[tuple[str, str], tuple[str, str]] = {}
    known: set[tuple[str, str, int | None, str]] = set()
    for at, line in enumerate(lines, 2):
        where = f"{path}, line {at}"
        if len(line) != len(COLUMNS):
            raise InputError(f"{where}: {len(line)} fields seen, {len(COLUMNS)} wanted")
        row = _number(where, dict(zip(COLUMNS, line, strict=True)))
        if kinds.setdefault((row.dataset, row.metric), (row.unit, row.better)) != (row.unit, row.better):
            raise InputError(f"{where}: another unit or direction of {row.metric} than above seen, the same wanted")
        named = (row.dataset, row.system, row.views, row.metric)
        if named in known:
            raise InputError(f"{where}: a second {row.metric} of {row.system} at {row.views} views seen, one wanted")
        known.add(named)
        out.append(row)
    return out


def _number(where: str, fields: dict[str, str]) -> _Number:
    if not all(value for name, value in fields.items() if name != "views"):
        raise InputError(f"{where}: an empty field seen, none but views may be")
    views = fields["views"]
    if views and (not views.isdecimal() or int(views) < 1):
        raise InputError(f"{where}: views {views} seen, a whole number of at least 1 wanted, or none")
    if fields["better"] not in get_args(Better):
        raise InputError(f"{where}: better {fields['better']} seen, lower or higher wanted")
    if not _is_number(fields["value"]):
        raise InputError(f"{where}: value {fields['value']} seen, a finite number wanted")
    return _Number(**(fields | {"views": int(views) if views else None}))  # type: ignore[arg-type]


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _table(dataset: str, about: TableFile, numbers: list[_Number]) -> ReportedTable:
    metrics = list(dict.fromkeys((row.metric, row.unit, row.better) for row in numbers))
    values = {(row.system, row.views, row.metric): row.value for row in numbers}
    rows = dict.fromkeys((row.system, row.views) for row in numbers)
    return ReportedTable(
        dataset,
        about.where,
        about.data,
        tuple(text.metric_name(*metric) for metric in metrics),
        tuple(
            (system, views, tuple(values.get((system, views, name), "") for name, _, _ in metrics))
            for system, views in rows
        ),
    )
