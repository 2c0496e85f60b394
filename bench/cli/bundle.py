"""Results that travel: `bundle` packs a store, `verify` computes what is in it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.common import STORE, BundleScenes, console, output, split

if TYPE_CHECKING:
    from bench.scoring.verify import Finding, Verified
    from bench.trials.store import Store

COLOURS = {"equal": "green", "differs": "red", "unreadable": "red", "unchecked": "yellow"}


def bundle(
    store: Annotated[Path, Parameter(help="the store to pack")] = STORE,
    /,
    *,
    out: Annotated[Path, Parameter(help="the file to write")] = Path("bundle.zip"),
    protocol: Annotated[
        str, Parameter(help="protocols of your own to pack scores of: .toml files, comma-separated")
    ] = "",
    images: Annotated[bool, Parameter(help="also the photos of scenes that are not embedded", negative="")] = False,
    truth: Annotated[
        bool, Parameter(help="the truths of scenes that are not embedded; without them their identity alone")
    ] = True,
) -> int:
    """Pack a store's trials, predictions and scores, with what computing the scores again needs, into one file."""
    from bench.scoring.bundle import write_bundle
    from bench.trials.store import Store

    with console.status("packing"):
        packed = write_bundle(Store(store), out, split(protocol), images=images, truths=truth)
    for sentence in packed.left_out:
        console.print(f"not in the bundle: {sentence}", style="yellow", markup=False)
    held = f", {packed.scenes} scenes with their truths" if packed.scenes else ""
    size = out.stat().st_size / 2**20
    output.print(f"{out}: {packed.trials} trials, {packed.scores} scores{held}, {size:.1f} MiB", markup=False)
    return 0


def verify(
    *bundles: Path,
    scenes: BundleScenes = "",
    into: Annotated[Path | None, Parameter(help="a store that gets the trials, with what was computed here")] = None,
) -> int:
    """Compute every score of bundles again, from their predictions, and name each value that is another.

    Exit code 0: every score equal; 1: one differs; 2: something could not be read; 3: or not be computed here; 4: there
    was no score."""
    from bench.scoring.verify import exit_code
    from bench.trials.store import Store

    done = verify_all(bundles, scenes, Store(into) if into is not None else None)
    return exit_code(done)


def verify_all(bundles: tuple[Path, ...], scenes: str, into: Store | None) -> list[Verified]:
    """Each of `bundles`, one after the other; what is not equal, and a sentence on each, is printed."""
    from adapters.contract import InputError
    from bench.scoring.verify import verify as verify_one

    if not bundles:
        raise InputError("no bundle named, one at least wanted")
    folders = [Path(path) for path in split(scenes)]
    done = []
    for path in bundles:
        with console.status("") as status:
            count = 0

            def tell(finding: Finding, name: str = path.name) -> None:
                nonlocal count
                count += 1
                status.update(f"{name}: {count} scores")
                if finding.verdict != "equal":
                    _print(finding, name)

            status.update(f"{path.name}: unpacking")
            result = verify_one(path, folders, into, tell)
        done.append(result)
        _print_summary(result)
    return done


def _print(finding: Finding, name: str) -> None:
    output.print(f"[{COLOURS[finding.verdict]}]{finding.verdict:10}[/] ", end="", markup=True)
    output.print(f"{name}: {finding.what}", markup=False)
    for line in finding.lines:
        output.print(f"    {line}", markup=False)


def _print_summary(result: Verified) -> None:
    equal = [finding for finding in result.findings if finding.verdict == "equal"]
    rounded = sum(finding.rounded for finding in equal)
    note = f", {rounded} of them but for rounding" if rounded else " to the last digit"
    values = sum(finding.values for finding in equal)
    verdict = result.verdict or "unchecked"
    output.print(f"[{COLOURS[verdict]}]{verdict:10}[/] ", end="", markup=True)
    unread = sum(finding.verdict == "unreadable" for finding in result.findings)
    count = f"{len(equal)} of {len(result.findings) - unread} scores equal ({values} values{note})"
    count += f"; {unread} files left out or not read" if unread else ""
    output.print(f"{result.name} {result.sha256[:12]}: {result.trials} trials; {count}", markup=False)
    for machine in result.hardware:
        output.print(f"    timed on {machine}", markup=False)
    for environment in result.environments:
        output.print(f"    environment {environment}", markup=False)
