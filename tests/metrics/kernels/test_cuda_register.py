"""Registration's inner loops on the CUDA backend, in Triton's interpreter: the steps of the CPU's, pose by pose."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

torch = pytest.importorskip("torch", reason="torch is not installed: extra `kernels-test`")
pytest.importorskip("triton", reason="triton is not installed: extra `kernels-test`")

from adapters.contract import F64
from metrics.kernels.cpu import icp as cpu
from metrics.kernels.cuda import icp as cuda
from metrics.register import icp, register
from metrics.register.search import _grid, _PoseSearch
from metrics.similarity import apply, invert, rotation_angle, scale_of, similarity
from tests.metrics.test_emd import surface

CPU = torch.device("cpu")  # where the interpreter works


def turned(angle: float, scale: float, shift: tuple[float, float, float]) -> F64:
    c, s = np.cos(angle), np.sin(angle)
    return similarity(scale, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array(shift))


def pairs(seed: int, n: int = 300) -> tuple[F64, F64, F64, F64]:
    """Points, their partners some way off, unit normals, and weights with zeros among them."""
    rng = np.random.default_rng(seed)
    moved = surface(n, rng)
    truth = apply(turned(0.1, 1.05, (0.02, -0.03, 0.01)), moved).astype(np.float32).astype(np.float64)
    normals = rng.normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return moved, truth, normals, rng.random(n) * (rng.random(n) < 0.9)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_the_cpu_s(seed: int) -> None:
    moved, truth, normals, weights = pairs(seed)
    rows = np.arange(len(moved), dtype=np.int32)
    tensors = [
        torch.from_numpy(array)[None].repeat(2, *([1] * array.ndim)) for array in (moved, truth, normals, weights)
    ]
    plane = cpu.plane_step(moved, truth.astype(np.float32), normals, rows, weights, 0.3, 1e-4, 7)
    point = cpu.point_step(moved, truth.astype(np.float32), rows, weights)
    for change in cuda.plane_step(*tensors, 0.3, 1e-4).numpy():
        np.testing.assert_allclose(change, plane, atol=1e-9)
    for change in cuda.point_step(tensors[0], tensors[1], tensors[3]).numpy():
        np.testing.assert_allclose(change, point, atol=3e-4)  # the CPU stops turning at 1e-4 radians


@pytest.mark.parametrize("point_share", [0.3, 1.0])
def test_refining_converges_where_the_cpu_does(point_share: float) -> None:
    rng = np.random.default_rng(4)
    truth, pred = surface(400, rng), surface(350, rng)
    poses = np.stack([turned(0.08, 1.04, (0.03, 0, 0)), turned(-0.1, 0.95, (0, 0.02, 0.02))])
    pred_grid, truth_grid = _grid(pred)[0], _grid(truth)[0]
    normals = truth - truth.mean(axis=0)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    samples, rows = pred[::4].copy(), np.arange(0, 400, 4, dtype=np.int32)
    costs, refined = cpu.refine(poses, samples, rows, pred_grid, truth_grid, normals, 4, 0.3, 0.1, 30, point_share)
    clouds = [cuda.on(CPU, values) for values in (pred_grid.points, truth_grid.points, normals)]
    own_costs, own = cuda.refine(poses, samples, rows, *clouds, 4, 0.3, 0.1, point_share)
    np.testing.assert_allclose(own_costs, costs, rtol=0.02)
    np.testing.assert_allclose(own, refined, atol=0.01)


def test_weights_that_determine_nothing_move_nothing() -> None:
    moved, truth, normals, _ = (torch.from_numpy(array)[None] for array in pairs(0))
    nothing = torch.zeros(1, 300, dtype=torch.float64)
    change = cuda.plane_step(moved, truth, normals, nothing, 0.3, 0.0)
    np.testing.assert_array_equal(change[0].numpy(), np.eye(4))


def test_icp_on_a_device_ends_where_the_cpu_s_does() -> None:
    rng = np.random.default_rng(5)
    truth = surface(500, rng)
    pose = turned(0.1, 1.04, (0.05, 0.02, 0))
    pred = apply(invert(pose), surface(400, rng))
    on_device, on_host = icp(pred, truth, device="cuda"), icp(pred, truth)
    np.testing.assert_allclose(on_device.transform, on_host.transform, atol=1e-6)
    assert on_device.residual == pytest.approx(on_host.residual, rel=1e-6)


def test_register_on_a_device_recovers_the_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole search with the device's own steps. Neighbours come from a tree and starts are thinned: the
    interpreter would take an hour."""

    def by_tree(queries: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        distance, index = cKDTree(points[0].numpy()).query(queries[0].numpy())
        return torch.from_numpy(distance)[None] ** 2, torch.from_numpy(index)[None]

    starts = _PoseSearch.starts
    monkeypatch.setattr(cuda, "search_batch", by_tree)
    monkeypatch.setattr(_PoseSearch, "starts", lambda self, rotations, scales: starts(self, rotations // 4, scales))
    monkeypatch.setattr(_PoseSearch, "symmetric_poses", lambda self, pool: pool.best(1))
    rng = np.random.default_rng(6)
    pose = turned(1.9, 1.3, (0.2, 0, 0.1))
    truth, pred = surface(400, rng), apply(invert(pose), surface(400, rng))
    result = register(pred, truth, device="cuda")
    scale = scale_of(result.target_from_source)
    assert scale == pytest.approx(1.3, rel=0.02)
    assert rotation_angle((result.target_from_source[:3, :3] / scale @ (pose[:3, :3] / 1.3).T)[None])[0] < 3
    assert not result.poor_fit
