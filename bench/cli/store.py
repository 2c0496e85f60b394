"""Looking after a store: `store check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.text import Text

from bench.cli.common import STORE, console, output

app = App(name="store", help="A store's health.")


@app.command
def check(
    store: Annotated[Path, Parameter(help="the store to look through")] = STORE,
    *,
    repair: Annotated[bool, Parameter(help="set what is broken aside, under quarantine/ in the store")] = False,
) -> int:
    """Read every record and prediction of a store and name what is broken. Exit code 1 where something is left so."""
    from adapters.contract import InputError
    from bench.trials.store import Store

    if not (store / "trials").is_dir():
        raise InputError(f"{store}: no trials/ seen, a store wanted")
    kept = Store(store)
    with console.status(Text(f"reading {store}")):
        problems = kept.repair() if repair else kept.problems()
        trials = len(kept.trials())
    for problem in problems:
        output.print(problem.sentence, markup=False)
    if repair and problems:
        console.print(
            f"{len(problems)} files set aside in {store / 'quarantine'}; what they held is run again on demand."
        )
    console.print(f"{trials} trials read, {len(problems)} problems.", markup=False)
    return 1 if problems and not repair else 0
