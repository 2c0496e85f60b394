"""Rows become tables with exact columns, and are refused with a sentence that names the fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.document import FILES, LEADERBOARD, document
from reports.export import scores_csv
from reports.report import write_report
from reports.schema import (
    SCORES_COLUMNS,
    TRUTHS,
    ScoreRow,
    TableError,
    Tables,
    TrialRow,
    checked,
    columns,
    metric_order,
    table,
)
from tests.reports.rows import altered


def test_a_table_has_the_columns_its_rows_declare_in_their_dtypes(tables: Tables) -> None:
    for kind, rows in ((TrialRow, tables.trials), (ScoreRow, tables.scores)):
        made = table(kind, rows)
        assert list(made.columns) == [column.name for column in columns(kind)]
        assert [str(dtype) for dtype in made.dtypes] == [column.dtype for column in columns(kind)]
        assert len(made) == len(rows)
    trials = table(TrialRow, tables.trials)
    assert trials["device_peak_bytes"].isna().all() and not trials["log_tail"].isna().any()
    assert {str(trials[name].dtype) for name in ("views", "warm_n", "warm_iqr", "busy", "kin")} == {
        *("int64", "Int64", "float64", "bool", "object"),
    }
    assert trials["kin"].unique().tolist() == ["colmap", ""]


def test_an_empty_table_has_its_columns() -> None:
    assert len(table(TrialRow, ())) == 0
    assert str(table(TrialRow, ())["views"].dtype) == "int64"


def test_every_column_says_what_it_holds() -> None:
    for column in SCORES_COLUMNS:
        assert column.meaning, column.name
        assert column.dtype != "float64" or column.unit, column.name
    outcome = next(column for column in columns(ScoreRow) if column.name == "status")
    assert outcome.values == ("ok", "failed", "unsupported")


def test_text_is_never_missing_and_numbers_are_where_nothing_was_scored(tables: Tables) -> None:
    made = scores_csv(tables)
    texts = [column.name for column in SCORES_COLUMNS if column.dtype == "object"]
    assert not made[texts].isna().any().any()
    assert made.loc[made["metric"] == "", "value"].isna().all() and (made["metric"] == "").any()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_number_that_is_none_is_named(tables: Tables, value: float) -> None:
    first = tables.trials[3].key
    broken = replace(tables, trials=altered(tables.trials, lambda t: t.key == first, cold_seconds=value))
    with pytest.raises(TableError, match=rf"trials\.cold_seconds: {value} seen"):
        checked(broken)


def test_rows_that_mean_the_same_thing_twice_are_refused(tables: Tables) -> None:
    with pytest.raises(TableError, match="scores: two rows for"):
        checked(replace(tables, scores=(*tables.scores, tables.scores[0])))


def test_tables_must_agree_with_each_other(tables: Tables) -> None:
    cases: dict[str, tuple[str, str, Any]] = {
        "key of a trial": ("scores", "key", "nobody"),
        "its trial's": ("scores", "scene", "skull"),
        "status is ok": ("scores", "value", None),
        "scene of the scenes table": ("trials", "scene", "nowhere"),
        "one unit wanted": ("scores", "unit", "mm"),
    }
    for words, (name, field, value) in cases.items():
        first, *rest = getattr(tables, name)
        with pytest.raises(TableError, match=words):
            checked(replace(tables, **{name: (replace(first, **{field: value}), *rest)}))


def test_random_weights_are_never_scored(tables: Tables) -> None:
    trials = altered(tables.trials, lambda t: t.adapter == "grid3r", weights="random")
    with pytest.raises(TableError, match="weights 'random'"):
        checked(replace(tables, trials=trials))


def test_the_ranking_metric_leads_and_headlines_follow() -> None:
    assert metric_order(["zeta", "emd", "accuracy", "alpha"], "emd") == ["emd", "accuracy", "alpha", "zeta"]


def test_the_documentation_is_the_declaration() -> None:
    page = Path(__file__).parents[2] / "docs" / "tables.md"
    assert page.read_text(encoding="utf-8") == document(), "python -m reports.document docs/tables.md"


def test_every_file_of_a_report_is_documented(tables: Tables, tmp_path: Path) -> None:
    named = {column.name for _, _, described in FILES for column in described}
    named |= {column.name for _, described in LEADERBOARD for column in described}
    for path in write_report(tables, tmp_path / "out"):
        if path.suffix != ".csv":
            continue
        assert f"## {path.name}" in document()
        for head in pd.read_csv(path, nrows=1).columns:
            assert head in named or head.rpartition(".")[2] in named or head.partition(".")[0] in TRUTHS, head
    assert all(column.meaning for _, _, described in FILES for column in described)
