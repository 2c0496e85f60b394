"""Registration's inner loops on a CUDA device: robust ICP from many poses at once.

The steps are those of `metrics.kernels.cpu.icp`, taken for all poses together. Neighbours come from an exhaustive
search in single precision, where the CPU descends a neighbour graph: the poses agree as far as ICP converges, not to
the last digit.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.contract import F64, I32
from metrics.kernels.cpu.icp import STEP, TURNS
from metrics.kernels.cuda.device import Device, Tensor
from metrics.kernels.cuda.nearest import search_batch

TINY = 1e-300


def nearest_rows(queries: F64, points: Tensor) -> NDArray[np.int64]:
    """(Q,) which of `points` (M, 3), a tensor on some device, is nearest to each of `queries` (Q, 3)."""
    asked = torch.from_numpy(np.ascontiguousarray(queries)).to(points.device)
    return np.asarray(search_batch(asked[None], points[None])[1][0].cpu().numpy())


def on(device: Device, points: NDArray[np.floating]) -> Tensor:
    """`points` as a float64 tensor on `device`."""
    return torch.from_numpy(np.ascontiguousarray(points, np.float64)).to(device)


def refine(
    poses: F64,
    pred: F64,
    truth_rows: I32,
    pred_points: Tensor,
    truth_points: Tensor,
    normals: Tensor,
    iterations: int,
    wide: float,
    narrow: float,
    point_share: float,
) -> tuple[F64, F64]:
    """Costs (K,) and refined poses (K, 4, 4); see `metrics.kernels.cpu.icp.refine`.

    `pred` (A, 3) and `truth_rows` (B,) are the samples; `pred_points` (M, 3), `truth_points` (N, 3) and `normals`
    (N, 3) lie on the device."""
    device = truth_points.device
    pose, samples = on(device, poses), on(device, pred)
    rows = torch.from_numpy(truth_rows.astype(np.int64)).to(device)
    sources = truth_points[rows]
    count, many = len(samples), len(samples) + len(rows)
    share = torch.full((many,), 1.0 / len(rows), dtype=torch.float64, device=device)
    share[:count] = 1.0 / count
    start = _scales(pose)
    for step in range(iterations + 1):
        width = wide * (narrow / wide) ** min(step / max(iterations - 1, 1), 1.0)
        moved, partner, squared = _pairs(pose, samples, rows, sources, pred_points, truth_points)
        weight = width * width / (width * width + squared)
        costs = ((1 - weight) * share).sum(1)
        if step == iterations:
            break
        weights = weight * weight * share
        target = truth_points[partner]
        if point_share < 1:
            change = plane_step(moved, target, normals[partner], weights, point_share, 1e-4)
        else:
            change = point_step(moved, target, weights)
        pose = change @ pose
        scale = _scales(pose)  # a start answers for scales within a factor of two
        pose[:, :3] *= (scale.clamp(0.5 * start, 2 * start) / scale)[:, None, None]
    return costs.cpu().numpy(), pose.cpu().numpy()


def _scales(pose: Tensor) -> Tensor:
    return (pose[:, :3, :3].square().sum((1, 2)) / 3).sqrt()


def _pairs(
    pose: Tensor, samples: Tensor, rows: Tensor, sources: Tensor, pred_points: Tensor, truth_points: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For every pose: pred's points under it (K, A + B, 3), their partners' rows (K, A + B), squared distances."""
    turn, shift = pose[:, :3, :3], pose[:, None, :3, 3]
    inverse = 3.0 / turn.square().sum((1, 2))[:, None, None]  # 1 / scale^2
    ahead = samples @ turn.transpose(1, 2) + shift
    flat = ahead.reshape(1, -1, 3)
    forward = search_batch(flat, truth_points[None])[1].view(ahead.shape[:2])
    back = inverse * ((sources - shift) @ turn)
    near = pred_points[search_batch(back.reshape(1, -1, 3), pred_points[None])[1].view(back.shape[:2])]
    squared = [(ahead - truth_points[forward]).square().sum(2), (back - near).square().sum(2) / inverse[..., 0]]
    moved = torch.cat([ahead, near @ turn.transpose(1, 2) + shift], dim=1)
    return moved, torch.cat([forward, rows.expand(len(pose), -1)], dim=1), torch.cat(squared, dim=1)


def point_step(moved: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """(K, 4, 4) similarities of weighted point-to-point least squares, as `metrics.kernels.cpu.icp.point_step`."""
    w = weights[..., None]
    total = weights.sum(1)[:, None] + TINY
    mean_x, mean_y = (w * moved).sum(1) / total, (w * truth).sum(1) / total
    x, y = moved - mean_x[:, None], truth - mean_y[:, None]
    M = (w * y).transpose(1, 2) @ x
    var_x = (w * x.square()).sum((1, 2)).clamp_min(TINY)
    var_y = (w * y.square()).sum((1, 2)).clamp_min(TINY)
    R = torch.eye(3, dtype=M.dtype, device=M.device).repeat(len(M), 1, 1)
    for _ in range(TURNS):
        dot = (R * M).sum((1, 2)).abs().maximum(1e-12 * var_y)
        turn = torch.linalg.cross(R, M, dim=1).sum(2) / dot[:, None]
        size = turn.norm(dim=1, keepdim=True)
        R = _turned(turn * (2.0 / size.clamp_min(2.0))) @ R
    return _about(mean_x, R, (var_y / var_x).sqrt(), mean_y - mean_x)


def plane_step(
    moved: Tensor, truth: Tensor, normals: Tensor, weights: Tensor, point_share: float, damping: float
) -> Tensor:
    """(K, 4, 4) Gauss-Newton steps of seven unknowns, as `metrics.kernels.cpu.icp.plane_step`."""
    total = weights.sum(1) + TINY
    centre = (weights[..., None] * moved).sum(1) / total[:, None]
    x, u = moved - centre[:, None], truth - centre[:, None]
    r = u - x
    row = torch.cat([torch.linalg.cross(x, normals), normals, (u * normals).sum(2, keepdim=True)], dim=2)
    of_point = torch.cat([torch.linalg.cross(x, r), r, (u * r).sum(2, keepdim=True)], dim=2)
    error = (normals * r).sum(2)
    w = weights[..., None]
    H = (w * row).transpose(1, 2) @ row
    g = (w * (row * error[..., None] + point_share * of_point)).sum(1)
    moments = point_share * (w * x).transpose(1, 2) @ x
    size = moments.diagonal(dim1=1, dim2=2).sum(1)
    eye = torch.eye(3, dtype=H.dtype, device=H.device)
    H[:, :3, :3] += size[:, None, None] * eye - moments
    H[:, 3:6, 3:6] += (point_share * total)[:, None, None] * eye
    H[:, 6, 6] += size
    H += damping * total[:, None, None] * torch.eye(7, dtype=H.dtype, device=H.device)
    factor, failed = torch.linalg.cholesky_ex(H)
    s = torch.cholesky_solve(g[..., None], factor)[..., 0]
    s = torch.where((failed > 0)[:, None], 0.0, s)
    clip = (STEP / s[:, :3].norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    return _about(centre, _turned(clip * s[:, :3]), (1 + s[:, 6]).clamp(0.9, 1.1), s[:, 3:6])


def _turned(turn: Tensor) -> Tensor:
    """(K, 3, 3) rotations by the vectors `turn` (K, 3) in radians."""
    angle = turn.norm(dim=1)
    half = 0.5 * angle
    f = torch.where(angle > 1e-12, half.sin() / angle.clamp_min(1e-12), 0.5)
    w, (x, y, z) = half.cos(), (f[:, None] * turn).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def _about(centre: Tensor, rotation: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The poses x -> centre + scale rotation (x - centre) + shift."""
    pose = torch.eye(4, dtype=centre.dtype, device=centre.device).repeat(len(centre), 1, 1)
    pose[:, :3, :3] = scale[:, None, None] * rotation
    pose[:, :3, 3] = centre + shift - (pose[:, :3, :3] @ centre[..., None])[..., 0]
    return pose
