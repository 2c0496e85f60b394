"""The limit on memory follows the control group, and what the kernel ends for want of memory reads as `oom`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.systems import cgroup, measure
from bench.systems.measure import Policy, TreeWatch, memory_limit_bytes
from tests.bench.spies import spy

ROOT = Path(__file__).parents[2]
MIB = 2**20
UNLIMITED = "9223372036854771712"
# What /proc/self/cgroup says, the files under /sys/fs/cgroup, and the limit and kills that they mean.
TREES: dict[str, tuple[str, dict[str, str], int | None, int]] = {
    "version 2": (
        "0::/user/job\n",
        {
            "user/job/memory.max": "max\n",
            "user/memory.max": "1048576\n",
            "user/job/memory.events": "low 0\noom 2\noom_kill 2\noom_group_kill 0\n",
        },
        MIB,
        2,
    ),
    "version 2 without a limit": ("0::/job\n", {"job/memory.max": "max\n"}, None, 0),
    "version 1": (
        "5:cpu:/a\n4:memory:/a/b\n",
        {
            "memory/a/b/memory.limit_in_bytes": UNLIMITED,
            "memory/a/memory.limit_in_bytes": "2097152",
            "memory/memory.limit_in_bytes": UNLIMITED,
            "memory/a/b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        },
        2 * MIB,
        3,
    ),
    "a container's own view of version 1": (
        "4:memory:/outside/name\n",
        {"memory/memory.limit_in_bytes": "4194304", "memory/memory.oom_control": "oom_kill 1\n"},
        4 * MIB,
        1,
    ),
    "both": ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "1048576"}, MIB, 0),
    "neither": ("0::/\n", {}, None, 0),
    "nonsense": ("0::/\n", {"memory.max": "\n", "memory.events": "oom_kill\n"}, None, 0),
}


@pytest.mark.parametrize("which", TREES)
def test_groups_are_read(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    membership, files, limit, kills = TREES[which]
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content)
    (tmp_path / "membership").write_text(membership)
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 7\n")
    monkeypatch.setattr(cgroup, "MOUNT", tmp_path / "groups")
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cgroup, "MACHINE", tmp_path / "vmstat")
    assert cgroup.memory_limit() == (int(UNLIMITED) if limit is None and "version 1" in which else limit)
    assert cgroup.oom_kills() == (kills, 7)
    room = min(limit or 2**62, psutil.virtual_memory().total)
    assert memory_limit_bytes(Policy()) == int(0.9 * room)
    assert memory_limit_bytes(Policy(memory_gib=1e-6)) == int(1e-6 * 2**30)
    assert memory_limit_bytes(Policy(memory_gib=1e6)) == room


def test_a_kill_by_the_kernel_is_told_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for after, expected in (((1, 5), (False, False)), ((1, 6), (False, True)), ((2, 6), (True, True))):
        answers = iter([(1, 5), after])
        monkeypatch.setattr(cgroup, "oom_kills", lambda answers=answers: next(answers))
        usage = TreeWatch(os.getpid(), 2**62, lambda: None).stop()
        assert (usage.oom_killed, usage.starved) == expected


TREE = """
import subprocess, sys
depth = int(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]]) if depth else None
hold = bytearray(40 * 2**20 * (depth == 0))
print("ready", flush=True) if depth == 0 else None
sys.stdin.read()
"""


@pytest.mark.parametrize("listed", [True, False], ids=["the kernel lists children", "it does not"])
@pytest.mark.parametrize("harness", [0, 1, 3])
def test_a_tree_s_memory_is_that_of_the_generations_beyond_ours(
    harness: int, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if listed and not measure._LISTS_CHILDREN:
        pytest.skip("this kernel lists no children")
    monkeypatch.setattr(measure, "_LISTS_CHILDREN", listed)
    command = [sys.executable, "-c", TREE, "2", TREE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        watch = TreeWatch(process.pid, 2**62, lambda: None, harness)
        time.sleep(0.3)
        sizes = [member.memory_info().rss for member in family]
        usage = watch.stop()
        process.stdin.close()
    assert len(sizes) == 3 and max(sizes) > 40 * 2**20
    assert usage.peak_rss == pytest.approx(sum(sizes[harness:]), rel=0.02)


@contextlib.contextmanager
def group_of(limit: int) -> Iterator[Path]:
    """A real control group with a limit, or the test is skipped."""
    for root in (cgroup.MOUNT / "memory", cgroup.MOUNT):
        folder = root / f"reconbench-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / ("memory.limit_in_bytes" if root.name == "memory" else "memory.max")).write_text(str(limit))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield folder
        finally:
            folder.rmdir()
        return
    pytest.skip("no control group can be made here")


HOST = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
import numpy as np
from adapters.contract import Views
from bench.systems.cards import get_adapter
from bench.systems.measure import Policy, memory_limit_bytes
from bench.systems.process import run_adapter
views = Views((np.zeros((8, 8, 3), np.uint8),), ("000",))
outcome, _ = run_adapter(get_adapter(sys.argv[2]), views, policy=Policy(warmups=0, repeats=0, memory_gib=100.0))
print(memory_limit_bytes(Policy()), outcome.status, outcome.message, sep="|")
"""
GREEDY = "hold = []\nwhile True: hold.append(np.ones(2**18))"
CHILD = f"import os\npid = os.fork()\nif pid == 0:\n    {GREEDY.replace(chr(10), chr(10) + '    ')}\n"
CHILD += "assert os.waitpid(pid, 0)[1] == 0, 'a child died'"


@pytest.mark.parametrize("who", ["the worker", "its child"])
def test_what_the_kernel_ends_in_a_full_group_is_oom(who: str, tmp_path: Path) -> None:
    adapter = spy(tmp_path / "spy", GREEDY if who == "the worker" else CHILD)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with group_of(500 * MIB) as group:
        command = [sys.executable, "-c", HOST, str(group), str(adapter.folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    limit, status, message = done.stdout.strip().split("|")
    assert int(limit) == int(0.9 * 500 * MIB)
    assert status == "oom", message
    # What a forked child shares with its parent is counted twice, so that our own watch may be first.
    assert "memory ran out" in message or (who == "its child" and "more than the limit" in message), message
