"""The scenes: `data list`, `data show`, and `groundtruth`, which makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bench.cli.common import console, output

app = App(name="data", help="The scenes: list, show.")


@app.command(name="list")
def list_scenes() -> int:
    """Every embedded scene."""
    from rich.table import Table

    from bench.scoring.collect import truth_card
    from bench.trials.scenes import embedded_scenes
    from data.scene import Scene

    table = Table(box=None, pad_edge=False)
    for column in ("scene", "title", "views", "masks", "difficulty", "ground truth", "licence"):
        table.add_column(column)
    for path in embedded_scenes().values():
        scene = Scene.open(path)
        truths = [f"{kind} ({card.verdict})" for kind in scene.truth_kinds if (card := truth_card(scene, kind))]
        masks = "yes" if scene.has_masks else "no"
        file = scene.file
        table.add_row(
            scene.name, file.title, str(len(file.views)), masks, file.difficulty, ", ".join(truths), file.licence
        )
    output.print(table)
    return 0


@app.command(name="show")
def show_scene(name: str, /) -> int:
    """One scene: its views, its truths, its quality card."""
    from bench.scoring.collect import truth_card
    from bench.trials.scenes import get_scene

    scene = get_scene(name)
    output.print(f"{scene.file.title} ({scene.path})", markup=False)
    output.print(f"  {len(scene.file.views)} views; {scene.file.licence}; {scene.file.source}", markup=False)
    for kind in scene.truth_kinds:
        card = truth_card(scene, kind)
        output.print(
            f"  {kind} truth {card.id}: {card.verdict or 'no verdict'}, diameter {card.diameter:.4g}", markup=False
        )
    quality = scene.path / "quality.json"
    if quality.is_file():
        output.print(quality.read_text(), markup=False)
    return 0


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
    """Build COLMAP ground truth from photos, with a quality card that says how far to trust it."""
    from bench.cli.show import progress_bar
    from data.groundtruth.build import build_groundtruth

    with progress_bar(console) as bar:
        task = bar.add_task("ground truth", total=100)
        card = build_groundtruth(
            source,
            out,
            name=name,
            seed=seed,
            frames=frames,
            timeout=timeout,
            dense=dense,
            mesh=mesh,
            progress=lambda what, share: bar.update(task, description=what, completed=round(100 * share)),
        )
    output.print(f"{out}: {card.verdict}", markup=False)
    for reason in card.reasons:
        output.print(f"  {reason}", markup=False)
    return 0
