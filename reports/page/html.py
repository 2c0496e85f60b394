"""leaderboard.html and a page for each row: one folder that opens from disk with no network."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from plotly.offline import get_plotlyjs

from adapters.contract import TruthKind
from reports import text
from reports.answer import answer
from reports.board import Board, Group, Leaderboard, Metric, Row, Standing, order
from reports.curves import COSTS, Curve
from reports.export import group_title, scope_of_claim
from reports.page.clouds import SCALES, CloudPair, write_clouds
from reports.page.render import dumps, environment, write_assets
from reports.published import fitting, sources
from reports.ranking import ENOUGH_SCENES, Comparisons
from reports.schema import AlignmentRow, RunInfo, SceneRow, Tables, TrialRow, TruthCard
from reports.stability import Stability, Sweeps

TITLE = "3D reconstructors, measured"
ASSETS = ("style.css", "page.js", "clouds.js")
HUES = 8  # colours in the style sheet for telling systems apart
THUMBNAIL = 240  # pixels, the longer side
MATRIX = 16  # systems in a head-to-head matrix; comparisons.csv has every pair
RANKS = 0.8  # Kendall's tau with exact truth, below which a measured truth cannot rank
CURVE_METRICS = 6  # how many quality metrics a board's curves offer


# What the cloud viewer offers: headings (views, inputs) and below each its entries.
CloudMenu = list[tuple[str, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Thumbnail:
    """One input view as the page shows it."""

    view: str
    source: str  # relative to the page; "" where the image could not be read


@dataclass(frozen=True)
class SceneCard:
    """One scene as the page shows it."""

    name: str
    title: str
    thumbnails: tuple[Thumbnail, ...]
    clouds: CloudMenu
    row: SceneRow


@dataclass(frozen=True)
class Plot:
    """The dots and whiskers of one table: where a value lies between 0 and the largest."""

    most: float

    def at(self, value: float) -> float:
        """Percent of the width."""
        return round(100 * min(max(value / self.most, 0.0), 1.0), 2) if self.most > 0 else 0.0


@dataclass(frozen=True)
class Trust:
    """How far the COLMAP truth of a scene can be trusted to rank."""

    scene: str
    card: TruthCard

    @property
    def ranks(self) -> bool | None:
        """Whether it can rank; None where no exact surface tells."""
        return None if self.card.fidelity is None else self.card.fidelity >= RANKS


class _Page:
    """What templates ask for, and the files they link to."""

    def __init__(self, tables: Tables, board: Leaderboard, sweeps: Sweeps, out: Path) -> None:
        self.run: RunInfo = tables.run
        self.board = board
        self.sweeps = sweeps
        self.answer = answer(board, tables)
        self.out = out
        self.trials = {trial.key: trial for row in board.rows for trial in row.trials}
        self.row_number = {trial.key: i for i, row in enumerate(board.rows) for trial in row.trials}
        self.pages = {self._name(row): row for row in board.rows}
        self.page_of = {(row.board, row.system, row.views): name for name, row in self.pages.items()}
        self.rows_of: dict[tuple[Board, str], list[Row]] = defaultdict(list)
        for row in board.rows:
            self.rows_of[row.board, row.system].append(row)
        self.hues = self._hues()
        self.notes = _notes(tables)
        self.remarks: dict[tuple[str, str], list[str]] = defaultdict(list)
        for remark in tables.remarks:
            self.remarks[remark.key, remark.protocol_hash].append(f"{remark.truth} truth: {remark.remark}")
        self.alignments: dict[tuple[str, TruthKind, str], list[AlignmentRow]] = defaultdict(list)
        for stage in tables.alignments:
            self.alignments[stage.key, stage.truth, stage.protocol_hash].append(stage)

    def _name(self, row: Row) -> str:
        """A file name that depends on nothing but what names the row."""
        whole = json.dumps([row.board.inputs, row.board.scope, row.board.protocol_hash, row.system, row.views])
        plain = re.sub(r"[^a-z0-9]+", "-", row.system.lower()).strip("-")[:40]
        return f"{plain}-{row.views}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def _hues(self) -> dict[tuple[Board, str], int]:
        systems: dict[Board, list[str]] = defaultdict(list)
        for at, name in sorted(self.rows_of):
            systems[at].append(name)
        return {(at, name): i % HUES for at, names in systems.items() for i, name in enumerate(names)}

    @property
    def opening(self) -> Board | None:
        """The board shown first: the one that the answer speaks of."""
        return self.answer.board

    def opening_group(self, board: Board) -> Group:
        """The number of views that a board opens on: where it ranks most systems, or compares most, of several the
        largest."""
        truth = self.run.rank_truth

        def ranked(group: Group) -> tuple[int, int]:
            compared = [row.standings[truth] for row in group.rows if truth in row.standings]
            of_kin = sum(standing.agreement is not None for standing in compared)
            return len(group.comparisons[truth].systems) if truth in group.comparisons else 0, of_kin

        return max(self.groups(board), key=lambda group: (*ranked(group), group.views))

    @property
    def why(self) -> str:
        """Why the page opens on the truth that it opens on, where there is another."""
        place, truth = self.opening, self.run.rank_truth
        others = [other for other in self.board.truths if other != truth]
        if place is None or not others:
            return ""
        counts = ", ".join(f"{text.TRUTH_NAMES[other]} ranks {self.board.ranked(place, other)}" for other in others)
        reason = "; nothing is kin to an exact surface" if truth == "exact" else ""
        ranked = self.board.ranked(place, truth)
        return f"{text.TRUTH_NAMES[truth]} ranks {ranked} system{'s' * (ranked != 1)} in this table, {counts}{reason}."

    def trust(self) -> list[Trust]:
        """How far the COLMAP truth of each scene can be trusted to rank."""
        return [Trust(scene, cards["colmap"]) for scene, cards in sorted(self.board.cards.items()) if "colmap" in cards]

    def hue(self, row: Row) -> int:
        return self.hues[row.board, row.system]

    def link(self, row: Row) -> str:
        return f"rows/{self.page_of[row.board, row.system, row.views]}.html"

    def standing(self, row: Row, truth: TruthKind) -> Standing:
        return row.standings.get(truth, Standing(None, 0, f"not scored by {self.run.rank_metric}"))

    def ordered(self, group: Group, truth: TruthKind) -> list[Row]:
        """A group's rows as a table under `truth` lists them."""
        return sorted(group.rows, key=lambda row: order(row, truth, self.run.rank_metric))

    def groups(self, board: Board) -> list[Group]:
        return [group for group in self.board.groups if group.board == board]

    def shown(self, group: Group) -> list[TruthKind]:
        """The truths a group has a table for, the ranking one first; that one alone where nothing was scored."""
        return [t for t in self.board.truths if (group.board, t) in self.board.metrics] or [self.run.rank_truth]

    def plot(self, group: Group, truth: TruthKind, metric: str) -> Plot:
        ends = [0.0]
        for row in group.rows:
            score = row.scores.get((truth, metric))
            if score is not None and score.value is not None:
                ends += [score.value, *(score.bounds or ())]
        return Plot(max(ends))

    def partial(self, group: Group, truth: TruthKind) -> bool:
        """Whether any row's mean is over fewer cells than planned."""
        return any(s.status == "partial" for row in group.rows for (t, _), s in row.scores.items() if t == truth)

    def board_title(self, board: Board) -> str:
        same = [other for other in self.board.boards if (other.inputs, other.scope) == (board.inputs, board.scope)]
        protocol = f" · {board.protocol} {board.protocol_hash[:6]}" if len(same) > 1 else ""
        return f"{board.inputs.replace('+', ' + ')} → {board.scope}{protocol}"

    def file_link(self, path: str, start: Path) -> str:
        """`path` relative to the folder `start`, for a link; "" where nothing is there."""
        return Path(os.path.relpath(path, start)).as_posix() if path and Path(path).exists() else ""


def _notes(tables: Tables) -> dict[tuple[str, str], list[str]]:
    """(Trial key, protocol hash) -> why scores are missing, each reason once with the metrics it concerns."""
    reasons: dict[tuple[str, str], dict[tuple[str, str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    missing = [score for score in tables.scores if score.status != "ok"]
    for score in sorted(missing, key=lambda row: (row.key, row.truth, row.metric)):
        reasons[score.key, score.protocol_hash][score.truth, score.status, score.note].append(score.metric)
    return {
        place: [
            f"{truth} truth, {status}: {', '.join(metrics)}{f' ({note})' if note else ''}"
            for (truth, status, note), metrics in kinds.items()
        ]
        for place, kinds in reasons.items()
    }


def write_html(
    tables: Tables, board: Leaderboard, curves: list[Curve], sweeps: Sweeps, out: Path, title: str = TITLE
) -> list[Path]:
    """Write leaderboard.html, rows/*.html and what they load into `out`; returns the files written."""
    page = _Page(tables, board, sweeps, out)
    for folder in ("rows", "assets", "clouds", "images"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    clouds: dict[str, Path] = {}
    pairs = _clouds(tables, page, clouds)
    scenes, images = _scenes(tables, page, pairs)
    templates = environment(
        page=page,
        run=tables.run,
        board=board,
        group_title=group_title,
        scope_of_claim=scope_of_claim,
        pair_matrix=pair_matrix,
        stability_matrix=stability_matrix,
        enough=ENOUGH_SCENES,
        most_pairs=MATRIX,
        scales=SCALES,
        truth_name=text.TRUTH_NAMES,
        least_fidelity=RANKS,
    )
    written = [*sorted(clouds.values()), *images, *write_assets(out, *ASSETS)]
    written.append(_write(out / "assets" / "plotly.min.js", get_plotlyjs()))
    figures = _script("figures", _figures(board, curves, page)) + _script("choices", _choices(page))
    written.append(_write(out / "assets" / "figures.js", figures))
    front = templates.get_template("leaderboard.html").render(
        title=title,
        answer=page.answer,
        scenes=scenes,
        left_out=tables.left_out,
        unavailable=_unavailable(page),
        reported=fitting(
            sources(),
            {score.protocol for score in tables.scores},
            {name for scene in tables.scenes for name in (scene.scene, scene.title)},
        ),
    )
    written.append(_write(out / "leaderboard.html", front))
    template = templates.get_template("row.html")
    for name, row in page.pages.items():
        keys = {trial.key for trial in row.trials}
        own = _cloud_menu(page, (pair for pair in pairs if pair.key in keys))
        written.append(_write(out / "rows" / f"{name}.html", template.render(row=row, clouds=own)))
    return written


def _write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="\n")
    return path


def _script(name: str, value: Any) -> str:
    """A script file that sets `reconbench.NAME`: data for a page that may not read data files."""
    return f"window.reconbench=window.reconbench||{{}};reconbench.{name}={dumps(value, allow_nan=False)};\n"


def _clouds(tables: Tables, page: _Page, written: dict[str, Path]) -> list[CloudPair]:
    rows = sorted(tables.clouds, key=lambda row: (row.key, row.truth))
    return [write_clouds(row.key, row.truth, row.path, page.out / "clouds", written) for row in rows]


def _cloud_menu(page: _Page, pairs: Iterable[CloudPair]) -> CloudMenu:
    """The entries for `pairs`, most views first, then in the order of the tables."""

    def listing(pair: CloudPair) -> tuple[int, int, str, str]:
        trial = page.trials[pair.key]
        return (-trial.views, page.row_number[pair.key], trial.scene, pair.truth)

    entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pair in sorted(pairs, key=listing):
        trial = page.trials[pair.key]
        heading = f"{trial.views} view{'s' * (trial.views != 1)}: {trial.inputs.replace('+', ' + ')} → {trial.scope}"
        entries[heading].append(_cloud_entry(page, pair))
    return list(entries.items())


def _cloud_entry(page: _Page, pair: CloudPair) -> dict[str, Any]:
    """What the cloud viewer is told of one pair."""
    trial = page.trials[pair.key]
    views = f"{trial.views} view{'s' * (trial.views != 1)}"
    summary = (
        f"{text.count(pair.points)} points; error: median {text.number(pair.median_error)}%, "
        f"95th percentile {text.number(pair.high_error)}% of the diameter"
    )
    return asdict(pair) | {
        "label": f"{trial.title}, {trial.scene}, {views}, {trial.inputs}, against {pair.truth} truth",
        "short": f"{trial.title}, {trial.scene}, {pair.truth} frame"
        + (f", seed {trial.repeat}" if trial.repeat else ""),
        "said": summary,
    }


def _scenes(tables: Tables, page: _Page, pairs: list[CloudPair]) -> tuple[list[SceneCard], list[Path]]:
    """The scenes' cards, and the thumbnails written for them."""
    cards, written = [], []
    for number, scene in enumerate(sorted(tables.scenes, key=lambda row: row.scene)):
        thumbnails = []
        for i, (view, path) in enumerate(scene.images.items()):
            target = page.out / "images" / f"{number:02d}-{i:03d}.jpg"
            readable = _thumbnail(path, target)
            thumbnails.append(Thumbnail(view, f"images/{target.name}" if readable else ""))
            written += [target] if readable else []
        menu = _cloud_menu(page, (pair for pair in pairs if page.trials[pair.key].scene == scene.scene))
        cards.append(SceneCard(scene.scene, scene.title, tuple(thumbnails), menu, scene))
    return cards, written


def _thumbnail(source: Path, target: Path) -> bool:
    """Whether a small JPEG of `source` could be written; a missing image is shown as missing, not fatal."""
    try:
        with Image.open(source) as image:
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))  # lets JPEG decode at a fraction of its size
            small = image.convert("RGB")
    except OSError:
        return False
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(target, quality=82, optimize=True)
    return True


def _unavailable(page: _Page) -> list[TrialRow]:
    """One trial of each system that could not be run here: its message says how to get it."""
    by_system: dict[str, TrialRow] = {}
    for row in page.board.rows:
        for trial in row.trials:
            if trial.status == "unavailable":
                by_system.setdefault(row.system, trial)
    return [by_system[name] for name in sorted(by_system)]


def _figures(board: Leaderboard, curves: list[Curve], page: _Page) -> list[dict[str, Any]]:
    """The curves' data: one figure a board, truth and quantity."""
    titles = {"warm_seconds": "Warm run time", "peak_rss_bytes": "Peak memory"}
    by_figure: dict[tuple[Board, TruthKind | None, str], list[Curve]] = defaultdict(list)
    for curve in curves:
        by_figure[curve.board, curve.truth, curve.quantity].append(curve)
    wanted: Mapping[tuple[Board, TruthKind], tuple[Metric, ...]] = board.metrics
    figures: list[dict[str, Any]] = []
    for index, place in enumerate(board.boards):
        quantities: list[tuple[TruthKind | None, str, str, str]] = [
            (truth, metric.id, metric.unit, metric.better)
            for truth in board.truths
            for metric in wanted.get((place, truth), ())[:CURVE_METRICS]
        ]
        quantities += [(None, name, unit, "lower") for name, unit in COSTS if name in titles]
        for truth, quantity, unit, better in quantities:
            lines = [_line(curve, page) for curve in by_figure.get((place, truth, quantity), [])]
            if lines:
                about = {"board": index, "truth": truth or "", "quantity": quantity, "unit": unit, "better": better}
                figures.append(about | {"title": titles.get(quantity, quantity), "lines": lines})
        figures += [
            {"board": index, "truth": truth, "quantity": metric.id, "unit": metric.unit, "better": metric.better}
            | {"title": f"{metric.id} by share kept", "views": group.views, "lines": lines}
            for group in page.groups(place)
            for truth in page.shown(group)
            for metric in wanted.get((place, truth), ())[:CURVE_METRICS]
            if (lines := _kept_lines(page, group, truth, metric.id))
        ]
    return figures


def _choices(page: _Page) -> dict[str, Any]:
    """The picture of the first screen: what each choice of the answer's board is worth and costs."""
    answer = page.answer
    return {
        "metric": answer.metric,
        "unit": answer.unit,
        "better": answer.better,
        "points": [
            {
                "name": choice.row.system,
                "hue": page.hue(choice.row),
                "views": choice.row.views,
                "worth": choice.worth,
                "value": choice.quality,
                "seconds": choice.seconds,
                "memory": choice.memory / 2**30 if choice.memory is not None else None,
                "front": {"seconds": choice.quickest, "memory": choice.smallest},
            }
            for choice in answer.choices
        ],
    }


def _kept_lines(page: _Page, group: Group, truth: TruthKind, metric: str) -> list[dict[str, Any]]:
    """The score against the share of surest points kept, of the systems that have confidence."""
    lines = []
    for row in group.rows:
        points = page.sweeps.kept(row, truth, metric)
        if points:
            blank: list[float | None] = [None] * len(points)
            lines.append(
                {
                    "name": row.system,
                    "hue": page.hue(row),
                    "ranked": page.standing(row, truth).rank is not None,
                    "views": [100 * point.kept for point in points],
                    "value": [point.value for point in points],
                    "low": blank,
                    "high": blank,
                    "cells": [f"{point.asked:.0%} asked, {point.cells_ok} of {point.cells} cells" for point in points],
                    "whole": [point.cells_ok == point.cells for point in points],
                }
            )
    return lines


def _line(curve: Curve, page: _Page) -> dict[str, Any]:
    rows = page.rows_of[curve.board, curve.system]
    scale = 2.0**30 if curve.unit == "bytes" else 1.0

    def scaled(value: float | None) -> float | None:
        return None if value is None else value / scale

    return {
        "name": curve.system,
        "hue": page.hue(rows[0]),
        "ranked": any(page.standing(row, curve.truth or page.run.rank_truth).rank is not None for row in rows),
        "views": [point.views for point in curve.points],
        "value": [scaled(point.value) for point in curve.points],
        "low": [scaled(point.low) for point in curve.points],
        "high": [scaled(point.high) for point in curve.points],
        "cells": [f"{point.cells_ok} of {point.cells} cells" for point in curve.points],
        "whole": [point.cells_ok == point.cells for point in curve.points],
    }


def stability_matrix(stability: Stability, rows: list[Row]) -> list[tuple[str, list[float | None]]]:
    """The matrix of shares won among the first systems of `rows`, in percent."""
    order = [stability.systems.index(row.system) for row in rows if row.system in stability.systems][:MATRIX]
    return [
        (stability.systems[i], [None if i == j else round(100 * float(stability.share[i, j])) for j in order])
        for i in order
    ]


def pair_matrix(compared: Comparisons, rows: list[Row]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The head-to-head matrix of the first systems of `rows`: for each, what it did against each other one."""
    order = [compared.systems.index(row.system) for row in rows if row.system in compared.systems][:MATRIX]
    out = []
    for i in order:
        cells = []
        for j in order:
            gain = float(compared.gain[i, j])
            low, high = float(compared.low[i, j]), float(compared.high[i, j])
            cells.append(
                {
                    "self": i == j,
                    "wins": int(compared.wins[i, j]),
                    "losses": int(compared.wins[j, i]),
                    "common": int(compared.common[i, j]),
                    "failed": (int(compared.failed[i, j]), int(compared.failed[j, i])),
                    "gain": None if gain != gain else gain,
                    "ends": None if low != low else (low, high),
                    "verdict": "better" if compared.better[i, j] else ("worse" if compared.better[j, i] else ""),
                }
            )
        out.append((compared.systems[i], cells))
    return out
