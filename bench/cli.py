"""The command line. Commands import what they need when they are called, so that `--help` stays quick."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

if TYPE_CHECKING:
    from bench.plan import Trial
    from bench.suite import Suite

app = App(name="reconbench", help="Which 3D reconstructor should I use for images like mine, with this many views?")
adapters_app = App(name="adapters", help="The reconstructors: list, show, check.")
data_app = App(name="data", help="The scenes: list, show.")
app.command(adapters_app)
app.command(data_app)

# Results go to standard output; progress and messages to standard error.
console = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)

STORE = Path("runs/store")
REPORT = Path("runs/report")
Truth = Literal["colmap", "exact", "scan"]


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Bad input is one sentence on standard error and exit code 2; nothing is lost."""
    try:
        code = app(
            arguments if arguments is not None else sys.argv[1:],
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        console.print(f"reconbench: {error}", style="red", markup=False)
        console.print("Run `reconbench --help` for the commands and their options.")
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted. Finished trials are stored; the same command goes on from here.")
        sys.exit(130)
    except ValueError as error:
        if not _expected(error):
            raise
        console.print(f"reconbench: {error}", style="red", markup=False)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _expected(error: ValueError) -> bool:
    """Whether `error` speaks to the user of his input."""
    from data.images import DataError
    from metrics.protocol import ProtocolError
    from reports.tables import TableError

    return isinstance(error, (DataError, ProtocolError, TableError))


@Parameter(name="*")
@dataclass(frozen=True)
class Asked:
    """What to run; a flag that is given overrides the suite."""

    suite: Annotated[str | None, Parameter(help="a suite's name or .toml file; default: bench")] = None
    adapters: Annotated[str | None, Parameter(help="names or folders of adapters, comma-separated")] = None
    scenes: Annotated[str | None, Parameter(help="embedded scenes or Scene directories, comma-separated")] = None
    views: Annotated[str | None, Parameter(help="view counts, such as 1,2,4; default: all")] = None
    seeds: Annotated[str | None, Parameter(help="seeds, each a repeat with its own view subset: 0,1,2")] = None
    give: Annotated[str | None, Parameter(help="masks, cameras, targets: given to adapters that accept them")] = None
    option: Annotated[list[str] | None, Parameter(help="NAME=VALUE, an option of the adapter; may be repeated")] = None
    protocol: Annotated[str | None, Parameter(help="how to score: a protocol's name or .toml file")] = None
    truth: Annotated[Truth | None, Parameter(help="the truth to rank under; others are printed beside it")] = None
    device: Annotated[str | None, Parameter(help="cpu or cuda:N")] = None
    budget: Annotated[float | None, Parameter(help="seconds; trials that do not fit are named and left out")] = None
    deadline: Annotated[float | None, Parameter(help="seconds that a trial may take")] = None
    memory: Annotated[float | None, Parameter(help="GiB that a trial's processes may hold")] = None
    repeats: Annotated[int | None, Parameter(help="timed calls after the cold one")] = None


@app.command
def run(
    asked: Asked | None = None,
    *,
    images: Annotated[Path | None, Parameter(help="a folder of your own photos: run and timed, not scored")] = None,
    store: Annotated[Path, Parameter(help="where finished trials are kept")] = STORE,
    keep_all: Annotated[bool, Parameter(help="store whole clouds, not at most 400,000 points of each")] = False,
    dry_run: Annotated[bool, Parameter(help="print the trials and what they will take, and stop")] = False,
) -> int:
    """Run adapters on scenes, and score what they return.

    Every finished trial is stored at once: interrupt freely, and give the same command to go on."""
    from bench.plan import plan
    from bench.run import run_plan
    from bench.scenes import scene_of_images
    from bench.show import ShownRun, print_plan
    from bench.store import Store
    from metrics.protocol import load_protocol

    asked = asked or Asked()
    if images is not None and asked.scenes is not None:
        return _refuse("--images and --scenes: give one of them")
    chosen = _suite(asked)
    load_protocol(chosen.protocol)
    trials = plan(chosen, [scene_of_images(images)] if images is not None else None)
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
            keep_all=keep_all,
            progress=shown.progress,
        )
    failed = [record for record in result.records if record.status != "ok"]
    console.print(f"{len(result.records)} trials finished, {len(failed)} of them failures, in {store}.")
    if result.left_out:
        console.print(f"{len(result.left_out)} trials left out:")
        for left in result.left_out:
            console.print(f"  {left.adapter} on {left.scene}, {left.views} views: {left.reason}", markup=False)
    if images is not None:
        console.print("No ground truth, so nothing is scored: `reconbench groundtruth` makes one from the photos.")
    return 0


@app.command
def score(
    *,
    store: Annotated[Path, Parameter(help="the store to score in")] = STORE,
    protocol: Annotated[str, Parameter(help="a protocol's name or .toml file")] = "object-v1",
    prediction: Annotated[
        Path | None, Parameter(help="a PLY, OBJ or GLB made elsewhere, to score as `external`")
    ] = None,
    scene: Annotated[str | None, Parameter(help="the scene that the prediction shows")] = None,
    cameras: Annotated[Path | None, Parameter(help="the prediction's cameras: cameras.json or a COLMAP model")] = None,
    posed: Annotated[bool, Parameter(help="the prediction is already in the truth's frame")] = False,
    again: Annotated[bool, Parameter(help="score anew what this protocol scored already")] = False,
) -> int:
    """Score stored predictions again, under any protocol and without any model; or a cloud made elsewhere."""
    from bench.external import add_external
    from bench.scenes import get_scene
    from bench.score import score_trial
    from bench.show import print_score
    from bench.store import Store
    from data.images import DataError
    from data.scene import Scene
    from metrics.protocol import load_protocol

    load_protocol(protocol)
    kept = Store(store)
    if prediction is not None:
        if scene is None:
            return _refuse("--prediction: --scene is wanted with it")
        records = [add_external(kept, prediction, get_scene(scene), cameras, posed)]
    else:
        records = kept.trials()
        if not records:
            raise DataError(f"{store}: no finished trial seen, a store wanted")
    for record in records:
        if not Path(record.scene_path, "scene.json").is_file():
            console.print(f"{record.adapter} on {record.scene}: the scene is gone or has no truth, not scored")
            continue
        opened = Scene.open(Path(record.scene_path))
        for kind in opened.truth_kinds:
            done = score_trial(kept, record, opened, kind, protocol, again=again)
            print_score(output, record, done)
    return 0


@app.command
def predict(
    *,
    adapter: Annotated[str, Parameter(help="an adapter's name or folder")],
    images: Annotated[Path, Parameter(help="a folder of photos; masks in masks/NAME.png where the adapter needs them")],
    out: Annotated[Path, Parameter(help="the folder to write PLY, GLB and a COLMAP model to")],
    device: str = "cpu",
    seed: int = 0,
    option: Annotated[list[str] | None, Parameter(help="NAME=VALUE, may be repeated")] = None,
    deadline: Annotated[float, Parameter(help="seconds")] = 3600.0,
) -> int:
    """Reconstruct photos with one adapter and write files; nothing is benchmarked or stored."""
    from adapters.contract import Views
    from bench.cards import get_adapter
    from bench.export import write_files
    from bench.measure import Policy
    from bench.process import run_adapter
    from bench.scenes import scene_of_images
    from data.images import DataError

    system, scene = get_adapter(adapter), scene_of_images(images)
    if needs := [given for given in system.card.requires if given != "masks"]:
        raise DataError(f"adapter {adapter} requires {', '.join(needs)}, which a folder of photos does not hold")
    if "masks" in system.card.requires and not scene.has_masks:
        raise DataError(f"{images}: no masks/ folder seen, adapter {adapter} wants a mask for each image")
    views = Views(
        images=tuple(scene.image(name) for name in scene.view_names),
        names=tuple(f"{i:03d}" for i in range(len(scene.view_names))),
        masks=tuple(scene.mask(n) for n in scene.view_names) if "masks" in system.card.requires else None,
    )
    policy = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=deadline)
    with console.status(f"{system.card.title} on {len(views)} views"):
        outcome, prediction = run_adapter(
            system, views, options=_options(option), device=device, seed=seed, policy=policy
        )
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


@app.command
def report(
    *,
    store: Annotated[Path, Parameter(help="the store to report on")] = STORE,
    out: Annotated[Path, Parameter(help="the folder to write the report to")] = REPORT,
    protocol: Annotated[str, Parameter(help="a protocol's name or .toml file")] = "object-v1",
    truth: Annotated[Truth, Parameter(help="the truth to rank under")] = "colmap",
) -> int:
    """Write leaderboard.html, leaderboard.csv, scores.csv and their peers."""
    from bench.store import Store
    from bench.tables import make_tables
    from reports.report import write_report

    with console.status("scoring what is not scored yet") as status:
        tables = make_tables(Store(store), protocol, truth, lambda label: status.update(f"scored {label}"))
        status.update("writing")
        paths = write_report(tables, out)
    for path in paths:
        if path.suffix in (".html", ".csv", ".md", ".tex") and path.parent == out:
            output.print(str(path), markup=False)
    return 0


@app.command
def groundtruth(
    source: Annotated[Path, Parameter(name="INPUT", help="a folder of photos, a video, or a Scene directory")],
    /,
    *,
    out: Annotated[Path, Parameter(help="the Scene directory to write")],
    name: Annotated[str | None, Parameter(help="the scene's name; default: the input's")] = None,
    seed: int = 0,
    timeout: Annotated[float, Parameter(help="seconds for structure from motion")] = 3600.0,
    dense: Annotated[bool, Parameter(help="also the dense surface, by multi-view stereo")] = True,
) -> int:
    """Build COLMAP ground truth from photos, with a quality card that says how far to trust it."""
    from bench.show import progress_bar
    from data.groundtruth import build_groundtruth

    with progress_bar(console) as bar:
        task = bar.add_task("ground truth", total=100)
        card = build_groundtruth(
            source,
            out,
            name=name,
            seed=seed,
            timeout=timeout,
            dense=dense,
            progress=lambda what, share: bar.update(task, description=what, completed=round(100 * share)),
        )
    output.print(f"{out}: {card.verdict}", markup=False)
    for reason in card.reasons:
        output.print(f"  {reason}", markup=False)
    return 0


@app.command
def merge(
    *stores: Path,
    into: Annotated[Path, Parameter(help="the store that receives")],
) -> int:
    """Copy the trials, scores and predictions of other stores into one."""
    from bench.store import Store

    for other in stores:
        copied = Store(into).merge(Store(other))
        console.print(f"{other}: {copied} trials copied", markup=False)
    return 0


@adapters_app.command(name="list")
def list_adapters() -> int:
    """Every adapter: what it takes, what it gives, whether it runs here."""
    from rich.table import Table

    from bench.cards import find_adapters

    table = Table(box=None, pad_edge=False)
    for column in ("adapter", "title", "takes", "gives", "views", "parameters", "licence", "runs here", "from"):
        table.add_column(column, no_wrap=column in ("adapter", "views"))
    for adapter in find_adapters().values():
        card = adapter.card
        takes = "+".join(["images", *card.requires]) + "".join(
            f" [{given}]" for given in card.accepts if given not in card.requires
        )
        views = f"{card.min_views}-{card.max_views or ''}".rstrip("-") + ("+" if card.max_views is None else "")
        here = "needs an environment" if card.environment.requirements else "yes"
        licence = " / ".join(filter(None, (card.licence_code, card.licence_weights)))
        size = f"{card.parameters / 1e6:.0f} M" if card.parameters else "-"
        row = (adapter.name, card.title, takes, card.scope, views, size, licence, here, adapter.origin)
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    output.print(table)
    return 0


@adapters_app.command
def show(name: str, /) -> int:
    """One adapter's card."""
    from bench.cards import get_adapter

    adapter = get_adapter(name)
    _ = adapter.card  # a malformed card is an error here too
    output.print(f"# {adapter.folder} ({adapter.origin}), hash {adapter.hash}", markup=False)
    output.print((adapter.folder / "adapter.toml").read_text(), markup=False)
    return 0


@adapters_app.command
def check(
    name: Annotated[str, Parameter(help="an adapter's name, or the folder of one you are writing")],
    /,
    *,
    scene: Annotated[str | None, Parameter(help="the scene to check on; default: the first embedded one")] = None,
    device: str = "cpu",
) -> int:
    """Run one adapter as the benchmark would, and check what comes back. Exit code 1 where a check fails."""
    from bench.cards import get_adapter
    from bench.conformance import check_adapter
    from bench.scenes import embedded_scenes, get_scene

    failed = False
    for result in check_adapter(get_adapter(name), get_scene(scene or next(iter(embedded_scenes()))), device):
        style = {"pass": "green", "fail": "red", "skip": "dim"}[result.verdict]
        output.print(f"[{style}]{result.verdict}[/]  {result.name}", end="")
        output.print(f": {result.detail}" if result.detail else "", markup=False)
        failed |= result.verdict == "fail"
    return 1 if failed else 0


@data_app.command(name="list")
def list_scenes() -> int:
    """Every embedded scene."""
    from rich.table import Table

    from bench.scenes import embedded_scenes
    from bench.tables import truth_card
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


@data_app.command(name="show")
def show_scene(name: str, /) -> int:
    """One scene: its views, its truths, its quality card."""
    from bench.scenes import get_scene
    from bench.tables import truth_card

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


@app.command
def doctor() -> int:
    """What this machine is and what works on it."""
    from bench.doctor import examine

    well = True
    for finding in examine():
        mark = {True: "[green]ok  [/]", False: "[yellow]no  [/]", None: "    "}[finding.good]
        output.print(f"{mark}{finding.what}: ", end="")
        output.print(finding.seen, markup=False)
        well &= finding.good is not False or not finding.needed
    return 0 if well else 1


def _refuse(sentence: str) -> int:
    console.print(f"reconbench: {sentence}", style="red", markup=False)
    return 2


def _check_view_counts(trials: list[Trial]) -> None:
    """DataError where the user's photos are too few for an adapter that he named: a table of refusals helps nobody."""
    from data.images import DataError

    for trial in trials:
        card, count = trial.adapter.card, len(trial.scene.view_names)
        if count < card.min_views:
            raise DataError(
                f"{trial.scene.path}: {count} image seen, adapter {card.name} wants {card.min_views} at least"
            )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _integers(flag: str, text: str) -> tuple[int, ...]:
    from data.images import DataError

    try:
        return tuple(int(part) for part in _split(text))
    except ValueError as error:
        raise DataError(f"{flag}: {text!r} seen, whole numbers such as 1,2,4 wanted") from error


def _options(pairs: list[str] | None) -> dict[str, str | int | float | bool]:
    """`NAME=VALUE` pairs; values that read as JSON numbers or booleans become those."""
    import json

    from data.images import DataError

    options: dict[str, str | int | float | bool] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise DataError(f"--option: {pair!r} seen, NAME=VALUE wanted")
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value
        options[name] = parsed if isinstance(parsed, (int, float, bool)) else value
    return options


def _suite(asked: Asked) -> Suite:
    """The suite asked for, or one made of the flags; flags that were given override the suite's fields."""
    import msgspec

    from bench.suite import Contestant, Suite, load_suite
    from data.images import DataError

    if asked.suite is None and asked.adapters is not None:
        base = Suite(name="command line", adapters=[Contestant(name="null")], views=(10**6,))
    else:
        base = load_suite(asked.suite or "bench")
    changes: dict[str, object] = {}
    given = _split(asked.give or "")
    if unknown := [word for word in given if word not in ("masks", "cameras", "targets", "truth")]:
        raise DataError(f"--give: {unknown[0]!r} seen, masks, cameras, targets or truth wanted")
    if asked.adapters is not None:
        options = _options(asked.option)
        changes["adapters"] = [{"name": n, "options": options, "give": given} for n in _split(asked.adapters)]
    elif given or asked.option:
        raise DataError("--give and --option: --adapters is wanted with them")
    if asked.scenes is not None:
        changes["scenes"] = _split(asked.scenes)
    for flag, text in (("views", asked.views), ("seeds", asked.seeds)):
        if text is not None:
            changes[flag] = _integers(f"--{flag}", text)
    plain = {"protocol": asked.protocol, "truth": asked.truth, "device": asked.device, "budget_seconds": asked.budget}
    changes |= {field: value for field, value in plain.items() if value is not None}
    policy = {"deadline": asked.deadline, "memory_gib": asked.memory, "repeats": asked.repeats}
    if stated := {field: value for field, value in policy.items() if value is not None}:
        changes["policy"] = {**msgspec.to_builtins(base.policy), **stated}
    merged = msgspec.convert({**msgspec.to_builtins(base), **changes}, Suite)
    merged.check("the command line" if asked.suite is None else asked.suite)
    return merged
