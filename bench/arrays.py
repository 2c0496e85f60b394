"""Arrays that someone else's code wrote, read without trusting it."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from adapters.contract import InputError

MOST_BYTES = 16 * 2**30  # of the arrays of one file together
PIECE = 2**22  # bytes read at once
# What Python's own reader of archives raises over one that is cut, changed or made to deceive.
DAMAGED = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    struct.error,
    zlib.error,
)


def read_npz(path: Path, most_bytes: int = MOST_BYTES, most_rows: int | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file that was written by someone else's code: plain numbers and text alone.

    A link, a pipe or a device is not opened. What the file declares is checked before memory is taken for it: together
    at most `most_bytes`, each array as long as its header says, of at most `most_rows`. Raises InputError naming the
    file and the array."""
    with contextlib.closing(NpzFile(path, most_bytes, most_rows)) as file:
        return dict(file)


class NpzFile(Mapping[str, NDArray[Any]]):
    """The arrays of such a file, each read when it is asked for: see `read_npz`.

    The file stays open until this is closed or forgotten, so that it may be deleted meanwhile."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES, most_rows: int | None = None) -> None:
        """InputError where it is no readable `.npz`."""
        self._path, self._most_rows = path, most_rows
        try:
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            if not stat.S_ISREG(os.fstat(number).st_mode):
                os.close(number)
                raise InputError(f"{path.name}: not a regular file seen, an .npz file wanted")
            self._file = os.fdopen(number, "rb")
            self._archive = zipfile.ZipFile(self._file)
        except (*DAMAGED, OSError) as error:
            raise InputError(f"{path.name}: not readable as an .npz file ({error})") from error
        entries = self._archive.infolist()
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        total = sum(entry.file_size for entry in entries)
        if total > most_bytes:
            raise InputError(f"{path.name}: {total} bytes of arrays seen, {most_bytes} at most wanted")

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self._entries[name]
        try:
            return _read_array(self._archive, entry, self._path, self._most_rows)
        except (*DAMAGED, OSError) as error:
            raise InputError(f"{self._path.name}: not readable as an .npz file ({error})") from error

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        self._archive.close()
        self._file.close()

    def shape_of(self, name: str) -> tuple[int, ...]:
        """What its header says; the array itself is not read."""
        try:
            with self._archive.open(self._entries[name]) as stream:
                return _header(stream, self._entries[name], self._path, self._most_rows)[0]
        except (*DAMAGED, OSError) as error:
            raise InputError(f"{self._path.name}: not readable as an .npz file ({error})") from error


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most_rows: int | None) -> NDArray[Any]:
    with archive.open(entry) as stream:
        shape, fortran, dtype = _header(stream, entry, path, most_rows)
        flat = np.empty(math.prod(shape), dtype)
        body, done = flat.view(np.uint8).data if flat.size and dtype.itemsize else memoryview(b""), 0
        while done < len(body) and (piece := stream.read(min(PIECE, len(body) - done))):
            body[done : done + len(piece)] = piece
            done += len(piece)
    if done != len(body):
        raise InputError(f"{_where(entry, path)}: {len(body)} bytes declared, {done} seen")
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _where(entry: zipfile.ZipInfo, path: Path) -> str:
    return f"{path.name}, array {entry.filename[:80]!r}"


def _header(
    stream: IO[bytes], entry: zipfile.ZipInfo, path: Path, most_rows: int | None
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype; InputError where the entry cannot hold that."""
    where = _where(entry, path)
    try:
        shape, fortran, dtype = _read_header(stream)
    except (ValueError, SyntaxError, TypeError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: no readable header seen ({str(error)[:200]})") from error
    if dtype.kind not in "biufU" or dtype.hasobject:
        raise InputError(f"{where}: dtype {dtype} seen, numbers or text wanted")
    if shape and most_rows is not None and shape[0] > most_rows:
        raise InputError(f"{where}: {shape[0]} rows declared, {most_rows} at most wanted")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > entry.file_size:
        raise InputError(f"{where}: shape {shape} of {dtype} declared, {entry.file_size} bytes seen")
    return shape, fortran, dtype


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)
