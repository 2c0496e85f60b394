"""Running and scoring: `run`, `score`, `predict`, `merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bench.cli.common import STORE, Truth, Weights, console, integers, options_of, output, refuse, split

if TYPE_CHECKING:
    from bench.trials.plan import Trial
    from bench.trials.records import TrialRecord
    from bench.trials.suite import Suite


SWEEP = "also under other alignments and fewer of the surest points: reports then print rank stability"
MetricsDevice = Annotated[
    str | None,
    Parameter(help="cpu or cuda:N, what measures; scores by another backend than the protocol's are never ranked"),
]


@Parameter(name="*")
@dataclass(frozen=True)
class RunFlags:
    """What to run; a flag that is given overrides the suite."""

    suite: Annotated[str | None, Parameter(help="a suite's name or .toml file; default: embedded")] = None
    adapters: Annotated[str | None, Parameter(help="names or folders of adapters, comma-separated")] = None
    scenes: Annotated[str | None, Parameter(help="embedded scenes or Scene directories, comma-separated")] = None
    views: Annotated[str | None, Parameter(help="view counts, such as 1,2,4; default: all")] = None
    seeds: Annotated[str | None, Parameter(help="seeds, each a repeat with its own view subset: 0,1,2")] = None
    order: Annotated[Literal["spread", "overlap"] | None, Parameter(help="of the views that a count takes")] = None
    give: Annotated[str | None, Parameter(help="masks, cameras, targets: given to adapters that accept them")] = None
    option: Annotated[list[str] | None, Parameter(help="NAME=VALUE, an option of the adapter; may be repeated")] = None
    protocol: Annotated[str | None, Parameter(help="how to score: a protocol's name or .toml file")] = None
    truth: Annotated[Truth | None, Parameter(help="the truth to rank under; others are printed beside it")] = None
    weights: Weights | None = None
    device: Annotated[str | None, Parameter(help="cpu or cuda:N")] = None
    budget: Annotated[float | None, Parameter(help="seconds; trials that do not fit are named and left out")] = None
    deadline: Annotated[float | None, Parameter(help="seconds that a trial may take")] = None
    memory: Annotated[float | None, Parameter(help="GiB that a trial's processes may hold")] = None
    repeats: Annotated[int | None, Parameter(help="timed calls after the cold one")] = None


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

    Every finished trial is stored at once: interrupt freely, and give the same command to go on."""
    from bench.cli.show import ShownRun, print_plan
    from bench.engines.local import run_plan
    from bench.scoring.stage import score_records
    from bench.trials.plan import plan
    from bench.trials.scenes import scene_of_images
    from bench.trials.store import Store
    from metrics.points import device_of
    from metrics.scoring.protocol import load_protocol

    device_of(metrics_device)
    flags = flags or RunFlags()
    if images is not None and flags.scenes is not None:
        return refuse("--images and --scenes: give one of them")
    chosen = _suite(flags)
    for protocol in (chosen.protocol, *chosen.protocols):
        load_protocol(protocol)
    scenes = [scene_of_images(images)] if images is not None else None
    trials = [trial for part in chosen.parts() for trial in plan(part, scenes)]
    if images is not None:
        _check_view_counts(trials)
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
        )
    for protocol in dict.fromkeys((chosen.protocol, *chosen.protocols)):
        with console.status(f"scoring under {protocol}") as status:
            scored = score_records(
                Store(store), result.records, protocol, sweeps=sweep, device=metrics_device, gone=_say_gone
            )
            for record, _ in scored:
                status.update(f"scoring under {protocol}: {record.system} on {record.scene}")
    failed = [record for record in result.records if record.status != "ok"]
    console.print(f"{len(result.records)} trials finished, {len(failed)} of them failures, in {store}.")
    if result.left_out:
        console.print(f"{len(result.left_out)} trials left out:")
        for left in result.left_out:
            console.print(f"  {left.system} on {left.scene}, {left.views} views: {left.reason}", markup=False)
    if images is not None:
        console.print("No ground truth, so nothing is scored: `reconbench groundtruth` makes one from the photos.")
    return 0


def score(
    *,
    store: Annotated[Path, Parameter(help="the store to score in")] = STORE,
    protocol: Annotated[str, Parameter(help="names of protocols or .toml files, comma-separated")] = "object-v1",
    truth: Annotated[Truth | None, Parameter(help="the one truth to score against; default: every one")] = None,
    sweep: Annotated[bool, Parameter(help=SWEEP)] = False,
    prediction: Annotated[
        Path | None, Parameter(help="a PLY, OBJ or GLB made elsewhere, to score as `external`")
    ] = None,
    name: Annotated[str, Parameter(help="what made the prediction; default: the file's name")] = "",
    scene: Annotated[str | None, Parameter(help="the scene that the prediction shows")] = None,
    cameras: Annotated[Path | None, Parameter(help="the prediction's cameras: cameras.json or a COLMAP model")] = None,
    posed: Annotated[bool, Parameter(help="the prediction is already in the truth's frame")] = False,
    again: Annotated[bool, Parameter(help="score anew what this protocol scored already")] = False,
    metrics_device: MetricsDevice = None,
) -> int:
    """Score stored predictions again, under any protocol and without any model; or a cloud made elsewhere."""
    from adapters.contract import InputError
    from bench.cli.show import print_score
    from bench.scoring.external import add_external
    from bench.scoring.stage import score_records
    from bench.trials.scenes import get_scene
    from bench.trials.store import Store
    from metrics.points import device_of
    from metrics.scoring.protocol import load_protocol

    device_of(metrics_device)
    protocols = split(protocol)
    for each in protocols:
        load_protocol(each)
    kept = Store(store)
    if prediction is not None:
        if scene is None:
            return refuse("--prediction: --scene is wanted with it")
        records = [add_external(kept, prediction, get_scene(scene), cameras, posed, name)]
    else:
        records = kept.trials()
        if not records:
            raise InputError(f"{store}: no finished trial seen, a store wanted")
    for each in protocols:
        scored = score_records(
            kept, records, each, truth=truth, sweeps=sweep, again=again, device=metrics_device, gone=_say_gone
        )
        for record, done in scored:
            print_score(output, record, done)
    return 0


def _say_gone(record: TrialRecord) -> None:
    console.print(f"{record.system} on {record.scene}: the scene is gone or has no truth, not scored", markup=False)


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

    system, scene = get_adapter(adapter), scene_of_images(images)
    if needs := [given for given in system.card.requires if given != "masks"]:
        raise InputError(f"adapter {adapter} requires {', '.join(needs)}, which a folder of photos does not hold")
    if "masks" in system.card.requires and not scene.has_masks:
        raise InputError(f"{images}: no masks/ folder seen, adapter {adapter} wants a mask for each image")
    views = Views(
        images=tuple(scene.image(name) for name in scene.view_names),
        names=tuple(f"{i:03d}" for i in range(len(scene.view_names))),
        masks=tuple(scene.mask(n) for n in scene.view_names) if "masks" in system.card.requires else None,
    )
    policy = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=deadline)
    with console.status(f"{system.card.title} on {len(views)} views"):
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
    seconds = outcome.cold.total if outcome.cold else 0.0
    console.print(f"{len(prediction.points)} points in {seconds:.1f} s, {outcome.peak_rss / 2**30:.2f} GiB")
    return 0


def merge(
    *stores: Path,
    into: Annotated[Path, Parameter(help="the store that receives")],
) -> int:
    """Copy the trials, scores and predictions of other stores into one."""
    from bench.trials.store import Store

    for other in stores:
        copied = Store(into).merge(Store(other))
        console.print(f"{other}: {copied} trials copied", markup=False)
    return 0


def _check_view_counts(trials: list[Trial]) -> None:
    """InputError where the user's photos are too few for an adapter that he named: a table of refusals helps nobody."""
    from adapters.contract import InputError

    for trial in trials:
        card, count = trial.adapter.card, len(trial.scene.view_names)
        if count < card.min_views:
            raise InputError(
                f"{trial.scene.path}: {count} image seen, adapter {card.name} wants {card.min_views} at least"
            )


def _suite(flags: RunFlags) -> Suite:
    """The suite asked for, or one made of the flags; flags that were given override the suite's fields."""
    import msgspec

    from adapters.contract import InputError
    from bench.trials.suite import Contestant, Suite, load_suite

    if flags.suite is None and flags.adapters is not None:
        base = Suite(name="command line", adapters=[Contestant(name="null")], views=(10**6,))
    else:
        base = load_suite(flags.suite or "embedded")
    changes: dict[str, object] = {}
    given = split(flags.give or "")
    if unknown := [word for word in given if word not in ("masks", "cameras", "targets", "truth")]:
        raise InputError(f"--give: {unknown[0]!r} seen, masks, cameras, targets or truth wanted")
    if flags.adapters is not None:
        options = options_of(flags.option)
        weights = flags.weights or "pretrained"
        changes["adapters"] = [
            {"name": name, "options": options, "give": given, "weights": weights} for name in split(flags.adapters)
        ]
    elif given or flags.option or flags.weights:
        raise InputError("--give, --option and --weights: --adapters is wanted with them")
    for flag, text in (("views", flags.views), ("seeds", flags.seeds)):
        if text is not None:
            changes[flag] = integers(f"--{flag}", text)
    plain = {
        "order": flags.order,
        "protocol": flags.protocol,
        "truth": flags.truth,
        "device": flags.device,
        "budget_seconds": flags.budget,
    }
    changes |= {field: value for field, value in plain.items() if value is not None}
    policy = {"deadline": flags.deadline, "memory_gib": flags.memory, "repeats": flags.repeats}
    stated = {field: value for field, value in policy.items() if value is not None}
    if stated:
        changes["policy"] = {**msgspec.to_builtins(base.policy), **stated}
    if base.timing is not None:
        timing = msgspec.to_builtins(base.timing)
        scenes = () if flags.scenes is not None else timing["scenes"]
        changes["timing"] = {**timing, "scenes": scenes, "policy": {**timing["policy"], **stated}}
    if flags.scenes is not None:
        changes["scenes"] = split(flags.scenes)
    try:
        merged = msgspec.convert({**msgspec.to_builtins(base), **changes}, Suite)
    except msgspec.ValidationError as error:
        raise InputError(f"the command line: {error}") from error
    merged.check("the command line" if flags.suite is None else flags.suite)
    return merged
