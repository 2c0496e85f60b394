"""Several stores in one: `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.common import console


def merge(
    *stores: Annotated[str, Parameter(help="folders, or URLs that a cluster's runs were kept at")],
    into: Annotated[Path, Parameter(help="the store that receives")],
) -> int:
    """Copy the trials, scores and predictions of other stores into one."""
    from bench.trials.shared import opened
    from bench.trials.store import Store

    for place in stores:
        with opened(place) as other:
            copied = Store(into).merge(other)
        console.print(f"{place}: {copied} trials copied", markup=False)
    return 0
