"""From a store to costs against view counts: every call of every trial that ended well, the timing part's included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import numpy as np

from bench.scoring.collect import newest
from bench.systems.measure import BUSY_SHARE
from bench.trials.records import TrialRecord
from reports.laws import LEAST, gather
from reports.scaling import Series

STEPS = ("prepare", "infer", "finish")
MEBIBYTE = 2**20
NOTHING = 1e-2  # seconds, the median: a step that takes less does nothing, its time is that of the host's messages


@dataclass(frozen=True, order=True)
class _Place:
    """What the trials of one series share; times are never compared across hardware, nor memory."""

    system: str
    inputs: str
    scope: str
    scene: str
    device: str
    hardware: str


def cost_series(records: list[TrialRecord], limit_bytes: float | None = None) -> list[Series]:
    """Seconds (total and by step, cold and warm) and peak memory of each system on each scene, by view count.

    Calls of one count are repeats, and so are seeds, each with its own views. Warm calls stand for the steps where
    every trial has some, else the cold ones. Of trials that answer the same question the newest stands.
    `limit_bytes`: the memory that a count must fit into, this host's or the device's."""
    places: dict[_Place, list[TrialRecord]] = defaultdict(list)
    timing = newest([record for record in records if record.policy.timing_only])
    quality = newest([record for record in records if not record.policy.timing_only])
    for record in (*timing, *quality):
        if record.status == "ok" and not record.external:
            hardware = str(record.hardware)
            place = _Place(record.system, record.inputs, record.card.scope, record.scene, record.device, hardware)
            places[place].append(record)
    return [series for place in sorted(places) for series in _of_place(place, places[place], limit_bytes)]


def _of_place(place: _Place, trials: list[TrialRecord], limit_bytes: float | None) -> Iterable[Series]:
    for quantity, repeats in _quantities(trials).items():
        pairs = [(len(trial.views), value) for trial, values in repeats for value in values if value > 0]
        if len({n for n, _ in pairs}) < LEAST:
            continue
        timed = quantity.endswith("seconds")
        if timed and median(value for _, value in pairs) < NOTHING:
            continue
        used = [trial for trial, values in repeats if values]
        busy = sum(trial.others_share > BUSY_SHARE for trial in used)
        yield Series(
            system=place.system if place.device == "cpu" else f"{place.system} [{place.device}]",
            quantity=quantity,
            unit="s" if timed else "MiB",
            points=gather(*np.array(pairs, np.float64).T),
            scene=place.scene,
            inputs=place.inputs,
            scope=place.scope,
            hardware=place.hardware,
            limit=limit_bytes / MEBIBYTE if limit_bytes and not timed else None,
            distrust=f"the machine was busy with other work in {busy} of {len(used)} trials" if busy and timed else "",
        )


def _quantities(trials: list[TrialRecord]) -> dict[str, list[tuple[TrialRecord, list[float]]]]:
    """The repeats of each quantity, by trial."""
    timed = [trial for trial in trials if trial.cold is not None]
    if (clocked := [trial for trial in timed if trial.policy.timing_only]) and len(clocked) >= LEAST:
        timed = clocked
    all_warm = all(trial.warm for trial in timed)
    calls = [(trial, list(trial.warm) if all_warm else [trial.cold]) for trial in timed]
    out = {"cold_seconds": [(trial, [trial.cold.total] if trial.cold else []) for trial in timed]}
    if all_warm:
        out["warm_seconds"] = [(trial, [call.total for call in trial.warm]) for trial in timed]
    for step in STEPS:
        out[f"{step}_seconds"] = [(trial, [getattr(call, step) for call in of_trial]) for trial, of_trial in calls]
    if all(trial.frame_seconds for trial in timed):
        out["last_frame_seconds"] = [
            (trial, [call.frames[-1] for call in of_trial if call]) for trial, of_trial in calls
        ]
    out["peak_rss"] = [(trial, [trial.peak_rss / MEBIBYTE]) for trial in trials]
    out["device_peak"] = [(trial, [(trial.device_allocator or 0) / MEBIBYTE]) for trial in trials]
    return out
