"""The answer in words: which system to use with how many views, what it costs, and what was not measured.

Computed from the rows of a leaderboard and nothing else, so that every word of it can be checked against the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from adapters.contract import TruthKind
from reports import text
from reports.board import Board, Group, Leaderboard, Row, Score
from reports.schema import Better, Tables

Worth = Literal["ranked", "agreement", "shown"]
MOST_NAMED = 8  # systems in a sentence on what was not measured
WORTHWHILE = 0.5  # share of the best quality below which a quick system is not worth a sentence


@dataclass(frozen=True)
class Choice:
    """One system at one number of views, with a result: what it is worth and what it costs."""

    row: Row
    worth: Worth  # ranked by the truth, compared by agreement with the system that made it, or neither
    quality: float
    seconds: float | None  # a warm run's, else the first call's
    memory: int | None  # bytes: the device's where it works on one, else of the process tree
    quickest: bool = False  # no other choice is as good in fewer seconds
    smallest: bool = False  # nor in less memory

    @property
    def costs(self) -> str:
        """In words: in 54.0 s and 1.10 GiB."""
        parts = [text.seconds(self.seconds)] if self.seconds is not None else []
        parts += [text.size(self.memory)] if self.memory is not None else []
        return f"in {' and '.join(parts)}" if parts else "at costs that were not measured"


@dataclass(frozen=True)
class Answer:
    """What the first screen says: sentences, and the choices of the one table that it speaks of first."""

    sentences: tuple[str, ...]
    board: Board | None
    truth: TruthKind
    metric: str
    unit: str
    better: Better
    choices: tuple[Choice, ...]  # of `board`, by views, the best first


def answer(board: Leaderboard, tables: Tables) -> Answer:
    """The answer that `board` gives under the truth that ranks; a pure function of its rows and of `tables`."""
    metric, truth = tables.run.rank_metric, tables.run.rank_truth
    ways = {place: choices(board, place, truth, metric) for place in board.boards}
    opening = opening_board(board, truth, metric)
    order = sorted(ways, key=lambda place: (place != opening, place.inputs, place.scope, place.protocol_hash))
    spoken = [place for place in order if ways[place]]
    sentences = [s for place in spoken for s in _of_board(board, place, ways[place], truth, metric, len(spoken) > 1)]
    if not spoken:
        sentences.append("Nothing here has a score yet, so there is no answer.")
    sentences += [*_judge(board, truth), *_not_measured(board, tables)]
    first = opening if opening in spoken else (spoken[0] if spoken else opening)
    known = ways[first][0].row.scores[truth, metric].metric if first is not None and ways[first] else None
    return Answer(
        tuple(sentences),
        first,
        truth,
        metric,
        known.unit if known else "",
        known.better if known else "higher",
        ways[first] if first is not None else (),
    )


def opening_board(board: Leaderboard, truth: TruthKind, metric: str) -> Board | None:
    """The table shown first: where most systems are ranked, else where most can be compared, photos alone first."""

    def worth(place: Board) -> tuple[int, int, bool]:
        own = {row.system for row in board.rows if row.board == place and _worth(row, truth) != "shown"}
        ranked = board.ranked(place, truth)
        return ranked if ranked > 1 else 0, len(own), place.inputs == "images"

    return max(board.boards, key=worth, default=None)


def choices(board: Leaderboard, place: Board, truth: TruthKind, metric: str) -> tuple[Choice, ...]:
    """Every row of `place` that has a score and was not given the truth, made elsewhere or only timed: most views
    first, then the best; those on either Pareto front are marked, over all numbers of views."""
    chosen = []
    for group in board.groups:
        for row in group.rows if group.board == place else ():
            score = row.scores.get((truth, metric))
            if any(trial.barred for trial in row.trials) or score is None or score.value is None:
                continue
            seconds = row.seconds("warm_seconds") or row.seconds("cold_seconds")
            memory = row.amount("device_peak_bytes") or row.amount("peak_rss_bytes")
            chosen.append(
                Choice(
                    row,
                    _worth(row, truth),
                    score.value,
                    seconds.middle if seconds else None,
                    int(memory.high) if memory else None,
                )
            )
    if not chosen:
        return ()
    sign = 1.0 if chosen[0].row.scores[truth, metric].metric.better == "higher" else -1.0
    times = [(choice.quality, choice.seconds) for choice in chosen]
    sizes = [(choice.quality, choice.memory) for choice in chosen]
    marked = [
        replace(
            choice,
            quickest=_on_front(choice.quality, choice.seconds, times, sign),
            smallest=_on_front(choice.quality, choice.memory, sizes, sign),
        )
        for choice in chosen
    ]
    return tuple(sorted(marked, key=lambda choice: (-choice.row.views, -sign * choice.quality, choice.row.system)))


def _on_front(quality: float, cost: float | None, others: Sequence[tuple[float, float | None]], sign: float) -> bool:
    """Whether none of `others` is as good at less, or better at as much."""
    if cost is None:
        return False
    return not any(
        there is not None
        and sign * good >= sign * quality
        and there <= cost
        and (sign * good > sign * quality or there < cost)
        for good, there in others
    )


def _worth(row: Row, truth: TruthKind) -> Worth:
    standing = row.standings.get(truth)
    if standing is None:
        return "shown"
    return "ranked" if standing.rank is not None else "agreement" if standing.agreement is not None else "shown"


def _of_board(
    board: Leaderboard, place: Board, chosen: Sequence[Choice], truth: TruthKind, metric: str, named: bool
) -> Iterator[str]:
    """What one table says: the best at each number of views, the quickest, and who finds nothing where."""
    given = f"Given {_names(place.inputs.split('+'))}, w" if named and place.inputs != "images" else "W"
    by_views: dict[int, list[Choice]] = defaultdict(list)
    for choice in chosen:
        by_views[choice.row.views].append(choice)
    spoken = ""
    # First where most systems can be compared: what one of them alone did with more views answers nothing yet.
    told = sorted(
        by_views.items(), key=lambda item: (sum(choice.worth != "shown" for choice in item[1]), item[0]), reverse=True
    )
    for index, (views, own) in enumerate(told):
        group = next(group for group in board.groups if group.board == place and group.views == views)
        best, what = _best(group, own, truth, metric)
        if index and what == spoken:
            continue
        spoken = what
        lead = best[0]
        score = lead.row.scores[truth, metric]
        here = index == 0 and not lead.row.distinct("origin")  # what came in a bundle was timed elsewhere
        yield (
            f"{given if index == 0 else 'W'}ith {views} view{'s' * (views != 1)}{' on this machine' * here} "
            f"{what}: {metric} {_value(score)}, {lead.costs}."
        )
    yield from _quick(chosen, told[0][1][0], truth, metric)
    yield from _blind(board, place, {choice.row.system for choice in chosen}, truth, metric)


def _best(group: Group, own: Sequence[Choice], truth: TruthKind, metric: str) -> tuple[list[Choice], str]:
    """The best of one table at one number of views, the one to name first, and what is said of them."""
    ranked = [choice for choice in own if choice.worth == "ranked"]
    if ranked:
        top = [choice for choice in ranked if choice.row.standings[truth].rank == 1] or ranked[:1]
        names = _names([choice.row.system for choice in top])
        if len(ranked) == 1:
            return top, f"{names} alone is ranked"
        if len(top) > 1:
            return top, f"{names} are best and not told apart"
        return top, f"{names} is best of {len(ranked)}"
    kin = [choice for choice in own if choice.worth == "agreement"]
    if kin:
        maker = "COLMAP" if truth == "colmap" else "its maker"
        if len(kin) == 1:
            return kin, f"{kin[0].row.system} alone can be compared, by agreement with {maker}, whose method it shares"
        return kin, f"{kin[0].row.system} agrees best of {len(kin)} with {maker}, whose method they share"
    return list(own), f"{own[0].row.system} leads, unranked ({own[0].row.standings[truth].reason or 'no standing'})"


def _quick(chosen: Sequence[Choice], best: Choice, truth: TruthKind, metric: str) -> Iterator[str]:
    """One sentence on the quickest choice that still is worth something beside the best."""
    higher = best.row.scores[truth, metric].metric.better == "higher"
    worthwhile = [
        choice
        for choice in chosen
        if choice.quickest and choice.quality * best.quality > 0 and _share(choice, best, higher) >= WORTHWHILE
    ]
    quick = min(worthwhile, key=lambda choice: choice.seconds or 0.0, default=None)
    if quick is None or best.seconds is None or quick.seconds is None or quick.seconds > 0.5 * best.seconds:
        return
    yield (
        f"{quick.row.system} with {quick.row.views} view{'s' * (quick.row.views != 1)} is quicker: "
        f"{_value(quick.row.scores[truth, metric])}, {quick.costs}."
    )


def _share(choice: Choice, best: Choice, higher: bool) -> float:
    """How much of the quality of `best` this one has."""
    return choice.quality / best.quality if higher else best.quality / choice.quality


def _blind(board: Leaderboard, place: Board, scored: set[str], truth: TruthKind, metric: str) -> Iterator[str]:
    """Which systems were tried and have no result at some numbers of views."""
    lost: dict[str, list[int]] = defaultdict(list)
    kept: dict[str, list[int]] = defaultdict(list)
    for row in board.rows:
        if row.board != place or all(trial.status == "unavailable" for trial in row.trials):
            continue
        if any(trial.barred for trial in row.trials):
            continue
        score = row.scores.get((truth, metric))
        if score is not None and score.value is not None:
            kept[row.system].append(row.views)
        elif score is not None:
            lost[row.system].append(row.views)
    for system, counts in sorted(lost.items()):
        below = kept.get(system) and max(counts) < min(kept[system])
        if below:
            yield f"{system} finds nothing below {min(kept[system])} views (tried: {_counts(counts)})."
        else:
            kinds = {kind for row in board.rows if row.system == system for kind in row.failures(truth, metric)}
            yield f"{system} has no result with {_counts(counts)} views: {_names(sorted(kinds)).replace('_', ' ')}."


def _judge(board: Leaderboard, truth: TruthKind) -> Iterator[str]:
    """How far the truth itself can be trusted."""
    cards = [(scene, cards[truth]) for scene, cards in sorted(board.cards.items()) if truth in cards]
    if truth == "exact":
        return
    for verdict in dict.fromkeys(card.verdict for _, card in cards if card.verdict):
        own = [(scene, card) for scene, card in cards if card.verdict == verdict]
        ends = [end for _, card in own for end in card.predicted or ()]
        error = f", its points expected {_range(ends)}% of the diameter off the surface" if ends else ""
        yield f"The ground truth of {_names([scene for scene, _ in own])} is {verdict}{error}."


def _range(ends: Sequence[float]) -> str:
    return f"{text.number(min(ends), 2)} to {text.number(max(ends), 2)}"


def _not_measured(board: Leaderboard, tables: Tables) -> Iterator[str]:
    """What was left out, and the one command that mends it."""
    absent: dict[str, dict[str, str]] = defaultdict(dict)  # by how it is mended, the system's name left out
    for row in board.rows:
        if all(trial.status == "unavailable" for trial in row.trials):
            message = row.first.message or "it cannot be run here"
            absent[message.replace(row.first.adapter, "")].setdefault(row.first.title, message)
    for messages in absent.values():
        titles = sorted(messages)
        alike = " (likewise the others)" if len(titles) > 1 else ""
        message = messages[titles[0]].removesuffix(".")
        yield f"Not measured: {_names(titles)}: {message}{alike}."
    missing: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for left in tables.left_out:
        why = "for want of time" if "of the budget" in left.reason else left.reason
        missing[why][left.adapter].append(left.views)
    for why, systems in missing.items():
        listed = [f"{name} ({_counts(views)} views)" for name, views in sorted(systems.items())]
        shown = listed[:MOST_NAMED] + ([f"{len(listed) - MOST_NAMED} more"] if len(listed) > MOST_NAMED else [])
        yield f"Planned and not measured, {why}: {_names(shown)}."


def _value(score: Score) -> str:
    """A score in words, with its interval where it has one and its unit where that is not a ratio."""
    unit = "" if score.metric.unit == "ratio" else f" {score.metric.unit}".replace(" %", "%")
    ends = score.bounds
    interval = f" ({text.number(ends[0])} to {text.number(ends[1])})" if ends else ""
    return f"{text.number(score.value)}{unit}{interval}"


def _names(names: Sequence[str]) -> str:
    """Joined as in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def _counts(counts: Sequence[int]) -> str:
    return _names([str(count) for count in sorted(set(counts))])
