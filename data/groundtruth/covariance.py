"""The covariance of cameras by bundle adjustment (Triggs et al., "Bundle Adjustment: A Modern
Synthesis", 1999, sections 6 and 9), from the spread of the residuals and the geometry of the tracks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from adapters.contract import F64
from adapters.shared.sfm import SparseModel

I64 = NDArray[np.int64]
GAUGE = 7  # a reconstruction from images is known up to a similarity


def centre_error(model: SparseModel) -> float:
    """The standard error of the camera centres in the model's own unit: RMS over the registered views, after the best
    similarity. Poses, focal lengths, radial coefficients and points are all unknown, pixels equally noisy."""
    views = np.flatnonzero(model.registered)
    row_of = np.full(len(model.registered), -1)
    row_of[views] = np.arange(len(views))
    view, point = row_of[model.observation_view], model.observation_point.astype(np.int64)
    lens = np.column_stack([model.cameras.intrinsics[views, 0, 0], model.radial[views]])
    group = np.unique(lens, axis=0, return_inverse=True)[1].reshape(-1)
    residual, by_camera, by_lens, by_point = _jacobians(model, views, view, point)
    columns = np.concatenate(
        [6 * view[:, None] + np.arange(6), 6 * len(views) + 2 * group[view][:, None] + np.arange(2)], axis=1
    )
    n, m = 6 * len(views) + 2 * int(group.max() + 1), len(model.points)
    J = _sparse(np.concatenate([by_camera, by_lens], axis=2), columns, n)
    Q = _sparse(by_point, 3 * point[:, None] + np.arange(3), 3 * m)
    blocks = np.zeros((m, 3, 3))
    np.add.at(blocks, point, np.einsum("kia,kib->kab", by_point, by_point))
    inverse = np.linalg.pinv(blocks, hermitian=True)
    corner = np.arange(3 * m).reshape(m, 3)
    where = np.repeat(corner, 3, axis=1).ravel(), np.tile(corner, (1, 3)).ravel()
    W = J.T @ Q
    S = np.asarray((J.T @ J - W @ coo_matrix((inverse.ravel(), where), (3 * m, 3 * m)).tocsr() @ W.T).todense())
    freedom = max(residual.size - n - 3 * m + GAUGE, 1)
    scale = 1 / np.sqrt(np.maximum(np.diag(S), 1e-30))
    values, vectors = np.linalg.eigh(scale[:, None] * S * scale)
    half = scale[:, None] * vectors[:, GAUGE:] / np.sqrt(np.maximum(values[GAUGE:], 1e-12))
    centres = model.cameras.centres[views]
    moved = half.reshape(n, -1)[: 6 * len(views)].reshape(len(views), 6, -1)[:, 3:].reshape(3 * len(views), -1)
    gauge = np.linalg.qr(_similarities(centres))[0]
    moved = moved - gauge @ (gauge.T @ moved)
    return float(np.sqrt((residual**2).sum() / freedom * (moved**2).sum() / len(views)))


def _jacobians(model: SparseModel, views: I64, view: I64, point: I64) -> tuple[F64, F64, F64, F64]:
    """Residuals (K, 2) and their derivatives by the camera, a turn about its centre and the centre (K, 2, 6), by focal
    length and radial coefficient (K, 2, 2), and by the point (K, 2, 3)."""
    R = model.cameras.camera_from_world[views][view][:, :3, :3]
    x = np.einsum("kij,kj->ki", R, model.points[point] - model.cameras.centres[views][view])
    K, radial = model.cameras.intrinsics[views][view], model.radial[views][view][:, None]
    focal, p = K[:, :1, 0], x[:, :2] / x[:, 2:]
    square = (p**2).sum(axis=1, keepdims=True)
    residual = K[:, :2, 2] + focal * p * (1 + radial * square) - model.observation_pixel
    by_p = focal[..., None] * (
        (1 + radial * square)[..., None] * np.eye(2) + 2 * radial[..., None] * p[:, :, None] * p[:, None]
    )
    by_x = by_p @ np.concatenate([np.tile(np.eye(2), (len(p), 1, 1)), -p[..., None]], axis=2) / x[:, 2, None, None]
    turned = np.cross(np.eye(3)[None], x[:, None]).transpose(0, 2, 1)  # x moves by w x x
    by_point = by_x @ R
    by_camera = np.concatenate([by_x @ turned, -by_point], axis=2)
    by_lens = np.stack([p * (1 + radial * square), focal * p * square], axis=2)
    return residual, by_camera, by_lens, by_point


def _sparse(values: F64, columns: I64, width: int) -> csr_matrix:
    """(2K, width) from (K, 2, c) `values` that stand in `columns` (K, c)."""
    rows = np.broadcast_to(np.arange(2 * len(values)).reshape(-1, 2, 1), values.shape)
    where = np.broadcast_to(columns[:, None], values.shape)
    return coo_matrix((values.ravel(), (rows.ravel(), where.ravel())), (2 * len(values), width)).tocsr()


def _similarities(centres: F64) -> F64:
    """(3V, 7) how centres move under shifts, turns and scaling."""
    offset = centres - centres.mean(axis=0)
    turns = np.cross(np.eye(3)[:, None], offset[None])
    shifts = np.broadcast_to(np.eye(3)[:, None], turns.shape)
    return np.concatenate([shifts, turns, offset[None]]).reshape(7, -1).T
