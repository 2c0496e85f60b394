"""The store: an append-only folder of finished trials, their predictions, logs and scores.

    trials/KEY.json                     `TrialRecord`, written atomically once the trial has finished
    scores/OF.PROTOCOL.TRUTH.json       `ScoreRecord`, OF as `TrialRecord.scored_as` says
    predictions/ID.npz                  content-addressed `Reconstruction`
    clouds/OF.PROTOCOL.TRUTH.npz        points coloured by error, for looking at
    logs/KEY.log                        all that the worker printed
    runs/TIME-PID-RANDOM.json                  `RunRecord`: what was asked, and what was left out
    locks/KEY.lock                      held while a trial runs; released by the system if its holder dies

Two runs may share a store, and stores merge by copying: every file's name says what it holds."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.contract import InputError, Reconstruction, write_npz
from bench.arrays import NpzFile
from bench.files import replacing, write
from bench.trials.records import FORMAT, RunRecord, ScoreRecord, TrialRecord
from metrics.scoring.equalise import random_subset
from metrics.scoring.score import ErrorCloud

POINT_FIELDS = ("points", "colors", "confidence", "view_index", "pixel")
KINDS = ("trials", "scores", "predictions", "clouds", "logs", "runs")
URL = re.compile(r"[a-z][a-z0-9+.-]+:/")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
IDENTITY = re.compile(r"[0-9a-f]{24}")
T = TypeVar("T")


class NewerFormatError(InputError):
    """A store that a newer version wrote: refused whole, since what it means is not known."""


class _Format(msgspec.Struct):
    format: int = 0


@dataclass(frozen=True)
class Problem:
    """A file of a store that is not what it should be."""

    path: Path
    sentence: str
    altered: bool = False  # readable, but not what its name says


@dataclass(frozen=True)
class Store:
    """A store folder; made when first written to."""

    path: Path

    def __post_init__(self) -> None:
        if URL.match(str(self.path)):
            url = str(self.path).replace(":/", "://", 1)  # Path joins slashes
            raise InputError(
                f"{url}: a URL seen, a folder wanted: `reconbench merge {url} --into runs/store` brings it here"
            )

    def _file(self, kind: str, name: str) -> Path:
        """Where a file of this store lies; InputError for a name that would lead out of its folder."""
        if not NAME.fullmatch(name):
            raise InputError(
                f"{self.path}: a {kind} file called {name[:80]!r} asked for, letters, digits and .-_ wanted"
            )
        return self.path / kind / name

    def _written(self, path: Path) -> None:
        """Called when a file of this store is whole; a store that is shared elsewhere sends it there."""

    def _wanted(self, path: Path) -> None:
        """Called before a file is read that may not be here; a store that is shared elsewhere fetches it."""

    def _listed(self, kind: str) -> None:
        """Called before all files of a kind are read; a store that is shared elsewhere fetches those not here."""

    def _write(self, path: Path, content: bytes) -> None:
        write(path, content)
        self._written(path)

    def _all(self, kind: str, record: type[T]) -> list[T]:
        """Every record that can be read; `problems` names the others."""
        return [content for _, content in self._each(kind, record) if not isinstance(content, InputError)]

    def _each(self, kind: str, record: type[T]) -> Iterator[tuple[Path, T | InputError]]:
        self._listed(kind)
        # A name with a leading dot is a file being written, or left by a writer that was killed.
        for path in sorted(path for path in (self.path / kind).glob("*.json") if not path.name.startswith(".")):
            try:
                content = _read(path, record)
            except NewerFormatError:
                raise
            except InputError as error:
                yield path, error
            else:
                if content is not None:
                    yield path, content

    def unreadable(self) -> list[Problem]:
        """The records that cannot be read: what is told of the others leaves them out."""
        kinds: tuple[tuple[str, type[msgspec.Struct]], ...] = (
            ("trials", TrialRecord),
            ("scores", ScoreRecord),
            ("runs", RunRecord),
        )
        every = (pair for kind, record in kinds for pair in self._each(kind, record))
        return [Problem(path, str(content)) for path, content in every if isinstance(content, InputError)]

    def problems(self) -> list[Problem]:
        """Every file that is not what it should be, by name; the rest of the store is read all the same."""
        problems = self.unreadable()
        for path, trial in self._each("trials", TrialRecord):
            if isinstance(trial, InputError) or trial.prediction is None:
                continue
            if not self.prediction_path(trial.prediction).is_file():
                problems.append(Problem(path, f"{path}: its prediction {trial.prediction} is not in the store"))
        for path in sorted((self.path / "predictions").glob("[!.]*.npz")):
            try:
                identity = _identity(NpzFile(path))
            except InputError as error:
                problems.append(Problem(path, str(error)))
                continue
            if identity != path.stem:
                problems.append(Problem(path, f"{path}: its content is not what its name says", altered=True))
        named = {problem.path for problem in problems}
        for path in sorted(path for kind in KINDS for path in (self.path / kind).glob("*")):
            if path.name.startswith("."):
                problems.append(Problem(path, f"{path}: left by a writer that was ended"))
            elif path not in named and (path.is_symlink() or not path.is_file() or not NAME.fullmatch(path.name)):
                problems.append(Problem(path, f"{path}: neither a record nor what one names"))
        return problems

    def repair(self) -> list[Problem]:
        """Set aside, under `quarantine/`, every file of `problems`, and what rests on it; returns them.

        What is missing afterwards is run or scored again when it is next asked for."""
        done: list[Problem] = []
        while problems := self.problems():
            for problem in problems:
                target = self.path / "quarantine" / problem.path.relative_to(self.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                problem.path.replace(target)
            done += problems
        return done

    def trial(self, key: str) -> TrialRecord | None:
        """The finished trial of this key, or None."""
        path = self._file("trials", f"{key}.json")
        self._wanted(path)
        return _read(path, TrialRecord)

    def trials(self) -> list[TrialRecord]:
        """Every finished trial, by key."""
        return self._all("trials", TrialRecord)

    def measured(self, *keys: str) -> TrialRecord | None:
        """The first trial of one of these keys; what says only that something was missing, which may be here by now,
        is none."""
        for key in keys:
            record = self.trial(key)
            if record is not None and record.status != "unavailable":
                return record
        return None

    def put_trial(self, record: TrialRecord) -> None:
        """Write a finished trial, after its log: what the store names is there."""
        if (log := self.log_path(record.key)).is_file():
            self._written(log)
        self._write(self._file("trials", f"{record.key}.json"), _pretty(record))

    def score(self, record: TrialRecord, protocol_hash: str, truth_id: str, brief: bool = False) -> ScoreRecord | None:
        """The score of what this trial gave, under this protocol and truth, or None; where `brief`, a brief one too."""
        path = self._file("scores", f"{record.scored_as}.{protocol_hash}.{truth_id}.json")
        self._wanted(path)
        result = _read(path, ScoreRecord)
        if result is None or (result.brief and not brief):
            return None
        return msgspec.structs.replace(result, trial=record.key)

    def scores(self) -> list[ScoreRecord]:
        """Every score, by name; `trial` is the first that gave what was scored."""
        return self._all("scores", ScoreRecord)

    def put_score(self, record: ScoreRecord, cloud: ErrorCloud | None) -> None:
        """Write a score; its cloud first, so that a score in the store always has one where it should."""
        name = f"{record.of}.{record.protocol_hash}.{record.truth_id}"
        if cloud is not None:
            arrays: dict[str, NDArray[np.generic]] = {"pred": cloud.points, "error": cloud.error, "truth": cloud.truth}
            arrays |= {"up": cloud.up, "intrinsics": cloud.cameras.intrinsics, "sizes": cloud.sizes}
            arrays |= {"camera_from_world": cloud.cameras.camera_from_world}
            for field, colors in (("pred_colors", cloud.colors), ("truth_colors", cloud.truth_colors)):
                if colors is not None:
                    arrays[field] = colors
            path = self._file("clouds", f"{name}.npz")
            with replacing(path) as temporary:
                np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
            self._written(path)
        self._write(self._file("scores", f"{name}.json"), _pretty(record))

    def cloud_path(self, record: ScoreRecord) -> Path:
        """Where the cloud of a score lies, if it has one."""
        return self._file("clouds", f"{record.of}.{record.protocol_hash}.{record.truth_id}.npz")

    def runs(self) -> list[RunRecord]:
        """Every run, oldest first."""
        return self._all("runs", RunRecord)

    @staticmethod
    def new_run(started: str) -> str:
        """A name for the record of a run that started then."""
        # Neither the time nor the process tells two runs apart for certain: clocks are set back, containers count anew.
        return f"{started.replace(':', '')}-{os.getpid()}-{secrets.token_hex(4)}.json"

    def put_run(self, record: RunRecord, name: str | None = None) -> None:
        """Store a run under `name`, in the place of what lies there."""
        self._write(self._file("runs", name or self.new_run(record.started)), _pretty(record))

    def has_run(self, name: str) -> bool:
        """Whether the record of a run lies here under `name`."""
        path = self._file("runs", name)
        self._wanted(path)
        return path.is_file()

    def log_path(self, key: str) -> Path:
        return self._file("logs", f"{key}.log")

    def prediction_path(self, prediction: str) -> Path:
        return self._file("predictions", f"{prediction}.npz")

    def put_prediction(self, prediction: Reconstruction, most: int | None = None) -> tuple[str, int]:
        """Store a prediction under the hash of its arrays; returns its id and the points stored.

        Everything is stored as it was returned, so that what is read back scores to the same digits. Where `most` is
        given and there are more points, a uniform draw of that many stands for all of them: it knows no protocol, and
        it is what is scored."""
        if most is not None and len(prediction.points) > most:
            drawn = random_subset(len(prediction.points), most, np.random.default_rng(0))
            fields = {name: getattr(prediction, name) for name in POINT_FIELDS}
            prediction = replace(prediction, **{k: v[drawn] for k, v in fields.items() if v is not None})
        arrays = prediction.arrays()
        identity = _identity(arrays)
        path = self.prediction_path(identity)
        if not path.is_file():
            with replacing(path) as temporary:
                write_npz(temporary, arrays, level=6)
            self._written(path)
        return identity, len(prediction.points)

    def prediction(self, identity: str) -> Reconstruction:
        """Read a stored prediction; InputError where it is absent."""
        path = self.prediction_path(identity)
        self._wanted(path)
        if not path.is_file():
            raise InputError(f"{path}: the prediction is not in the store")
        try:
            return Reconstruction.from_arrays(NpzFile(path))
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: not a prediction ({error})") from error

    @property
    def place(self) -> str:
        """What the command line calls it."""
        return str(self.path)

    def _lock_path(self, key: str) -> Path:
        return self._file("locks", f"{key}.lock")

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Hold the lock of a trial; yields False where another process holds it."""
        path = self._lock_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _answers(self, other: Store, key: str) -> bool:
        """Whether `other` has an answer where this store's trial of the same key has none."""
        return self.measured(key) is None and other.measured(key) is not None

    def merge(self, other: Store) -> int:
        """Copy what `other` has and this store lacks, except its `problems`; returns the number of trials copied.

        Where both have a trial, an answer takes the place of what says that something was missing."""
        for kind in KINDS:
            other._listed(kind)
        if not (other.path / "trials").is_dir():
            raise InputError(f"{other.place}: no trials/ seen, a store wanted")
        copied, broken = 0, {problem.path for problem in other.problems()}
        # Predictions before the records that name them: a store never promises what it lacks.
        for kind in ("predictions", "logs", "clouds", "trials", "scores", "runs"):
            for source in sorted(p for p in (other.path / kind).glob("*") if NAME.fullmatch(p.name)):
                if source.is_symlink() or not source.is_file() or source in broken:
                    continue
                target = self._file(kind, source.name)
                if not target.exists() or (kind == "trials" and self._answers(other, source.stem)):
                    with replacing(target) as temporary:
                        shutil.copyfile(source, temporary)
                    copied += kind == "trials"
        return copied


def _identity(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:24]


def _pretty(record: msgspec.Struct) -> bytes:
    """The record as JSON; InputError where that could not be read back (JSON knows no NaN and no infinity)."""
    content = msgspec.json.encode(record)
    try:
        msgspec.json.decode(content, type=type(record))
    except msgspec.DecodeError as error:
        raise InputError(f"a {type(record).__name__} cannot be kept: {error}; finite numbers wanted") from error
    return msgspec.json.format(content, indent=1)


def _read(path: Path, kind: type[T]) -> T | None:
    if path.is_symlink():
        raise InputError(f"{path}: a link seen, a file wanted")
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        # First of all: what a newer version means by the same fields is not known.
        if (newer := msgspec.json.decode(content, type=_Format).format) > FORMAT:
            raise NewerFormatError(
                f"{path}: format {newer} seen, this Reconbench reads up to {FORMAT}: a newer one wrote it"
            )
        record = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    if isinstance(record, TrialRecord):
        if record.key != path.stem:
            raise InputError(f"{path}: it says that it is {record.key[:80]!r}")
        if record.prediction is not None and not IDENTITY.fullmatch(record.prediction):
            raise InputError(f"{path}: prediction {record.prediction[:80]!r} is no prediction's name")
    return record
