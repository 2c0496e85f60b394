"""What changed between two runs, trial by trial and metric by metric: paired, beside its noise, gaps in plain sight.

Noise is the half width of the 95% interval of the change: of scores from their intervals over draws, of warm times from
their interquartile ranges (1.57 IQR / sqrt(n) about a median, McGill et al. 1978), both sides added in quadrature. A
value that has no interval is judged by whether it changed at all. Times of two machines are not compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import text
from reports.board import records
from reports.schema import Tables, checked

TEMPLATES = Path(__file__).parent / "page" / "templates"
PAIRED_BY = ("adapter", "inputs", "scope", "scene", "views", "view_ids", "repeat", "device")
COSTS = (("warm_seconds", "s"), ("cold_seconds", "s"), ("peak_rss_bytes", "bytes"))
GAPS = ("now fails", "vanished", "now works", "new", "fails still")
SHOWN = (*GAPS, "worse", "better")


@dataclass(frozen=True)
class Side:
    """One reading of one run."""

    status: str
    value: float | None
    noise: float | None  # half width of its 95% interval
    note: str
    unit: str = ""
    better: str = "lower"
    made_with: str = ""  # what has to be the same on both sides: a truth's id, a machine


def changes(before: Tables, after: Tables) -> pd.DataFrame:
    """A row a trial and quantity of either run. `verdict`: same | within noise | better | worse | changed machine or
    truth: not compared | new | vanished | now fails | now works | fails still."""
    sides = [dict(_readings(checked(tables))) for tables in (before, after)]
    rows = []
    for place in sorted({*sides[0], *sides[1]}):
        old, new = sides[0].get(place), sides[1].get(place)
        known = new or old
        assert known is not None
        change = noise = None
        if old is not None and new is not None and old.value is not None and new.value is not None:
            change = new.value - old.value
            if old.noise is not None and new.noise is not None:
                noise = math.hypot(old.noise, new.noise)
        rows.append(
            (
                *place,
                known.unit,
                known.better,
                old.value if old else None,
                new.value if new else None,
                change,
                noise,
                _verdict(old, new, change, noise),
                (old.status if old else ""),
                (new.status if new else ""),
                (new.note if new and new.note else old.note if old else ""),
            )
        )
    columns = [*PAIRED_BY, "truth", "quantity", "unit", "good", "before", "after", "change", "noise", "verdict"]
    return pd.DataFrame(rows, columns=[*columns, "status_before", "status_after", "note"])


def _readings(tables: Tables) -> Iterator[tuple[tuple[Any, ...], Side]]:
    """Every score and cost by what pairs it with the other run's."""
    trials = {trial.key: trial for trial in records(tables.trials)}
    scored = set()
    for score in records(tables.scores):
        trial = trials[score.key]
        scored.add((score.key, score.truth))
        # What no run of this adapter could give is no gap.
        if score.status == "unsupported" and trial.status == "ok":
            continue
        noise = None if score.low is None else (score.high - score.low) / 2
        status = score.status if trial.status == "ok" else trial.status
        side = Side(status, score.value, noise, score.note, score.unit, score.better, score.truth_id)
        yield (*_place(trial), score.truth, score.metric), side
    for trial in trials.values():
        for name, unit in COSTS:
            value = getattr(trial, name) if trial.status == "ok" else None
            if value is None and trial.status == "ok":
                continue
            noise = None
            if name == "warm_seconds" and trial.warm_iqr is not None and trial.warm_n:
                noise = 1.57 * trial.warm_iqr / math.sqrt(trial.warm_n)
            note = "timed on a busy machine" if trial.busy else ""
            side = Side(trial.status, value, noise, trial.message or note, unit, "lower", trial.hardware)
            yield (*_place(trial), "", name), side


def _place(trial: Any) -> tuple[Any, ...]:
    return tuple(getattr(trial, name) for name in PAIRED_BY)


def _verdict(old: Side | None, new: Side | None, change: float | None, noise: float | None) -> str:
    if old is None or new is None:
        return "new" if old is None else "vanished"
    if old.value is None or new.value is None:
        return ("fails still" if new.value is None else "now works") if old.value is None else "now fails"
    assert change is not None
    if old.made_with != new.made_with:
        return "other machine: not compared" if new.unit in ("s", "bytes") else "other truth: not compared"
    if change == 0:
        return "same"
    if noise is None and new.unit in ("s", "bytes"):
        return "noise unknown"
    if noise is not None and abs(change) <= noise:
        return "within noise"
    return "better" if (change < 0) == (new.better == "lower") else "worse"


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """A row a system, truth and quantity: the mean paired change over the cells where both runs have a value."""
    both = found[found["change"].notna() & ~found["verdict"].str.endswith("not compared")]
    by = ["adapter", "inputs", "scope", "views", "truth", "quantity", "unit", "good"]
    groups = both.groupby(by, sort=True)
    table = groups.agg(cells=("change", "size"), before=("before", "mean"), after=("after", "mean"))
    table["change"] = groups["change"].mean()
    for verdict in ("better", "worse"):
        counts = both.assign(hit=both["verdict"] == verdict).groupby(by, sort=True)["hit"].sum()
        table[verdict] = counts.astype(int)
    return table.reset_index()


def write_comparison(
    before: Tables, after: Tables, names: tuple[str, str], out: Path
) -> tuple[pd.DataFrame, list[Path]]:
    """Write compare.csv and compare.html into `out`; returns the changes and the files."""
    found = changes(before, after)
    out.mkdir(parents=True, exist_ok=True)
    found.to_csv(out / "compare.csv", index=False, lineterminator="\n")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": text.number, "seconds": text.seconds}
    noted = found.assign(weight=(found["change"] / found["noise"]).abs().fillna(math.inf))
    by_verdict = {
        verdict: records(noted[noted["verdict"] == verdict].sort_values("weight", ascending=False, kind="stable"))
        for verdict in SHOWN
    }
    page = environment.get_template("compare.html").render(
        names=names,
        runs=(before.run, after.run),
        run=after.run,
        counts=found["verdict"].value_counts().to_dict(),
        trials=found.drop_duplicates(list(PAIRED_BY)).shape[0],
        gaps=[(verdict, _grouped(by_verdict[verdict])) for verdict in GAPS if by_verdict[verdict]],
        moved=[*by_verdict["worse"], *by_verdict["better"]],
        summary=[row for row in records(summary(found)) if row.change],
    )
    (out / "compare.html").write_text(page, encoding="utf-8", newline="\n")
    (out / "assets").mkdir(exist_ok=True)
    for name in ("style.css", "page.js", "clouds.js"):
        (out / "assets" / name).write_text((TEMPLATES / name).read_text(encoding="utf-8"), encoding="utf-8")
    return found, [out / "compare.csv", out / "compare.html"]


def sentences(found: pd.DataFrame) -> Iterator[str]:
    """What changed, for a terminal: the counts, then a line a trial with a gap, and one a value beyond its noise."""
    yield ", ".join(f"{count} {verdict}" for verdict, count in found["verdict"].value_counts().items())
    for verdict in GAPS:
        for row, quantities in _grouped(records(found[found["verdict"] == verdict])):
            yield f"{verdict}: {row.adapter} on {row.scene}, {row.views} views: {len(quantities)} values"
    for row in records(found[found["verdict"].isin(("worse", "better"))]):
        what = f"{row.quantity} ({row.truth} truth)" if row.truth else row.quantity
        noise = f", noise ±{row.noise:.2g}" if row.noise is not None else ""
        where = f"{row.adapter} on {row.scene}, {row.views} views"
        yield f"{row.verdict}: {where}, {what}: {row.before:.4g} -> {row.after:.4g}{noise}"


def _grouped(rows: list[Any]) -> list[tuple[Any, list[str]]]:
    """The rows of one verdict, a trial at a time: its first row and what it concerns."""
    trials: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        trials.setdefault(_place(row), []).append(row)
    return [
        (found[0], [f"{row.quantity} ({row.truth})" if row.truth else row.quantity for row in found])
        for found in trials.values()
    ]
