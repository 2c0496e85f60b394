"""The host's side of a worker: starts it isolated, owns its deadline and memory limit, and always ends it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import psutil

from adapters.contract import ContractError, InputError, Reconstruction, TrialStatus, Unavailable, Views, shapes_of
from bench.arrays import NpzFile
from bench.files import cache_dir
from bench.systems import environments, walls
from bench.systems.cards import Adapter, content_digest
from bench.systems.clock import HostClock
from bench.systems.energy import meter_of
from bench.systems.events import (
    LONGEST_MESSAGE,
    Cold,
    Done,
    Event,
    Failed,
    Loaded,
    Mark,
    Pixels,
    Ran,
    Warm,
    read_events,
    read_lines,
)
from bench.systems.measure import Outcome, Policy, TreeUsage, TreeWatch, memory_limit_bytes, version
from bench.systems.weights import PRETRAINED, RANDOM, resolve

LOG_TAIL_LINES = 20
_PROGRESS = re.compile(r"\d+%\|.*\||[\d.?]+(it|s|B|MB)/(s|it)\b|[━█▏▎▍▌▋▊▉]{3}")  # bars of tqdm and of rich
_TENSOR = re.compile(r"tensor\([^()]*(\([^()]*\)[^()]*)*\)")  # printed ones fill pages
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LOG_BYTES = 4 * 2**20  # kept of either end of a worker's output
KILL_SECONDS = 5.0
MOST_POINTS = 50_000_000
BYTES_A_POINT, BYTES_A_PIXEL = 64, 32  # of a prediction's arrays together: more than the contract's fields take
_STUB = "import sys; sys.path.insert(0, sys.argv[1]); from adapters.worker import main; main({}, {}, {})"


def stage(adapter: Adapter) -> Path:
    """A read-only folder holding what `adapter` needs of `adapters/`, its own folder with it, and nothing else of ours.

    An upstream package called `data` or `metrics` is so never shadowed, and a worker cannot import the scoring. The
    folder is named by its content, and made anew where its content is no longer what its name says."""
    digest = content_digest(adapter.content)
    target = cache_dir() / "staged" / digest[:16]
    if target.is_dir() and content_digest(_content(target / "adapters")) != digest:
        _remove_read_only(target)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent))
        for name, body in adapter.content.items():
            file = fresh / "adapters" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
            file.chmod(0o444)
        with contextlib.suppress(OSError):  # another process was first
            fresh.chmod(0o755)
            fresh.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _remove_read_only(folder: Path) -> None:
    """Set `folder` aside at once, then delete it: another process may be about to use it."""
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    with contextlib.suppress(OSError):
        folder.rename(aside / "old")
    shutil.rmtree(aside, ignore_errors=True)


def run_adapter(
    adapter: Adapter,
    views: Views,
    *,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
    weights: str = PRETRAINED,
    seed: int = 0,
    policy: Policy | None = None,
    log: Path | None = None,
    finish_random: bool = False,
) -> tuple[Outcome, Reconstruction | None]:
    """Run one adapter once, in a fresh process behind the walls, and return what became of it and its result.

    It runs in its own environment, with `weights` "pretrained", "random" or a checkpoint's path; random ones are timed
    in `infer` alone and give no result unless `finish_random` asks for it. Beside its interpreter and weights it sees
    nothing of the file system where the system permits (`Outcome.isolated`). The worker never outlives this call.
    Failures of the adapter are outcomes, not exceptions; `log` receives its output, or the first and last parts of
    it."""
    policy = policy or Policy()
    try:
        python, given = environments.find(adapter).python, resolve(adapter, weights)
    except Unavailable as error:
        return Outcome(status="unavailable", message=str(error)), None
    infer_only = given.load == RANDOM and not finish_random
    with walls.work_folder() as folder:
        work = folder / "work"
        work.mkdir()
        views.save(work / "views.npz", pixels=False)
        log = log or folder / "log.txt"
        worker = _Worker(python, adapter, policy, folder, log, device, weights_files(given.load))
        outcome = worker.converse(
            views,
            infer_only,
            adapter.card.streams,
            {
                "op": "load",
                "module": adapter.module,
                "options": options or {},
                "device": device,
                "weights": given.load,
                "seed": seed,
            },
            {
                "op": "predict",
                "views": str(work / "views.npz"),
                "out": str(work / "out.npz"),
                "warmups": policy.warmups,
                "repeats": policy.repeats,
                "min_seconds": policy.min_seconds,
                "max_seconds": policy.max_seconds,
                "infer_only": infer_only,
                "streams": adapter.card.streams,
            },
        )
        if outcome.status != "ok":
            return outcome, None
        if infer_only:
            return msgspec.structs.replace(outcome, message="random weights: infer alone is timed"), None
        try:  # the worker's own validation is not trusted
            pixels = sum(shape[0] * shape[1] for shape in shapes_of(views.images))
            most = MOST_POINTS * BYTES_A_POINT + pixels * BYTES_A_PIXEL
            result = Reconstruction.from_arrays(NpzFile(work / "out.npz", most, MOST_POINTS))
            result.validate(views)
        except (ContractError, InputError, KeyError, ValueError, TypeError, OSError) as error:
            return msgspec.structs.replace(outcome, status="invalid_output", message=str(error)[:LONGEST_MESSAGE]), None
        return outcome, result


class _Worker:
    """One worker process and its watchers."""

    def __init__(
        self,
        python: Path,
        adapter: Adapter,
        policy: Policy,
        folder: Path,
        log: Path,
        device: str,
        weights: list[Path],
    ) -> None:
        self._policy, self._meter = policy, meter_of(device)
        command_read, self._command_write = os.pipe()
        self._event_read, event_write = os.pipe()
        replies_read, self._replies = os.pipe()
        staged = stage(adapter)
        compiled = walls.compiled_folder(f"{adapter.name}-{adapter.hash}")
        stub = _STUB.format(command_read, event_write, replies_read)
        command = walls.enclosed(
            [str(python), "-I", "-B", "-c", stub, str(staged)],
            folder,
            read=[staged, environment_folder(python), *weights],
            write=[compiled],
            device=device,
        )
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(command_read, event_write, replies_read),
            cwd=folder / "work",
            env=walls.environment(folder / "work", compiled),
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._log = BoundedLog(self._process.stdout.fileno(), log)
        os.close(command_read)
        os.close(event_write)
        os.close(replies_read)
        self._timed_out = threading.Event()

    def converse(self, views: Views, infer_only: bool, streams: bool, *commands: dict[str, Any]) -> Outcome:
        """Send every command, gather the events until the worker ends, and end it whatever happens. The images and
        masks of `views` are handed over as the worker asks for them."""
        harness = walls.harness_generations()
        watch = TreeWatch(self._process.pid, memory_limit_bytes(self._policy), self._kill, harness)
        timer = threading.Timer(self._policy.deadline, self._on_deadline)
        timer.daemon = True
        timer.start()
        events: list[Event] = []
        broken, clock = "", HostClock(infer_only, len(views) if streams else 0, self._meter)
        try:
            with contextlib.suppress(BrokenPipeError), os.fdopen(self._command_write, "w") as pipe:
                for command in commands:
                    pipe.write(json.dumps(command) + "\n")
            try:
                for event in read_events(self._event_read, self._process):
                    if isinstance(event, Mark):
                        clock.stop(event.step)
                        clock.start()  # before the answer: the worker may run on while this process waits for its turn
                        self._reply(b"\0")
                    elif isinstance(event, Pixels):
                        with clock.paused():
                            self._reply(_pixels(views, event))
                    else:
                        events.append(clock.timed(event))
            except ContractError as error:
                broken = str(error)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.1 if broken else 5)
        finally:
            timer.cancel()
            self._kill()
            self._process.wait()
            usage = watch.stop()
            os.close(self._event_read)
            os.close(self._replies)
            self._log.close()
        outcome = self._outcome(events, usage)
        # What was said before does not count either: none of it can be believed.
        return msgspec.structs.replace(outcome, status="invalid_output", message=broken) if broken else outcome

    def _reply(self, content: bytes | memoryview) -> None:
        """Hand `content` to the worker; one that is no longer there shows itself otherwise."""
        with contextlib.suppress(BrokenPipeError):
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._replies, rest) :]

    def _on_deadline(self) -> None:
        self._timed_out.set()
        self._kill()

    def _kill(self) -> None:
        end(self._process)

    def _outcome(self, events: list[Event], usage: TreeUsage) -> Outcome:
        cold = next((event.seconds for event in events if isinstance(event, Cold)), None)
        loaded = next((event.seconds for event in events if isinstance(event, Loaded)), None)
        failed = next((event for event in events if isinstance(event, Failed)), None)
        done = next((event for event in events if isinstance(event, Done)), None)
        peak = max(usage.peak_rss, done.peak_rss if done else 0)
        limit = memory_limit_bytes(self._policy)
        code = self._process.returncode
        status: TrialStatus
        if usage.over_limit or peak > limit:  # the watch may miss a short peak, which the worker itself remembers
            status, message = "oom", f"more than the limit of {limit / 2**20:.0f} MiB: {peak / 2**20:.0f} MiB seen"
        elif self._timed_out.is_set():
            status, message = "timeout", f"not finished after {self._policy.deadline:.0f} s"
        elif (code == -signal.SIGKILL and usage.starved) or (usage.oom_killed and failed and failed.status == "crash"):
            status, message = "oom", "the system ended a process of it because memory ran out"
        elif failed is not None:
            status, message = failed.status, failed.message
        elif done is not None and cold is not None:
            status, message = "ok", ""
        elif done is not None:
            status, message = "invalid_output", "the worker's messages: done without a call seen, a call wanted"
        else:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            status, message = "crash", f"the worker was {how}" if code < 0 else f"the worker {how}"
        return Outcome(
            status=status,
            message=message,
            isolated=walls.isolated(),
            load_seconds=loaded,
            cold=cold,
            warm=[event.seconds for event in events if isinstance(event, Warm)],
            peak_rss=peak,
            device_allocator=done.device_allocator if done else None,
            device_driver=done.device_driver if done else None,
            **msgspec.structs.asdict(done.execution if done else Ran()),
            others_share=usage.others_share,
            log_tail=log_tail(self._log.path),
        )


def _pixels(views: Views, wanted: Pixels) -> memoryview:
    """The bytes of an image or a mask of `views`; ContractError where there is none."""
    arrays = views.images if wanted.what == "image" else views.masks
    if arrays is None or not 0 <= wanted.index < len(arrays):
        raise ContractError(f"the worker's messages: {wanted.what} {wanted.index} wanted, which it was not given")
    return np.ascontiguousarray(arrays[wanted.index]).view(np.uint8).reshape(-1).data


def end(process: subprocess.Popen[bytes]) -> None:
    """End what runs behind the walls and every descendant: the walls do, when they are asked to; if not, by force."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=KILL_SECONDS)
        return
    strays: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        strays = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for stray in strays:
        with contextlib.suppress(psutil.Error):
            stray.kill()


@dataclass(frozen=True)
class Tool:
    """A program that runs behind the walls: `command`, in `folder / "work"`, keeps what it compiles in `compiled`;
    `read` is what else it may see, `deadline` the seconds that it gets. `what` it is called in messages."""

    what: str
    command: list[str]
    folder: Path
    compiled: Path
    read: Sequence[Path]
    deadline: float
    device: str = "cpu"


def own_tool(
    what: str,
    function: str,
    arguments: Sequence[Path],
    folder: Path,
    read: Sequence[Path],
    deadline: float,
    device: str = "cpu",
) -> Tool:
    """`function`, as `module:name`, of adapters, data or metrics as a program, called with `arguments` as text."""
    module, _, name = function.partition(":")
    stub = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import {name}; {name}(*sys.argv[2:])"
    command = [sys.executable, "-I", "-B", "-c", stub, str(walls.HOUSE), *map(str, arguments)]
    house = [walls.HOUSE / room for room in ("adapters", "data", "metrics")]
    compiled = walls.compiled_folder(f"{module}-{version()}")
    return Tool(what, command, folder, compiled, [*house, *read], deadline, device)


def run_tool(tool: Tool, tell: Callable[[bytes], None] = lambda line: None) -> None:
    """Run `tool` to its end; each line of its standard output goes to `tell`."""
    with started(tool) as process:
        assert process.stdout is not None
        for line in read_lines(process.stdout.fileno(), process):
            tell(line)


@contextlib.contextmanager
def started(tool: Tool, *, asked: bool = False, memory: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """`tool` while the block lasts, which reads its standard output, and where it is `asked` writes to its standard
    input.

    Unless the caller sees to its `memory`, it gets that of a trial. InputError in the tool's name, with its last words,
    where it fails. Nothing of it outlives the block."""
    folder, compiled = tool.folder, tool.compiled
    process = subprocess.Popen(
        walls.enclosed(tool.command, folder, read=tool.read, write=[compiled], device=tool.device),
        stdin=subprocess.PIPE if asked else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder / "work",
        env=walls.environment(folder / "work", compiled),
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    limit, kill = memory_limit_bytes(Policy()), functools.partial(end, process)
    log = BoundedLog(process.stderr.fileno(), folder / "log.txt")
    watch = TreeWatch(process.pid, limit, kill, walls.harness_generations()) if memory else None
    usage, late = TreeUsage(), threading.Event()

    def stop() -> None:
        late.set()
        kill()

    timer = threading.Timer(tool.deadline, stop)
    timer.daemon = True
    timer.start()
    try:
        yield process
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # nothing more is asked for
        process.wait()
    except ContractError as error:
        raise InputError(f"{tool.what}: {error}") from error
    finally:
        timer.cancel()
        kill()
        usage = watch.stop() if watch is not None else usage
        log.close()
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    if usage.over_limit or (usage.starved and process.returncode == -signal.SIGKILL):
        raise InputError(f"{tool.what}: more than the limit of {limit / 2**20:.0f} MiB of memory wanted")
    if late.is_set():
        raise InputError(f"{tool.what}: not finished after {tool.deadline:.0f} s")
    if process.returncode < 0:
        raise InputError(f"{tool.what}: the process was killed by {signal.Signals(-process.returncode).name}")
    if process.returncode > 0:
        last = log_tail(log.path).splitlines() or [f"ended with exit code {process.returncode}"]
        raise InputError(f"{tool.what}: {last[-1]}")


class BoundedLog:
    """Copies a pipe to a file on a thread of its own: all of it, or its beginning and its end where it is long."""

    def __init__(self, pipe: int, path: Path) -> None:
        self.path = path
        self._pipe = pipe
        path.parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._copy, args=(path.open("wb"),), daemon=True, name="worker's log")
        self._thread.start()

    def close(self) -> None:
        """Wait until all of it is copied."""
        self._thread.join(timeout=KILL_SECONDS)

    def _copy(self, file: BinaryIO) -> None:
        try:
            self._keep(file)
        except OSError:  # a full disk: what was kept stays, and the worker is not held up by a pipe that nobody reads
            while os.read(self._pipe, 65536):
                pass

    def _keep(self, file: BinaryIO) -> None:
        written, end, left_out = 0, b"", 0
        with file:
            while chunk := os.read(self._pipe, 65536):
                head = chunk[: max(LOG_BYTES - written, 0)]
                written += len(head)
                file.write(head)
                file.flush()
                end += chunk[len(head) :]
                left_out += max(len(end) - LOG_BYTES, 0)
                end = end[-LOG_BYTES:]
            if left_out:
                file.write(f"\n... {left_out} bytes left out ...\n".encode())
            file.write(end)


def environment_folder(python: Path) -> Path:
    """What a worker must see of an environment that was installed from a card: its folder also holds the sources."""
    return python.parent.parent.parent if python.is_relative_to(cache_dir()) else python


def weights_files(load: str) -> list[Path]:
    """What a worker must see to read the weights that it is told to load: the hub's cache keeps links to its files."""
    path = Path(load)
    return with_links(path) if path.is_absolute() and path.exists() else []


def with_links(path: Path) -> list[Path]:
    """A file or folder, and the files that links inside it lead to."""
    inside = path.rglob("*") if path.is_dir() else ()
    return [path, *(file.resolve() for file in inside if file.is_symlink())]


def log_tail(log: Path) -> str:
    """The last lines of a log, whatever its bytes."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 16_384, 0))
        text = file.read().decode("utf-8", errors="replace")
    text = _TENSOR.sub("tensor(...)", _COLOUR.sub("", text))
    # Of a line that was written over and over the last state remains; a progress bar says nothing of a failure.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    told = [line[:300] for line in lines if line.strip() and not _PROGRESS.search(line)]
    return "\n".join(told[-LOG_TAIL_LINES:])
