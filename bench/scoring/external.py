"""Predictions made elsewhere: stored as trials marked `external`, shown and never ranked."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from adapters.contract import InputError, Reconstruction
from bench.systems import walls
from bench.systems.cards import Card
from bench.systems.measure import Policy, hardware, now
from bench.systems.process import own_tool, run_tool
from bench.trials.records import TrialRecord
from bench.trials.scenes import EMBEDDED
from bench.trials.store import Store
from data.exchange import read_cameras, read_cloud
from data.scene import CameraFile, Scene

PARTS_OF_MODEL = ("cameras", "frames", "images", "points3D", "rigs")
CONVERT = "data.exchange:convert_model"  # what reads one
DEADLINE = 600.0  # seconds for it
LARGEST = 64 << 20  # bytes of what comes of it


def add_external(
    store: Store, file: Path, scene: Scene, cameras: Path | None, posed: bool, name: str = ""
) -> TrialRecord:
    """Store the cloud or mesh of `file` as a finished trial on `scene`; the same file twice is one trial.

    `name` is what tables call the system that made it, the file's own name without one; clouds of one name on several
    scenes are one system. Without cameras, and not `posed`, it is aligned as a single object is, by a global search."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if not scene.truth_kinds:
        raise InputError(f"{scene.path}: no ground truth, so nothing can be scored on it")
    files: list[CameraFile] = []
    if cameras is not None:
        files = cameras_of_model(cameras) if cameras.is_dir() else read_cameras(cameras)
    prediction = read_cloud(file, files, posed)
    views = [camera.view for camera in files] or list(scene.view_names)
    if strange := [view for view in views if view not in scene.view_names]:
        raise InputError(
            f"{cameras}: view {strange[0]} is not a view of {scene.name} ({', '.join(scene.view_names[:3])} ...)"
        )
    if prediction.cameras is not None:
        prediction = _in_order(prediction, views, scene.view_names)
        views = [view for view in scene.view_names if view in set(views)]
    name = name or file.stem
    identity, kept = store.put_prediction(prediction)
    scope: Literal["scene", "object"] = "scene" if prediction.cameras is not None or posed else "object"
    card = Card(
        name=f"external-{hashlib.sha256(name.encode()).hexdigest()[:6]}",
        title=name,
        licence_code="",
        scope=scope,
    )
    key = hashlib.sha256(msgspec.json.encode([identity, name, scene.name, views, posed, scope])).hexdigest()[:24]
    embedded = scene.path.parent == EMBEDDED
    command = ["reconbench", "score", "--prediction", str(file.resolve()), "--name", name]
    command += ["--scene", scene.name if embedded else str(scene.path.resolve())]
    command += ["--cameras", str(cameras.resolve())] if cameras is not None else []
    command += ["--posed"] if posed else []
    record = TrialRecord(
        key=key,
        identity=key,
        adapter=name,
        adapter_hash="",
        card=card,
        environment="",
        weights="none",
        options={},
        inputs="images",
        scene=scene.name,
        scene_path=str(scene.path.resolve()),
        inputs_hash="",
        views=views,
        seed=0,
        device="",
        policy=Policy(),
        external=True,
        posed=posed,
        status="ok",
        hardware=hardware(),
        prediction=identity,
        points=len(prediction.points),
        points_kept=kept,
        finished=now(),
        command=shlex.join(command),
    )
    if store.trial(key) is None:
        store.put_trial(record)
    return record


def cameras_of_model(model: Path) -> list[CameraFile]:
    """The cameras of the folder of a COLMAP model, which COLMAP reads behind the walls."""
    files = sorted(path for path in model.iterdir() if path.stem in PARTS_OF_MODEL)
    if not any(path.stem == "images" for path in files):
        raise InputError(f"{model}: no images.bin or images.txt seen, a COLMAP model wanted")
    if links := [path.name for path in files if path.is_symlink()]:
        raise InputError(f"{model}: {links[0]}: a link seen, a file wanted")
    model = model.resolve()
    with walls.work_folder() as folder:
        made = folder / "work" / "cameras.json"
        made.parent.mkdir()
        try:
            run_tool(own_tool("COLMAP", CONVERT, [model, made], folder, [model], DEADLINE))
            if made.is_symlink() or not made.is_file() or made.stat().st_size > LARGEST:
                raise InputError(f"{made.name}: a file of at most {LARGEST >> 20} MiB wanted")
            return read_cameras(made)
        except InputError as error:
            raise InputError(f"{model}: not a readable COLMAP model ({error})") from error


def _in_order(prediction: Reconstruction, views: list[str], order: tuple[str, ...]) -> Reconstruction:
    """The cameras in the scene's order, as every stored prediction has them."""
    if len(set(views)) != len(views):
        raise InputError(f"cameras: {len(views) - len(set(views))} views have two cameras, one each wanted")
    assert prediction.cameras is not None
    rows = np.argsort([order.index(view) for view in views])
    return dataclasses.replace(prediction, cameras=prediction.cameras.take(rows))
