"""What is ranked, what is not, and that nothing is lost on the way to the files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.board import Leaderboard, Row, leaderboard
from reports.curves import curve_rows, curves
from reports.export import latex, leaderboard_csv, markdown, scores_csv
from reports.report import write_report
from reports.schema import CurveRow, ScoreRow, Tables, TrialRow, TruthCard, checked, table
from tests.reports.rows import altered, without


def made(tables: Tables) -> Leaderboard:
    return leaderboard(checked(tables))


def row(board: Leaderboard, system: str, views: int, inputs: str | None = None) -> Row:
    result = [r for r in board.rows if (r.system, r.views) == (system, views) and inputs in (None, r.board.inputs)]
    assert len(result) == 1
    return result[0]


def turned(top: float) -> dict[str, Callable[[ScoreRow], float]]:
    """Values that put every order of lengths the other way round: for `altered`."""
    return {
        "value": lambda s: top / s.value if s.value else 0.0,
        "low": lambda s: top / s.high if s.high else 0.0,
        "high": lambda s: top / s.low if s.low else 0.0,
    }


def test_a_system_given_one_truths_cameras_is_not_ranked_under_another(tables: Tables) -> None:
    trials = altered(tables.trials, lambda trial: trial.adapter == "carver", cameras_of="exact")
    standings = row(made(replace(tables, trials=trials)), "carver", 4).standings
    assert standings["exact"].rank is not None
    assert standings["colmap"].rank is None and standings["colmap"].reason == "given the cameras of the exact truth"


def test_rows_of_different_tables_never_meet(tables: Tables) -> None:
    board = made(tables)
    assert len(board.boards) == 3
    for group in board.groups:
        assert {r.board for r in group.rows} == {group.board}
        assert {r.views for r in group.rows} == {group.views}
        for result in group.comparisons.values():
            assert set(result.systems) <= {r.system for r in group.rows}


@pytest.mark.parametrize(
    ("system", "under_colmap", "under_exact"),
    [
        ("colmap", "kin of this truth (colmap)", ""),
        ("elsewhere", "external prediction", "external prediction"),
        ("oracle", "reference: given the truth", "reference: given the truth"),
    ],
)
def test_who_is_never_ranked(tables: Tables, system: str, under_colmap: str, under_exact: str) -> None:
    standings = row(made(tables), system, 4).standings
    assert (standings["colmap"].reason, standings["exact"].reason) == (under_colmap, under_exact)
    assert all((standing.rank is None) == bool(standing.reason) for standing in standings.values())


def test_random_weights_are_shown_with_their_time_only(tables: Tables) -> None:
    result = row(made(tables), "onepass", 4)
    assert result.standings["exact"].reason == "random weights: timed only"
    assert result.scores == {}
    assert result.seconds("warm_seconds") is not None


def test_an_excellent_outsider_changes_nobodys_rank(tables: Tables, make: Callable[..., Tables]) -> None:
    ranked = {r.system: r.standings["colmap"].rank for r in made(tables).rows if r.views == 4}
    alone = without(tables, lambda key: key.startswith(("elsewhere", "colmap-", "onepass")))
    rest = {r.system: r.standings["colmap"].rank for r in made(alone).rows if r.views == 4}
    assert {name: ranked[name] for name in rest} == rest


def test_a_failure_is_counted_by_kind_and_never_averaged(tables: Tables) -> None:
    result = row(made(tables), "densestereo", 8)
    score = result.scores["colmap", "chamfer-l1-sum"]
    assert (len(score.good), len(score.cells), score.status) == (3, 4, "partial")
    assert result.failures("colmap", "chamfer-l1-sum") == {"timeout": 1}
    values = [
        s.value
        for s in tables.scores
        if (s.adapter, s.views, s.truth, s.metric) == ("densestereo", 8, "colmap", "chamfer-l1-sum")
    ]
    assert score.value == pytest.approx(np.mean(values))
    assert score.floor == pytest.approx(0.12)


def test_a_system_without_a_result_has_no_rank_and_keeps_its_row(tables: Tables) -> None:
    keys = {t.key for t in tables.trials if (t.adapter, t.views) == ("grid3r", 2)}
    trials = altered(tables.trials, lambda t: t.key in keys, status="oom")
    kept = replace(tables, trials=trials, scores=tuple(s for s in tables.scores if s.key not in keys))
    result = row(made(kept), "grid3r", 2)
    assert result.standings["colmap"].rank is None
    assert result.standings["colmap"].reason == "no result (oom)"
    assert result.failures("colmap", "chamfer-l1-sum") == {"oom": 4}


def test_cells_not_run_and_not_scored_are_in_the_coverage(tables: Tables) -> None:
    kept = without(tables, lambda key: key == "grid3r-toy-2")
    kept = replace(kept, scores=tuple(s for s in kept.scores if s.key != "grid3r-vase-2"))
    result = row(made(kept), "grid3r", 2)
    assert result.failures("colmap", "chamfer-l1-sum") == {"not_run": 1, "unscored": 1}
    assert len(result.scores["colmap", "chamfer-l1-sum"].cells) == 4


def test_a_prediction_that_cannot_be_scored_has_failed(tables: Tables) -> None:
    result = row(made(tables), "carver", 2)
    assert result.failures("colmap", "chamfer-l1-sum") == {"unscorable": 1}
    assert result.standings["colmap"].rank is not None


def test_repeats_are_one_cell_that_fails_when_any_of_them_does(tables: Tables) -> None:
    again = {"key": "grid3r-toy-2-again", "repeat": 1}
    trial = next(replace(t, **again) for t in tables.trials if t.key == "grid3r-toy-2")
    scores = tuple(
        replace(s, **again, value=s.value + 1, high=s.high + 1)
        for s in tables.scores
        if s.key == "grid3r-toy-2" and s.value is not None and s.high is not None
    )
    both = replace(tables, trials=(*tables.trials, trial), scores=(*tables.scores, *scores))
    cell = next(c for c in row(made(both), "grid3r", 2).scores["exact", "accuracy"].cells if c.scene == "toy")
    alone = next(c for c in row(made(tables), "grid3r", 2).scores["exact", "accuracy"].cells if c.scene == "toy")
    assert cell.value is not None and alone.value is not None
    assert cell.value == pytest.approx(alone.value + 0.5)
    assert cell.low == alone.low
    assert cell.high is not None and alone.high is not None
    assert cell.high == pytest.approx(alone.high + 1)
    failed = replace(tables, trials=(*tables.trials, replace(trial, status="crash")))
    assert row(made(failed), "grid3r", 2).failures("exact", "accuracy") == {"crash": 1}


def test_variants_of_one_adapter_are_told_apart(tables: Tables) -> None:
    trials = altered(tables.trials, lambda t: (t.adapter, t.scene) == ("grid3r", "toy"), device="cuda:0")
    board = made(replace(tables, trials=trials))
    names = {r.system for r in board.rows if r.first.adapter == "grid3r"}
    assert names == {"grid3r [device cpu]", "grid3r [device cuda:0]"}
    assert row(board, "grid3r [device cuda:0]", 2).failures("exact", "accuracy") == {"not_run": 3}


def test_times_of_two_machines_are_never_mixed(tables: Tables) -> None:
    trials = altered(tables.trials, lambda t: t.key == "grid3r-toy-2", hardware="another machine")
    board = made(replace(tables, trials=trials))
    assert row(board, "grid3r", 2).seconds("warm_seconds") is None
    written = leaderboard_csv(board, tables.run).query("adapter == 'grid3r' and views == 2")
    assert written["timing_status"].item() == "several machines"
    assert written["warm_seconds"].isna().all()
    trials = altered(trials, lambda t: t.adapter == "elsewhere", cold_seconds=None, load_seconds=None)
    written = leaderboard_csv(made(replace(tables, trials=trials)), tables.run)
    assert set(written.query("adapter == 'elsewhere'")["timing_status"]) == {"not timed"}


def test_one_trial_on_two_machines_is_two_rows(tables: Tables) -> None:
    (first,) = [trial for trial in tables.trials if trial.key == "grid3r-toy-2"]
    there = replace(first, key="there", hardware="another machine")
    board = made(replace(tables, trials=(*tables.trials, there)))
    names = {r.system for r in board.rows if r.views == 2 and r.system.startswith("grid3r")}
    assert names == {"grid3r [hardware another machine]", f"grid3r [hardware {first.hardware}]"}


def test_what_came_in_a_bundle_is_ranked_only_where_its_scores_are_so(tables: Tables) -> None:
    """Two bundles bring trials of the same system: two rows; the one whose claims do not hold has no rank."""
    name = next(r.system for g in leaderboard(tables).groups for r in g.rows if r.standings["colmap"].rank == 1)
    own = [trial for trial in tables.trials if trial.adapter == name]

    def came(trials: Iterable[TrialRow], origin: str, verified: bool) -> tuple[TrialRow, ...]:
        return tuple(replace(t, key=t.key + origin, origin=origin, verified=verified) for t in trials)

    lie, honest = came(own, "liar.zip 0", False), came(own, "lab.zip 1", True)
    keys = {trial.key for trial in own}
    scores = [s for s in tables.scores if s.key in keys]
    bundled = tuple(replace(s, key=s.key + origin) for s in scores for origin in ("liar.zip 0", "lab.zip 1"))
    others = tuple(trial for trial in tables.trials if trial.adapter != name)
    kept = {trial.key for trial in others}
    board = leaderboard(
        replace(
            tables,
            trials=(*others, *lie, *honest),
            scores=(*(s for s in tables.scores if s.key in kept), *bundled),
            alignments=(),
            clouds=(),
            remarks=(),
            sweeps=(),
        )
    )
    rows = [row for row in board.rows if row.first.adapter == name]
    liars = [row for row in rows if row.first.origin == "liar.zip 0"]
    assert liars and all(row.verified is False for row in liars)
    assert {row.standings["colmap"].rank for row in liars} == {None}
    assert {row.standings["colmap"].reason for row in liars} == {"not verified: its bundle claims other scores"}
    assert any(row.standings["colmap"].rank == 1 for row in rows if row.first.origin == "lab.zip 1")
    csv = leaderboard_csv(board, tables.run)
    assert set(csv[csv["origin"] == "liar.zip 0"]["verified"]) == {False}


def test_the_mean_has_an_interval_over_scenes_only_with_enough_of_them(make: Callable[..., Tables]) -> None:
    small = row(made(make(scenes=tuple(f"s{i}" for i in range(4)))), "swiftrecon", 4).scores["exact", "accuracy"]
    many = row(made(make(scenes=tuple(f"s{i}" for i in range(9)))), "swiftrecon", 4).scores["exact", "accuracy"]
    assert not small.over_scenes and many.over_scenes
    assert small.value and many.value and small.bounds and many.bounds
    assert small.bounds == pytest.approx((small.value * 0.99, small.value * 1.01))
    assert many.bounds[1] - many.bounds[0] > 0.1 * many.value


def test_the_judge_is_judged_on_shared_scenes(tables: Tables) -> None:
    groups = {(g.board.inputs, g.views): g for g in made(tables).groups}
    result = groups["images", 4].agreement
    assert result is not None
    assert (result.systems, result.tau) == (3, 1.0)  # kin is not ranked under COLMAP's truth
    nobody = groups["images+truth", 4].agreement
    assert nobody is not None
    assert (nobody.systems, nobody.tau) == (0, None)
    only = replace(tables, scores=tuple(s for s in tables.scores if s.truth == "colmap"))
    assert all(g.agreement is None for g in made(only).groups)


def test_the_judge_is_judged_only_where_both_truths_are(tables: Tables) -> None:
    """On the three scenes without exact truth COLMAP's ranking is turned round; the agreement must not see them."""
    real = ("toy", "vase", "skull")
    scores = tuple(s for s in tables.scores if s.scene not in real or s.truth != "exact")
    scores = altered(scores, lambda s: s.scene in real and s.better == "lower" and s.status == "ok", **turned(1000.0))
    scenes = altered(tables.scenes, lambda s: s.scene in real, truths={"colmap": TruthCard("c", 1.7)})
    board = made(replace(tables, scores=scores, scenes=scenes))
    assert row(board, "swiftrecon", 4).standings["colmap"].rank == 1
    assert row(board, "swiftrecon", 4).standings["exact"].rank == 4
    result = {(g.board.inputs, g.views): g for g in board.groups}["images", 4].agreement
    assert result is not None
    assert (result.systems, result.tau) == (3, 1.0)
    assert len(row(board, "grid3r", 4).scores["exact", "accuracy"].cells) == 1


def test_each_scene_says_whether_its_two_truths_order_everything_alike(tables: Tables) -> None:
    metric = tables.run.rank_metric
    same = made(tables).judged_alike("toy", metric)
    assert same.tau is not None and 0.9 < same.tau < 1 and same.systems > 3  # kin are in it, and every number of views
    place = ("toy", "colmap", metric, "ok")
    scores = altered(tables.scores, lambda s: (s.scene, s.truth, s.metric, s.status) == place, **turned(1.0))
    against = made(replace(tables, scores=scores)).judged_alike("toy", metric)
    assert (against.systems, against.tau) == (same.systems, -same.tau)
    only = replace(tables, scores=tuple(s for s in tables.scores if s.truth == "colmap"))
    assert made(only).judged_alike("toy", metric).tau is None


def test_leaderboard_csv_is_whole(tables: Tables) -> None:
    written = leaderboard_csv(made(tables), tables.run)
    assert len(written) == 10 * 4
    assert not written.duplicated(["adapter", "inputs", "scope", "views"]).any()
    result = written.query("adapter == 'grid3r' and views == 8").iloc[0]
    assert result["rank"] == 1
    assert result["failures"] == "oom 1"
    assert result["colmap.chamfer-l1-sum.cells"] == "3 of 4"
    assert result["colmap.truth_id"].split()[0] == "plant=c-plant"
    assert result["protocol_hash"] == "5e1f00"
    assert result["peak_rss_bytes"] > 0 and result["parameters"] == 571_000_000
    for name in written.columns:
        if name.endswith(".status"):
            value = written[name.removesuffix(".status")]
            assert (value.notna() == written[name].isin(["ok", "partial"])).all(), name


def test_scores_csv_keeps_every_trial_and_every_digit(tables: Tables, tmp_path: Path) -> None:
    written = scores_csv(checked(tables))
    assert set(written["key"]) == {trial.key for trial in tables.trials}
    assert len(written) == len(tables.scores) + 3 + 1 + 16  # failed trials; the sixteen of random weights
    write_report(tables, tmp_path / "out")
    back = pd.read_csv(tmp_path / "out" / "scores.csv")
    merged = back.merge(table(ScoreRow, tables.scores), on=["key", "truth", "metric"])
    assert len(merged) == len(tables.scores)
    assert np.array_equal(merged["value_x"], merged["value_y"], equal_nan=True)
    assert set(back.loc[back["value"].isna(), "status"]) == {"oom", "timeout", "unsupported", "timed only", "failed"}


def test_curves_have_gaps_where_there_is_no_result(tables: Tables) -> None:
    written = table(CurveRow, curve_rows(curves(made(tables))))
    assert set(written["quantity"]) >= {"accuracy", "warm_seconds", "peak_rss_bytes"}
    assert "device_peak_bytes" not in set(written["quantity"])
    line = written.query("system == 'densestereo' and quantity == 'accuracy' and truth == 'exact'")
    assert line["views"].tolist() == [1, 2, 4, 8]
    assert line["cells_ok"].tolist() == [2, 4, 4, 3]
    assert written.query("truth != ''")["system"].ne("onepass").all()


def test_a_scene_of_its_own_gives_the_curves_of_its_scores_alone(tables: Tables) -> None:
    whole = table(ScoreRow, tables.scores).query("adapter == 'densestereo' and views == 8 and metric == 'accuracy'")
    whole = whole[whole["truth"] == "exact"]
    for scene in {trial.scene for trial in tables.trials}:
        part = made(tables.of_scene(scene))
        points = table(CurveRow, curve_rows(curves(part)))
        points = points.query("system == 'densestereo' and views == 8 and quantity == 'accuracy'")
        (point,) = points.query("truth == 'exact'").itertuples()
        assert point.cells <= 2  # its repeats
        wanted = whole[(whole["scene"] == scene) & whole["value"].notna()]["value"]
        assert point.cells_ok == len(wanted) and (not len(wanted) or point.value == pytest.approx(wanted.mean()))


def test_markdown_and_latex_survive_hostile_names(hostile: Tables) -> None:
    board = made(hostile)
    text = markdown(board, hostile.run)
    assert "<script>" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for block in tables:
        lines = block.strip().splitlines()
        bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines]
        assert len(set(bars)) == 1
    tex = latex(board, hostile.run)
    for line in tex.splitlines():
        if line.endswith(r"\\"):
            plain = line.replace(r"\&", "").replace(r"\$", "").replace(r"\_", "").replace(r"\%", "")
            plain = plain.replace(r"$\downarrow$", "").replace(r"$\uparrow$", "")
            assert plain.count("&") == 10
            assert "$" not in plain and "_" not in plain and "%" not in plain


def test_reports_are_deterministic(tables: Tables, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(tables.trials))
    shuffled = replace(tables, trials=tuple(tables.trials[i] for i in order), scores=tables.scores[::-1])
    first = write_report(tables, tmp_path / "a")
    second = write_report(shuffled, tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in second]
    assert len(set(first)) == len(first)
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_an_empty_run_makes_an_empty_report(tables: Tables, tmp_path: Path) -> None:
    names = ("trials", "scores", "alignments", "clouds", "left_out")
    empty = replace(tables, **dict.fromkeys(names, ()))
    for path in write_report(empty, tmp_path / "out"):
        assert path.is_file()
    with (tmp_path / "out" / "scores.csv").open() as file:
        assert next(csv.reader(file))[0] == "key"
    assert len(pd.read_csv(io.StringIO((tmp_path / "out" / "leaderboard.csv").read_text()))) == 0


def test_the_mean_over_all_pairs_stands_beside_the_mean_over_scenes(tables: Tables) -> None:
    # Two of the scenes have few pairs of views and a bad value: they weigh as much as the others over scenes (macro)
    # and next to nothing over pairs (micro).
    few = ("toy", "vase")
    scores = altered(
        tables.scores,
        lambda s: s.metric == "auc@30" and s.value is not None,
        value=lambda s: 0.1 if s.scene in few else 0.9,
        low=None,
        high=None,
        pairs=lambda s: 1 if s.scene in few else 99,
    )
    board = made(replace(tables, scores=scores))
    score = row(board, "swiftrecon", 4).scores["exact", "auc@30"]
    many = len({cell.scene for cell in score.cells}) - len(few)
    assert many > 0 and score.value == pytest.approx((0.1 * len(few) + 0.9 * many) / (len(few) + many))
    pooled = (0.1 * len(few) + 0.9 * 99 * many) / (len(few) + 99 * many)
    assert score.micro == pytest.approx(pooled)
    written = leaderboard_csv(board, tables.run)
    line = written[(written.system == "swiftrecon") & (written.views == 4)].iloc[0]
    assert line["exact.auc@30.micro"] == pytest.approx(pooled) and line["exact.auc@30"] == pytest.approx(score.value)
    assert "exact.accuracy.micro" not in written.columns  # no mean over pairs
    # Where one of the scores does not say how many pairs it is of, there is none.
    unsaid = altered(scores, lambda s: s.metric == "auc@30" and s.scene == "toy", pairs=None)
    assert row(made(replace(tables, scores=unsaid)), "swiftrecon", 4).scores["exact", "auc@30"].micro is None
