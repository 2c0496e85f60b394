"""Readers with limits: a file's size, and what its header promises, are looked at before memory is taken."""

from __future__ import annotations

import io
import struct
import tokenize
import zlib
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64, I32, U8, InputError
from data.catalog.shared.layout import Surface
from data.exchange import load_geometry

MIB = 2**20
MOST_TEXT = 1024 * MIB  # bytes of a JSON file, packed or not
MOST_GEOMETRY = 8192 * MIB  # bytes of a scan
MOST_VALUES = 400_000_000  # in one map: as many pixels as the largest photo
T = TypeVar("T")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """A regular file of at most `most` bytes."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if (size := path.stat().st_size) > most:
            raise InputError(f"{path}: {size} bytes seen, {most} at most wanted")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from error


def read_json(path: Path, kind: type[T]) -> T:
    """What a JSON file holds, of the fields that `kind` knows."""
    return _decode(path, read_bytes(path), kind)


def read_jgz(path: Path, kind: type[T]) -> T:
    """The same of a gzipped JSON file, at most MOST_TEXT bytes unpacked."""
    packed = read_bytes(path)
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(packed, MOST_TEXT)
    except zlib.error as error:
        raise InputError(f"{path}: not a gzip file ({error})") from error
    if unpacker.unconsumed_tail:
        raise InputError(f"{path}: more than {MOST_TEXT} bytes unpacked seen, at most that wanted")
    if not unpacker.eof:
        raise InputError(f"{path}: a gzip file that is cut off")
    return _decode(path, content, kind)


def _decode(path: Path, content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error


def read_text(path: Path, most: int = 64 * MIB) -> str:
    """A text file, at most 64 MiB."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error


def numbers(words: list[str], shape: tuple[int, ...], where: str) -> F64:
    """The words of a text as numbers (nan is one) of `shape`, of which the first may be -1: as many as there are."""
    count = int(np.prod([n for n in shape if n > 0]))
    wanted = f"a multiple of {count}" if shape[0] < 0 else str(count)
    if (len(words) % count or not words) if shape[0] < 0 else len(words) != count:
        raise InputError(f"{where}: {len(words)} numbers seen, {wanted} wanted")
    try:
        array = np.array([float(word) for word in words]).reshape(shape)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return array


def read_matrix(path: Path, shape: tuple[int, ...]) -> F64:
    """A text file of numbers."""
    return numbers(read_text(path).split(), shape, str(path))


def read_npy(path: Path, shapes: tuple[tuple[int, ...], ...] | None = None) -> NDArray[np.generic]:
    """A `.npy` array of numbers, never pickled; of one of `shapes` where they are given."""
    content = read_bytes(path, 8 * MOST_VALUES)
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise InputError(f"{path}: values of type {dtype} seen, numbers wanted")
        if len(shape) and int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize > len(content):
            raise InputError(f"{path}: shape {shape} seen, what {len(content)} bytes can hold wanted")
        array: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError, tokenize.TokenError) as error:
        raise InputError(f"{path}: not a .npy array of numbers ({error})") from error
    if shapes is not None and array.shape not in shapes:
        raise InputError(f"{path}: shape {array.shape} seen, {' or '.join(map(str, shapes))} wanted")
    return array


def read_pfm(path: Path) -> F32:
    """(H, W) of a one-channel portable float map; its rows go from the bottom up."""
    content = read_bytes(path, 5 * MOST_VALUES)
    parts = content.split(b"\n", 3)
    try:
        kind, size, scale, values = parts
        width, height = (int(n) for n in size.split())
        order = "<" if float(scale) < 0 else ">"
    except ValueError as error:
        raise InputError(f"{path}: not a portable float map ({error})") from error
    if kind.strip() != b"Pf" or width < 1 or height < 1 or len(values) != 4 * width * height:
        seen = f"{kind[:8]!r}, {width} x {height} and {len(values)} bytes of values"
        raise InputError(f"{path}: {seen} seen, Pf and four a pixel wanted")
    return np.asarray(np.frombuffer(values, f"{order}f4").reshape(height, width)[::-1], np.float32)


def read_exr(path: Path) -> F32:
    """(H, W) of the red channel (else Z, Y or V) of an OpenEXR image of scan lines, plain or zipped.

    The OpenEXR file layout: magic, attributes, a table of offsets, then blocks of 1 or 16 lines whose bytes are split
    into halves, differenced and deflated."""
    content = read_bytes(path, 20 * MOST_VALUES)
    try:
        return _exr(content, path)
    except (struct.error, zlib.error, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{path}: a damaged OpenEXR file ({type(error).__name__}: {error})") from error


_EXR_TYPES = {0: "<u4", 1: "<f2", 2: "<f4"}
_EXR_LINES = {0: 1, 2: 1, 3: 16}  # lines a block: none, ZIPS, ZIP


def _exr(content: bytes, path: Path) -> F32:
    magic, version = struct.unpack_from("<II", content)
    if magic != 20000630:
        raise InputError(f"{path}: not an OpenEXR file")
    if version & 0x1E00:
        raise InputError(f"{path}: a tiled, deep or multi-part OpenEXR file seen, one of scan lines wanted")
    place, header = 8, dict[str, bytes]()
    while content[place] != 0:
        name_end = content.index(b"\0", place)
        type_end = content.index(b"\0", name_end + 1)
        (size,) = struct.unpack_from("<I", content, type_end + 1)
        start = type_end + 5
        header[content[place:name_end].decode()] = content[start : start + size]
        place = start + size
    place += 1
    lines = _EXR_LINES.get(header["compression"][0])
    if lines is None:
        raise InputError(f"{path}: OpenEXR compression {header['compression'][0]} seen, none, ZIPS or ZIP wanted")
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    if width < 1 or height < 1 or width * height > MOST_VALUES:
        raise InputError(f"{path}: {width} x {height} pixels seen, 1 to {MOST_VALUES} wanted")
    channels, at = list[tuple[str, np.dtype[np.generic]]](), 0
    packed = header["channels"]
    while packed[at] != 0:
        end = packed.index(b"\0", at)
        (kind,) = struct.unpack_from("<I", packed, end + 1)
        if struct.unpack_from("<ii", packed, end + 9) != (1, 1):
            raise InputError(f"{path}: channels of several sizes seen, one wanted")
        channels.append((packed[at:end].decode(), np.dtype(_EXR_TYPES[kind])))
        at = end + 17
    names = [name for name, _ in channels]
    wanted = next((name for name in ("R", "Z", "Y", "V") if name in names), None)
    if wanted is None:
        raise InputError(f"{path}: channels {', '.join(names)} seen, R, Z, Y or V wanted")
    before = sum(dtype.itemsize for name, dtype in channels[: names.index(wanted)])
    dtype, across = dict(channels)[wanted], sum(dtype.itemsize for _, dtype in channels)
    blocks = -(-height // lines)
    if 8 * blocks > len(content):
        raise InputError(f"{path}: {height} lines seen, what {len(content)} bytes can hold wanted")
    out = np.zeros((height, width), np.float32)
    for offset in struct.unpack_from(f"<{blocks}Q", content, place):
        line, size = struct.unpack_from("<iI", content, offset)
        data, first = content[offset + 8 : offset + 8 + size], line - top
        rows = min(lines, height - first)
        if first < 0 or rows < 1:
            raise InputError(f"{path}: line {line} seen, {top} to {bottom} wanted")
        whole = rows * width * across
        if header["compression"][0] != 0 and size < whole:
            data = _unzipped(data, whole)
        if len(data) != whole:
            raise InputError(f"{path}: {len(data)} bytes at line {line} seen, {whole} wanted")
        for row in range(rows):
            start = width * (row * across + before)
            out[first + row] = np.frombuffer(data, dtype, width, start).astype(np.float32)
    return out


def _unzipped(data: bytes, size: int) -> bytes:
    """Deflated, differenced and split bytes as they were: even places first, then odd ones."""
    raw = np.frombuffer(zlib.decompressobj().decompress(data, size), np.uint8).astype(np.int64)
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes unpacked seen, {size} wanted")
    raw[1:] -= 128
    summed = np.cumsum(raw).astype(np.uint8)
    out = np.empty(size, np.uint8)
    half = (size + 1) // 2
    out[::2], out[1::2] = summed[:half], summed[half:]
    return out.tobytes()


def read_cloud(path: Path) -> Surface:
    """Points of a PLY or another file of geometry, with normals and colours where it has them, in full precision."""
    loaded = load_geometry(path, MOST_GEOMETRY)
    points = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))), np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise InputError(f"{path}: no point seen, at least one wanted")
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise InputError(f"{path}: no finite point seen, at least one wanted")
    normals, colors = _normals(loaded, len(points)), getattr(loaded, "colors", None)
    usable = colors is not None and np.shape(colors) == (len(points), 4)
    return Surface(
        points[finite],
        normals[finite] if normals is not None else None,
        np.asarray(colors, np.uint8)[finite, :3] if usable else None,
    )


def _normals(loaded: object, count: int) -> F64 | None:
    """Unit normals of a PLY's vertices; None where it has none, or null ones."""
    raw = getattr(loaded, "metadata", {}).get("_ply_raw", {}).get("vertex", {}).get("data")
    try:
        normals = np.stack([np.asarray(raw[axis], np.float64).ravel() for axis in ("nx", "ny", "nz")], axis=1)
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    if normals.shape != (count, 3) or not np.isfinite(length).all() or length.min() < 0.5:
        return None
    return np.asarray(normals / length, np.float64)


def read_mesh(path: Path) -> tuple[F64, I32]:
    """Vertices (V, 3) and faces (F, 3) of a file of geometry."""
    loaded = load_geometry(path, MOST_GEOMETRY)
    vertices, faces = np.asarray(getattr(loaded, "vertices", ())), np.asarray(getattr(loaded, "faces", ()))
    if vertices.ndim != 2 or faces.ndim != 2 or faces.shape[1] != 3 or len(faces) == 0:
        raise InputError(f"{path}: no triangle seen, a mesh wanted")
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: a mesh with finite vertices and faces of vertices that exist wanted")
    return vertices.astype(np.float64), faces.astype(np.int32)


def texture_of(image: U8, uv: F64) -> U8:
    """Colours (M, 3) of `image` (H, W, 3) at `uv` (M, 2), v upwards from the bottom, nearest texel, repeated."""
    height, width = image.shape[:2]
    column = np.floor((uv[:, 0] % 1.0) * width).astype(np.int64).clip(0, width - 1)
    row = np.floor((1.0 - uv[:, 1] % 1.0) * height).astype(np.int64).clip(0, height - 1)
    return np.asarray(image[row, column], np.uint8)
