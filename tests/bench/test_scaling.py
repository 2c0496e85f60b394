"""From a store to curves: what is timed apart, what is read of it, and what `curves` says of files."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adapters.contract import InputError
from bench.cli import main
from bench.engines.local import run_plan
from bench.scoring.costs import cost_series
from bench.systems.measure import Policy, Steps
from bench.trials.plan import plan
from bench.trials.records import TrialRecord
from bench.trials.store import Store
from bench.trials.suite import SUITES, Contestant, Suite, Timing, load_suite
from data.scene import Scene
from reports.scaling import published_series

QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=280.0)


def test_every_suite_plans_whatever_is_installed(scene: Scene) -> None:
    names = {path.stem for path in SUITES.glob("*.toml")}
    assert {"embedded", "embedded-full", "stanford", "geolrm-views", "scaling"} <= names
    for name in names:
        suite = load_suite(name)
        assert suite.name == name
        for part in suite.parts():
            assert plan(msgspec.structs.replace(part, truth="exact"), [scene])


def test_the_clock_may_have_scenes_of_its_own_unless_the_user_names_some(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    quality, clock = load_suite("scaling").parts()
    assert set(quality.scenes) == {"*"} and set(clock.scenes) == {"elephant"}
    with pytest.raises(SystemExit):
        main(["run", "--suite", "scaling", "--scenes", str(scene.path), "--truth", "exact", "--dry-run"])
    listed = capsys.readouterr()
    assert scene.file.name in listed.out + listed.err and "elephant" not in listed.out + listed.err


def test_a_suite_whose_scenes_are_the_users_says_so() -> None:
    with pytest.raises(InputError, match="scenes: none named"):
        plan(load_suite("stanford"))


@pytest.fixture(scope="module")
def run_store(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One quality trial and four for the clock."""
    store = Store(tmp_path_factory.mktemp("curves") / "store")
    timing = Timing(views=(1, 2, 3, 4), policy=msgspec.structs.replace(QUICK, repeats=2))
    adapters = [Contestant(name="noisy-oracle", views=(4,))]
    suite = Suite(name="t", adapters=adapters, truth="exact", policy=QUICK, timing=timing)
    trials = [trial for part in suite.parts() for trial in plan(part, [scene])]
    run_plan(trials, store, protocol="object-v1", truth="exact")
    return store


def test_the_timing_part_is_neither_kept_nor_scored(run_store: Store) -> None:
    clock = [record for record in run_store.trials() if record.policy.timing_only]
    rest = [record for record in run_store.trials() if not record.policy.timing_only]
    assert [len(record.views) for record in rest] == [4]
    assert sorted(len(record.views) for record in clock) == [1, 2, 3, 4]
    assert all(r.status == "ok" and r.prediction is None and len(r.warm) == 2 for r in clock)
    assert {score.trial for score in run_store.scores()} == {rest[0].key}


def test_curves_of_a_store_hold_its_calls_and_its_quality(
    run_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["curves", "--store", str(run_store.path), "--truth", "exact", "--out", str(tmp_path), "--limit", "8"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "4 counts are too few" in printed and "Largest count below 8190 MiB" in printed
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    costs = {row["quantity"] for row in rows if row["scene"] == "bumpy"}
    assert costs == {"cold_seconds", "warm_seconds", "infer_seconds", "peak_rss"}  # the other steps do nothing
    assert {"accuracy", "completeness-given", "completeness-visible"} <= {row["quantity"] for row in rows}
    (warm,) = [row for row in rows if row["quantity"] == "warm_seconds" and row["views"] == "3"]
    record = next(r for r in run_store.trials() if len(r.views) == 3)
    assert float(warm["value"]) == pytest.approx(np.median([call.total for call in record.warm]))
    assert warm["cells"] == "2"
    page = (tmp_path / "curves.html").read_text()
    assert "noisy-oracle" in page and "http" not in page


def copies(record: TrialRecord, seconds: dict[int, list[float]], busy: float = 0.0) -> list[TrialRecord]:
    """The record at other view counts, with warm calls of these seconds and 100 MiB + 10 MiB a view."""
    return [
        msgspec.structs.replace(
            record,
            views=[f"{i:03d}" for i in range(n)],
            warm=[Steps(prepare=0.1 * s, infer=0.8 * s, finish=0.1 * s, total=s) for s in result],
            peak_rss=(100 + 10 * n) * 2**20,
            others_share=busy,
        )
        for n, result in seconds.items()
    ]


def test_a_stores_laws_are_named_from_quiet_trials_only(run_store: Store) -> None:
    record = next(r for r in run_store.trials() if r.policy.timing_only)
    rng = np.random.default_rng(0)
    seconds = {n: (0.5 + 0.2 * n) * (1 + 0.005 * rng.standard_normal(3)) for n in (1, 2, 3, 4, 6, 8, 12, 16)}
    calls = {n: result.tolist() for n, result in seconds.items()}
    quiet = {series.quantity: series for series in cost_series(copies(record, calls), limit_bytes=400 * 2**20)}
    assert quiet["warm_seconds"].scaling.named is not None
    assert quiet["warm_seconds"].scaling.named.name == "a + b n"
    assert quiet["infer_seconds"].points.values == pytest.approx(0.8 * quiet["warm_seconds"].points.values)
    largest = quiet["peak_rss"].largest
    assert largest is not None and largest.middle == 29  # 390 MiB; 30 views take the 400
    busy = {series.quantity: series for series in cost_series(copies(record, calls, busy=0.5))}
    assert busy["warm_seconds"].scaling.named is None
    assert "busy with other work in 8 of 8 trials" in " ".join(busy["warm_seconds"].sentences())
    assert busy["peak_rss"].scaling.named is not None  # memory does not mind


def test_published_tables_are_series_and_few_counts_name_no_law() -> None:
    result = {(series.system, series.quantity): series for series in published_series()}
    vggt = result["VGGT", "time"]
    assert vggt.points.n.tolist() == [1, 3, 5, 8, 10, 15, 20]
    assert vggt.points.values.tolist() == [23.8, 30.0, 54.8, 114, 152, 282, 415]
    assert {("GeoLRM", "time"), ("GeoLRM", "memory"), ("InstantMesh", "time"), ("InstantMesh", "memory")} <= set(result)
    named = {series: law.name for series in result if (law := result[series].scaling.named) is not None}
    assert named == {("VGGT aggregator", "time"): "b n^p", ("VGGT aggregator", "memory"): "a + b n"}  # nine counts
    assert "b n^p" in vggt.scaling.verdict and "a + b n log n" in vggt.scaling.verdict


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_a_file_of_ones_own_is_judged_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "\n".join(f"{n},{3 + 2 * n},{r}" for n in (1, 2, 3, 4, 6, 8, 12, 16) for r in range(2))
    path = write(tmp_path / "mine.csv", f"n,value,repeat\n{rows}\n")
    with pytest.raises(SystemExit) as ended:
        main(["curves", str(path), "--limit", "50"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "Law: a + b n" in printed and "Largest count below 50.0: 23" in printed


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("n,seconds\n1,1\n2,2\n3,3\n", "columns n, seconds seen, no value"),
        ("n,value\n1,1\n2,two\n3,3\n", "value two seen (row 2), a number wanted"),
        ("n,value\n1,1\n2,inf\n3,3\n", "value: inf seen (row 2)"),
        ("n,value\n1,1\n-2,2\n3,3\n", "n: -2 seen (row 2)"),
        ("n,value\n1,1\n2,2\n", "2 different counts seen, at least 3 wanted"),
        ("n,value,sd\n1,1,1\n2,2,\n3,3,1\n", "sd nan seen (row 2)"),
        ("", "a CSV file with columns n,value wanted"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_code_2(
    content: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["curves", str(path)])
    output = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2
    assert sentence in output and "bad.csv" in output and "Traceback" not in output
