"""Files from photos, nothing benchmarked: `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from bench.cli.common import Weights, console, options_of, output


def predict(
    *,
    adapter: Annotated[str, Parameter(help="an adapter's name or folder")],
    images: Annotated[Path, Parameter(help="a folder of photos; masks in masks/NAME.png where the adapter needs them")],
    out: Annotated[Path, Parameter(help="the folder to write PLY, GLB and a COLMAP model to")],
    device: str = "cpu",
    weights: Weights = "pretrained",
    seed: int = 0,
    option: Annotated[list[str] | None, Parameter(help="NAME=VALUE, may be repeated")] = None,
    deadline: Annotated[float, Parameter(help="seconds")] = 3600.0,
) -> int:
    """Reconstruct photos with one adapter and write files; nothing is benchmarked or stored."""
    from adapters.contract import InputError, Views
    from bench.systems.cards import get_adapter
    from bench.systems.measure import Policy
    from bench.systems.process import run_adapter
    from bench.trials.scenes import scene_of_images
    from data.exchange import write_files
    from reports.text import NOT_ISOLATED

    system, scene = get_adapter(adapter), scene_of_images(images)
    if needs := [given for given in system.card.requires if given != "masks"]:
        raise InputError(f"adapter {adapter} requires {', '.join(needs)}, which a folder of photos does not hold")
    if "masks" in system.card.requires and not scene.has_masks:
        raise InputError(f"{images}: no masks/ folder seen, adapter {adapter} wants a mask for each image")
    views = Views(
        images=scene.images(scene.view_names),
        names=tuple(f"{i:03d}" for i in range(len(scene.view_names))),
        masks=scene.masks(scene.view_names) if "masks" in system.card.requires else None,
    )
    policy = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=deadline)
    with console.status(Text(f"{system.card.title} on {len(views)} views")):
        outcome, prediction = run_adapter(
            system, views, options=options_of(option), device=device, weights=weights, seed=seed, policy=policy
        )
    if outcome.status == "unavailable":
        raise InputError(f"{adapter}: {outcome.message}")
    if prediction is None:
        console.print(f"{outcome.status}: {outcome.message}", style="red", markup=False)
        console.print(outcome.log_tail, markup=False, style="dim")
        return 1
    names = tuple(Path(view.image).name for view in scene.file.views)
    for path in write_files(prediction, views, names, out):
        output.print(str(path), markup=False)
    if prediction.registered is not None:
        lost = [name for name, placed in zip(names, prediction.registered, strict=True) if not placed]
        without = f"; no place found for {', '.join(lost)}" if lost else ""
        console.print(f"{len(names) - len(lost)} of {len(names)} photos placed{without}", markup=False)
    seconds = outcome.cold.total if outcome.cold else 0.0
    console.print(f"{len(prediction.points)} points in {seconds:.1f} s, {outcome.peak_rss / 2**30:.2f} GiB")
    if not outcome.isolated:
        console.print(f"{NOT_ISOLATED}: this system permits no walls", style="yellow")
    return 0
