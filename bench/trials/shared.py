"""A store that lies elsewhere: whatever fsspec reaches by a URL, an object store above all.

Files are written here first, in a folder for the time being, and then sent whole; what is read and not here is fetched.
The layout is that of any store, so that `merge` brings it here and the other commands read that."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from adapters.contract import InputError
from bench.files import cache_dir, replacing
from bench.trials.store import NAME, Store

# An object stands there whole or not at all; elsewhere a file is sent under another name and then renamed.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
ATTEMPTS, PAUSE = 3, 1.0  # of what the network may spoil; seconds before the second, twice as long before the third
T = TypeVar("T")


@contextlib.contextmanager
def opened(place: str) -> Iterator[Store]:
    """The store at `place`: a folder, or a URL that fsspec knows, such as s3://BUCKET/FOLDER.

    InputError where nothing reaches the URL, and where it holds a password, which every record would repeat."""
    if "://" not in place:
        yield Store(Path(place))
        return
    parts = urlsplit(place)
    if parts.scheme == "file":
        yield Store(Path(unquote(parts.path)))
        return
    if parts.password:
        raise InputError("--store: a URL with a password seen; the password in the file system's own settings wanted")
    files, root = _reach(place)
    with tempfile.TemporaryDirectory(prefix="reconbench-store-") as folder:
        yield SharedStore(Path(folder), place, files, root)


@dataclass(frozen=True)
class SharedStore(Store):
    """A store at a URL; `path` holds what this process has written or read of it."""

    url: str
    _files: Any = field(repr=False, compare=False)  # fsspec's AbstractFileSystem
    _root: str = field(repr=False, compare=False)

    @property
    def place(self) -> str:
        return self.url

    def _written(self, path: Path) -> None:
        target = self._remote(path)

        def send() -> None:
            if urlsplit(self.url).scheme in OBJECT_STORES:
                self._files.put_file(str(path), target)
                return
            folder, _, name = target.rpartition("/")
            self._files.makedirs(folder, exist_ok=True)
            aside = f"{folder}/.{secrets.token_hex(8)}-{name}"
            self._files.put_file(str(path), aside)
            self._files.mv(aside, target)

        self._tried(send)

    def _wanted(self, path: Path) -> None:
        if not path.is_file():
            self._tried(lambda: self._fetch(path))

    def _fetch(self, path: Path) -> None:
        remote = self._remote(path)
        self._files.invalidate_cache()
        if not self._files.exists(remote):  # what each file system raises for one that is not there differs
            return
        with replacing(path) as temporary:
            self._files.get_file(remote, str(temporary))

    def _listed(self, kind: str) -> None:
        for name in self._tried(lambda: self._names(kind)):
            if NAME.fullmatch(name):  # never a path that leads elsewhere
                self._wanted(self._file(kind, name))

    def _names(self, kind: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            return [str(name).rpartition("/")[2] for name in self._files.ls(f"{self._root}/{kind}", detail=False)]
        except FileNotFoundError:
            return []

    def _remote(self, path: Path) -> str:
        return f"{self._root}/{path.relative_to(self.path).as_posix()}"

    def _lock_path(self, key: str) -> Path:
        """Here: object stores have no locks, so that runs on two machines may both run a trial."""
        return cache_dir() / "stores" / hashlib.sha256(self.url.encode()).hexdigest()[:16] / f"{key}.lock"

    def _tried(self, call: Callable[[], T]) -> T:
        """What `call` returns, tried again where it fails; InputError, naming the URL, where it goes on failing."""
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except Exception as error:
                if attempt + 1 == ATTEMPTS:
                    raise InputError(f"{self.url}: {type(error).__name__}: {error}") from error
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError("unreachable")


def _reach(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path there; InputError where there is none."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise InputError(
            f"--store {url}: fsspec is not installed, which reaches URLs: `pip install 'reconbench[ray]'` brings it"
        ) from error
    try:
        files, root = url_to_fs(url)
        files.exists(root)
    except Exception as error:
        raise InputError(f"--store {url}: {type(error).__name__}: {error}") from error
    return files, str(root).rstrip("/")
