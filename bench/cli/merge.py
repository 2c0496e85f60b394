"""Several stores in one: `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.common import console


def merge(
    *stores: Path,
    into: Annotated[Path, Parameter(help="the store that receives")],
) -> int:
    """Copy the trials, scores and predictions of other stores into one."""
    from bench.trials.store import Store

    for other in stores:
        copied = Store(into).merge(Store(other))
        console.print(f"{other}: {copied} trials copied", markup=False)
    return 0
