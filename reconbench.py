"""Reconbench in a notebook: `import reconbench as rb`.

Everything public is here, and nothing else is; each name is loaded when it is first used. Instruments take clouds
(N, 3) in one frame and unit and are exact; scenes, runs and boards are those of the command line, so that what a
notebook starts the command goes on with. Functions raise `InputError` with one sentence for what you can mend.

    rb.chamfer(prediction, truth)                     also nearest, fscore, emd, register
    scene = rb.scene("elephant")                      or a Scene directory
    records = rb.run("visual-hull", scene, views=8)   kept in runs/store; the same call repeats nothing
    rb.score(protocol="object-no-icp-v1")             the stored predictions under another protocol
    rb.leaderboard()                                  a pandas DataFrame
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.contract import InputError, TruthKind

if TYPE_CHECKING:
    import pandas as pd

    from bench.trials.records import ScoreRecord, TrialRecord
    from data.scene import Scene
    from metrics.chamfer import chamfer
    from metrics.emd import emd
    from metrics.fscore import fscore
    from metrics.nearest import nearest
    from metrics.register import register

__all__ = [
    "InputError",
    "Scene",
    "chamfer",
    "emd",
    "fscore",
    "leaderboard",
    "nearest",
    "register",
    "run",
    "scene",
    "score",
]
LOADED_LATE = {"Scene": "data.scene", **dict.fromkeys(("chamfer", "emd", "fscore", "nearest", "register"), "metrics")}


def __getattr__(name: str) -> Any:
    if name not in LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LOADED_LATE[name]), name)


def __dir__() -> list[str]:
    return __all__


def scene(name: str | Path) -> Scene:
    """The embedded scene called `name`, or the Scene directory `name`."""
    from bench.trials.scenes import get_scene

    return get_scene(str(name))


def run(
    adapters: str | Sequence[str],
    scenes: Scene | str | Path | Sequence[Scene | str | Path],
    *,
    views: int | Sequence[int] | None = None,
    seeds: int | Sequence[int] = 0,
    options: Mapping[str, str | int | float | bool] | None = None,
    weights: str = "pretrained",
    device: str = "cpu",
    truth: TruthKind = "colmap",
    protocol: str = "object-v1",
    repeats: int = 1,
    store: str | Path = "runs/store",
) -> list[TrialRecord]:
    """Run `adapters` (names or folders) on `scenes` and score what they return; the records of the trials.

    `views`: how many views to give, one count or several (None: all of a scene); `seeds`: one view subset each;
    `options` and `weights` ("pretrained", "random" or a checkpoint's path) go to every adapter; `repeats`: timed calls
    after the cold one. A trial that `store` has finished is not run again. A failure is a record too: see `status`."""
    from bench.engines.local import run_plan
    from bench.systems.measure import Policy
    from bench.trials.plan import plan
    from bench.trials.store import Store
    from bench.trials.suite import ALL_VIEWS, Contestant, Suite

    names = [adapters] if isinstance(adapters, str) else adapters
    places = scenes if isinstance(scenes, Sequence) and not isinstance(scenes, str) else [scenes]
    counts = (ALL_VIEWS if views is None else views,) if views is None or isinstance(views, int) else tuple(views)
    suite = Suite(
        name="notebook",
        adapters=[Contestant(name=name, options=dict(options or {}), weights=weights) for name in names],
        views=counts,
        seeds=(seeds,) if isinstance(seeds, int) else tuple(seeds),
        truth=truth,
        device=device,
        protocol=protocol,
        policy=Policy(repeats=repeats),
    )
    suite.check("reconbench.run")
    opened = [scene(place) if isinstance(place, (str, Path)) else place for place in places]
    return run_plan(plan(suite, opened), Store(Path(store)), protocol=protocol, truth=truth).records


def score(
    protocol: str = "object-v1",
    *,
    truth: TruthKind | None = None,
    again: bool = False,
    store: str | Path = "runs/store",
) -> list[ScoreRecord]:
    """Score what `store` holds under `protocol` (a name or a .toml file) and `truth` (None: every one of each scene).

    Stored scores are returned as they are, unless `again`."""
    from bench.scoring.stage import score_records
    from bench.trials.store import Store

    kept = Store(Path(store))
    return [done for _, done in score_records(kept, kept.trials(), protocol, truth=truth, again=again)]


def leaderboard(
    protocol: str = "object-v1", *, truth: TruthKind = "colmap", store: str | Path = "runs/store"
) -> pd.DataFrame:
    """The leaderboard of `store` under `protocol`, ranked under `truth`: a row a system and number of views.

    Columns as in leaderboard.csv. Reads only: what is not scored yet, `score` scores."""
    from bench.scoring.collect import make_tables
    from bench.trials.store import Store
    from reports.board import leaderboard as board_of
    from reports.export import leaderboard_csv

    tables = make_tables(Store(Path(store)), protocol, truth)
    return leaderboard_csv(board_of(tables), tables.run)
