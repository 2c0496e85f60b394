"""The store: an append-only folder of finished trials, their predictions, logs and scores.

    trials/KEY.json                     `TrialRecord`, written atomically once the trial has finished
    scores/KEY.PROTOCOL.TRUTH.json      `ScoreRecord`
    predictions/ID.npz                  content-addressed `Reconstruction`
    clouds/KEY.PROTOCOL.TRUTH.npz       points coloured by error, for looking at
    logs/KEY.log                        all that the worker printed
    runs/TIME-PID.json                  `RunRecord`: what was asked, and what was left out
    locks/KEY.lock                      held while a trial runs; released by the system if its holder dies

Two runs may share a store, and stores merge by copying: every file's name says what it holds."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.contract import InputError, Reconstruction
from bench.files import replacing, write
from bench.trials.records import RunRecord, ScoreRecord, TrialRecord
from metrics.scoring.equalise import bounded_subset
from metrics.scoring.score import ErrorCloud

KEPT_POINTS = 400_000  # points kept of a prediction unless the whole cloud is asked for
T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """A store folder; made when first written to."""

    path: Path

    def _file(self, kind: str, name: str) -> Path:
        return self.path / kind / name

    def _all(self, kind: str, record: type[T]) -> list[T]:
        # A name with a leading dot is a file being written, or left by a writer that was killed.
        paths = sorted(path for path in (self.path / kind).glob("*.json") if not path.name.startswith("."))
        return [found for found in (_read(path, record) for path in paths) if found is not None]

    def trial(self, key: str) -> TrialRecord | None:
        """The finished trial of this key, or None."""
        return _read(self._file("trials", f"{key}.json"), TrialRecord)

    def trials(self) -> list[TrialRecord]:
        """Every finished trial, by key."""
        return self._all("trials", TrialRecord)

    def measured(self, key: str) -> TrialRecord | None:
        """The trial of this key, unless all it says is that something was missing, which may be here by now."""
        record = self.trial(key)
        return None if record is not None and record.status == "unavailable" else record

    def put_trial(self, record: TrialRecord) -> None:
        write(self._file("trials", f"{record.key}.json"), _pretty(record))

    def score(self, key: str, protocol_hash: str, truth_id: str) -> ScoreRecord | None:
        """The score of this trial, protocol and truth, or None."""
        return _read(self._file("scores", f"{key}.{protocol_hash}.{truth_id}.json"), ScoreRecord)

    def scores(self) -> list[ScoreRecord]:
        """Every score, by name."""
        return self._all("scores", ScoreRecord)

    def put_score(self, record: ScoreRecord, cloud: ErrorCloud | None) -> None:
        """Write a score; its cloud first, so that a score in the store always has one where it should."""
        name = f"{record.trial}.{record.protocol_hash}.{record.truth_id}"
        if cloud is not None:
            arrays: dict[str, NDArray[np.generic]] = {"pred": cloud.points, "error": cloud.error, "truth": cloud.truth}
            arrays |= {"up": cloud.up, "intrinsics": cloud.cameras.intrinsics, "sizes": cloud.sizes}
            arrays |= {"camera_from_world": cloud.cameras.camera_from_world}
            for field, colors in (("pred_colors", cloud.colors), ("truth_colors", cloud.truth_colors)):
                if colors is not None:
                    arrays[field] = colors
            with replacing(self._file("clouds", f"{name}.npz")) as temporary:
                np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        write(self._file("scores", f"{name}.json"), _pretty(record))

    def cloud_path(self, record: ScoreRecord) -> Path:
        """Where the cloud of a score lies, if it has one."""
        return self._file("clouds", f"{record.trial}.{record.protocol_hash}.{record.truth_id}.npz")

    def runs(self) -> list[RunRecord]:
        """Every run, oldest first."""
        return self._all("runs", RunRecord)

    def put_run(self, record: RunRecord) -> None:
        name = f"{record.started.replace(':', '')}-{os.getpid()}.json"
        write(self._file("runs", name), _pretty(record))

    def log_path(self, key: str) -> Path:
        return self._file("logs", f"{key}.log")

    def prediction_path(self, prediction: str) -> Path:
        return self._file("predictions", f"{prediction}.npz")

    def put_prediction(self, prediction: Reconstruction, keep_all: bool) -> tuple[str, int]:
        """Store a prediction under the hash of its arrays; returns its id and the points kept.

        Beyond KEPT_POINTS the cloud is thinned to one point a voxel, chosen, not averaged; `keep_all` keeps it whole.
        Depth loses the low half of its mantissa's bits (relative error below 2^-12), which halves the file."""
        arrays = dict(prediction.arrays())
        if not keep_all and len(prediction.points) > KEPT_POINTS:
            kept = bounded_subset(prediction.points, KEPT_POINTS)
            for name in ("points", "colors", "confidence", "view_index", "pixel"):
                if name in arrays:
                    arrays[name] = arrays[name][kept]
        for name in arrays:
            if name.startswith("depth_"):
                arrays[name] = ((arrays[name].view(np.uint32) + 0x800) & np.uint32(0xFFFFF000)).view(np.float32)
        digest = hashlib.sha256()
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        identity = digest.hexdigest()[:24]
        path = self.prediction_path(identity)
        if not path.is_file():
            with replacing(path) as temporary:
                np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        return identity, len(arrays["points"])

    def prediction(self, identity: str) -> Reconstruction:
        """Read a stored prediction; InputError where it is absent."""
        path = self.prediction_path(identity)
        if not path.is_file():
            raise InputError(f"{path}: the prediction is not in the store")
        return Reconstruction.load(path)

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Hold the lock of a trial; yields False where another process holds it."""
        path = self._file("locks", f"{key}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def merge(self, other: Store) -> int:
        """Copy what `other` has and this store lacks; returns the number of trials copied."""
        if not (other.path / "trials").is_dir():
            raise InputError(f"{other.path}: no trials/ seen, a store wanted")
        copied = 0
        # Predictions before the records that name them: a store never promises what it lacks.
        for kind in ("predictions", "logs", "clouds", "trials", "scores", "runs"):
            for source in sorted(p for p in (other.path / kind).glob("*") if not p.name.startswith(".")):
                target = self._file(kind, source.name)
                if not target.exists():
                    with replacing(target) as temporary:
                        shutil.copyfile(source, temporary)
                    copied += kind == "trials"
        return copied


def _pretty(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1)


def _read(path: Path, kind: type[T]) -> T | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}") from error
