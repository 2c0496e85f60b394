"""Where a network looks: `attention`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from bench.cli.common import console, options_of, output, refuse


def attention(
    *,
    adapter: Annotated[str, Parameter(help="an adapter whose folder holds an attention.py: vggt")],
    out: Annotated[Path, Parameter(help="the folder to write attention.html to")],
    scene: Annotated[str | None, Parameter(help="an embedded scene or a Scene directory")] = None,
    views: Annotated[int, Parameter(help="how many views of the scene, spread over its angles")] = 4,
    images: Annotated[
        Path | None, Parameter(help="a folder of your own photos, all of them, instead of a scene")
    ] = None,
    weights: Annotated[str, Parameter(help="pretrained, random, or a checkpoint's path")] = "pretrained",
    layers: Annotated[str, Parameter(help="ranges of layers, each averaged: 0-5,6-11,23; default: four")] = "",
    pixels: Annotated[int, Parameter(help="source patches along each side of a view; 0: every patch")] = 8,
    heads: Annotated[Literal["mean", "max"], Parameter(help="how heads are put together")] = "mean",
    rollout: Annotated[float | None, Parameter(help="also rollout, leaving out this share of each row: 0.9")] = None,
    option: Annotated[list[str] | None, Parameter(help="NAME=VALUE, an option of the adapter; may be repeated")] = None,
    device: Annotated[str, Parameter(help="cpu or cuda:N")] = "cpu",
    seed: Annotated[int, Parameter(help="of the views and of random weights")] = 0,
) -> int:
    """Write a page that shows, for a clicked pixel, where its global attention falls in every view."""
    from bench.attention import Asked, make_page
    from bench.cards import get_adapter
    from bench.plan import view_order
    from bench.scenes import get_scene, scene_of_images
    from bench.show import progress_bar
    from reports.attention import agreement, write_attention

    if (scene is None) == (images is None):
        return refuse("--scene and --images: one of them wanted")
    if views < 1 or pixels < 0 or (rollout is not None and not 0 <= rollout < 1):
        return refuse(
            f"--views {views} --pixels {pixels} --rollout {rollout} seen; 1, 0 or more and a share below 1 wanted"
        )
    opened = scene_of_images(images) if images is not None else get_scene(str(scene))
    names = list(opened.view_names) if images is not None else view_order(opened, seed)[:views]
    asked = Asked(weights, options_of(option), device, seed, layers, pixels, heads, rollout)
    with progress_bar(console) as bar:
        task = bar.add_task("starting", total=100)
        page = make_page(
            get_adapter(adapter),
            opened,
            names,
            asked,
            lambda share, what: bar.update(task, description=what, completed=round(100 * share)),
        )
    written = write_attention(page, out)
    for line in agreement(page):
        found = (
            f"{100 * line.within:.1f}% (at random {100 * line.chance:.1f}%)"
            if line.within is not None and line.chance is not None
            else "-"
        )
        console.print(
            f"{line.name}: strongest within one patch of the true pixel in {found} of {line.pairs} pairs", markup=False
        )
    console.print(f"{len(page.sources)} source patches, {sum(path.stat().st_size for path in written) / 2**20:.1f} MiB")
    output.print(str(written[0]), markup=False)
    return 0
