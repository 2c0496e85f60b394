"""The host's side of a worker: starts it isolated, owns its deadline and memory limit, and always ends it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from adapters.contract import ContractError, Reconstruction, TrialStatus, Unavailable, Views
from bench.files import cache_dir
from bench.systems import environments
from bench.systems.cards import ADAPTERS, Adapter
from bench.systems.measure import Outcome, Policy, Steps, TreeUsage, TreeWatch, memory_limit_bytes
from bench.systems.weights import PRETRAINED, RANDOM, resolve

LOG_TAIL_LINES = 20
_STUB = "import sys; sys.path.insert(0, sys.argv[1]); from adapters.worker import main; main({}, {})"


def stage(adapter: Adapter) -> Path:
    """A folder holding a copy of `adapters/` (with `adapter`'s own folder) and nothing else of ours.

    An upstream package called `data` or `metrics` is so never shadowed, and a worker cannot import the scoring."""
    sources = sorted(p for p in ADAPTERS.rglob("*") if p.suffix in (".py", ".toml") and "__pycache__" not in p.parts)
    pairs = [(path, path.relative_to(ADAPTERS)) for path in sources]
    if not adapter.folder.is_relative_to(ADAPTERS):
        own = sorted(p for p in adapter.folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        pairs += [(path, adapter.staged_at / path.relative_to(adapter.folder)) for path in own]
    digest = hashlib.sha256()
    for path, relative in pairs:
        digest.update(str(relative).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    target = cache_dir() / "staged" / digest.hexdigest()[:16]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent))
        for path, relative in pairs:
            (fresh / "adapters" / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, fresh / "adapters" / relative)
        with contextlib.suppress(OSError):  # another process was first
            fresh.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
    return target


@functools.cache
def namespaces_work() -> bool:
    """Whether this system lets an ordinary process hide folders in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs tmpfs "$0"',
        tempfile.gettempdir(),
    ]
    return subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0


def _hide(command: list[str], hidden: list[Path]) -> list[str]:
    """`command`, run where every folder of `hidden` is an empty one."""
    resolved = {path.resolve() for path in hidden if path.is_dir()}
    # A folder inside a hidden one is gone already, and cannot be mounted on.
    folders = sorted(str(path) for path in resolved if not resolved & set(path.parents))
    if not folders or not namespaces_work():
        return command
    script = (
        'n=$1; shift; while [ "$n" -gt 0 ]; do mount -t tmpfs tmpfs "$1" || exit 71; shift; n=$((n-1)); done; exec "$@"'
    )
    wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(len(folders))]
    return [*wrapper, *folders, *command]


def run_adapter(
    adapter: Adapter,
    views: Views,
    *,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
    weights: str = PRETRAINED,
    seed: int = 0,
    policy: Policy | None = None,
    hidden: list[Path] | None = None,
    log: Path | None = None,
) -> tuple[Outcome, Reconstruction | None]:
    """Run one adapter once, in a fresh process group, and return what became of it and its result.

    It runs in its own environment, with `weights` "pretrained", "random" or a checkpoint's path; random ones are timed
    in `infer` alone and give no result. `hidden` folders (scenes, stores) are not visible to the worker where the
    system permits. The worker never outlives this call. Failures of the adapter are outcomes, not exceptions; `log`
    receives its output."""
    policy = policy or Policy()
    try:
        python, given = environments.find(adapter).python, resolve(adapter, weights)
    except Unavailable as error:
        return Outcome(status="unavailable", message=str(error)), None
    infer_only = given.load == RANDOM
    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        work = Path(folder)
        views.save(work / "views.npz")
        log = log or work / "log.txt"
        worker = _Worker(python, adapter, policy, hidden or [], work, log)
        outcome = worker.converse(
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
            },
        )
        if outcome.status != "ok":
            return outcome, None
        if infer_only:
            return msgspec.structs.replace(outcome, message="random weights: infer alone is timed"), None
        try:  # the worker's own validation is not trusted
            result = Reconstruction.load(work / "out.npz")
            result.validate(views)
        except (ContractError, KeyError, ValueError, OSError) as error:
            return msgspec.structs.replace(outcome, status="invalid_output", message=str(error)), None
        return outcome, result


class _Worker:
    """One worker process and its watchers."""

    def __init__(
        self, python: Path, adapter: Adapter, policy: Policy, hidden: list[Path], work: Path, log: Path
    ) -> None:
        self._policy = policy
        self._log = log
        command_read, self._command_write = os.pipe()
        self._event_read, event_write = os.pipe()
        stub = _STUB.format(command_read, event_write)
        command = _hide([str(python), "-I", "-c", stub, str(stage(adapter))], hidden)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(command_read, event_write),
                cwd=work,
                start_new_session=True,
            )
        os.close(command_read)
        os.close(event_write)
        self._timed_out = threading.Event()

    def converse(self, *commands: dict[str, Any]) -> Outcome:
        """Send every command, gather the events until the worker ends, and end it whatever happens."""
        watch = TreeWatch(self._process.pid, memory_limit_bytes(self._policy), self._kill)
        timer = threading.Timer(self._policy.deadline, self._on_deadline)
        timer.daemon = True
        timer.start()
        events: list[dict[str, Any]] = []
        try:
            with contextlib.suppress(BrokenPipeError), os.fdopen(self._command_write, "w") as pipe:
                for command in commands:
                    pipe.write(json.dumps(command) + "\n")
            with os.fdopen(self._event_read, "r", errors="replace") as pipe:
                events.extend(_parse_events(pipe))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        finally:
            timer.cancel()
            self._kill()
            self._process.wait()
            usage = watch.stop()
        return self._outcome(events, usage)

    def _on_deadline(self) -> None:
        self._timed_out.set()
        self._kill()

    def _kill(self) -> None:
        """Kill the whole process group, and any descendant that left it."""
        strays: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            strays = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()

    def _outcome(self, events: list[dict[str, Any]], usage: TreeUsage) -> Outcome:
        by_kind = {event["event"]: event for event in events}
        done, failed = by_kind.get("done"), by_kind.get("failed")
        peak = max(usage.peak_rss, int((done or {}).get("peak_rss", 0)))
        limit = memory_limit_bytes(self._policy)
        status: TrialStatus
        if usage.over_limit or peak > limit:  # the watch may miss a short peak, which the worker itself remembers
            status, message = "oom", f"more than the limit of {limit / 2**20:.0f} MiB: {peak / 2**20:.0f} MiB seen"
        elif self._timed_out.is_set():
            status, message = "timeout", f"not finished after {self._policy.deadline:.0f} s"
        elif failed is not None:
            status, message = failed["status"], failed["message"]
        elif done is not None:
            status, message = "ok", ""
        elif self._process.returncode == -signal.SIGKILL and usage.starved:
            status, message = "oom", "killed by the system when the machine's memory ran out"
        else:
            code = self._process.returncode
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            status, message = "crash", f"the worker was {how}" if code < 0 else f"the worker {how}"
        memory = done or {}
        return Outcome(
            status=status,
            message=message,
            load_seconds=by_kind.get("loaded", {}).get("seconds"),
            cold=msgspec.convert(by_kind["cold"]["seconds"], Steps) if "cold" in by_kind else None,
            warm=[msgspec.convert(event["seconds"], Steps) for event in events if event["event"] == "warm"],
            peak_rss=peak,
            device_allocator=memory.get("device_allocator"),
            device_driver=memory.get("device_driver"),
            others_share=usage.others_share,
            log_tail=log_tail(self._log),
        )


def _parse_events(pipe: Any) -> Iterator[dict[str, Any]]:
    """Events as they come; a garbled line (a worker killed while writing) is dropped."""
    for line in pipe:
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def log_tail(log: Path) -> str:
    """The last lines of a log, whatever its bytes."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 16_384, 0))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(line[:300] for line in text.splitlines()[-LOG_TAIL_LINES:])
