"""The reconstructors: `adapters list`, `new`, `show`, `install`, `fetch`, `remove`, `check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from bench.cli.common import Weights, console, output, refuse

if TYPE_CHECKING:
    from bench.systems.cards import Adapter

app = App(name="adapters", help="The reconstructors: list, new, show, install, fetch, remove, check.")


@app.command(name="list")
def list_adapters() -> int:
    """Every adapter: what it takes, what it gives, whether it runs here."""
    from rich.table import Table

    from bench.systems.cards import broken_plugins, find_adapters

    table = Table(box=None, pad_edge=False)
    for column in ("adapter", "title", "takes", "gives", "views", "parameters", "licence", "runs here", "from"):
        table.add_column(column, no_wrap=column in ("adapter", "views"))
    for adapter in find_adapters().values():
        card = adapter.card
        takes = "+".join(["images", *card.requires]) + "".join(
            f" [{given}]" for given in card.accepts if given not in card.requires
        )
        views = f"{card.min_views}-{card.max_views or ''}".rstrip("-") + ("+" if card.max_views is None else "")
        licence = " / ".join(dict.fromkeys(map(_in_short, filter(None, (card.licence_code, card.licence_weights)))))
        size = f"{card.parameters / 1e6:.0f} M" if card.parameters else "-"
        row = (adapter.name, card.title, takes, card.scope, views, size, licence, _readiness(adapter), adapter.origin)
        table.add_row(*row)
    output.print(table)
    console.print("`adapters show NAME` has a card's licences in full.", style="dim", markup=False)
    for sentence in broken_plugins():
        console.print(sentence, style="yellow", markup=False)
    return 0


def _in_short(licence: str) -> str:
    """Its name alone, that there is more to read, and whether that forbids commerce."""
    name = re.split(r"[:;,(]| as a whole", licence, maxsplit=1)[0].strip()
    if name == licence:
        return name
    forbids = re.search(r"NC\b|commercial", licence) and not re.search(r"NC\b|ommercial", name)
    return f"{name} ... (not commercial)" if forbids else f"{name} ..."


@app.command
def new(
    name: Annotated[str, Parameter(help="what it will be called: lower-case words joined by '-'")],
    /,
    *,
    into: Annotated[Path, Parameter(help="the folder to make its folder in")] = Path(),
) -> int:
    """Write the files that a new adapter starts from: card, class, test. They pass `adapters check` as they are."""
    from bench.systems.new import write_adapter

    folder = write_adapter(name, into)
    for path in sorted(folder.iterdir()):
        output.print(str(path), markup=False)
    console.print(f"Next: `reconbench adapters check {folder}`, then docs/guide-adapter.md.", markup=False)
    return 0


@app.command
def show(name: str, /) -> int:
    """One adapter's card."""
    from bench.systems.cards import get_adapter

    adapter = get_adapter(name)
    _ = adapter.card  # a malformed card is an error here too
    output.print(f"# {adapter.folder} ({adapter.origin}), hash {adapter.hash}", markup=False)
    output.print((adapter.folder / "adapter.toml").read_text(), markup=False)
    return 0


def _readiness(adapter: Adapter) -> str:
    """Whether it runs here, and if not, what it wants."""
    from adapters.contract import Unavailable
    from bench.systems import environments, weights

    try:
        environment = environments.find(adapter)
        weights.resolve(adapter, weights.PRETRAINED)
    except Unavailable as error:
        return f"no: {error}"
    return "installed" if environment.key else "yes"


@app.command
def install(
    name: Annotated[str, Parameter(help="an adapter's name or folder")],
    /,
    *,
    python: Annotated[Path | None, Parameter(help="an existing interpreter to run it under instead")] = None,
    source: Annotated[
        list[str] | None,
        Parameter(help="a local repository that holds a commit of the card: DIR or file://REPO; may be repeated"),
    ] = None,
) -> int:
    """Make the environment that an adapter needs, in the cache. An install that was stopped goes on where it was."""
    from bench.systems import environments
    from bench.systems.cards import get_adapter

    if python is not None and source:
        return refuse("--python and --source: give one of them")
    adapter = get_adapter(name)
    if python is not None:
        environments.use(adapter, python)
        console.print(f"{adapter.name} will run under {python}", markup=False)
        return 0
    spec = adapter.card.environment
    if not spec.own:
        environments.install(adapter)
        console.print(f"{adapter.name} runs in Reconbench's own environment: nothing to install", markup=False)
        return 0
    origins = dict.fromkeys([*(clone.url for clone in spec.sources), *spec.requirements])
    console.print(f"{adapter.card.title}, code under {adapter.card.licence_code}, from:", markup=False)
    for origin in origins:
        console.print(f"  {origin}", markup=False)
    console.print("Installing them runs arbitrary code of theirs, with your rights; build steps likewise:")
    for step in spec.build or ["(none)"]:
        console.print(f"  {step}", markup=False)
    environments.install(adapter, source or (), lambda line: console.print(line, markup=False))
    console.print(f"{adapter.name} is installed")
    return 0


@app.command
def remove(name: Annotated[str, Parameter(help="an adapter's name or folder")], /) -> int:
    """Delete an adapter's installed environment and forget the interpreter named for it."""
    from bench.systems import environments
    from bench.systems.cards import get_adapter

    environments.remove(get_adapter(name))
    return 0


@app.command
def fetch(
    name: Annotated[str, Parameter(help="an adapter's name or folder")],
    /,
    *,
    accept_licence: Annotated[bool, Parameter(help="accept the licences that are shown, once")] = False,
) -> int:
    """Fetch an adapter's pretrained weights into the cache, under their licence, and check their hashes."""
    from bench.cli.show import progress_bar
    from bench.systems import weights
    from bench.systems.cards import get_adapter

    adapter = get_adapter(name)
    card = adapter.card
    if card.weights is None:
        return refuse(f"adapter {adapter.name} has no weights to fetch. {card.unavailable}".rstrip())
    sources = card.weights.sources.values()
    console.print(f"{card.title}: weights from {'; '.join(source.where for source in sources)}", markup=False)
    licences = f"code under {card.licence_code}, weights under {card.licence_weights or card.licence_code}"
    if not (accept_licence or weights.accepted(adapter)):
        return refuse(f"{adapter.name}: {licences}: --accept-licence accepts both")
    console.print(f"  {licences}: accepted", markup=False)
    weights.accept(adapter)
    with progress_bar(console) as bar:
        task = bar.add_task("bytes", total=None)
        given = weights.fetch(adapter, lambda done, total: bar.update(task, completed=done, total=total or None))
    output.print(f"{given.load} ({given.id})", markup=False)
    if missing := [name for source in sources for name, digest in source.files.items() if not digest]:
        console.print(f"The card states no sha256 of {', '.join(missing)}: what came is believed.", markup=False)
    return 0


@app.command
def check(
    name: Annotated[str, Parameter(help="an adapter's name, or the folder of one you are writing")],
    /,
    *,
    scene: Annotated[str | None, Parameter(help="the scene to check on; default: the first embedded one")] = None,
    device: str = "cpu",
    weights: Weights = "pretrained",
    deadline: Annotated[float, Parameter(help="seconds for each run")] = 1800.0,
) -> int:
    """Run one adapter as the benchmark would, and check what comes back. Exit code 1 where a check fails."""
    from bench.systems.cards import get_adapter
    from bench.trials.conformance import check_adapter
    from bench.trials.scenes import embedded_scenes, get_scene

    failed = False
    shown = get_scene(scene or next(iter(embedded_scenes())))
    for result in check_adapter(get_adapter(name), shown, device, weights, deadline):
        style = {"pass": "green", "fail": "red", "skip": "dim"}[result.verdict]
        output.print(f"[{style}]{result.verdict}[/]  {result.name}", end="", markup=True)
        output.print(f": {result.detail}" if result.detail else "", markup=False)
        failed |= result.verdict == "fail"
    return 1 if failed else 0
