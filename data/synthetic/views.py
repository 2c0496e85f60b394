"""Pictures of the procedural family: Embree finds what each pixel sees; light, paint and background are drawn later.

A picture is cast once into four bytes a pixel (see `cast`) and shaded as often as wanted, each time in other colours,
so that a few views of an object give many images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import point_cloud_utils as pcu
from numba import njit
from numpy.typing import NDArray

from adapters.contract import F32, F64, U8, Cameras
from data.synthetic.rig import look_at
from data.synthetic.shapes import Shape

FIELD_OF_VIEW = 40.0  # degrees
ELEVATIONS = (0.0, 50.0)  # degrees
DISTANCES = (1.45, 1.8)  # from the object's centre, in its diameters
PARTS = 8  # colours of an object at most
LIT, LEVELS = 0x80, 0x0F  # bits of a pixel's fourth byte; the part's number lies between


@dataclass(frozen=True)
class Pose:
    """Where a picture is taken from and lit from."""

    azimuth: float  # degrees from the object's front, +x, towards +y
    elevation: float  # degrees
    distance: float  # diameters
    light: F64  # (3,) unit, towards the light, object frame

    def camera(self, size: int) -> Cameras:
        """One camera of `size` x `size` pixels that looks at the object's centre."""
        a, e = np.deg2rad([self.azimuth, self.elevation])
        eye = self.distance * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        focal = size / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
        K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
        return Cameras(K[None], look_at(eye, np.zeros(3))[None])


def poses(count: int, rng: np.random.Generator) -> list[Pose]:
    """`count` poses all round the object, each in its own sector; lights above, on the camera's side."""
    out = []
    for i in range(count):
        azimuth = (i + rng.random()) * 360 / count
        a, e = np.deg2rad(azimuth + rng.uniform(-80, 80)), np.deg2rad(rng.uniform(15, 75))
        light = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        out.append(Pose(azimuth, float(rng.uniform(*ELEVATIONS)), float(rng.uniform(*DISTANCES)), light))
    return out


class Studio:
    """An object ready to be pictured, with a pattern of its own drawn from `rng`."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        self._shape = shape
        self._mesh = pcu.RayMeshIntersector(shape.vertices.astype(np.float32), shape.faces)
        self._kind = int(rng.integers(0, 4))
        self._waves = rng.normal(size=(4, 3)) * rng.uniform(12, 40)
        self._phases = rng.uniform(0, 2 * np.pi, 4)

    def _pattern(self, points: F64) -> F64:
        """(M,) paint between the part's two colours, 0 to 1: plain, stripes, checks or blotches."""
        if self._kind == 0:
            return np.zeros(len(points))
        wave = np.sin(points @ self._waves.T + self._phases)
        if self._kind == 1:
            return np.asarray(wave[:, 0] > 0, np.float64)
        if self._kind == 2:
            return np.asarray(wave[:, 0] * wave[:, 1] > 0, np.float64)
        return np.asarray(np.clip(wave.mean(axis=1) + 0.5, 0, 1))

    def cast(self, pose: Pose, size: int) -> tuple[U8, F32]:
        """What each pixel's centre sees: (size, size, 4) uint8, zero off the object, and z-depth (size, size), 0 there.

        The first three bytes are the normal in the camera's frame, int8, in 127ths; the fourth holds whether the light
        reaches the point (`LIT`), the part's number, and the paint's level (`LEVELS`)."""
        camera = pose.camera(size)
        row, column = np.mgrid[0:size, 0:size] + 0.5
        pixel = np.stack([column.ravel(), row.ravel()], axis=1)
        eye = camera.centres[0]
        rays = camera.unproject(0, pixel, np.ones(len(pixel))) - eye  # z-depth 1: a hit's t is its z-depth
        eyes = np.tile(eye.astype(np.float32), (len(rays), 1))  # a single origin is not broadcast rightly
        _, _, t = self._mesh.intersect_rays(eyes, rays.astype(np.float32))
        hit = np.isfinite(t)
        points = eye + rays[hit] * t[hit, None].astype(np.float64)
        normals = self._shape.normals(points)
        start = (points + 0.008 * normals).astype(np.float32)
        _, _, shadow = self._mesh.intersect_rays(start, np.tile(pose.light.astype(np.float32), (len(start), 1)))
        out = np.zeros((size * size, 4), np.uint8)
        local = normals @ camera.camera_from_world[0, :3, :3].T
        out[hit, :3] = np.round(local * 127).astype(np.int8).view(np.uint8)
        part = np.minimum(self._shape.nearest_part(points), PARTS - 1)
        level = np.round(self._pattern(points) * LEVELS).astype(np.uint8)
        out[hit, 3] = np.where(np.isfinite(shadow), 0, LIT).astype(np.uint8) | part << 4 | level
        depth = np.zeros(size * size, np.float32)
        depth[hit] = t[hit]
        return out.reshape(size, size, 4), depth.reshape(size, size)


def light_in_camera(pose: Pose) -> F64:
    """(3,) the pose's light in its camera's frame, as `shade` wants it."""
    return np.asarray(pose.camera(2).camera_from_world[0, :3, :3] @ pose.light)


def shade(casts: U8, lights: NDArray[np.floating], rng: np.random.Generator, blur: bool = False) -> F32:
    """Images (B, 3, S, S) float32 sRGB, 0 to 1, of `casts` (B, S, S, 4) lit from `lights` (B, 3), camera frame.

    Colours of the parts, ambient light and a smooth background are drawn from `rng`; with `blur` half the images are
    softened, as by a camera that averages over its pixels."""
    count, size = casts.shape[:2]
    base: F64 = rng.random((count, 1, 1, 3)) * 0.65 + 0.35
    own: F64 = rng.random((count, PARTS, 2, 3)) * 0.75 + 0.25
    share = rng.choice([0.0, 0.35, 1.0], (count, 1, 1, 1))  # how much the parts differ
    colours = base * (1 - share) + own * share
    contrast = rng.random((count, 1, 1)) * 0.8
    colours[:, :, 1] = colours[:, :, 0] * (1 - contrast) + colours[:, :, 1] * contrast * 0.7
    grid = int(rng.integers(2, 9))
    backdrop = rng.random((count, 1, 1, 3)) + (rng.random((count, grid, grid, 3)) - 0.5) * rng.random((count, 1, 1, 1))
    ambient: F64 = np.asarray(0.15 + 0.25 * rng.random(count))
    soft = np.asarray(rng.random(count) < (0.5 if blur else 0.0))
    out = np.empty((count, 3, size, size), np.float32)
    _shade(
        casts,
        np.asarray(lights, np.float32),
        colours.astype(np.float32),
        backdrop.astype(np.float32),
        ambient.astype(np.float32),
        soft,
        out,
    )
    return out


@njit(cache=True, nogil=True)
def _shade(
    casts: U8, lights: F32, colours: F32, backdrop: F32, ambient: F32, soft: NDArray[np.bool_], out: F32
) -> None:
    count, size, grid = casts.shape[0], casts.shape[1], backdrop.shape[1]
    row = np.empty((2, size), np.float32)
    for b in range(count):
        for y in range(size):
            fy = np.float32(y * (grid - 1)) / np.float32(size - 1)
            iy = min(int(fy), grid - 2)
            ty = fy - iy
            for x in range(size):
                packed = casts[b, y, x, 3]
                nx = np.float32(np.int8(casts[b, y, x, 0])) / 127
                ny = np.float32(np.int8(casts[b, y, x, 1])) / 127
                nz = np.float32(np.int8(casts[b, y, x, 2])) / 127
                if nx != 0 or ny != 0 or nz != 0:
                    lambert = np.float32(0)
                    if packed & LIT:
                        lambert = max(nx * lights[b, 0] + ny * lights[b, 1] + nz * lights[b, 2], np.float32(0))
                    sky = ambient[b] * (1 - np.float32(0.35) * ny)  # camera y points down: more from above
                    light = sky + (1 - ambient[b]) * lambert
                    part, level = (packed >> 4) & 7, np.float32(packed & LEVELS) / LEVELS
                    for c in range(3):
                        paint = colours[b, part, 0, c] * (1 - level) + colours[b, part, 1, c] * level
                        out[b, c, y, x] = min(light * paint, np.float32(1))
                else:
                    fx = np.float32(x * (grid - 1)) / np.float32(size - 1)
                    ix = min(int(fx), grid - 2)
                    tx = fx - ix
                    for c in range(3):
                        top = backdrop[b, iy, ix, c] * (1 - tx) + backdrop[b, iy, ix + 1, c] * tx
                        low = backdrop[b, iy + 1, ix, c] * (1 - tx) + backdrop[b, iy + 1, ix + 1, c] * tx
                        out[b, c, y, x] = min(max(top * (1 - ty) + low * ty, np.float32(0)), np.float32(1))
        if soft[b]:  # (1, 2, 1) / 4 along both axes
            for c in range(3):
                image = out[b, c]
                for y in range(size):
                    left = image[y, 0]
                    for x in range(size):
                        here = image[y, x]
                        image[y, x] = (left + 2 * here + image[y, min(x + 1, size - 1)]) / 4
                        left = here
                row[0] = image[0]
                for y in range(size):
                    row[1] = image[y]
                    image[y] = (row[0] + 2 * row[1] + image[min(y + 1, size - 1)]) / 4
                    row[0] = row[1]
