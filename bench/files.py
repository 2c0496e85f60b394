"""Files that are kept: where the cache lies, and how a file is written so that readers see all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "RECONBENCH_CACHE"


def cache_dir() -> Path:
    """Where environments, downloads and compiled kernels live; RECONBENCH_CACHE overrides it."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("reconbench"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well: readers see all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until `path`, a file or a folder's list of names, survives a power cut; file systems without it are left."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` at once."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
