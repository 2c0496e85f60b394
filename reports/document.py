"""The documentation of every file that reports write, from the declaration of its columns.

python -m reports.document docs/tables.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from reports.schema import (
    MADE_WITH,
    SCORES_COLUMNS,
    ChangeRow,
    Column,
    ComparisonRow,
    CurveRow,
    DifferenceRow,
    KeptRow,
    LawRow,
    LeaderboardCosts,
    LeaderboardRow,
    MetricColumns,
    StabilityRow,
    TruthColumns,
    columns,
)

HEAD = """# The tables

Every file that `reconbench report`, `curves` and `protocol diff` write, column by column. This page is made from the
declaration of the columns in `reports/schema.py` by `python -m reports.document docs/tables.md`.

An empty field is a missing number or an empty text; why a number is missing is said by the `status` beside it. Numbers
keep every digit. Lengths are percent of the scene's diameter.
"""
# File, what a row is, the columns.
FILES: tuple[tuple[str, str, tuple[Column, ...]], ...] = (
    ("leaderboard.csv", "A row a system on one board (inputs, scope, protocol) at one number of views.", ()),
    (
        "scores.csv, scores.parquet",
        "A row a trial, truth, protocol and metric; of a trial that was never scored one row, with the trial's status.",
        SCORES_COLUMNS,
    ),
    (
        "curves.csv",
        "A row a point of a curve; in a report quality and costs over all scenes, of `curves` each scene's own too.",
        columns(CurveRow),
    ),
    (
        "comparisons.csv",
        "A row an ordered pair of ranked systems of one board, views and truth.",
        columns(ComparisonRow),
    ),
    ("stability.csv", "A row an ordered pair of ranked systems that were swept.", columns(StabilityRow)),
    ("kept.csv", "A row a system, metric and share of its surest points, where sweeps were scored.", columns(KeptRow)),
    ("laws.csv", "A row a cost and law that was fitted to it.", columns(LawRow)),
    ("compare.csv", "A row a trial and quantity of either of two runs.", columns(ChangeRow)),
    ("The file of protocol diff", "A row a trial, metric and stage.", columns(DifferenceRow)),
)
LEADERBOARD = (
    ("First, what names the row and how it stands:", columns(LeaderboardRow)),
    ("Then for each truth, the names behind `TRUTH.` (`colmap.rank`):", columns(TruthColumns)),
    (
        "Then for each truth and metric, the names behind `TRUTH.METRIC.`, the value as `TRUTH.METRIC` alone:",
        columns(MetricColumns),
    ),
    ("Then what it cost:", columns(LeaderboardCosts)),
    ("Last, what all its trials have in common:", MADE_WITH),
)
KINDS = {
    "object": "text",
    "int64": "integer",
    "Int64": "integer, may be missing",
    "float64": "number, may be missing",
    "bool": "True or False",
    "boolean": "True or False, may be missing",
}


def document() -> str:
    """The page, as Markdown."""
    parts = [HEAD]
    for name, row, described in FILES:
        parts.append(f"\n## {name}\n\n{row}\n")
        parts += [_table(described)] if described else [f"\n{words}\n{_table(own)}" for words, own in LEADERBOARD]
    return "".join(parts)


def _table(described: tuple[Column, ...]) -> str:
    rows = [f"| `{column.name}` | {_kind(column)} | {column.unit} | {_meaning(column)} |" for column in described]
    return "\n".join(["", "| column | kind | unit | meaning |", "|---|---|---|---|", *rows, ""])


def _kind(column: Column) -> str:
    if column.dtype == "float64" and not column.optional:
        return "number"
    return KINDS[column.dtype]


def _meaning(column: Column) -> str:
    meaning = f"{column.meaning}: {', '.join(column.values)}" if column.values else column.meaning
    return meaning.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8", newline="\n")
