"""The first screen's words and picture say what the rows say, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reports.answer import answer
from reports.board import leaderboard
from reports.report import write_report
from reports.schema import Tables
from tests.reports.conftest import System

COLMAP = System("colmap", "COLMAP", error=1.2, seconds=3.0, kin="colmap", weights="none")
KIN = (
    COLMAP,
    replace(
        COLMAP,
        name="colmap-mvs",
        title="COLMAP + stereo",
        error=0.9,
        seconds=9.0,
        fails=(("toy", 2, "unsupported"), ("toy", 4, "unsupported")),
    ),
    System("vggt", "VGGT", fails=(("toy", 8, "unavailable"),)),
)


def words(tables: Tables) -> list[str]:
    return list(answer(leaderboard(tables), tables).sentences)


def test_kin_are_compared_by_agreement_and_what_is_missing_is_named(make: Callable[..., Tables]) -> None:
    tables = make(systems=KIN, scenes=("toy",), views=(2, 4, 8))
    trials = [t for t in tables.trials if t.adapter != "vggt" or t.views == 8]
    mends = "it needs an environment of its own: `reconbench adapters install vggt` makes it"
    trials = [replace(t, message=f"{mends}.") if t.adapter == "vggt" else t for t in trials]
    kept = {trial.key for trial in trials}
    tables = replace(
        tables,
        trials=tuple(trials),
        scores=tuple(s for s in tables.scores if s.key in kept),
        alignments=(),
        left_out=(),
    )
    output = words(tables)
    first = tables.run.rank_metric
    assert output[0].startswith(
        f"With 8 views on this machine colmap-mvs agrees best of 2 with COLMAP, whose method they share: {first} "
    )
    score = next(
        s for s in tables.scores if (s.adapter, s.views, s.truth, s.metric) == ("colmap-mvs", 8, "colmap", first)
    )
    assert f"{score.value:.3g}"[:4] in output[0] and " s and " in output[0]
    assert any(s.startswith("With 4 views colmap alone can be compared, by agreement with COLMAP") for s in output)
    assert "colmap-mvs finds nothing below 8 views (tried: 2 and 4)." in output
    assert f"Not measured: VGGT: {mends}." in output
    board = leaderboard(tables)
    places = {
        (row.system, row.views): row.standings["colmap"].agreement for row in board.rows if "colmap" in row.standings
    }
    assert places["colmap-mvs", 8] == 1 and places["colmap", 8] == 2 and places["vggt", 8] is None
    assert [row.system for group in board.groups if group.views == 8 for row in group.rows] == [
        *("colmap-mvs", "colmap", "vggt")
    ]


def test_what_one_system_alone_did_with_more_views_does_not_open_the_page(make: Callable[..., Tables]) -> None:
    alone = (replace(KIN[1], fails=(("toy", 16, "timeout"),)), replace(COLMAP, error=3.0))
    output = words(make(systems=alone, scenes=("toy",), views=(8, 16)))
    assert output[0].startswith("With 8 views on this machine colmap-mvs agrees best of 2")
    assert output[1].startswith("With 16 views colmap alone can be compared")


def test_what_came_in_a_bundle_was_not_timed_on_this_machine(tables: Tables) -> None:
    trials = tuple(replace(trial, origin="lab.zip 0123") for trial in tables.trials)
    output = words(replace(tables, trials=trials))
    assert output[0].startswith("With 8 views ") and not any("this machine" in sentence for sentence in output)


def test_the_front_is_what_nothing_beats_at_less(tables: Tables) -> None:
    result = answer(leaderboard(tables), tables)
    assert result.better == "lower" and result.choices
    for choice in result.choices:
        assert choice.seconds is not None
        beaten = any(
            other.quality <= choice.quality and other.seconds <= choice.seconds and other is not choice
            for other in result.choices
            if other.seconds is not None
        )
        assert choice.quickest == (not beaten), choice.row.system
    systems = {choice.row.system for choice in result.choices}
    assert not {"oracle", "noisy-oracle", "elsewhere", "onepass"} & systems


def test_a_ranked_table_names_its_best_and_the_page_opens_with_it(tables: Tables, tmp_path: Path) -> None:
    output = words(tables)
    board = leaderboard(tables)
    best = next(
        row
        for group in board.groups
        if group.views == 8 and group.board.inputs == "images"
        for row in group.rows
        if row.standings["colmap"].rank == 1
    )
    assert output[0].startswith(f"With 8 views on this machine {best.system} is best of 3: ")
    toy = replace(tables.scenes[0], placed=("it's.jpg",), not_placed={'a "b".jpg': "mirrored: it's.jpg turned"})
    write_report(replace(tables, scenes=(toy, *tables.scenes[1:])), tmp_path / "report", "Which for these photos?")
    page = (tmp_path / "report" / "leaderboard.html").read_text()
    lead = page[page.index("<h1>") : page.index('id="tables"')]
    assert "<h1>Which for these photos?</h1>" in lead and output[0] in lead and "data-choices" in lead
    assert "reconbench.choices=" in (tmp_path / "report" / "assets" / "figures.js").read_text()
    assert "1 of 2 files placed" in page and "a &#34;b&#34;.jpg</b>: mirrored: it&#39;s.jpg turned" in page
