"""The scenes: `data list`, `data show`, `data import`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bench.cli.common import console, output, refuse

app = App(name="data", help="The scenes: list, show, import from published datasets.")


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


@app.command(name="import")
def import_scene(
    layout: str | None = None,
    path: Path | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="the Scene directory to make")] = None,
    views: Annotated[str, Parameter(help="all, a number, or a subset that --list names; 64 at most by default")] = "",
    pin: Annotated[str | None, Parameter(help="refuse unless the views have this sha256, or begin with it")] = None,
    list_layouts: Annotated[bool, Parameter(name="--list", negative="", help="the layouts, their licences")] = False,
) -> int:
    """A scene of a published dataset, as its download lays it out on disk, as a Scene directory.

    Photos are referred to where they lie, with their hash; nothing is downloaded. `docs/datasets.md` has every layout.
    """
    from bench.cli.show import progress_bar
    from data.catalog import find_layout, layouts
    from data.catalog.shared.write import write_capture
    from data.scene import Scene

    if list_layouts:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for column in ("layout", "dataset", "state", "licence", "PATH", "subsets"):
            table.add_column(column)
        for entry in layouts().values():
            subsets = ", ".join(subset.name for subset in entry.subsets)
            table.add_row(entry.name, entry.title, entry.state, entry.licence, entry.folder, subsets)
        output.print(table)
        return 0
    if layout is None or path is None or out is None:
        return refuse(f"data import: a layout ({', '.join(layouts())}), a path and --out wanted")
    chosen = find_layout(layout)
    with progress_bar(console) as bar:
        task = bar.add_task("reading", total=100)
        made = write_capture(
            chosen.read(path),
            chosen,
            path,
            out,
            views,
            pin,
            lambda what, share: bar.update(task, description=what, completed=round(100 * share)),
        )
    for note in made.notes:
        console.print(f"  {note}", markup=False)
    agreement = "" if made.agreement is None else f"; {made.agreement:.0%} of the points agree with the depth maps"
    output.print(f"{made.path}: {made.views} of {made.of} views, {made.points:,} points{agreement}", markup=False)
    output.print(f"  licence: {chosen.licence}; layout {chosen.state}", markup=False)
    truth = Scene.open(made.path).truth_kinds[0]
    output.print(f"  to run on it: reconbench run --scenes {shlex.quote(str(made.path))} --truth {truth}", markup=False)
    output.print(f"  the same views again: --views {views or 'all'} --pin {made.views_sha256[:16]}", markup=False)
    return 0
