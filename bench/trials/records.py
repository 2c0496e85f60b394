"""What is kept of a trial, of its scores and of a run: typed records, one JSON file each in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from adapters.contract import ScoreStatus, TruthKind
from bench.systems.cards import Card, Options
from bench.systems.measure import Hardware, Outcome, Policy
from data.subsets import Order

FORMAT = 1


def system_label(adapter: str, options: Mapping[str, object], weights: str) -> str:
    """A system's name: the adapter's, with its options and its own weights where it has any. Two settings of one
    adapter are two systems, in every table and message; `weights` is their id, as in `TrialRecord`."""
    settings = [f"{name}={value}" for name, value in sorted(options.items())]
    if weights == "random" or weights.startswith("path:"):
        settings.append(f"weights={weights.removeprefix('path:')[:8]}")
    return f"{adapter} ({', '.join(settings)})" if settings else adapter


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a trial came from that was not run here; see `bench.scoring.verify`."""

    bundle: str  # its file's name
    sha256: str  # of the file
    verified: bool | None = None  # every score computed again and equal; None where there was none to compute
    why: str = ""  # one sentence where they were not

    def __str__(self) -> str:
        return f"{self.bundle} {self.sha256[:12]}"


class TrialRecord(Outcome, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One finished trial: what was asked, what became of it, where the prediction is."""

    format: int = FORMAT
    key: str
    identity: str = ""  # of all that the prediction depends on: the same on every machine
    adapter: str
    adapter_hash: str
    card: Card
    environment: str  # hash of the interpreter and its packages; "absent" where there is none
    weights: str  # "none", "random", "pretrained:HASH", "path:HASH"; "pretrained" where they are not here
    options: Options
    inputs: str  # "images", "images+masks+cameras", ...
    scene: str
    scene_path: str
    inputs_hash: str  # of the files and arrays that the worker was given
    views: list[str]
    order: Order = "spread"  # by which the views of a count were taken
    targets: list[str] = msgspec.field(default_factory=list)  # views held back, whose cameras were given to be rendered
    seed: int
    device: str
    policy: Policy
    external: bool = False  # a cloud made elsewhere
    posed: bool = False  # the prediction is in the truth's own frame
    cameras_of: TruthKind | None = None  # the truth whose cameras were given
    hardware: Hardware
    prediction: str | None = None  # id
    points: int = 0  # of the prediction as it was made
    points_kept: int = 0  # of them, stored and scored: all, or a uniform draw
    finished: str  # UTC, ISO 8601
    command: str  # reproduces the trial
    origin: Origin | None = None  # of one that came in a bundle

    @property
    def system(self) -> str:
        """What tables call it: see `system_label`."""
        return system_label(self.adapter, self.options, self.weights)

    @property
    def scored_as(self) -> str:
        """24 hex digits naming what a score is of: the prediction with what scoring reads of its trial, or the failure.

        A trial that ran again and answered otherwise has other scores, at whichever moment it was stopped."""
        if self.status == "ok" and self.prediction is not None:
            of: list[object] = [self.prediction, self.views, self.targets, self.card.scope, self.posed, self.cameras_of]
        else:
            of = [self.status, self.message]
        return hashlib.sha256(msgspec.json.encode(of)).hexdigest()[:24]

    @property
    def ran(self) -> bool:
        """Whether a worker was started: not for what was made elsewhere, or ruled out or missing beforehand."""
        return not self.external and (self.isolated or self.status not in ("unsupported", "unavailable"))

    @property
    def timed_only(self) -> bool:
        """Whether there is nothing to score: it was run for the clock alone, or with random weights."""
        return self.policy.timing_only or self.weights == "random"


class ScoredValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One metric of one score; see `metrics.scoring.score.Value`."""

    metric: str
    unit: str
    better: Literal["lower", "higher"]
    status: ScoreStatus
    value: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    before_icp: float | None = None
    note: str = ""
    judged: float | None = None
    least: float | None = None
    most: float | None = None
    lower: float | None = None
    upper: float | None = None
    gap: float | None = None
    pairs: int | None = None


class ScoredStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage of an alignment; lengths in percent of the diameter."""

    name: str
    truth_from_pred: list[list[float]]
    residual: float | None
    gain: float | None


class ScoreRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one protocol says of one trial's prediction under one truth."""

    format: int = FORMAT
    trial: str  # key
    of: str = ""  # see `TrialRecord.scored_as`
    truth: TruthKind
    truth_id: str
    truth_made_by: list[str]
    protocol: str
    protocol_version: int
    protocol_hash: str
    values: list[ScoredValue]
    stages: list[ScoredStage]
    points: int
    unobserved: int
    kept: float = 1.0  # share of the prediction's points that the confidence policy kept
    known: float | None = None  # share of the object's pixels that show surface which a measured truth trusts
    brief: bool = False  # values alone, for a comparison of protocols: neither floors nor values before ICP
    notes: list[str]


class LeftOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A planned trial that a run did not start."""

    adapter: str
    inputs: str
    scene: str
    views: int
    seed: int
    reason: str
    options: Options = {}
    weights: str = "none"  # as in `TrialRecord`

    @property
    def system(self) -> str:
        """What tables call it: see `system_label`."""
        return system_label(self.adapter, self.options, self.weights)


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of `reconbench run`."""

    format: int = FORMAT
    version: str
    command: str
    started: str
    seconds: float
    hardware: Hardware
    overhead_seconds: float | None  # what the harness adds to a timed call, measured with the null adapter
    trials: list[str]  # keys, finished or found finished
    left_out: list[LeftOut]
    remarks: list[str] = []  # sentences on the plan: which images did not take part, and why
    protocol: str
    truth: str
