"""The scenes: `data list`, `data show`."""

from __future__ import annotations

from cyclopts import App

from bench.cli.common import output

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
