"""From records to ranks on a small made-up run: a failure that must count, and rows that must not be ranked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from adapters.contract import Reconstruction
from bench.cards import Card
from bench.gate.readings import Readings, read
from bench.measure import Hardware, Policy, Steps
from bench.plan import read_truth
from bench.store import Store, TrialRecord
from bench.tables import make_tables
from data.scene import Scene
from reports.leaderboard import comparisons_csv, leaderboard_csv
from reports.standings import leaderboard

NOISE = {"good": 0.004, "fair": 0.008, "fragile": 0.002, "kin": 0.001, "reference": 0.0}  # shares of the diameter
OWN = ("version", "hardware", "environment", "adapter_hash", "trials", "protocol", "protocol_hash", "truth_id")
RANKED = ".fscore@1%"


PROTOCOL = """
name = "gate"
version = 1
description = "Few samples: these are readings to compare."
samples = 1000
emd_samples = 64
draws = 2
emd_draws = 2
"""


def standings(scene: Scene, views: tuple[str, ...]) -> Readings:
    """Five systems in two cells each, one of which fails in one: the leaderboard and the comparisons, cell by cell."""
    truth = read_truth(scene, scene.truth_kinds[0])
    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        store, file = Store(Path(folder) / "store"), Path(folder) / "protocol.toml"
        file.write_text(PROTOCOL)
        for number, (system, noise) in enumerate(NOISE.items()):
            for cell, chosen in enumerate((views[:4], views[4:8])):
                rng = np.random.default_rng([number, cell])
                some = rng.choice(len(truth.points), 2000, replace=False)
                moved = truth.points[some] + truth.normals[some] * rng.normal(0, noise * truth.diameter, (2000, 1))
                prediction = Reconstruction(moved.astype(np.float32), "world", "metric")
                failed = system == "fragile" and cell == 1
                identity = None if failed else store.put_prediction(prediction, keep_all=False)[0]
                seconds = (0.5 + number, 0.4 + number, 0.6 + number)
                store.put_trial(_record(system, scene, chosen, f"{number}{cell}", identity, seconds))
        tables = make_tables(store, str(file), scene.truth_kinds[0])
    board = leaderboard(tables)
    rows = leaderboard_csv(board, tables.run)
    out: Readings = {}
    kept = [
        name
        for name in map(str, rows)
        if not name.endswith(OWN) and ("." not in name or RANKED in name or name.endswith(".rank"))
    ]
    for row in rows[kept].to_dict("records"):
        out |= read(str(row.pop("system")), {str(name): _plain(value) for name, value in row.items()})
    for row in comparisons_csv(board, tables.run).drop(columns="protocol_hash").to_dict("records"):
        name = f"{row.pop('system')} against {row.pop('other')}, {row.pop('truth')}"
        out |= read(name, {str(column): _plain(value) for column, value in row.items()})
    return out


def _plain(value: Any) -> Any:
    """A cell of a table; missing is None, whatever pandas calls it."""
    return None if value is None or value != value else value


def _record(
    system: str, scene: Scene, views: tuple[str, ...], key: str, prediction: str | None, seconds: tuple[float, ...]
) -> TrialRecord:
    calls = [Steps(prepare=s / 8, infer=s / 2, finish=s / 4, total=s) for s in seconds]
    ok = prediction is not None
    return TrialRecord(
        key=key,
        adapter=system,
        adapter_hash="0",
        card=Card(
            name=system,
            title=system,
            licence_code="",
            scope="scene",
            kin=["colmap"] if system == "kin" else [],
            reference=system == "reference",
        ),
        environment="0",
        weights="none",
        options={},
        inputs="images",
        scene=scene.name,
        scene_path=str(scene.path.resolve()),
        inputs_hash="0",
        views=list(views),
        seed=0,
        device="cpu",
        policy=Policy(),
        posed=True,
        status="ok" if ok else "crash",
        message="" if ok else "fell over",
        cold=calls[0] if ok else None,
        warm=calls if ok else [],
        peak_rss=2**30 if ok else 0,
        hardware=Hardware(cpu="", cores=1, memory_gib=1, devices=[], system="", python=""),
        prediction=prediction,
        points=2000 if ok else 0,
        finished=f"2026-01-01T00:00:{key}",
        command="",
    )
