"""What a protocol asks of meshes: their volumes, their faces' normals, and the predicted one by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64, I32, Mesh
from metrics import similarity
from metrics.mesh import face_normals_at, mesh_quality, mesh_validity
from metrics.normals import estimated_normals, normal_consistency
from metrics.scoring.prepared import PreparedTruth
from metrics.scoring.protocol import MESH_METRICS
from metrics.scoring.value import Value
from metrics.volume import volume_iou


def normal_cosine(
    some: F64, pred: F64, mesh: tuple[F64, I32] | None, asked: NDArray[np.floating], normals: NDArray[np.floating]
) -> float:
    """Normal consistency of `some` of `pred`, whose normals are those of `mesh` or estimated, with the truth's points
    `asked`, which have theirs."""
    own = estimated_normals(some, pred) if mesh is None else face_normals_at(some, *mesh)
    return normal_consistency(some, own, asked, normals).mean


def moved_mesh(mesh: Mesh | None, truth_from_pred: F64) -> tuple[F64, I32] | None:
    """Vertices (V, 3) and faces of a predicted mesh in the truth's frame."""
    return None if mesh is None else (similarity.apply(truth_from_pred, mesh.vertices), mesh.faces)


def volume_value(pred: tuple[F64, I32] | None, prepared: PreparedTruth) -> Value:
    """Volume IoU of a mesh in the truth's frame; none, and why, where either encloses no volume."""
    protocol, truth = prepared.protocol, prepared.truth
    if pred is None:
        return Value("unsupported", note="the adapter gives no mesh")
    if truth.mesh is None:
        return Value("unsupported", note=f"the {truth.kind} truth is no mesh")
    corners = truth.mesh[0][np.unique(truth.mesh[1])]
    low, high = corners.min(axis=0), corners.max(axis=0)
    cube = ((low + high) / 2, protocol.volume_cube * float((high - low).max())) if protocol.volume_cube else None
    result = volume_iou(*pred, *truth.mesh, protocol.volume, cube)
    if not result.truth_closed:
        return Value("unsupported", note="the truth's mesh is not watertight: it encloses no volume")
    if not result.pred_closed:
        return Value("failed", note="the predicted mesh is not watertight, or its faces disagree which side is out")
    if result.value is None:
        return Value("failed", note=f"neither mesh holds the middle of any of {protocol.volume}^3 cells")
    return Value("ok", result.value)


def mesh_values(mesh: Mesh | None) -> dict[str, Value]:
    """Validity and quality of a predicted mesh, in its own frame."""
    if mesh is None:
        return dict.fromkeys(MESH_METRICS, Value("unsupported", note="the adapter gives no mesh"))
    census, quality = mesh_validity(mesh.vertices, mesh.faces), mesh_quality(mesh.vertices, mesh.faces)
    readings: dict[str, float | None] = {
        "mesh-watertight": float(census.watertight),
        "mesh-manifold": float(census.manifold),
        "mesh-components": float(census.components),
        "mesh-degenerate": census.degenerate_faces / census.faces,
        "mesh-intersecting": census.intersecting,
        "mesh-edge-spread": quality.edge_spread,
        "mesh-turn": quality.turn,
        "mesh-laplacian": quality.laplacian,
        "mesh-aspect@4": quality.stretched,
        "mesh-angle@10": quality.acute,
    }
    absent = Value("failed", note="too few faces with an area and an edge in common")
    values = {name: absent if value is None else Value("ok", value) for name, value in readings.items()}
    if not census.complete and census.checked_faces:
        note = f"{census.checked_faces} of {census.faces} faces were checked, drawn at random: all would take too long"
        values["mesh-intersecting"] = replace(values["mesh-intersecting"], note=note)
    return values
