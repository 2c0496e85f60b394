"""The regression gate: `check`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.common import console, output, refuse, split

if TYPE_CHECKING:
    from bench.gate.verdict import Finding

BASELINE = Path("baselines/embedded")
PARTS = ("exact", "fresh", "time")
OWN = "adapters"  # the workload that is the suite's own adapters


def check(
    *,
    baseline: Annotated[Path, Parameter(help="the folder of the baseline")] = BASELINE,
    only: Annotated[str | None, Parameter(help="of exact,fresh,time; default: exact,fresh, and time if asked")] = None,
    against: Annotated[str | None, Parameter(help="time this tree against a commit, or another tree's folder")] = None,
    workloads: Annotated[
        str | None,
        Parameter(help="what to time: kernels, or `adapters` for the suite's own; default: these where there are any"),
    ] = None,
    markdown: Annotated[Path | None, Parameter(help="write a summary for a pull request")] = None,
    junit: Annotated[Path | None, Parameter(help="write JUnit XML")] = None,
    fail_fast: Annotated[bool, Parameter(help="stop at the first regression", negative="")] = False,
    write: Annotated[bool, Parameter(help="make the baseline anew from what this tree gives", negative="")] = False,
    suite: Annotated[str, Parameter(help="with --write: the suite to freeze, a name or .toml file")] = "gate",
) -> int:
    """Compare this tree with a baseline: frozen predictions exactly, fresh runs within noise, times against a commit.

    Exit code 0: pass; 1: a regression; 2: bad input; 3: inconclusive; 4: nothing was measured; 5: a check broke."""
    from bench.gate.verdict import EXIT_CODES, overall
    from bench.gate.verdict import junit as as_junit
    from bench.gate.verdict import markdown as as_markdown
    from bench.gate.workloads import WORKLOADS

    if write:
        return _write(baseline, suite)
    parts = split(only) if only is not None else ["exact", "fresh", *(["time"] if against is not None else [])]
    if unknown := [part for part in parts if part not in PARTS]:
        return refuse(f"--only: {unknown[0]!r} seen, {', '.join(PARTS)} wanted")
    if ("time" in parts) != (against is not None):
        return refuse("--against and --only time: give both or neither")
    names = split(workloads) if workloads is not None else []
    if unknown := [name for name in names if name not in (*WORKLOADS, OWN)]:
        return refuse(f"--workloads: {unknown[0]!r} seen, {', '.join((*WORKLOADS, OWN))} wanted")
    findings = _findings(baseline, parts, against or "", tuple(names), fail_fast)
    compared = f"{baseline}, {against}" if against else str(baseline)
    if markdown is not None:
        markdown.write_text(as_markdown(findings, compared))
    if junit is not None:
        junit.write_text(as_junit(findings))
    verdict = overall(findings)
    output.print(f"{verdict}: {len(findings)} cases, compared with {compared}", markup=False)
    return EXIT_CODES[verdict]


def _findings(baseline: Path, parts: list[str], against: str, names: tuple[str, ...], fail_fast: bool) -> list[Finding]:
    """Every finding, printed as it comes."""
    from bench.gate.adapters import check_adapters, own_trials
    from bench.gate.baseline import load_baseline
    from bench.gate.exact import check_exact
    from bench.gate.fresh import check_fresh
    from bench.gate.timing import check_time
    from bench.gate.workloads import WORKLOADS

    wanted = {"exact", "fresh"} & set(parts) or OWN in names or (baseline / "baseline.json").is_file()
    known = load_baseline(baseline) if wanted else None
    if not names:
        names = (OWN,) if known is not None and own_trials(known.suite) else tuple(WORKLOADS)
    colours = {"pass": "green", "regression": "red", "broken": "red"}
    findings = []
    with console.status("checking") as status:
        for part in parts:
            status.update(f"checking: {part}")
            if part == "time":
                kernels = tuple(name for name in names if name != OWN)
                part_findings = check_time(against, kernels) if kernels else iter(())
                if known is not None and OWN in names:
                    part_findings = itertools.chain(part_findings, check_adapters(against, known.suite))
            else:
                assert known is not None
                part_findings = check_exact(baseline, known) if part == "exact" else check_fresh(baseline, known)
            for finding in part_findings:
                findings.append(finding)
                colour = colours.get(finding.verdict, "yellow")
                output.print(f"[{colour}]{finding.verdict:12}[/] {finding.part}  ", end="", markup=True)
                output.print(f"{finding.case} ({finding.seconds:.1f} s)", markup=False)
                for line in finding.lines():
                    output.print(f"    {line}", markup=False)
                if fail_fast and finding.verdict in ("regression", "broken"):
                    return findings
    return findings


def _write(baseline: Path, suite: str) -> int:
    """Make the baseline anew."""
    from bench.gate.write import write_baseline
    from bench.trials.suite import load_suite

    chosen = load_suite(suite)
    with console.status("writing") as status:
        made = write_baseline(baseline, chosen, lambda step: status.update(f"done: {step}"))
    size = sum(path.stat().st_size for path in baseline.iterdir()) / 1024
    readings = sum(map(len, made.exact.values()))
    output.print(
        f"{baseline}: {readings} readings of {len(made.exact)} cases, {len(made.fresh)} trials, {size:.0f} KiB"
    )
    return 0
