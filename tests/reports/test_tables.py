"""Tables are refused with a sentence that names the fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reports.schema import SCORES, TRIALS, TableError, Tables, checked, conform, frame, metric_order


def test_conforming_tables_have_exact_dtypes(tables: Tables) -> None:
    good = checked(tables)
    for schema, table in ((TRIALS, good.trials), (SCORES, good.scores)):
        assert list(table.columns) == list(schema.names)
        assert [str(dtype) for dtype in table.dtypes] == [column.dtype for column in schema.columns]
    assert good.trials["device_peak_bytes"].isna().all()
    assert not good.trials["log_tail"].isna().any()


def test_an_empty_table_conforms() -> None:
    assert len(frame(TRIALS, [])) == 0
    assert str(frame(TRIALS, [])["views"].dtype) == "int64"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("status", "broken", ["trials.status", "broken", "timeout"]),
        ("views", None, ["trials.views", "missing"]),
        ("views", 1.5, ["trials.views"]),
        ("title", 7, ["trials.title", "text wanted"]),
        ("cold_seconds", np.inf, ["trials.cold_seconds", "infinite"]),
        ("cold_seconds", "soon", ["trials.cold_seconds"]),
    ],
)
def test_a_bad_value_is_named(tables: Tables, column: str, value: object, words: list[str]) -> None:
    trials = tables.trials.astype(object)
    trials.loc[3, column] = value
    with pytest.raises(TableError) as error:
        conform(TRIALS, trials)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_missing_and_unknown_columns_are_named(tables: Tables) -> None:
    with pytest.raises(TableError, match=r"trials\.kin: no such column"):
        conform(TRIALS, tables.trials.drop(columns="kin"))
    with pytest.raises(TableError, match=r"trials\.colour: an unknown column"):
        conform(TRIALS, tables.trials.assign(colour="red"))


def test_rows_that_mean_the_same_thing_twice_are_refused(tables: Tables) -> None:
    with pytest.raises(TableError, match="scores: two rows for"):
        checked(replace(tables, scores=pd.concat([tables.scores, tables.scores.head(1)])))


def test_tables_must_agree_with_each_other(tables: Tables) -> None:
    first = tables.scores.index[0]
    cases = {
        "key of a trial": ("scores", "key", "nobody"),
        "its trial's": ("scores", "scene", "skull"),
        "status is ok": ("scores", "value", np.nan),
        "scene of the scenes table": ("trials", "scene", "nowhere"),
        "one unit wanted": ("scores", "unit", "mm"),
    }
    for words, (name, column, value) in cases.items():
        table = getattr(tables, name).copy()
        table.loc[first, column] = value
        with pytest.raises(TableError, match=words):
            checked(replace(tables, **{name: table}))


def test_random_weights_are_never_scored(tables: Tables) -> None:
    trials = tables.trials.copy()
    trials.loc[trials["adapter"] == "grid3r", "weights"] = "random"
    with pytest.raises(TableError, match="weights 'random'"):
        checked(replace(tables, trials=trials))


def test_the_ranking_metric_leads_and_headlines_follow() -> None:
    assert metric_order(["zeta", "emd", "accuracy", "alpha"], "emd") == ["emd", "accuracy", "alpha", "zeta"]
