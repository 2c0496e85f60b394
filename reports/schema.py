"""The tables every report reads: their columns, their checks, and what stands beside them.

Text is never null: a missing text is "". A missing number is NaN in a `number` column and <NA> in an `integer?` one;
infinities are refused. Whether a number is missing for a reason is said by the `status` column beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from adapters.contract import InputError

Kind = Literal["text", "integer", "integer?", "number", "flag"]

TRIAL_STATUS = ("ok", "oom", "timeout", "crash", "invalid_output", "unsupported", "unavailable")
SCORE_STATUS = ("ok", "failed", "unsupported")
TRUTHS = ("exact", "colmap", "scan")
WEIGHTS = ("none", "pretrained", "random", "path")
BETTER = ("lower", "higher")
SCOPES = ("scene", "object")

# Metrics a reader wants first, in this order; every other metric follows in alphabetical order.
HEADLINE = (
    "accuracy",
    "completeness-visible",
    "completeness-given",
    "chamfer-l1-sum",
    "fscore@1%",
    "emd",
    "auc@30",
    "centre-rmse",
    "depth-absrel",
)


class TableError(InputError):
    """A table that breaks its description; the message names table and column, what was seen, what was wanted."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    kind: Kind
    meaning: str
    one_of: tuple[str, ...] = ()  # the only values allowed, where there are few

    @property
    def dtype(self) -> str:
        """The pandas dtype that `conform` gives the column."""
        return {"text": "object", "integer": "int64", "integer?": "Int64", "number": "float64", "flag": "bool"}[
            self.kind
        ]


@dataclass(frozen=True)
class Schema:
    """A table's columns and the columns that together name a row."""

    name: str
    columns: tuple[Column, ...]
    unique: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def _text(name: str, meaning: str, one_of: tuple[str, ...] = ()) -> Column:
    return Column(name, "text", meaning, one_of)


def _number(name: str, meaning: str) -> Column:
    return Column(name, "number", meaning)


KEY = _text("key", "the trial's key: hash of everything that decides its result")

TRIALS = Schema(
    "trials",
    (
        KEY,
        _text("adapter", "the adapter's name"),
        _text("title", "the system's name as printed"),
        _text("inputs", "what it was given: images, images+masks+cameras, images+truth ..."),
        _text("scope", "what it reconstructs", SCOPES),
        _text("scene", "the scene's name"),
        Column("views", "integer", "how many views it was given"),
        _text("view_ids", "their names, joined by a space"),
        Column("repeat", "integer", "the seed"),
        _text("device", "cpu, cuda:0 ..."),
        _text("status", "how the trial ended", TRIAL_STATUS),
        _text("message", "one sentence where it did not end well"),
        _text("log_tail", "the last lines of its log"),
        _number("load_seconds", "s"),
        _number("cold_seconds", "s, the first call"),
        _number("warm_seconds", "s, median of the repeats after warm-up; NaN where there were none"),
        _number("warm_iqr", "s, interquartile range of the same repeats"),
        Column("warm_n", "integer?", "how many they were"),
        _number("prepare_seconds", "s"),
        _number("infer_seconds", "s"),
        _number("finish_seconds", "s"),
        Column("peak_rss_bytes", "integer?", "of the process tree"),
        Column("device_peak_bytes", "integer?", "of the device; <NA> on a CPU"),
        Column("parameters", "integer?", "of the network; <NA> where there is none"),
        _text("kin", "systems it shares method or code with, joined by commas"),
        Column("reference", "flag", "it was given the truth: never ranked"),
        Column("external", "flag", "the prediction was made elsewhere: never ranked"),
        _text("weights", "random ones are timed and never scored", WEIGHTS),
        _text("options", "json object"),
        _text("environment", "hash"),
        _text("adapter_hash", "hash of the adapter's folder"),
        _text("hardware", "fingerprint; times are never compared across two"),
        Column("busy", "flag", "the machine was busy with something else while it was timed"),
        _text("command", "reproduces the trial"),
        _text("prediction", "id in the store"),
        _text("prediction_path", "its folder"),
        Column("points", "integer?", "how many points it predicted"),
        _text("finished", "ISO 8601 time"),
    ),
    ("key",),
)

SCORES = Schema(
    "scores",
    (
        KEY,
        _text("adapter", "as in trials"),
        _text("inputs", "as in trials"),
        _text("scope", "as in trials", SCOPES),
        _text("scene", "as in trials"),
        Column("views", "integer", "as in trials"),
        Column("repeat", "integer", "as in trials"),
        _text("truth", "the kind of ground truth it was scored against", TRUTHS),
        _text("truth_id", "hash of that truth's files"),
        _text("truth_made_by", "systems that made it, joined by commas: their kin is never ranked under it"),
        _text("protocol", "the protocol's name"),
        _text("protocol_hash", "hash of the protocol and the versions of its metrics"),
        _text("metric", "names the formula: chamfer-l1-sum, fscore@1% ..."),
        _text("unit", "% (of the scene's diameter), deg, ratio"),
        _text("better", "which way is good", BETTER),
        _number("value", "NaN unless status is ok"),
        _number("low", "lower end of the interval over draws; NaN where there was one draw"),
        _number("high", "upper end"),
        _number("floor", "the truth against itself at the same sample count; NaN where it has no meaning"),
        _number("before_icp", "the value before ICP; NaN where the route has none"),
        _text("status", "how scoring ended", SCORE_STATUS),
        _text("note", "one sentence where it did not end well"),
    ),
    ("key", "truth", "protocol_hash", "metric"),
)

ALIGNMENTS = Schema(
    "alignments",
    (
        KEY,
        _text("truth", "as in scores", TRUTHS),
        _text("protocol", "as in scores"),
        _text("stage", "umeyama, icp ..."),
        _number("residual", "% of the diameter after the stage"),
        _number("gain", "how much the stage lowered it, same unit"),
        _number("scale", "of the stage's similarity"),
        _text("transform", "json, 4x4, truth_from_prediction"),
    ),
    ("key", "truth", "protocol", "stage"),
)

CLOUDS = Schema(
    "clouds",
    (
        KEY,
        _text("truth", "the truth whose frame they are in", TRUTHS),
        _text(
            "path",
            "an .npz with pred (K, 3) f32, error (K,) f32 in % of the diameter, truth (T, 3) f32, and perhaps "
            "pred_colors (K, 3) u8, truth_colors (T, 3) u8, up (3,), the direction that is up, and C cameras to draw "
            "from: intrinsics (C, 3, 3), camera_from_world (C, 4, 4), sizes (C, 2); K and T at most 40,000",
        ),
    ),
    ("key", "truth"),
)

SWEEPS = Schema(
    "sweeps",
    (
        KEY,
        _text("truth", "as in scores", TRUTHS),
        _text("protocol_hash", "as in scores: the protocol that was varied"),
        _text("alignment", "as ranked, or the alignment taken instead"),
        _number("keep", "share of its surest points that the protocol asked for"),
        _number("kept", "share of its points that were kept: more than asked where confidence ties"),
        _text("metric", "as in scores"),
        _number("value", "NaN unless status is ok"),
        _number("low", "as in scores"),
        _number("high", "as in scores"),
        _text("status", "as in scores", SCORE_STATUS),
    ),
    ("key", "truth", "protocol_hash", "alignment", "keep", "metric"),
)

REMARKS = Schema(
    "remarks",
    (
        KEY,
        _text("truth", "as in scores", TRUTHS),
        _text("protocol_hash", "as in scores"),
        _text("remark", "one sentence on a score that ended well: an ambiguous alignment, no confidence ..."),
    ),
    ("key", "truth", "protocol_hash", "remark"),
)

SCENES = Schema(
    "scenes",
    (
        _text("scene", "its name"),
        _text("title", "its name as printed"),
        _text("images", "json object: view id -> path of the image, in the order of the views"),
        _text("truths", "json object: kind -> the fields of TruthCard"),
        _text(
            "refused", "why its COLMAP truth was refused, so that nothing is scored against it; empty where it was not"
        ),
    ),
    ("scene",),
)

LEFT_OUT = Schema(
    "left_out",
    (
        _text("adapter", "as in trials"),
        _text("scene", "as in trials"),
        Column("views", "integer", "as in trials"),
        _text("reason", "why it was not run"),
    ),
    ("adapter", "scene", "views", "reason"),
)


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
    rank_truth: str


@dataclass(frozen=True)
class Tables:
    """Everything a report is made of; `checked` before use."""

    trials: pd.DataFrame
    scores: pd.DataFrame
    alignments: pd.DataFrame
    clouds: pd.DataFrame
    scenes: pd.DataFrame
    left_out: pd.DataFrame
    run: RunInfo
    sweeps: pd.DataFrame = field(default_factory=lambda: frame(SWEEPS, []))  # empty unless asked for
    remarks: pd.DataFrame = field(default_factory=lambda: frame(REMARKS, []))

    def of_scene(self, scene: str) -> Tables:
        """The rows of one scene and of its trials."""
        keys = set(self.trials.loc[self.trials["scene"] == scene, "key"])

        def of(table: pd.DataFrame) -> pd.DataFrame:
            mine = table["scene"] == scene if "scene" in table else table["key"].isin(keys)
            return table[mine].reset_index(drop=True)

        return Tables(
            trials=of(self.trials),
            scores=of(self.scores),
            alignments=of(self.alignments),
            clouds=of(self.clouds),
            scenes=of(self.scenes),
            left_out=of(self.left_out),
            run=self.run,
            sweeps=of(self.sweeps),
            remarks=of(self.remarks),
        )


def frame(schema: Schema, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A conforming table from `rows`, each a mapping from column name to value; None is missing."""
    return conform(schema, pd.DataFrame(list(rows), columns=list(schema.names)))


def conform(schema: Schema, table: pd.DataFrame) -> pd.DataFrame:
    """`table` with exactly the schema's columns, in its order and dtypes; raises TableError."""
    for name in table.columns:
        if name not in schema.names:
            raise TableError(f"{schema.name}.{name}: an unknown column seen, one of {', '.join(schema.names)} wanted")
    columns = {}
    for column in schema.columns:
        where = f"{schema.name}.{column.name}"
        if column.name not in table.columns:
            raise TableError(f"{where}: no such column seen, one wanted ({column.meaning})")
        columns[column.name] = _converted(where, column, table[column.name])
    out = pd.DataFrame(columns, index=range(len(table)))
    double = out.duplicated(list(schema.unique))
    if double.any():
        i = int(np.argmax(double.to_numpy()))
        seen = ", ".join(str(out[name].iloc[i]) for name in schema.unique)
        raise TableError(f"{schema.name}: two rows for ({seen}) seen, one wanted")
    return out


def _converted(where: str, column: Column, values: pd.Series[Any]) -> pd.Series[Any]:
    """The column's values in its dtype; TableError where one does not fit."""
    missing = values.isna().to_numpy()
    plain = values.reset_index(drop=True)
    if column.kind == "text":
        text = pd.Series(["" if absent else value for value, absent in zip(plain, missing, strict=True)], dtype=object)
        for value in text:
            if not isinstance(value, str):
                raise TableError(f"{where}: {type(value).__name__} {value!r} seen, text wanted")
            if column.one_of and value not in column.one_of:
                raise TableError(f"{where}: {value!r} seen, one of {', '.join(column.one_of)} wanted")
        return text
    if missing.any() and column.kind in ("integer", "flag"):
        raise TableError(f"{where}: {int(missing.sum())} missing values seen, none wanted")
    if column.kind == "flag":
        for value in plain:
            if not isinstance(value, bool | np.bool_):
                raise TableError(f"{where}: {type(value).__name__} {value!r} seen, True or False wanted")
        return plain.astype("bool")
    try:  # to_numeric first: a column of None alone has dtype object
        found = pd.Series(pd.to_numeric(plain))
        if column.kind == "number":
            out: pd.Series[Any] = found.astype("float64")
        else:  # Int64 refuses fractions, int64 would cut them off
            whole = found.astype("Int64")
            out = whole if column.kind == "integer?" else whole.astype("int64")
    except (TypeError, ValueError) as error:
        raise TableError(f"{where}: {error}, {column.kind} wanted") from error
    if column.kind == "number" and np.isinf(out.to_numpy()).any():
        raise TableError(f"{where}: an infinite number seen, finite or missing wanted")
    return pd.Series(out)


def checked(tables: Tables) -> Tables:
    """The same tables in their exact dtypes, once they agree with each other; raises TableError."""
    out = replace(
        tables,
        trials=conform(TRIALS, tables.trials),
        scores=conform(SCORES, tables.scores),
        alignments=conform(ALIGNMENTS, tables.alignments),
        clouds=conform(CLOUDS, tables.clouds),
        scenes=conform(SCENES, tables.scenes),
        left_out=conform(LEFT_OUT, tables.left_out),
        sweeps=conform(SWEEPS, tables.sweeps),
        remarks=conform(REMARKS, tables.remarks),
    )
    if out.run.rank_truth not in TRUTHS:
        raise TableError(f"run.rank_truth: {out.run.rank_truth!r} seen, one of {', '.join(TRUTHS)} wanted")
    known = set(out.trials["key"])
    for schema in (SCORES, ALIGNMENTS, CLOUDS, SWEEPS, REMARKS):
        table: pd.DataFrame = getattr(out, schema.name)
        strange = set(table["key"]) - known
        if strange:
            raise TableError(f"{schema.name}.key: {min(strange)!r} seen, the key of a trial wanted")
    strange = set(out.trials["scene"]) - set(out.scenes["scene"])
    if strange:
        raise TableError(f"trials.scene: {min(strange)!r} seen, a scene of the scenes table wanted")
    _check_scores(out)
    for row in out.scenes.itertuples():
        scene_images(str(row.images))
        truth_cards(str(row.truths))
    return out


def _check_scores(tables: Tables) -> None:
    scores = tables.scores
    present = scores["value"].notna()
    wrong = present != (scores["status"] == "ok")
    if wrong.any():
        row = scores.iloc[int(np.argmax(wrong.to_numpy()))]
        raise TableError(
            f"scores.value: {row['value']} with status {row['status']!r} seen (key {row['key']}, "
            f"metric {row['metric']}), a number exactly where the status is ok wanted"
        )
    trials = tables.trials.set_index("key")
    of = trials.loc[scores["key"]]
    for name in ("adapter", "inputs", "scope", "scene", "views", "repeat"):
        differs = of[name].to_numpy() != scores[name].to_numpy()
        if differs.any():
            i = int(np.argmax(differs))
            raise TableError(f"scores.{name}: {scores[name].iloc[i]!r} seen, its trial's {of[name].iloc[i]!r} wanted")
    for what, never in (("status", of["status"] != "ok"), ("weights", of["weights"] == "random")):
        bad = never.to_numpy() & present.to_numpy()
        if bad.any():
            row = of.iloc[int(np.argmax(bad))]
            raise TableError(f"scores.value: a score of a trial with {what} {row[what]!r} seen, none wanted")
    for (_, metric), group in scores.groupby(["protocol_hash", "metric"]):
        for name in ("unit", "better"):
            if group[name].nunique() > 1:
                seen = ", ".join(sorted(group[name].unique()))
                raise TableError(f"scores.{name}: {seen} seen for metric {metric}, one {name} wanted")


def scene_images(text: str) -> dict[str, str]:
    """View id -> image path, from a `scenes.images` cell; raises TableError."""
    found = _json_object("scenes.images", text)
    return {str(view): str(path) for view, path in found.items()}


def truth_cards(text: str) -> dict[str, TruthCard]:
    """Kind -> card, from a `scenes.truths` cell; raises TableError."""
    cards = {}
    for kind, fields in _json_object("scenes.truths", text).items():
        if kind not in TRUTHS:
            raise TableError(f"scenes.truths: {kind!r} seen, one of {', '.join(TRUTHS)} wanted")
        try:
            pair = fields.get("predicted")
            tuples = {"reasons": tuple(fields.get("reasons", ())), "predicted": tuple(pair) if pair else None}
            cards[kind] = TruthCard(**{**fields, **tuples})
        except TypeError as error:
            raise TableError(f"scenes.truths: {error}, the fields of TruthCard wanted") from error
    return cards


def _json_object(where: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise TableError(f"{where}: {error}, a json object wanted") from error
    if not isinstance(found, dict):
        raise TableError(f"{where}: {type(found).__name__} seen, a json object wanted")
    return found


def metric_order(metrics: Iterable[str], first: str) -> list[str]:
    """Distinct `metrics`, the one named `first` leading, then the headline ones, then the rest by name."""
    place = {name: i for i, name in enumerate((first, *(name for name in HEADLINE if name != first)))}
    return sorted(set(metrics), key=lambda name: (place.get(name, len(place)), name))
