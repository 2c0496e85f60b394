"""PatchMatch multi-view stereo on the CPU: slanted planes, red-black propagation, bilateral NCC, two passes.

The algorithm of Galliani, Lasinger and Schindler, "Massively Parallel Multiview Stereopsis by Surface Normal
Diffusion" (ICCV 2015), with the adaptive neighbour sampling and the pyramid of Xu and Tao, "Multi-Scale Geometric
Consistency Guided Multi-View Stereo" (CVPR 2019), and the bilaterally weighted NCC and the geometric term of
Schoenberger et al., "Pixelwise View Selection for Unstructured Multi-View Stereo" (ECCV 2016).

A hypothesis at a pixel is (q, gx, gy): inverse z-depth there and its change per pixel to the right and down. Under a
pinhole camera the inverse depth of a plane is affine in pixel coordinates, so a neighbour's plane arrives by two
multiplications, and the homography that it induces into a source view is A + b (gx, gy, q)^T with A and b fixed.

Every random number is a hash of seed, view, pass, iteration and pixel, and a pixel reads only pixels of the other
colour, so the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.shared.stereo import kernels
from adapters.shared.stereo.kernels import BEST, RADIUS, STRIDE, WORST, Camera, Field, Sources, Tables, Turn

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
Bools = NDArray[np.bool_]
Progress = Callable[[int, int], None]  # steps done, steps in all

COLOUR_SIGMA = 25.0  # grey levels: how fast a sample's weight falls with its difference from the centre
COARSEST = 90  # pixels: no pyramid level has a shorter side than this
# The perturbations of each iteration, in pixels of the level: from nothing, from a coarser level, from photometry.
FIRST, FINER, GEOMETRIC = (8.0, 4.0, 2.0, 1.0), (1.0, 0.5), (1.0,)


@dataclass(frozen=True)
class DepthMap:
    """One view's estimate. A pixel without depth has depth 0, normal 0 and cost 2."""

    depth: F32  # (H, W) z-depth, unit of the cameras; 0 = none
    normal: F32  # (H, W, 3) unit length, in the camera's frame, facing the camera
    cost: F32  # (H, W) 1 - NCC, mean of the best two source views: 0 perfect, 2 worst

    def keep(self, where: Bools) -> DepthMap:
        """The map with everything outside `where` (H, W) removed."""
        return DepthMap(
            np.where(where, self.depth, np.float32(0)),
            np.where(where[..., None], self.normal, np.float32(0)),
            np.where(where, self.cost, np.float32(WORST)),
        )


@dataclass(frozen=True)
class _View:
    """One view made ready: `greys[k]` is its grey image halved k times; K and pose at full resolution."""

    greys: tuple[U8, ...]
    K: F64
    pose: F64

    def intrinsics(self, level: int) -> F64:
        """(3, 3) on pixel indices (the first pixel's centre is 0) of the image halved `level` times."""
        K = np.diag([0.5**level, 0.5**level, 1.0]) @ self.K
        K[:2, 2] -= 0.5
        return K


def depth_map(
    images: Sequence[U8],
    intrinsics: F64,
    camera_from_world: F64,
    reference: int,
    sources: Sequence[int],
    depth_range: tuple[float, float],
    seed: int,
    valid: Bools | None = None,
) -> DepthMap:
    """The depth of view `reference` from its likeness to the views `sources`; arguments as in `depth_maps`.

    Photographs alone decide: `depth_maps` adds the pass in which the views' depths must also agree."""
    chosen = (reference, *sources)
    _check([images[i] for i in chosen], intrinsics[list(chosen)], camera_from_world[list(chosen)], [depth_range])
    views = [_prepare(images[i], intrinsics[i], camera_from_world[i]) for i in chosen]
    where = np.ones(images[reference].shape[:2], np.bool_) if valid is None else valid
    planes = _photometric(views[0], views[1:], depth_range, (seed, reference), where)
    return _finish(views[0], views[1:], depth_range, planes, where)


def depth_maps(
    images: Sequence[U8],
    intrinsics: F64,
    camera_from_world: F64,
    depth_ranges: F64,
    neighbours: Sequence[Sequence[int]],
    seed: int,
    valid: Sequence[Bools] | None = None,
    progress: Progress | None = None,
) -> tuple[DepthMap, ...]:
    """The depth of all N views: first from photographs, then again with neighbours' depths in agreement.

    `images` (H, W, 3) or (H, W) uint8, of any sizes, free of lens distortion; `intrinsics` (N, 3, 3) and
    `camera_from_world` (N, 4, 4) float64, OpenCV axes, pixel centres at half-integers; `depth_ranges` (N, 2) nearest
    and farthest z-depth; `neighbours[i]` the source views of view i (a view without any gets an empty map); `valid`
    (H, W) masks of the pixels wanted. `progress` is called 2 N times. Every pixel gets its best guess: what to believe
    is decided by `filter_consistent`. Raises ValueError naming the argument at fault."""
    count = len(images)
    _check(images, intrinsics, camera_from_world, depth_ranges)
    if len(depth_ranges) != count or len(neighbours) != count:
        raise ValueError(
            f"depth_ranges, neighbours: {len(depth_ranges)} and {len(neighbours)} seen, {count} of each wanted"
        )
    views = [_prepare(*view) for view in zip(images, intrinsics, camera_from_world, strict=True)]
    where = [np.ones(view.greys[0].shape, np.bool_) for view in views] if valid is None else valid
    planes = []
    for i, view in enumerate(views):
        planes.append(_photometric(view, [views[j] for j in neighbours[i]], depth_ranges[i], (seed, i), where[i]))
        if progress is not None:
            progress(i + 1, 2 * count)
    depths = [np.where(ok, 1 / p[..., 0], np.float32(0)) for p, ok in zip(planes, where, strict=True)]
    maps = []
    for i, view in enumerate(views):
        others = [views[j] for j in neighbours[i]]
        if others:
            camera, sources = _level(view, others, depth_ranges[i], 0, [depths[j] for j in neighbours[i]])
            _iterate(planes[i], where[i], view.greys[0], camera, sources, (seed, i, 99), GEOMETRIC, False, True)
        maps.append(_finish(view, others, depth_ranges[i], planes[i], where[i]))
        if progress is not None:
            progress(count + i + 1, 2 * count)
    return tuple(maps)


def _check(
    images: Sequence[U8], intrinsics: F64, camera_from_world: F64, ranges: Sequence[tuple[float, float]] | F64
) -> None:
    count = len(images)
    if intrinsics.shape != (count, 3, 3) or camera_from_world.shape != (count, 4, 4):
        raise ValueError(
            f"intrinsics, camera_from_world: shapes {intrinsics.shape} and {camera_from_world.shape} seen, "
            f"({count}, 3, 3) and ({count}, 4, 4) wanted"
        )
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or min(image.shape[:2]) <= 2 * RADIUS:
            raise ValueError(
                f"images[{i}]: {image.dtype} {image.shape} seen, uint8 of more than {2 * RADIUS} px wanted"
            )
    for i, (near, far) in enumerate(ranges):
        if not 0 < near < far:
            raise ValueError(f"depth_ranges[{i}]: {near} to {far} seen, 0 < nearest < farthest wanted")


def _prepare(image: U8, K: F64, pose: F64) -> _View:
    """Grey (Rec. 601 luma, rounded) and its pyramid of 2 x 2 means; an odd last row or column is dropped."""
    grey = image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114], np.float32) + np.float32(0.5)
    greys = [np.ascontiguousarray(grey, dtype=np.uint8)]
    while min(greys[-1].shape) >= 2 * COARSEST:
        a, b, c, d = _quarters(greys[-1].astype(np.uint16))
        greys.append(((a + b + c + d + 2) // 4).astype(np.uint8))
    return _View(tuple(greys), np.asarray(K, np.float64), np.asarray(pose, np.float64))


def _quarters(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The four corners of every 2 x 2 block."""
    h, w = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    return (image[j:h:2, i:w:2] for j in (0, 1) for i in (0, 1))


def _quads(grey: U8) -> U32:
    """(H * W,) uint32: each pixel with its right, lower and lower-right neighbour, one byte each, lowest first."""
    right = np.concatenate([grey[:, 1:], grey[:, -1:]], axis=1)
    pair = grey.astype(np.uint32) | right.astype(np.uint32) << 8
    below = np.concatenate([pair[1:], pair[-1:]])
    return np.asarray((pair | below << 16).ravel(), np.uint32)


def _level(
    view: _View, others: Sequence[_View], depth_range: tuple[float, float], level: int, depths: Sequence[F32] = ()
) -> tuple[Camera, Sources]:
    """The reference camera and its sources at one pyramid level; `depths` are the sources' own, at level 0."""
    K = view.intrinsics(level)
    A, b, back, back_b, greys = [], [], [], [], []
    for other in others:
        other_level = min(level, len(other.greys) - 1)
        source_from_reference = other.pose @ np.linalg.inv(view.pose)
        R, t = source_from_reference[:3, :3], source_from_reference[:3, 3]
        Ks = other.intrinsics(other_level)
        A.append(Ks @ R @ np.linalg.inv(K))
        b.append(Ks @ t)
        back.append(K @ R.T @ np.linalg.inv(Ks))
        back_b.append(-K @ R.T @ t)
        greys.append(other.greys[other_level])
    sources = Sources(
        quads=np.concatenate([_quads(grey) for grey in greys]),
        depth=np.concatenate([depth.ravel() for depth in depths]) if depths else np.zeros(1, np.float32),
        start=np.cumsum([0, *(grey.size for grey in greys[:-1])]).astype(np.int64),
        size=np.array([grey.shape[::-1] for grey in greys], np.int64),
        A=np.array(A, np.float64),
        b=np.array(b, np.float32),
        back=np.array(back, np.float32),
        back_b=np.array(back_b, np.float32),
    )
    low, high = 1 / depth_range[1], 1 / depth_range[0]
    height, width = view.greys[level].shape
    rays, q = np.array(A) @ [width / 2, height / 2, 1.0], (low + high) / 2
    first, second = rays + np.array(b) * q, rays + np.array(b) * (1.01 * q)
    moved = np.linalg.norm(first[:, :2] / first[:, 2:] - second[:, :2] / second[:, 2:], axis=1)
    step = 0.01 * q / max(float(np.median(moved)), 1e-9)
    numbers = (K[0, 0], K[1, 1], K[0, 1], K[0, 2], K[1, 2], low, high, step)
    return Camera(*(np.float32(number) for number in numbers)), sources


def _tables() -> Tables:
    reach = np.arange(-RADIUS, RADIUS + 1, STRIDE, dtype=np.float32)
    dy, dx = (a.ravel() for a in np.meshgrid(reach, reach, indexing="ij"))
    inner = dx**2 + dy**2 < 2 * RADIUS**2  # without the four corners 32 are left: two full vectors of sixteen
    dx, dy = dx[inner], dy[inner]
    # Four V-shaped regions near the pixel and four lines farther out; every offset leads to the other colour.
    near, far = [(0, 1), (-1, 2), (1, 2), (-2, 3), (2, 3)], [(0, 5), (0, 9), (0, 13), (0, 19), (0, 25)]
    turns = [((1, 0), (0, 1)), ((1, 0), (0, -1)), ((0, 1), (1, 0)), ((0, -1), (1, 0))]
    return Tables(
        spatial=np.exp(-(dx**2 + dy**2) / (2 * RADIUS**2)).astype(np.float32),
        colour=np.exp(-np.arange(256) / COLOUR_SIGMA).astype(np.float32),
        dx=dx,
        dy=dy,
        steps=np.array([np.array(region) @ np.array(turn).T for region in (near, far) for turn in turns], np.int64),
    )


def _photometric(
    view: _View, others: Sequence[_View], depth_range: tuple[float, float], salt: tuple[int, ...], valid: Bools
) -> F32:
    """(H, W, 3) planes from photographs alone, coarse to fine."""
    top = len(view.greys) - 1
    planes = np.ones((*view.greys[top].shape, 3), np.float32)
    if not others:
        return np.ones((*view.greys[0].shape, 3), np.float32)
    where = [valid]
    for _ in range(top):
        a, b, c, d = _quarters(where[-1])
        where.append(a | b | c | d)
    for level in range(top, -1, -1):
        grey = view.greys[level]
        camera, sources = _level(view, others, depth_range, level)
        if level == top:
            planes = kernels.random_planes(grey.shape[0], grey.shape[1], _mix(*salt, level), camera)
        else:
            planes = _finer(planes, grey.shape, camera)
        magnitudes = FIRST if level == top else FINER
        _iterate(planes, where[level], grey, camera, sources, (*salt, level), magnitudes, level == top, False)
    return planes


def _iterate(
    planes: F32,
    valid: Bools,
    grey: U8,
    camera: Camera,
    sources: Sources,
    salt: tuple[int, ...],
    magnitudes: Sequence[float],
    explore: bool,
    geometric: bool,
) -> None:
    """Improve `planes` in place: one red-black iteration for each magnitude."""
    tables = _tables()
    field = _field(grey, planes, sources, valid)
    kernels.score(geometric, field, tables, camera, sources)
    for iteration, magnitude in enumerate(magnitudes):
        for colour in (0, 1):
            turn = Turn(colour, _mix(*salt, iteration, colour), np.float32(magnitude), explore, geometric)
            kernels.sweep(turn, field, tables, camera, sources)


def _field(grey: U8, planes: F32, sources: Sources, valid: Bools) -> Field:
    """`planes` of `grey` before anything is known of their costs."""
    judges = np.zeros((*grey.shape, min(BEST, len(sources.start))), np.int8)
    return Field(grey, planes, np.full(grey.shape, WORST, np.float32), judges, valid)


def _finer(planes: F32, shape: tuple[int, ...], camera: Camera) -> F32:
    """Planes of the next finer level, of `shape`: each pixel takes the plane of the one that contains it."""
    rows = np.minimum(np.arange(shape[0]) // 2, planes.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // 2, planes.shape[1] - 1)
    out: F32 = planes[rows[:, None], columns[None, :]]
    out[..., 1:] *= 0.5
    out[..., 0] += out[..., 1] * (np.arange(shape[1]) - 0.5 - 2 * columns)[None, :].astype(np.float32)
    out[..., 0] += out[..., 2] * (np.arange(shape[0]) - 0.5 - 2 * rows)[:, None].astype(np.float32)
    np.clip(out[..., 0], camera.low, camera.high, out=out[..., 0])
    return out


def _mix(*numbers: int) -> np.uint64:
    """One 64-bit number from several: what a sweep adds to every pixel's random state."""
    return np.uint64(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _finish(
    view: _View, others: Sequence[_View], depth_range: tuple[float, float], planes: F32, valid: Bools
) -> DepthMap:
    """Planes as depth, normals and photometric cost."""
    grey = view.greys[0]
    if not others:
        nothing = np.zeros(grey.shape, np.float32)
        return DepthMap(nothing, np.zeros((*grey.shape, 3), np.float32), np.full(grey.shape, WORST, np.float32))
    camera, sources = _level(view, others, depth_range, 0)
    field = _field(grey, planes, sources, valid)
    kernels.score(False, field, _tables(), camera, sources)
    costs = field.costs
    q, gx, gy = planes[..., 0], planes[..., 1], planes[..., 2]
    x, y = np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32)[:, None]
    away = np.stack(
        [camera.fx * gx, camera.skew * gx + camera.fy * gy, q + gx * (camera.cx - x) + gy * (camera.cy - y)], axis=-1
    )
    normal = -away / np.linalg.norm(away, axis=-1, keepdims=True)
    return DepthMap((1 / q).astype(np.float32), normal.astype(np.float32), costs).keep(valid & (costs < WORST))
