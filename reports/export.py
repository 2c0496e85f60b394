"""The leaderboard for machines and papers: leaderboard.csv, scores.csv, Markdown, LaTeX (booktabs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports import text
from reports.board import Board, Group, Leaderboard, Metric, Row, Standing, records
from reports.ranking import ENOUGH_SCENES
from reports.schema import SCORES, RunInfo, Tables, metric_order

TIMES = (
    *("load_seconds", "cold_seconds", "warm_seconds", "warm_iqr"),
    *("prepare_seconds", "infer_seconds", "finish_seconds"),
)
NAME = ("inputs", "scope", "views", "adapter", "system")  # what names a row
INTEGERS = ("rank", "scenes", "cells_ok", "cells", "peak_rss_bytes", "device_peak_bytes", "parameters", "points")
PAPER_METRICS = 5  # how many fit a page's width


def leaderboard_csv(board: Leaderboard, run: RunInfo) -> pd.DataFrame:
    """A row an adapter x inputs x scope x views (x protocol, x variant where one adapter has several).

    Metric columns are named TRUTH.METRIC: the mean, and after a dot `low` and `high` (95% interval over scenes with at
    least `ENOUGH_SCENES`, else the mean interval over draws: column `interval` says which), `floor`, `cells` ("k of n")
    and `status` (ok | partial | why it is empty). A missing value is an empty field."""
    # Every board has the same columns, those of the ranking truth first.
    found = {(truth, metric.id) for (_, truth), metrics in board.metrics.items() for metric in metrics}
    order = [
        (truth, name)
        for truth in board.truths
        for name in metric_order((metric for at, metric in found if at == truth), run.rank_metric)
    ]
    rows = [_csv_row(board, row, order, run) for row in board.rows]
    table = pd.DataFrame(rows, columns=list(rows[0]) if rows else list(NAME))
    return table.astype({name: "Int64" for name in (*INTEGERS, *(f"{t}.rank" for t in board.truths)) if name in table})


def _csv_row(board: Leaderboard, row: Row, metrics: Sequence[tuple[str, str]], run: RunInfo) -> dict[str, Any]:
    first = row.first
    judged = row.scores.get((run.rank_truth, run.rank_metric))
    standing = row.standings.get(run.rank_truth, Standing(None, 0, f"not scored against {run.rank_truth} truth"))
    out: dict[str, Any] = {
        "inputs": row.board.inputs,
        "scope": row.board.scope,
        "views": row.views,
        "adapter": first.adapter,
        "system": row.system,
        "title": first.title,
        "rank": standing.rank,
        "ranked": standing.ranked,
        "status": "ranked" if standing.rank is not None else standing.reason,
        "rank_truth": run.rank_truth,
        "rank_metric": run.rank_metric,
        "scenes": len({cell.scene for cell in judged.cells}) if judged else None,
        "cells_ok": len(judged.good) if judged else None,
        "cells": len(judged.cells) if judged else None,
        "failures": text.kinds(row.failures(run.rank_truth, run.rank_metric)),
        "left_out": " | ".join(row.left_out),
        "interval": ("scenes" if judged.over_scenes else "draws") if judged and judged.good else None,
    }
    for truth in board.truths:
        out[f"{truth}.rank"] = row.standings[truth].rank if truth in row.standings else None
        out[f"{truth}.truth_id"] = _truth_ids(board, row, truth)
    for truth, metric in metrics:
        score, name = row.scores.get((truth, metric)), f"{truth}.{metric}"
        low, high = (score.bounds if score else None) or (None, None)
        out |= {
            name: score.value if score else None,
            f"{name}.low": low,
            f"{name}.high": high,
            f"{name}.floor": score.floor if score else None,
            f"{name}.cells": f"{len(score.good)} of {len(score.cells)}" if score else None,
            f"{name}.status": score.status if score else "not_scored",
        }
    for field in TIMES:
        spread = row.seconds(field)
        out[field] = spread.middle if spread else None
    for field in ("peak_rss_bytes", "device_peak_bytes"):
        sizes = row.amount(field)
        out[field] = int(sizes.high) if sizes else None
    points = row.amount("points")
    return out | {
        "timing_status": _timing_status(row),
        "busy_trials": sum(trial.busy for trial in row.timed),
        "parameters": first.parameters,
        "points": int(points.middle) if points else None,
        "weights": first.weights,
        "kin": first.kin,
        "reference": first.reference,
        "external": first.external,
        "device": first.device,
        "options": first.options,
        "hardware": " | ".join(row.hardware),
        "environment": first.environment,
        "adapter_hash": first.adapter_hash,
        "protocol": row.board.protocol,
        "protocol_hash": row.board.protocol_hash,
        "trials": " ".join(trial.key for trial in row.trials),
        "version": run.version,
    }


def _timing_status(row: Row) -> str:
    """ok | why the times are empty."""
    if not row.timed:
        return "no result"
    if len({trial.hardware for trial in row.timed}) > 1:
        return "several machines"
    return "ok" if row.seconds("cold_seconds") else "not timed"


def _truth_ids(board: Leaderboard, row: Row, truth: str) -> str:
    """`scene=id` for each of a row's scenes that has that truth, joined by spaces."""
    scenes = sorted({trial.scene for trial in row.trials})
    return " ".join(f"{s}={board.cards[s][truth].id}" for s in scenes if truth in board.cards.get(s, {}))


def scores_csv(tables: Tables) -> pd.DataFrame:
    """A row a trial, truth, protocol and metric, with what names the trial; a trial that was never scored has one row.

    `status` is the score's, or the trial's where nothing was scored; a missing value is an empty field."""
    extra = ["title", "view_ids", "device", "weights", "reference", "external", "kin", "hardware", "prediction"]
    trials = tables.trials[["key", *extra, "status", "message"]]
    scored = tables.scores.merge(trials.drop(columns=["status", "message"]), on="key", how="left")
    rest = tables.trials[~tables.trials["key"].isin(tables.scores["key"])]
    silent = rest.reindex(columns=list(scored.columns)).assign(
        status=[
            "timed only" if t.weights == "random" else ("unscored" if t.status == "ok" else t.status)
            for t in records(rest)
        ],
        note=rest["message"],
    )
    silent = silent.astype(scored.dtypes.to_dict())
    out = pd.concat([scored, silent], ignore_index=True) if len(scored) else silent
    order = ["inputs", "scope", "adapter", "views", "scene", "repeat", "key", "truth", "protocol", "metric"]
    columns = [*SCORES.names, *extra]
    return out.sort_values(order, kind="stable")[columns].reset_index(drop=True)


def comparisons_csv(board: Leaderboard, run: RunInfo) -> pd.DataFrame:
    """A row an ordered pair of ranked systems, on each board, at each number of views, under each truth.

    `gain`: how much better `system` is than `other` in the ranking metric, over the cells where both have a result;
    `low` and `high`: 95% interval of that mean over scenes, empty with too few; `failed`: cells where `system` failed
    and `other` has a result, `other_failed` the reverse: they have no size and are in no mean."""
    rows = []
    for group in board.groups:
        for truth, found in group.comparisons.items():
            for i, system in enumerate(found.systems):
                for j, other in enumerate(found.systems):
                    if i == j:
                        continue
                    rows.append(
                        (
                            *(group.board.inputs, group.board.scope, group.views, group.board.protocol_hash, truth),
                            *(run.rank_metric, system, other, found.scenes[i, j], found.common[i, j]),
                            *(found.wins[i, j], found.wins[j, i], found.failed[i, j], found.failed[j, i]),
                            *(found.gain[i, j], found.low[i, j], found.high[i, j], bool(found.better[i, j])),
                        )
                    )
    return pd.DataFrame(
        rows,
        columns=[
            *("inputs", "scope", "views", "protocol_hash", "truth", "metric", "system", "other", "scenes"),
            *("common_cells", "wins", "losses", "failed", "other_failed", "gain", "low", "high", "better"),
        ],
    )


def paper_metrics(board: Leaderboard, place: Board, truth: str) -> tuple[Metric, ...]:
    """The metrics that a paper's table has room for, the ranking one first."""
    return board.metrics.get((place, truth), ())[:PAPER_METRICS]


def markdown(board: Leaderboard, run: RunInfo) -> str:
    """Every group as a Markdown table."""
    parts = [f"# Leaderboard\n\nReconbench {_md(run.version)}, {_md(run.created)}. {_md(_caption(run))}\n"]
    for group in board.groups:
        metrics = paper_metrics(board, group.board, run.rank_truth)
        heads = ["Rank", "System", "Cells", *(text.metric_name(m.id, m.unit, m.better) for m in metrics)]
        heads += ["Warm", "Peak RSS", "Failures"]
        lines = [f"\n## {_md(group_title(group))}\n", f"{_md(scope_of_claim(group, run.rank_truth))}\n"]
        lines += ["| " + " | ".join(map(_md, heads)) + " |", "|" + "---|" * len(heads)]
        lines += ["| " + " | ".join(map(_md, _cells(row, metrics, run))) + " |" for row in group.rows]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def latex(board: Leaderboard, run: RunInfo) -> str:
    """Every group as a LaTeX table (package booktabs)."""
    parts = [f"% Reconbench {_one_line(run.version)}, {_one_line(run.created)}\n% \\usepackage{{booktabs}}\n"]
    for group in board.groups:
        metrics = paper_metrics(board, group.board, run.rank_truth)
        columns = ["Rank", "System", "Cells"]
        columns += [_tex(text.metric_name(m.id, m.unit, m.better)) for m in metrics]
        columns += ["Warm", "Peak RSS", "Failures"]
        caption = f"{group_title(group)}. {_caption(run)} {scope_of_claim(group, run.rank_truth)}"
        rows = [" & ".join(map(_tex, _cells(row, metrics, run))) + r" \\" for row in group.rows]
        parts.append(
            "\n".join(
                [
                    "",
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_tex(caption)}}}",
                    r"\begin{tabular}{rlr" + "r" * len(metrics) + "rrl}",
                    r"\toprule",
                    " & ".join(columns) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                    "",
                ]
            )
        )
    return "".join(parts)


def group_title(group: Group) -> str:
    """inputs, scope and views in words."""
    protocol = f", protocol {group.board.protocol}" if group.board.protocol else ""
    return f"{group.board.inputs}, {group.board.scope}{protocol}, {group.views} view{'s' * (group.views != 1)}"


def scope_of_claim(group: Group, truth: str) -> str:
    """How far the ranks under `truth` reach."""
    if truth not in group.comparisons or not group.comparisons[truth].systems:
        return "No row here is ranked."
    scenes = group.scenes[truth]
    if scenes >= ENOUGH_SCENES:
        return f"Ranks from 95% intervals over {scenes} scenes."
    return f"Ranks hold within {'this 1 scene' if scenes == 1 else f'these {scenes} scenes'} only."


def _caption(run: RunInfo) -> str:
    return f"Ranked by {run.rank_metric} under {run.rank_truth} truth; a cell is one scene at this number of views."


def _cells(row: Row, metrics: Sequence[Metric], run: RunInfo) -> list[str]:
    judged = row.scores.get((run.rank_truth, run.rank_metric))
    standing = row.standings.get(run.rank_truth)
    rank = str(standing.rank) if standing and standing.rank is not None else text.MISSING
    note = "" if standing is None or not standing.reason else f" ({standing.reason})"
    warm, memory = row.seconds("warm_seconds"), row.amount("peak_rss_bytes")
    return [
        rank,
        f"{row.system}{note}",
        f"{len(judged.good)} of {len(judged.cells)}" if judged else text.MISSING,
        *(text.number(s.value) if (s := row.scores.get((run.rank_truth, m.id))) else text.MISSING for m in metrics),
        text.seconds(warm.middle if warm else None),
        text.size(memory.high if memory else None),
        text.kinds(row.failures(run.rank_truth, run.rank_metric)) or text.MISSING,
    ]


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _md(value: str) -> str:
    """`value` as plain text in a Markdown table."""
    out = _one_line(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "|`*_[]~":
        out = out.replace(mark, "\\" + mark)
    return out


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}


def _tex(value: str) -> str:
    """`value` as plain text in LaTeX."""
    return "".join(_TEX.get(mark, mark) for mark in _one_line(value))
