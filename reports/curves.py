"""Curves against the number of views: quality, time, memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from adapters.contract import TruthKind
from reports.board import Board, Leaderboard, Row
from reports.schema import CurveRow, OfCurve

COSTS = (
    ("warm_seconds", "s"),
    ("cold_seconds", "s"),
    ("last_frame_seconds", "s"),
    ("peak_rss_bytes", "bytes"),
    ("device_peak_bytes", "bytes"),
    ("device_joules", "J"),
)


@dataclass(frozen=True)
class Point:
    """One system at one number of views."""

    views: int
    value: float | None  # None where it has no result: a gap in the curve
    low: float | None
    high: float | None
    cells_ok: int
    cells: int


@dataclass(frozen=True)
class Curve:
    """One system's line in one figure. Quality: mean and its interval; costs: median, least and largest over scenes."""

    board: Board
    system: str
    title: str
    quantity: str  # a metric id, or one of COSTS
    unit: str
    truth: TruthKind | None  # None for costs
    hardware: str  # costs only: curves of two machines are never compared
    points: tuple[Point, ...]


def curves(board: Leaderboard) -> list[Curve]:
    """Every system's curves, quality first, then costs, on each board."""
    systems: dict[tuple[Board, str], list[Row]] = defaultdict(list)
    for row in board.rows:
        systems[row.board, row.system].append(row)
    out = []
    for (place, system), rows in sorted(systems.items()):
        rows.sort(key=lambda row: row.views)
        title = rows[0].first.title
        for truth in board.truths:
            for metric in board.metrics.get((place, truth), ()):
                points = tuple(p for row in rows if (p := _quality(row, truth, metric.id)) is not None)
                if any(point.value is not None for point in points):
                    out.append(Curve(place, system, title, metric.id, metric.unit, truth, "", points))
        for quantity, unit in COSTS:
            points = tuple(_cost(row, quantity) for row in rows)
            if any(point.value is not None for point in points):
                hardware = " | ".join(sorted({name for row in rows for name in row.hardware}))
                out.append(Curve(place, system, title, quantity, unit, None, hardware, points))
    return out


def _quality(row: Row, truth: TruthKind, metric: str) -> Point | None:
    score = row.scores.get((truth, metric))
    if score is None:
        return None
    low, high = score.bounds or (None, None)
    return Point(row.views, score.value, low, high, len(score.good), len(score.cells))


def _cost(row: Row, quantity: str) -> Point:
    spread = row.seconds(quantity) if quantity.endswith(("seconds", "joules")) else row.amount(quantity)
    middle, low, high = (spread.middle, spread.low, spread.high) if spread else (None, None, None)
    return Point(row.views, middle, low, high, len(row.timed), len(row.trials))


def curve_rows(curves: Iterable[Curve], scene: str = "") -> Iterator[CurveRow]:
    """A row a point of a curve, of one `scene` or over all."""
    for curve in curves:
        of = OfCurve(
            **vars(curve.board),
            system=curve.system,
            title=curve.title,
            quantity=curve.quantity,
            unit=curve.unit,
            truth=curve.truth or "",
            hardware=curve.hardware,
            scene=scene,
        )
        for p in curve.points:
            yield CurveRow(of, p.views, p.value, p.low, p.high, p.cells_ok, p.cells)
