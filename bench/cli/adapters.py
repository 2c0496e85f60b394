"""The reconstructors: `adapters list`, `show`, `check`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from bench.cli.common import output

app = App(name="adapters", help="The reconstructors: list, show, check.")


@app.command(name="list")
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


@app.command
def show(name: str, /) -> int:
    """One adapter's card."""
    from bench.cards import get_adapter

    adapter = get_adapter(name)
    _ = adapter.card  # a malformed card is an error here too
    output.print(f"# {adapter.folder} ({adapter.origin}), hash {adapter.hash}", markup=False)
    output.print((adapter.folder / "adapter.toml").read_text(), markup=False)
    return 0


@app.command
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
