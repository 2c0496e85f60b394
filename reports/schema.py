"""The tables: what reports read, row by row, and what they write, column by column.

A row is a frozen dataclass whose fields say what they hold, in which unit, once: types for mypy, columns of the CSV
files and their documentation (`python -m reports.document`) all come from it. Text is never None: a missing text is "".
A missing number is None, and an empty field of a file; infinities and NaN are refused. Why a number is missing is said
by the `status` beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pandas as pd

from adapters.contract import InputError, ScoreStatus, TrialStatus, TruthKind
from reports import text

Scope = Literal["scene", "object"]
Better = Literal["lower", "higher"]
WeightsKind = Literal["none", "pretrained", "random", "path"]
Cell = str | int | float | bool | None  # of a table; None is missing
Matrix = tuple[tuple[float, ...], ...]

TRUTHS: tuple[TruthKind, ...] = get_args(TruthKind)

# Metrics a reader wants first, in this order; every other metric follows in alphabetical order.
HEADLINE = (
    "accuracy",
    "completeness-visible",
    "completeness-given",
    "chamfer-l1-sum",
    "fscore@1%",
    "volume-iou",
    "emd",
    "auc@30",
    "centre-rmse",
    "scale-error",
    "depth-absrel",
)


class TableError(InputError):
    """A table that breaks its description; the message names table and column, what was seen, what was wanted."""


@dataclass(frozen=True)
class Of:
    """What a field holds: stands in its annotation."""

    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: str  # of pandas
    optional: bool  # whether it may be missing
    values: tuple[str, ...]  # the only ones allowed, where there are few
    unit: str
    meaning: str


_DTYPES = {bool: "bool", int: "int64", float: "float64", str: "object", tuple: "object"}


@functools.cache
def columns(row: type) -> tuple[Column, ...]:
    """The columns that a row's fields declare; a field that is a row itself stands for its own columns."""
    out: list[Column] = []
    for name, hint in _hints(row).items():
        out += columns(hint) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else [_column(name, hint)]
    return tuple(out)


@functools.cache
def _hints(row: type) -> dict[str, Any]:
    hints = get_type_hints(row, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(row)}


def picked(row: type, *names: str) -> tuple[Column, ...]:
    """Those columns of a row, in the order of the row."""
    return tuple(column for column in columns(row) if column.name in names)


def _column(name: str, hint: Any) -> Column:
    of = Of("")
    if get_origin(hint) is Annotated:
        hint, of = get_args(hint)
    inner = [part for part in get_args(hint) if part is not type(None)]
    optional = get_origin(hint) in (Union, types.UnionType) and len(inner) == 1
    kind = inner[0] if optional else hint
    values: tuple[str, ...] = get_args(kind) if get_origin(kind) is Literal else ()
    dtype = _DTYPES.get(str if values else get_origin(kind) or kind, "object")
    if optional:
        dtype = {"int64": "Int64", "bool": "boolean"}.get(dtype, dtype)
    return Column(name, dtype, optional, values, of.unit, of.meaning)


def cells(row: Any, kind: type | None = None) -> dict[str, Cell]:
    """A row's fields, those of `kind`, as a file has them: texts with nothing hidden, several joined by commas."""
    out: dict[str, Cell] = {}
    for name, hint in _hints(kind or type(row)).items():
        value = getattr(row, name)
        of_row = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        out |= cells(value, hint) if of_row else {name: _cell(value)}
    return out


def _paths(kind: type) -> list[str]:
    """The dotted names of a row's fields, through the rows in it, in the order of `columns`."""
    hints = _hints(kind).items()
    rows = {name: isinstance(hint, type) and dataclasses.is_dataclass(hint) for name, hint in hints}
    return [
        path
        for name, hint in hints
        for path in ([f"{name}.{inner}" for inner in _paths(hint)] if rows[name] else [name])
    ]


def _cell(value: Any) -> Cell:
    value = ",".join(value) if isinstance(value, tuple) else value
    return text.shown(value) if isinstance(value, str) else value


def _fields(row: Any) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def frame(described: Sequence[Column], rows: Iterable[Mapping[str, Cell]]) -> pd.DataFrame:
    """A table of exactly these columns, each in its dtype; what a row lacks is missing."""
    absent: dict[str, Cell] = {column.name: "" if column.dtype == "object" else None for column in described}
    table = pd.DataFrame([absent | dict(row) for row in rows], columns=list(absent), dtype=object)
    return table.astype({column.name: column.dtype for column in described if column.dtype != "object"})


def table(kind: type, rows: Iterable[Any]) -> pd.DataFrame:
    """A table of `rows`, all of the dataclass `kind`; column by column, since there may be many rows."""
    every = list(rows)
    values = {path.rpartition(".")[2]: list(map(_cell, map(attrgetter(path), every))) for path in _paths(kind)}
    table = pd.DataFrame(values, dtype=object)
    return table.astype({column.name: column.dtype for column in columns(kind) if column.dtype != "object"})


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write `table` as CSV, every digit kept, a missing value empty; no text is a formula or an escape sequence."""
    plain = table.copy()
    for name in plain.select_dtypes(exclude=["number", "bool"]):
        cells_of = [text.csv(cell) if isinstance(cell, str) else cell for cell in plain[name]]
        plain[name] = pd.Series(cells_of, plain.index, object)
    plain.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")
    return path


Key = Annotated[str, Of("the trial's key: hash of everything that decides its result")]
Adapter = Annotated[str, Of("the adapter's name, with its options where it was given any")]
System = Annotated[str, Of("the adapter, and in brackets what tells it from its other variants")]
Title = Annotated[str, Of("the system's name as printed")]
Inputs = Annotated[str, Of("what it was given: images, images+masks+cameras, images+truth ...")]
OutputScope = Annotated[Scope, Of("what it reconstructs")]
SceneName = Annotated[str, Of("the scene's name")]
Views = Annotated[int, Of("how many views it was given")]
Seed = Annotated[int, Of("the seed: trials that differ in it alone are repeats of one cell")]
Judge = Annotated[TruthKind, Of("the kind of ground truth it was scored against")]
ProtocolName = Annotated[str, Of("the protocol's name")]
ProtocolHash = Annotated[str, Of("hash of the protocol and the versions of its metrics")]
MetricId = Annotated[str, Of("names the formula: chamfer-l1-sum, fscore@1%, volume-iou ...")]
UnitName = Annotated[str, Of("% (of the scene's diameter), deg, ratio; s or bytes for costs")]
WhichIsBetter = Annotated[Better, Of("which way is good")]
Value = Annotated[float | None, Of("missing unless status is ok", "as `unit`")]
Low = Annotated[float | None, Of("lower end of the interval over draws; missing where there was one draw", "as `unit`")]
High = Annotated[float | None, Of("its upper end", "as `unit`")]
Outcome = Annotated[ScoreStatus, Of("how scoring ended")]
CellsOk = Annotated[int, Of("how many of the cells have a result")]
Cells = Annotated[int, Of("how many cells there are: scenes and choices of views")]


@dataclass(frozen=True, kw_only=True)
class OfTrial:
    """What names a trial."""

    key: Key
    adapter: Adapter
    inputs: Inputs
    scope: OutputScope
    scene: SceneName
    views: Views
    repeat: Seed


@dataclass(frozen=True, kw_only=True)
class TrialRow(OfTrial):
    """One finished trial."""

    title: Title
    view_ids: Annotated[str, Of("the views' names, joined by a space")]
    device: Annotated[str, Of("cpu, cuda:0 ...")]
    status: Annotated[TrialStatus, Of("how the trial ended")]
    message: Annotated[str, Of("one sentence where it did not end well")] = ""
    log_tail: Annotated[str, Of("the last lines of its log")] = ""
    load_seconds: Annotated[float | None, Of("loading the weights", "s")] = None
    cold_seconds: Annotated[float | None, Of("the first call", "s")] = None
    warm_seconds: Annotated[float | None, Of("median of the repeats after warm-up; missing without any", "s")] = None
    warm_iqr: Annotated[float | None, Of("interquartile range of the same repeats", "s")] = None
    warm_n: Annotated[int | None, Of("how many they were")] = None
    prepare_seconds: Annotated[float | None, Of("median over the calls: from images to inputs", "s")] = None
    infer_seconds: Annotated[float | None, Of("median over the calls: the network, or what stands for it", "s")] = None
    finish_seconds: Annotated[float | None, Of("median over the calls: from outputs to points", "s")] = None
    frames: Annotated[int | None, Of("of a system that streams: how many outputs it gave, one after the other")] = None
    last_frame_seconds: Annotated[float | None, Of("the last of them, median over the calls", "s")] = None
    frame_growth: Annotated[
        float | None, Of("median of their last tenth over that of the first; missing below ten", "ratio")
    ] = None
    peak_rss_bytes: Annotated[int | None, Of("largest resident memory of the process tree", "bytes")] = None
    device_peak_bytes: Annotated[
        int | None, Of("the same of the device, by its allocator; missing on a CPU", "bytes")
    ] = None
    device_driver_bytes: Annotated[
        int | None, Of("the device's memory in use at the end, by its driver; missing on a CPU", "bytes")
    ] = None
    device_joules: Annotated[
        float | None, Of("that the device drew in a call, idle or not: mean of the repeats; missing on a CPU", "J")
    ] = None
    precision: Annotated[str, Of("of the network's arithmetic, as the adapter reports it")] = ""
    resolution: Annotated[str, Of("of the images that it worked on, as the adapter reports it", "pixels")] = ""
    attention: Annotated[str, Of("what computed attention, as the adapter reports it")] = ""
    foreground: Annotated[str, Of("how the object was cut out, and what was put behind it")] = ""
    parameters: Annotated[int | None, Of("of the network; missing where there is none")] = None
    kin: Annotated[tuple[str, ...], Of("systems it shares method or code with")] = ()
    contamination: Annotated[tuple[str, ...], Of("datasets that it was trained on and the scene comes from")] = ()
    cameras_of: Annotated[TruthKind | None, Of("the truth whose cameras it got: not ranked under another")] = None
    reference: Annotated[bool, Of("it was given the truth: never ranked")] = False
    external: Annotated[bool, Of("the prediction was made elsewhere: never ranked")] = False
    origin: Annotated[
        str, Of("the bundle that it came in, and the start of its sha256; empty where it was run here")
    ] = ""
    verified: Annotated[
        bool | None,
        Of("of a bundle: every score computed again and equal, else never ranked; missing where there was none"),
    ] = None
    weights: Annotated[WeightsKind, Of("random ones are timed and never scored")]
    options: Annotated[str, Of("json object")]
    environment: Annotated[str, Of("hash of the interpreter and its packages")] = ""
    adapter_hash: Annotated[str, Of("hash of the adapter's folder")] = ""
    hardware: Annotated[str, Of("the machine; times are never compared across two")] = ""
    busy: Annotated[bool, Of("the machine was busy with something else while it was timed")] = False
    isolated: Annotated[
        bool | None, Of("it ran behind walls: truth, store and network out of its reach; missing where nothing ran")
    ] = None
    command: Annotated[str, Of("reproduces the trial")] = ""
    prediction: Annotated[str, Of("id of the prediction in the store")] = ""
    prediction_path: Annotated[str, Of("its file")] = ""
    points: Annotated[int | None, Of("how many points it predicted")] = None
    points_kept: Annotated[int | None, Of("how many of them were stored and scored: all, or a uniform draw")] = None
    finished: Annotated[str, Of("UTC, ISO 8601")] = ""

    @property
    def barred(self) -> bool:
        """Whether it is shown and never ranked, whatever the truth."""
        return self.reference or self.external or self.weights == "random" or self.verified is False


@dataclass(frozen=True, kw_only=True)
class ScoreRow(OfTrial):
    """One metric of one trial, under one truth and protocol."""

    truth: Judge
    truth_id: Annotated[str, Of("hash of that truth's files")]
    truth_made_by: Annotated[tuple[str, ...], Of("systems that made it: their kin is never ranked under it")] = ()
    protocol: ProtocolName
    protocol_hash: ProtocolHash
    metric: MetricId
    unit: UnitName
    better: WhichIsBetter
    value: Value = None
    low: Low = None
    high: High = None
    floor: Annotated[
        float | None,
        Of("the truth against itself at the same sample count; missing where it has no meaning", "as `unit`"),
    ] = None
    before_icp: Annotated[float | None, Of("the value before ICP; missing where the route has none", "as `unit`")] = (
        None
    )
    judged: Annotated[float | None, Of("share of the predicted points that a measured truth could judge", "share")] = (
        None
    )
    least: Annotated[float | None, Of("the value, were all that a measured truth does not know wrong", "as `unit`")] = (
        None
    )
    most: Annotated[float | None, Of("the value, were all that it does not know right", "as `unit`")] = None
    lower: Annotated[float | None, Of("certified bound of an EMD: the exact value is at least this", "as `unit`")] = (
        None
    )
    upper: Annotated[float | None, Of("certified: the exact value is at most this", "as `unit`")] = None
    gap: Annotated[float | None, Of("upper less lower, relative to lower", "share")] = None
    pairs: Annotated[
        int | None, Of("of rotation, translation and auc@*: how many pairs of views the value is a mean of")
    ] = None
    known: Annotated[
        float | None, Of("share of the object's pixels that show surface a measured truth trusts", "share")
    ] = None
    status: Outcome
    note: Annotated[str, Of("one sentence where it did not end well")] = ""


@dataclass(frozen=True, kw_only=True)
class AlignmentRow:
    """One stage of the alignment of one prediction."""

    key: Key
    truth: Judge
    protocol_hash: ProtocolHash
    stage: Annotated[str, Of("umeyama, icp ...")]
    residual: Annotated[float | None, Of("after the stage", "% of the diameter")]
    gain: Annotated[float | None, Of("how much the stage lowered it", "% of the diameter")]
    scale: Annotated[float, Of("of the stage's similarity")]
    truth_from_prediction: Annotated[Matrix, Of("4x4, all stages so far")]


@dataclass(frozen=True, kw_only=True)
class CloudRow:
    """Points coloured by error, for looking at."""

    key: Key
    truth: Annotated[TruthKind, Of("the truth whose frame they are in")]
    path: Annotated[
        Path,
        Of(
            "an .npz with pred (K, 3) f32, error (K,) f32 in % of the diameter, truth (T, 3) f32, and perhaps "
            "pred_colors (K, 3) u8, truth_colors (T, 3) u8, up (3,), the direction that is up, and C cameras to draw "
            "from: intrinsics (C, 3, 3), camera_from_world (C, 4, 4), sizes (C, 2); K and T at most 40,000"
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One metric of one trial with one choice of its protocol made otherwise."""

    key: Key
    truth: Judge
    protocol_hash: Annotated[str, Of("the protocol that was varied")]
    alignment: Annotated[str, Of("as ranked, or the alignment taken instead")]
    keep: Annotated[float, Of("share of its surest points that the protocol asked for")]
    kept: Annotated[float, Of("share of its points that were kept: more than asked where confidence ties")]
    metric: MetricId
    value: Value
    low: Low
    high: High
    status: Outcome


@dataclass(frozen=True, kw_only=True)
class RemarkRow:
    """One sentence on a score that ended well: an ambiguous alignment, no confidence ..."""

    key: Key
    truth: Judge
    protocol_hash: ProtocolHash
    remark: str


@dataclass(frozen=True)
class TruthCard:
    """What the page says of one ground truth of one scene."""

    id: str
    diameter: float  # in the truth's own unit
    verdict: str = ""  # of its quality card
    error_accuracy: float | None = None  # % of the diameter, the truth's own error against the exact surface
    error_completeness: float | None = None
    reasons: tuple[str, ...] = ()  # for the verdict
    predicted: tuple[float, float] | None = None  # between which its quality card expects error_accuracy to lie
    fidelity: float | None = None  # Kendall's tau of its ranking of graded predictions with that of the exact surface
    perfect: float | None = None  # what the exact surface reads under it, F-score at 1%
    judged: float | None = None  # share of the exact surface that it can judge
    known: float | None = None  # share of the object's pixels that show surface it trusts


@dataclass(frozen=True, kw_only=True)
class SceneRow:
    """One scene: what the page shows of it, and what is known of its truths."""

    scene: SceneName
    title: str
    images: Mapping[str, Path]  # by view id, in the order of the views
    truths: Mapping[TruthKind, TruthCard]
    refused: str = ""  # why its COLMAP truth was refused, so that nothing is scored against it
    placed: tuple[str, ...] = ()  # the files that its truth placed
    not_placed: Mapping[str, str] = dataclasses.field(default_factory=dict)  # every other file that was given, and why


@dataclass(frozen=True, kw_only=True)
class LeftOutRow:
    """A planned trial that was not run."""

    adapter: Adapter
    inputs: Inputs
    scene: SceneName
    views: Views
    reason: str


@dataclass(frozen=True)
class RunInfo:
    """What a report says of the run as a whole."""

    version: str  # of Reconbench
    created: str  # ISO 8601
    commands: tuple[str, ...]  # that made the run
    protocols: Mapping[str, str]  # protocol hash -> the protocol's text
    hardware: str
    overhead_seconds: float | None  # the harness's own, a trial
    rank_metric: str
    rank_truth: TruthKind
    remarks: tuple[str, ...] = ()  # sentences on the plan: which images did not take part, and why
    not_scored: str = ""  # what no score was stored of yet, and the command that scores it: one sentence


@dataclass(frozen=True)
class Tables:
    """Everything a report is made of; `checked` before use."""

    trials: tuple[TrialRow, ...]
    scores: tuple[ScoreRow, ...]
    alignments: tuple[AlignmentRow, ...]
    clouds: tuple[CloudRow, ...]
    scenes: tuple[SceneRow, ...]
    left_out: tuple[LeftOutRow, ...]
    run: RunInfo
    sweeps: tuple[SweepRow, ...] = ()  # empty unless scored for
    remarks: tuple[RemarkRow, ...] = ()

    def of_scene(self, scene: str) -> Tables:
        """The rows of one scene and of its trials."""
        keys = {trial.key for trial in self.trials if trial.scene == scene}
        return replace(
            self,
            trials=tuple(row for row in self.trials if row.scene == scene),
            scores=tuple(row for row in self.scores if row.scene == scene),
            scenes=tuple(row for row in self.scenes if row.scene == scene),
            left_out=tuple(row for row in self.left_out if row.scene == scene),
            alignments=tuple(row for row in self.alignments if row.key in keys),
            clouds=tuple(row for row in self.clouds if row.key in keys),
            sweeps=tuple(row for row in self.sweeps if row.key in keys),
            remarks=tuple(row for row in self.remarks if row.key in keys),
        )


# What names a row of each table.
UNIQUE: Mapping[str, tuple[str, ...]] = {
    "trials": ("key",),
    "scores": ("key", "truth", "protocol_hash", "metric"),
    "alignments": ("key", "truth", "protocol_hash", "stage"),
    "clouds": ("key", "truth"),
    "scenes": ("scene",),
    "left_out": ("adapter", "inputs", "scene", "views", "reason"),
    "sweeps": ("key", "truth", "protocol_hash", "alignment", "keep", "metric"),
    "remarks": ("key", "truth", "protocol_hash", "remark"),
}


def checked(tables: Tables) -> Tables:
    """The same tables, once their rows agree with each other; raises TableError."""
    trials = {trial.key: trial for trial in tables.trials}
    scenes = {scene.scene for scene in tables.scenes}
    for name, unique in UNIQUE.items():
        known = set[tuple[Any, ...]]()
        for row in getattr(tables, name):
            for field, value in _fields(row).items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise TableError(f"{name}.{field}: {value} seen, a finite number or none wanted")
            named = tuple(getattr(row, field) for field in unique)
            if named in known:
                raise TableError(f"{name}: two rows for ({', '.join(map(str, named))}) seen, one wanted")
            known.add(named)
            if "key" in unique and row.key not in trials:
                raise TableError(f"{name}.key: {row.key!r} seen, the key of a trial wanted")
    for trial in tables.trials:
        if trial.scene not in scenes:
            raise TableError(f"trials.scene: {trial.scene!r} seen, a scene of the scenes table wanted")
    _check_scores(tables.scores, trials)
    return tables


def _check_scores(scores: Iterable[ScoreRow], trials: Mapping[str, TrialRow]) -> None:
    measured: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for score in scores:
        trial = trials[score.key]
        if (score.value is not None) != (score.status == "ok"):
            raise TableError(
                f"scores.value: {score.value} with status {score.status!r} seen (key {score.key}, metric "
                f"{score.metric}), a number exactly where the status is ok wanted"
            )
        for column in columns(OfTrial):
            own, wanted = getattr(score, column.name), getattr(trial, column.name)
            if own != wanted:
                raise TableError(f"scores.{column.name}: {own!r} seen, its trial's {wanted!r} wanted")
        if score.value is not None and trial.status != "ok":
            raise TableError(f"scores.value: a score of a trial with status {trial.status!r} seen, none wanted")
        if score.value is not None and trial.weights == "random":
            raise TableError("scores.value: a score of a trial with weights 'random' seen, none wanted")
        measured[score.protocol_hash, score.metric].add((score.unit, score.better))
    for (_, metric), kinds in measured.items():
        for name, values in zip(("unit", "better"), zip(*kinds, strict=True), strict=True):
            if len(set(values)) > 1:
                raise TableError(
                    f"scores.{name}: {', '.join(sorted(set(values)))} seen for {metric}, one {name} wanted"
                )


def metric_order(metrics: Iterable[str], first: str) -> list[str]:
    """Distinct `metrics`, the one named `first` leading, then the headline ones, then the rest by name."""
    place = {name: i for i, name in enumerate((first, *(name for name in HEADLINE if name != first)))}
    return sorted(set(metrics), key=lambda name: (place.get(name, len(place)), name))


# Below: the rows of the files that reports write.


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """leaderboard.csv: one system on one board at one number of views; then the columns of every truth and metric, then
    `LeaderboardCosts` and `MADE_WITH`."""

    inputs: Inputs
    scope: OutputScope
    views: Views
    adapter: Adapter
    system: System
    title: Title
    rank: Annotated[int | None, Of("1 + the number of ranked systems significantly better; missing where unranked")]
    ranked: Annotated[int, Of("how many systems were ranked together")]
    agreement: Annotated[
        int | None, Of("place among the kin of the truth, by agreement with it; missing for every other system")
    ]
    status: Annotated[str, Of("ranked, or why it has no rank")]
    rank_truth: Annotated[TruthKind, Of("the truth that ranks")]
    rank_metric: Annotated[str, Of("the metric that ranks")]
    scenes: Annotated[int | None, Of("how many scenes the ranking metric's cells are of")]
    cells_ok: Annotated[int | None, Of("how many of those cells have a result")]
    cells: Annotated[int | None, Of("how many cells the ranking metric has")]
    failures: Annotated[str, Of("cells without a result, counted by kind")]
    left_out: Annotated[str, Of("planned and not run: scene and reason, joined by |")]
    interval: Annotated[str, Of("what the intervals are over: scenes, or draws")]


@dataclass(frozen=True, kw_only=True)
class TruthColumns:
    """leaderboard.csv, once a truth, each name behind `TRUTH.`"""

    rank: Annotated[int | None, Of("the rank under that truth")]
    truth_id: Annotated[str, Of("scene=id of each of the row's scenes that has that truth")]


@dataclass(frozen=True, kw_only=True)
class MetricColumns:
    """leaderboard.csv, once a truth and metric, each name behind `TRUTH.METRIC.`, `value` as `TRUTH.METRIC` alone."""

    value: Annotated[float | None, Of("mean over scenes (macro) of the cells with a result", "of the metric")]
    low: Annotated[
        float | None, Of("95% interval over scenes, or mean interval over draws: `interval`", "of the metric")
    ]
    high: Annotated[float | None, Of("its upper end", "of the metric")]
    spread: Annotated[
        float | None,
        Of(
            "standard deviation over the samples of a cell, mean over scenes; missing where a cell has one",
            "of the metric",
        ),
    ]
    floor: Annotated[float | None, Of("the truth against itself", "of the metric")]
    micro: Annotated[
        float | None,
        Of("of rotation, translation and auc@* alone: mean over all pairs of views of all cells", "of the metric"),
    ]
    judged: Annotated[float | None, Of("share of the points that a measured truth could judge", "share")]
    least: Annotated[float | None, Of("the value, were all that it does not know wrong", "of the metric")]
    most: Annotated[float | None, Of("and were it right", "of the metric")]
    cells: Annotated[str, Of("k of n cells have a result")]
    status: Annotated[str, Of("ok, partial, or why it is empty")]


@dataclass(frozen=True, kw_only=True)
class LeaderboardCosts:
    """leaderboard.csv: what the row cost, and what it was made of."""

    load_seconds: Annotated[float | None, Of("median over its trials", "s")]
    cold_seconds: Annotated[float | None, Of("the first call, median over its trials", "s")]
    warm_seconds: Annotated[float | None, Of("after warm-up, median over its trials", "s")]
    warm_iqr: Annotated[float | None, Of("interquartile range of a trial's repeats, median over its trials", "s")]
    prepare_seconds: Annotated[float | None, Of("median over its trials", "s")]
    infer_seconds: Annotated[float | None, Of("median over its trials", "s")]
    finish_seconds: Annotated[float | None, Of("median over its trials", "s")]
    last_frame_seconds: Annotated[
        float | None, Of("of systems that stream: their last output, median over its trials", "s")
    ]
    frame_growth: Annotated[
        float | None,
        Of("of the same: their last outputs' seconds over the first ones', median over its trials", "ratio"),
    ]
    peak_rss_bytes: Annotated[int | None, Of("largest over its trials", "bytes")]
    device_peak_bytes: Annotated[int | None, Of("by its allocator, largest over its trials", "bytes")]
    device_driver_bytes: Annotated[int | None, Of("by its driver, largest over its trials", "bytes")]
    device_joules: Annotated[float | None, Of("that the device drew in a call, median over its trials", "J")]
    precision: Annotated[str, Of("those of its trials, joined by |")]
    resolution: Annotated[str, Of("those of its trials, joined by |", "pixels")]
    attention: Annotated[str, Of("those of its trials, joined by |")]
    foreground: Annotated[str, Of("those of its trials, joined by |")]
    timing_status: Annotated[str, Of("ok, or why the times are empty")]
    busy_trials: Annotated[int, Of("how many trials were timed on a busy machine")]
    not_isolated_trials: Annotated[int, Of("how many trials ran without walls, the truth within their reach")]
    points: Annotated[int | None, Of("how many it predicted, median over its trials")]
    hardware: Annotated[str, Of("its machines, joined by |; times of two are never mixed")]
    origin: Annotated[str, Of("the bundle that its trials came in; empty where they were run here")]
    verified: Annotated[bool | None, Of("of a bundle: every score of its trials computed again and equal")]
    protocol: ProtocolName
    protocol_hash: ProtocolHash
    trials: Annotated[str, Of("its trials' keys, joined by a space")]
    version: Annotated[str, Of("of Reconbench")]


# leaderboard.csv, the last columns: what all trials of a row have in common.
MADE_WITH = picked(
    TrialRow,
    *(
        "parameters",
        "kin",
        "contamination",
        "reference",
        "external",
        "weights",
        "device",
        "options",
        "environment",
        "adapter_hash",
    ),
)

# scores.csv: a score and what names its trial; a trial that was never scored has one row without a metric.
SCORES_COLUMNS = (
    *columns(ScoreRow),
    *picked(
        TrialRow,
        "title",
        "view_ids",
        "device",
        "weights",
        "reference",
        "external",
        "kin",
        "hardware",
        "origin",
        "verified",
        "isolated",
        "prediction",
    ),
)


@dataclass(frozen=True, kw_only=True)
class OfCurve:
    """What names a curve."""

    inputs: Inputs
    scope: Annotated[str, Of("what it reconstructs; empty for a file of one's own")]
    protocol: ProtocolName = ""
    protocol_hash: ProtocolHash = ""
    system: System
    title: Title
    quantity: Annotated[str, Of("a metric, or a cost: warm_seconds, peak_rss_bytes ...")]
    unit: UnitName
    truth: Annotated[str, Of("the truth of a metric; empty for costs")] = ""
    hardware: Annotated[str, Of("of costs: curves of two machines are never compared")]
    scene: Annotated[str, Of("the scene; empty over all of them")]


@dataclass(frozen=True)
class CurveRow:
    """curves.csv: one system's value at one number of views; an empty value is a gap in its curve."""

    curve: OfCurve
    views: Annotated[int | float, Of("how many views it was given, or the count that a file of one's own names")]
    value: Annotated[float | None, Of("mean of a metric, median of a cost", "as `unit`")]
    low: Annotated[float | None, Of("lower end of the mean's interval; the least of a cost", "as `unit`")]
    high: Annotated[float | None, Of("upper end; the largest of a cost", "as `unit`")]
    cells_ok: CellsOk
    cells: Cells


@dataclass(frozen=True, kw_only=True)
class OfBoard:
    """What names a group of rows that are compared: a board, a number of views, a truth."""

    inputs: Inputs
    scope: OutputScope
    views: Views
    protocol_hash: ProtocolHash
    truth: Judge


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """comparisons.csv: an ordered pair of ranked systems."""

    at: OfBoard
    metric: Annotated[str, Of("the metric that ranks")]
    system: System
    other: Annotated[str, Of("the system it is compared with")]
    scenes: Annotated[int, Of("scenes with a cell that both tried")]
    common_cells: Annotated[int, Of("cells where both have a result")]
    wins: Annotated[int, Of("cells that `system` clearly wins")]
    losses: Annotated[int, Of("cells that `other` clearly wins")]
    failed: Annotated[int, Of("cells where `system` failed and `other` has a result: in no mean")]
    other_failed: Annotated[int, Of("the reverse")]
    gain: Annotated[float | None, Of("how much better `system` is, over the common cells", "of the metric")]
    low: Annotated[float | None, Of("95% interval of that mean over scenes; empty with too few", "of the metric")]
    high: Annotated[float | None, Of("its upper end", "of the metric")]
    better: Annotated[bool, Of("whether the difference counts for the rank")]


@dataclass(frozen=True, kw_only=True)
class StabilityRow:
    """stability.csv: an ordered pair of ranked systems that were swept."""

    at: OfBoard
    system: System
    other: Annotated[str, Of("the system it is compared with")]
    share_won: Annotated[float, Of("of the comparisons, by `system`; .5 is a coin")]
    alignments: Annotated[str, Of("those tried, joined by |")]
    shares_kept: Annotated[str, Of("those tried, joined by a space")]
    scenes: Annotated[int, Of("how many scenes were drawn from")]


@dataclass(frozen=True, kw_only=True)
class KeptRow:
    """kept.csv: a system's score against the share of its surest points."""

    at: OfBoard
    system: System
    metric: MetricId
    keep: Annotated[float, Of("share that the protocol asked for")]
    kept: Annotated[float, Of("share that was kept: more than asked where confidence ties")]
    value: Annotated[float | None, Of("mean over scenes; missing unless every cell has a result", "of the metric")]
    cells_ok: CellsOk
    cells: Cells


@dataclass(frozen=True, kw_only=True)
class OfSeries:
    """What names a cost of one system against a count."""

    system: System
    inputs: Inputs = ""
    scope: Annotated[str, Of("what it reconstructs; empty for a file of one's own")] = ""
    scene: SceneName = ""
    hardware: Annotated[str, Of("the machine; costs of two are never compared")] = ""
    quantity: Annotated[str, Of("warm_seconds, peak_rss ...")]
    unit: Annotated[str, Of("s or MiB; empty for a file of one's own")]
    note: Annotated[str, Of("where the values come from, if not from a store")] = ""


@dataclass(frozen=True, kw_only=True)
class LawRow:
    """laws.csv: one law fitted to one cost."""

    series: OfSeries
    counts: Annotated[int, Of("how many different counts")]
    smallest: Annotated[float, Of("the smallest count")]
    largest: Annotated[float, Of("the largest count")]
    weighted: Annotated[bool, Of("by the repeats' variance; else every count alike")]
    law: Annotated[str, Of("b n, a + b n, a + b n log n, a + b n^2, a + b n + c n^2, b n^p")]
    a: Annotated[float | None, Of("coefficient", "as `unit`")] = None
    a_low: Annotated[float | None, Of("its 95% interval", "as `unit`")] = None
    a_high: Annotated[float | None, Of("upper end", "as `unit`")] = None
    b: Annotated[float | None, Of("coefficient", "as `unit`")] = None
    b_low: Annotated[float | None, Of("its 95% interval", "as `unit`")] = None
    b_high: Annotated[float | None, Of("upper end", "as `unit`")] = None
    c: Annotated[float | None, Of("coefficient", "as `unit`")] = None
    c_low: Annotated[float | None, Of("its 95% interval", "as `unit`")] = None
    c_high: Annotated[float | None, Of("upper end", "as `unit`")] = None
    p: Annotated[float | None, Of("exponent")] = None
    p_low: Annotated[float | None, Of("its 95% interval")] = None
    p_high: Annotated[float | None, Of("upper end")] = None
    r2: Annotated[float, Of("weighted share of the variance explained")]
    aicc: Annotated[float | None, Of("AICc; missing with too few counts")]
    weight: Annotated[float | None, Of("AICc weight: the evidence among all laws")]
    last_predicted: Annotated[float | None, Of("value at the largest count, from all other counts", "as `unit`")] = None
    last_low: Annotated[float | None, Of("its 95% interval", "as `unit`")] = None
    last_high: Annotated[float | None, Of("upper end", "as `unit`")] = None
    last_observed: Annotated[float | None, Of("what was measured there", "as `unit`")] = None
    last_holds: Annotated[bool | None, Of("whether the interval holds it")] = None
    plain_a: Annotated[float, Of("a of a n log n + b by plain least squares", "as `unit`")]
    plain_b: Annotated[float, Of("b of the same", "as `unit`")]
    named: Annotated[bool, Of("whether the evidence names this law")]
    verdict: Annotated[str, Of("what the counts can tell")]
    limit: Annotated[float | None, Of("what the cost must stay below", "as `unit`")]
    count_below_limit: Annotated[int | None, Of("largest count that does")] = None
    count_low: Annotated[int | None, Of("its 95% interval; empty: no end in sight")] = None
    count_high: Annotated[int | None, Of("upper end")] = None


@dataclass(frozen=True, order=True)
class OfValue:
    """What pairs a value of one run with the other run's."""

    adapter: Adapter
    inputs: Inputs
    scope: OutputScope
    scene: SceneName
    views: Views
    view_ids: Annotated[str, Of("the views' names, joined by a space")]
    repeat: Seed
    device: Annotated[str, Of("cpu, cuda:0 ...")]
    truth: Annotated[str, Of("the truth of a metric; empty for costs")]
    quantity: Annotated[str, Of("a metric, or a cost: warm_seconds, peak_rss_bytes ...")]


@dataclass(frozen=True, kw_only=True)
class ChangeRow:
    """compare.csv: one value of two runs."""

    of: OfValue
    unit: UnitName
    good: Annotated[Better, Of("which way is good")]
    before: Annotated[float | None, Of("in the first run", "as `unit`")]
    after: Annotated[float | None, Of("in the second", "as `unit`")]
    change: Annotated[float | None, Of("after - before", "as `unit`")]
    noise: Annotated[float | None, Of("half the 95% interval of the change", "as `unit`")]
    verdict: Annotated[str, Of("same, within noise, better, worse, vanished, now fails ...")]
    status_before: Annotated[str, Of("how it ended in the first run")]
    status_after: Annotated[str, Of("in the second")]
    note: Annotated[str, Of("one sentence where one did not end well")]


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """The file of `protocol diff`: what one stage does to one value under two protocols; a row without a stage says why
    the two cannot be compared."""

    adapter: Adapter
    inputs: Inputs
    scene: SceneName
    views: Views
    seed: Seed
    truth: Annotated[str, Of("the truth that both score against")]
    measures: Annotated[str, Of("what the two metrics have in common: chamfer, fscore ...")]
    protocol_a: Annotated[str, Of("the first protocol")]
    metric_a: Annotated[str, Of("its metric")]
    unit_a: Annotated[str, Of("its unit")]
    value_a: Annotated[float | None, Of("its value", "as `unit_a`")]
    protocol_b: Annotated[str, Of("the second protocol")]
    metric_b: Annotated[str, Of("its metric")]
    unit_b: Annotated[str, Of("its unit")]
    value_b: Annotated[float | None, Of("its value", "as `unit_b`")]
    parts_are: Annotated[Literal["factors", "differences"], Of("how the parts make up the whole")]
    stage: Annotated[str, Of("confidence, alignment, crop, equalisation, sampling, formula")] = ""
    part: Annotated[float | None, Of("the stage's part: mean of the two orders")] = None
    in_order: Annotated[float | None, Of("swapped after the stages before it")] = None
    in_reverse: Annotated[float | None, Of("swapped after the stages behind it")] = None
    note: Annotated[str, Of("why the two cannot be compared")] = ""
