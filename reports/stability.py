"""How far a ranking hangs on choices: resampled scenes and draws, other alignments, fewer of the surest points.

A variant is one alignment with one kept share. Under each variant that any two systems were scored under, scenes are
drawn with replacement, each value is redrawn from its interval over draws (taken as a normal's 95%), and the means over
scenes are compared; the share of all these comparisons that a system wins is its stability against the other. A system
that a choice does not concern (given poses are not aligned, not everyone has confidence) enters with the value it has.
Failures and cells that were never run count as in the ranking: where one of two failed alone on a drawn scene, signed
ranks decide, such a failure being the largest; a cell that one of them never tried tells nothing. Ties count half."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from adapters.contract import F64, Bools, TruthKind
from reports.board import Group, Leaderboard, Row, of_board
from reports.schema import KeptRow, RunInfo, StabilityRow, SweepRow, Tables

DRAWS = 400  # of scenes and values, under each variant
SEED = 20260102
NORMAL_95 = 1.959964

AS_RANKED = "as ranked"
Place = tuple[str, str]  # scene, views
Choice = tuple[str, float]  # alignment, share kept


@dataclass(frozen=True)
class Kept:
    """A system's mean score at one share of its surest points, aligned as ranked."""

    asked: float
    kept: float
    value: float | None  # None unless every cell has a result
    cells_ok: int
    cells: int


@dataclass(frozen=True)
class Stability:
    """Every ordered pair of n ranked systems of one group under one truth."""

    systems: tuple[str, ...]
    share: F64  # (n, n) of the comparisons that i wins against j; NaN on the diagonal
    alignments: tuple[str, ...]
    shares_kept: tuple[float, ...]
    scenes: int
    comparisons: int  # a pair


class Sweeps:
    """The sweeps table, ready to be asked; empty where no sweep was made."""

    def __init__(self, tables: Tables, board: Leaderboard) -> None:
        self.run: RunInfo = tables.run
        self.better = {metric.id: metric.better for metrics in board.metrics.values() for metric in metrics}
        self._found: dict[tuple[str, str, str, str], dict[Choice, SweepRow]] = defaultdict(dict)
        for row in tables.sweeps:
            place = (row.key, row.truth, row.protocol_hash, row.metric)
            self._found[place][row.alignment, row.keep] = row

    def __bool__(self) -> bool:
        return bool(self._found)

    def _choices(self, row: Row, truth: TruthKind, metric: str) -> dict[Place, dict[Choice, list[SweepRow]]]:
        """A row's swept scores by cell and choice, a list over repeats."""
        out: dict[Place, dict[Choice, list[SweepRow]]] = defaultdict(lambda: defaultdict(list))
        for trial in row.trials:
            for choice, score in self._found.get((trial.key, truth, row.board.protocol_hash, metric), {}).items():
                out[trial.scene, trial.view_ids][choice].append(score)
        return out

    def kept(self, row: Row, truth: TruthKind, metric: str) -> tuple[Kept, ...]:
        """The row's score against the share kept, from all to few; empty without confidence or without any result."""
        cells = self._choices(row, truth, metric)
        asked = sorted({k for by_choice in cells.values() for name, k in by_choice if name == AS_RANKED}, reverse=True)
        if len(asked) < 2:
            return ()
        out = []
        for share in asked:
            scores = [score for by_choice in cells.values() for score in by_choice.get((AS_RANKED, share), ())]
            good = [score for score in scores if score.status == "ok"]
            means: dict[str, list[float]] = defaultdict(list)
            for (scene, _), by_choice in cells.items():
                means[scene] += [s.value for s in by_choice.get((AS_RANKED, share), ()) if s.value is not None]
            value = fmean(fmean(group) for group in means.values() if group) if good else None
            whole = len(good) == len(scores)
            kept = fmean(score.kept for score in good) if good else share
            out.append(Kept(share, kept, value if whole else None, len(good), len(scores)))
        return tuple(out) if any(point.value is not None for point in out) else ()

    def stability(self, group: Group, truth: TruthKind) -> Stability | None:
        """How often each ranked system of `group` beats each other one; None with fewer than two, or unswept."""
        metric = self.run.rank_metric
        compared = group.comparisons.get(truth)
        ranked = [row for row in group.rows if compared is not None and row.system in compared.systems]
        swept = {row.system: self._choices(row, truth, metric) for row in ranked}
        choices = sorted({c for cells in swept.values() for by_choice in cells.values() for c in by_choice})
        if len(ranked) < 2 or not choices:
            return None
        places = sorted({(cell.scene, cell.view_ids) for row in ranked for cell in row.scores[truth, metric].cells})
        sign = 1.0 if self.better[metric] == "lower" else -1.0
        alignments = tuple(dict.fromkeys(alignment for alignment, _ in choices))
        kept = tuple(sorted({share for _, share in choices}, reverse=True))
        shape = (len(alignments) * len(kept), len(ranked), len(places))
        value, spread, tried = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape, np.bool_)
        for i, row in enumerate(ranked):
            cells = {(cell.scene, cell.view_ids): cell for cell in row.scores[truth, metric].cells}
            for j, place in enumerate(places):
                cell = cells.get(place)
                # A result that the sweep does not have was not swept; it did not fail.
                if cell is None or not cell.tried or (cell.status == "ok" and place not in swept[row.system]):
                    continue
                tried[:, i, j] = True
                for k, choice in enumerate((a, s) for a in alignments for s in kept):
                    mean, half = _at(swept[row.system].get(place, {}), choice, kept[0])
                    value[k, i, j], spread[k, i, j] = sign * mean, half / NORMAL_95
        scenes = sorted({scene for scene, _ in places})
        in_scene = np.array([[scene == name for name in scenes] for scene, _ in places], float)
        return Stability(
            tuple(row.system for row in ranked),
            _wins(value, spread, tried, in_scene),
            alignments,
            kept,
            len(scenes),
            DRAWS * shape[0],
        )


def _at(by_choice: Mapping[Choice, list[SweepRow]], choice: Choice, whole: float) -> tuple[float, float]:
    """Mean and half interval of one cell under `choice`, or under the nearest choice that concerns the system."""
    alignment, share = choice
    for wanted in ((alignment, share), (alignment, whole), (AS_RANKED, share), (AS_RANKED, whole)):
        scores = by_choice.get(wanted)
        if scores:
            values = [score.value for score in scores if score.value is not None]
            if len(values) < len(scores):
                return np.nan, 0.0
            half = fmean((s.high - s.low) / 2 if s.low is not None and s.high is not None else 0.0 for s in scores)
            return fmean(values), half
    return np.nan, 0.0


def _wins(value: F64, spread: F64, tried: Bools, in_scene: F64) -> F64:
    """(n, n) share of comparisons won, from values (choices, n, cells), smaller is better, NaN = no result."""
    rng = np.random.default_rng(SEED)
    choices, n, cells = value.shape
    scenes = in_scene.shape[1]
    out = np.full((n, n), np.nan)
    won = np.zeros((n, n))
    for k in range(choices):
        ok = ~np.isnan(value[k])
        redrawn = value[k] + spread[k] * rng.standard_normal((DRAWS, n, cells))
        drawn = rng.integers(scenes, size=(DRAWS, scenes))
        times = np.stack([(drawn == s).sum(axis=1) for s in range(scenes)], axis=1)  # (DRAWS, scenes)
        for i in range(n):
            for j in range(i + 1, n):
                shared = tried[k, i] & tried[k, j]
                both = shared & ok[i] & ok[j]
                difference = np.where(both, redrawn[:, j] - redrawn[:, i], 0.0)
                mean = difference @ in_scene / np.maximum(both @ in_scene, 1)  # (DRAWS, scenes); 0: none in common
                survived = np.sign(
                    (shared & ok[i] & ~ok[j]).astype(float) @ in_scene - (shared & ~ok[i] & ok[j]) @ in_scene
                )
                total = (times * mean).sum(axis=1)
                if survived.any():
                    outcome = np.where(survived != 0, np.copysign(np.inf, survived), mean)
                    ranked = (times * np.sign(outcome) * rankdata(np.abs(outcome), axis=1)).sum(axis=1)
                    total = np.where((times * survived != 0).any(axis=1), ranked, total)
                told = (times * ((both @ in_scene > 0) | (survived != 0)) > 0).any(axis=1)
                total = total[told] if told.any() else np.zeros(1)  # scenes that tell nothing of the two are no coin
                share = float((total > 0).mean() + (total == 0).mean() / 2)
                won[i, j] += share
                won[j, i] += 1 - share
    off = ~np.eye(n, dtype=bool)
    out[off] = won[off] / choices
    return out


def stability_rows(board: Leaderboard, sweeps: Sweeps) -> Iterator[StabilityRow]:
    """A row an ordered pair of ranked systems that were swept."""
    for group in board.groups:
        for truth in group.comparisons:
            stability = sweeps.stability(group, truth)
            if stability is None:
                continue
            for i, system in enumerate(stability.systems):
                for j, other in enumerate(stability.systems):
                    if i != j:
                        yield StabilityRow(
                            at=of_board(group.board, group.views, truth),
                            system=system,
                            other=other,
                            share_won=float(stability.share[i, j]),
                            alignments=" | ".join(stability.alignments),
                            shares_kept=" ".join(f"{k:g}" for k in stability.shares_kept),
                            scenes=stability.scenes,
                        )


def kept_rows(board: Leaderboard, sweeps: Sweeps) -> Iterator[KeptRow]:
    """A row a system, metric and share kept: the score against the share of its surest points."""
    for row in board.rows:
        for truth, metric in row.scores:
            for point in sweeps.kept(row, truth, metric):
                yield KeptRow(
                    at=of_board(row.board, row.views, truth),
                    system=row.system,
                    metric=metric,
                    keep=point.asked,
                    kept=point.kept,
                    value=point.value,
                    cells_ok=point.cells_ok,
                    cells=point.cells,
                )
