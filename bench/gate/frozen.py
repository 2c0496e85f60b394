"""The predictions that a baseline freezes: those of the suite's adapters, thinned, and two made by perturbing a ground
truth so that they carry everything that scoring reads."""

from __future__ import annotations

import dataclasses

import numpy as np

from adapters.contract import F32, Cameras, Reconstruction
from bench.gate.baseline import Frozen
from bench.trials.plan import read_truth, view_order
from bench.trials.scenes import get_scene
from metrics.scoring.equalise import bounded_subset
from metrics.scoring.prepared import PreparedTruth
from metrics.scoring.protocol import Protocol
from metrics.similarity import apply, nearest_rotation, similarity

POINTS = 3000  # kept of each prediction
SEED = 1
SCALE = 0.37  # of the perturbed predictions' frame
PERTURBED = {"perturbed": 8, "perturbed-pair": 2}  # name -> views


def thin(prediction: Reconstruction) -> Reconstruction:
    """At most POINTS of the points with all that belongs to them, and the cameras; no maps, mesh or renderings."""
    rows = bounded_subset(prediction.points, POINTS)
    bare = dataclasses.replace(prediction, depth=None, mesh=None, renderings=None).arrays()
    point_fields = ("points", "colors", "confidence", "view_index", "pixel")
    return Reconstruction.from_arrays(
        {name: array[rows] if name in point_fields else array for name, array in bare.items()}
    )


def perturbed_truth(scene_name: str, name: str, protocol: Protocol) -> tuple[Frozen, Reconstruction]:
    """A reconstruction of a scene that is wrong everywhere by a little: points, pixels, depth, confidence and cameras,
    one of them missing, all in a turned and scaled frame."""
    scene = get_scene(scene_name)
    truth = read_truth(scene, scene.truth_kinds[0])
    prepared = PreparedTruth.of(truth, protocol)
    rng = np.random.default_rng([SEED, PERTURBED[name]])
    views = tuple(sorted(view for view in view_order(scene, SEED) if view in truth.view_names)[: PERTURBED[name]])
    rows = [truth.view_names.index(view) for view in views]
    visible = prepared.visibility[rows]
    chosen = rng.choice(np.flatnonzero(visible.any(axis=0)), POINTS, replace=False)
    view_index = np.array([rng.choice(np.flatnonzero(visible[:, point])) for point in chosen], np.int32)
    noise = rng.normal(0, 0.004 * truth.diameter, (POINTS, 1)) * prepared.normals[chosen]
    surface = prepared.points[chosen] + noise + 0.02 * truth.diameter * (rng.random((POINTS, 1)) < 0.05)

    rotation = nearest_rotation(np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]]))
    pred_from_truth = similarity(SCALE, rotation, np.array([0.4, -1.1, 0.7]) * truth.diameter)
    poses, pixel = np.tile(np.eye(4), (len(rows), 1, 1)), np.zeros((POINTS, 2))
    depth: list[F32] = []
    for i, row in enumerate(rows):
        jitter = nearest_rotation(np.eye(3) + rng.normal(0, 0.01, (3, 3)))
        poses[i, :3, :3] = jitter @ truth.cameras.camera_from_world[row, :3, :3] @ rotation.T
        centre = apply(pred_from_truth, truth.cameras.centres[row] + rng.normal(0, 0.003 * truth.diameter, 3))
        poses[i, :3, 3] = -poses[i, :3, :3] @ np.reshape(centre, 3)
        in_view = np.flatnonzero(view_index == i)
        where, depths = truth.cameras.project(row, surface[in_view])
        width, height = truth.sizes[row]
        pixel[in_view] = np.clip(where + rng.normal(0, 0.3, where.shape), 0, [width, height])
        map_ = np.zeros((height, width), np.float32)
        column, line = np.minimum(pixel[in_view].astype(np.int64), [width - 1, height - 1]).T
        map_[line, column] = SCALE * depths * rng.normal(1, 0.02, len(in_view))
        depth.append(map_)
    registered = np.ones(len(rows), np.bool_)
    registered[5:6] = False
    prediction = Reconstruction(
        points=np.asarray(apply(pred_from_truth, surface), np.float32),
        frame="object",
        scale="arbitrary",
        confidence=rng.random(POINTS).astype(np.float32),
        confidence_kind="probability",
        view_index=view_index,
        pixel=pixel.astype(np.float32),
        cameras=Cameras(truth.cameras.intrinsics[rows].copy(), poses),
        registered=registered,
        depth=tuple(depth),
    )
    return Frozen(name=name, scene=scene_name, views=views, scope="scene", posed=False), prediction
