"""The baseline: a folder of one JSON file and the frozen predictions that it refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from adapters.contract import InputError, Reconstruction
from bench.files import replacing, write
from bench.gate.readings import Readings
from bench.trials.suite import Suite

FORMAT = 1


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A prediction kept in the repository, and how it is scored."""

    name: str  # its file is NAME.npz
    scene: str
    views: tuple[str, ...]
    scope: Literal["scene", "object"]
    posed: bool


class Fresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one trial of the suite gave when the baseline was written."""

    name: str
    status: str
    scores: dict[str, list[list[float]]] = {}  # metric -> run -> value under each of the gate's protocol seeds


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`baseline.json`."""

    format: int = FORMAT
    suite: Suite
    frozen: list[Frozen]
    exact: dict[str, Readings]  # case -> reading -> value
    fresh: list[Fresh]


def load_baseline(folder: Path) -> Baseline:
    """The baseline in `folder`; InputError naming the file at fault."""
    file = folder / "baseline.json"
    if not file.is_file():
        raise InputError(f"{file}: no baseline seen; `reconbench check --write --baseline {folder}` makes one")
    try:
        baseline = msgspec.json.decode(file.read_bytes(), type=Baseline)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: {error}") from error
    if baseline.format != FORMAT:
        raise InputError(f"{file}: format {baseline.format} seen, {FORMAT} wanted")
    return baseline


def save_baseline(folder: Path, baseline: Baseline) -> None:
    """Write `baseline.json`, the last of a baseline's files."""
    write(folder / "baseline.json", msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n")


def save_frozen(folder: Path, name: str, prediction: Reconstruction) -> None:
    """Write a prediction as `NAME.npz`, compressed."""
    with replacing(folder / f"{name}.npz") as temporary:
        np.savez_compressed(temporary, **prediction.arrays())  # type: ignore[arg-type]


def load_frozen(folder: Path, name: str) -> Reconstruction:
    """Read what `save_frozen` wrote; InputError naming the file otherwise."""
    path = folder / f"{name}.npz"
    try:
        return Reconstruction.load(path)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
