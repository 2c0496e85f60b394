"""Arrays that someone else's code wrote, read without trusting it."""

from __future__ import annotations

import math
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from adapters.contract import InputError

MOST_BYTES = 16 * 2**30  # of the arrays of one file together
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
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise InputError(f"{path.name}: not a regular file seen, an .npz file wanted")
        with os.fdopen(number, "rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > most_bytes:
                raise InputError(f"{path.name}: {total} bytes of arrays seen, {most_bytes} at most wanted")
            return {
                entry.filename.removesuffix(".npy"): _read_array(archive, entry, path, most_rows) for entry in entries
            }
    except (*DAMAGED, OSError) as error:
        raise InputError(f"{path.name}: not readable as an .npz file ({error})") from error


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most_rows: int | None) -> NDArray[Any]:
    where = f"{path.name}, array {entry.filename[:80]!r}"
    with archive.open(entry) as stream:
        try:
            shape, fortran, dtype = _read_header(stream)
        except (ValueError, SyntaxError, TypeError, UnicodeDecodeError, RecursionError, MemoryError) as error:
            raise InputError(f"{where}: no readable header seen ({str(error)[:200]})") from error
        if dtype.kind not in "biufU" or dtype.hasobject:
            raise InputError(f"{where}: dtype {dtype} seen, numbers or text wanted")
        if shape and most_rows is not None and shape[0] > most_rows:
            raise InputError(f"{where}: {shape[0]} rows declared, {most_rows} at most wanted")
        declared = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or declared > entry.file_size:
            raise InputError(f"{where}: shape {shape} of {dtype} declared, {entry.file_size} bytes seen")
        body = stream.read(declared)
    if len(body) != declared:
        raise InputError(f"{where}: {declared} bytes declared, {len(body)} seen")
    flat = np.frombuffer(bytearray(body), dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)
