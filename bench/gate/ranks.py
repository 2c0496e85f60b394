"""From records to ranks on a small made-up run: a failure that must count, and rows that must not be ranked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from adapters.contract import Reconstruction
from bench.gate.readings import Readings, read
from bench.scoring.collect import make_tables
from bench.scoring.score import score_record
from bench.scoring.stage import score_records
from bench.systems.cards import Card
from bench.systems.measure import Hardware, Policy, Steps
from bench.trials.plan import read_truth
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.scene import Scene
from metrics.scoring.protocol import load_protocol, metric_table
from metrics.scoring.score import Score, Value
from metrics.scoring.truth import Truth
from reports.board import leaderboard
from reports.export import comparisons_csv, leaderboard_csv

SYSTEMS = ("kin", "good", "fair", "fragile", "reference")  # the better the earlier, where both have a result
VOLATILE = ("version", "hardware", "environment", "adapter_hash", "trials", "protocol", "protocol_hash", "truth_id")
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


def leaderboard_readings(scene: Scene, views: tuple[str, ...]) -> Readings:
    """Five systems in two cells each, one of which fails in one: the leaderboard and the comparisons, cell by cell.

    One trial is scored from its stored prediction, one as the failure that it is; the other scores are made up."""
    truth = read_truth(scene, scene.truth_kinds[0])
    with tempfile.TemporaryDirectory(prefix="reconbench-") as folder:
        store, file = Store(Path(folder) / "store"), Path(folder) / "protocol.toml"
        file.write_text(PROTOCOL)
        for number, system in enumerate(SYSTEMS):
            points = truth.points[(number - SYSTEMS.index("good")) % 70 :: 70]  # its own: scores are kept by prediction
            identity, _ = store.put_prediction(Reconstruction(points, "world", "metric"))
            for cell, chosen in enumerate((views[:4], views[4:8])):
                failed = (system, cell) == ("fragile", 1)
                record = _record(system, scene, chosen, f"{number}{cell}", None if failed else identity, number)
                store.put_trial(record)
                if not failed and (system, cell) != ("good", 0):
                    for kind in scene.truth_kinds:
                        store.put_score(
                            _synthetic_score(record, read_truth(scene, kind), str(file), number + cell / 4), None
                        )
        for _ in score_records(store, store.trials(), str(file)):
            pass
        tables = make_tables(store, str(file), scene.truth_kinds[0])
    board = leaderboard(tables)
    rows = leaderboard_csv(board, tables.run)
    out: Readings = {}
    shown = [name for name in map(str, rows) if "." not in name or RANKED in name or name.endswith(".rank")]
    for row in rows[[name for name in shown if not name.endswith(VOLATILE)]].to_dict("records"):
        out |= read(str(row.pop("system")), {str(name): _plain(value) for name, value in row.items()})
    for row in comparisons_csv(board, tables.run).drop(columns="protocol_hash").to_dict("records"):
        name = f"{row.pop('system')} against {row.pop('other')}, {row.pop('truth')}"
        out |= read(name, {str(column): _plain(value) for column, value in row.items()})
    return out


def _synthetic_score(record: TrialRecord, truth: Truth, protocol_name: str, deficit: float) -> ScoreRecord:
    """A score that is worse in every metric the larger `deficit`."""
    protocol = load_protocol(protocol_name)
    values = {
        name: Value("ok", value, value - 0.01, value + 0.01, 0.5)
        for name, (_, better) in metric_table(protocol).items()
        for value in ((0.9 - 0.1 * deficit) if better == "higher" else (1 + deficit),)
    }
    return score_record(record, truth, protocol, Score(values, points=record.points))


def _plain(value: Any) -> Any:
    """A cell of a table; missing is None, whatever pandas calls it."""
    return None if value is None or value != value else value


def _record(
    system: str, scene: Scene, views: tuple[str, ...], key: str, prediction: str | None, number: int
) -> TrialRecord:
    seconds = (0.5 + number, 0.4 + number, 0.6 + number)
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
