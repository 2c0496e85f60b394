"""A Scene directory: images, masks, and one or more ground truths, all as plain files.

scene.json                      `SceneFile`; `docs/scene-format.md` describes all of it
images/NAME.jpg|png             upright sRGB
masks/NAME.png                  optional, 255 on the object
truth/KIND/truth.json           `TruthFile`; KIND is exact, colmap or scan
truth/KIND/cameras.json         list of `CameraFile`: views without a pose are absent
truth/KIND/points.npz           optional: points (M, 3) f32, normals (M, 3) f32, colors (M, 3) u8
truth/KIND/knowledge.npz        optional: where the truth can judge, see `metrics.scoring.truth.Knowledge`: trusted (M,)
                                bool, free (X/2, Y/2, Z/2) uint8, a bit for each of 2 x 2 x 2 voxels, their number
                                `shape` (3,), low (3,), edge and error f64
truth/KIND/mesh.ply             optional: the exact surface
truth/KIND/depth/NAME.png       optional: z-depth, uint16 in units of `depth_unit`, 0 = none
truth/colmap-cloud.ply, .glb    optional: the COLMAP truth's points in their colours, to look at
truth/colmap-mesh.ply           optional: a mesh of the COLMAP truth to look at; nothing is scored with it
quality.json                    the ground truth's quality card, where COLMAP made it
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import msgspec
import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from adapters.contract import U8, Bools, Cameras, InputError, OnDemand, TruthKind
from data.images import image_size, read_image, read_mask
from metrics.scoring.truth import Box, Knowledge, Truth

FORMAT = 1
HELD = 1 << 27  # bytes of depth maps, or of masks, of one truth that are held in memory
SURFACE_SAMPLES = 200_000  # points drawn from a mesh truth, area-uniform
T = TypeVar("T")
Positive = Annotated[float, msgspec.Meta(gt=0)]
FOUR = msgspec.Meta(min_length=4, max_length=4)


class ViewFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One view of a scene, paths relative to the scene's folder. A file outside it is named with its hash."""

    name: str
    image: str
    mask: str | None = None
    group: str = "a"  # views of one group share a focal length
    image_sha256: str | None = None
    mask_sha256: str | None = None

    @property
    def files(self) -> tuple[tuple[str, str | None], ...]:
        """The path of the image, and of the mask where there is one, each with its hash where it has one."""
        mask = () if self.mask is None else ((self.mask, self.mask_sha256),)
        return ((self.image, self.image_sha256), *mask)


class SceneFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`scene.json`."""

    format: int = FORMAT
    name: str
    title: str
    licence: str
    source: str
    difficulty: str = "photos"  # textured | weak | glossy | thin | photos
    subset: str = ""  # which of its source's views these are
    views_sha256: str = ""  # of the names and images of a chosen subset, see `data.catalog`
    views: list[ViewFile]


class TruthFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`truth.json`."""

    format: int = FORMAT
    kind: TruthKind
    made_by: list[str]  # e.g. ["colmap"]; [] where the surface is exact
    diameter: Positive  # unit of length of every score
    crop_low: tuple[float, float, float] | None = None
    crop_high: tuple[float, float, float] | None = None
    depth_unit: float = 1e-4
    frame: str  # "exact" where the frame is the exact one, else the kind that defines it
    up: tuple[float, float, float] | None = None  # where up is in this truth's frame, where that is known
    metres: Positive | None = None  # in this truth's unit, where that is known
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added to this truth's coordinates gives its source's


class CameraFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pinhole camera of `cameras.json`, pixels at the image's full resolution, pixel centres at .5."""

    view: str
    width: Annotated[int, msgspec.Meta(gt=0)]
    height: Annotated[int, msgspec.Meta(gt=0)]
    fx: Positive
    fy: Positive
    cx: float
    cy: float
    camera_from_world: Annotated[list[Annotated[list[float], FOUR]], FOUR]  # 4x4, OpenCV axes


class _Verdict(msgspec.Struct, frozen=True):
    """Of `quality.json`: see `data.groundtruth.quality`."""

    verdict: str
    reasons: list[str]


@dataclass(frozen=True)
class Scene:
    """An opened Scene directory; images and truths are read on access."""

    path: Path
    file: SceneFile

    @staticmethod
    def open(path: Path) -> Scene:
        """Read `scene.json`; raises InputError naming the file at fault."""
        file = path / "scene.json"
        if not file.is_file():
            raise InputError(f"{path}: no scene.json seen, a Scene directory wanted")
        scene = _decode(file, SceneFile)
        if scene.format != FORMAT:
            raise InputError(f"{file}: format {scene.format} seen, {FORMAT} wanted")
        names = [view.name for view in scene.views]
        if len(set(names)) != len(names) or not names:
            raise InputError(f"{file}: {len(set(names))} distinct view names seen for {len(names)} views")
        for view in scene.views:
            for relative, sha256 in view.files:
                # Whoever knows the hash knows the file: an outside path with one gives nothing away.
                if sha256 is None and not (path / relative).resolve().is_relative_to(path.resolve()):
                    raise InputError(f"{file}: view {view.name}: path {relative} leaves the scene's folder")
        return Scene(path, scene)

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def view_names(self) -> tuple[str, ...]:
        return tuple(view.name for view in self.file.views)

    def _view(self, name: str) -> ViewFile:
        for view in self.file.views:
            if view.name == name:
                return view
        raise InputError(f"{self.path}: view {name} seen, one of {', '.join(self.view_names)} wanted")

    def image_path(self, name: str) -> Path:
        """InputError where a file outside the scene's folder is missing or has changed."""
        view = self._view(name)
        return self._checked(view.image, view.image_sha256)

    def mask_path(self, name: str) -> Path:
        """InputError where the view has no mask, or as `image_path`."""
        view = self._view(name)
        if view.mask is None:
            raise InputError(f"{self.path}: view {name} has no mask")
        return self._checked(view.mask, view.mask_sha256)

    def _checked(self, relative: str, sha256: str | None) -> Path:
        path = self.path / relative
        if sha256 is not None:
            try:
                state = path.stat()
                result = _hash_file(path, state.st_size, state.st_mtime_ns)
            except OSError as error:
                raise InputError(f"{path}: not readable ({error.strerror}), which {self.path} refers to") from error
            if result != sha256:
                raise InputError(
                    f"{path}: changed since {self.path} was made (sha256 {result[:16]}, not {sha256[:16]})"
                )
        return path

    @property
    def outside(self) -> tuple[Path, ...]:
        """The files that the scene refers to outside its own folder."""
        paths = (self.path / relative for view in self.file.views for relative, _ in view.files)
        return tuple(path for path in paths if not path.resolve().is_relative_to(self.path.resolve()))

    def image(self, name: str) -> U8:
        """(H, W, 3) uint8 sRGB, upright."""
        return read_image(self.image_path(name))

    def mask(self, name: str) -> Bools:
        """(H, W) bool, true on the object; InputError where the view has none."""
        return read_mask(self.mask_path(name))

    def images(self, names: Sequence[str]) -> OnDemand:
        """Those images, each read when it is asked for; InputError where one has no readable header."""
        sizes = [image_size(self.image_path(name)) for name in names]
        return OnDemand([(height, width, 3) for width, height in sizes], lambda i: self.image(names[i]))

    def masks(self, names: Sequence[str]) -> OnDemand:
        """Their masks, likewise."""
        sizes = [image_size(self.mask_path(name)) for name in names]
        return OnDemand([(height, width) for width, height in sizes], lambda i: self.mask(names[i]))

    @property
    def has_masks(self) -> bool:
        return all(view.mask is not None for view in self.file.views)

    @cached_property
    def truth_kinds(self) -> tuple[TruthKind, ...]:
        """The kinds of truth present, in the order exact, colmap, scan."""
        kinds: tuple[TruthKind, ...] = get_args(TruthKind)
        return tuple(kind for kind in kinds if (self.path / "truth" / kind / "truth.json").is_file())

    @property
    def refused(self) -> str:
        """Why the scene has no COLMAP truth where one was tried: the reasons of its quality card; else ""."""
        card = self.path / "quality.json"
        if "colmap" in self.truth_kinds or not card.is_file():
            return ""
        verdict = _decode(card, _Verdict)
        return "; ".join(verdict.reasons) if verdict.verdict == "refused" else ""

    def truth_file(self, kind: TruthKind) -> TruthFile:
        """What `truth.json` says of one ground truth."""
        return _decode(self.path / "truth" / kind / "truth.json", TruthFile)

    def truth(self, kind: str) -> Truth:
        """Read one ground truth whole; raises InputError where it is absent or broken."""
        folder = self.path / "truth" / kind
        if not (folder / "truth.json").is_file():
            have = ", ".join(self.truth_kinds) or "none"
            raise InputError(
                f"{self.path}: no {kind} ground truth (present: {have}); `reconbench groundtruth` makes one"
            )
        return read_truth(self, folder)


def read_truth(scene: Scene, folder: Path) -> Truth:
    """The Truth in `folder` (`truth/KIND` of `scene`)."""
    file = _decode(folder / "truth.json", TruthFile)
    cameras = _decode(folder / "cameras.json", list[CameraFile])
    known = {view.name: view for view in scene.file.views}
    for camera in cameras:
        if camera.view not in known:
            raise InputError(f"{folder / 'cameras.json'}: view {camera.view} is not a view of the scene")
    depth_paths = [folder / "depth" / f"{camera.view}.png" for camera in cameras]
    vertices = faces = None
    if (folder / "mesh.ply").is_file():
        mesh = trimesh.load_mesh(folder / "mesh.ply", process=False)
        vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int32)
        samples, index = trimesh.sample.sample_surface(mesh, SURFACE_SAMPLES, seed=0)
        points, normals = np.asarray(samples, np.float32), np.asarray(mesh.face_normals[index], np.float32)
    elif (folder / "points.npz").is_file():
        try:
            with np.load(folder / "points.npz", allow_pickle=False) as arrays:
                points, normals = arrays["points"].astype(np.float32), arrays["normals"].astype(np.float32)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{folder / 'points.npz'}: not readable ({error}), points and normals wanted") from error
    else:
        raise InputError(f"{folder}: neither mesh.ply nor points.npz seen, one wanted")
    masked = all(known[camera.view].mask is not None for camera in cameras)
    return Truth(
        kind=file.kind,
        id=truth_id(folder, scene),
        made_by=tuple(file.made_by),
        points=points,
        normals=normals,
        diameter=file.diameter,
        view_names=tuple(camera.view for camera in cameras),
        cameras=Cameras(
            np.array([[[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]] for c in cameras], np.float64).reshape(-1, 3, 3),
            np.array([c.camera_from_world for c in cameras], np.float64).reshape(-1, 4, 4),
        ),
        sizes=np.array([[c.width, c.height] for c in cameras], np.int32).reshape(-1, 2),
        depth=_held(_depths(depth_paths, file.depth_unit), 4) if all(path.is_file() for path in depth_paths) else None,
        masks=_held(scene.masks([camera.view for camera in cameras]), 1) if masked else None,
        vertices=vertices,
        faces=faces,
        crop=Box(file.crop_low, file.crop_high) if file.crop_low is not None and file.crop_high is not None else None,
        knowledge=_read_knowledge(folder / "knowledge.npz", len(points)),
        up=file.up,
        metres=file.metres,
    )


def _depths(paths: Sequence[Path], unit: float) -> OnDemand:
    return OnDemand([image_size(path)[::-1] for path in paths], lambda i: _read_depth(paths[i], unit))


def _held(maps: OnDemand, size: int) -> Sequence[NDArray[Any]]:
    """The same, of `size` bytes a pixel, in memory where it is little."""
    pixels = sum(height * width for height, width in maps.shapes)
    return maps if pixels * size > HELD else tuple(maps)


def truth_id(folder: Path, scene: Scene | None = None) -> str:
    """Hash of every file of a truth folder and of its scene's masks: 16 hex digits. `scene` is given where the folder
    does not lie in it, as while it is made."""
    scene = scene or Scene.open(folder.parent.parent)
    files = [(str(path.relative_to(folder.parent.parent)), path) for path in folder.rglob("*") if path.is_file()]
    for view in scene.file.views:
        if view.mask is not None and (scene.path / view.mask).is_file():
            # Where a file outside lies is not part of what the truth is.
            files.append((view.mask if view.mask_sha256 is None else f"masks/{view.name}", scene.path / view.mask))
    states = ((name, path, path.stat()) for name, path in sorted(files))
    return _hash_files(tuple((name, path, state.st_size, state.st_mtime_ns) for name, path, state in states))


@functools.lru_cache(maxsize=4096)
def _hash_file(path: Path, size: int, changed: int) -> str:
    """sha256 of a file; `size` and time of change are there for the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[str, Path, int, int], ...]) -> str:
    """16 hex digits over names and bytes; size and time of change are there for the cache."""
    digest = hashlib.sha256()
    for name, path, _, _ in files:
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def write_scene(path: Path, scene: SceneFile) -> None:
    """Write `scene.json`."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "scene.json").write_bytes(msgspec.json.format(msgspec.json.encode(scene), indent=1))


def write_truth(
    scene_path: Path,
    truth: TruthFile,
    cameras: list[CameraFile],
    points: dict[str, NDArray[np.generic]] | None = None,
    depth: dict[str, NDArray[np.floating]] | None = None,
    knowledge: Knowledge | None = None,
) -> Path:
    """Write `truth/KIND`; `depth` maps view names to z-depth maps (0 = none). Returns the folder."""
    folder = scene_path / "truth" / truth.kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "truth.json").write_bytes(msgspec.json.format(msgspec.json.encode(truth), indent=1))
    (folder / "cameras.json").write_bytes(msgspec.json.format(msgspec.json.encode(cameras), indent=1))
    if points is not None:
        np.savez_compressed(folder / "points.npz", **points)  # type: ignore[arg-type]
    if knowledge is not None:
        np.savez_compressed(
            folder / "knowledge.npz",
            trusted=knowledge.trusted,
            free=_blocks(knowledge.free),
            shape=np.array(knowledge.free.shape),
            low=knowledge.low,
            edge=np.float64(knowledge.edge),
            error=np.float64(knowledge.error),
        )
    for name, depths in (depth or {}).items():
        (folder / "depth").mkdir(exist_ok=True)
        coded = np.round(np.asarray(depths, np.float64) / truth.depth_unit)
        if coded.max(initial=0) > 65535:
            raise InputError(f"depth of view {name}: {coded.max():.0f} units seen, at most 65535 wanted")
        Image.fromarray(coded.astype(np.uint16)).save(folder / "depth" / f"{name}.png")
    return folder


def _blocks(voxels: Bools) -> U8:
    """(X, Y, Z) bool as bytes of 2 x 2 x 2 voxels each, which deflate to two thirds of what rows of eight do."""
    padded = np.pad(voxels, [(0, n % 2) for n in voxels.shape])
    x, y, z = (n // 2 for n in padded.shape)
    blocks = padded.reshape(x, 2, y, 2, z, 2).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, 8)
    return np.packbits(blocks, axis=-1)[..., 0]


def _voxels(blocks: U8, shape: tuple[int, int, int]) -> Bools:
    """What `_blocks` was made of, `shape` voxels; raises ValueError where that is not the size of `blocks`."""
    x, y, z = ((n + 1) // 2 for n in shape)
    bits = np.unpackbits(blocks.reshape(x, y, z, 1), axis=-1).reshape(x, y, z, 2, 2, 2)
    whole = bits.transpose(0, 3, 1, 4, 2, 5).reshape(2 * x, 2 * y, 2 * z)
    return whole[: shape[0], : shape[1], : shape[2]].astype(np.bool_)


def _read_knowledge(path: Path, points: int) -> Knowledge | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y, z = (int(n) for n in arrays["shape"])
            known = Knowledge(
                trusted=arrays["trusted"].astype(np.bool_),
                free=_voxels(arrays["free"], (x, y, z)),
                low=arrays["low"].astype(np.float64),
                edge=float(arrays["edge"]),
                error=float(arrays["error"]),
            )
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    if len(known.trusted) != points:
        raise InputError(f"{path}: trusted: {len(known.trusted)} points seen, the truth's {points} wanted")
    return known


def _read_depth(path: Path, unit: float) -> NDArray[np.float32]:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(np.asarray(image, np.float64) * unit, np.float32)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow has all three for a damaged file
        raise InputError(f"{path}: no depth map can be read ({error})") from error


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise InputError(f"{path}: {error}") from error
