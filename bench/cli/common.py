"""What every command shares: the two consoles, where things lie, how flags are read."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from reports.text import shown

if TYPE_CHECKING:
    from bench.trials.records import TrialRecord
    from bench.trials.store import Store
    from reports.schema import Tables


class PlainConsole(Console):
    """Prints texts as they are: no markup unless it is asked for, and what is hidden in a text is spelled out, so that
    no name and no message moves the cursor, recolours a line or turns the writing round."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What `renderable` becomes, its texts as `reports.text.shown`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


# Results go to standard output; progress and messages to standard error.
console = PlainConsole(stderr=True)
output = PlainConsole(width=None if sys.stdout.isatty() else 200)

STORE = Path("runs/store")
REPORT = Path("runs/report")
MOST_PROBLEMS = 5  # sentences; their number is told whatever it is
Truth = Literal["colmap", "exact", "scan"]
Weights = Annotated[str, Parameter(help="pretrained, random (timed only), or a checkpoint's path")]
SWEEP = "also under other alignments and fewer of the surest points: reports then print rank stability"
BundleScenes = Annotated[
    str, Parameter(help="Scene directories that bundles name without holding them, comma-separated")
]
MetricsDevice = Annotated[
    str | None,
    Parameter(help="cpu or cuda:N, what measures; scores by another backend than the protocol's are never ranked"),
]


def refuse(sentence: str) -> int:
    """Print `sentence` as an error and return exit code 2."""
    console.print(f"reconbench: {sentence}", style="red", markup=False)
    return 2


def say_not_scored(tables: Tables) -> None:
    """Print what no score was stored of yet, if there is any."""
    if tables.run.not_scored:
        console.print(f"{tables.run.not_scored}.", style="yellow", markup=False)


def say_unreadable(store: Store) -> None:
    """Print which records of `store` are left out because they cannot be read, if any are."""
    problems = store.unreadable()
    for problem in problems[:MOST_PROBLEMS]:
        console.print(problem.sentence, style="yellow", markup=False)
    if problems:
        console.print(
            f"{len(problems)} records left out: `reconbench store check {store.path} --repair` sets them aside.",
            style="yellow",
            markup=False,
        )


def say_gone(record: TrialRecord) -> None:
    """Tell of a record whose scene is no longer where it was."""
    console.print(f"{record.system} on {record.scene}: the scene is gone or has no truth, not scored", markup=False)


def split(text: str) -> list[str]:
    """The comma-separated parts of `text`; one in double quotes may hold commas."""
    if '"' not in text:
        return [part.strip() for part in text.split(",") if part.strip()]
    from bench.systems.cards import list_values

    return list_values(text)


def integers(flag: str, text: str) -> tuple[int, ...]:
    """The whole numbers of a comma-separated `text`; InputError naming `flag` otherwise."""
    from adapters.contract import InputError

    try:
        return tuple(int(part) for part in split(text))
    except ValueError as error:
        raise InputError(f"{flag}: {text!r} seen, whole numbers such as 1,2,4 wanted") from error


def options_of(pairs: list[str] | None) -> dict[str, str | int | float | bool]:
    """`NAME=VALUE` pairs, values as `bench.systems.cards.option_value` reads them."""
    from adapters.contract import InputError
    from bench.systems.cards import option_value

    options: dict[str, str | int | float | bool] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--option: {pair!r} seen, NAME=VALUE wanted")
        options[name] = option_value(value)
    return options
