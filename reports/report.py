"""Everything a run is reported as, in one folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from reports.curves import curves, curves_csv
from reports.html import write_html
from reports.leaderboard import comparisons_csv, latex, leaderboard_csv, markdown, scores_csv
from reports.standings import leaderboard
from reports.tables import Tables, checked


def write_report(tables: Tables, out: Path) -> list[Path]:
    """Write every report of `tables` into the folder `out`; returns the files written.

    leaderboard.csv, scores.csv, curves.csv, comparisons.csv, leaderboard.md, leaderboard.tex, and leaderboard.html
    with the pages, scripts, clouds and images that it links to.
    A pure function of the tables and the files they name: the same tables give the same bytes.
    Raises TableError where a table breaks its description."""
    good = checked(tables)
    board = leaderboard(good)
    lines = curves(board)
    out.mkdir(parents=True, exist_ok=True)
    return [
        _csv(out / "leaderboard.csv", leaderboard_csv(board, good.run)),
        _csv(out / "scores.csv", scores_csv(good)),
        _csv(out / "curves.csv", curves_csv(lines)),
        _csv(out / "comparisons.csv", comparisons_csv(board, good.run)),
        _text(out / "leaderboard.md", markdown(board, good.run)),
        _text(out / "leaderboard.tex", latex(board, good.run)),
        *write_html(good, board, lines, out),
    ]


def _csv(path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")
    return path


def _text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="\n")
    return path
