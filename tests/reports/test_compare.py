"""What changed between two runs: every verdict once, and nothing where nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from reports.compare import changes, sentences, summary, write_comparison
from reports.schema import Tables, TrialRow
from tests.reports.rows import altered, without


def rescored(tables: Tables, key: str, metric: str, **values: Any) -> Tables:
    """`tables` with the score of one trial and metric under COLMAP truth changed."""
    place = (key, metric, "colmap")
    return replace(tables, scores=altered(tables.scores, lambda s: (s.key, s.metric, s.truth) == place, **values))


def failing(tables: Tables, key: str) -> Tables:
    """`tables` with a trial that ended in a timeout, scored as a failure in every metric."""
    nothing = {"value": None, "low": None, "high": None, "before_icp": None}
    scores = altered(tables.scores, lambda s: s.key == key, status="failed", note="timeout: too slow", **nothing)
    trials = altered(tables.trials, lambda t: t.key == key, status="timeout", message="too slow")
    return replace(tables, scores=scores, trials=trials)


def verdicts(before: Tables, after: Tables, adapter: str, scene: str, views: int) -> dict[tuple[str, str], str]:
    rows = changes(before, after)
    named = [(row.of, row.verdict) for row in rows]
    place = (adapter, scene, views)
    return {(of.quantity, of.truth): verdict for of, verdict in named if (of.adapter, of.scene, of.views) == place}


def test_a_run_compared_with_itself_has_not_changed(tables: Tables) -> None:
    rows = changes(tables, tables)
    assert {row.verdict for row in rows} <= {"same", "fails still"}
    assert {row.change for row in rows if row.verdict == "same"} == {0}
    assert {line.change for line in summary(rows)} == {0}


def test_a_change_is_judged_against_the_noise_of_both_sides(tables: Tables) -> None:
    key, metric = "grid3r-toy-4", "accuracy"
    base = rescored(tables, key, metric, value=1.0, low=0.97, high=1.03)
    for value, wanted in ((1.05, "within noise"), (1.06, "worse"), (0.95, "within noise"), (0.94, "better")):
        # Half widths of .03 and .04 make .05.
        after = rescored(tables, key, metric, value=value, low=value - 0.04, high=value + 0.04)
        assert verdicts(base, after, "grid3r", "toy", 4)[metric, "colmap"] == wanted
    more = rescored(tables, key, "fscore@1%", value=0.99, low=0.98, high=1.0)
    assert verdicts(tables, more, "grid3r", "toy", 4)["fscore@1%", "colmap"] == "better", "higher is better here"


def test_gaps_stand_in_plain_sight(tables: Tables, tmp_path: Path) -> None:
    lost, failed = without(tables, "grid3r-toy-4".__eq__), failing(tables, "swiftrecon-vase-2")
    place, metric = ("grid3r", "toy", 4), ("accuracy", "colmap")
    assert verdicts(tables, lost, *place)[metric] == "vanished" and verdicts(lost, tables, *place)[metric] == "new"
    place = ("swiftrecon", "vase", 2)
    assert (
        verdicts(tables, failed, *place)[metric] == "now fails"
        and verdicts(failed, tables, *place)[metric] == "now works"
    )
    assert verdicts(failed, failed, *place)[metric] == "fails still"
    output = list(sentences(changes(tables, failed)))
    assert any(line.startswith("now fails: swiftrecon on vase, 2 views: ") for line in output)
    result, paths = write_comparison(tables, without(failed, "grid3r-toy-4".__eq__), ("old", "new"), tmp_path)
    assert {path.name for path in paths} == {"compare.csv", "compare.html"}
    page = (tmp_path / "compare.html").read_text()
    for word in ("now fails", "vanished", "too slow"):
        assert word in page
    assert len(pd.read_csv(tmp_path / "compare.csv")) == len(result)


def timed(trial: TrialRow) -> bool:
    return trial.warm_seconds is not None


def test_what_cannot_be_compared_is_not(tables: Tables) -> None:
    trials = altered(tables.trials, timed, hardware="another machine", warm_seconds=lambda t: t.warm_seconds * 3)
    moved = verdicts(tables, replace(tables, trials=trials), "grid3r", "toy", 4)
    assert moved["warm_seconds", ""] == "other machine: not compared"
    scores = altered(tables.scores, lambda s: True, truth_id="new")
    assert verdicts(tables, replace(tables, scores=scores), "grid3r", "toy", 4)["accuracy", "colmap"].startswith(
        "other truth"
    )
    slower = replace(tables, trials=altered(tables.trials, timed, warm_seconds=lambda t: t.warm_seconds * 1.5))
    result = verdicts(tables, slower, "grid3r", "toy", 4)
    assert result["warm_seconds", ""] == "worse" and result["cold_seconds", ""] == "same"


def test_means_are_over_the_cells_that_both_runs_have(tables: Tables) -> None:
    after = failing(rescored(tables, "grid3r-toy-4", "accuracy", value=9.0, low=8.9, high=9.1), "grid3r-vase-4")
    place = ("grid3r", 4, "accuracy", "colmap")
    (row,) = (r for r in summary(changes(tables, after)) if (r.adapter, r.views, r.quantity, r.truth) == place)
    assert (row.cells, row.better, row.worse) == (3, 0, 1)
    score = next(s for s in tables.scores if (s.key, s.metric, s.truth) == ("grid3r-toy-4", "accuracy", "colmap"))
    before = score.value
    assert before is not None
    assert abs(row.change - (9.0 - before) / 3) < 1e-9


def test_hostile_names_stay_text(hostile: Tables, tmp_path: Path, make: Callable[..., Tables]) -> None:
    write_comparison(hostile, make(views=(2,)), ("<b>", "x"), tmp_path)
    assert "<script>alert" not in (tmp_path / "compare.html").read_text()
