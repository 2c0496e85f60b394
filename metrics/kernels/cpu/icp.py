"""Compiled inner loops of registration: neighbours by voxel grid, pairs, and the two least-squares steps.

A pose is a (4, 4) float64 similarity, truth from pred. Clouds are `Grid`s.

Sums are taken in the order written, here as in all that scores. With numba's `fastmath` a function has other last
digits alone than inlined into its caller, and which of the two a process calls is decided by whether it compiled them
or found them in the cache: the auction made a difference in EMD's fourth digit of that. It was not faster either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adapters.contract import F32, F64, I32

I16 = NDArray[np.int16]

STEP = 0.25  # radians, largest turn of one point-to-plane step
TURNS = 8  # inner iterations for a rotation: the outer loop goes on from where they stop


class Grid(NamedTuple):
    """A cloud made ready for approximate nearest neighbours: look up a voxel, then descend the neighbour graph.

    Narrow types, so that two of them stay in a core's cache; hence at most 32767 points."""

    points: F32  # (M, 3)
    neighbours: I16  # (M, k) rows of the k nearest points
    cells: I16  # (G, G, G) row of a point (almost) nearest to the voxel's centre
    low: F64  # (3,) corner of the first voxel
    cell: float  # side of a voxel


@njit(cache=True, error_model="numpy")
def fill_cells(points: F32, low: F64, cell: float, size: int) -> I16:
    """The `cells` of a Grid: each voxel takes the best point its visited neighbours know, in four sweeps."""
    cells = np.full((size, size, size), -1, np.int16)
    best = np.full((size, size, size), np.inf, np.float32)
    for m in range(len(points)):
        at = np.empty(3, np.int64)
        squared = 0.0
        for d in range(3):
            at[d] = min(max(int((points[m, d] - low[d]) / cell), 0), size - 1)
            squared += (points[m, d] - low[d] - (at[d] + 0.5) * cell) ** 2
        if squared < best[at[0], at[1], at[2]]:
            best[at[0], at[1], at[2]] = squared
            cells[at[0], at[1], at[2]] = m
    for sweep in range(4):
        direction = 1 if sweep % 2 == 0 else -1
        for ii in range(size):
            i = ii if direction > 0 else size - 1 - ii
            x = low[0] + (i + 0.5) * cell
            for jj in range(size):
                j = jj if direction > 0 else size - 1 - jj
                y = low[1] + (j + 0.5) * cell
                for kk in range(size):
                    k = kk if direction > 0 else size - 1 - kk
                    z = low[2] + (k + 0.5) * cell
                    for q in range(13):  # the half of the 26 neighbours that this sweep has been to
                        a = i - direction if q < 9 else i
                        b = j + direction * (q // 3 - 1) if q < 9 else (j - direction if q < 12 else j)
                        c = k + direction * (q % 3 - 1) if q < 12 else k - direction
                        if a < 0 or b < 0 or c < 0 or a >= size or b >= size or c >= size:
                            continue
                        m = cells[a, b, c]
                        if m < 0 or m == cells[i, j, k]:
                            continue
                        squared = (points[m, 0] - x) ** 2 + (points[m, 1] - y) ** 2 + (points[m, 2] - z) ** 2
                        if squared < best[i, j, k]:
                            best[i, j, k] = squared
                            cells[i, j, k] = m
    return cells


@njit(inline="always")
def _nearest(grid: Grid, x: float, y: float, z: float, hops: int) -> tuple[int, float]:
    """Row of a near point and its squared distance: the voxel's point, improved by at most `hops` greedy moves."""
    points, neighbours, cells, low, cell = grid
    size = cells.shape[0]
    i = min(max(int((x - low[0]) / cell), 0), size - 1)
    j = min(max(int((y - low[1]) / cell), 0), size - 1)
    k = min(max(int((z - low[2]) / cell), 0), size - 1)
    row = cells[i, j, k]
    best = (points[row, 0] - x) ** 2 + (points[row, 1] - y) ** 2 + (points[row, 2] - z) ** 2
    for _ in range(hops):
        here = row
        for q in range(neighbours.shape[1]):
            m = neighbours[here, q]
            squared = (points[m, 0] - x) ** 2 + (points[m, 1] - y) ** 2 + (points[m, 2] - z) ** 2
            if squared < best:
                best = squared
                row = m
        if row == here:
            break
    return row, best


@njit(cache=True, error_model="numpy")
def pair_up(
    pose: F64,
    pred: F64,
    truth_rows: I32,
    pred_grid: Grid,
    truth_grid: Grid,
    hops: int,
    moved: F64,
    rows: I32,
    squared: F64,
) -> None:
    """Pair pred's samples (A, 3), then truth's samples (rows of `truth_grid`, (B,)), with their nearest neighbours.

    Fills `moved` (A + B, 3), pred's points under `pose`; `rows` (A + B,), truth's; `squared` distances (A + B,)."""
    points, sources = truth_grid.points, pred_grid.points
    count = len(pred)
    inverse = 3.0 / (pose[:3, :3] ** 2).sum()  # 1 / scale^2
    for i in range(count):
        a, b, c = pred[i, 0], pred[i, 1], pred[i, 2]
        x = pose[0, 0] * a + pose[0, 1] * b + pose[0, 2] * c + pose[0, 3]
        y = pose[1, 0] * a + pose[1, 1] * b + pose[1, 2] * c + pose[1, 3]
        z = pose[2, 0] * a + pose[2, 1] * b + pose[2, 2] * c + pose[2, 3]
        row, distance = _nearest(truth_grid, x, y, z, hops)
        moved[i, 0], moved[i, 1], moved[i, 2] = x, y, z
        rows[i] = row
        squared[i] = distance
    for n in range(len(truth_rows)):
        i = count + n
        row = truth_rows[n]
        a, b, c = points[row, 0] - pose[0, 3], points[row, 1] - pose[1, 3], points[row, 2] - pose[2, 3]
        x = inverse * (pose[0, 0] * a + pose[1, 0] * b + pose[2, 0] * c)
        y = inverse * (pose[0, 1] * a + pose[1, 1] * b + pose[2, 1] * c)
        z = inverse * (pose[0, 2] * a + pose[1, 2] * b + pose[2, 2] * c)
        m, distance = _nearest(pred_grid, x, y, z, hops)
        a, b, c = sources[m, 0], sources[m, 1], sources[m, 2]
        moved[i, 0] = pose[0, 0] * a + pose[0, 1] * b + pose[0, 2] * c + pose[0, 3]
        moved[i, 1] = pose[1, 0] * a + pose[1, 1] * b + pose[1, 2] * c + pose[1, 3]
        moved[i, 2] = pose[2, 0] * a + pose[2, 1] * b + pose[2, 2] * c + pose[2, 3]
        rows[i] = row
        squared[i] = distance / inverse


@njit(cache=True, error_model="numpy")
def _turned(x: float, y: float, z: float) -> F64:
    """(3, 3) rotation by the vector (x, y, z) in radians."""
    angle = np.sqrt(x * x + y * y + z * z)
    half = 0.5 * angle
    f = np.sin(half) / angle if angle > 1e-12 else 0.5
    w, x, y, z = np.cos(half), f * x, f * y, f * z
    R = np.empty((3, 3))
    R[0, 0] = 1 - 2 * (y * y + z * z)
    R[0, 1] = 2 * (x * y - w * z)
    R[0, 2] = 2 * (x * z + w * y)
    R[1, 0] = 2 * (x * y + w * z)
    R[1, 1] = 1 - 2 * (x * x + z * z)
    R[1, 2] = 2 * (y * z - w * x)
    R[2, 0] = 2 * (x * z - w * y)
    R[2, 1] = 2 * (y * z + w * x)
    R[2, 2] = 1 - 2 * (x * x + y * y)
    return R


@njit(cache=True, error_model="numpy")
def _product(A: F64, B: F64) -> F64:
    """A B of (3, 3) matrices, without the cost of a library call."""
    C = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            C[i, j] = A[i, 0] * B[0, j] + A[i, 1] * B[1, j] + A[i, 2] * B[2, j]
    return C


@njit(cache=True, error_model="numpy")
def _about(centre: F64, rotation: F64, scale: float, shift: F64) -> F64:
    """The pose x -> centre + scale rotation (x - centre) + shift."""
    pose = np.eye(4)
    for i in range(3):
        pose[i, 3] = centre[i] + shift[i]
        for j in range(3):
            pose[i, j] = scale * rotation[i, j]
            pose[i, 3] -= pose[i, j] * centre[j]
    return pose


@njit(cache=True, error_model="numpy")
def point_step(moved: F64, truth: F32, rows: I32, weights: F64) -> F64:
    """The similarity of weighted point-to-point least squares; its scale is the ratio of the spreads (Horn 1987,
    the symmetric form), which noise on both sides leaves alone. Rotation after Mueller et al. (2016)."""
    total = 1e-300
    mean_x, mean_y, M = np.zeros(3), np.zeros(3), np.zeros((3, 3))  # M: sum of w y x^T
    var_x = var_y = 1e-300
    for i in range(len(moved)):
        w, m = weights[i], rows[i]
        x0, x1, x2 = moved[i, 0], moved[i, 1], moved[i, 2]
        y0, y1, y2 = w * truth[m, 0], w * truth[m, 1], w * truth[m, 2]
        total += w
        mean_x[0] += w * x0
        mean_x[1] += w * x1
        mean_x[2] += w * x2
        mean_y[0] += y0
        mean_y[1] += y1
        mean_y[2] += y2
        var_x += w * (x0 * x0 + x1 * x1 + x2 * x2)
        var_y += y0 * truth[m, 0] + y1 * truth[m, 1] + y2 * truth[m, 2]
        M[0, 0] += y0 * x0
        M[0, 1] += y0 * x1
        M[0, 2] += y0 * x2
        M[1, 0] += y1 * x0
        M[1, 1] += y1 * x1
        M[1, 2] += y1 * x2
        M[2, 0] += y2 * x0
        M[2, 1] += y2 * x1
        M[2, 2] += y2 * x2
    for d in range(3):  # moments about the means; the clouds lie about the origin, so nothing cancels badly
        mean_x[d] /= total
        mean_y[d] /= total
        var_x -= total * mean_x[d] ** 2
        var_y -= total * mean_y[d] ** 2
    for c in range(3):
        for d in range(3):
            M[c, d] -= total * mean_y[c] * mean_x[d]
    var_x, var_y = max(var_x, 1e-300), max(var_y, 1e-300)
    R = np.eye(3)
    turn = np.empty(3)
    for _ in range(TURNS):
        turn[:] = 0
        dot = 1e-300
        for c in range(3):
            turn[0] += R[1, c] * M[2, c] - R[2, c] * M[1, c]
            turn[1] += R[2, c] * M[0, c] - R[0, c] * M[2, c]
            turn[2] += R[0, c] * M[1, c] - R[1, c] * M[0, c]
            dot += R[0, c] * M[0, c] + R[1, c] * M[1, c] + R[2, c] * M[2, c]
        turn /= max(abs(dot), 1e-12 * var_y)
        size = np.sqrt(turn[0] ** 2 + turn[1] ** 2 + turn[2] ** 2)
        if size > 2.0:
            turn *= 2.0 / size
        R = _product(_turned(turn[0], turn[1], turn[2]), R)
        if size < 1e-4:
            break
    return _about(mean_x, R, np.sqrt(var_y / var_x), mean_y - mean_x)


@njit(cache=True, error_model="numpy")
def _solve(H: F64, g: F64, free: int) -> F64:
    """Cholesky solution of the leading `free` equations; zeros where H is not positive definite."""
    L = np.zeros((free, free))
    x = np.zeros(len(g))
    for i in range(free):
        for j in range(i + 1):
            s = H[i, j]
            for k in range(j):
                s -= L[i, k] * L[j, k]
            if i == j:
                if not s > 1e-15 * H[i, i]:
                    return np.zeros(len(g))
                L[i, i] = np.sqrt(s)
            else:
                L[i, j] = s / L[j, j]
    for i in range(free):
        s = g[i]
        for k in range(i):
            s -= L[i, k] * x[k]
        x[i] = s / L[i, i]
    for i in range(free - 1, -1, -1):
        s = x[i]
        for k in range(i + 1, free):
            s -= L[k, i] * x[k]
        x[i] = s / L[i, i]
    return x


@njit(cache=True, error_model="numpy")
def plane_step(
    moved: F64, truth: F32 | F64, normals: F64, rows: I32, weights: F64, point_share: float, damping: float, free: int
) -> F64:
    """One Gauss-Newton step of weighted point-to-plane distance plus `point_share` of point-to-point distance.

    Unknowns are a turn, a shift and (with `free` 7, not 6) the log-scale about the weighted centre. In the scale's
    column stand truth's coordinates: with noisy ones of pred the scale would shrink by the noise's share of the
    variance. `damping` is relative to the weights, in squared lengths for the turn and the scale.
    """
    total = 1e-300
    centre = np.zeros(3)
    for i in range(len(moved)):
        total += weights[i]
        for d in range(3):
            centre[d] += weights[i] * moved[i, d]
    centre /= total
    H, g = np.zeros((7, 7)), np.zeros(7)
    row = np.empty(7)
    moments = np.zeros((3, 3))  # sum of w x x^T
    for i in range(len(moved)):
        w = weights[i]
        m = rows[i]
        x, y, z = moved[i, 0] - centre[0], moved[i, 1] - centre[1], moved[i, 2] - centre[2]
        u, v, t = truth[m, 0] - centre[0], truth[m, 1] - centre[1], truth[m, 2] - centre[2]
        r0, r1, r2 = u - x, v - y, t - z
        n0, n1, n2 = normals[m, 0], normals[m, 1], normals[m, 2]
        row[0] = y * n2 - z * n1
        row[1] = z * n0 - x * n2
        row[2] = x * n1 - y * n0
        row[3] = n0
        row[4] = n1
        row[5] = n2
        row[6] = u * n0 + v * n1 + t * n2
        error = n0 * r0 + n1 * r1 + n2 * r2
        for p in range(7):
            f = w * row[p]
            g[p] += f * error
            for q in range(p + 1):
                H[p, q] += f * row[q]
        w *= point_share
        g[0] += w * (y * r2 - z * r1)
        g[1] += w * (z * r0 - x * r2)
        g[2] += w * (x * r1 - y * r0)
        g[3] += w * r0
        g[4] += w * r1
        g[5] += w * r2
        g[6] += w * (u * r0 + v * r1 + t * r2)
        moments[0, 0] += w * x * x
        moments[1, 1] += w * y * y
        moments[2, 2] += w * z * z
        moments[1, 0] += w * x * y
        moments[2, 0] += w * x * z
        moments[2, 1] += w * y * z
    size = moments[0, 0] + moments[1, 1] + moments[2, 2]
    for p in range(3):
        H[p, p] += size - moments[p, p]
        H[3 + p, 3 + p] += point_share * total
        for q in range(p):
            H[p, q] -= moments[p, q]
    H[6, 6] += size
    for p in range(7):
        H[p, p] += damping * total
    s = _solve(H, g, free)
    angle = np.sqrt(s[0] ** 2 + s[1] ** 2 + s[2] ** 2)
    clip = min(1.0, STEP / max(angle, 1e-12))
    return _about(centre, _turned(clip * s[0], clip * s[1], clip * s[2]), min(max(1 + s[6], 0.9), 1.1), s[3:6])


@njit(cache=True, error_model="numpy")
def refine(
    poses: F64,
    pred: F64,
    truth_rows: I32,
    pred_grid: Grid,
    truth_grid: Grid,
    normals: F64,
    iterations: int,
    wide: float,
    narrow: float,
    hops: int,
    point_share: float,
) -> tuple[F64, F64]:
    """Robust two-sided ICP from every pose (K, 4, 4): costs (K,) at the width `narrow`, and the refined poses.

    Each of `iterations` steps pairs the samples, weights the pairs with the squared Geman-McClure kernel
    t^2 / (t^2 + d^2), whose width t shrinks from `wide` to `narrow`, and solves: point to point where `point_share`
    is 1 or more, else point to plane. The cost is the mean of 1 - t^2 / (t^2 + d^2), summed over both directions."""
    count, total = len(pred), len(pred) + len(truth_rows)
    moved, rows, squared = np.empty((total, 3)), np.empty(total, np.int32), np.empty(total)
    weights = np.empty(total)
    costs, out = np.empty(len(poses)), poses.copy()
    for n in range(len(poses)):
        pose = poses[n].copy()
        start = np.sqrt((pose[:3, :3] ** 2).sum() / 3)
        for step in range(iterations + 1):
            width = wide * (narrow / wide) ** min(step / max(iterations - 1, 1), 1.0)
            pair_up(pose, pred, truth_rows, pred_grid, truth_grid, hops, moved, rows, squared)
            cost = 0.0
            for i in range(total):
                share = 1.0 / count if i < count else 1.0 / (total - count)
                w = width * width / (width * width + squared[i])
                cost += (1 - w) * share
                weights[i] = w * w * share
            costs[n] = cost
            if step == iterations:
                break
            if point_share < 1:
                change = plane_step(moved, truth_grid.points, normals, rows, weights, point_share, 1e-4, 7)
            else:
                change = point_step(moved, truth_grid.points, rows, weights)
            pose = change @ pose
            scale = np.sqrt((pose[:3, :3] ** 2).sum() / 3)
            if scale > 2 * start or scale < 0.5 * start:  # a start answers for scales within a factor of two
                pose[:3] *= min(max(scale, 0.5 * start), 2 * start) / scale
        out[n] = pose
    return costs, out
