"""Scoring is a stage that writes; reports read what it wrote, from a store that they may not write to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn, get_args

import msgspec
import pytest

from adapters.contract import TruthKind
from bench.cli import common, main
from bench.engines.local import run_plan
from bench.scoring.collect import make_tables
from bench.scoring.stage import score_records
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene

FIRST = """
name = "first"
version = 1
description = ""
samples = 1000
emd_draws = 0
draws = 2
confidence_curve = [1.0]
"""


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("protocols") / "first.toml"
    path.write_text(FIRST)
    return str(path)


@pytest.fixture(scope="module")
def store(scene: Scene, protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two trials under a protocol of few samples, one of them not aligned."""
    store = Store(tmp_path_factory.mktemp("stage") / "store")
    quick = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
    adapters = [Contestant(name="oracle", give=["cameras", "truth"]), Contestant(name="noisy-oracle")]
    suite = Suite(name="t", adapters=adapters, views=(3,), truth="exact", policy=quick)
    run_plan(plan(suite, [scene]), store, protocol=protocol, truth="exact")
    return store


def content(store: Store) -> dict[str, tuple[int, bytes]]:
    files = (path for path in store.path.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def refuse(*arguments: object, **named: object) -> NoReturn:
    raise PermissionError("a store that may only be read")


@pytest.mark.parametrize("name", ["report", "curves"])
def test_reports_read_a_store_that_they_may_not_write_to(
    name: str,
    store: Store,
    protocol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(FIRST.replace("first", "other").replace("1000", "900"))
    for writer in ("put_score", "put_trial", "put_run", "put_prediction", "lock"):
        monkeypatch.setattr(Store, writer, refuse)
    before = content(store)
    missing = "2 of 2 trials are not scored under other yet: `reconbench score"
    for path, sentence in ((protocol, ""), (str(other), missing)):
        out = tmp_path / f"{Path(path).stem}-report"
        arguments = ["--store", str(store.path), "--protocol", path, "--truth", "exact", "--out", str(out)]
        if name == "curves":
            # Its costs want three view counts; quality alone is asked for here.
            monkeypatch.setattr(sys.modules["bench.cli.curves"], "_costs", lambda *arguments: [])
        with pytest.raises(SystemExit) as ended:
            main([name, *arguments])
        output = " ".join(capsys.readouterr().err.split())
        assert ended.value.code == 0, output
        assert (sentence in output) if sentence else ("not scored" not in output)
        page = " ".join((out / f"{'leaderboard' if name == 'report' else 'curves'}.html").read_text().split())
        if name == "report" and sentence:
            assert missing in page
    assert content(store) == before


def test_sweeps_are_scored_by_the_stage_and_read_where_they_are_whole(store: Store, protocol: str) -> None:
    assert make_tables(store, protocol, "exact").sweeps == ()
    scored = score_records(store, store.trials(), protocol, truth="exact", sweeps=True)
    assert {score.truth for _, score in scored} == {"exact"}
    tables = make_tables(store, protocol, "exact")
    counts: dict[str, set[str]] = {}
    for row in tables.sweeps:
        counts.setdefault(row.key, set()).add(row.alignment)
    assert sorted(map(len, counts.values())) == [1, 3], "the oracle is posed, the noisy one is aligned three ways"
    assert len(tables.run.protocols) >= 3 and tables.run.not_scored == ""
    # A sweep that lacks a variant is none.
    for path in (store.path / "scores").glob("*.json"):
        if "by search" in path.read_text():
            path.unlink()
    assert make_tables(store, protocol, "exact").sweeps == ()


def test_a_scene_that_is_gone_is_told_and_skipped(store: Store, protocol: str) -> None:
    records = [msgspec.structs.replace(record, scene_path="/nowhere") for record in store.trials()]
    gone: list[str] = []
    assert list(score_records(store, records, protocol, gone=lambda record: gone.append(record.key))) == []
    assert gone == [record.key for record in records]


def test_the_command_line_knows_every_kind_of_truth() -> None:
    assert set(get_args(common.Truth)) == set(get_args(TruthKind))
