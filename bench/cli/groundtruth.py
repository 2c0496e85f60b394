"""A Scene with ground truth from photos or a video: `groundtruth`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.common import console, output

KeepLargest = Annotated[bool, Parameter(help="of photos of several places, go on with the largest group alone")]


def groundtruth(
    source: Annotated[Path, Parameter(name="INPUT", help="a folder of photos, a video, or a Scene directory")],
    /,
    *,
    out: Annotated[Path, Parameter(help="the Scene directory to write")],
    name: Annotated[str | None, Parameter(help="the scene's name; default: the input's")] = None,
    seed: int = 0,
    frames: Annotated[int, Parameter(help="taken from a video: the sharpest of each equal span")] = 60,
    timeout: Annotated[float, Parameter(help="seconds for structure from motion")] = 3600.0,
    dense: Annotated[bool, Parameter(help="also the dense surface, by multi-view stereo")] = True,
    mesh: Annotated[bool, Parameter(help="also a Poisson mesh of it, truth/colmap-mesh.ply")] = False,
    keep_largest: KeepLargest = False,
) -> int:
    """Build COLMAP ground truth from photos, with a quality card that says how far to trust it.

    Exit code 1 where it is refused: the scene is written without a truth, and its card says why."""
    from bench.cli.show import print_card
    from bench.trials.groundtruth import behind_walls
    from data.groundtruth.build import Wanted, build_groundtruth

    wanted = Wanted(
        name=name, seed=seed, frames=frames, timeout=timeout, dense=dense, mesh=mesh, keep_largest=keep_largest
    )
    with shown_progress() as progress:
        card = build_groundtruth(source, out, wanted, progress, behind_walls)
    print_card(output, out, card)
    return 1 if card.verdict == "refused" else 0


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[[str, float], None]]:
    """What shows how far a ground truth is: a bar on the terminal, a line a stage in a log."""
    from bench.cli.show import progress_bar

    told: list[str] = []
    with progress_bar(console) as bar:
        task = bar.add_task("ground truth", total=100)

        def advance(what: str, share: float) -> None:
            bar.update(task, description=what, completed=round(100 * share))
            if not console.is_terminal and told[-1:] != [what]:  # a log has no bar
                told.append(what)
                console.print(f"{what} ...")

        yield advance
