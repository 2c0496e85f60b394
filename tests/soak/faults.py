"""Every fault, over and over: `python -m tests.soak.faults [--count 320] [--seed 0] [--results FILE] [--write PAGE]`.

A host is forked, runs trials whose adapters misbehave or is itself killed at a random moment, and is judged by what it
leaves. Every try must end as stated, and there must be no

    loss     a finished record, prediction or run gone, repeated or unreadable; a good trial that did not end well
    leak     a file, folder or mount outside the store; a file in it that `store check --repair` does not set aside
    orphan   a process that lives on
    hang     a host that is not done in time

Seeded; tries that `--results` already holds are not repeated. Exit code 1 where one did not end so."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import datetime
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adapters.contract import InputError
from bench.cli import main as command_line
from bench.engines import engine, local
from bench.systems import measure, walls
from bench.systems.cards import get_adapter
from bench.systems.environments import find
from bench.systems.measure import Policy, hardware
from bench.trials.plan import plan
from bench.trials.store import NewerFormatError, Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene
from tests.bench.spies import spy, wait_for
from tests.bench.test_store import DAMAGE, edited
from tests.bench.test_walls import FAKES, LEFT_BEHIND, LIES, PIPE, REACHES, ROOT, faking, reach
from tests.conftest import make_scene
from tests.data.fuzz import READERS, feed

MARK = "NVIDIA_SOAK_MARK"  # a variable that workers inherit
PATIENCE = 240.0  # seconds for one host
SETTLE = 60.0  # seconds until what a dead host left must be gone
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=90.0)
GOOD = "print('well')"
CLONE_USER_AND_MOUNTS = 0x10000000 | 0x00020000


@dataclass(frozen=True)
class Try:
    """What one try is given: folders of its own, what is shared, and its own random numbers."""

    folder: Path
    scene: Path  # without truth, so that trials are quick
    truth: Path  # the same with its truth
    rng: np.random.Generator

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    def adapter(self, body: str) -> str:
        """The folder of a new adapter whose `infer` runs `body`."""
        place = self.folder / "adapters" / str(len(list((self.folder / "adapters").glob("*"))))
        place.parent.mkdir(exist_ok=True)
        return str(spy(place, body).folder)

    def run(self, adapters: list[str], scene: Path | None = None, policy: Policy = QUICK) -> None:
        """Run `adapters` once each on two views."""
        suite = Suite(name="soak", adapters=[Contestant(name=name) for name in adapters], views=(2,), policy=policy)
        local.run_plan(plan(suite, [Scene.open(scene or self.scene)]), self.store, protocol="object-v1", truth="exact")


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `host` is what the host does, in a process of its own; `judge` looks at what it left."""

    name: str
    wanted: str
    share: float  # of all tries
    host: Callable[[Try], None]
    judge: Callable[[Try], None] = lambda attempt: None
    disturb: Callable[[Try, int, float], None] | None = None  # done to the host of that process id, which takes so long
    adapters: int = 3  # good ones that are there beforehand


@dataclass
class Result:
    """How one try ended; empty lists are well."""

    fault: str
    number: int
    seed: int
    seconds: float
    otherwise: list[str] = field(default_factory=list)  # what did not end as wanted
    losses: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    hang: bool = False

    @property
    def well(self) -> bool:
        return not (self.otherwise or self.losses or self.leaks or self.orphans or self.hang)


# -- what workers do


def _worker_fault(
    name: str, share: float, bodies: list[str], status: tuple[str, ...], policy: Policy = QUICK, wanted: str = ""
) -> Fault:
    """One of `bodies`, then a good trial: the first ends as one of `status`, the second well."""

    def host(attempt: Try) -> None:
        body = str(attempt.rng.choice(np.array(bodies, dtype=object)))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            names = {"truth": str(attempt.truth), "root": str(ROOT), "host": os.getpid(), "port": port}
            for key, value in names.items():
                body = body.replace(f"{{{key}!r}}", repr(value)).replace(f"{{{key}}}", str(value))
            attempt.run([attempt.adapter(body), attempt.adapter(GOOD)], policy=policy)

    def judge(attempt: Try) -> None:
        records = attempt.store.trials()
        good = [record for record in records if record.log_tail.strip() == "well"]
        bad = [record for record in records if record not in good]
        assert [record.status for record in good] == ["ok"], [f"{r.status} {r.message}" for r in records]
        (record,) = bad
        assert record.status in status, f"{record.status}: {record.message}; {record.log_tail[-300:]}"
        assert record.isolated and len(record.message) <= 2000

    return Fault(name, wanted or f"`{'` or `'.join(status)}`, the next trial runs", share, host, judge, adapters=0)


def _lie(line: bytes) -> str:
    return PIPE.replace("{lines!r}", repr(line)).strip()


IGNORES = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
NATIVE = "import ctypes\nlibc = ctypes.PyDLL(None)\n"  # keeps the interpreter's lock while it is inside
KILLED = """import os, signal, threading, time
threading.Timer({delay}, lambda: os.kill(os.getpid(), signal.{name})).start()
time.sleep(60)"""
SIGNALS = ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM", "SIGBUS", "SIGFPE", "SIGXCPU")
SHORT = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=5.0)
SMALL = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=90.0, memory_gib=0.3)

# -- what happens to hosts


def _three_good(attempt: Try) -> None:
    scored = attempt.folder.name.endswith("scored")
    attempt.run([str(p) for p in sorted((attempt.folder / "adapters").iterdir())], attempt.truth if scored else None)


def _kill(*numbers: signal.Signals) -> Callable[[Try, int, float], None]:
    """Each signal in turn, the first after a random moment."""

    def disturb(attempt: Try, pid: int, typical: float) -> None:
        time.sleep(float(attempt.rng.uniform(0.0, typical)))
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(float(attempt.rng.uniform(0.0, 0.3)) if len(numbers) > 1 else 0.0)

    return disturb


def _resumed(attempt: Try) -> None:
    """The same command goes on: what was finished stays as it is, and all is there in the end."""
    before = {path: path.stat().st_mtime_ns for path in (attempt.store.path / "trials").glob("[!.]*.json")}
    _fork(lambda: _three_good(attempt), attempt)
    after = {path: path.stat().st_mtime_ns for path in (attempt.store.path / "trials").glob("[!.]*.json")}
    assert before.items() <= after.items(), "a finished trial was repeated"
    _all_good(attempt, 3)


def _all_good(attempt: Try, count: int) -> None:
    records = attempt.store.trials()
    assert [record.status for record in records] == ["ok"] * count, [f"{r.status} {r.message}" for r in records]
    for record in records:
        assert record.prediction is not None and len(attempt.store.prediction(record.prediction).points) == 1
        assert attempt.store.log_path(record.key).read_text().strip() == "well"


def _clock_set_back(attempt: Try) -> None:
    """Half way through, it is 1999 again."""
    told = iter([*["2026-05-04T10:00:00+00:00"] * int(attempt.rng.integers(1, 4)), *["1999-01-01T00:00:00+00:00"] * 99])
    engine.now = local.now = measure.now = lambda: next(told)  # type: ignore[assignment]
    for _ in range(2):
        _three_good(attempt)


def _together(count: int, killed: int = 0) -> Callable[[Try], None]:
    """`count` hosts on one store at once, the first `killed` of them killed at a random moment."""

    def host(attempt: Try) -> None:
        pids = [_start(lambda: _three_good(attempt), attempt) for _ in range(count)]
        for pid in pids[:killed]:
            time.sleep(float(attempt.rng.uniform(0.0, 2.0)))
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            assert pid in pids[:killed] or status == 0, f"host ended with {status}"

    return host


def _runs(count: int) -> Callable[[Try], None]:
    def judge(attempt: Try) -> None:
        _all_good(attempt, 3)
        ended = [run for run in attempt.store.runs() if run.overhead_seconds is not None]  # a killed one has none
        assert len(ended) == count, f"{len(ended)} runs kept"

    return judge


# -- what happens to stores and files


def _damaged_store(attempt: Try) -> None:
    _three_good(attempt)
    kind = str(attempt.rng.choice(["trials", "predictions", "runs"]))
    path = sorted((attempt.store.path / kind).iterdir())[0]
    if kind == "predictions":
        path.write_bytes(damaged_bytes(path.read_bytes(), attempt.rng))
    else:
        DAMAGE[str(attempt.rng.choice([name for name in DAMAGE if name != "NaN"]))](path)
    left = len(attempt.store.trials())
    assert left >= 2, f"{left} trials read"
    # What damage left as it was is no problem; all else is named.
    attempt.store.repair()
    _three_good(attempt)
    _all_good(attempt, 3)


def damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """`content` cut at a random place."""
    return content[: int(rng.integers(0, len(content)))]


def _forged_store(attempt: Try) -> None:
    """A store from elsewhere whose records name files outside it."""
    _three_good(attempt)
    trials = sorted((attempt.store.path / "trials").iterdir())
    edited(prediction="../../../x")(trials[0])
    edited(key="../../y")(trials[1])
    other = Store(attempt.folder / "merged")
    assert other.merge(attempt.store) == 1 and len(other.trials()) == 1
    assert not [path for path in attempt.folder.rglob("*") if path.name in ("x.npz", "y.json")]
    edited(format=99)(trials[2])
    try:
        attempt.store.trials()
    except NewerFormatError:
        pass
    else:
        raise AssertionError("a newer format was read")
    for path in trials:
        path.unlink()


def _no_room(read_only: bool) -> Callable[[Try], None]:
    """The store lies on a disk of its own that fills up, or that nobody may write to."""

    def host(attempt: Try) -> None:
        libc, place = ctypes.CDLL(None, use_errno=True), attempt.store.path
        uid, gid = os.geteuid(), os.getegid()
        place.mkdir()
        assert libc.unshare(CLONE_USER_AND_MOUNTS) == 0
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(line)
        assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=256k") == 0
        if read_only:
            assert libc.mount(b"none", os.fsencode(place), None, 32 | 1, None) == 0  # MS_REMOUNT | MS_RDONLY
        else:
            (place / "full").write_bytes(bytes(int(attempt.rng.integers(40, 64)) * 4096))
        adapters = ",".join(attempt.adapter(GOOD) for _ in range(3))
        words = ["run", "--adapters", adapters, "--scenes", str(attempt.scene), "--views", "2", "--repeats", "0"]
        errors = attempt.folder / "errors.txt"
        with errors.open("w") as file:
            os.dup2(file.fileno(), 2)
        try:
            command_line([*words, "--store", str(place)])
        except SystemExit as ended:
            assert ended.code in (0, 2), f"exit code {ended.code}"
            output = errors.read_text()
            assert "Traceback" not in output and (ended.code == 0 or "What was finished before is kept" in output), (
                output
            )
        kept = Store(place)
        assert not kept.unreadable(), "a record was written by half"
        for record in kept.trials():
            assert record.prediction is None or kept.prediction(record.prediction)
        libc.umount2(os.fsencode(place), 2)

    return host


def _damaged_files(attempt: Try) -> None:
    name = str(attempt.rng.choice(list(READERS)))
    understood, refused, defects = feed(name, 25, int(attempt.rng.integers(2**31)), attempt.folder)
    assert not defects and understood + refused == 25, defects


def _refused_flags(attempt: Try) -> None:
    flags = [("--deadline", "inf"), ("--deadline", "nan"), ("--memory", "-1"), ("--option", "noise=1e999")]
    flag = flags[int(attempt.rng.integers(len(flags)))]
    words = [
        "run",
        "--adapters",
        "noisy-oracle",
        "--scenes",
        str(attempt.truth),
        "--store",
        str(attempt.store.path),
        *flag,
    ]
    try:
        command_line(words)
    except SystemExit as ended:
        assert ended.code == 2 and not attempt.store.path.exists()


def _spoilt_code(attempt: Try) -> None:
    """Someone writes into the staged code between two trials."""
    adapters = [attempt.adapter(GOOD) for _ in range(2)]
    from bench.systems.process import stage

    for name in adapters:
        staged = stage(get_adapter(name)) / "adapters" / "contract.py"
        staged.chmod(0o644)
        staged.write_text(staged.read_text() + "\nraise RuntimeError('spoilt')\n")
    attempt.run([*adapters, attempt.adapter(GOOD)])


REACHED = [reach(body) for body in REACHES.values()]
FAULTS = (
    _worker_fault(
        "reaches for truth, store, network, processes, capabilities, secrets",
        0.1,
        REACHED,
        ("ok",),
        wanted="nothing is reached, the next trial runs",
    ),
    _worker_fault(
        "NaN, infinity, nonsense, depth, endless lines as messages",
        0.07,
        [_lie(line) for line in LIES.values()],
        ("invalid_output",),
    ),
    _worker_fault(
        "pipe, link, folder, bomb, pickle, half a file as prediction",
        0.05,
        [faking(make) for make, _ in FAKES.values()],
        ("invalid_output",),
    ),
    _worker_fault(
        "children, daemons and sessions left behind",
        0.05,
        [f"import os, time\n{body}" for body in LEFT_BEHIND.values()],
        ("ok",),
    ),
    _worker_fault(
        "hundreds of forks", 0.02, ["import os, time\nfor _ in range(300): os.fork() or time.sleep(600)"], ("ok",)
    ),
    _worker_fault(
        "worker killed by a signal",
        0.06,
        [KILLED.format(name=name, delay=delay) for name in SIGNALS for delay in (0.0, 0.2)],
        ("crash",),
    ),
    _worker_fault(
        "memory without end, its own and its children's",
        0.03,
        [
            "hold = []\nwhile True: hold.append(np.ones(2**20))",
            "import os\nfor _ in range(3): os.fork()\nhold = []\nwhile True: hold.append(np.ones(2**18))",
        ],
        ("oom",),
        SMALL,
    ),
    _worker_fault(
        "hangs in native code, every signal blocked",
        0.03,
        [
            f"{IGNORES}{NATIVE}while True: libc.pause()",
            f"{IGNORES}while True: pass",
            f"{IGNORES}import os, time\nos.fork()\ntime.sleep(600)",
        ],
        ("timeout",),
        SHORT,
    ),
    _worker_fault(
        "floods of output and of messages",
        0.04,
        [
            "for _ in range(60): print('x' * 10**6)",
            "import os\nfor _ in range(60): os.write(2, bytes(10**6))",
            "print('\\x1b[2J\\x1b]0;owned\\x07' * 1000)",
            PIPE.replace("{lines!r}", 'b\'{"event": "loaded", "seconds": 1.0}\\n\' * 10**6').strip(),
        ],
        ("ok", "invalid_output", "crash"),
        wanted="bounded log; `ok`, or `invalid_output` of messages",
    ),
    Fault(
        "staged code rewritten between trials",
        "made anew, all `ok`",
        0.02,
        _spoilt_code,
        lambda attempt: _all_good(attempt, 3),
        adapters=0,
    ),
    Fault(
        "host killed (SIGKILL) at a random moment",
        "the same command goes on",
        0.18,
        _three_good,
        _resumed,
        _kill(signal.SIGKILL),
    ),
    Fault(
        "host asked to end (SIGTERM)",
        "the same command goes on",
        0.05,
        _three_good,
        _resumed,
        _kill(signal.SIGTERM),
    ),
    Fault("terminal closed (SIGHUP)", "the same command goes on", 0.03, _three_good, _resumed, _kill(signal.SIGHUP)),
    Fault("Ctrl-C", "the same command goes on", 0.03, _three_good, _resumed, _kill(signal.SIGINT)),
    Fault("Ctrl-C twice", "the same command goes on", 0.05, _three_good, _resumed, _kill(signal.SIGINT, signal.SIGINT)),
    Fault("clock set back", "every trial and run is kept", 0.02, _clock_set_back, _runs(2)),
    Fault("two runs on one store", "each trial once", 0.03, _together(2), _runs(2)),
    Fault("three runs on one store", "each trial once", 0.02, _together(3), _runs(3)),
    Fault(
        "two runs on one store, one killed",
        "the other goes on; asked again, all is there",
        0.03,
        _together(2, 1),
        _resumed,
    ),
    Fault("record, run or prediction damaged", "set aside, the rest is read", 0.05, _damaged_store),
    Fault("store from elsewhere with names that lead out, a newer format", "left out; refused", 0.02, _forged_store),
    Fault("disk full", "one sentence, nothing by half", 0.03, _no_room(read_only=False), adapters=0),
    Fault("read-only store", "one sentence", 0.02, _no_room(read_only=True), adapters=0),
    Fault("damaged files of fourteen kinds, 25 a try", "read or refused in a sentence", 0.05, _damaged_files),
    Fault("flags that no record could hold", "one sentence, no store", 0.02, _refused_flags),
)


# -- trying and judging


def _start(do: Callable[[], None], attempt: Try) -> int:
    """The process id of a host that does `do`: a fork of this process, which has no threads."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    atexit._clear()  # what our parent removes at its own end
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        temporary = str(attempt.folder / "tmp")
        os.environ |= {MARK: str(attempt.folder), "TMPDIR": temporary, "SECRET_TOKEN": "hunter2"}
        tempfile.tempdir = temporary
        do()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - the judge reads it
        with contextlib.suppress(BaseException):
            (attempt.folder / "failure.txt").write_text(traceback.format_exc())
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        os._exit(code)


def _wait(pid: int, patience: float) -> int | None:
    """Its wait status, or None where it was not done in time and is ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _fork(do: Callable[[], None], attempt: Try) -> None:
    status = _wait(_start(do, attempt), PATIENCE)
    failure = attempt.folder / "failure.txt"
    assert status == 0, f"the host ended with {status}: {failure.read_text()[-800:] if failure.exists() else ''}"


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _living(mark: str) -> list[str]:
    """Command lines of the processes that inherited `mark`."""
    out = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            if f"{MARK}={mark}".encode() in environment.split(b"\0") and process.status() != psutil.STATUS_ZOMBIE:
                out.append(" ".join(process.cmdline())[-200:])
    return out


def is_scored(fault: Fault, number: int) -> bool:
    """Whether the runs of this try are scored: one in eight of those whose host is disturbed."""
    return fault.disturb is not None and number % 8 == 7


def attempt(fault: Fault, number: int, seed: int, shared: Path, typical: float) -> Result:
    """Try `fault` once, and judge what it left."""
    rng = np.random.default_rng([seed, number, sum(fault.name.encode())])
    scored = "-scored" if is_scored(fault, number) else ""
    result, began = Result(fault.name, number, seed, 0.0), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-", suffix=scored, ignore_cleanup_errors=True) as name:
        attempt = Try(Path(name), shared / "plain", shared / "bumpy", rng)
        temporary = attempt.folder / "tmp"
        temporary.mkdir()
        for _ in range(fault.adapters):
            attempt.adapter(GOOD)
        mounts = _mounts()
        pid = _start(lambda: fault.host(attempt), attempt)
        if fault.disturb is not None:
            fault.disturb(attempt, pid, typical * (2.5 if scored else 1.0))
        status = _wait(pid, PATIENCE)
        result.hang = status is None
        failure = attempt.folder / "failure.txt"
        if fault.disturb is None and status not in (0, None):
            result.otherwise.append(failure.read_text()[-1500:] if failure.exists() else f"host ended with {status}")
        if not wait_for(lambda: not _living(name), SETTLE):
            result.orphans = _living(name)
        with contextlib.suppress(AssertionError):
            # A folder made in the instant before its watcher stands is removed by the next command.
            tempfile.tempdir = str(temporary)
            walls.sweep()
        tempfile.tempdir = None
        if not wait_for(lambda: not list(temporary.iterdir()), SETTLE):
            result.leaks += [str(path) for path in temporary.rglob("*")][:5]
        try:
            fault.judge(attempt)
        except (AssertionError, InputError, OSError) as error:
            result.losses.append(f"{type(error).__name__}: {error}"[-800:])
        result.leaks += [line for line in _mounts() if line not in mounts]
        attempt.store.repair()
        strays = [path for path in attempt.store.path.rglob(".*") if "quarantine" not in path.parts]
        result.leaks += [*map(str, strays), *(problem.sentence for problem in attempt.store.problems())]
        if not result.orphans and not wait_for(lambda: not _living(name), SETTLE):
            result.orphans = _living(name)
    result.seconds = round(time.monotonic() - began, 2)
    return result


def schedule(count: int) -> list[tuple[Fault, int]]:
    """At least `count` tries, spread over the faults by their share, in an order that mixes them."""
    every = [(fault, number) for fault in FAULTS for number in range(max(1, round(count * fault.share / TOTAL)))]
    return sorted(every, key=lambda pair: (pair[1] / max(1, round(count * pair[0].share / TOTAL)), pair[0].name))


TOTAL = sum(fault.share for fault in FAULTS)


@contextlib.contextmanager
def prepared(scored: bool) -> Iterator[tuple[Path, float]]:
    """What every try shares: scenes, caches that are filled, for runs that are `scored` as well, and how long an
    undisturbed run takes."""
    assert walls.isolated(), "this system permits no namespaces: the table of faults wants them"
    with tempfile.TemporaryDirectory(prefix="soak-shared-") as name:
        shared = Path(name)
        os.environ["RECONBENCH_CACHE"] = str(shared / "cache")
        make_scene(shared / "bumpy")
        make_scene(shared / "plain", "plain")
        for path in sorted((shared / "plain" / "truth").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (shared / "plain" / "truth").rmdir()
        hardware()
        local.overhead_seconds = lambda calls=50: 0.0  # one more worker a run
        (shared / "warm" / "tmp").mkdir(parents=True)
        attempt = Try(shared / "warm", shared / "plain", shared / "bumpy", np.random.default_rng(0))
        for _ in range(3):
            attempt.adapter(GOOD)
        walls.interpreter_folders(find(get_adapter(attempt.adapter(GOOD))).python)
        if scored:  # which compiles what scores
            assert (
                _wait(_start(lambda: attempt.run([attempt.adapter(GOOD)], attempt.truth), attempt), 10 * PATIENCE) == 0
            )
        began = time.monotonic()
        _fork(lambda: _three_good(attempt), attempt)
        yield shared, time.monotonic() - began


def table(results: list[Result]) -> str:
    """The table of faults as Markdown."""
    lines = [
        "| fault | tries | wanted | as wanted | losses | leaks | orphans | hangs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        own = [result for result in results if result.fault == fault.name]
        if own:
            counts = [
                sum(not result.otherwise for result in own),
                *(sum(bool(getattr(r, kind)) for r in own) for kind in ("losses", "leaks", "orphans", "hang")),
            ]
            lines.append(f"| {fault.name} | {len(own)} | {fault.wanted} | {' | '.join(map(str, counts))} |")
    whole = [
        sum(not r.otherwise for r in results),
        *(sum(bool(getattr(r, kind)) for r in results) for kind in ("losses", "leaks", "orphans", "hang")),
    ]
    lines.append(f"| **all** | {len(results)} | | {' | '.join(map(str, whole))} |")
    return "\n".join(lines)


def read_results(path: Path, seed: int) -> list[Result]:
    """The finished tries of `seed` that `path` holds."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [result for line in lines if (result := Result(**json.loads(line))).seed == seed]


def soak(count: int, seed: int, file: Path, console: Console, jobs: int = 1) -> list[Result]:
    """Every try of the schedule that `file` does not hold yet, `jobs` at a time; results go there."""
    known = read_results(file, seed)
    done = {(result.fault, result.number) for result in known}
    every = [pair for pair in schedule(count) if (pair[0].name, pair[1]) not in done]
    if not every:
        return known
    # Whoever is free takes the next number.
    reader, writer = os.pipe()
    os.write(writer, b"".join(index.to_bytes(2, "big") for index in range(len(every))))
    os.close(writer)
    with prepared(any(is_scored(*pair) for pair in every)) as (shared, typical):
        others = []
        for _ in range(1, jobs):
            others.append(os.fork())
            if others[-1] == 0:
                atexit._clear()
                _work(every, reader, seed, file, Console(stderr=True, quiet=True), shared, typical)
                os._exit(0)
        _work(every, reader, seed, file, console, shared, typical)
        for other in others:
            os.waitpid(other, 0)
    os.close(reader)
    return read_results(file, seed)


def _work(
    every: list[tuple[Fault, int]], queue: int, seed: int, file: Path, console: Console, shared: Path, typical: float
) -> None:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    # No thread of its own draws it: hosts are forks of this process.
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=len(every))
        while token := os.read(queue, 2):
            index = int.from_bytes(token, "big")
            fault, number = every[index]
            bar.update(task, description=fault.name[:60], completed=index, refresh=True)
            result = attempt(fault, number, seed, shared, typical)
            with file.open("a") as lines:
                lines.write(json.dumps(asdict(result)) + "\n")
            if not result.well:
                bar.console.print(json.dumps(asdict(result), indent=1), markup=False)
        bar.update(task, completed=len(every), refresh=True)


def main() -> int:
    """Run the schedule, print the table and, where asked, write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a file of finished tries, a line each; they are not repeated")
    parser.add_argument("--write", type=Path, help="a page whose table between `faults` marks is made anew")
    parser.add_argument("--jobs", type=int, default=1, help="tries at a time")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.results or Path(folder, "results.jsonl")
        file.parent.mkdir(parents=True, exist_ok=True)
        soak(arguments.count, arguments.seed, file, console, arguments.jobs)
        results = read_results(file, arguments.seed)
    made = table(results)
    console.print(made, markup=False)
    if arguments.write is not None:
        before, _, rest = arguments.write.read_text().partition("<!-- faults -->\n")
        _, _, after = rest.partition("<!-- /faults -->")
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        command = f"python -m tests.soak.faults --count {arguments.count} --seed {arguments.seed}"
        seconds = sum(result.seconds for result in results)
        head = f"`{command}` on {day}: {hardware()}, {seconds / 60:.0f} minutes of tries.\n\n"
        arguments.write.write_text(f"{before}<!-- faults -->\n{head}{made}\n<!-- /faults -->{after}")
    return 0 if all(result.well for result in results) and len(results) >= len(schedule(arguments.count)) else 1


if __name__ == "__main__":
    sys.exit(main())
