"""Google Scanned Objects (Downs et al., ICRA 2022): textured scans, without photos.

    OBJECT/meshes/model.obj                   metres, z up, with texture coordinates
    OBJECT/materials/textures/texture.png

There is no reader code of the dataset's own to check against. Views are rendered here: 24 on two rings, unlit texture
on white, so that colours do not change with the view; what a system makes of shading is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import point_cloud_utils as pcu

from adapters.contract import F32, F64, I32, U8, Bools, InputError
from data.catalog.shared.files import read_mesh, texture_of
from data.catalog.shared.layout import Capture, Layout, Photo, Surface
from data.catalog.shared.lens import Lens
from data.exchange import load_geometry
from data.images import read_image

SIDE = 512  # pixels
FOCAL = 700.0
RINGS = ((15.0, 14), (45.0, 10))  # degrees above, views
DISTANCE = 2.2  # from the middle of the box, times half its diagonal over what the image takes in


@dataclass(frozen=True)
class _Model:
    vertices: F64  # (V, 3)
    faces: I32  # (F, 3)
    uv: F64  # (V, 2)
    texture: U8  # (H, W, 3)


@dataclass(frozen=True)
class _Render:
    """One view, computed once."""

    model: _Model
    K: F64
    camera_from_world: F64

    @cached_property
    def _hits(self) -> tuple[Bools, U8, F32]:
        y, x = np.mgrid[:SIDE, :SIDE] + 0.5
        K, R = self.K, self.camera_from_world[:3, :3]
        rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], axis=-1).reshape(-1, 3)
        directions = rays @ R
        centre = -R.T @ self.camera_from_world[:3, 3]
        origins = np.broadcast_to(centre, directions.shape).copy()
        face, weights, distance = pcu.ray_mesh_intersection(
            self.model.vertices, self.model.faces, origins, np.ascontiguousarray(directions)
        )
        hit = np.isfinite(distance) & (face >= 0)
        corners = self.model.faces[face[hit]]
        uv = (self.model.uv[corners] * weights[hit][:, :, None]).sum(axis=1)
        image = np.full((SIDE * SIDE, 3), 255, np.uint8)
        image[hit] = texture_of(self.model.texture, uv)
        # A ray's direction has 1 along the optical axis, so that its length in directions is z.
        depth = np.where(hit, distance, 0.0).astype(np.float32)
        return hit.reshape(SIDE, SIDE), image.reshape(SIDE, SIDE, 3), depth.reshape(SIDE, SIDE)

    def mask(self) -> Bools:
        return self._hits[0]

    def image(self) -> U8:
        return self._hits[1]

    def depth(self) -> F32:
        return self._hits[2]


def read(path: Path) -> Capture:
    """One object."""
    model = _read_model(path)
    K = np.array([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]])
    middle = (model.vertices.min(axis=0) + model.vertices.max(axis=0)) / 2
    radius = float(np.linalg.norm(model.vertices - middle, axis=1).max())
    distance = DISTANCE * radius * FOCAL / SIDE
    photos: list[Photo] = []
    for height, count in RINGS:
        for turn in range(count):
            pose = looking_at(middle, distance, height, 360.0 * turn / count)
            render = _Render(model, K, pose)
            name = f"{len(photos):02d}"
            photos.append(Photo(name, render.image, Lens.pinhole(K, (SIDE, SIDE)), pose, render.mask, render.depth))
    return Capture(path.resolve().name, photos, "exact", Surface(model.vertices, faces=model.faces))


def looking_at(middle: F64, distance: float, height: float, turn: float) -> F64:
    """`camera_from_world` (4, 4) of a camera so many degrees above and round the z axis, upright."""
    up, round_ = np.radians(height), np.radians(turn)
    away = np.array([np.cos(up) * np.cos(round_), np.cos(up) * np.sin(round_), np.sin(up)])
    forward = -away
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, -R @ (middle + distance * away)
    return pose


def _read_model(path: Path) -> _Model:
    file, texture = path / "meshes" / "model.obj", path / "materials" / "textures" / "texture.png"
    vertices, faces = read_mesh(file)
    uv = np.asarray(getattr(getattr(load_geometry(file), "visual", None), "uv", None))
    if uv.shape != (len(vertices), 2) or not np.isfinite(np.asarray(uv, np.float64)).all():
        raise InputError(f"{file}: no texture coordinates seen, a pair a vertex wanted")
    return _Model(vertices, faces, np.asarray(uv, np.float64), read_image(texture))


LAYOUT = Layout(
    name="google-scanned-objects",
    title="Google Scanned Objects",
    page="https://app.gazebosim.org/GoogleResearch/fuel/collections/Scanned%20Objects%20by%20Google%20Research",
    licence="CC BY 4.0",
    licence_read="",
    download="an object's zip from the page, unpacked",
    folder="OBJECT, with meshes/model.obj",
    truth="the scanned mesh, exact: the views are rendered from it",
    checked=(),
    read=read,
    metres=1.0,
    left_out="collision meshes, thumbnails",
)
