"""Predictions made elsewhere: stored as trials marked `external`, shown and never ranked."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from adapters.contract import InputError, Reconstruction
from bench.systems.cards import Card
from bench.systems.measure import Policy, hardware, now
from bench.trials.records import TrialRecord
from bench.trials.scenes import EMBEDDED
from bench.trials.store import Store
from data.catalog.shared.model import read_model
from data.eval3r import MANIFEST, read_saved
from data.exchange import read_cameras, read_cloud
from data.scene import CameraFile, Scene


def add_external(
    store: Store,
    file: Path,
    scene: Scene,
    cameras: Path | None,
    posed: bool,
    name: str = "",
    say: Callable[[str], None] = lambda sentence: None,
) -> TrialRecord:
    """Store the cloud or mesh of `file`, or what eval3r saved in that folder, as a finished trial on `scene`; the same
    twice is one trial.

    `name` is what tables call the system that made it, the file's own name without one; clouds of one name on several
    scenes are one system. Without cameras, and not `posed`, it is aligned as a single object is, by a global
    search. `say` is told what of the cameras is left out."""
    saved = file.is_dir() and (file / MANIFEST).is_file()
    if not (saved or file.is_file()):
        raise InputError(f"{file}: no such file" if not file.is_dir() else f"{file}: no {MANIFEST} seen, a file wanted")
    if not scene.truth_kinds:
        raise InputError(f"{scene.path}: no ground truth, so nothing can be scored on it")
    if saved:
        if cameras is not None:
            raise InputError(f"{file}: cameras {cameras} seen beside it, those that it names wanted alone")
        made = read_saved(file, scene, posed, say)
        prediction, name, views = made.prediction, name or made.method, list(scene.view_names)
    else:
        files: list[CameraFile] = []
        if cameras is not None:
            files = cameras_of_model(cameras, say) if cameras.is_dir() else read_cameras(cameras)
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


def cameras_of_model(model: Path, say: Callable[[str], None] = lambda sentence: None) -> list[CameraFile]:
    """The cameras of the folder of a COLMAP model by the stems of their images' names, lens distortion left out."""
    if links := sorted(path.name for path in model.iterdir() if path.is_symlink()):
        raise InputError(f"{model}: {links[0]}: a link seen, a file wanted")
    images, _ = read_model(model)
    files, bent = [], 0
    for image, (lens, camera_from_world) in sorted(images.items()):
        K = lens.intrinsics()
        bent += lens.straight() is None
        pinhole = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
        files.append(CameraFile(Path(image).stem, *lens.size, *pinhole, camera_from_world.tolist()))
    if bent:
        say(f"{model}: the lens distortion of {bent} images is left out: poses and focal lengths are scored")
    return files


def _in_order(prediction: Reconstruction, views: list[str], order: tuple[str, ...]) -> Reconstruction:
    """The cameras in the scene's order, as every stored prediction has them."""
    if len(set(views)) != len(views):
        raise InputError(f"cameras: {len(views) - len(set(views))} views have two cameras, one each wanted")
    assert prediction.cameras is not None
    rows = np.argsort([order.index(view) for view in views])
    return dataclasses.replace(prediction, cameras=prediction.cameras.take(rows))
