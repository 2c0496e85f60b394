"""A Scene with ground truth from photos or a video: `groundtruth`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.common import console, output

if TYPE_CHECKING:
    from data.groundtruth.quality import QualityCard


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
) -> int:
    """Build COLMAP ground truth from photos, with a quality card that says how far to trust it.

    Exit code 1 where it is refused: the scene is written without a truth, and its card says why."""
    from data.groundtruth.quality import advice

    card = build(source, out, name=name, seed=seed, frames=frames, timeout=timeout, dense=dense, mesh=mesh)
    output.print(f"{out}: {card.verdict}", markup=False)
    for sentence in (*card.reasons, *card.notes, *advice(card)):
        output.print(f"  {sentence}", markup=False)
    return 1 if card.verdict == "refused" else 0


def build(
    source: Path,
    out: Path,
    *,
    name: str | None,
    seed: int,
    frames: int,
    timeout: float,
    dense: bool = True,
    mesh: bool = False,
) -> QualityCard:
    """`build_groundtruth` behind the walls, its progress on standard error."""
    from bench.cli.show import progress_bar
    from bench.trials.groundtruth import behind_walls
    from data.groundtruth.build import build_groundtruth

    with progress_bar(console) as bar:
        task = bar.add_task("ground truth", total=100)
        return build_groundtruth(
            source,
            out,
            name=name,
            seed=seed,
            frames=frames,
            timeout=timeout,
            dense=dense,
            mesh=mesh,
            progress=lambda what, share: bar.update(task, description=what, completed=round(100 * share)),
            make=behind_walls,
        )
