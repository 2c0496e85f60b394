"""What adapters of single-object networks share: the object cut out of its photo, and the mesh of a field.

Runs inside the environments of the systems under test: numpy, Pillow and point-cloud-utils, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from adapters.contract import F32, F64, I32, U8, Bools, Cameras, Execution, Unavailable, Unsupported, sizes_text
from adapters.shared.network import NetworkAdapter
from adapters.shared.surface import isosurface, no_surface

WHITE = 255
Cut = Literal["mask", "rembg", "none"]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Photos of one object: cut out, centred and square, or as they are."""

    images: tuple[U8, ...]  # each (H, W, 3) sRGB
    foreground: str = ""  # how the object was cut out, and what was put behind it


@dataclasses.dataclass(frozen=True)
class Picture:
    """What a network from one picture to an object is given."""

    images: tuple[F32, ...]  # one (3, h, h), in the levels and at the size that the network wants
    foreground: str


@dataclasses.dataclass(frozen=True)
class PlaneDensity:
    """What a network of planes knows of its cube."""

    density: F32  # (G, G, G), at a grid's points, x first
    planes: Any  # upstream's, which colours are read from


@dataclasses.dataclass(eq=False)
class ObjectNetwork(NetworkAdapter):
    """An adapter of a network that wants one object on a plain ground.

    `foreground`: "mask" cuts the object out by the mask where one is given, and leaves the photo as it is elsewhere;
    "rembg" cuts it out by the segmenter of that name, which must be in the adapter's environment; "none" never does."""

    foreground: Cut = "mask"
    grey: typing.ClassVar[int] = WHITE  # level of what is put behind the object
    border: typing.ClassVar[float] = 0.2  # share of the square's side that the object's longer side leaves free
    ranges: typing.ClassVar[tuple[tuple[str, float, float], ...]] = ()  # options, their least and greatest values

    def __post_init__(self) -> None:
        """ValueError where an option is out of its range."""
        super().__post_init__()
        for name, least, greatest in self.ranges:
            value = getattr(self, name)
            if not least <= value <= greatest:
                raise ValueError(f"{name}: {value} seen, {least} to {greatest} wanted")

    def pictures(self, images: Sequence[U8], masks: Sequence[Bools] | None) -> Pictures:
        """The object in each of `images` (H, W, 3), cut out by its mask (H, W) or by the segmenter."""
        if self.foreground == "rembg":
            masks = [segmented(image) for image in images]
        if masks is None or self.foreground == "none":
            return Pictures(tuple(images), "whole photo")
        how = "given mask" if self.foreground == "mask" else "rembg"
        ground = "white" if self.grey == WHITE else f"grey {self.grey}"
        square = (cut_out(image, mask, self.grey, self.border) for image, mask in zip(images, masks))  # noqa: B905
        return Pictures(tuple(square), f"{how}, {self.border:g} border, on {ground}")

    def execution(self, inputs: Any) -> Execution:
        """Also how the object was cut out."""
        told = super().execution(inputs)
        if isinstance(inputs, Pictures):  # channels last
            sizes = [(image.shape[1], image.shape[0]) for image in inputs.images]
            told = dataclasses.replace(told, resolution=sizes_text(sizes))
        return dataclasses.replace(told, foreground=getattr(inputs, "foreground", ""))


def cut_out(image: U8, mask: Bools, grey: int = WHITE, border: float = 0.2) -> U8:
    """(S, S, 3): the object that `mask` (H, W) shows in `image` (H, W, 3), centred on a ground of level `grey`, its
    longer side 1 - `border` of the square's, no pixel resampled. Unsupported where the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise Unsupported("masks: no object pixel seen, at least one wanted")
    top, left = rows[0], columns[0]
    height, width = rows[-1] + 1 - top, columns[-1] + 1 - left
    side = round(max(height, width) / (1 - border))
    square = np.full((side, side, 3), grey, np.uint8)
    down, right = (side - height) // 2, (side - width) // 2
    inside = np.where(mask[..., None], image, np.uint8(grey))[top : top + height, left : left + width]
    square[down : down + height, right : right + width] = inside
    return square


def segmented(image: U8) -> Bools:
    """(H, W): where rembg, with the network that it finds in its own folder, sees the object of `image` (H, W, 3)."""
    try:
        import rembg
    except ImportError as error:
        raise Unavailable("foreground: rembg is not in the adapter's environment: pip install rembg there") from error
    cut = rembg.remove(Image.fromarray(image), only_mask=True)
    return np.asarray(np.asarray(cut.convert("L")) > 127)


def by_area(image: U8, size: int) -> U8:
    """`image` (H, W, 3) at `size` x `size`: by area where it shrinks, bicubic where it grows."""
    kind = Image.Resampling.BOX if min(image.shape[:2]) >= size else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size, size), kind), np.uint8)


def bilinear(image: U8, size: int) -> F32:
    """(3, size, size) in [0, 1] of `image` (H, W, 3): bilinear, smoothed where it shrinks, as torch's interpolate with
    antialias has it."""
    return smoothed(image, size, Image.Resampling.BILINEAR)


def smoothed(image: U8, size: int, kind: Image.Resampling) -> F32:
    """The same by the filter `kind`, which may overshoot: nothing is clipped."""
    planes = (Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(3))
    resized = [np.asarray(plane.resize((size, size), kind)) for plane in planes]
    levels: F32 = (np.stack(resized) / 255).astype(np.float32)
    return levels


def bicubic(image: U8, size: int) -> F32:
    """(3, size, size) in [0, 1] of `image` (H, W, 3): bicubic with the corners' pixels on each other and no smoothing,
    clipped, as torch's interpolate with align_corners has it."""
    rows, columns = (_bicubic_weights(length, size) for length in image.shape[:2])
    levels = np.einsum("ih,hwc,jw->cij", rows, image / 255.0, columns, optimize=True)
    clipped: F32 = np.clip(levels, 0, 1).astype(np.float32)
    return clipped


def _bicubic_weights(before: int, after: int) -> F64:
    """(after, before): each new pixel's weights of the old ones, Keys' kernel with a = -0.75."""
    at = np.arange(after) * ((before - 1) / (after - 1))
    weights = np.zeros((after, before))
    for step in (-1, 0, 1, 2):
        index = np.floor(at).astype(int) + step
        x = np.abs(at - index)
        near = (1.25 * x - 2.25) * x * x + 1
        far = ((-0.75 * x + 3.75) * x - 6) * x + 3
        value = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
        np.add.at(weights, (np.arange(after), np.clip(index, 0, before - 1)), value)
    return weights


def grid_slices(low: float, high: float, count: int) -> Iterator[F32]:
    """Points (G, G, 3) of each slice of a grid of `count` = G points along each edge of the cube from `low` to `high`:
    x is one slice's own, y and z go along its axes."""
    axis = np.linspace(low, high, count, dtype=np.float32)
    y, z = np.meshgrid(*[axis] * 2, indexing="ij")
    for x in axis:
        yield np.stack([np.full_like(y, x), y, z], axis=-1)


def field_mesh(field: F32, level: float, low: float, high: float) -> tuple[F32, I32]:
    """Vertices (V, 3) and faces (F, 3) where `field` (G, G, G), larger inside, is `level`; the grid's first point lies
    at (`low`, `low`, `low`), its last at `high`. The surface is closed at the grid's border.

    ContractError with the range seen where the field reaches the level nowhere."""
    step = (high - low) / (len(field) - 1)
    vertices, faces = isosurface((field - np.float32(level)).astype(np.float32), np.full(3, low), step)
    if not len(faces):
        raise no_surface(field, level)
    return vertices.astype(np.float32), faces


@dataclasses.dataclass(frozen=True)
class Cube:
    """A cube about the object that posed views show, z up, as networks of posed views want it."""

    cube_from_world: F64  # (4, 4), a similarity: the object's largest reach from the cube's middle becomes `reach`
    reach: float

    def to_world(self, points: F32) -> F32:
        """(M, 3) points of the cube, in the world."""
        world_from_cube = np.linalg.inv(self.cube_from_world)
        return np.asarray(points @ world_from_cube[:3, :3].T + world_from_cube[:3, 3], np.float32)


def object_cube(cameras: Cameras, masks: Sequence[Bools], reach: float) -> Cube:
    """The cube about what the masks (H, W) of N >= 2 posed views show: its middle is nearest to the rays through the
    masks' middles, up is where most cameras have their top. Unsupported where the views do not settle it."""
    if len(cameras) < 2:
        raise Unsupported(f"cameras: {len(cameras)} seen, at least 2 wanted to tell where the object is")
    boxes, rays = [], []
    for i, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            raise Unsupported(f"masks[{i}]: no object pixel seen, at least one wanted")
        low, high = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
        boxes.append((low, high))
        ray = cameras.unproject(i, ((low + high) / 2)[None], np.ones(1))[0] - cameras.centres[i]
        rays.append(ray / np.linalg.norm(ray))
    across = np.stack([np.eye(3) - np.outer(ray, ray) for ray in rays])  # what of an offset a ray does not bridge
    if np.linalg.eigvalsh(across.sum(axis=0))[0] < 1e-4:
        raise Unsupported("cameras: all look along one line, views from several sides wanted")
    middle = np.linalg.solve(across.sum(axis=0), np.einsum("nij,nj->i", across, cameras.centres))
    largest = 0.0
    for i, (low, high) in enumerate(boxes):
        at, depth = cameras.project(i, middle[None])
        if depth[0] <= 0:
            raise Unsupported(f"cameras[{i}]: the object lies behind it")
        focal = cameras.intrinsics[i, [0, 1], [0, 1]]
        largest = max(largest, float((np.maximum(high - at[0], at[0] - low) / focal).max() * depth[0]))
    up = -cameras.camera_from_world[:, 1, :3].mean(axis=0)
    cube_from_world = np.eye(4)
    cube_from_world[:3, :3] = turn(up, np.array([0.0, 0.0, 1.0])) * (reach / largest)
    cube_from_world[:3, 3] = -cube_from_world[:3, :3] @ middle
    return Cube(cube_from_world, reach)


def turn(start: F64, end: F64) -> F64:
    """(3, 3): the least rotation that brings the direction of `start` (3,) to that of `end` (3,)."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    cosine = float(a @ b)
    if cosine < -1 + 1e-12:  # half a turn about any axis across
        axis = np.cross(a, np.eye(3)[int(np.abs(a).argmin())])
        axis /= np.linalg.norm(axis)
        return np.asarray(2 * np.outer(axis, axis) - np.eye(3))
    x, y, z = np.cross(a, b)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + skew + skew @ skew / (1 + cosine))


def look_at_middle(
    image: U8, mask: Bools, K: F64, camera_from_world: F64, cube: Cube, half: float, side: int, grey: int = WHITE
) -> tuple[F32, float, F64]:
    """What a camera at the same place would see that looks at the cube's middle: the picture (3, side, side) in [0, 1],
    the object cut out; its focal length in picture widths; its pose in the cube, world_from_camera (4, 4), OpenCV axes.

    The picture is as wide as 2 `half` of the cube's unit at its middle."""
    scale = float(np.linalg.norm(cube.cube_from_world[0, :3]))
    cube_from_camera = cube.cube_from_world @ np.linalg.inv(camera_from_world)
    cube_from_camera[:3, :3] /= scale
    middle = -cube_from_camera[:3, :3].T @ cube_from_camera[:3, 3]  # in the camera's axes
    turned = turn(np.array([0.0, 0.0, 1.0]), middle)  # camera from the camera that looks there
    focal = float(np.linalg.norm(middle)) / (2 * half)
    inner = np.array([[focal * side, 0, side / 2], [0, focal * side, side / 2], [0, 0, 1]])
    # Photos whose pixels are finer than the picture's are shrunk by area first: the warp looks at single pixels.
    finer = max(1, int(min(K[0, 0], K[1, 1]) / inner[0, 0]))
    # In 32 bits, since the warp of bytes cuts fractions off.
    shown = np.where(mask[..., None], image, np.uint8(grey)).astype(np.float32)
    photo = np.diag([1 / finer, 1 / finer, 1.0]) @ K @ turned @ np.linalg.inv(inner)
    numbers = (photo / photo[2, 2]).ravel()[:8].tolist()
    how, filter_by = Image.Transform.PERSPECTIVE, Image.Resampling.BICUBIC
    planes = [Image.fromarray(np.ascontiguousarray(shown[..., channel])).reduce(finer) for channel in range(3)]
    warped = [np.asarray(plane.transform((side, side), how, numbers, filter_by, fillcolor=grey)) for plane in planes]
    pose = cube_from_camera.copy()
    pose[:3, :3] = pose[:3, :3] @ turned
    return (np.stack(warped).clip(0, 255) / np.float32(255)).astype(np.float32), focal, pose
