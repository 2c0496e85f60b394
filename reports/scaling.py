"""Costs against counts: what a store, a file or a published table says, judged by the laws, printed and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs

from reports import text
from reports.curves import Curve, curve_rows
from reports.laws import Fit, LargestCount, Points, Scaling, gather, judge
from reports.page.render import render, write_assets
from reports.published import FOLDER
from reports.schema import CurveRow, LawRow, OfCurve, OfSeries, TableError, table, write_csv

DRAWN = ("accuracy", "completeness-given", "completeness-visible")  # of the quality curves
COSTS = ("time", "memory")  # the published metrics that are costs
HUES = 8
SAMPLES = 60  # points of a drawn law
Quality = Mapping[str, Sequence[Curve]]  # by scene; "": over every scene


@dataclass(frozen=True, kw_only=True)
class Series(OfSeries):
    """One cost of one system against a count."""

    points: Points
    limit: float | None = None  # of the device, in `unit`: where the series must end
    distrust: str = ""  # why no law may be named from these points, whatever they say

    @cached_property
    def scaling(self) -> Scaling:
        judged = judge(self.points)
        if judged.named and self.distrust:
            return replace(judged, named=None, verdict=f"{judged.verdict}, could the values be trusted")
        return judged

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
        scaling, points = self.scaling, self.points
        plain = scaling.plain
        how = "weighted by the repeats' variance" if points.weighted else "every point counting alike"
        counts = f"{len(points.n)} counts, {points.n[0]:g} to {points.n[-1]:g}, {how}"
        out = ["; ".join(filter(None, (counts, self.note, self.distrust))) + "."]
        out.append(
            f"Plain least squares of a n log n + b: a = {text.number(plain.coefficients[1])}, "
            f"b = {text.number(plain.coefficients[0])}, R² = {plain.explained:.4f} (natural logarithm)."
        )
        out.append(f"{'Law' if scaling.named else 'No law'}: {scaling.verdict}.")
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
            given = ", ".join(map(str, table.columns))
            raise TableError(f"{path}: columns {given} seen, no {name}; n,value wanted (and perhaps repeat, sd)")
    columns = []
    for name in ("n", "value", *(("sd",) if "sd" in table.columns else ())):
        numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
        if (bad := np.flatnonzero(numbers.isna())).size:
            raise TableError(f"{path}: {name} {table[name].iloc[bad[0]]} seen (row {bad[0] + 1}), a number wanted")
        columns.append(numbers.tolist())
    try:
        points = gather(*columns)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    return Series(system=path.stem, quantity="value", unit="", points=points, limit=limit)


def published_series(folder: Path = FOLDER) -> list[Series]:
    """Every time and memory that a published table reports at enough counts."""
    out = []
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(path)
        keys = ["dataset", "system", "metric", "unit"]
        for (_, system, metric, unit), rows in table[table["metric"].isin(COSTS)].groupby(keys, sort=False):
            if rows["views"].nunique() > 2:
                points = gather(rows["views"], rows["value"])
                note = f"as {path.stem} reports"
                out.append(Series(system=str(system), quantity=str(metric), unit=str(unit), points=points, note=note))
    return out


def law_rows(series: Series) -> Iterator[LawRow]:
    """A row a law: coefficients with 95% intervals, evidence, the held-out prediction, the verdict."""
    scaling, largest = series.scaling, series.largest
    for fit in scaling.fits:
        held = scaling.held_out.get(fit.law)
        yield LawRow(
            series=series,
            counts=len(series.points.n),
            smallest=float(series.points.n[0]),
            largest=float(series.points.n[-1]),
            weighted=series.points.weighted,
            law=fit.law.name,
            **_coefficients(fit),
            r2=fit.explained,
            aicc=fit.aicc,
            weight=scaling.weights.get(fit.law),
            last_predicted=held.middle if held else None,
            last_low=held.low if held else None,
            last_high=held.high if held else None,
            last_observed=held.observed if held else None,
            last_holds=held.holds if held else None,
            plain_a=float(scaling.plain.coefficients[1]),
            plain_b=float(scaling.plain.coefficients[0]),
            named=fit.law == scaling.named,
            verdict=scaling.verdict,
            limit=series.limit,
            count_below_limit=largest.middle if largest else None,
            count_low=largest.low if largest else None,
            count_high=largest.high if largest else None,
        )


def _coefficients(fit: Fit) -> dict[str, float]:
    """A law's coefficients by letter, and the ends of their intervals."""
    ends = fit.intervals()
    out = {letter: float(value) for letter, value in zip(fit.law.letters, fit.coefficients, strict=True)}
    for letter, (low, high) in zip(fit.law.letters, ends or (), strict=ends is not None):
        out |= {f"{letter}_low": low, f"{letter}_high": high}
    return out


def _cost_rows(series: Series) -> Iterator[CurveRow]:
    """A row a count: median and ends of its repeats."""
    points = series.points
    of = OfCurve(
        system=series.system,
        title=series.system,
        inputs=series.inputs,
        scope=series.scope,
        quantity=series.quantity,
        unit=series.unit,
        hardware=series.hardware,
        scene=series.scene,
    )
    for n, value, (low, high), repeats in zip(points.n, points.values, points.ends, points.repeats, strict=True):
        count = int(n) if float(n).is_integer() else float(n)
        yield CurveRow(of, count, float(value), float(low), float(high), int(repeats), int(repeats))


def point_rows(costs: Sequence[Series], quality: Quality) -> Iterator[CurveRow]:
    """Quality first, each scene's own and, with no scene named, over every scene; then every scene's costs."""
    for scene, curves in quality.items():
        yield from curve_rows([curve for curve in curves if curve.truth], scene)
    for series in costs:
        yield from _cost_rows(series)


def write_curves(costs: Sequence[Series], quality: Quality, out: Path) -> list[Path]:
    """curves.csv, laws.csv and curves.html, which opens from disk, in the folder `out`."""
    figures = _figures(costs, quality)
    written = write_assets(out, "style.css", "page.js")
    page = render("curves.html", base="", home="curves.html", figures=figures, costs=costs)
    for path, content in ((out / "assets" / "plotly.min.js", get_plotlyjs()), (out / "curves.html", page)):
        path.write_text(content, encoding="utf-8", newline="\n")
        written.append(path)
    laws = table(LawRow, (row for series in costs for row in law_rows(series)))
    points = table(CurveRow, point_rows(costs, quality))
    return [*written, write_csv(out / "curves.csv", points), write_csv(out / "laws.csv", laws)]


def _figures(costs: Sequence[Series], quality: Quality) -> list[dict[str, Any]]:
    """The page's figures, scene by scene: quality by metric and truth, then costs by quantity."""
    out: dict[tuple[str, ...], dict[str, Any]] = {}
    every = [(scene, curve) for scene, curves in quality.items() for curve in curves if curve.quantity in DRAWN]
    names = sorted({*(series.system for series in costs), *(curve.system for _, curve in every)})
    hues = {name: i % HUES for i, name in enumerate(names)}

    def figure(scene: str, key: tuple[str, ...], title: str, logarithmic: bool) -> list[dict[str, Any]]:
        empty = {"scene": scene, "title": title, "log": logarithmic, "lines": []}
        lines: list[dict[str, Any]] = out.setdefault((scene, *key), empty)["lines"]
        return lines

    for scene, curve in every:
        title = f"{curve.quantity} [{curve.unit}], {curve.truth} truth"
        lines = figure(scene, (curve.truth or "", curve.quantity), title, False)
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
    for series in costs:
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
