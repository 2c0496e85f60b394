"""The leaderboard for machines and papers: leaderboard.csv, scores.csv, Markdown, LaTeX (booktabs)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from adapters.contract import TruthKind
from reports import text
from reports.board import Board, Group, Leaderboard, Metric, Row, Score, Standing, of_board
from reports.ranking import ENOUGH_SCENES
from reports.schema import (
    MADE_WITH,
    SCORES_COLUMNS,
    Cell,
    Column,
    ComparisonRow,
    LeaderboardCosts,
    LeaderboardRow,
    MetricColumns,
    RunInfo,
    Tables,
    TruthColumns,
    cells,
    columns,
    frame,
    metric_order,
    table,
)

PAPER_METRICS = 5  # how many fit a page's width


def leaderboard_csv(board: Leaderboard, run: RunInfo) -> pd.DataFrame:
    """A row a system on a board at one number of views: `LeaderboardRow`, the columns of every truth and metric, and
    `LeaderboardCosts`. Every board has the same columns, those of the ranking truth first."""
    measured = {(truth, metric.id) for (_, truth), metrics in board.metrics.items() for metric in metrics}
    order = [
        (truth, name)
        for truth in board.truths
        for name in metric_order((metric for at, metric in measured if at == truth), run.rank_metric)
    ]
    described = [
        *columns(LeaderboardRow),
        *(_behind(truth, column) for truth in board.truths for column in columns(TruthColumns)),
        *(_behind(f"{truth}.{name}", column) for truth, name in order for column in _metric_described(name)),
        *columns(LeaderboardCosts),
        *MADE_WITH,
    ]
    return frame(described, [_leaderboard_cells(board, row, order, run) for row in board.rows])


def _metric_described(metric: str) -> list[Column]:
    """The columns of one metric; the mean over all pairs of views where it is one over pairs."""
    of_pairs = metric.startswith("auc@") or metric in ("rotation", "translation")
    return [column for column in columns(MetricColumns) if column.name != "micro" or of_pairs]


def _behind(prefix: str, column: Column) -> Column:
    """The column under the name it has for one truth or metric."""
    return replace(column, name=prefix if column.name == "value" else f"{prefix}.{column.name}")


def _leaderboard_cells(
    board: Leaderboard, row: Row, metrics: Sequence[tuple[TruthKind, str]], run: RunInfo
) -> dict[str, Cell]:
    out = cells(_leaderboard_row(row, run))
    for truth in board.truths:
        standing = row.standings.get(truth)
        of_truth = TruthColumns(rank=standing.rank if standing else None, truth_id=_truth_ids(board, row, truth))
        out |= {f"{truth}.{name}": value for name, value in cells(of_truth).items()}
    for truth, metric in metrics:
        name = f"{truth}.{metric}"
        values = cells(_metric_columns(row.scores.get((truth, metric))))
        out |= {name: values.pop("value")} | {f"{name}.{field}": value for field, value in values.items()}
    made_with = cells(row.first)
    out |= {column.name: made_with[column.name] for column in MADE_WITH}
    return out | cells(_leaderboard_costs(row, run))


def _leaderboard_row(row: Row, run: RunInfo) -> LeaderboardRow:
    judged = row.scores.get((run.rank_truth, run.rank_metric))
    standing = row.standings.get(run.rank_truth, Standing(None, 0, f"not scored against {run.rank_truth} truth"))
    return LeaderboardRow(
        inputs=row.board.inputs,
        scope=row.board.scope,
        views=row.views,
        adapter=row.first.adapter,
        system=row.system,
        title=row.first.title,
        rank=standing.rank,
        ranked=standing.ranked,
        agreement=standing.agreement,
        status="ranked" if standing.rank is not None else standing.reason,
        rank_truth=run.rank_truth,
        rank_metric=run.rank_metric,
        scenes=len({cell.scene for cell in judged.cells}) if judged else None,
        cells_ok=len(judged.good) if judged else None,
        cells=len(judged.cells) if judged else None,
        failures=text.kinds(row.failures(run.rank_truth, run.rank_metric)),
        left_out=" | ".join(row.left_out),
        interval=("scenes" if judged.over_scenes else "draws") if judged and judged.good else "",
    )


def _metric_columns(score: Score | None) -> MetricColumns:
    if score is None:
        absent = dict.fromkeys(("value", "low", "high", "spread", "floor", "micro", "judged", "least", "most"))
        return MetricColumns(**absent, cells="", status="not_scored")
    low, high = score.bounds or (None, None)
    least, most = score.possible or (None, None)
    return MetricColumns(
        value=score.value,
        low=low,
        high=high,
        spread=score.spread,
        floor=score.floor,
        micro=score.micro,
        judged=score.judged,
        least=least,
        most=most,
        cells=f"{len(score.good)} of {len(score.cells)}",
        status=score.status,
    )


def _leaderboard_costs(row: Row, run: RunInfo) -> LeaderboardCosts:

    def seconds(field: str) -> float | None:
        spread = row.seconds(field)
        return spread.middle if spread else None

    def most(field: str) -> int | None:
        spread = row.amount(field)
        return int(spread.high) if spread else None

    points = row.amount("points")
    return LeaderboardCosts(
        load_seconds=seconds("load_seconds"),
        cold_seconds=seconds("cold_seconds"),
        warm_seconds=seconds("warm_seconds"),
        warm_iqr=seconds("warm_iqr"),
        prepare_seconds=seconds("prepare_seconds"),
        infer_seconds=seconds("infer_seconds"),
        finish_seconds=seconds("finish_seconds"),
        last_frame_seconds=seconds("last_frame_seconds"),
        frame_growth=seconds("frame_growth"),
        peak_rss_bytes=most("peak_rss_bytes"),
        device_peak_bytes=most("device_peak_bytes"),
        device_driver_bytes=most("device_driver_bytes"),
        device_joules=seconds("device_joules"),
        precision=row.distinct("precision"),
        resolution=row.distinct("resolution"),
        attention=row.distinct("attention"),
        foreground=row.distinct("foreground"),
        timing_status=_timing_status(row),
        busy_trials=sum(trial.busy for trial in row.timed),
        not_isolated_trials=row.not_isolated,
        points=int(points.middle) if points else None,
        hardware=" | ".join(row.hardware),
        origin=row.distinct("origin"),
        verified=row.verified,
        protocol=row.board.protocol,
        protocol_hash=row.board.protocol_hash,
        trials=" ".join(trial.key for trial in row.trials),
        version=run.version,
    )


def _timing_status(row: Row) -> str:
    """ok | why the times are empty."""
    if not row.timed:
        return "no result"
    if len({trial.hardware for trial in row.timed}) > 1:
        return "several machines"
    return "ok" if row.seconds("cold_seconds") else "not timed"


def _truth_ids(board: Leaderboard, row: Row, truth: TruthKind) -> str:
    """`scene=id` for each of a row's scenes that has that truth, joined by spaces."""
    scenes = sorted({trial.scene for trial in row.trials})
    return " ".join(f"{s}={board.cards[s][truth].id}" for s in scenes if truth in board.cards.get(s, {}))


def scores_csv(tables: Tables) -> pd.DataFrame:
    """A row a trial, truth, protocol and metric, with what names the trial; a trial that was never scored has one row.

    `status` is the score's, or the trial's where nothing was scored; a missing value is an empty field."""
    trials = {trial.key: trial for trial in tables.trials}
    rows = [cells(trials[score.key]) | cells(score) for score in tables.scores]
    scored = {score.key for score in tables.scores}
    for trial in tables.trials:
        if trial.key not in scored:
            reason = "unscored" if trial.status == "ok" else trial.status
            rows.append(cells(trial) | {"status": "timed only" if trial.weights == "random" else reason})
            rows[-1]["note"] = trial.message
    order = [*("inputs", "scope", "adapter", "views", "scene", "repeat", "key"), "truth", "protocol", "metric"]
    wanted = [column.name for column in SCORES_COLUMNS]
    out = frame(SCORES_COLUMNS, ({name: row[name] for name in wanted if name in row} for row in rows))
    return out.sort_values(order, kind="stable").reset_index(drop=True)


def comparisons_csv(board: Leaderboard, run: RunInfo) -> pd.DataFrame:
    """A row an ordered pair of ranked systems, on each board, at each number of views, under each truth."""
    return table(ComparisonRow, (row for group in board.groups for row in _comparisons(group, run)))


def _comparisons(group: Group, run: RunInfo) -> Iterator[ComparisonRow]:
    for truth, compared in group.comparisons.items():
        at = of_board(group.board, group.views, truth)
        for i, system in enumerate(compared.systems):
            for j, other in enumerate(compared.systems):
                if i == j:
                    continue
                yield ComparisonRow(
                    at=at,
                    metric=run.rank_metric,
                    system=system,
                    other=other,
                    scenes=int(compared.scenes[i, j]),
                    common_cells=int(compared.common[i, j]),
                    wins=int(compared.wins[i, j]),
                    losses=int(compared.wins[j, i]),
                    failed=int(compared.failed[i, j]),
                    other_failed=int(compared.failed[j, i]),
                    gain=_known(compared.gain[i, j]),
                    low=_known(compared.low[i, j]),
                    high=_known(compared.high[i, j]),
                    better=bool(compared.better[i, j]),
                )


def _known(value: float) -> float | None:
    """`value`, or None for NaN."""
    return None if math.isnan(value) else float(value)


def paper_metrics(board: Leaderboard, place: Board, truth: TruthKind) -> tuple[Metric, ...]:
    """The metrics that a paper's table has room for, the ranking one first."""
    return board.metrics.get((place, truth), ())[:PAPER_METRICS]


def markdown(board: Leaderboard, run: RunInfo) -> str:
    """Every group as a Markdown table."""
    parts = ["# Leaderboard\n\n" + text.markdown(f"Reconbench {run.version}, {run.created}. {_caption(run)}") + "\n"]
    for group in board.groups:
        metrics = paper_metrics(board, group.board, run.rank_truth)
        heads = ["Rank", "System", "Cells", *(text.metric_name(m.id, m.unit, m.better) for m in metrics)]
        heads += ["Warm", "Peak RSS", "Failures"]
        lines = [
            f"\n## {text.markdown(group_title(group))}\n",
            f"{text.markdown(scope_of_claim(group, run.rank_truth))}\n",
        ]
        lines += ["| " + " | ".join(map(text.markdown, heads)) + " |", "|" + "---|" * len(heads)]
        lines += ["| " + " | ".join(map(text.markdown, _cells(row, metrics, run))) + " |" for row in group.rows]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def latex(board: Leaderboard, run: RunInfo) -> str:
    """Every group as a LaTeX table (package booktabs)."""
    parts = [f"% Reconbench {text.one_line(run.version)}, {text.one_line(run.created)}\n% \\usepackage{{booktabs}}\n"]
    for group in board.groups:
        metrics = paper_metrics(board, group.board, run.rank_truth)
        heads = ["Rank", "System", "Cells"]
        heads += [text.latex(text.metric_name(m.id, m.unit, m.better)) for m in metrics]
        heads += ["Warm", "Peak RSS", "Failures"]
        caption = f"{group_title(group)}. {_caption(run)} {scope_of_claim(group, run.rank_truth)}"
        rows = [" & ".join(map(text.latex, _cells(row, metrics, run))) + r" \\" for row in group.rows]
        parts.append(
            "\n".join(
                [
                    "",
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{text.latex(caption)}}}",
                    r"\begin{tabular}{rlr" + "r" * len(metrics) + "rrl}",
                    r"\toprule",
                    " & ".join(heads) + r" \\",
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


def scope_of_claim(group: Group, truth: TruthKind) -> str:
    """How far the ranks under `truth` reach."""
    if truth not in group.comparisons or not group.comparisons[truth].systems:
        if any(row.standings[truth].agreement is not None for row in group.rows if truth in row.standings):
            return "No row here is ranked: all share the method that made this truth. They stand by agreement with it."
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
    notes = [standing.reason] if standing is not None and standing.reason else []
    notes += [text.NOT_ISOLATED] if row.not_isolated else []
    note = f" ({'; '.join(notes)})" if notes else ""
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
