"""The kernel's control groups: how much memory this process and its children may take together, and whether the kernel
ended one of them when there was none left. Versions 1 and 2; files that are not there say nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

MOUNT, MEMBERSHIP, MACHINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/vmstat")
LIMITS = ("memory.max", "memory.limit_in_bytes")
EVENTS = ("memory.events", "memory.oom_control")


def memory_limit() -> int | None:
    """Bytes, the least limit of the group that this process is in and of those around it; None where none is set.

    What the kernel writes for "no limit" in version 1 is larger than any machine's memory."""
    limits = []
    for group in _groups():
        for name in LIMITS:
            with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                limits.append(int((group / name).read_text()))
    return min(limits, default=None)


def oom_kills() -> tuple[int, int]:
    """How many processes the kernel has ended for want of memory: in this process's group, and on the machine."""
    return max((_count(group / name) for group in _groups()[:1] for name in EVENTS), default=0), _count(MACHINE)


def _groups() -> list[Path]:
    """The folder of the memory group that this process is in, then those around it."""
    with contextlib.suppress(OSError):
        for line in MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            # Version 2 has one tree, perhaps beside the trees of version 1.
            for root in {"memory": ("memory",), "": ("", "unified")}.get(controllers, ()):
                place = MOUNT / root / path.lstrip("/")
                # Inside a container the path may be the outside's: its own group is then the root of the mount.
                folders = [folder for folder in (place, *place.parents) if folder.is_relative_to(MOUNT / root)]
                folders = [folder for folder in folders if any((folder / name).is_file() for name in LIMITS + EVENTS)]
                if folders:
                    return folders
    return []


def _count(file: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
