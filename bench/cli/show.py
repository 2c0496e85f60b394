"""What the command line shows: plans, progress, scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from bench.engines.local import Progress
from bench.systems.measure import memory_limit_bytes
from bench.trials.plan import Trial, estimate_seconds
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.groundtruth.quality import QualityCard, advice
from reports.text import NOT_ISOLATED, TRUTH_NAMES

BYTES_A_POINT = 24  # of a stored cloud, compressed: position, colour, confidence, pixel
UNMEASURED_POINTS = 400_000  # of an adapter that was never run here


def progress_bar(console: Console) -> Bar:
    """A bar on `console`."""
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        # Drawn ten times a second, as by default, it took 4% of a core from what is timed beside it.
        refresh_per_second=2,
        auto_refresh=console.is_terminal,
    )


class ShownRun:
    """A run's progress: a line a finished trial, and what is running now."""

    def __init__(self, console: Console, total: int) -> None:
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("starting", total=total)
        self.progress = Progress(self._compiling, self._started, self._finished, self._left_out, self._remark)

    def __enter__(self) -> ShownRun:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _compiling(self) -> None:
        self._bar.update(self._task, description="compiling what scores: once an installation")

    def _started(self, trial: Trial, seconds: float) -> None:
        self._bar.update(self._task, description=f"{trial.label} (about {seconds:.0f} s)")

    def _finished(self, trial: Trial, record: TrialRecord, scores: list[ScoreRecord], reused: bool) -> None:
        cold = f"{record.cold.total:.2f} s" if record.cold else ""
        what = f"{outcome(record, scores)} {cold} {record.message[:600]}".rstrip()
        what += " (stored already)" if reused else ""
        what += f" ({NOT_ISOLATED})" if record.ran and not record.isolated else ""
        self._bar.console.print(f"{trial.label}: {what}", markup=False)
        self._bar.advance(self._task)

    def _remark(self, sentence: str) -> None:
        self._bar.console.print(f"{sentence}.", markup=False, style="yellow")

    def _left_out(self, trial: Trial, reason: str) -> None:
        self._bar.console.print(f"{trial.label}: left out, {reason}", markup=False, style="yellow")
        self._bar.advance(self._task)


def outcome(record: TrialRecord, scores: list[ScoreRecord]) -> str:
    """How a trial ended, in a word or a sentence: `ok` where at least one of its scores has a value for the shape.

    Cameras alone, as two registered of sixteen have them, are not the reconstruction that is ranked."""
    if record.status != "ok":
        return record.status
    if record.timed_only:
        return "timed"
    if not scores:
        return "ran, not scored (no ground truth)"
    values = [value for score in scores for value in score.values if value.metric == "accuracy"]
    if any(value.status == "ok" for value in values):
        return "ok"
    return f"ran, not scorable ({next((value.note for value in values if value.note), 'no metric has a value')})"


def who_ranks(trials: Sequence[Trial]) -> Iterator[str]:
    """A sentence for each truth of the scenes of `trials`, before they run: which systems it can rank, which share its
    method and are compared by agreement with it, which are shown alone."""
    here = [trial for trial in trials if trial.available and not trial.lacks]
    scored = [trial for trial in here if not trial.policy.timing_only]
    elsewhere = [trial for trial in trials if trial.adapter.card.unavailable]
    if absent := dict.fromkeys(t.system for t in trials if not t.available and t not in elsewhere):
        yield f"Not installed here: {', '.join(absent)}; `reconbench adapters install NAME` and `fetch NAME`."
    if elsewhere:
        names = ", ".join(dict.fromkeys(trial.system for trial in elsewhere))
        yield f"Cannot run on this platform, as their cards say: {names}."
    for kind in dict.fromkeys(kind for trial in scored for kind in trial.scene.truth_kinds):
        ranked, kin, apart = dict[str, None](), dict[str, None](), dict[str, None]()
        for trial in scored:
            if kind not in trial.scene.truth_kinds:
                continue
            card, makers = trial.adapter.card, {*trial.scene.truth_file(kind).made_by}
            if card.reference or trial.weights == "random" or trial.cameras_of not in (None, kind):
                apart[trial.system] = None
            elif {trial.adapter.name, *card.kin} & makers:
                kin[trial.system] = None
            else:
                ranked[trial.system] = None
        parts = [f"ranked: {', '.join(ranked) or 'none of these systems'}"]
        parts += [f"of its own method, so compared by agreement with it: {', '.join(kin)}"] if kin else []
        parts += [f"shown, not ranked: {', '.join(apart)}"] if apart else []
        yield f"Under the {TRUTH_NAMES[kind]}: {'; '.join(parts)}."


def print_plan(output: Console, trials: list[Trial], store: Store, budget: float | None, where: str = "") -> None:
    """Every trial with its estimated seconds, then the sums: time, disk, memory; and `where` they run, if not here."""
    machines = {machine.fingerprint for trial in trials for machine in trial.site.machines}
    known = [record for record in store.trials() if record.hardware.fingerprint in machines]
    table = Table(box=None, pad_edge=False)
    for column in ("adapter", "inputs", "scene", "views", "seed", "state", "seconds"):
        table.add_column(column, justify="right" if column in ("views", "seed", "seconds") else "left")
    total = largest = disk = 0.0
    for trial in trials:
        done = store.measured(*trial.keys) is not None
        seconds = 0.0 if done or not trial.available else estimate_seconds(trial, known)
        total += seconds
        same = [record.peak_rss for record in known if record.adapter_hash == trial.adapter.hash]
        largest = max([largest, *same])
        points = [record.points for record in known if record.adapter_hash == trial.adapter.hash and record.points]
        disk += max(points, default=UNMEASURED_POINTS) * BYTES_A_POINT / 2**30
        state = "stored" if done else "to run" if trial.available else "unavailable"
        row = (trial.adapter.name, trial.inputs, trial.scene.name, str(len(trial.views)), str(trial.seed), state)
        table.add_row(*row, f"{seconds:.0f}")
    output.print(table)
    output.print(f"{len(trials)} trials, about {total:.0f} s, about {disk:.1f} GiB in {store.place}", markup=False)
    if where:
        output.print(where, markup=False)
    memory = (
        f"{largest / 2**30:.1f} GiB was the most a trial of these took here" if largest else "not measured here yet"
    )
    output.print(f"memory: {memory}; limit {memory_limit_bytes(trials[0].policy) / 2**30:.1f} GiB a trial")
    if budget is not None and total > budget:
        output.print(f"The budget is {budget:.0f} s: what does not fit will be named and left out.")


def print_card(output: Console, place: Path, card: QualityCard) -> None:
    """A ground truth's verdict with its reasons, what became of every photo, and what would help a refused one."""
    output.print(f"{place}: {card.verdict}", markup=False)
    placed = [photo for photo in card.photos if photo.placed]
    sentences = [*card.reasons, *card.notes]
    if card.photos:
        sentences.append(f"{len(placed)} of {len(card.photos)} files placed")
    # Files of one fate in one line: a folder may hold hundreds.
    fates: dict[str, list[str]] = {}
    for photo in card.photos:
        if not photo.placed or photo.why:
            fates.setdefault(f"{'placed' if photo.placed else 'not placed'}, {photo.why}", []).append(photo.file)
    sentences += [f"{', '.join(files)}: {fate}" for fate, files in fates.items()]
    sentences += [f"these belong together: {', '.join(group)}" for group in card.groups if len(group) > 1]
    for sentence in (*sentences, *advice(card)):
        output.print(f"  {sentence}", markup=False)


def print_score(output: Console, record: TrialRecord, score: ScoreRecord) -> None:
    """One score as a small table."""
    title = f"{record.system} on {record.scene}, {len(record.views)} views, {score.truth} truth, {score.protocol}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("metric", "value", "interval", "floor", "before ICP", "judged", "bounds", "note"):
        table.add_column(column, justify="left" if column in ("metric", "note") else "right")
    for value in score.values:
        if value.value is None:
            continue
        interval = "" if value.low is None else f"{value.low:.4g} .. {value.high:.4g}"
        numbers = ["" if number is None else f"{number:.4g}" for number in (value.floor, value.before_icp)]
        numbers.append("" if value.judged is None else f"{value.judged:.0%}")
        numbers.append("" if value.least is None else f"{value.least:.2f} .. {value.most:.2f}")
        table.add_row(value.metric, f"{value.value:.4g} {value.unit}", interval, *numbers, value.note)
    if table.row_count:
        output.print(table)
    else:
        output.print(title, markup=False)
    missing: dict[str, list[str]] = {}
    for value in score.values:
        if value.value is None:
            missing.setdefault(f"{value.status}: {value.note}", []).append(value.metric)
    for reason, metrics in missing.items():
        output.print(f"  {', '.join(metrics)}: {reason}", markup=False)
    for note in score.notes:
        output.print(f"  {note}", markup=False)
