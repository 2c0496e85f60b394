"""What an importer declares of its dataset, and what it reads out of one scene."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adapters.contract import F32, F64, I32, U8, Bools, InputError, TruthKind
from data.catalog.shared.lens import Lens


@dataclass(frozen=True)
class Subset:
    """A choice of views that papers evaluate on, by position in the dataset's own order."""

    name: str
    source: str  # where the choice is published
    rows: tuple[int, ...] = ()
    every: int = 0  # instead of `rows`: 0, `every`, 2 `every`, ...

    def of(self, count: int, where: str) -> list[int]:
        """The rows among `count` views; InputError where one of them is not there."""
        rows = list(range(0, count, self.every)) if self.every else list(self.rows)
        if rows and max(rows) >= count:
            raise InputError(f"{where}: {count} views seen, {max(rows) + 1} at least wanted for subset {self.name}")
        return rows

    @property
    def sha256(self) -> str:
        """Of the rule: a subset that is altered has another name in every table."""
        return hashlib.sha256(f"{self.rows} {self.every}".encode()).hexdigest()


@dataclass(frozen=True)
class Photo:
    """One view as its dataset gives it. World units and axes are the dataset's; camera axes are OpenCV's."""

    name: str
    image: Path | Callable[[], U8]  # a file is referred to, an array (H, W, 3) is written
    lens: Lens
    camera_from_world: F64  # (4, 4)
    mask: Path | Callable[[], Bools] | None = None  # true on the object; a file counts above 127
    depth: Callable[[], F32] | None = None  # (h, w) z-depth in the world's unit, 0 or not finite: none; any size


@dataclass(frozen=True)
class Surface:
    """Truth points, or a closed mesh where there are `faces`; in the world's frame."""

    points: F64  # (M, 3), or the vertices
    normals: F64 | None = None  # (M, 3); estimated where there are none
    colors: U8 | None = None  # (M, 3)
    faces: I32 | None = None  # (F, 3)


@dataclass(frozen=True)
class Observed:
    """Where a scanner could see: outside it nothing is judged."""

    free: Bools  # (X, Y, Z) voxels
    low: F64  # (3,) the corner of that grid, in the world's frame
    edge: float
    trusted: Bools  # (M,) which of the surface's points count


@dataclass(frozen=True)
class Capture:
    """One scene of a dataset, not yet written."""

    name: str
    photos: Sequence[Photo]
    kind: TruthKind
    surface: Surface | None = None  # None: the photos' depth maps are the surface
    made_by: tuple[str, ...] = ()
    crop: tuple[F64, F64] | None = None  # (3,) low and high
    observed: Observed | None = None
    notes: list[str] = field(default_factory=list)  # sentences for whoever imports


@dataclass(frozen=True)
class Layout:
    """An importer: what it reads, under which terms, and how far it was checked."""

    name: str
    title: str
    page: str  # of the project
    licence: str  # as its owners state it, short
    licence_read: str  # where that was read; "" where it was not, and the page has to be asked
    download: str  # what to fetch, in words
    folder: str  # what the command's PATH is
    truth: str  # in words
    checked: tuple[str, ...]  # the dataset's own reader code that it agrees with; none: unverified
    read: Callable[[Path], Capture]
    subsets: tuple[Subset, ...] = ()
    metres: float | None = None  # in a unit of its world; None where its scale is arbitrary or not stated
    left_out: str = ""  # what the dataset has and the Scene has not

    @property
    def state(self) -> str:
        return "verified" if self.checked else "unverified"


def opengl_to_opencv(world_from_camera: F64) -> F64:
    """A camera-to-world matrix (4, 4) of OpenGL axes (x right, y up, z back) as OpenCV's `camera_from_world`."""
    return invert_rigid(world_from_camera @ np.diag([1.0, -1.0, -1.0, 1.0]))


def invert_rigid(matrix: F64) -> F64:
    """The inverse of (4, 4); InputError is left to whoever knows the file: a singular one gives NaN."""
    try:
        return np.asarray(np.linalg.inv(matrix), np.float64)
    except np.linalg.LinAlgError:
        return np.full((4, 4), np.nan)
