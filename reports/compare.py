"""What changed between two runs, trial by trial and metric by metric: paired, beside its noise, gaps in plain sight.

Noise is the half width of the 95% interval of the change: of scores from their intervals over draws, of warm times from
their interquartile ranges (1.57 IQR / sqrt(n) about a median, McGill et al. 1978), both sides added in quadrature. A
value that has no interval is judged by whether it changed at all. Times of two machines are not compared."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from reports.page.render import render, write_assets
from reports.schema import Better, ChangeRow, OfValue, Scope, Tables, TrialRow, checked, table, write_csv

GAPS = ("now fails", "vanished", "now works", "new", "fails still")
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Side:
    """One reading of one run."""

    status: str
    value: float | None
    noise: float | None  # half width of its 95% interval
    note: str
    unit: str = ""
    better: Better = "lower"
    made_with: str = ""  # what has to be the same on both sides: a truth's id, a machine


@dataclass(frozen=True)
class Summary:
    """The mean paired change of one system and quantity, over the cells where both runs have a value."""

    adapter: str
    inputs: str
    scope: Scope
    views: int
    truth: str
    quantity: str
    unit: str
    good: Better
    cells: int
    before: float
    after: float
    change: float
    better: int  # cells
    worse: int


def changes(before: Tables, after: Tables) -> list[ChangeRow]:
    """A row a trial and quantity of either run. `verdict`: same | within noise | better | worse | changed machine or
    truth: not compared | new | vanished | now fails | now works | fails still."""
    first, second = (dict(_readings(checked(tables))) for tables in (before, after))
    return [_change(place, first.get(place), second.get(place)) for place in sorted({*first, *second})]


def _change(of: OfValue, old: Side | None, new: Side | None) -> ChangeRow:
    known = new or old
    assert known is not None
    change = noise = None
    if old is not None and new is not None and old.value is not None and new.value is not None:
        change = new.value - old.value
        if old.noise is not None and new.noise is not None:
            noise = math.hypot(old.noise, new.noise)
    return ChangeRow(
        of=of,
        unit=known.unit,
        good=known.better,
        before=old.value if old else None,
        after=new.value if new else None,
        change=change,
        noise=noise,
        verdict=_verdict(old, new, change, noise),
        status_before=old.status if old else "",
        status_after=new.status if new else "",
        note=(new.note if new else "") or (old.note if old else ""),
    )


def _readings(tables: Tables) -> Iterator[tuple[OfValue, Side]]:
    """Every score and cost by what pairs it with the other run's."""
    trials = {trial.key: trial for trial in tables.trials}
    for score in tables.scores:
        trial = trials[score.key]
        # What no run of this adapter could give is no gap.
        if score.status == "unsupported" and trial.status == "ok":
            continue
        noise = None if score.low is None or score.high is None else (score.high - score.low) / 2
        status = score.status if trial.status == "ok" else trial.status
        side = Side(status, score.value, noise, score.note, score.unit, score.better, score.truth_id)
        yield _named(trial, score.truth, score.metric), side
    for trial in trials.values():
        note = trial.message or ("timed on a busy machine" if trial.busy else "")
        noise = None
        if trial.warm_iqr is not None and trial.warm_n:
            noise = 1.57 * trial.warm_iqr / math.sqrt(trial.warm_n)
        costs = (
            ("warm_seconds", "s", trial.warm_seconds, noise),
            ("cold_seconds", "s", trial.cold_seconds, None),
            ("peak_rss_bytes", "bytes", trial.peak_rss_bytes, None),
        )
        for name, unit, cost, spread in costs:
            if trial.status != "ok":
                cost = spread = None
            elif cost is None:
                continue
            yield _named(trial, "", name), Side(trial.status, cost, spread, note, unit, "lower", trial.hardware)


def _named(trial: TrialRow, truth: str, quantity: str) -> OfValue:
    cell = (trial.scene, trial.views, trial.view_ids, trial.repeat, trial.device)
    return OfValue(trial.adapter, trial.inputs, trial.scope, *cell, truth, quantity)


def _trial(row: ChangeRow) -> OfValue:
    """What the row's trial is paired by."""
    return replace(row.of, truth="", quantity="")


def _verdict(old: Side | None, new: Side | None, change: float | None, noise: float | None) -> str:
    if old is None or new is None:
        return "new" if old is None else "vanished"
    if old.value is None or new.value is None:
        return ("fails still" if new.value is None else "now works") if old.value is None else "now fails"
    assert change is not None
    if old.made_with != new.made_with:
        other = "machine" if new.unit in ("s", "bytes") else "truth"
        return f"other {other}: {NOT_COMPARED}"
    if change == 0:
        return "same"
    if noise is None and new.unit in ("s", "bytes"):
        return "noise unknown"
    if noise is not None and abs(change) <= noise:
        return "within noise"
    return "better" if (change < 0) == (new.better == "lower") else "worse"


def summary(rows: Iterable[ChangeRow]) -> list[Summary]:
    """A line a system, number of views, truth and quantity."""
    groups: dict[tuple[str, str, Scope, int, str, str, str, Better], list[tuple[float, float, str]]] = defaultdict(list)
    for row in rows:
        if row.before is not None and row.after is not None and not row.verdict.endswith(NOT_COMPARED):
            of = row.of
            group = (of.adapter, of.inputs, of.scope, of.views, of.truth, of.quantity, row.unit, row.good)
            groups[group].append((row.before, row.after, row.verdict))
    out = []
    for group, cells in sorted(groups.items()):
        before, after, verdicts = zip(*cells, strict=True)
        change = fmean(new - old for old, new, _ in cells)
        counts = (verdicts.count("better"), verdicts.count("worse"))
        out.append(Summary(*group, len(cells), fmean(before), fmean(after), change, *counts))
    return out


def write_comparison(
    before: Tables, after: Tables, names: tuple[str, str], out: Path
) -> tuple[list[ChangeRow], list[Path]]:
    """Write compare.csv and compare.html into `out`; returns the changes and the files."""
    rows = changes(before, after)
    out.mkdir(parents=True, exist_ok=True)
    page = render(
        "compare.html",
        names=names,
        runs=(before.run, after.run),
        run=after.run,
        counts=dict(Counter(row.verdict for row in rows).most_common()),
        trials=len(set(map(_trial, rows))),
        gaps=[
            (verdict, trials)
            for verdict in GAPS
            if (trials := _by_trial(row for row in rows if row.verdict == verdict))
        ],
        moved=[row for verdict in ("worse", "better") for row in _beyond_noise(rows, verdict)],
        summary=[line for line in summary(rows) if line.change],
    )
    (out / "compare.html").write_text(page, encoding="utf-8", newline="\n")
    write_assets(out, "style.css", "page.js", "clouds.js")
    return rows, [write_csv(out / "compare.csv", table(ChangeRow, rows)), out / "compare.html"]


def _beyond_noise(rows: Iterable[ChangeRow], verdict: str) -> list[ChangeRow]:
    """The rows of one verdict, the farthest beyond their noise first."""

    def weight(row: ChangeRow) -> float:
        return abs(row.change / row.noise) if row.change is not None and row.noise else math.inf

    return sorted((row for row in rows if row.verdict == verdict), key=weight, reverse=True)


def sentences(rows: list[ChangeRow]) -> Iterator[str]:
    """What changed, for a terminal: the counts, then a line a trial with a gap, and one a value beyond its noise."""
    yield ", ".join(f"{count} {verdict}" for verdict, count in Counter(row.verdict for row in rows).most_common())
    for verdict in GAPS:
        for row, quantities in _by_trial(row for row in rows if row.verdict == verdict):
            yield f"{verdict}: {_where(row)}: {len(quantities)} values"
    for row in rows:
        if row.verdict in ("worse", "better"):
            what = f"{row.of.quantity} ({row.of.truth} truth)" if row.of.truth else row.of.quantity
            noise = f", noise ±{row.noise:.2g}" if row.noise is not None else ""
            yield f"{row.verdict}: {_where(row)}, {what}: {row.before:.4g} -> {row.after:.4g}{noise}"


def _where(row: ChangeRow) -> str:
    return f"{row.of.adapter} on {row.of.scene}, {row.of.views} views"


def _by_trial(rows: Iterable[ChangeRow]) -> list[tuple[ChangeRow, list[str]]]:
    """The rows, a trial at a time: its first row and what it concerns."""
    trials: dict[OfValue, list[ChangeRow]] = {}
    for row in rows:
        trials.setdefault(_trial(row), []).append(row)
    return [
        (group[0], [f"{row.of.quantity} ({row.of.truth})" if row.of.truth else row.of.quantity for row in group])
        for group in trials.values()
    ]
