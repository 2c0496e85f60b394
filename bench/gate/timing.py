"""The time part: named workloads, this tree against another, alternately on this one machine.

Three processes a round, all alive at once and called in turn: the other tree (A), this tree (B), and the other tree
again (A', the control). A ratio is B over the mean of A and A' within one round, so that whatever the machine does to
all three cancels; A' over A shows what the machine does to equal code. Rounds are spread over several generations of
processes, because where a process lies in memory is chance as well. The judge looks at the median of the log-ratios
and its distribution-free interval (that of the sign test: order statistics with binomial coverage)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import binom

from adapters.contract import InputError
from bench.gate import workloads
from bench.gate.verdict import Finding, Verdict
from bench.systems.measure import BUSY_SHARE, TreeWatch

ROOT = Path(__file__).resolve().parent.parent.parent
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
    """Seconds of every round, a list for each clock and role."""

    seconds: dict[Clock, list[tuple[float, float, float]]] = field(default_factory=lambda: {c: [] for c in CLOCKS})
    others_share: float = 0.0  # the largest of any generation

    def ratio(self, clock: Clock) -> Interval:
        """This tree over the other one."""
        a, b, control = np.log(np.array(self.seconds[clock])).T
        return median_interval(b - (a + control) / 2)

    def control(self, clock: Clock) -> Interval:
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
    verdicts: dict[Clock, Verdict] = {}
    for clock in CLOCKS:
        control, ratio = rounds.control(clock), rounds.ratio(clock)
        sane = control.low > 1 / LIMIT and control.high < LIMIT
        if not sane or (clock == "wall" and busy):
            verdicts[clock] = "inconclusive"
        elif ratio.low > LIMIT:
            verdicts[clock] = "regression"
        else:
            verdicts[clock] = "pass" if ratio.high < LIMIT else "inconclusive"
    detail = "; ".join(
        f"{clock} {rounds.ratio(clock)}, equal code {rounds.control(clock)}, {verdicts[clock]}" for clock in CLOCKS
    )
    if busy:
        detail += f"; others used {rounds.others_share:.0%} of the machine"
    worst: tuple[Verdict, ...] = ("regression", "inconclusive", "pass")
    return next(verdict for verdict in worst if verdict in verdicts.values()), detail


def check_time(against: str, names: tuple[str, ...]) -> Iterator[Finding]:
    """Every workload of `names`, this tree against `against`: a commit of this repository, or a folder."""
    with _tree(against) as other:
        for name in names:
            started = time.perf_counter()
            try:
                verdict, detail = _measure(other, name)
            except _Absent as absent:
                verdict, detail = "unmeasured", str(absent)
            except _Failed as failed:
                verdict, detail = "broken", str(failed)
            yield Finding("time", name, verdict, detail, seconds=time.perf_counter() - started)


def _measure(other: Path, name: str) -> tuple[Verdict, str]:
    """Generation after generation until the verdict is certain, or there were `MOST`."""
    rounds = Rounds()
    verdict: Verdict = "unmeasured"
    detail = ""
    for generation in range(MOST):
        watch = TreeWatch(os.getpid(), 2**62, lambda: None)
        try:
            _generation(rounds, other, name, generation)
        finally:
            rounds.others_share = max(rounds.others_share, watch.stop().others_share)
        if generation + 1 >= LEAST:
            verdict, detail = judge(rounds)
            if verdict in ("pass", "regression"):
                break
    return verdict, detail


def _generation(rounds: Rounds, other: Path, name: str, number: int) -> None:
    """`ROUNDS` rounds in three fresh processes, in an order that turns from round to round."""
    with contextlib.ExitStack() as stack:
        roles = [stack.enter_context(_Process(tree, name)) for tree in (other, ROOT, other)]
        for turn in range(ROUNDS):
            order = np.roll([0, 1, 2], turn + number)
            times: dict[int, dict[str, float]] = {}
            for role in order if turn % 2 else order[::-1]:
                times[int(role)] = roles[role].once()
            for clock in CLOCKS:
                a, b, control = (max(times[role][clock], 1e-6) for role in range(3))
                rounds.seconds[clock].append((a, b, control))


class _Absent(Exception):
    """A workload that one of the trees cannot do."""


class _Failed(Exception):
    """A workload that fell over."""


class _Process:
    """One process that does one workload of one tree on request."""

    def __init__(self, tree: Path, name: str) -> None:
        self._tree, self._name = tree, name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(workloads.__file__).resolve()), str(tree), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=tempfile.gettempdir(),
        )

    def __enter__(self) -> _Process:
        try:
            answer = self._answer()
        except _Failed:
            self.__exit__()
            raise
        if "absent" in answer:
            self.__exit__()
            raise _Absent(f"{self._tree.name} cannot do it: {answer['absent']}")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def once(self) -> dict[str, float]:
        """Seconds of one more repetition, by clock."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return {clock: float(seconds) for clock, seconds in self._answer().items()}

    def _answer(self) -> dict[str, str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            tail = self._log.read().decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise _Failed(f"{self._name} in {self._tree.name} ended with {self._process.returncode}: {tail[0]}")
        answer: dict[str, str] = json.loads(line)
        return answer


@contextlib.contextmanager
def _tree(against: str) -> Iterator[Path]:
    """The other tree: the folder `against`, or that commit checked out into a temporary one."""
    if (Path(against) / "metrics").is_dir():
        yield Path(against).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        target = Path(folder).resolve() / "baseline"
        git = ["git", "-C", str(ROOT)]
        made = subprocess.run(
            [*git, "worktree", "add", "--detach", str(target), against], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            detail = (made.stderr.strip().splitlines() or ["no message from git"])[-1]
            raise InputError(f"--against {against}: neither a tree of Reconbench nor a commit of this one ({detail})")
        try:
            yield target
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(target)], capture_output=True, check=False)
