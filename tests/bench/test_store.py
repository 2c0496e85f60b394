"""A store that was damaged, forged or interrupted: one bad record is one bad record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapters.contract import InputError, Reconstruction
from bench.cli import main
from bench.engines.local import run_plan
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.store import NewerFormatError, Store
from bench.trials.suite import Contestant, Suite
from tests.bench.spies import spy

QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)


@pytest.fixture(scope="module")
def good(scene_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three trials, scored."""
    path = tmp_path_factory.mktemp("stores") / "good"
    suite = Suite(
        name="t",
        scenes=[str(scene_path)],
        adapters=[Contestant(name="oracle")],
        views=(2, 3, 4),
        policy=QUICK,
        truth="exact",
    )
    run_plan(plan(suite), Store(path), protocol="object-v1", truth="exact")
    return path


@pytest.fixture
def store(good: Path, tmp_path: Path) -> Store:
    """A copy to damage."""
    shutil.copytree(good, tmp_path / "store")
    return Store(tmp_path / "store")


def first(store: Store, kind: str) -> Path:
    return sorted((store.path / kind).glob("*"))[0]


def edited(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def relink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("/etc/passwd")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-50]) and None,
    "empty": lambda path: path.write_bytes(b"") and None,
    "NaN": lambda path: path.write_text(path.read_text().replace('"peak_rss": ', '"peak_rss": NaN, "x": ')) and None,
    "not UTF-8": lambda path: (
        path.write_bytes(path.read_bytes().replace(b'"message": "', b'"message": "\xff\xfe')) and None
    ),
    "deep": lambda path: path.write_bytes(b'{"log_tail":' * 100_000) and None,
    "another kind of value": edited(warm="yes"),
    "an unknown field": edited(brilliant=True),
    "a link": relink,
    "a prediction that leads out": edited(prediction="../../x"),
    "another trial's key": edited(key="0" * 24),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_bad_record_is_one_bad_record(damage: str, store: Store, tmp_path: Path) -> None:
    path = first(store, "trials")
    DAMAGE[damage](path)
    assert len(store.trials()) == 2
    assert path in {problem.path for problem in store.problems()}
    with pytest.raises(SystemExit) as ended:
        main(["report", "--store", str(store.path), "--out", str(tmp_path / "out"), "--truth", "exact"])
    assert ended.value.code == 0 and (tmp_path / "out" / "leaderboard.html").is_file()
    store.repair()
    assert not store.problems() and len(store.trials()) == 2
    assert path.name in {kept.name for kept in (store.path / "quarantine" / "trials").iterdir()}


def test_a_good_store_has_no_problems(store: Store) -> None:
    assert not store.problems()
    assert len(store.trials()) == 3


def test_a_damaged_prediction_takes_only_its_trial_along(store: Store) -> None:
    path = first(store, "predictions")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"not readable as an \.npz file"):
        store.prediction(path.stem)
    owners = sum(trial.prediction == path.stem for trial in store.trials())
    assert owners >= 1
    store.repair()
    assert len(store.trials()) == 3 - owners and not store.problems()


def test_a_forged_prediction_is_told_by_its_name(store: Store) -> None:
    path = first(store, "predictions")
    Reconstruction(np.ones((9, 3), np.float32), "object", "arbitrary").save(path)
    assert [problem.sentence for problem in store.problems()] == [f"{path}: its content is not what its name says"]


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", "", "x" * 500, "a\nb"])
def test_no_name_leads_out_of_the_store(name: str, store: Store) -> None:
    for ask in (store.trial, store.prediction_path, store.log_path):
        with pytest.raises(InputError, match="asked for"):
            ask(name)


def test_a_forged_name_inside_a_record_is_a_problem_and_is_not_followed(store: Store, tmp_path: Path) -> None:
    trial, score = first(store, "trials"), first(store, "scores")
    edited(prediction="../../../secret")(trial)
    edited(key="../../other")(sorted((store.path / "trials").glob("*"))[1])
    del score
    (tmp_path / "secret.npz").write_bytes(b"x")
    assert len(store.problems()) >= 2
    other = Store(tmp_path / "merged")
    other.merge(store)
    assert len(other.trials()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("other")]


@pytest.mark.parametrize("changes", [{"format": 99}, {"format": 99, "brilliant": True}])
def test_a_store_of_a_newer_format_is_refused_with_a_sentence(
    changes: dict[str, object], store: Store, tmp_path: Path
) -> None:
    edited(**changes)(first(store, "trials"))
    with pytest.raises(NewerFormatError, match="format 99 seen"):
        store.trials()
    with pytest.raises(SystemExit) as ended:
        main(["report", "--store", str(store.path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2


def test_what_cannot_be_read_back_is_not_written(store: Store) -> None:
    import msgspec

    record = store.trials()[0]
    with pytest.raises(InputError, match="finite numbers wanted"):
        store.put_trial(msgspec.structs.replace(record, key="0" * 24, others_share=float("nan")))
    assert len(store.trials()) == 3


@pytest.mark.parametrize(
    "flags",
    [
        ["--deadline", "inf"],
        ["--deadline", "nan"],
        ["--memory", "-1"],
        ["--option", "noise=1e999"],
        ["--option", "noise=NaN"],
    ],
)
def test_flags_that_no_record_could_hold(
    flags: list[str], scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--adapters", "noisy-oracle", "--scenes", str(scene_path), "--store", str(tmp_path / "s"), *flags])
    assert ended.value.code == 2
    assert not (tmp_path / "s").exists()
    named = flags[1].partition("=")[0] if flags[0] == "--option" else flags[0].strip("-")
    assert named in capsys.readouterr().err


def test_the_command(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["store", "check", str(store.path), *words])
        return int(str(ended.value.code))

    assert call() == 0
    path = first(store, "trials")
    path.write_text("{")
    assert call() == 1
    assert str(path) in capsys.readouterr().out
    assert call("--repair") == 0
    assert call() == 0


@pytest.mark.parametrize("what", ["cache", "store"])
def test_a_place_that_cannot_be_used_is_one_sentence(
    what: str, scene_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The superuser reads and writes what is forbidden, so a file stands where the folder should."""
    (tmp_path / "file").write_text("")
    if what == "cache":
        monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "file"))
    store = tmp_path / ("file" if what == "store" else "s") / "store"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "run",
                "--adapters",
                "oracle",
                "--scenes",
                str(scene_path),
                "--views",
                "2",
                "--truth",
                "exact",
                "--store",
                str(store),
            ]
        )
    assert ended.value.code == 2
    assert "file" in capsys.readouterr().err


def test_a_log_that_is_not_text_is_kept_and_shown(scene_path: Path, tmp_path: Path) -> None:
    adapter = spy(tmp_path / "spy", "import os\nos.write(1, b'\\xff\\xfe not UTF-8 \\x1b]0;x\\x07\\n')")
    suite = Suite(name="t", scenes=[str(scene_path)], adapters=[Contestant(name=str(adapter.folder))], policy=QUICK)
    (record,) = run_plan(plan(suite), Store(tmp_path / "s"), protocol="object-v1", truth="exact").records
    assert record.status == "ok" and "not UTF-8" in record.log_tail
    assert Store(tmp_path / "s").trials() == [record]
