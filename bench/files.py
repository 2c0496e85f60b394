"""Files that are kept: where the cache lies, and how a file is written so that readers see all of it or nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
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
    _make(path.parent)
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


def _make(folder: Path) -> None:
    """Make `folder` and those around it that are missing, so that they survive a power cut as what is put into them."""
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _to_disk(folder.parent)


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


def digest(path: Path) -> str:
    """sha256 of a file, or of a folder's files and their names; kept in the cache by path, size and time of change, so
    that an unchanged file is read once."""
    if path.is_dir():
        parts = [(str(file.relative_to(path)), digest(file)) for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    state = path.stat()
    name = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    kept = cache_dir() / "digests" / hashlib.sha256(name.encode()).hexdigest()[:32]
    if not kept.is_file():
        with path.open("rb") as file:
            write(kept, hashlib.file_digest(file, "sha256").hexdigest().encode())
    return kept.read_text()
