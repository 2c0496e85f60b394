"""Where the cameras stand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64, Cameras

WIDTH = 518  # pixels; images are square
FOCAL = {"a": 620.0, "b": 440.0}  # pixels, of each group of views
FRAMING = {"a": 0.94, "b": 0.94}  # the longer side of the object's outline, share of the frame


def look_at(centre: F64, target: F64, roll: float = 0.0) -> F64:
    """camera_from_world (4, 4), OpenCV axes, world z up; `roll` in radians about the line of sight."""
    z = (target - centre) / np.linalg.norm(target - centre)
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    c, s = np.cos(roll), np.sin(roll)
    out = np.eye(4)
    out[:3, :3] = np.stack([c * x + s * y, c * y - s * x, z])
    out[:3, 3] = -out[:3, :3] @ centre
    return out


def orbit(vertices: NDArray[np.floating], group: str, views: int, seed: int, elevation: float | None = None) -> Cameras:
    """`views` cameras all round `vertices` (V, 3), each as near as lets the object fill the frame.

    Azimuths are even with a little jitter; elevations (12 to 58 degrees) run through a van der Corput sequence, so that
    neighbours differ and any subset is varied. With an `elevation` in degrees all stand on that one ring, level and
    evenly spaced, as the frames of a video on the way round."""
    rng = np.random.default_rng([seed, ord(group)])
    f, p = FOCAL[group], np.asarray(vertices, np.float64)
    K = np.array([[f, 0, WIDTH / 2], [0, f, WIDTH / 2], [0, 0, 1]])
    poses = []
    start = rng.uniform(0, 2 * np.pi / max(views, 1))
    for i in range(views):
        azimuth = start + 2 * np.pi * (i + (rng.uniform(-0.25, 0.25) if elevation is None else 0)) / views
        if elevation is None:
            share = (int(f"{i % 16:04b}"[::-1], 2) + rng.uniform(0, 1)) / 16
            height, roll = np.deg2rad(12 + 46 * share**1.15), np.deg2rad(rng.uniform(-4, 4))
        else:
            height, roll = np.deg2rad(elevation), 0.0
        out = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
        target, distance = p.mean(axis=0), 4 * float(np.ptp(p, axis=0).max())
        for step in range(200):  # centre the outline and set its size
            pose = look_at(target + distance * out, target, roll)
            local = p @ pose[:3, :3].T + pose[:3, 3]
            pixel = local[:, :2] / local[:, 2:] * f
            low, high = pixel.min(axis=0), pixel.max(axis=0)
            size = float((high - low).max()) / (FRAMING[group] * WIDTH)
            if step >= 12 and abs(size - 1) < 2e-3 and np.abs(low + high).max() < 4:
                break
            pace = 1.0 if step < 12 else 0.5  # a wide lens close by may overshoot for ever
            target = target + pace * pose[:3, :3].T @ np.append((low + high) / 2 / f * distance, 0)
            distance *= size**pace
        poses.append(look_at(target + distance * out, target, roll))
    return Cameras(np.repeat(K[None], views, axis=0), np.array(poses))
