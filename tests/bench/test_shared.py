"""A store at a URL: whole files or none, brought here by `merge`, and one sentence where nothing answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.contract import InputError
from bench.engines.local import run_plan
from bench.trials import shared
from bench.trials.plan import plan
from bench.trials.shared import opened
from bench.trials.store import Store
from data.scene import Scene
from tests.bench.test_cli import call
from tests.bench.test_run import scores_of, suite

fsspec = pytest.importorskip("fsspec", reason="the extra `ray` is not installed")
COUNT = itertools.count()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[None]:
    """A server of the loopback that speaks S3's protocol, and one bucket."""
    pytest.importorskip("s3fs", reason="s3fs and moto[s3,server] are not installed")
    moto = pytest.importorskip("moto.server", reason="s3fs and moto[s3,server] are not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as settings:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            settings.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A place in which an object store's rules hold: in memory, and on a server."""
    if request.param == "s3":
        request.getfixturevalue("s3_server")
    place = f"memory://store-{next(COUNT)}" if request.param == "memory" else f"s3://bucket/store-{next(COUNT)}"
    yield place
    files, root = fsspec.core.url_to_fs(place)
    if files.exists(root):
        files.rm(root, recursive=True)


def test_a_run_into_a_url_is_resumed_and_merged(scene: Scene, tmp_path: Path, url: str) -> None:
    chosen = suite(views=(2,))
    for again in (False, True):
        with opened(url) as store:
            assert len(store.trials()) == 2 * again, "another process's folder for the time being is another one"
            result = run_plan(plan(chosen, [scene]), store, protocol="object-v1", truth="exact")
            assert len(result.records) == 2
            finished = {record.key: record.finished for record in store.trials()}
        if again:
            assert {record.key: record.finished for record in result.records} == finished
    here = tmp_path / "here"
    assert call("merge", url, "--into", here) == 0
    merged = Store(here)
    assert len(merged.trials()) == 2 and len(merged.runs()) == 2 and not merged.problems()
    assert scores_of(merged) and all(merged.prediction(r.prediction or "").points.size for r in merged.trials())
    assert all(merged.log_path(record.key).is_file() for record in merged.trials())


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_elsewhere_than_in_an_object_store_files_are_sent_aside_and_renamed(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "OBJECT_STORES", set[str]())
    with opened(url) as store:
        names: list[str] = []
        put = store._files.put_file  # type: ignore[attr-defined]
        monkeypatch.setattr(type(store._files), "put_file", lambda self, a, b: (names.append(b), put(a, b)))  # type: ignore[attr-defined]
        store._write(store._file("trials", "a.json"), b"1")
        files, root = fsspec.core.url_to_fs(url)
        assert names[0].rpartition("/")[2].startswith(".") and [
            p.rpartition("/")[2] for p in files.ls(f"{root}/trials", detail=False)
        ] == ["a.json"]


def test_names_that_lead_elsewhere_are_not_fetched(url: str, tmp_path: Path) -> None:
    files, root = fsspec.core.url_to_fs(url)
    for name in (".hidden.json", "a b.json", "good.json"):
        files.pipe_file(f"{root}/trials/{name}", b"{}")
    with opened(url) as store:
        store._listed("trials")
        assert [path.name for path in (store.path / "trials").iterdir()] == ["good.json"]


def test_what_the_network_spoils_is_tried_again_and_then_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PAUSE", 0.0)
    with opened(url) as store:
        failures = iter([OSError("reset"), OSError("reset")])
        put = store._files.put_file  # type: ignore[attr-defined]

        def fails_twice(*given: str) -> None:
            for failure in failures:
                raise failure
            put(*given)

        monkeypatch.setattr(store._files, "put_file", fails_twice)  # type: ignore[attr-defined]
        store._write(store._file("trials", "a.json"), b"1")
        failures = iter([OSError("reset")] * 3)
        with pytest.raises(InputError, match=f"{url}: OSError: reset"):
            store._write(store._file("trials", "b.json"), b"1")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nosuch://bucket/store", "--store nosuch://bucket/store: ValueError: Protocol not known"),
        ("ftp://me:secret@host/store", "a URL with a password seen"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence(
    place: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "--adapters", "null", "--scenes", "elephant", "--views", "1", "--store", place) == 2
    assert sentence in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("command", [("report", "--store"), ("curves", "--store"), ("bundle",)])
def test_what_reads_a_folder_names_the_command_that_brings_a_url_s_store_here(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*command, "s3://bucket/store") == 2
    wanted = "s3://bucket/store: a URL seen, a folder wanted: `reconbench merge s3://bucket/store --into runs/store`"
    assert wanted in " ".join(capsys.readouterr().err.split())


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    with opened(f"file://{tmp_path}/a%20b") as store:
        assert store == Store(tmp_path / "a b")
