"""Figures for papers, as SVG and PNG: curves by number of views, scores with their intervals, scores by share kept,
and error heat maps. Drawn by matplotlib, from the extra `figures`; the heat maps need nothing."""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.contract import TruthKind
from reports import text
from reports.board import Board, Group, Leaderboard, leaderboard
from reports.curves import COSTS, Curve, curves
from reports.export import group_title
from reports.heatmaps import write_heat_maps
from reports.schema import TableError, Tables, checked
from reports.stability import Sweeps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The page's hues on white (Okabe & Ito 2008, darkened).
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc5f9f", "#b98600", "#3fa3d9", "#7a4fbf", "#6b7280")
MARKS = ("o", "s", "D", "^", "P", "v", "*", "X")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e5ea",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "reconbench",
}


def need_matplotlib() -> None:
    """TableError where matplotlib is absent."""
    if importlib.util.find_spec("matplotlib") is None:
        raise TableError("figures: matplotlib is not installed; `pip install 'reconbench[figures]'` brings it")


def write_figures(tables: Tables, out: Path) -> list[Path]:
    """Write the figures of `tables` into `out`/figures; returns the files. TableError where matplotlib is absent."""
    need_matplotlib()
    good = checked(tables)
    board = leaderboard(good)
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    written = _curves(board, good, folder) + _scores(board, good, folder) + _kept(board, good, folder)
    trials = {trial.key: (row, trial) for row in board.rows for trial in row.trials}
    for cloud in good.clouds:
        row, trial = trials[cloud.key]
        name = _slug("heat", row.board.inputs, row.system, row.views, trial.scene, trial.repeat, cloud.truth)
        written += write_heat_maps(cloud.path, folder / name)
    return written


def _slug(*parts: object) -> str:
    return re.sub(r"[^a-z0-9.%]+", "-", "-".join(map(str, parts)).lower()).strip("-").replace("%", "pc")


def _save(axes: Axes, path: Path) -> list[Path]:
    """The figure of `axes` as SVG and PNG, without a date: the same tables give the same bytes."""
    import matplotlib
    from matplotlib import pyplot

    files = [path.with_name(f"{path.name}.{kind}") for kind in ("svg", "png")]
    for file in files:
        dateless = {"Date": None} if file.suffix == ".svg" else {"Software": None}
        with matplotlib.rc_context(STYLE):
            axes.figure.savefig(file, dpi=300, bbox_inches="tight", metadata=dateless)
    pyplot.close("all")
    return files


def _axes(title: str, width: float = 4.4, height: float = 3.0) -> Axes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        _, axes = pyplot.subplots(figsize=(width, height))
        axes.set_title(title, fontsize=9, loc="left")
    return axes


def _hues(board: Leaderboard, place: Board) -> dict[str, int]:
    """System -> its number on the page, so that a figure's colours are the page's."""
    systems = sorted({row.system for row in board.rows if row.board == place})
    return {system: i % len(HUES) for i, system in enumerate(systems)}


def _curves(board: Leaderboard, tables: Tables, folder: Path) -> list[Path]:
    """The ranking metric, the warm time and the memory against the number of views."""
    by_figure: dict[tuple[Board, TruthKind | None, str], list[Curve]] = defaultdict(list)
    units = dict(COSTS)
    for curve in curves(board):
        if curve.quantity in (tables.run.rank_metric, "warm_seconds", "cold_seconds", "peak_rss_bytes"):
            by_figure[curve.board, curve.truth, curve.quantity].append(curve)
    written = []
    for (place, truth, quantity), lines in by_figure.items():
        if max(len(curve.points) for curve in lines) < 2:
            continue
        scale = 2.0**30 if units.get(quantity) == "bytes" else 1.0
        axes = _axes(" · ".join(filter(None, (quantity.replace("_", " "), truth and f"{truth} truth", place.inputs))))
        hues = _hues(board, place)
        for curve in lines:
            points = [point for point in curve.points if point.value is not None]
            values = [point.value / scale for point in points if point.value is not None]
            ends = [
                [
                    max(0.0, v - p.low / scale) if p.low is not None else 0.0
                    for v, p in zip(values, points, strict=True)
                ],
                [
                    max(0.0, p.high / scale - v) if p.high is not None else 0.0
                    for v, p in zip(values, points, strict=True)
                ],
            ]
            hue = hues[curve.system]
            axes.errorbar(
                [point.views for point in points],
                values,
                yerr=ends,
                color=HUES[hue],
                marker=MARKS[hue],
                label=curve.system,
                capsize=2,
                linewidth=1.4,
                markersize=4,
            )
        views = sorted({point.views for curve in lines for point in curve.points})
        axes.set_xscale("log")
        axes.set_xticks(views, [str(count) for count in views])
        axes.minorticks_off()
        axes.set_xlabel("views")
        axes.set_ylabel({"bytes": "GiB", "ratio": ""}.get(lines[0].unit, lines[0].unit))
        if units.get(quantity):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
        written += _save(
            axes, folder / _slug("by-views", place.inputs, place.scope, place.protocol, truth or "", quantity)
        )
    return written


def _scores(board: Leaderboard, tables: Tables, folder: Path) -> list[Path]:
    """Each group's ranking metric: mean, interval and floor of every row, best first."""
    metric = tables.run.rank_metric
    written = []
    for group in board.groups:
        for truth in board.truths:
            rows = [r for r in group.rows if (s := r.scores.get((truth, metric))) is not None and s.value is not None]
            if not rows:
                continue
            axes = _axes(f"{group_title(group)}, {truth} truth", 4.8, 0.6 + 0.32 * len(rows))
            hues = _hues(board, group.board)
            for place, row in enumerate(rows):
                score = row.scores[truth, metric]
                assert score.value is not None
                low, high = score.bounds or (score.value, score.value)
                ends = [[max(0.0, score.value - low)], [max(0.0, high - score.value)]]
                hue = hues[row.system]
                axes.errorbar([score.value], [place], xerr=ends, color=HUES[hue], marker=MARKS[hue], capsize=2)
                if score.floor is not None:
                    axes.plot([score.floor], [place], color="#5b636e", marker="|", markersize=9)
            axes.set_yticks(range(len(rows)), [row.system for row in rows])
            axes.invert_yaxis()
            axes.set_xlim(left=0)
            axes.set_xlabel(
                text.metric_name(metric, rows[0].scores[truth, metric].metric.unit, _better(group, truth, metric))
            )
            name = ("scores", group.board.inputs, group.board.scope, group.board.protocol, group.views, truth, metric)
            written += _save(axes, folder / _slug(*name))
    return written


def _better(group: Group, truth: TruthKind, metric: str) -> str:
    return next(r.scores[truth, metric].metric.better for r in group.rows if (truth, metric) in r.scores)


def _kept(board: Leaderboard, tables: Tables, folder: Path) -> list[Path]:
    """The ranking metric against the share of surest points kept, where a sweep was made."""
    metric, truth, sweeps = tables.run.rank_metric, tables.run.rank_truth, Sweeps(tables, board)
    written = []
    for group in board.groups:
        lines = [(row, points) for row in group.rows if (points := sweeps.kept(row, truth, metric))]
        if not lines:
            continue
        axes = _axes(f"{group_title(group)}, {truth} truth")
        hues = _hues(board, group.board)
        for row, points in lines:
            good = [(100 * point.kept, point.value) for point in points if point.value is not None]
            hue = hues[row.system]
            axes.plot(
                *_columns(good), color=HUES[hue], marker=MARKS[hue], label=row.system, linewidth=1.4, markersize=4
            )
        axes.set_xlabel("surest points kept [%]")
        axes.set_ylabel(metric)
        axes.set_xlim(0, 104)
        axes.legend(fontsize=7)
        name = (
            "by-share-kept",
            group.board.inputs,
            group.board.scope,
            group.board.protocol,
            group.views,
            truth,
            metric,
        )
        written += _save(axes, folder / _slug(*name))
    return written


def _columns(pairs: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    listed = list(pairs)
    return [x for x, _ in listed], [y for _, y in listed]
