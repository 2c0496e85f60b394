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
    views: Annotated[str, Parameter(help="views of the scene by name, a20,a21, or how many, spread over it")] = "4",
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
    from bench.cli.show import progress_bar
    from bench.systems.cards import get_adapter
    from bench.trials.capture import CaptureRequest, chosen_views, make_page
    from bench.trials.scenes import get_scene, scene_of_images
    from reports.page.attention import agreement, write_attention

    if (scene is None) == (images is None):
        return refuse("--scene and --images: one of them wanted")
    if pixels < 0 or (rollout is not None and not 0 <= rollout < 1):
        return refuse(f"--pixels {pixels} --rollout {rollout} seen; 0 or more, and a share from 0 to below 1 wanted")
    opened = scene_of_images(images) if images is not None else get_scene(str(scene))
    names = opened.view_names if images is not None else chosen_views(opened, views, seed)
    request = CaptureRequest(weights, options_of(option), device, seed, layers, pixels, heads, rollout)
    with progress_bar(console) as bar:
        task = bar.add_task("starting", total=100)
        page = make_page(
            get_adapter(adapter),
            opened,
            names,
            request,
            lambda share, what: bar.update(task, description=what, completed=round(100 * share)),
        )
        bar.update(task, description="writing the page", completed=100)
        written = write_attention(page, out)
    for line in agreement(page):
        if line.within is None or line.chance is None:
            console.print(
                "No view sees the surface point of another one's source: take views that are nearer together."
            )
            break
        share = f"{100 * line.within:.1f}% of {line.pairs} pairs (at random {100 * line.chance:.1f}%)"
        console.print(f"{line.name}: strongest within one patch of the same surface point in {share}", markup=False)
    console.print(f"{len(page.sources)} source patches, {sum(path.stat().st_size for path in written) / 2**20:.1f} MiB")
    output.print(str(written[0]), markup=False)
    return 0
