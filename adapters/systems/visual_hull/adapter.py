"""The visual hull of given silhouettes (Laurentini, PAMI 1994), carved from a grid and meshed by marching cubes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.optimize import linprog

from adapters.contract import F32, F64, U8, Bools, Cameras, Mesh, Reconstruction, Reconstructor, Unsupported, Views
from adapters.shared.surface import isosurface

BORDER = 2  # grid steps of empty space kept around the hull


@dataclass(frozen=True)
class Silhouette:
    """One mask as a signed distance to its outline."""

    distance: F32  # (H, W) pixels at pixel centres, positive inside
    cut: Bools  # (4,) left, right, top, bottom: the object runs out of the image there

    @staticmethod
    def of(mask: Bools) -> Silhouette:
        """The outline runs midway between the centres of pixels in and out of `mask` (H, W)."""
        inside = distance_transform_edt(mask) if not mask.all() else np.full(mask.shape, np.inf)
        outside = distance_transform_edt(~mask)
        cut = np.array([mask[:, 0].any(), mask[:, -1].any(), mask[0].any(), mask[-1].any()])
        return Silhouette(np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32), cut)

    def sample(self, pixel: F64) -> F32:
        """(M,) distances at `pixel` (M, 2), bilinear; beyond the image it is its own distance from the image, negative,
        but +inf past a side that cuts the object, where nothing is known."""
        height, width = self.distance.shape
        size = np.array([width, height], np.float64)
        near = np.clip(pixel, 0.0, size)
        values = map_coordinates(self.distance, near.T[::-1] - 0.5, order=1, mode="nearest")
        over = np.linalg.norm(pixel - near, axis=1)
        x, y = pixel.T
        sides = np.stack([x < 0, x > width, y < 0, y > height], axis=1)
        values = np.where(over > 0, np.minimum(values, 0.0) - over, values)
        return np.where((sides & self.cut).any(axis=1), np.inf, values).astype(np.float32)


class Adapter(Reconstructor):
    """Carves a grid of `resolution` steps along the longest side of the hull's bounding box.

    Raises Unsupported where masks or cameras are missing, or where the silhouettes bound no volume."""

    def __init__(self, resolution: int = 128) -> None:
        if not 8 <= resolution <= 512:
            raise ValueError(f"resolution: {resolution} seen, 8 to 512 wanted")
        self._resolution = resolution

    def infer(self, inputs: Views) -> Reconstruction:
        """Hull mesh, its vertices as points, coloured from the views that see them; frame of the cameras given."""
        if inputs.masks is None or inputs.cameras is None:
            raise Unsupported("visual-hull: masks and cameras of every view are wanted")
        silhouettes = [Silhouette.of(mask) for mask in inputs.masks]
        planes = pyramids(inputs.masks, silhouettes, inputs.cameras)
        far = np.full(len(inputs), np.inf)
        box = bounding_box(planes)
        if box is None:  # viewing pyramids so alike that they meet at infinity
            far = farthest(inputs.masks, inputs.cameras)
            poses = inputs.cameras.camera_from_world[:, 2]
            box = bounding_box(np.concatenate([planes, poses - far[:, None] * [0.0, 0.0, 0.0, 1.0]]))
        if box is None:
            raise Unsupported(f"the silhouettes of {len(inputs)} views bound no finite volume")
        low, high = box
        step = float((high - low).max()) / self._resolution
        field, origin = carve(silhouettes, inputs.cameras, far, low, high, step)
        vertices, faces = isosurface(field, origin, step)
        if len(faces) == 0:
            raise Unsupported("the silhouettes of the given views share no volume")
        colors = paint(vertices, faces, inputs.images, inputs.cameras, step)
        points = vertices.astype(np.float32)
        return Reconstruction(
            points=points,
            frame="world",
            scale="arbitrary",
            colors=colors,
            mesh=Mesh(points, faces, colors),
        )


def pyramids(masks: Sequence[Bools], silhouettes: list[Silhouette], cameras: Cameras) -> F64:
    """Half-spaces (P, 4), a.x + b <= 0, whose intersection is that of the pyramids over the masks' bounding boxes.

    A side at which the image cuts the object bounds nothing."""
    rows = []
    for index, (mask, silhouette) in enumerate(zip(masks, silhouettes, strict=True)):
        if not mask.any():
            raise Unsupported(f"masks[{index}]: no object pixel seen, at least one wanted")
        P = cameras.intrinsics[index] @ cameras.camera_from_world[index, :3]
        columns, lines = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        rows.append(-P[2])  # in front of the camera
        for side, edge in enumerate((columns[0], columns[-1] + 1, lines[0], lines[-1] + 1)):
            if not silhouette.cut[side]:
                rows.append((-1.0 if side % 2 == 0 else 1.0) * (P[side // 2] - edge * P[2]))
    planes = np.stack(rows)
    return np.asarray(planes / np.linalg.norm(planes[:, :3], axis=1, keepdims=True))


def bounding_box(planes: F64) -> tuple[F64, F64] | None:
    """Lowest and highest corner of the intersection of half-spaces (P, 4), by six linear programs; None where it is
    unbounded. Raises Unsupported where it is empty."""
    limits: list[float] = []
    for axis in np.concatenate([np.eye(3), -np.eye(3)]):
        result = linprog(axis, A_ub=planes[:, :3], b_ub=-planes[:, 3], bounds=(None, None), method="highs")
        if result.status == 2:
            raise Unsupported("the given silhouettes share no point")
        if result.fun is None or result.status != 0:
            return None
        limits.append(result.fun)
    return np.array(limits[:3]), -np.array(limits[3:])


def farthest(masks: Sequence[Bools], cameras: Cameras) -> F64:
    """(N,) z-depth at which to end a hull without end: twice that of the point nearest to the rays through the masks'
    centroids, since cameras look at the object."""
    pixel = np.array([np.argwhere(mask).mean(axis=0)[::-1] + 0.5 for mask in masks])
    start = cameras.centres
    through = np.concatenate([cameras.unproject(i, pixel[i : i + 1], np.ones(1)) for i in range(len(masks))])
    ray = (through - start) / np.linalg.norm(through - start, axis=1, keepdims=True)
    across = np.eye(3) - ray[:, :, None] * ray[:, None]
    point = np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, start), rcond=None)[0]
    depth = cameras.camera_from_world[:, 2, :3] @ point + cameras.camera_from_world[:, 2, 3]
    if depth.min() <= 0 or len(masks) < 2:
        raise Unsupported(f"the silhouettes of {len(masks)} views bound no finite volume")
    return np.asarray(2 * depth)


def carve(
    silhouettes: list[Silhouette], cameras: Cameras, far: F64, low: F64, high: F64, step: float
) -> tuple[NDArray[np.float32], F64]:
    """Signed distance to the hull on a grid, about right near its surface: (X, Y, Z) float32, positive inside, and the
    position of grid point (0, 0, 0).

    A point's distance is the least over the views of its silhouette's distance in pixels, times depth over focal
    length. Points far outside one silhouette are not looked at again."""
    shape = np.ceil((high - low) / step).astype(int) + 1 + 2 * BORDER
    origin = (low + high) / 2 - (shape - 1) * step / 2
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    field = np.full(len(grid), np.inf, np.float32)
    alive = np.arange(len(grid))
    for index, silhouette in enumerate(silhouettes):
        pixel, depth = cameras.project(index, origin + step * grid[alive])
        focal = np.sqrt(cameras.intrinsics[index, 0, 0] * cameras.intrinsics[index, 1, 1])
        distance = np.where(depth > 0, silhouette.sample(pixel) * np.abs(depth) / focal, -np.inf)
        field[alive] = np.minimum(np.minimum(field[alive], distance), far[index] - depth)
        alive = alive[field[alive] > -2 * step]
    return np.clip(field, -3 * step, 3 * step).reshape(shape), origin


def paint(vertices: F64, faces: NDArray[np.int32], images: Sequence[U8], cameras: Cameras, step: float) -> U8:
    """(V, 3) uint8 sRGB: the mean of the pixels that a vertex is seen at, frontal views counting most.

    A vertex is seen where no other is nearer, by more than the mesh's grain, in a depth image as coarse as the mesh.
    What no view sees takes the mean over all the images it falls into, grey where it falls into none."""
    corners = vertices[faces]
    normals = np.zeros_like(vertices)
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for corner in faces.T:
        np.add.at(normals, corner, area)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    total, weight = np.full((len(vertices), 3), 127.5 * 1e-9), np.full(len(vertices), 1e-9)
    for index, image in enumerate(images):
        pixel, depth = cameras.project(index, vertices)
        height, width = image.shape[:2]
        inside = np.flatnonzero((depth > 0) & (pixel >= 0).all(axis=1) & (pixel < [width, height]).all(axis=1))
        if len(inside) == 0:
            continue
        column, row = np.floor(pixel[inside]).astype(np.int64).T
        cell = max(1, int(np.ceil(2 * step * cameras.intrinsics[index, 0, 0] / np.median(depth[inside]))))
        bin_ = row // cell * (width // cell + 1) + column // cell
        nearest = np.full((height // cell + 1) * (width // cell + 1), np.inf)
        np.minimum.at(nearest, bin_, depth[inside])
        ray = cameras.centres[index] - vertices[inside]
        frontal = np.einsum("ij,ij->i", normals[inside], ray) / np.linalg.norm(ray, axis=1)
        visible = (depth[inside] < nearest[bin_] + 4 * step) & (frontal > 0.1)
        share = np.where(visible, frontal**2, 1e-6)
        total[inside] += share[:, None] * image[row, column]
        weight[inside] += share
    return np.asarray(np.round(total / weight[:, None]), np.uint8)
