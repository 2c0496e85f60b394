"""Running adapters on scenes: `run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    store: Annotated[Path, Parameter(help="where finished trials are kept")] = STORE,
    keep_points: Annotated[
        int | None, Parameter(help="store and score a uniform draw of at most so many points of each; default: all")
    ] = None,
    metrics_device: MetricsDevice = None,
    dry_run: Annotated[bool, Parameter(help="print the trials and what they will take, and stop")] = False,
    sweep: Annotated[bool, Parameter(help=SWEEP)] = False,
) -> int:
    """Run adapters on scenes, and score what they return.

    Every finished trial is stored at once: interrupt freely, and give the same command to go on. Exit code 1 where no
    trial ended well."""
    from adapters.contract import InputError
    from bench.cli.show import ShownRun, print_plan, who_ranks
    from bench.engines.local import run_plan
    from bench.scoring.stage import score_records
    from bench.trials.plan import plan, runnable
    from bench.trials.scenes import scene_of_images
    from bench.trials.store import Store
    from metrics.points import device_of
    from metrics.scoring.protocol import load_protocol

    device_of(metrics_device)
    flags = flags or RunFlags()
    if images is not None and flags.scenes is not None:
        return refuse("--images and --scenes: give one of them")
    scenes = [scene_of_images(images)] if images is not None else None
    if scenes is not None and flags.adapters is None and flags.suite is None:
        flags = replace(flags, adapters=",".join(runnable(scenes[0])))
    chosen = suite_of(flags)
    for protocol in (chosen.protocol, *chosen.protocols):
        load_protocol(protocol)
    too_few: list[LeftOut] = []
    remarks: list[str] = []
    trials = [trial for part in chosen.parts() for trial in plan(part, scenes, too_few.append, remarks.append)]
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
    if dry_run:
        print_plan(output, trials, Store(store), chosen.budget_seconds)
        return 0
    with ShownRun(console, len(trials)) as shown:
        result = run_plan(
            trials,
            Store(store),
            protocol=chosen.protocol,
            truth=chosen.truth,
            budget_seconds=chosen.budget_seconds,
            keep_points=keep_points,
            metrics_device=metrics_device,
            progress=shown.progress,
            left_out=too_few,
            remarks=remarks,
        )
    for protocol in dict.fromkeys((chosen.protocol, *chosen.protocols)):
        with console.status(f"scoring under {protocol}") as status:
            scored = score_records(
                Store(store), result.records, protocol, sweeps=sweep, device=metrics_device, gone=say_gone
            )
            for record, _ in scored:
                status.update(Text(f"scoring under {protocol}: {record.system} on {record.scene}"))
    failed = [record for record in result.records if record.status != "ok"]
    console.print(f"{len(result.records)} trials finished, {len(failed)} of them failures, in {store}.")
    if result.left_out:
        console.print(f"{len(result.left_out)} trials left out:")
        for left in result.left_out:
            console.print(f"  {left.system} on {left.scene}, {left.views} views: {left.reason}", markup=False)
    if images is not None:
        console.print("No ground truth, so nothing is scored: `reconbench groundtruth` makes one from the photos.")
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
