"""The procedural family as arrays to train and test with: shards, each written once, by any process.

`FOLDER/SPLIT/NNNN.npz` holds objects 128 NNNN .. 128 NNNN + 127 of a split; a shard that is there is not made again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64, U8, InputError
from data.synthetic.shapes import FIRST_SEED, Split, make
from data.synthetic.views import Studio, light_in_camera, poses

SHARD = 128  # objects
SIZE = 64  # pixels
SURFACE, FIELD = 2048, 8192  # samples of an object
VERSION = 1  # of the shards: a change of shapes, views or this file that alters them counts it up


@dataclass(frozen=True)
class Family:
    """Objects of one split. Frame and unit as in `shapes.Shape`."""

    casts: U8  # (N, V, SIZE, SIZE, 4), see `views.cast`
    lights: F32  # (N, V, 3), camera frame
    poses: F32  # (N, V, 3) azimuth and elevation in degrees, distance
    surface: NDArray[np.float16]  # (N, SURFACE, 3)
    normals: NDArray[np.int8]  # (N, SURFACE, 3), in 127ths
    field: NDArray[np.float16]  # (N, FIELD, 4) positions and signed distances: uniform half, then half near the surface
    seeds: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.seeds)

    @staticmethod
    def open(folder: Path, split: Split, count: int) -> Family:
        """The first `count` objects of `split`; InputError where they were not written."""
        parts: dict[str, list[NDArray[np.generic]]] = {}
        for number in range(-(-count // SHARD)):
            path = folder / split / f"{number:04d}.npz"
            if not path.is_file():
                raise InputError(f"{path}: not written; {count} objects of split {split} wanted")
            with np.load(path, allow_pickle=False) as arrays:
                if int(arrays["version"]) != VERSION:
                    raise InputError(f"{path}: version {int(arrays['version'])} seen, {VERSION} wanted; delete it")
                for name in Family.__dataclass_fields__:
                    parts.setdefault(name, []).append(arrays[name])
        return Family(**{name: np.concatenate(arrays)[:count] for name, arrays in parts.items()})


def write_family(
    folder: Path,
    split: Split,
    count: int,
    views: int,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the shards of the first `count` objects of `split` that are not there; `progress` is given objects."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    shards = [(folder / split / f"{i:04d}.npz", split, i * SHARD, views) for i in range(-(-count // SHARD))]
    missing = [job for job in shards if not job[0].is_file()]
    progress((len(shards) - len(missing)) * SHARD, len(shards) * SHARD)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for i, _ in enumerate(pool.imap_unordered(_write_shard, missing), len(shards) - len(missing) + 1):
            progress(i * SHARD, len(shards) * SHARD)


def _write_shard(job: tuple[Path, Split, int, int]) -> None:
    path, split, first, views = job
    rows = [_arrays(FIRST_SEED[split] + i, views) for i in range(first, first + SHARD)]
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, version=VERSION, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})  # type: ignore[arg-type]
    partial.replace(path)


def _arrays(seed: int, views: int) -> dict[str, NDArray[np.generic]]:
    """The fields of one object."""
    rng = np.random.default_rng([7, seed])
    shape = make(seed)
    surface = shape.sample(SURFACE, rng)
    position, distance = shape.field_samples(FIELD, rng)
    studio, around = Studio(shape, rng), poses(views, rng)
    return {
        "casts": np.stack([studio.cast(pose, SIZE)[0] for pose in around]),
        "lights": np.stack([light_in_camera(pose) for pose in around]).astype(np.float32),
        "poses": np.array([[p.azimuth, p.elevation, p.distance] for p in around], np.float32),
        "surface": surface.astype(np.float16),
        "normals": np.round(shape.normals(surface) * 127).astype(np.int8),
        "field": _packed(position, distance),
        "seeds": np.array(seed),
    }


def _packed(position: F64, distance: F64) -> NDArray[np.float16]:
    return np.concatenate([position, distance[:, None]], axis=1).astype(np.float16)
