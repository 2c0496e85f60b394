"""The standard error of cameras, against a bundle adjustment written out in full."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adapters.contract import Cameras
from adapters.shared.sfm import SparseModel
from data.groundtruth.covariance import centre_error
from data.groundtruth.frame import move_cameras
from tests.data.rings import ring, some_similarity

VIEWS, POINTS, NOISE = 7, 40, 0.7


def project(params: np.ndarray, count: int, points: int, view: np.ndarray, point: np.ndarray) -> np.ndarray:
    """SIMPLE_RADIAL pixels (K, 2) of parameters: rotation vectors, centres, focal length and k of each of two lenses,
    points."""
    turns, centres = params[: 3 * count].reshape(-1, 3), params[3 * count : 6 * count].reshape(-1, 3)
    lens, where = params[6 * count : 6 * count + 4].reshape(2, 2)[view % 2], params[-3 * points :].reshape(-1, 3)
    x = np.einsum("kij,kj->ki", Rotation.from_rotvec(turns).as_matrix()[view], where[point] - centres[view])
    p = x[:, :2] / x[:, 2:]
    return lens[:, :1] * p * (1 + lens[:, 1:] * (p**2).sum(axis=1, keepdims=True)) + 100


def problem(seed: int = 0) -> tuple[SparseModel, np.ndarray]:
    """A noisy model in which not every view sees every point, two lenses, and its parameters."""
    rng = np.random.default_rng(seed)
    cameras = ring(VIEWS)
    intrinsics = cameras.intrinsics.copy()
    intrinsics[1::2, :2, :2] *= 1.3
    points = rng.uniform(-0.7, 0.7, (POINTS, 3))
    observed = rng.uniform(size=(POINTS, VIEWS)) < 0.7
    point, view = (side.astype(np.int32) for side in np.nonzero(observed))
    lens = np.column_stack([intrinsics[:2, 0, 0], [-0.1, 0.05]])
    turns = Rotation.from_matrix(cameras.camera_from_world[:, :3, :3]).as_rotvec()
    params = np.concatenate([turns.ravel(), cameras.centres.ravel(), lens.ravel(), points.ravel()])
    pixel = project(params, VIEWS, POINTS, view, point) + rng.normal(0, NOISE, (len(view), 2))
    model = SparseModel(
        cameras=Cameras(intrinsics, cameras.camera_from_world),
        radial=lens[np.arange(VIEWS) % 2, 1],
        sizes=np.full((VIEWS, 2), 200, np.int32),
        registered=np.ones(VIEWS, np.bool_),
        points=points.astype(np.float32),
        colors=np.zeros((POINTS, 3), np.uint8),
        observation_point=point,
        observation_view=view,
        observation_pixel=pixel.astype(np.float32),
        reprojection_error=NOISE,
        model_sizes=(VIEWS,),
    )
    return model, params


def in_full() -> float:
    """The same from the whole Jacobian by differences, its pseudo-inverse, and Procrustes on noise drawn with it."""
    model, params = problem()
    view, point = model.observation_view, model.observation_point

    def residual(values: np.ndarray) -> np.ndarray:
        return (project(values, VIEWS, POINTS, view, point) - model.observation_pixel).ravel()

    steps = np.eye(len(params)) * 1e-6
    J = np.stack([(residual(params + step) - residual(params - step)) / 2e-6 for step in steps], axis=1)
    left = np.linalg.pinv(J, rcond=1e-9)
    sigma = np.sqrt((residual(params) ** 2).sum() / (J.shape[0] - np.linalg.matrix_rank(J, tol=1e-4)))
    moves = (left @ np.random.default_rng(1).normal(0, 1e-5 * sigma, (J.shape[0], 4000)))[3 * VIEWS : 6 * VIEWS]
    centres = model.cameras.centres
    errors = []
    for move in moves.T:  # each a small noise, so that all is linear; aligned by Umeyama's similarity
        a, b = centres + move.reshape(-1, 3), centres
        a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
        U, S, Vt = np.linalg.svd(b0.T @ a0)
        errors.append(((a0 @ (U @ Vt).T * (S.sum() / (a0**2).sum()) - b0) ** 2).sum(axis=1).mean())
    return float(np.sqrt(np.mean(errors)) / 1e-5)


def test_the_centres_error_is_that_of_the_full_adjustment() -> None:
    assert centre_error(problem()[0]) == pytest.approx(in_full(), rel=0.03)


def test_it_scales_with_the_model_and_knows_no_frame() -> None:
    model, _ = problem()
    transform = some_similarity()
    moved = SparseModel(
        **{
            **vars(model),
            "cameras": move_cameras(model.cameras, transform),
            "points": (model.points @ transform[:3, :3].T + transform[:3, 3]).astype(np.float32),
        }
    )
    assert centre_error(moved) == pytest.approx(2.5 * centre_error(model), rel=1e-3)
