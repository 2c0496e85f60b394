"""From photos to an answer in one command: `choose`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.common import console, integers, output, say_unreadable, split
from bench.cli.groundtruth import KeepLargest

if TYPE_CHECKING:
    from bench.trials.records import LeftOut
    from data.scene import Scene

MOST_VIEWS = (8, 16, 4, 2)  # tried in this order where none are named: what most people ask for comes first
DEADLINE = 3600.0  # seconds that one trial may take, whatever is left of the budget


def choose(
    source: Annotated[Path, Parameter(name="PHOTOS", help="a folder of photos, a video, or a Scene directory")],
    /,
    *,
    out: Annotated[Path, Parameter(help="the folder for the scene, the trials and the page; the same one resumes")],
    seconds: Annotated[float, Parameter(help="to spend in this call, ground truth included")] = 1800.0,
    memory: Annotated[float | None, Parameter(help="GiB that a system may hold")] = None,
    views: Annotated[str | None, Parameter(help="view counts, such as 4,8; default: 8, 16, 4 and 2")] = None,
    adapters: Annotated[str | None, Parameter(help="the systems to compare; default: all that fit the photos")] = None,
    frames: Annotated[int, Parameter(help="taken from a video: the sharpest of each equal span")] = 40,
    keep_largest: KeepLargest = False,
    seed: int = 0,
) -> int:
    """Which system for photos like these, with how many views, on this machine?

    Builds the ground truth, runs every system that can run here within the budget, and writes one page that opens with
    the answer. Nothing is computed twice: give the same command to go on, with more seconds for what did not fit. Exit
    code 1 where the ground truth was refused or no system has a result."""
    from adapters.contract import InputError
    from bench.cli.show import ShownRun, print_card, who_ranks
    from bench.engines.local import run_plan
    from bench.scoring.collect import make_tables
    from bench.systems.measure import Policy
    from bench.trials.plan import contestants_for, plan
    from bench.trials.store import Store
    from bench.trials.suite import Suite
    from data.groundtruth.quality import QualityCard
    from reports.answer import answer
    from reports.board import leaderboard
    from reports.report import write_report

    began = time.monotonic()
    if not seconds > 0:
        raise InputError(f"--seconds: {seconds:g} seen, more than 0 wanted")
    counts = integers("--views", views) if views is not None else MOST_VIEWS
    policy = Policy(
        warmups=0, repeats=1, min_seconds=0.0, max_seconds=30.0, deadline=DEADLINE, memory_gib=memory or 0.0
    )
    scene = _scene(source, out, seconds, frames, seed, keep_largest)
    quality = scene.path / "quality.json"
    if quality.is_file():
        print_card(output, scene.path, QualityCard.read(quality))
    if not scene.truth_kinds:
        output.print(f"{scene.path}: no ground truth, so no system can be judged on it", markup=False)
        return 1
    truth = scene.truth_kinds[0]
    contestants = contestants_for(scene, truth, counts, split(adapters) if adapters is not None else None)
    suite = Suite(
        name="choose", adapters=contestants, views=counts, order="overlap", truth=truth, seeds=(seed,), policy=policy
    )
    left_out: list[LeftOut] = []
    remarks: list[str] = []
    trials = plan(suite, [scene], left_out.append, remarks.append)
    for sentence in (*remarks, *who_ranks(trials)):
        console.print(sentence, style="yellow" if sentence in remarks else None, markup=False)
    store = Store(out / "store")
    left = max(seconds - (time.monotonic() - began), 0.0)
    console.print(f"{len(trials)} trials in the {left:.0f} s that are left of {seconds:.0f} s.")
    with ShownRun(console, len(trials)) as shown:
        result = run_plan(
            trials,
            store,
            protocol=suite.protocol,
            truth=truth,
            budget_seconds=left,
            strictly=True,
            progress=shown.progress,
            left_out=left_out,
            remarks=remarks,
        )
    if not result.records:
        reasons = "; ".join(dict.fromkeys(left.reason for left in result.left_out)) or "nothing was planned"
        console.print(
            f"Nothing ran: {reasons}. The ground truth is kept: the same command with more --seconds goes on.",
            markup=False,
        )
        return 1
    with console.status("writing the page"):
        tables = make_tables(store, suite.protocol, truth)
        written = write_report(tables, out, f"Which reconstructor for {scene.name}?")
    say_unreadable(store)
    for sentence in answer(leaderboard(tables), tables).sentences:
        output.print(sentence, markup=False)
    if any("budget" in left.reason for left in result.left_out):
        output.print("What did not fit into the time runs when the same command is given again.")
    output.print(str(next(path for path in written if path.name == "leaderboard.html")), markup=False)
    console.print(f"{time.monotonic() - began:.0f} s.")
    return 0 if any(score.status == "ok" for score in tables.scores) else 1


def _scene(source: Path, out: Path, seconds: float, frames: int, seed: int, keep_largest: bool) -> Scene:
    """The Scene to judge on: `source` where it has a truth, else the one built into `out`, kept for next time."""
    from adapters.contract import InputError
    from bench.cli.groundtruth import shown_progress
    from bench.trials.groundtruth import behind_walls
    from data.groundtruth.build import Wanted, build_groundtruth
    from data.scene import Scene

    if (source / "scene.json").is_file() and (scene := Scene.open(source)).truth_kinds:
        return scene
    place, mark = out / "scene", out / "photos.txt"
    made_of = _listing(source, f"frames {frames} seed {seed} keep-largest {keep_largest}")
    if (place / "scene.json").is_file():
        if not mark.is_file() or mark.read_text() != made_of:
            raise InputError(f"{out}: holds the ground truth of other photos than {source}, another --out wanted")
        console.print(f"{place}: the ground truth is kept from before", markup=False)
        return Scene.open(place)
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(made_of)  # first: a scene without it is taken for that of other photos
    began = time.monotonic()
    name = source.resolve().stem
    wanted = Wanted(name=name, seed=seed, frames=frames, timeout=seconds, keep_largest=keep_largest)
    with shown_progress() as progress:
        build_groundtruth(source, place, wanted, progress, behind_walls)
    console.print(f"ground truth: {time.monotonic() - began:.0f} s")
    return Scene.open(place)


def _listing(source: Path, choices: str) -> str:
    """What tells one ground truth from another: how it is made, then names and sizes, a line a file."""
    from adapters.contract import InputError

    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    lines = [f"{path.relative_to(source.parent)!s} {path.stat().st_size}" for path in files]
    return "\n".join([choices, *lines]) + "\n"
