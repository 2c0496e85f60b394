"""Rank stability and the score against the share kept: shares of comparisons against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.board import Leaderboard, leaderboard
from reports.report import write_report
from reports.schema import SweepRow, Tables
from reports.stability import Stability, Sweeps
from tests.reports.rows import without

A, B = "grid3r", "swiftrecon"


def swept(
    tables: Tables, value: Callable[[str, str, str, float], float | None], sure: tuple[str, ...] = (A,)
) -> Tables:
    """`tables` with a sweep: `value(adapter, scene, alignment, keep)`, an interval of +-0.1; None fails."""
    rows = []
    for score in tables.scores:
        if (score.metric, score.truth) != ("chamfer-l1-sum", "colmap"):
            continue
        for alignment in ("as ranked", "by search"):
            for keep in (1.0, 0.5) if score.adapter in sure else (1.0,):
                swept_value = value(score.adapter, score.scene, alignment, keep)
                ends = (None, None) if swept_value is None else (swept_value - 0.1, swept_value + 0.1)
                rows.append(
                    SweepRow(
                        key=score.key,
                        truth="colmap",
                        protocol_hash=score.protocol_hash,
                        alignment=alignment,
                        keep=keep,
                        kept=float(keep),
                        metric=score.metric,
                        value=swept_value,
                        low=ends[0],
                        high=ends[1],
                        status="failed" if swept_value is None else "ok",
                    )
                )
    return replace(tables, sweeps=tuple(rows))


def judged(tables: Tables, views: int = 4) -> tuple[Leaderboard, Sweeps, Stability]:
    board = leaderboard(tables)
    sweeps = Sweeps(tables, board)
    group = next(g for g in board.groups if g.board.inputs == "images" and g.views == views)
    result = sweeps.stability(group, "colmap")
    assert result is not None
    return board, sweeps, result


def share(result: Stability, first: str, second: str) -> float:
    return float(result.share[result.systems.index(first), result.systems.index(second)])


def test_a_system_better_under_every_choice_always_wins(tables: Tables) -> None:
    _, _, result = judged(swept(tables, lambda name, *_: 1.0 if name == A else 5.0))
    assert share(result, A, B) == 1.0 and share(result, B, A) == 0.0
    off = ~np.eye(len(result.systems), dtype=bool)
    np.testing.assert_allclose((result.share + result.share.T)[off], 1.0)
    assert result.alignments == ("as ranked", "by search") and result.shares_kept == (1.0, 0.5)


def test_a_choice_that_turns_the_order_is_counted_by_its_share(tables: Tables) -> None:
    turned = swept(
        tables, lambda name, _, alignment, __: 2.0 if name == B else 1.0 if alignment == "as ranked" else 3.0
    )
    _, _, result = judged(turned)
    assert share(result, A, B) == 0.5
    fewer = swept(tables, lambda name, _, __, keep: 2.0 if name == B else 1.0 if keep == 1.0 else 3.0)
    _, _, result = judged(fewer)
    assert share(result, A, B) == 0.5, "a system without confidence enters with all its points"


def test_noise_within_a_scene_reads_its_normal_share(make: Callable[..., Tables]) -> None:
    gap, spread = 0.05, 0.1 / 1.96
    tables = swept(make(scenes=("toy",)), lambda name, *_: 1.0 if name == A else 1.0 + gap, sure=())
    _, _, result = judged(tables)
    assert share(result, A, B) == pytest.approx(0.5 * (1 + math.erf(gap / (2 * spread))), abs=0.04)


def test_scenes_are_resampled(tables: Tables) -> None:
    # One better by far in one of four scenes, worse in three by less: the mean decides by how often that one is drawn.
    worth = {"toy": -30.0, "vase": 6.0, "skull": 6.0, "plant": 6.0}
    tables = swept(tables, lambda name, scene, *_: 50 + (worth[scene] if name == A else 0.0), sure=())
    _, _, result = judged(tables)
    assert share(result, A, B) == pytest.approx(1 - 0.75**4, abs=0.04)  # drawn once or more, -30 outweighs three of 6


def test_a_failed_cell_loses(tables: Tables) -> None:
    lost = swept(tables, lambda name, scene, *_: None if name == A and scene == "toy" else 2.0 if name == B else 1.9)
    whole = swept(tables, lambda name, *_: 2.0 if name == B else 1.9)
    assert share(judged(lost)[2], A, B) < share(judged(whole)[2], A, B)


def test_a_cell_that_was_never_run_is_no_failure(tables: Tables) -> None:
    """As in the ranking: A, better wherever both were run, must not lose by the scene that it was not run on."""
    whole = swept(tables, lambda name, *_: 1.0 if name == A else 5.0)
    fewer = without(whole, lambda key: key.startswith(f"{A}-toy-"))
    board, _, result = judged(fewer)
    group = next(g for g in board.groups if g.board.inputs == "images" and g.views == 4)
    compared = group.comparisons["colmap"]
    assert share(result, A, B) == 1.0
    assert compared.failed[compared.systems.index(A), compared.systems.index(B)] == 0


def test_the_score_by_share_kept_is_the_mean_over_scenes(tables: Tables) -> None:
    board, sweeps, _ = judged(swept(tables, lambda name, _, __, keep: 2.0 * keep))
    rows = {row.system: row for row in board.rows if row.views == 4}
    points = sweeps.kept(rows[A], "colmap", "chamfer-l1-sum")
    assert [(p.asked, p.kept, p.value) for p in points] == [(1.0, 1.0, 2.0), (0.5, 0.5, 1.0)]
    assert sweeps.kept(rows[B], "colmap", "chamfer-l1-sum") == ()


def test_the_files_and_the_page_have_both_where_a_sweep_was_made(tables: Tables, tmp_path: Path) -> None:
    write_report(tables, tmp_path / "plain")
    assert not (tmp_path / "plain" / "stability.csv").exists()
    assert "Rank stability" not in (tmp_path / "plain" / "leaderboard.html").read_text()
    write_report(swept(tables, lambda name, *_: 1.0 if name == A else 5.0), tmp_path / "out")
    won = pd.read_csv(tmp_path / "out" / "stability.csv").query("views == 4 and system == @A and other == @B")
    assert won["share_won"].tolist() == [1.0]
    assert pd.read_csv(tmp_path / "out" / "kept.csv")["system"].unique().tolist() == [A]
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert page.count("<summary>Rank stability</summary>") >= 1
    assert "surest points" in page
    (row,) = (tmp_path / "out" / "rows").glob(f"{A}-4-*.html")
    assert "By share of surest points kept" in row.read_text()
