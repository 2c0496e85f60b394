"""One adapter under several settings: `parity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.common import Truth, console, integers, options_of, output, split

if TYPE_CHECKING:
    from bench.gate.parity import Setting


def parity(
    adapter: Annotated[str, Parameter(help="an adapter's name or folder")],
    /,
    *settings: Annotated[str, Parameter(help="NAME=VALUE,... of its options, weights=PATH among them; '' as it is")],
    scenes: Annotated[str, Parameter(help="embedded scenes or Scene directories, comma-separated")] = "elephant",
    views: Annotated[str, Parameter(help="view counts, such as 2,4")] = "4",
    seeds: Annotated[str, Parameter(help="seeds, each a choice of views")] = "0",
    protocol: Annotated[str, Parameter(help="a protocol's name or .toml file")] = "object-v1",
    truth: Truth = "exact",
    device: Annotated[str, Parameter(help="cpu or cuda:N")] = "cpu",
    repeats: Annotated[int, Parameter(help="timed calls after the cold one and a warm-up")] = 3,
    markdown: Annotated[Path | None, Parameter(help="write a summary for a pull request")] = None,
    junit: Annotated[Path | None, Parameter(help="write JUnit XML")] = None,
) -> int:
    """Compare settings of one adapter with the first: float32 with bfloat16, quantised weights, a compiled graph.

    Each is exact, within noise, better, or regressed; its seconds and memory stand beside. Exit codes as of `check`."""
    from adapters.contract import InputError
    from bench.gate.parity import check_parity
    from bench.gate.verdict import EXIT_CODES, overall
    from bench.gate.verdict import junit as as_junit
    from bench.gate.verdict import markdown as as_markdown
    from bench.systems.measure import Policy
    from bench.trials.suite import Suite

    if len(settings) < 2:
        raise InputError("settings: two at least wanted, such as precision=float32 precision=bfloat16")
    chosen = [_setting(adapter, text) for text in settings]
    suite = Suite(
        name="parity",
        adapters=[],
        scenes=tuple(split(scenes)),
        views=integers("--views", views),
        seeds=integers("--seeds", seeds),
        draws=1,
        protocol=protocol,
        truth=truth,
        device=device,
        policy=Policy(warmups=1, repeats=repeats, min_seconds=0.0),
    )
    findings = []
    with console.status("comparing"):
        for finding in check_parity(suite, chosen):
            findings.append(finding)
            colour = {"pass": "green", "regression": "red", "broken": "red"}.get(finding.verdict, "yellow")
            output.print(f"[{colour}]{finding.verdict:12}[/] ", end="", markup=True)
            output.print(finding.case, markup=False)
            for line in finding.lines():
                output.print(f"    {line}", markup=False)
    if markdown is not None:
        markdown.write_text(as_markdown(findings, chosen[0].text))
    if junit is not None:
        junit.write_text(as_junit(findings))
    return EXIT_CODES[overall(findings)]


def _setting(adapter: str, text: str) -> Setting:
    from bench.gate.parity import WEIGHTS, Setting
    from bench.trials.suite import Contestant

    options = options_of(split(text))
    weights = str(options.pop(WEIGHTS, "pretrained"))
    return Setting(text or "as it is", Contestant(name=adapter, options=options, weights=weights))
