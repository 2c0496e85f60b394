"""Scoring what is stored, or a cloud made elsewhere: `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.common import STORE, SWEEP, MetricsDevice, Truth, console, output, refuse, say_gone, split


def score(
    *,
    store: Annotated[Path, Parameter(help="the store to score in")] = STORE,
    protocol: Annotated[str, Parameter(help="names of protocols or .toml files, comma-separated")] = "object-v1",
    truth: Annotated[Truth | None, Parameter(help="the one truth to score against; default: every one")] = None,
    sweep: Annotated[bool, Parameter(help=SWEEP)] = False,
    prediction: Annotated[
        Path | None,
        Parameter(help="a PLY, OBJ or GLB made elsewhere, or a folder that eval3r saved, to score as `external`"),
    ] = None,
    name: Annotated[str, Parameter(help="what made the prediction; default: the file's name")] = "",
    scene: Annotated[str | None, Parameter(help="the scene that the prediction shows")] = None,
    cameras: Annotated[Path | None, Parameter(help="the prediction's cameras: cameras.json or a COLMAP model")] = None,
    posed: Annotated[bool, Parameter(help="the prediction is already in the truth's frame")] = False,
    again: Annotated[bool, Parameter(help="score anew what this protocol scored already")] = False,
    metrics_device: MetricsDevice = None,
) -> int:
    """Score stored predictions again, under any protocol and without any model; or a cloud made elsewhere."""
    from adapters.contract import InputError
    from bench.cli.show import print_score
    from bench.scoring.external import add_external
    from bench.scoring.stage import score_records
    from bench.trials.scenes import get_scene
    from bench.trials.store import Store
    from metrics.points import device_of
    from metrics.scoring.protocol import load_protocol

    device_of(metrics_device)
    protocols = split(protocol)
    for each in protocols:
        load_protocol(each)
    kept = Store(store)
    if prediction is not None:
        if scene is None:
            return refuse("--prediction: --scene is wanted with it")
        records = [add_external(kept, prediction, get_scene(scene), cameras, posed, name, _say)]
    else:
        records = kept.trials()
        if not records:
            raise InputError(f"{store}: no finished trial seen, a store wanted")
    for each in protocols:
        scored = score_records(
            kept, records, each, truth=truth, sweeps=sweep, again=again, device=metrics_device, gone=say_gone
        )
        for record, done in scored:
            print_score(output, record, done)
    return 0


def _say(sentence: str) -> None:
    console.print(sentence, markup=False)
