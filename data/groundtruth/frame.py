"""Frames and crop volumes: the similarity that brings a COLMAP model where people expect it, and the object's box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64, I32, Bools, Cameras
from metrics.scoring.truth import Box
from metrics.similarity import apply, rotation_of, scale_of, similarity

COMMON = 0.5  # share of the most seen point's views that a point must fall into to belong to what was photographed
ON_OBJECT = 0.8  # share of the views that see a point whose masks must cover it
TRIM, MARGIN = 0.2, 0.05  # percentiles cut off at each end of the box, and its margin as a share of its extent


def move_cameras(cameras: Cameras, target_from_source: F64) -> Cameras:
    """`cameras` of a world that the similarity (4, 4) moves: poses in the new world, rigid, same intrinsics."""
    R, s = rotation_of(target_from_source), scale_of(target_from_source)
    poses = cameras.camera_from_world.copy()
    poses[:, :3, :3] = cameras.camera_from_world[:, :3, :3] @ R.T
    poses[:, :3, 3] = s * cameras.camera_from_world[:, :3, 3] - poses[:, :3, :3] @ target_from_source[:3, 3]
    return Cameras(cameras.intrinsics, poses)


def photographed(points: NDArray[np.floating], cameras: Cameras, sizes: I32, masks: Sequence[Bools] | None) -> Bools:
    """(M,) bool: which `points` (M, 3) the photos are about: on the masked object, or else in sight of many views."""
    observations, masked = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
    for view in range(len(cameras)):
        pixel, depth = cameras.project(view, points)
        inside = (depth > 0) & (pixel >= 0).all(axis=1) & (pixel < sizes[view]).all(axis=1)
        observations += inside
        if masks is not None:
            column, row = np.floor(pixel[inside]).astype(np.int64).T
            masked[inside] += masks[view][row, column]
    common = observations >= max(2, COMMON * int(observations.max(initial=0)))
    return np.asarray(common & (masked >= ON_OBJECT * observations) if masks is not None else common)


def robust_box(points: NDArray[np.floating]) -> Box:
    """The box of `points` (M, 3) between percentiles of each axis, with a margin."""
    low, high = np.percentile(np.asarray(points, np.float64), [TRIM, 100 - TRIM], axis=0)
    margin = MARGIN * (high - low)
    low, high = (low - margin).tolist(), (high + margin).tolist()
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def upright(points: NDArray[np.floating], cameras: Cameras) -> F64:
    """The similarity (4, 4) into a frame with z up, x to the right of the first camera, the middle of `points` (M, 3)
    at the origin, and 1 as the diagonal of their box. Up is the mean of what the photos show as up."""
    up = -cameras.camera_from_world[:, 1, :3].mean(axis=0)
    if np.linalg.norm(up) < 0.1:  # photos every way up: the direction across which cameras spread least
        offset = cameras.centres - cameras.centres.mean(axis=0)
        up = np.linalg.svd(offset)[2][2]
    up = up / np.linalg.norm(up)
    right = np.cross(cameras.camera_from_world[0, 2, :3], up)
    if np.linalg.norm(right) < 1e-6:
        right = cameras.camera_from_world[0, 0, :3]
    right = right - up * (right @ up)
    right /= np.linalg.norm(right)
    rotated = similarity(1.0, np.stack([right, np.cross(up, right), up]), np.zeros(3))
    box = robust_box(apply(rotated, points))
    low, high = np.array(box.low), np.array(box.high)
    scale = 1.0 / float(np.linalg.norm(high - low))
    return similarity(scale, np.eye(3), -scale * (low + high) / 2) @ rotated
