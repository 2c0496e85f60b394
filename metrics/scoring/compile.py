"""Compiling ahead: the first score in a new installation would otherwise wait for it, half a minute or more."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import trimesh

from adapters.contract import Cameras, Reconstruction
from metrics.mesh import mesh_validity
from metrics.scoring.prepared import PreparedTruth, ScoringError
from metrics.scoring.protocol import Protocol
from metrics.scoring.score import score
from metrics.scoring.truth import Truth

VIEWS, SIZE = 3, 48


def compile_kernels(protocol: Protocol) -> None:
    """Compile every kernel that scoring under `protocol` runs, or load it from numba's cache, on a small sphere."""
    small = msgspec.structs.replace(protocol, samples=500, emd_samples=64, draws=2, emd_draws=2, crop=False)
    truth = _sphere()
    pixel = np.full((len(truth.points), 2), SIZE / 2, np.float32)
    prediction = Reconstruction(
        points=truth.points,
        frame="world",
        scale="arbitrary",
        cameras=truth.cameras,
        registered=np.ones(VIEWS, np.bool_),
        view_index=np.arange(len(pixel), dtype=np.int32) % VIEWS,
        pixel=pixel,
    )
    if protocol.mesh and truth.mesh is not None:
        mesh_validity(*truth.mesh)
    with contextlib.suppress(ScoringError):  # what cannot be scored has nothing to compile
        prepared = PreparedTruth.of(truth, small)
        for scope, posed in (("scene", False), ("scene", True), ("object", False)):
            with contextlib.suppress(ScoringError):
                score(prediction, prepared, truth.view_names, scope=scope, posed=posed)


def _sphere() -> Truth:
    """A bumpy sphere, seen by cameras around it."""
    mesh = trimesh.creation.icosphere(subdivisions=4)
    vertices = np.asarray(mesh.vertices) * (1 + 0.2 * np.asarray(mesh.vertices)[:, :1])
    poses = np.tile(np.eye(4), (VIEWS, 1, 1))
    for i, angle in enumerate((0.0, 0.5, 1.0)):
        poses[i, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        poses[i, 2, 3] = 4.0
    K = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]])
    return Truth(
        kind="exact",
        id="",
        made_by=(),
        points=vertices.astype(np.float32),
        normals=np.asarray(mesh.vertices, np.float32),
        diameter=2.2,
        view_names=tuple(map(str, range(VIEWS))),
        cameras=Cameras(np.tile(K, (VIEWS, 1, 1)), poses),
        sizes=np.full((VIEWS, 2), SIZE, np.int32),
        vertices=vertices,
        faces=np.asarray(mesh.faces, np.int32),
    )
