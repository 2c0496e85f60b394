"""One small world that every miniature shows: a lopsided solid in colours and cameras all round, known exactly.

Nothing of the importers is used here: rays are traced, and what a camera sees is computed from its own matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import point_cloud_utils as pcu
import trimesh
from numpy.typing import NDArray

SIZE = (160, 120)  # width, height
VIEWS = 4
F64 = NDArray[np.float64]


def solid() -> tuple[F64, NDArray[np.int32]]:
    """A slab, a post near one corner and a ball beside: no mirror image or turned copy of itself. z up, metres."""
    slab = trimesh.creation.box((1.0, 0.6, 0.25)).apply_translation([0, 0, 0.125])
    post = trimesh.creation.box((0.18, 0.22, 0.55)).apply_translation([0.32, -0.14, 0.525])
    ball = trimesh.creation.icosphere(2, 0.14).apply_translation([-0.3, 0.12, 0.39])
    mesh = trimesh.util.concatenate([slab, post, ball]).subdivide_to_size(0.12)
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int32)


def color_of(points: F64) -> NDArray[np.uint8]:
    """(M, 3) the colour of places (M, 3): smooth, and another one everywhere."""
    phase = points @ np.array([[3.1, 1.0, 0.4], [0.7, 4.0, 1.3], [1.9, 0.6, 5.0]]).T
    return (128 + 100 * np.sin(phase + [0.3, 1.7, 2.9])).round().astype(np.uint8)


@dataclass(frozen=True)
class World:
    """The solid seen by cameras of intrinsics `K` (3, 3), pixel centres at .5."""

    K: F64
    size: tuple[int, int] = SIZE

    @cached_property
    def vertices(self) -> F64:
        return solid()[0]

    @cached_property
    def faces(self) -> NDArray[np.int32]:
        return solid()[1]

    @cached_property
    def poses(self) -> F64:
        """(VIEWS, 4, 4) camera_from_world, OpenCV axes: all round, from above, rolled."""
        rng, out = np.random.default_rng(3), []
        middle = np.array([0.02, -0.01, 0.3])
        for view in range(VIEWS):
            turn, height = 2 * np.pi * view / VIEWS + rng.uniform(-0.3, 0.3), rng.uniform(0.3, 0.9)
            away = np.array([np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)])
            centre, roll = middle + rng.uniform(1.7, 2.3) * away, rng.uniform(-0.35, 0.35)
            z = (middle - centre) / np.linalg.norm(middle - centre)
            x = np.cross(z, [0, 0, 1.0])
            x /= np.linalg.norm(x)
            y = np.cross(z, x)
            R = np.stack([np.cos(roll) * x + np.sin(roll) * y, np.cos(roll) * y - np.sin(roll) * x, z])
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = R, -R @ centre
            out.append(pose)
        return np.array(out)

    def render(self, view: int, K: F64 | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Image (H, W, 3), white where nothing is, and z-depth (H, W), 0 there."""
        K = self.K if K is None else K
        width, height = self.size
        y, x = np.mgrid[:height, :width] + 0.5
        rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], -1).reshape(-1, 3)
        image, depth = self.trace(view, rays)
        return image.reshape(height, width, 3), depth.reshape(height, width)

    def retrace(self, K: F64, pose: F64, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """What another camera, camera_from_world `pose` (4, 4), sees of the solid."""
        other = World(K, size)
        other.__dict__["poses"] = pose[None]
        return other.render(0)

    def trace(self, view: int, rays: F64) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Colours (M, 3) and z-depths (M,) along `rays` (M, 3) of the camera, whose z is 1."""
        R, t = self.poses[view, :3, :3], self.poses[view, :3, 3]
        directions = np.ascontiguousarray(rays @ R)
        origins = np.broadcast_to(-R.T @ t, directions.shape).copy()
        face, _, distance = pcu.ray_mesh_intersection(self.vertices, self.faces, origins, directions)
        hit = np.isfinite(distance) & (face >= 0)
        image = np.full((len(rays), 3), 255, np.uint8)
        image[hit] = color_of(origins[hit] + distance[hit, None] * directions[hit])
        return image, np.where(hit, distance, 0).astype(np.float32)

    @cached_property
    def samples(self) -> tuple[F64, F64]:
        """(M, 3) points of the surface that some camera sees, and their normals outwards."""
        mesh = trimesh.Trimesh(self.vertices, self.faces, process=False)
        points, index = trimesh.sample.sample_surface(mesh, 2500, seed=1)
        normals = np.asarray(mesh.face_normals[index])
        observed = np.zeros(len(points), np.bool_)
        for view in range(VIEWS):
            observed |= self.sees(view, np.asarray(points))
        return np.asarray(points)[observed], normals[observed]

    def project(self, view: int, points: F64) -> tuple[F64, F64]:
        """Pixels (M, 2) and depths (M,)."""
        local = points @ self.poses[view, :3, :3].T + self.poses[view, :3, 3]
        pixel = local @ self.K.T
        return pixel[:, :2] / pixel[:, 2:], local[:, 2]

    def sees(self, view: int, points: F64) -> NDArray[np.bool_]:
        """(M,) which points of the surface the view sees, in its frame and unhidden."""
        pixel, z = self.project(view, points)
        inside = (pixel >= 1).all(axis=1) & (pixel < np.array(self.size) - 1).all(axis=1)
        local = points @ self.poses[view, :3, :3].T + self.poses[view, :3, 3]
        _, depth = self.trace(view, local / local[:, 2:])
        return np.asarray(inside & (np.abs(depth / z - 1) < 1e-4))
