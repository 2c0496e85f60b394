"""Costs against counts: what a store, a file or a published table says, judged by the laws, printed and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from reports import text
from reports.curves import Curve, curves_csv
from reports.laws import LargestCount, Points, Scaling, gather, judge
from reports.published import FOLDER
from reports.schema import TableError

TEMPLATES = Path(__file__).parent / "page" / "templates"
DRAWN = ("accuracy", "completeness-given", "completeness-visible")  # of the quality curves
COSTS = ("time", "memory")  # the published metrics that are costs
HUES = 8
SAMPLES = 60  # points of a drawn law
Quality = Mapping[str, Sequence[Curve]]  # by scene; "": over every scene


@dataclass(frozen=True)
class Series:
    """One cost of one system against a count."""

    system: str
    quantity: str
    unit: str
    points: Points
    scene: str = ""
    inputs: str = ""
    scope: str = ""
    hardware: str = ""
    limit: float | None = None  # of the device, in `unit`: where the series must end
    note: str = ""
    distrust: str = ""  # why no law may be named from these points, whatever they say

    @cached_property
    def scaling(self) -> Scaling:
        found = judge(self.points)
        if found.named and self.distrust:
            return replace(found, named=None, verdict=f"{found.verdict}, could the values be trusted")
        return found

    @cached_property
    def largest(self) -> LargestCount | None:
        """How many views the limit allows; None without a limit, or where no law can be judged."""
        return None if self.limit is None or not self.scaling.weights else self.scaling.largest_below(self.limit)

    @property
    def title(self) -> str:
        """For people."""
        where = f" on {self.scene}" if self.scene else ""
        given = f" ({self.inputs} → {self.scope})" if self.inputs else ""
        return f"{self.system}{given}{where}: {self.quantity} [{self.unit}]" if self.unit else self.system

    def show(self, value: float) -> str:
        """`value` with its unit."""
        return f"{text.number(value)} {self.unit}".rstrip()

    def sentences(self) -> list[str]:
        """What the points can and cannot tell."""
        found, points = self.scaling, self.points
        plain = found.plain
        how = "weighted by the repeats' variance" if points.weighted else "every point counting alike"
        counts = f"{len(points.n)} counts, {points.n[0]:g} to {points.n[-1]:g}, {how}"
        out = ["; ".join(filter(None, (counts, self.note, self.distrust))) + "."]
        out.append(
            f"Plain least squares of a n log n + b: a = {text.number(plain.coefficients[1])}, "
            f"b = {text.number(plain.coefficients[0])}, R² = {plain.explained:.4f} (natural logarithm)."
        )
        out.append(f"{'Law' if found.named else 'No law'}: {found.verdict}.")
        if self.limit is not None and self.largest is not None:
            out.append(f"Largest count below {self.show(self.limit)}: {self.fitting}.")
        return out

    @property
    def fitting(self) -> str:
        """The largest count below the limit, with its interval; empty without one."""
        if self.largest is None:
            return ""
        middle, low, high = map(_count, (self.largest.middle, self.largest.low, self.largest.high))
        return f"{middle} (95%: {low} to {high})"


def _count(end: int | None) -> str:
    return "no end in sight" if end is None else str(end)


def read_series(path: Path, limit: float | None = None) -> Series:
    """The series of a CSV with columns `n,value`, and perhaps `repeat` and `sd`; rows of one n are its repeats.
    Raises TableError naming file, column and row."""
    try:
        table = pd.read_csv(path, comment="#")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise TableError(f"{path}: {error}, a CSV file with columns n,value wanted") from error
    for name in ("n", "value"):
        if name not in table.columns:
            seen = ", ".join(map(str, table.columns))
            raise TableError(f"{path}: columns {seen} seen, no {name}; n,value wanted (and perhaps repeat, sd)")
    columns = []
    for name in ("n", "value", *(("sd",) if "sd" in table.columns else ())):
        found = pd.to_numeric(table[name], errors="coerce").astype(float)
        if (bad := np.flatnonzero(found.isna())).size:
            raise TableError(f"{path}: {name} {table[name].iloc[bad[0]]} seen (row {bad[0] + 1}), a number wanted")
        columns.append(found.tolist())
    try:
        points = gather(*columns)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    return Series(path.stem, "value", "", points, limit=limit)


def published_series(folder: Path = FOLDER) -> list[Series]:
    """Every time and memory that a published table reports at enough counts."""
    out = []
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(path)
        keys = ["dataset", "system", "metric", "unit"]
        for (_, system, metric, unit), rows in table[table["metric"].isin(COSTS)].groupby(keys, sort=False):
            if rows["views"].nunique() > 2:
                points = gather(rows["views"], rows["value"])
                out.append(Series(str(system), str(metric), str(unit), points, note=f"as {path.stem} reports"))
    return out


def laws_csv(found: Sequence[Series]) -> pd.DataFrame:
    """A row a series and law: coefficients with 95% intervals, evidence, the held-out prediction, the verdict."""
    rows = []
    for series in found:
        scaling = series.scaling
        largest = series.largest
        for fit in scaling.fits:
            row: dict[str, Any] = {name: getattr(series, name) for name in ("system", "inputs", "scope", "scene")}
            row |= {name: getattr(series, name) for name in ("hardware", "quantity", "unit", "note")}
            row |= {"counts": len(series.points.n), "smallest": series.points.n[0], "largest": series.points.n[-1]}
            row |= {"weighted": series.points.weighted, "law": fit.law.name}
            ends = fit.intervals()
            for i, letter in enumerate(fit.law.letters):
                row[letter] = fit.coefficients[i]
                if ends is not None:
                    row[f"{letter}_low"], row[f"{letter}_high"] = ends[i]
            row |= {"r2": fit.explained, "aicc": fit.aicc, "weight": scaling.weights.get(fit.law)}
            if (out := scaling.held_out.get(fit.law)) is not None:
                row |= {"last_predicted": out.middle, "last_low": out.low, "last_high": out.high}
                row |= {"last_seen": out.seen, "last_holds": out.holds}
            row |= {"plain_a": scaling.plain.coefficients[1], "plain_b": scaling.plain.coefficients[0]}
            row |= {"named": fit.law == scaling.named, "verdict": scaling.verdict, "limit": series.limit}
            if largest is not None:
                row |= {"count_below_limit": largest.middle, "count_low": largest.low, "count_high": largest.high}
            rows.append(row)
    letters = [f"{letter}{end}" for letter in "abcp" for end in ("", "_low", "_high")]
    columns = [
        *("system", "inputs", "scope", "scene", "hardware", "quantity", "unit", "note"),
        *("counts", "smallest", "largest", "weighted", "law", *letters, "r2", "aicc", "weight"),
        *("last_predicted", "last_low", "last_high", "last_seen", "last_holds", "plain_a", "plain_b"),
        *("named", "verdict", "limit", "count_below_limit", "count_low", "count_high"),
    ]
    return pd.DataFrame(rows, columns=columns)


def points_csv(found: Sequence[Series], quality: Quality) -> pd.DataFrame:
    """A row a point, quality first, in the columns of `curves_csv` and `scene`: costs are each scene's own, median and
    ends of their repeats; quality is each scene's own and, with no scene named, over every scene."""
    costs = [
        {
            **{name: getattr(series, name) for name in ("inputs", "scope", "system", "quantity", "unit", "hardware")},
            "scene": series.scene,
            "title": series.system,
            "views": int(series.points.n[i]) if series.points.n[i].is_integer() else series.points.n[i],
            "value": series.points.values[i],
            "low": series.points.ends[i, 0],
            "high": series.points.ends[i, 1],
            "cells_ok": series.points.repeats[i],
            "cells": series.points.repeats[i],
        }
        for series in found
        for i in range(len(series.points.n))
    ]
    tables = [
        curves_csv([curve for curve in curves if curve.truth]).assign(scene=scene) for scene, curves in quality.items()
    ]
    columns = curves_csv([]).assign(scene="").columns
    tables.append(pd.DataFrame(costs, columns=columns))
    return pd.concat([table for table in tables if len(table)] or tables)


def write_curves(found: Sequence[Series], quality: Quality, out: Path) -> list[Path]:
    """curves.csv, laws.csv and curves.html, which opens from disk, in the folder `out`."""
    assets = out / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    figures = _figures(found, quality)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("curves.html").render(
        figures=figures, data=json.dumps(figures, allow_nan=False).replace("<", "\\u003c"), found=found, text=text
    )
    contents = {
        assets / "style.css": (TEMPLATES / "style.css").read_text(encoding="utf-8"),
        assets / "plotly.min.js": get_plotlyjs(),
        out / "curves.html": page,
        out / "curves.csv": points_csv(found, quality).to_csv(index=False, lineterminator="\n"),
        out / "laws.csv": laws_csv(found).to_csv(index=False, lineterminator="\n"),
    }
    for path, content in contents.items():
        path.write_text(content, encoding="utf-8", newline="\n")
    return list(contents)


def _figures(found: Sequence[Series], quality: Quality) -> list[dict[str, Any]]:
    """The page's figures, scene by scene: quality by metric and truth, then costs by quantity."""
    out: dict[tuple[str, ...], dict[str, Any]] = {}
    every = [(scene, curve) for scene, curves in quality.items() for curve in curves if curve.quantity in DRAWN]
    names = sorted({*(one.system for one in found), *(curve.system for _, curve in every)})
    hues = {name: i % HUES for i, name in enumerate(names)}

    def figure(scene: str, key: tuple[str, ...], title: str, logarithmic: bool) -> list[dict[str, Any]]:
        empty = {"scene": scene, "title": title, "log": logarithmic, "lines": []}
        lines: list[dict[str, Any]] = out.setdefault((scene, *key), empty)["lines"]
        return lines

    for scene, curve in every:
        title = f"{curve.quantity} [{curve.unit}], {curve.truth} truth"
        lines = figure(scene, (curve.truth, curve.quantity), title, False)
        known = [point for point in curve.points if point.value is not None]
        lines.append(
            {
                "name": curve.system,
                "hue": hues[curve.system],
                "n": [point.views for point in known],
                "part": [point.cells_ok < point.cells for point in known],
                "value": [point.value for point in known],
                "low": [point.value if point.low is None else point.low for point in known],
                "high": [point.value if point.high is None else point.high for point in known],
            }
        )
    for series in found:
        title = f"{series.quantity}{f' [{series.unit}]' if series.unit else ''}"
        lines = figure(series.scene, (series.quantity, series.hardware), title, True)
        points, scaling = series.points, series.scaling
        line = {
            "name": series.system,
            "hue": hues[series.system],
            "n": points.n.tolist(),
            "value": points.values.tolist(),
            "low": points.ends[:, 0].tolist(),
            "high": points.ends[:, 1].tolist(),
        }
        if scaling.weights:
            best = max(scaling.weights, key=lambda law: scaling.weights[law])
            n = np.geomspace(points.n[0], points.n[-1], SAMPLES)
            drawn = best(n, next(fit.coefficients for fit in scaling.fits if fit.law == best))
            line |= {"law": best.name, "named": best == scaling.named, "law_n": n.tolist(), "law_value": drawn.tolist()}
        lines.append(line)
    return list(out.values())
