"""A power cut at any moment: what a put or a merge does to the disk is recorded, and every state that a disk may be
found in afterwards is built and read.

The recorder is a process that puts for real; its opens, renames and folders are heard from Python's audit events, its
fsyncs from `os.fsync`, with the content that they make durable. The model of a disk is harsher than real ones: of the
names that were changed since their folder was synced any subset may have arrived, in any order, and a file that was
never synced, or was written to since, may be empty, half or whole."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from bench.trials.records import TrialRecord
from bench.trials.store import Store
from tests.bench.test_walls import ROOT

RECORDER = """
import hashlib, json, os, sys
from pathlib import Path
import msgspec, numpy as np
from adapters.contract import Reconstruction
from bench import files
from bench.systems.cards import Card
from bench.systems.measure import Policy, hardware
from bench.trials.records import RunRecord, ScoreRecord, TrialRecord
from bench.trials.store import Store
base, task, fault = sys.argv[1:]
events, live = [], []

def blob(path):
    content = Path(path).read_bytes()
    name = hashlib.sha256(content).hexdigest()
    (Path(base).parent / "blobs" / name).write_bytes(content)
    return name

def hear(event, args):
    try:
        paths = [os.path.abspath(os.fspath(a)) for a in args[:2] if isinstance(a, (str, os.PathLike))]
    except ValueError:
        return
    if live and paths and paths[0].startswith(base + "/"):
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR):
            events.append(["write" if os.path.exists(paths[0]) else "create", paths[0]])
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "os.truncate"):
            events.append([event[3:], *paths])

def sync(number, real=os.fsync):
    path = os.readlink(f"/proc/self/fd/{number}")
    real(number)
    if not live or not (path + "/").startswith(base + "/"):
        return
    folder = os.path.isdir(path)
    events.append(["sync", path, "" if folder else blob(path)])

def done(kind, name):
    events.append(["done", kind, name])

os.fsync = sync
if fault == "files are not synced":
    files._to_disk = lambda path, real=files._to_disk: real(path) if path.is_dir() else None
if fault == "folders are not synced":
    files._to_disk = lambda path, real=files._to_disk: None if path.is_dir() else real(path)
store, source = Store(Path(base, "store")), Store(Path(base + "-source"))
made = Reconstruction(np.random.default_rng(0).random((50, 3)).astype(np.float32), "object", "arbitrary")
first, _ = source.put_prediction(made)
now = "2026-05-04T10:00:00+00:00"
new = TrialRecord(
    key="k" * 24, identity="i", adapter="a", adapter_hash="", environment="", weights="none",
    card=Card(name="a", title="A", licence_code="MIT", scope="scene"), options={}, inputs="images", scene="s",
    scene_path="/s", inputs_hash="", views=["v"], seed=0,
    device="cpu", policy=Policy(), status="ok", hardware=hardware(), prediction=first, points=50, finished=now,
    command="",
)
old = msgspec.structs.replace(new, status="unavailable", prediction=None)
score = ScoreRecord(
    trial=new.key, of=new.scored_as, truth="exact", truth_id="t", truth_made_by=[], protocol="p", protocol_version=1,
    protocol_hash="h", values=[], stages=[], points=50, unobserved=0, notes=[],
)
run = RunRecord(
    version="", command="", started=now, seconds=1.0, hardware=hardware(), overhead_seconds=None, trials=[new.key],
    left_out=[], protocol="p", truth="exact",
)
source.put_trial(new)
source.put_score(score, None)
source.put_run(run)
versions = [msgspec.json.encode(r).decode() for r in (old, new)]
os.mkdir(base)
sys.addaudithook(hear)
live.append(True)
if task == "merge":
    store.put_trial(old)
    done("trial", "0")
    store.merge(source)
    done("trial", "1")
else:
    store.put_trial(old)
    done("trial", "0")
    if fault == "the record comes first":
        store.put_trial(new)
    store.put_prediction(made)
    done("predictions", first)
    store.put_trial(new)
    done("trial", "1")
    store.put_score(score, None)
    done("scores", "")
    store.put_run(run)
    done("runs", "")
live.clear()
last = {str(path): blob(path) for path in Path(base).rglob("*") if path.is_file()}
print(json.dumps({"events": events, "last": last, "versions": versions}))
"""


@dataclass
class Disk:
    """What is on it for certain, and what may have arrived."""

    last: dict[str, str]  # the content of the files that are there in the end
    names: dict[str, int] = field(default_factory=dict)  # durable: path -> file, 0 a folder
    live: dict[str, int] = field(default_factory=dict)  # the same as running programs see it
    pending: list[list[tuple[str, int | None]]] = field(default_factory=list)  # changes, each whole or not at all
    content: dict[int, str] = field(default_factory=dict)  # durable
    loose: set[int] = field(default_factory=set)  # files written since they were synced
    count: int = 0

    def do(self, event: str, path: str, more: str = "") -> None:
        """One operation of the recorded ones."""
        if event in ("create", "mkdir"):
            self.count += 1
            self.live[path] = self.count if event == "create" else 0
            self.loose |= {self.count} if event == "create" else set()
            self.pending.append([(path, self.live[path])])
        elif event == "write":
            self.loose.add(self.live[path])
        elif event == "rename":
            self.live[more] = self.live.pop(path)
            self.pending.append([(path, None), (more, self.live[more])])
        elif event == "remove":
            if self.live.pop(path, None) is not None:
                self.pending.append([(path, None)])
        elif event == "sync" and more:
            self.content[self.live[path]] = more
            self.loose.discard(self.live[path])
        elif event == "sync":
            arrived = [change for change in self.pending if path in {str(Path(name).parent) for name, _ in change}]
            self.names = _applied(self.names, arrived)
            self.pending = [change for change in self.pending if change not in arrived]
        else:
            raise AssertionError(f"{event} of {path}: what it does to a disk is not modelled")

    def states(self) -> Iterator[dict[str, tuple[str, float] | None]]:
        """Every tree that may be found: path -> content and the share of it that is there; None a folder."""
        ends = {self.live[path]: content for path, content in self.last.items() if path in self.live}
        count = len(self.pending)
        for kept in itertools.product((False, True), repeat=min(count, 7)):
            # The oldest of many: either all arrived or none.
            kept = (kept[0],) * (count - len(kept)) + kept if count > len(kept) else kept
            names = _applied(self.names, list(itertools.compress(self.pending, kept)))
            there = {path: number for path, number in names.items() if _reachable(path, names)}
            for share in (0.0, 0.5, 1.0):
                yield {
                    path: None
                    if number == 0
                    else (self.content.get(number, ends.get(number, "")), share if number in self.loose else 1.0)
                    for path, number in there.items()
                }


def _applied(names: dict[str, int], changes: list[list[tuple[str, int | None]]]) -> dict[str, int]:
    out: dict[str, int | None] = {**names}
    for change in changes:
        out.update(change)
    return {path: number for path, number in out.items() if number is not None}


def _reachable(path: str, names: dict[str, int]) -> bool:
    parent = str(Path(path).parent)
    return Path(path).name == "base" or (names.get(parent) == 0 and _reachable(parent, names))


def _build(state: dict[str, tuple[str, float] | None], base: Path, blobs: Path, target: Path) -> None:
    for path, content in sorted(state.items()):
        place = target / Path(path).relative_to(base)
        if content is None:
            place.mkdir(parents=True)
        else:
            whole = (blobs / content[0]).read_bytes() if content[0] else b""
            place.write_bytes(whole[: int(len(whole) * content[1])])


def broken(task: str, fault: str, folder: Path) -> tuple[int, list[str]]:
    """How many states there are, and what is wrong with them."""
    base, blobs = folder / "base", folder / "blobs"
    blobs.mkdir()
    command = [sys.executable, "-c", RECORDER, str(base), task, fault]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True, timeout=300)
    messages = json.loads(done.stdout)
    versions = [msgspec.json.decode(text, type=TrialRecord) for text in messages["versions"]]
    disk, kept, wrong, tried = Disk(messages["last"], {str(base): 0}, {str(base): 0}), dict[str, int](), [], set[str]()
    for event, path, *more in messages["events"]:
        if event == "done":
            kept[path] = int(more[0]) if path == "trial" else 1
        else:
            disk.do(event, path, *more)
        for state in disk.states():
            known = json.dumps([sorted(state.items()), sorted(kept.items())])
            if known in tried:
                continue
            tried.add(known)
            target = folder / "states" / str(len(tried))
            _build(state, base, blobs, target)
            problem = _judged(Store(target / "store"), versions, kept)
            wrong += [f"after {event} {path}: {problem}"] if problem else []
    return len(tried), wrong


def _judged(store: Store, versions: list[TrialRecord], kept: dict[str, int]) -> str:
    """What is wrong with a store that holds one trial, of which there were `versions`; "" is nothing."""
    problems = [problem.sentence for problem in store.problems() if "left by a writer" not in problem.sentence]
    if problems:
        return problems[0]
    trials = store.trials()
    if any(trial not in versions for trial in trials):
        return "a record that nobody wrote"
    if "trial" in kept and not any(trial in versions[kept["trial"] :] for trial in trials):
        return "a record is gone that was there"
    for kind in ("predictions", "scores", "runs"):
        if kind in kept and not [p for p in (store.path / kind).glob("*") if not p.name.startswith(".")]:
            return f"{kind}: what was there is gone"
    return ""


@pytest.mark.parametrize("task", ["put", "merge"])
def test_a_power_cut_leaves_each_record_whole_or_absent(task: str, tmp_path: Path) -> None:
    states, wrong = broken(task, "", tmp_path)
    assert not wrong, f"{len(wrong)} of {states} states: {wrong[:3]}"
    assert states > 25


@pytest.mark.parametrize("fault", ["files are not synced", "folders are not synced", "the record comes first"])
def test_the_model_tells_what_a_power_cut_would_break(fault: str, tmp_path: Path) -> None:
    assert broken("put", fault, tmp_path)[1]
