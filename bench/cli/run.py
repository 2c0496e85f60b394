"""Running adapters on scenes: `run`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.text import Text

from bench.cli.common import STORE, SWEEP, MetricsDevice, console, output, refuse, say_gone
from bench.cli.flags import RunFlags, suite_of

if TYPE_CHECKING:
    from bench.trials.plan import Trial
    from bench.trials.records import LeftOut


def run(
    flags: RunFlags | None = None,
    *,
    images: Annotated[Path | None, Parameter(help="a folder of your own photos: run and timed, not scored")] = None,
    store: Annotated[str, Parameter(help="where finished trials are kept: a folder, or a URL for fsspec")] = str(STORE),
    keep_points: Annotated[
        int | None, Parameter(help="store and score a uniform draw of at most so many points of each; default: all")
    ] = None,
    metrics_device: MetricsDevice = None,
    dry_run: Annotated[bool, Parameter(help="print the trials and what they will take, and stop")] = False,
    sweep: Annotated[bool, Parameter(help=SWEEP)] = False,
    engine: Annotated[
        Literal["local", "ray"], Parameter(help="ray: the cluster at RAY_ADDRESS; every node must see the store")
    ] = "local",
    cpus: Annotated[int, Parameter(help="processors of a trial on a cluster")] = 1,
    install_on_nodes: Annotated[bool, Parameter(help="let nodes make the environments that they lack")] = False,
) -> int:
    """Run adapters on scenes, and score what they return.

    Every finished trial is stored at once: interrupt freely, and give the same command to go on. Exit code 1 where no
    trial ended well."""
    from adapters.contract import InputError
    from bench.cli.show import ShownRun, print_plan, who_ranks
    from bench.engines.local import run_plan
    from bench.scoring.stage import score_records
    from bench.trials.plan import plan, runnable
    from bench.trials.scenes import get_scenes, scene_of_images
    from bench.trials.shared import opened
    from bench.trials.site import HERE
    from metrics.points import device_of
    from metrics.scoring.protocol import load_protocol

    device_of(metrics_device)
    flags = flags or RunFlags()
    if images is not None and flags.scenes is not None:
        return refuse("--images and --scenes: give one of them")
    if engine == "ray" and device_of(metrics_device) is not None:
        return refuse(f"--metrics-device {metrics_device}: with --engine ray processors measure, cpu wanted")
    scenes = [scene_of_images(images)] if images is not None else None
    if scenes is not None and flags.adapters is None and flags.suite is None:
        flags = replace(flags, adapters=",".join(runnable(scenes[0])))
    chosen = suite_of(flags)
    for protocol in (chosen.protocol, *chosen.protocols):
        load_protocol(protocol)
    with ExitStack() as stack:
        cluster, site = None, HERE
        if engine == "ray":
            from bench.engines.ray import connected

            status = console.status("asking the nodes of the cluster")
            cluster = stack.enter_context(connected(cpus, install_on_nodes, console.print))
            with status:
                meant = scenes or get_scenes([name for part in chosen.parts() for name in part.scenes])
                site = cluster.site(chosen.parts(), meant)
            console.print(f"{cluster.describe()}.")
        too_few: list[LeftOut] = []
        remarks: list[str] = []
        trials = [t for part in chosen.parts() for t in plan(part, scenes, too_few.append, remarks.append, site)]
        if images is not None:
            _check_view_counts(trials)
        if not trials:
            raise InputError(f"nothing to run: {'; '.join(f'{left.scene}: {left.reason}' for left in too_few)}")
        for left in too_few:
            console.print(f"{left.system} on {left.scene}: left out, {left.reason}", markup=False, style="yellow")
        remarks = list(dict.fromkeys(remarks))
        for sentence in remarks:
            console.print(f"{sentence}.", markup=False, style="yellow")
        for sentence in who_ranks(trials):
            console.print(sentence, markup=False)
        kept = stack.enter_context(opened(store))
        if dry_run:
            print_plan(output, trials, kept, chosen.budget_seconds, cluster.describe() if cluster else "")
            return 0
        if cluster is not None:
            stack.enter_context(cluster.quiet())
        with ShownRun(console, len(trials)) as shown:
            result = run_plan(
                trials,
                kept,
                protocol=chosen.protocol,
                truth=chosen.truth,
                protocols=chosen.protocols if cluster is not None else (),
                engine=cluster,
                budget_seconds=chosen.budget_seconds,
                keep_points=keep_points,
                metrics_device=metrics_device,
                progress=shown.progress,
                left_out=too_few,
                remarks=remarks,
            )
        for protocol in dict.fromkeys((chosen.protocol, *chosen.protocols)):
            with console.status(f"scoring under {protocol}") as scoring:
                scored = score_records(
                    kept, result.records, protocol, sweeps=sweep, device=metrics_device, gone=say_gone
                )
                for record, _ in scored:
                    scoring.update(Text(f"scoring under {protocol}: {record.system} on {record.scene}"))
    failed = [record for record in result.records if record.status != "ok"]
    console.print(f"{len(result.records)} trials finished, {len(failed)} of them failures, in {store}.", markup=False)
    if result.left_out:
        console.print(f"{len(result.left_out)} trials left out:")
        for left in result.left_out:
            console.print(f"  {left.system} on {left.scene}, {left.views} views: {left.reason}", markup=False)
    if images is not None:
        console.print("No ground truth, so nothing is scored: `reconbench groundtruth` makes one from the photos.")
    if "://" in store:
        console.print(
            f"`reconbench merge {store} --into {STORE}` brings the store here, to report on it.", markup=False
        )
    return 0 if any(record.status == "ok" for record in result.records) else 1


def _check_view_counts(trials: list[Trial]) -> None:
    """InputError where the user's photos are too few for an adapter that he named: a table of refusals helps nobody."""
    from adapters.contract import InputError

    for trial in trials:
        card, count = trial.adapter.card, len(trial.scene.view_names)
        if count < card.min_views:
            raise InputError(
                f"{trial.scene.path}: {count} image seen, adapter {card.name} wants {card.min_views} at least"
            )
