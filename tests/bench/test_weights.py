"""Weights: found, fetched, hashed, licensed, random; and what a user is told of each thing that is missing."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.contract import InputError, Unavailable, Views
from bench.cli import main
from bench.engines.local import run_plan
from bench.scoring.collect import make_tables
from bench.systems import weights
from bench.systems.cards import Adapter, get_adapter
from bench.systems.measure import Policy
from bench.systems.process import run_adapter
from bench.trials.plan import plan
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene
from reports.report import write_report

VIEWS = Views((np.zeros((8, 8, 3), np.uint8),), ("000",))
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = (
    'name = "{name}"\ntitle = "Net {name}"\nlicence_code = "MIT"\nlicence_weights = "CC BY-NC 4.0"\nscope = "scene"\n'
)
CODE = """
import numpy as np
from pathlib import Path
from adapters.contract import Reconstruction, Reconstructor
class Adapter(Reconstructor):
    def load(self, device, weights, seed):
        print("weights:", weights)
        if weights != "random":
            self.scale = float(Path(weights).read_text())
    def infer(self, inputs):
        return np.eye(3, dtype=np.float32)
    def finish(self, outputs, views):
        return Reconstruction(outputs * self.scale, "object", "arbitrary")
"""


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def network(folder: Path, spec: str, code: str = CODE) -> Adapter:
    """An adapter whose card has these weights, and whose points are as large as its checkpoint says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.toml").write_text(CARD.format(name=folder.name) + spec)
    (folder / "adapter.py").write_text(code)
    return get_adapter(str(folder))


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and an empty cache of ours."""
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(hub: Path, files: dict[str, bytes], commit: str = COMMIT, main_branch: bool = True) -> Path:
    """Files as the hub's own library lays them out: named links to contents."""
    repository = hub / "models--org--net"
    folder = repository / "snapshots" / commit
    for name, content in files.items():
        blob = repository / "blobs" / sha(content)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(os.path.relpath(blob, (folder / name).parent))
    if main_branch:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
    return folder


def test_what_the_hubs_cache_holds_is_used_once_its_licence_is_accepted(tmp_path: Path, hub: Path) -> None:
    adapter = network(tmp_path / "net", f'[weights]\nhub = "org/net"\nsha256 = {{ "a.pt" = "{sha(b"2.0")}" }}\n')
    command = rf"`reconbench adapters fetch {adapter.folder} --accept-licence`"
    with pytest.raises(Unavailable, match=rf"its weights are not here: {command}"):
        weights.resolve(adapter, "pretrained")
    folder = put(hub, {"a.pt": b"2.0"})
    with pytest.raises(Unavailable, match=rf"the licence of its weights, CC BY-NC 4.0, is not accepted: {command}"):
        weights.resolve(adapter, "pretrained")
    weights.accept(adapter)
    given = weights.resolve(adapter, "pretrained")
    assert given.load == str(folder / "a.pt") and given.id.startswith("pretrained:")
    outcome, result = run_adapter(adapter, VIEWS, policy=QUICK)
    assert outcome.status == "ok" and result is not None
    np.testing.assert_array_equal(result.points, 2 * np.eye(3))
    card = (adapter.folder / "adapter.toml").read_text().replace("CC BY-NC 4.0", "another licence")
    (adapter.folder / "adapter.toml").write_text(card)
    with pytest.raises(Unavailable, match="another licence, is not accepted"):
        weights.resolve(get_adapter(str(adapter.folder)), "pretrained")


def test_a_pinned_revision_is_the_one_that_is_used_and_several_files_are_given_as_their_folder(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "f" * 40
    put(hub, {"model.safetensors": b"new", "b.pt": b"1"})
    old = put(hub, {"model.safetensors": b"old", "b.pt": b"2"}, other, main_branch=False)
    pinned = network(tmp_path / "pinned", f'[weights]\nhub = "org/net"\nrevision = "{other}"\n')
    free = network(tmp_path / "free", '[weights]\nhub = "org/net"\n')
    both = network(
        tmp_path / "both",
        f'[weights]\nhub = "org/net"\nrevision = "{other}"\nsha256 = {{ "model.safetensors" = "", "b.pt" = "" }}\n',
    )
    for adapter in (pinned, free, both):
        weights.accept(adapter)
    given = [weights.resolve(adapter, "pretrained") for adapter in (pinned, free, both)]
    assert Path(given[0].load).read_bytes() == b"old" and Path(given[1].load).read_bytes() == b"new"
    assert given[2].load == str(old)
    assert len({resolved.id for resolved in given}) == 3
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(Unavailable, match="not here"):
        weights.resolve(free, "pretrained")
    (tmp_path / "home").mkdir()
    hub.rename(tmp_path / "home" / "hub")
    assert weights.resolve(free, "pretrained").id == given[1].id


def test_a_file_with_another_hash_is_refused_by_name(tmp_path: Path, hub: Path) -> None:
    adapter = network(tmp_path / "net", f'[weights]\nhub = "org/net"\nsha256 = {{ "a.pt" = "{sha(b"2.0")}" }}\n')
    folder = put(hub, {"a.pt": b"3.0"})
    weights.accept(adapter)
    sentence = f"{folder / 'a.pt'}: sha256 {sha(b'3.0')} seen, {sha(b'2.0')} wanted"
    with pytest.raises(Unavailable, match=sentence):
        weights.resolve(adapter, "pretrained")
    with pytest.raises(InputError, match=sentence):
        weights.fetch(adapter)
    assert run_adapter(adapter, VIEWS, policy=QUICK)[0].status == "unavailable"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A loopback server of `tmp_path/served`."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    result = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=result.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{result.server_port}"
    result.shutdown()
    thread.join()
    result.server_close()


def test_weights_at_a_url_are_fetched_once_checked_and_kept(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "served" / "a.pt").write_bytes(b"4.0")
    adapter = network(tmp_path / "net", f'[weights]\nurl = "{server}/a.pt"\nsha256 = {{ "a.pt" = "{sha(b"4.0")}" }}\n')
    assert call("adapters", "fetch", adapter.folder) == 2
    output = capsys.readouterr().err
    assert "net: code under MIT, weights under CC BY-NC 4.0: --accept-licence accepts both" in output
    assert not (tmp_path / "cache").exists()
    assert call("adapters", "fetch", adapter.folder, "--accept-licence") == 0
    (tmp_path / "served" / "a.pt").unlink()
    assert call("adapters", "fetch", adapter.folder) == 0, "the licence is accepted once, the file fetched once"
    _, result = run_adapter(adapter, VIEWS, policy=QUICK)
    assert result is not None and result.points[0, 0] == 4


def test_what_cannot_be_fetched_leaves_nothing_behind(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served" / "a.pt").write_bytes(b"5.0")
    spoilt = f'[weights]\nurl = "{server}/"\nsha256 = {{ "a.pt" = "{sha(b"4.0")}" }}\n'
    absent = f'[weights]\nurl = "{server}/none.pt"\n'
    cases = {
        "spoilt": (spoilt, f"a.pt: sha256 {sha(b'5.0')} seen, {sha(b'4.0')} wanted"),
        "absent": (absent, "none.pt: cannot be fetched (HTTP Error 404"),
        "hubless": ('[weights]\nhub = "org/net"\n', "pip install 'reconbench[models]'"),
    }
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for name, (spec, sentence) in cases.items():
        adapter = network(tmp_path / name, spec)
        assert call("adapters", "fetch", adapter.folder, "--accept-licence") == 2
        assert sentence in capsys.readouterr().err
        outcome, _ = run_adapter(adapter, VIEWS, policy=QUICK)
        assert outcome.status == "unavailable" and "its weights are not here" in outcome.message
    assert not [path for path in (tmp_path / "cache" / "weights").rglob("*") if path.is_file()]
    assert call("adapters", "fetch", "colmap", "--accept-licence") == 2
    assert "adapter colmap has no weights to fetch" in capsys.readouterr().err


class Unreliable(http.server.BaseHTTPRequestHandler):
    """A server whose connections break: after CUT bytes of an answer, as often as `cuts` says."""

    content = bytes(range(256)) * 40
    cut, cuts, status, ranges, tags = 3000, 2, 200, True, ['"one"']
    asked: list[str] = []  # noqa: RUF012 - of the class that a test makes of it

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked.append(self.headers.get("Range", self.path))
        if kind.status != 200:
            self.send_error(kind.status)
            return
        tag = kind.tags.pop(0) if len(kind.tags) > 1 else kind.tags[0]
        start = 0
        if kind.ranges and "Range" in self.headers and self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(kind.content) - start))
        self.end_headers()
        body = kind.content[start:]
        if kind.cuts > 0:
            kind.cuts -= 1
            body = body[: kind.cut]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def unreliable(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Unreliable], str]]:
    """A server class to set up, and the address of its file."""
    monkeypatch.setattr(weights, "PAUSE", 0.001)
    kind = type("Handler", (Unreliable,), {"asked": [], "tags": ['"one"']})
    answering = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=answering.serve_forever)
    thread.start()
    yield kind, f"http://127.0.0.1:{answering.server_port}/a.pt"
    answering.shutdown()
    thread.join()
    answering.server_close()


Handler = tuple[type[Unreliable], str]


def fetched(folder: Path, url: str, digest: str = sha(Unreliable.content)) -> bytes:
    adapter = network(folder, f'[weights]\nurl = "{url}"\nsha256 = {{ "a.pt" = "{digest}" }}\n')
    return Path(weights.fetch(adapter).load).read_bytes()


def test_a_connection_cut_mid_file_is_taken_up_where_it_broke(tmp_path: Path, unreliable: Handler) -> None:
    kind, url = unreliable
    assert fetched(tmp_path / "net", url) == kind.content
    assert kind.asked == ["/a.pt", "bytes=3000-", "bytes=6000-"]
    assert [path.name for path in (tmp_path / "cache" / "weights").rglob("*") if path.is_file()] == ["a.pt"]


@pytest.mark.parametrize("what", ["no ranges", "another file"])
def test_a_part_that_does_not_fit_is_not_built_upon(what: str, tmp_path: Path, unreliable: Handler) -> None:
    kind, url = unreliable
    kind.ranges, kind.tags = what != "no ranges", ['"one"', '"two"'] if what == "another file" else ['"one"']
    kind.cuts = 1
    assert fetched(tmp_path / "net", url) == kind.content


def test_the_same_command_goes_on_where_the_last_gave_up(tmp_path: Path, unreliable: Handler) -> None:
    kind, url = unreliable
    kind.cuts, kind.cut = weights.ATTEMPTS, 100
    with pytest.raises(InputError, match="cannot be fetched: ended after 500 of 10240 bytes, 5 times; the same"):
        fetched(tmp_path / "net", url)
    assert fetched(tmp_path / "net", url) == kind.content and kind.asked[-1] == "bytes=500-"


@pytest.mark.parametrize(
    ("status", "attempts", "sentence"),
    [
        (503, 5, "Service Unavailable, 5 times"),
        (404, 1, "HTTP Error 404"),
        (403, 1, "access is given on request"),
        (410, 1, "HTTP Error 410"),
    ],
)
def test_a_server_that_refuses_is_asked_again_only_where_that_may_help(
    status: int, attempts: int, sentence: str, tmp_path: Path, unreliable: Handler
) -> None:
    kind, url = unreliable
    kind.status = status
    with pytest.raises(InputError, match=sentence) as caught:
        fetched(tmp_path / "net", url)
    assert len(kind.asked) == attempts and "\n" not in str(caught.value)


def test_a_spoilt_file_is_not_kept_to_be_gone_on_with(tmp_path: Path, unreliable: Handler) -> None:
    kind, url = unreliable
    with pytest.raises(InputError, match="wanted"):
        fetched(tmp_path / "net", url, "0" * 64)
    assert fetched(tmp_path / "net", url) == kind.content


def test_no_server_at_all_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PAUSE", 0.001)
    with pytest.raises(InputError, match=r"cannot be fetched: .*refused, 5 times"):
        fetched(tmp_path / "net", "http://127.0.0.1:9/a.pt")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full; free some of it, or name another folder by RECONBENCH_CACHE"),
        (errno.EROFS, "cannot be written to; name another folder by RECONBENCH_CACHE"),
    ],
)
def test_a_disk_that_takes_no_more_is_one_sentence(
    number: int, sentence: str, tmp_path: Path, unreliable: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def opened(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if self.suffix == ".part" and mode[0] in "wa":
            raise OSError(number, os.strerror(number))
        return real(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(InputError, match=sentence):
        fetched(tmp_path / "net", unreliable[1])
    assert len(unreliable[0].asked) == 1


def test_a_proxy_is_asked_where_the_user_names_one(
    tmp_path: Path, unreliable: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, url = unreliable
    monkeypatch.setenv("http_proxy", url.removesuffix("/a.pt"))
    monkeypatch.setattr(urllib.request, "_opener", None)  # which keeps what it read of the environment before
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    kind.cuts = 0
    assert fetched(tmp_path / "net", "http://example.invalid/a.pt") == kind.content
    assert kind.asked == ["http://example.invalid/a.pt"]


def run(store: Store, scene: Scene, *contestants: Contestant) -> None:
    suite = Suite(name="t", adapters=list(contestants), views=(2,), truth="exact", policy=QUICK)
    run_plan(plan(suite, [scene]), store, protocol="object-v1", truth="exact")


def test_random_weights_are_timed_and_shown_and_never_scored(tmp_path: Path, scene: Scene) -> None:
    adapter = network(tmp_path / "net", '[weights]\nhub = "org/net"\n')
    store = Store(tmp_path / "store")
    run(store, scene, Contestant(name=str(adapter.folder), weights="random"), Contestant(name="noisy-oracle"))
    record = next(record for record in store.trials() if record.adapter == "net")
    assert (record.status, record.weights, record.prediction) == ("ok", "random", None)
    assert record.cold is not None and record.cold.total == record.cold.infer and record.peak_rss > 2**20
    assert "--weights random" in record.command and "weights: random" in store.log_path(record.key).read_text()
    assert record.message == "random weights: infer alone is timed"
    tables = make_tables(store, "object-v1", "exact")
    (row,) = (trial for trial in tables.trials if trial.adapter == "net (weights=random)")
    assert row.weights == "random" and row.infer_seconds
    assert {score.adapter for score in tables.scores} == {"noisy-oracle"}
    write_report(tables, tmp_path / "report")
    assert "random weights: timed only" in (tmp_path / "report" / "leaderboard.html").read_text()
    assert call("score", "--store", store.path) == 0
    assert {score.trial for score in store.scores()} == {r.key for r in store.trials() if r is not record} - {
        record.key
    }


def test_a_checkpoint_of_ones_own_is_keyed_by_its_content(tmp_path: Path, scene: Scene) -> None:
    adapter = network(tmp_path / "net", '[weights]\nhub = "org/net"\n')
    own = tmp_path / "mine.pt"
    store = Store(tmp_path / "store")
    for content in ("1.0", "1.0", "2.0"):
        own.write_text(content)
        run(store, scene, Contestant(name=str(adapter.folder), weights=str(own)))
    assert [record.status for record in store.trials()] == ["ok", "ok"]
    assert len({record.weights for record in store.trials()}) == 2
    assert {trial.weights for trial in make_tables(store, "object-v1", "exact").trials} == {"path"}


def test_each_missing_thing_is_one_sentence_with_the_command_that_mends_it(
    tmp_path: Path, scene: Scene, scene_path: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(hub, {"model.safetensors": b"1.0"})
    hungry = CODE.replace("return np.eye", "self.hoard = np.ones(2**28)\n        return np.eye")
    environment = '[environment]\nrequirements = ["nothing==1.0"]\n'
    cases = {
        "environment": (
            network(tmp_path / "environment", environment),
            "`reconbench adapters install {folder}` makes it",
        ),
        "weights": (
            network(tmp_path / "weights", '[weights]\nhub = "org/absent"\n'),
            "its weights are not here: `reconbench adapters fetch {folder} --accept-licence` accepts",
        ),
        "licence": (
            network(tmp_path / "licence", '[weights]\nhub = "org/net"\n'),
            "CC BY-NC 4.0, is not accepted: `reconbench adapters fetch {folder} --accept-licence`",
        ),
        "memory": (
            network(tmp_path / "memory", '[weights]\nhub = "org/net"\n', hungry),
            "more than the limit of 512 MiB",
        ),
    }
    weights.accept(cases["memory"][0])
    store = tmp_path / "store"
    names = ",".join(str(adapter.folder) for adapter, _ in cases.values())
    command = ["run", "--adapters", names, "--scenes", scene_path, "--views", "2", "--truth", "exact"]
    assert call(*command, "--store", store, "--memory", "0.5", "--repeats", "0") == 1, "nothing succeeded"
    records = {record.adapter: record for record in Store(store).trials()}
    told = capsys.readouterr().err
    assert {name: record.status for name, record in records.items()} == {
        **dict.fromkeys(("environment", "weights", "licence"), "unavailable"),
        "memory": "oom",
    }
    write_report(make_tables(Store(store), "object-v1", "exact"), tmp_path / "report")
    page = (tmp_path / "report" / "leaderboard.html").read_text()
    assert call("adapters", "list") == 0
    for name, (adapter, sentence) in cases.items():
        wanted = sentence.format(folder=adapter.folder)
        assert wanted in records[name].message and records[name].message.count("\n") == 0
        assert wanted in told
        assert wanted in page or name == "memory"
    capsys.readouterr()
    predict = ["predict", "--images", scene_path / "images", "--out", tmp_path / "out", "--adapter"]
    for name in ("environment", "weights", "licence"):
        assert call(*predict, cases[name][0].folder) == 2
        assert cases[name][1].format(folder=cases[name][0].folder) in capsys.readouterr().err


def test_a_path_that_leads_nowhere_and_weights_for_a_system_without_any_are_refused(
    tmp_path: Path, scene_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = network(tmp_path / "net", '[weights]\nhub = "org/net"\n')
    store = tmp_path / "store"
    common = ["--scenes", scene_path, "--views", "2", "--truth", "exact", "--store", store]
    assert call("run", "--adapters", adapter.folder, "--weights", tmp_path / "none.pt", *common) == 2
    assert "none.pt: no such file" in capsys.readouterr().err
    assert call("run", "--adapters", "oracle", "--weights", __file__, *common) == 2
    assert "adapter oracle has no weights" in capsys.readouterr().err
    assert call("run", "--weights", "random", *common) == 2
    assert "--adapters is wanted with them" in capsys.readouterr().err
    assert not store.exists()


def test_the_hubs_library_fetches_into_the_hubs_cache(tmp_path: Path, hub: Path) -> None:
    pytest.importorskip("huggingface_hub")
    content = b"6.0" * 100_000
    cuts = [100_000, 90_000]  # bytes after which the connection breaks
    codes = {"absent": "RepoNotFound", "gated": "GatedRepo", "old": "RevisionNotFound", "empty": "EntryNotFound"}

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def answer(self) -> int:
            name = self.path.split("/")[2]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response((206 if start else 200) if name == "net" else 403 if name == "gated" else 404)
            self.send_header("X-Repo-Commit" if name == "net" else "X-Error-Code", codes.get(name, COMMIT))
            self.send_header("ETag", f'"{sha(content)}"')
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            return start

        def do_GET(self) -> None:
            start = self.answer()
            self.wfile.write(content[start : start + cuts.pop(0)] if cuts else content[start:])

        def log_message(self, *arguments: object) -> None:
            pass

    result = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=result.serve_forever)
    thread.start()
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{result.server_port}"}

    sentences = {
        "net": "",
        "absent": "the hub has no such repository: it moved, or shows itself after a login",
        "gated": "org/gated: model.safetensors: access is given on request: ask for it at http://127.0.0.1",
        "old": "the hub has no revision main of it",
        "empty": "org/empty: model.safetensors cannot be fetched",
    }
    for name in sentences:
        network(tmp_path / name, f'[weights]\nhub = "org/{name}"\nsha256 = {{ "model.safetensors" = "" }}\n')
    command = """
import contextlib, io, sys
from bench.cli import main
for folder in sys.argv[1:]:
    told = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(told):
        main(["adapters", "fetch", folder, "--accept-licence"])
    print(" ".join(told.getvalue().split()))
"""
    try:
        folders = [str(tmp_path / name) for name in sentences]
        done = subprocess.run(
            [sys.executable, "-c", command, *folders], env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
        for sentence in sentences.values():
            assert sentence in " ".join(done.stdout.split()), done.stdout
        (path,) = [path for path in hub.rglob("model.safetensors") if path.stat().st_size]
        assert path.read_bytes() == content and not cuts
    finally:
        result.shutdown()
        thread.join()
        result.server_close()


SOURCES = """
[weights]
url = "file://{folder}/own/"
sha256 = {{ "a.pt" = "{a}", "b.pt" = "" }}

[weights.beside.clip]
url = "file://{folder}/clip/c.pt"
sha256 = {{ "c.pt" = "{c}" }}

[weights.beside.segmenter]
hub = "org/net"
revision = "{commit}"
"""
TOGETHER = CODE.replace(
    "self.scale = float(Path(weights).read_text())",
    """parts = [Path(weights, *names) for names in (("a.pt",), ("clip", "c.pt"), ("segmenter", "model.safetensors"))]
            self.scale = sum(float(part.read_text()) for part in parts)""",
)


def of_three_sources(tmp_path: Path, a: bytes = b"1") -> Adapter:
    """A card of two files at one url, a file at another, and a hub's."""
    for name, content in (("own/a.pt", b"1"), ("own/b.pt", b"5"), ("clip/c.pt", b"2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    spec = SOURCES.format(folder=tmp_path, a=sha(a), c=sha(b"2"), commit=COMMIT)
    return network(tmp_path / "net", spec, TOGETHER)


def test_weights_of_several_sources_are_fetched_and_checked_alike_and_given_as_one_folder(
    tmp_path: Path, hub: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter = of_three_sources(tmp_path)
    put(hub, {"model.safetensors": b"4"})
    with pytest.raises(Unavailable, match=rf"not here \(file://{tmp_path}/own/, file://{tmp_path}/clip/c.pt\)"):
        weights.resolve(adapter, "pretrained")
    assert call("adapters", "fetch", adapter.folder, "--accept-licence") == 0
    told = capfd.readouterr()
    assert f"org/net on the hub, revision {COMMIT}" in told.err and "sha256 of b.pt, model.safetensors" in told.err
    given = weights.resolve(adapter, "pretrained")
    files = sorted(str(path.relative_to(given.load)) for path in Path(given.load).rglob("*") if path.is_file())
    assert files == ["a.pt", "b.pt", "clip/c.pt", "segmenter/model.safetensors"]
    outcome, result = run_adapter(adapter, VIEWS, policy=QUICK)  # behind walls, which must show what the links lead to
    assert outcome.status == "ok" and result is not None, outcome.message
    np.testing.assert_array_equal(result.points, 7 * np.eye(3))
    cached = next((tmp_path / "cache" / "weights").glob("*/c.pt"))
    cached.chmod(0o644)
    cached.write_bytes(b"9")
    with pytest.raises(Unavailable, match=rf"c.pt: sha256 {sha(b'9')} seen, {sha(b'2')} wanted; delete it"):
        weights.resolve(adapter, "pretrained")
    cached.unlink()
    with pytest.raises(Unavailable, match=rf"not here \(file://{tmp_path}/clip/c.pt\)"):
        weights.resolve(adapter, "pretrained")
    assert weights.fetch(adapter) == given


def test_a_wrong_file_of_one_source_is_refused_by_name(tmp_path: Path, hub: Path) -> None:
    adapter = of_three_sources(tmp_path, a=b"other")
    put(hub, {"model.safetensors": b"4"})
    with pytest.raises(InputError, match=f"a.pt: sha256 {sha(b'1')} seen"):
        weights.fetch(adapter)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("point-e", ["code under MIT", "does not recommend commercial use", "deployed use out of scope"]),
        (
            "lrm",
            ["NVIDIA Source Code License for EG3D: not for commercial use", "CC BY-NC 4.0: for research purposes only"],
        ),
        ("geolrm", ["NVIDIA Source Code License-NC", "CC BY-NC-SA 4.0: the mix is not for commercial use"]),
        (
            "combined",
            ["Apache-2.0", "base and large of Depth Anything V2 are under CC BY-NC 4.0: not for commercial use"],
        ),
    ],
)
def test_fetch_shows_what_single_image_systems_forbid(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("adapters", "fetch", name) == 2  # nothing is fetched unless that is accepted
    shown = " ".join(capsys.readouterr().err.split())
    assert [phrase for phrase in words if phrase not in shown] == []
