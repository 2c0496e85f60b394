"""The time part: named workloads, this tree against another, alternately on this one machine.

Three processes a round, all alive at once and called in turn: the other tree (A), this tree (B), and the other tree
again (A', the control). A ratio is B over the mean of A and A' within one round, so that whatever the machine does to
all three cancels; A' over A shows what the machine does to equal code. Rounds are spread over several generations of
processes, because where a process lies in memory is chance as well. The judge looks at the median of the log-ratios
and its distribution-free interval (that of the sign test: order statistics with binomial coverage)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec
import numpy as np
from scipy.stats import binom

from adapters.contract import ContractError, InputError
from bench.gate import workloads
from bench.gate.verdict import Finding, Verdict
from bench.systems import walls
from bench.systems.events import read_lines
from bench.systems.measure import BUSY_SHARE, Policy, TreeWatch, memory_limit_bytes
from bench.systems.process import Tool, end, started

ROOT = walls.HOUSE
ROOMS = ("adapters", "bench", "data", "metrics", "reports")  # of a tree, what its workloads may import
DEADLINE = 1800.0  # seconds for one process's rounds
LIMIT = 1.05  # a slowdown below this is none
CONFIDENCE = 0.99
ROUNDS = 8  # of one generation of processes
LEAST, MOST = 2, 12  # generations
Clock = Literal["cpu", "wall"]
CLOCKS: tuple[Clock, ...] = ("cpu", "wall")


@dataclass(frozen=True)
class Interval:
    """A ratio of times: the median over rounds, and the interval that holds the true median."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"x{self.middle:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Rounds:
    """Seconds of every round (or bytes, of memory), a list for each clock, a triple of roles each."""

    seconds: dict[str, list[tuple[float, float, float]]] = field(default_factory=lambda: {c: [] for c in CLOCKS})
    others_share: float = 0.0  # the largest of any generation

    def ratio(self, clock: str) -> Interval:
        """This tree over the other one."""
        a, b, control = np.log(np.array(self.seconds[clock])).T
        return median_interval(b - (a + control) / 2)

    def control(self, clock: str) -> Interval:
        """The other tree over itself."""
        a, _, control = np.log(np.array(self.seconds[clock])).T
        return median_interval(control - a)


def median_interval(logs: np.ndarray) -> Interval:
    """Median of log-ratios (n,) and its sign-test interval of at least `CONFIDENCE`, as ratios; n too small: all."""
    ordered = np.sort(logs)
    rank = int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))  # P(fewer than `rank` below the median) <= 0.5%
    low, high = (ordered[rank - 1], ordered[-rank]) if rank > 0 else (-np.inf, np.inf)
    return Interval(*(float(x) for x in np.exp([np.median(ordered), low, high])))


def judge(rounds: Rounds) -> tuple[Verdict, str]:
    """The verdict on one workload. Nothing is a regression unless equal code is equal by the same clock, and wall time
    decides only on a machine that was left alone."""
    busy = rounds.others_share > BUSY_SHARE
    verdicts: dict[str, Verdict] = {}
    for clock in rounds.seconds:
        control, ratio = rounds.control(clock), rounds.ratio(clock)
        sane = control.low > 1 / LIMIT and control.high < LIMIT
        if not sane or (clock == "wall" and busy):
            verdicts[clock] = "inconclusive"
        elif ratio.low > LIMIT:
            verdicts[clock] = "regression"
        else:
            verdicts[clock] = "pass" if ratio.high < LIMIT else "inconclusive"
    detail = "; ".join(
        f"{clock} {rounds.ratio(clock)}, equal code {rounds.control(clock)}, {verdicts[clock]}"
        for clock in rounds.seconds
    )
    if busy:
        detail += f"; others used {rounds.others_share:.0%} of the machine"
    worst: tuple[Verdict, ...] = ("regression", "inconclusive", "pass")
    return next(verdict for verdict in worst if verdict in verdicts.values()), detail


@dataclass(frozen=True)
class _Tree:
    """A tree of Reconbench, and where its kernels are kept once compiled."""

    path: Path
    compiled: Path


def check_time(against: str, names: tuple[str, ...]) -> Iterator[Finding]:
    """Every workload of `names`, this tree against `against`: a commit of this repository, or a folder."""
    with _tree(against) as other:
        for name in names:
            started = time.perf_counter()
            try:
                verdict, detail = _measure(other, name)
            except _Absent as absent:
                verdict, detail = "unmeasured", str(absent)
            except InputError as failed:
                verdict, detail = "broken", str(failed)
            yield Finding("time", name, verdict, detail, seconds=time.perf_counter() - started)


def _measure(other: _Tree, name: str) -> tuple[Verdict, str]:
    """Generation after generation until the verdict is certain, or there were `MOST`."""
    rounds = Rounds()
    verdict: Verdict = "unmeasured"
    detail = ""
    limit = memory_limit_bytes(Policy())
    for generation in range(MOST):
        living: list[_Process] = []
        watch = TreeWatch(os.getpid(), limit, functools.partial(_end_all, living))
        try:
            _generation(rounds, other, name, generation, living)
        except InputError as error:
            if watch.usage.over_limit:
                raise InputError(f"{name}: more than {limit / 2**20:.0f} MiB of memory wanted") from error
            raise
        finally:
            rounds.others_share = max(rounds.others_share, watch.stop().others_share)
        if generation + 1 >= LEAST:
            verdict, detail = judge(rounds)
            if verdict in ("pass", "regression"):
                break
    return verdict, detail


def _end_all(living: list[_Process]) -> None:
    for process in living:
        process.end()


def _generation(rounds: Rounds, other: _Tree, name: str, number: int, living: list[_Process]) -> None:
    """`ROUNDS` rounds in three fresh processes, in an order that turns from round to round; `living` gets them."""
    with contextlib.ExitStack() as stack:
        for tree in (other, _kept(ROOT), other):
            living.append(stack.enter_context(_Process(tree, name)))
        for turn in range(ROUNDS):
            order = np.roll([0, 1, 2], turn + number)
            times: dict[int, dict[Clock, float]] = {}
            for role in order if turn % 2 else order[::-1]:
                times[int(role)] = living[role].once()
            for clock in CLOCKS:
                a, b, control = (max(times[role][clock], 1e-6) for role in range(3))
                rounds.seconds[clock].append((a, b, control))


class _Absent(Exception):
    """A workload that one of the trees cannot do."""


class _Answer(msgspec.Struct, frozen=True):
    """A line of `workloads.py`."""

    absent: str = ""
    cpu: float = 0.0
    wall: float = 0.0


class _Process:
    """One process that does one workload of one tree on request, behind the walls."""

    def __init__(self, tree: _Tree, name: str) -> None:
        self._tree, self._name = tree, name

    def __enter__(self) -> _Process:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(walls.work_folder())
            (folder / "work").mkdir()
            script = shutil.copy(workloads.__file__, folder / "work")
            what = f"{self._name} in {self._tree.path.name}"
            command = [sys.executable, "-I", str(script), str(self._tree.path), self._name]
            read = [self._tree.path / room for room in ROOMS]
            tool = Tool(what, command, folder, self._tree.compiled, read, DEADLINE)
            self._process = stack.enter_context(
                started(tool, asked=True, memory=False)  # of all three together there is one watch
            )
            assert self._process.stdout is not None
            self._lines = read_lines(self._process.stdout.fileno(), self._process)
            if absent := self._answer(stack).absent:
                raise _Absent(f"{self._tree.path.name} cannot do it: {absent}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def end(self) -> None:
        """End it at once; what is asked of it then fails."""
        end(self._process)

    def once(self) -> dict[Clock, float]:
        """Seconds of one more repetition, by clock."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        answer = self._answer(self._stack)
        return {"cpu": answer.cpu, "wall": answer.wall}

    def _answer(self, stack: contextlib.ExitStack) -> _Answer:
        """What the process says next; InputError where it says nothing, with why it ended."""
        line = b""
        try:
            line = next(self._lines, b"")
            if not line:
                stack.close()
            return msgspec.json.decode(line, type=_Answer)
        except (msgspec.DecodeError, ContractError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{self._name} in {self._tree.path.name}: {line[:80]!r} seen, times wanted") from error


@contextlib.contextmanager
def _tree(against: str) -> Iterator[_Tree]:
    """The other tree: the folder `against`, or that commit checked out into a temporary one."""
    if (Path(against) / "metrics").is_dir():
        yield _kept(Path(against).resolve())
        return
    with tempfile.TemporaryDirectory(prefix="reconbench-") as compiled, _commit(against, ROOT) as target:
        yield _Tree(target, Path(compiled))


@contextlib.contextmanager
def checkout(against: str, root: Path) -> Iterator[Path]:
    """Another tree of the repository at `root`: its commit `against`, checked out into a temporary folder, or the
    folder of that name. InputError where it is neither."""
    with contextlib.ExitStack() as stack:
        try:
            target = stack.enter_context(_commit(against, root))
        except InputError:
            if not Path(against).is_dir():
                raise
            target = Path(against).resolve()
        yield target


@contextlib.contextmanager
def _commit(against: str, root: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        target = Path(folder).resolve() / "baseline"
        git = ["git", "-C", str(root)]
        # "--" keeps a commit whose name begins with a dash from being an option.
        made = subprocess.run(
            [*git, "worktree", "add", "--detach", "--", str(target), against],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            detail = (made.stderr.strip().splitlines() or ["no message from git"])[-1]
            raise InputError(f"--against {against}: neither a tree nor a commit of {root.name} ({detail})")
        try:
            yield target
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(target)], capture_output=True, check=False)


def repository(folder: Path) -> Path:
    """The root of the repository that holds `folder`; InputError where none does."""
    asked = ["git", "-C", str(folder), "rev-parse", "--show-toplevel"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise InputError(f"{folder}: in no git repository, so that there is no other commit to compare with")
    return Path(answer.stdout.strip()).resolve()


def _kept(tree: Path) -> _Tree:
    """A tree that stays where it is."""
    return _Tree(tree, walls.compiled_folder(f"gate-{hashlib.sha256(bytes(tree)).hexdigest()[:16]}"))
