"""The leaderboard itself, before it is printed: boards, rows, means, standings.

A board is one table (inputs x scope x protocol); rows of two boards are never ranked together. A row is one system on
one board at one number of views; its cells are the scenes (and choices of views) of that board.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, stdev

import numpy as np

from adapters.contract import TruthKind
from reports.ranking import ENOUGH_SCENES, Agreement, Cell, Comparisons, agreement, compare, interval, ranks
from reports.schema import TRUTHS, Better, OfBoard, Scope, ScoreRow, Tables, TrialRow, TruthCard, metric_order

# What tells two systems of one adapter apart, besides its name.
VARIANT = ("weights", "device", "options", "adapter_hash", "environment", "origin")
JUDGED_ALIKE: tuple[TruthKind, ...] = ("colmap", "exact")  # the truths whose rankings are compared
KIN = "kin of this truth"
TIMED_ONLY = "random weights: timed only"
NOT_VERIFIED = "not verified: its bundle claims other scores"


@dataclass(frozen=True, order=True)
class Board:
    """One table of rows that may be ranked together."""

    inputs: str
    scope: Scope
    protocol: str  # name; "" where nothing was scored
    protocol_hash: str


@dataclass(frozen=True)
class Metric:
    """A metric's id, its unit and which way is good."""

    id: str
    unit: str
    better: Better


@dataclass(frozen=True)
class Score:
    """One row's result under one truth and metric: means over scenes of the cells that have a result."""

    metric: Metric
    cells: tuple[Cell, ...]

    @property
    def good(self) -> tuple[Cell, ...]:
        """The cells that have a result."""
        return tuple(cell for cell in self.cells if cell.status == "ok")

    @cached_property
    def value(self) -> float | None:
        return _mean(self.good, "value")

    @cached_property
    def bounds(self) -> tuple[float, float] | None:
        """95% interval over scenes where there are `ENOUGH_SCENES`, else the mean interval over draws."""
        if self.over_scenes:
            return interval(np.array([fmean(group) for group in _by_scene(self.good, "value").values()]))
        low, high = _mean(self.good, "low"), _mean(self.good, "high")
        return None if low is None or high is None else (low, high)

    @property
    def over_scenes(self) -> bool:
        return len({cell.scene for cell in self.good}) >= ENOUGH_SCENES

    @cached_property
    def spread(self) -> float | None:
        """Standard deviation over a cell's samples, where every cell has several: a stochastic system's own noise."""
        return _mean(self.good, "spread")

    @cached_property
    def floor(self) -> float | None:
        return _mean(self.good, "floor")

    @cached_property
    def micro(self) -> float | None:
        """Of a mean over pairs of views: over all pairs of all cells together, where `value` is over scenes."""
        counts = [cell.pairs for cell in self.good if cell.value is not None and cell.pairs]
        if not counts or len(counts) < len(self.good):
            return None
        return float(np.average([cell.value or 0.0 for cell in self.good], weights=counts))

    @cached_property
    def before_icp(self) -> float | None:
        return _mean(self.good, "before_icp")

    @cached_property
    def judged(self) -> float | None:
        """Share of the points that a measured truth could judge; None under an exact one."""
        return _mean(self.good, "judged")

    @cached_property
    def possible(self) -> tuple[float, float] | None:
        """Between which the value lies whatever is true of what the truth does not know."""
        least, most = _mean(self.good, "least"), _mean(self.good, "most")
        return None if least is None or most is None else (least, most)

    @property
    def status(self) -> str:
        """ok | partial | the commonest reason why no cell has a result."""
        if self.good:
            return "ok" if len(self.good) == len(self.cells) else "partial"
        return Counter(cell.status for cell in self.cells).most_common(1)[0][0] if self.cells else "not_run"


def of_board(board: Board, views: int, truth: TruthKind) -> OfBoard:
    """What names the rows of `board` at one number of views, under one truth, in a file."""
    hashed = board.protocol_hash
    return OfBoard(inputs=board.inputs, scope=board.scope, views=views, protocol_hash=hashed, truth=truth)


ScoreMap = Mapping[tuple[TruthKind, str], Score]  # (truth, metric id) -> score


def _by_scene(cells: Iterable[Cell], field: str) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        groups[cell.scene].append(getattr(cell, field))
    return groups


def _mean(cells: Sequence[Cell], field: str) -> float | None:
    """Mean over scenes of the mean over a scene's cells; None unless every cell has the field."""
    if not cells or any(getattr(cell, field) is None for cell in cells):
        return None
    return fmean(fmean(group) for group in _by_scene(cells, field).values())


@dataclass(frozen=True)
class Standing:
    """A row's place under one truth."""

    rank: int | None
    ranked: int  # how many systems were ranked together
    reason: str  # why it has no rank; "" where it has one
    agreement: int | None = None  # place among the truth's kin, by agreement with it; None for all others
    agreeing: int = 0  # how many kin were compared


@dataclass(frozen=True)
class Spread:
    """A measurement over a row's trials."""

    middle: float
    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float | None]) -> Spread | None:
        """Median, least and largest of those present; None where there are none."""
        present = [value for value in values if value is not None]
        return Spread(float(median(present)), float(min(present)), float(max(present))) if present else None


@dataclass(frozen=True)
class Row:
    """One system on one board at one number of views."""

    board: Board
    system: str  # the adapter's name, with what tells it apart where one adapter has several
    views: int
    trials: tuple[TrialRow, ...]
    scores: ScoreMap
    standings: Mapping[TruthKind, Standing]  # truth -> place
    left_out: tuple[str, ...]  # reasons why some of its cells were not run

    @property
    def first(self) -> TrialRow:
        return self.trials[0]

    @property
    def timed(self) -> tuple[TrialRow, ...]:
        """The trials whose time and memory mean something: those that ended well."""
        return tuple(trial for trial in self.trials if trial.status == "ok")

    @property
    def hardware(self) -> tuple[str, ...]:
        return tuple(sorted({trial.hardware for trial in self.trials}))

    @property
    def verified(self) -> bool | None:
        """Of a bundle: whether every score of its trials was computed again and equal; None where there was none."""
        known = [trial.verified for trial in self.trials if trial.verified is not None]
        return all(known) if known else None

    @property
    def not_isolated(self) -> int:
        """How many trials ran without walls."""
        return sum(trial.isolated is False for trial in self.trials)

    def seconds(self, field: str) -> Spread | None:
        """A time, or an energy, over the trials that ended well; None where they ran on two machines: never mixed."""
        if len({trial.hardware for trial in self.timed}) != 1:
            return None
        return Spread.of(getattr(trial, field) for trial in self.timed)

    def amount(self, field: str) -> Spread | None:
        """A size (bytes, points, parameters) over the trials that ended well."""
        return Spread.of(getattr(trial, field) for trial in self.timed)

    def distinct(self, field: str) -> str:
        """The texts that its trials have there, joined by |."""
        return " | ".join(dict.fromkeys(text for trial in self.trials if (text := getattr(trial, field))))

    def failures(self, truth: TruthKind, metric: str) -> dict[str, int]:
        """Cells without a result under `truth` and `metric`, by kind; trials where nothing was scored at all."""
        score = self.scores.get((truth, metric))
        kinds = [cell.status for cell in score.cells] if score is not None else [trial.status for trial in self.trials]
        return dict(sorted(Counter(kind for kind in kinds if kind != "ok").items()))


@dataclass(frozen=True)
class Group:
    """The rows of one board at one number of views, and how they compare under each truth."""

    board: Board
    views: int
    rows: tuple[Row, ...]  # by rank, unranked ones last
    comparisons: Mapping[TruthKind, Comparisons]  # truth -> ranked systems
    agreement: Agreement | None  # of the rankings under COLMAP's and the exact truth; None unless both exist
    scenes: Mapping[TruthKind, int]  # truth -> how many scenes have it


@dataclass(frozen=True)
class Leaderboard:
    """All boards."""

    groups: tuple[Group, ...]
    metrics: Mapping[tuple[Board, TruthKind], tuple[Metric, ...]]  # (board, truth) -> in printing order
    truths: tuple[TruthKind, ...]  # that something was scored against, the ranking one first
    cards: Mapping[str, Mapping[TruthKind, TruthCard]]  # scene -> kind -> card

    @cached_property
    def boards(self) -> tuple[Board, ...]:
        return tuple(dict.fromkeys(group.board for group in self.groups))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for group in self.groups for row in group.rows)

    def ranked(self, board: Board, truth: TruthKind) -> int:
        """How many systems `board` ranks under `truth`, at the number of views where it ranks most."""
        own = [group.comparisons[truth] for group in self.groups if group.board == board and truth in group.comparisons]
        return max((len(comparison.systems) for comparison in own), default=0)

    def judged_alike(self, scene: str, metric: str) -> Agreement:
        """How far COLMAP's and the exact truth of `scene` order what both gave a score: every system at every number of
        views, kin, references and unlike inputs too, since it is the judge that is judged."""
        places: dict[TruthKind, dict[str, float]] = {"colmap": {}, "exact": {}}
        for i, row in enumerate(self.rows):
            for truth, means in places.items():
                cells = row.scores[truth, metric].good if (truth, metric) in row.scores else ()
                values = [cell.value for cell in cells if cell.scene == scene and cell.value is not None]
                if values:
                    means[str(i)] = fmean(values)
        return agreement(places["colmap"], places["exact"])


def leaderboard(tables: Tables) -> Leaderboard:
    """Build every board from checked tables; a pure function of them."""
    return _Builder(tables).build()


class _Builder:
    """The look-ups that `leaderboard` shares between its steps."""

    def __init__(self, tables: Tables) -> None:
        self.run = tables.run
        self.trials = sorted(
            tables.trials, key=lambda t: (t.inputs, t.scope, t.adapter, t.views, t.scene, t.repeat, t.key)
        )
        self.labels = system_labels(self.trials)
        self.cards = {row.scene: row.truths for row in tables.scenes}
        self.scores: dict[tuple[str, str, str, str], ScoreRow] = {}
        self.protocols: dict[tuple[str, Scope], set[tuple[str, str]]] = defaultdict(set)
        self.measured: dict[tuple[Board, TruthKind], dict[str, Metric]] = defaultdict(dict)
        self.judged_scenes = {truth: {s for s, cards in self.cards.items() if truth in cards} for truth in TRUTHS}
        self.makers: dict[tuple[str, str], set[str]] = defaultdict(set)
        for score in tables.scores:
            self.scores[score.key, score.truth, score.protocol_hash, score.metric] = score
            self.protocols[score.inputs, score.scope].add((score.protocol, score.protocol_hash))
            board = Board(score.inputs, score.scope, score.protocol, score.protocol_hash)
            self.measured[board, score.truth][score.metric] = Metric(score.metric, score.unit, score.better)
            self.judged_scenes[score.truth].add(score.scene)
            self.makers[score.scene, score.truth].update(score.truth_made_by)
        self.left_out: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        for absent in tables.left_out:
            self.left_out[absent.adapter, absent.inputs, absent.views].append(f"{absent.scene}: {absent.reason}")

    def build(self) -> Leaderboard:
        slots: dict[tuple[Board, int], dict[str, list[TrialRow]]] = defaultdict(lambda: defaultdict(list))
        for trial in self.trials:
            for protocol in sorted(self.protocols.get((trial.inputs, trial.scope), {("", "")})):
                board = Board(trial.inputs, trial.scope, *protocol)
                slots[board, trial.views][self.labels[trial.key]].append(trial)
        metrics = {
            place: tuple(metrics[name] for name in metric_order(metrics, self.run.rank_metric))
            for place, metrics in sorted(self.measured.items())
        }
        scored = {truth for _, truth in metrics}
        return Leaderboard(
            groups=tuple(self._group(board, views, slots[board, views]) for board, views in sorted(slots)),
            metrics=metrics,
            truths=tuple(sorted(scored, key=lambda t: (t != self.run.rank_truth, TRUTHS.index(t)))),
            cards=self.cards,
        )

    def _group(self, board: Board, views: int, systems: Mapping[str, list[TrialRow]]) -> Group:
        scores: dict[str, dict[tuple[TruthKind, str], Score]] = {system: {} for system in systems}
        for truth in TRUTHS:
            places = self._places(truth, systems.values())
            for metric in self.measured.get((board, truth), {}).values():
                for system, trials in systems.items():
                    cells = self._cells(board, truth, metric.id, trials, places)
                    if cells:
                        scores[system][truth, metric.id] = Score(metric, cells)
        comparisons: dict[TruthKind, Comparisons] = {}
        standings: dict[str, dict[TruthKind, Standing]] = {system: {} for system in systems}
        for truth in TRUTHS:
            if self.run.rank_metric not in self.measured.get((board, truth), {}):
                timed = [system for system, trials in systems.items() if trials[0].weights == "random"]
                standings |= {system: {**standings[system], truth: Standing(None, 0, TIMED_ONLY)} for system in timed}
                continue
            why = {system: self._unranked(truth, trials, scores[system]) for system, trials in systems.items()}
            field = [system for system, reason in why.items() if not reason]
            comparisons[truth] = compare(
                {system: scores[system][truth, self.run.rank_metric].cells for system in field},
                self.measured[board, truth][self.run.rank_metric].better,
            )
            place = ranks(comparisons[truth])
            kin = [
                system
                for system, reason in why.items()
                if reason.startswith(KIN) and self._has_result(scores[system], truth)
            ]
            agreement = ranks(
                compare(
                    {system: scores[system][truth, self.run.rank_metric].cells for system in kin},
                    self.measured[board, truth][self.run.rank_metric].better,
                )
            )
            for system, reason in why.items():
                standings[system][truth] = Standing(
                    place.get(system), len(field), reason, agreement.get(system), len(kin)
                )
        scenes = {trial.scene for trials in systems.values() for trial in trials}
        rows = [
            Row(
                board,
                system,
                views,
                tuple(trials),
                scores[system],
                standings[system],
                tuple(self.left_out.get((trials[0].adapter, trials[0].inputs, views), ())),
            )
            for system, trials in systems.items()
        ]
        return Group(
            board,
            views,
            tuple(sorted(rows, key=lambda row: order(row, self.run.rank_truth, self.run.rank_metric))),
            comparisons,
            self._agreement(board, comparisons, scores),
            {truth: len(scenes & self.judged_scenes[truth]) for truth in TRUTHS},
        )

    def _places(self, truth: TruthKind, systems: Iterable[list[TrialRow]]) -> set[tuple[str, str]]:
        """The cells of a board at one number of views: what any system that may be ranked was planned for."""
        trials = [trial for of_system in systems for trial in of_system if trial.scene in self.judged_scenes[truth]]
        proper = [t for t in trials if not t.barred] or trials
        return {(trial.scene, trial.view_ids) for trial in proper}

    def _cells(
        self, board: Board, truth: TruthKind, metric: str, trials: list[TrialRow], places: set[tuple[str, str]]
    ) -> tuple[Cell, ...]:
        """One cell a place, and one for each place that only this system has."""
        here: dict[tuple[str, str], list[TrialRow]] = {place: [] for place in places}
        for trial in trials:
            if trial.scene in self.judged_scenes[truth] and trial.weights != "random":
                here.setdefault((trial.scene, trial.view_ids), []).append(trial)
        return tuple(
            self._cell(place, [(t, self.scores.get((t.key, truth, board.protocol_hash, metric))) for t in repeats])
            for place, repeats in sorted(here.items())
            if trials[0].weights != "random"
        )

    def _cell(self, place: tuple[str, str], repeats: list[tuple[TrialRow, ScoreRow | None]]) -> Cell:
        """The repeats of one cell taken together: it has a result only where every repeat has one."""
        kinds = [_outcome(trial, score) for trial, score in repeats]
        bad = [kind for kind in kinds if kind != "ok"]
        if bad or not kinds:
            return Cell(*place, status=bad[0] if bad else "not_run")
        scores = [score for _, score in repeats if score is not None]
        low, high = _all(score.low for score in scores), _all(score.high for score in scores)
        floor, before = _all(score.floor for score in scores), _all(score.before_icp for score in scores)
        judged, least, most = (_all(getattr(score, name) for score in scores) for name in ("judged", "least", "most"))
        values = [score.value for score in scores if score.value is not None]
        pairs = [score.pairs for score in scores if score.pairs is not None]
        return Cell(
            *place,
            status="ok",
            value=fmean(values),
            low=min(low) if low else (min(values) if len(values) > 1 else None),
            high=max(high) if high else (max(values) if len(values) > 1 else None),
            spread=stdev(values) if len(values) > 1 else None,
            floor=fmean(floor) if floor else None,
            before_icp=fmean(before) if before else None,
            judged=fmean(judged) if judged else None,
            least=fmean(least) if least else None,
            most=fmean(most) if most else None,
            pairs=sum(pairs) if len(pairs) == len(scores) else None,
        )

    def _unranked(self, truth: TruthKind, trials: list[TrialRow], scores: ScoreMap) -> str:
        """Why a system has no rank under `truth`; "" where it has one."""
        trial = trials[0]
        if trial.weights == "random":
            return TIMED_ONLY
        if trial.reference:
            return "reference: given the truth"
        if trial.external:
            return "external prediction"
        if any(t.verified is False for t in trials):
            return NOT_VERIFIED
        if other := sorted({t.cameras_of for t in trials if t.cameras_of is not None} - {truth}):
            return f"given the cameras of the {other[0]} truth"
        makers = set().union(*(self.makers.get((t.scene, truth), set()) for t in trials))
        kin = sorted({trial.adapter, *trial.kin} & makers)
        if kin:
            return f"{KIN} ({', '.join(kin)})"
        if all(t.status == "unavailable" for t in trials):
            return "unavailable"
        if not self._has_result(scores, truth):
            score = scores.get((truth, self.run.rank_metric))
            return "no result" if score is None else f"no result ({score.status})"
        return ""

    def _has_result(self, scores: ScoreMap, truth: TruthKind) -> bool:
        score = scores.get((truth, self.run.rank_metric))
        return score is not None and bool(score.good)

    def _agreement(
        self, board: Board, comparisons: Mapping[TruthKind, Comparisons], scores: Mapping[str, ScoreMap]
    ) -> Agreement | None:
        """Kendall's tau between COLMAP's and the exact truth's rankings of the same systems on the same scenes."""
        if not {"colmap", "exact"} <= set(comparisons):
            return None
        both = self.judged_scenes["colmap"] & self.judged_scenes["exact"]
        field = set(comparisons["colmap"].systems) & set(comparisons["exact"].systems)
        places = []
        for truth in JUDGED_ALIKE:
            cells = {name: scores[name][truth, self.run.rank_metric].cells for name in field}
            shared = {name: [cell for cell in of_system if cell.scene in both] for name, of_system in cells.items()}
            whole = all(len(shared[name]) == len(cells[name]) for name in field)
            better = self.measured[board, truth][self.run.rank_metric].better
            places.append(ranks(comparisons[truth] if whole else compare(shared, better), among=field))
        return agreement(*places)


def order(row: Row, truth: TruthKind, metric: str) -> tuple[bool, int, bool, int, bool, int, float, str]:
    """What rows are sorted by under one truth: rank, then agreement of its kin, then those whole, then the mean, then
    the name."""
    standing = row.standings.get(truth, Standing(None, 0, "not scored"))
    places = (standing.rank is None, standing.rank or 0, standing.agreement is None, standing.agreement or 0)
    score = row.scores.get((truth, metric))
    if score is None or score.value is None:
        return (*places, True, 0, 0.0, row.system)
    signed = score.value * (1 if score.metric.better == "lower" else -1)
    missing = len(score.cells) - len(score.good)
    return (*places, False, missing, signed, row.system)


def _all(values: Iterable[float | None]) -> list[float] | None:
    """The values, or None where one is missing."""
    present: list[float] = []
    for value in values:
        if value is None:
            return None
        present.append(value)
    return present


def _outcome(trial: TrialRow, score: ScoreRow | None) -> str:
    if trial.status != "ok":
        return str(trial.status)
    if score is None:
        return "unscored"
    return {"ok": "ok", "failed": "unscorable", "unsupported": "unsupported"}[score.status]


def system_labels(trials: Iterable[TrialRow]) -> dict[str, str]:
    """Trial key -> the system's name: the adapter's, and in brackets what tells it from its other variants; the machine
    as well where two machines ran one trial, so that their seconds stand apart."""
    listed = list(trials)
    variants: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    machines: dict[tuple[str | int, ...], set[str]] = defaultdict(set)
    for trial in listed:
        variants[trial.adapter].add(tuple(getattr(trial, name) for name in (*VARIANT, "hardware")))
        cell = (trial.adapter, trial.inputs, trial.scene, trial.view_ids, trial.repeat, trial.device)
        machines[cell].add(trial.hardware)
    twice = {cell[0] for cell, used in machines.items() if len(used) > 1}
    labels = {}
    for trial in listed:
        names = (*VARIANT, "hardware") if trial.adapter in twice else VARIANT
        differs = [name for i, name in enumerate(names) if len({variant[i] for variant in variants[trial.adapter]}) > 1]
        parts = [f"{name.replace('_', ' ')} {getattr(trial, name)}" for name in differs]
        labels[trial.key] = f"{trial.adapter} [{', '.join(parts)}]" if parts else trial.adapter
    return labels
