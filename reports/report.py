"""Everything a run is reported as, in one folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from reports.board import leaderboard
from reports.curves import curve_rows, curves
from reports.export import comparisons_csv, latex, leaderboard_csv, markdown, scores_csv
from reports.page.html import TITLE, write_html
from reports.schema import CurveRow, KeptRow, StabilityRow, TableError, Tables, checked, table, write_csv
from reports.stability import Sweeps, kept_rows, stability_rows


def write_report(tables: Tables, out: Path, title: str = TITLE) -> list[Path]:
    """Write every report of `tables` into the folder `out`; returns the files written.

    leaderboard.csv, scores.csv, curves.csv, comparisons.csv, leaderboard.md, leaderboard.tex, and leaderboard.html
    with the pages, scripts, clouds and images that it links to; where the run was swept, stability.csv and kept.csv.
    A pure function of the tables and the files they name: the same tables give the same bytes.
    Raises TableError where a table breaks its description."""
    good = checked(tables)
    board = leaderboard(good)
    lines, sweeps = curves(board), Sweeps(good, board)
    out.mkdir(parents=True, exist_ok=True)
    swept = []
    if sweeps:
        swept.append(write_csv(out / "stability.csv", table(StabilityRow, stability_rows(board, sweeps))))
        swept.append(write_csv(out / "kept.csv", table(KeptRow, kept_rows(board, sweeps))))
    return [
        write_csv(out / "leaderboard.csv", leaderboard_csv(board, good.run)),
        write_csv(out / "scores.csv", scores_csv(good)),
        write_csv(out / "curves.csv", table(CurveRow, curve_rows(lines))),
        write_csv(out / "comparisons.csv", comparisons_csv(board, good.run)),
        _text(out / "leaderboard.md", markdown(board, good.run)),
        _text(out / "leaderboard.tex", latex(board, good.run)),
        *swept,
        *write_html(good, board, lines, sweeps, out, title),
    ]


def need_pyarrow() -> None:
    """TableError where pyarrow is absent."""
    if importlib.util.find_spec("pyarrow") is None:
        raise TableError("parquet: pyarrow is not installed; `pip install 'reconbench[parquet]'` brings it")


def write_parquet(tables: Tables, out: Path) -> Path:
    """Write `out`/scores.parquet, the rows of scores.csv with their types; TableError where pyarrow is absent."""
    need_pyarrow()
    path = out / "scores.parquet"
    scores_csv(checked(tables)).to_parquet(path, engine="pyarrow", index=False)
    return path


def _text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="\n")
    return path
