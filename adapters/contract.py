"""The one interface between Reconbench and a reconstructor: what goes in, what comes out.

Runs inside the environments of the systems under test: numpy and the standard library only, Python 3.9 syntax.

Conventions: camera axes are OpenCV's (x right, y down, z forward); pixel centres lie at half-integers, so the
top-left corner of an image is (0, 0) and its first pixel's centre (0.5, 0.5); a transform is named
`target_from_source`, a 4x4 float64 matrix on column vectors; images are uint8 sRGB.
"""

from __future__ import annotations

import dataclasses
import functools
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator, List, Literal, Mapping, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

CONTRACT_VERSION = 4

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Bools = NDArray[np.bool_]

FRAMES = ("first_camera", "world", "object")
SCALES = ("metric", "arbitrary")
CONFIDENCE_KINDS = ("probability", "exp_confidence", "inverse_variance", "photo_consistency", "track_length")

# How a trial ends, how its scoring ends, and what it may be scored against: the words of every record and table.
TrialStatus = Literal["ok", "oom", "timeout", "crash", "invalid_output", "unsupported", "unavailable"]
ScoreStatus = Literal["ok", "failed", "unsupported"]
TruthKind = Literal["exact", "colmap", "scan"]


class InputError(ValueError):
    """What the user can mend: one sentence naming the file or field, what was seen and what was wanted.

    Every room raises this one, and the command line prints its sentence and ends with exit code 2."""


class ContractError(ValueError):
    """Data that breaks the contract; the message names the field, what was seen and what was wanted."""


class Unsupported(Exception):
    """Raised by an adapter for inputs it cannot take (too few views, say): status `unsupported`, not a crash."""


class Unavailable(Exception):
    """Raised by an adapter whose weights or packages are absent; the message says how to get them."""


LARGEST = 1e12  # coordinates and depths beyond this are no lengths: squares of them overflow float32


def _check_length(field: str, array: Any, least: float = -LARGEST) -> None:
    """Raise ContractError unless the numbers of a checked `array` lie in `least`..LARGEST."""
    if array.size and (array.min() < least or array.max() > LARGEST):
        raise ContractError(f"{field}: {array.min():.4g} to {array.max():.4g} seen, {least:g} to {LARGEST:g} wanted")


def _check(field: str, array: Any, shape: Tuple[Any, ...], dtype: Any, finite: bool = True) -> None:
    """Raise ContractError unless `array` is an ndarray of `dtype` and `shape` (None = any length)."""
    wanted = f"{np.dtype(dtype).name} {tuple('any' if s is None else s for s in shape)}"
    if not isinstance(array, np.ndarray):
        raise ContractError(f"{field}: {type(array).__name__} seen, ndarray {wanted} wanted")
    if array.dtype != np.dtype(dtype):
        raise ContractError(f"{field}: dtype {array.dtype} seen, {wanted} wanted")
    if array.ndim != len(shape) or any(s is not None and s != a for s, a in zip(shape, array.shape)):
        raise ContractError(f"{field}: shape {array.shape} seen, {wanted} wanted")
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ContractError(f"{field}: {bad} of {array.size} numbers are not finite, all must be")


class OnDemand(Sequence[Any]):
    """Arrays of known shapes, each made when it is asked for: a few of many large ones are in memory at a time.

    Stands for a tuple of arrays wherever a scene's photos, masks or depth maps may be too many to hold."""

    def __init__(self, shapes: Sequence[Tuple[int, ...]], make: Callable[[int], NDArray[Any]]) -> None:
        self.shapes = tuple(tuple(int(n) for n in shape) for shape in shapes)
        self._make = make

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self.shapes))[index]  # IndexError beyond the ends
        return tuple(self._make(i) for i in places) if isinstance(index, slice) else self._make(places)


def shapes_of(arrays: Sequence[Any]) -> List[Tuple[int, ...]]:
    """The shape of each of `arrays`, none of them made for it."""
    return list(arrays.shapes) if isinstance(arrays, OnDemand) else [array.shape for array in arrays]


class Fields(Mapping[str, Any]):
    """Named arrays, each made when it is asked for; in the order of `makers`."""

    def __init__(self, makers: Mapping[str, Callable[[], NDArray[Any]]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _made(array: NDArray[Any]) -> Callable[[], NDArray[Any]]:
    return lambda: array


def _taken(arrays: Sequence[NDArray[Any]], index: int) -> Callable[[], NDArray[Any]]:
    return lambda: arrays[index]


def write_npz(path: Path, arrays: Mapping[str, Any], level: int = 0) -> None:
    """Write an `.npz`, one array after the other in memory; `level` as zlib's, 0 stores. Depth maps of full size, which
    may be many, are compressed lightly all the same."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name in arrays:
            squeeze = 1 if name.startswith("depth_") else level
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED if squeeze else zipfile.ZIP_STORED
            entry._compresslevel = squeeze or None  # type: ignore[attr-defined]  # no other way to name one an entry
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(arrays[name]), allow_pickle=False)


@dataclasses.dataclass(frozen=True)
class Cameras:
    """N pinhole cameras, each at the ORIGINAL resolution of its image."""

    intrinsics: F64  # (N, 3, 3), pixels
    camera_from_world: F64  # (N, 4, 4), rigid; translation in the world's unit

    def __len__(self) -> int:
        return len(self.intrinsics)

    @property
    def centres(self) -> F64:
        """(N, 3) float64 camera centres in the world frame."""
        R, t = self.camera_from_world[:, :3, :3], self.camera_from_world[:, :3, 3]
        return np.asarray(-np.einsum("nji,nj->ni", R, t), np.float64)

    def take(self, indices: Any) -> "Cameras":
        """The cameras at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return Cameras(self.intrinsics[rows], self.camera_from_world[rows])

    def project(self, index: int, points: NDArray[np.floating]) -> Tuple[F64, F64]:
        """World `points` (M, 3) -> pixel coordinates (M, 2) and z-depth (M,), camera `index`, float64.

        Points in or behind the camera plane get pixel coordinates of -1."""
        K, pose = self.intrinsics[index], self.camera_from_world[index]
        local = pose[:3, :3] @ np.asarray(points, dtype=np.float64).T  # (3, M): a row for each axis, so twice as fast
        local += pose[:3, 3:]
        depth = local[2]
        front = depth > 1e-12
        x, y = local[:2] / np.where(front, depth, 1.0)
        pixel = np.stack([K[0, 0] * x + K[0, 1] * y + K[0, 2], K[1, 1] * y + K[1, 2]], axis=1)
        pixel[~front] = -1.0
        return pixel, depth

    def unproject(self, index: int, pixel: NDArray[np.floating], depth: NDArray[np.floating]) -> F64:
        """Pixel coordinates (M, 2) with z-depth (M,), camera `index` -> world points (M, 3) float64."""
        K, pose = self.intrinsics[index], self.camera_from_world[index]
        rays = np.concatenate([np.asarray(pixel, np.float64), np.ones((len(pixel), 1))], axis=1) @ np.linalg.inv(K).T
        return np.asarray((rays * np.asarray(depth, np.float64)[:, None] - pose[:3, 3]) @ pose[:3, :3], np.float64)

    def validate(self, field: str, count: int, where: Optional[Bools] = None) -> None:
        """Raise ContractError unless there are `count` cameras, valid where `where` (N,) is true (default: all)."""
        _check(f"{field}.intrinsics", self.intrinsics, (count, 3, 3), np.float64, finite=where is None)
        _check(f"{field}.camera_from_world", self.camera_from_world, (count, 4, 4), np.float64, finite=where is None)
        rows = np.arange(count) if where is None else np.flatnonzero(where)
        for i in rows:
            R = self.camera_from_world[i, :3, :3]
            if not np.isfinite(self.camera_from_world[i]).all() or not np.isfinite(self.intrinsics[i]).all():
                raise ContractError(f"{field}[{i}]: not finite, but the view is registered")
            _check_length(f"{field}.camera_from_world[{i}]", self.camera_from_world[i])
            if np.abs(R @ R.T - np.eye(3)).max() > 1e-4 or np.linalg.det(R) < 0:
                raise ContractError(f"{field}.camera_from_world[{i}]: det {np.linalg.det(R):.4f}, wanted a rotation")
            if self.intrinsics[i, 0, 0] <= 0 or self.intrinsics[i, 1, 1] <= 0:
                raise ContractError(f"{field}.intrinsics[{i}]: focal lengths must be positive")


@dataclasses.dataclass(frozen=True)
class Surface:
    """A sampled ground-truth surface, handed to reference adapters only."""

    points: F32  # (M, 3), world frame
    normals: F32  # (M, 3), unit length, outward
    diameter: float  # the scene's unit of length, in the world's unit


@dataclasses.dataclass(frozen=True)
class Views:
    """What a reconstructor is given. Everything but the images is optional and present only when the trial gives it."""

    images: Sequence[U8]  # each (H, W, 3) sRGB, upright; perhaps `OnDemand`
    names: Tuple[str, ...]  # anonymous, unique, one an image
    masks: Optional[Sequence[Bools]] = None  # each (H, W), true on the object; perhaps `OnDemand`
    cameras: Optional[Cameras] = None  # N cameras
    truth: Optional[Surface] = None  # reference adapters only; such rows are never ranked
    targets: Optional[Cameras] = None  # K cameras of views held back, to render; only where cameras are given too
    target_sizes: Optional[I32] = None  # (K, 2) width and height of those renderings, pixels; required with targets

    def __len__(self) -> int:
        return len(self.images)

    def validate(self) -> None:
        """Raise ContractError naming the field at fault, the shape seen and the shape wanted."""
        if not len(self.images):
            raise ContractError("views.images: 0 images seen, at least 1 wanted")
        if not isinstance(self.images, OnDemand):
            for i, image in enumerate(self.images):
                _check(f"views.images[{i}]", image, (None, None, 3), np.uint8)
        if len(self.names) != len(self) or len(set(self.names)) != len(self):
            raise ContractError(f"views.names: {len(set(self.names))} distinct names seen, {len(self)} wanted")
        if self.masks is not None:
            if len(self.masks) != len(self):
                raise ContractError(f"views.masks: {len(self.masks)} masks seen, {len(self)} wanted")
            for i, shape in enumerate(shapes_of(self.images)):
                if not isinstance(self.masks, OnDemand):
                    _check(f"views.masks[{i}]", self.masks[i], shape[:2], np.bool_)
                elif self.masks.shapes[i] != shape[:2]:
                    raise ContractError(f"views.masks[{i}]: shape {self.masks.shapes[i]} seen, {shape[:2]} wanted")
        if self.cameras is not None:
            self.cameras.validate("views.cameras", len(self))
        if (self.targets is None) != (self.target_sizes is None):
            raise ContractError("views.targets and views.target_sizes: give both or neither")
        if self.targets is not None and self.target_sizes is not None:
            _check("views.target_sizes", self.target_sizes, (len(self.targets), 2), np.int32)
            self.targets.validate("views.targets", len(self.targets))

    def save(self, path: Path, pixels: bool = True) -> None:
        """Write everything to one uncompressed `.npz`; without `pixels`, of images and masks the shapes alone."""
        arrays: "dict[str, Any]" = {"names": np.array(self.names)}
        arrays["shapes"] = np.array(shapes_of(self.images), np.int64)
        arrays["masked"] = np.array(self.masks is not None)
        if self.cameras is not None:
            arrays.update(intrinsics=self.cameras.intrinsics, camera_from_world=self.cameras.camera_from_world)
        if self.truth is not None:
            arrays.update(truth_points=self.truth.points, truth_normals=self.truth.normals)
            arrays["truth_diameter"] = np.array(self.truth.diameter)
        if self.targets is not None and self.target_sizes is not None:
            arrays.update(target_intrinsics=self.targets.intrinsics, target_sizes=self.target_sizes)
            arrays["target_from_world"] = self.targets.camera_from_world
        makers = {name: _made(array) for name, array in arrays.items()}
        series: "Tuple[Tuple[str, Sequence[Any]], ...]" = (("image", self.images), ("mask", self.masks or ()))
        for name, sequence in series if pixels else ():
            makers.update({f"{name}_{i}": _taken(sequence, i) for i in range(len(sequence))})
        write_npz(path, Fields(makers))

    @staticmethod
    def load(path: Path, pixels: Optional[Callable[[str, int], NDArray[Any]]] = None) -> "Views":
        """Read what `save` wrote; validated. Where that was written without pixels, `pixels("image" or "mask", i)`
        makes the arrays when they are asked for."""
        with np.load(path, allow_pickle=False) as file:
            names = tuple(str(name) for name in file["names"])
            count, has, shapes = len(names), set(file.files), [tuple(shape) for shape in file["shapes"]]

            def series(name: str, axes: int) -> Sequence[Any]:
                if pixels is None:
                    return tuple(file[f"{name}_{i}"] for i in range(count))
                return OnDemand([shape[:axes] for shape in shapes], functools.partial(pixels, name))

            views = Views(
                images=series("image", 3),
                names=names,
                masks=series("mask", 2) if file["masked"] else None,
                cameras=Cameras(file["intrinsics"], file["camera_from_world"]) if "intrinsics" in has else None,
                truth=Surface(file["truth_points"], file["truth_normals"], float(file["truth_diameter"]))
                if "truth_points" in has
                else None,
                targets=Cameras(file["target_intrinsics"], file["target_from_world"])
                if "target_sizes" in has
                else None,
                target_sizes=file["target_sizes"] if "target_sizes" in has else None,
            )
        views.validate()
        return views


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the prediction's own frame and scale."""

    vertices: F32  # (V, 3)
    faces: I32  # (F, 3), counter-clockwise seen from outside
    colors: Optional[U8] = None  # (V, 3) sRGB


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What a reconstructor returns. `points` may be empty only when a mesh is given."""

    points: F32  # (M, 3), in the prediction's own frame and scale
    frame: str  # "first_camera" | "world" (that of the cameras given) | "object"
    scale: str  # "metric" | "arbitrary"
    colors: Optional[U8] = None  # (M, 3) sRGB
    confidence: Optional[F32] = None  # (M,), larger is surer
    confidence_kind: Optional[str] = None  # what `confidence` means: one of CONFIDENCE_KINDS
    view_index: Optional[I32] = None  # (M,), the view a point was seen in
    pixel: Optional[F32] = None  # (M, 2), where in that view, x then y, original resolution
    cameras: Optional[Cameras] = None  # N cameras, in the prediction's frame, original resolution
    registered: Optional[Bools] = None  # (N,), views whose camera was found; required with cameras
    depth: Optional[Sequence[F32]] = None  # N maps (H, W) of z-depth at original resolution, 0 = none; or `OnDemand`
    mesh: Optional[Mesh] = None
    renderings: Optional[Tuple[U8, ...]] = None  # K images (H, W, 3) sRGB as the views' target cameras would see it
    up: Optional[F64] = None  # (3,), unit length: where up is in the prediction's frame, where the system knows

    def validate(self, views: Views) -> None:
        """Raise ContractError naming the field at fault, the shape seen and the shape wanted."""
        count = len(self.points)
        if self.up is not None:
            _check("up", self.up, (3,), np.float64)
            if abs(float(np.linalg.norm(self.up)) - 1) > 1e-6:
                raise ContractError(f"up: length {np.linalg.norm(self.up):.6g} seen, 1 wanted")
        _check("points", self.points, (None, 3), np.float32)
        _check_length("points", self.points)
        if self.mesh is not None:
            _check("mesh.vertices", self.mesh.vertices, (None, 3), np.float32)
            _check_length("mesh.vertices", self.mesh.vertices)
            _check("mesh.faces", self.mesh.faces, (None, 3), np.int32)
            if len(self.mesh.faces) == 0 or len(self.mesh.vertices) == 0:
                raise ContractError("mesh: no face seen, at least one wanted (or no mesh)")
            if self.mesh.faces.min() < 0 or self.mesh.faces.max() >= len(self.mesh.vertices):
                raise ContractError(f"mesh.faces: indices outside 0..{len(self.mesh.vertices) - 1}")
            if self.mesh.colors is not None:
                _check("mesh.colors", self.mesh.colors, (len(self.mesh.vertices), 3), np.uint8)
        elif count == 0:
            raise ContractError("points: 0 points and no mesh seen, at least one point wanted")
        if self.frame not in FRAMES:
            raise ContractError(f"frame: {self.frame!r} seen, one of {', '.join(FRAMES)} wanted")
        if self.scale not in SCALES:
            raise ContractError(f"scale: {self.scale!r} seen, one of {', '.join(SCALES)} wanted")
        if self.colors is not None:
            _check("colors", self.colors, (count, 3), np.uint8)
        if (self.confidence is None) != (self.confidence_kind is None):
            raise ContractError("confidence and confidence_kind: give both or neither")
        if self.confidence is not None:
            _check("confidence", self.confidence, (count,), np.float32)
            if self.confidence_kind not in CONFIDENCE_KINDS:
                wanted = ", ".join(CONFIDENCE_KINDS)
                raise ContractError(f"confidence_kind: {self.confidence_kind!r} seen, one of {wanted} wanted")
        if (self.view_index is None) != (self.pixel is None):
            raise ContractError("view_index and pixel: give both or neither")
        if self.view_index is not None and self.pixel is not None:
            _check("view_index", self.view_index, (count,), np.int32)
            _check("pixel", self.pixel, (count, 2), np.float32)
            if count and (self.view_index.min() < 0 or self.view_index.max() >= len(views)):
                raise ContractError(f"view_index: values outside 0..{len(views) - 1}")
            if count:
                size = np.array([shape[1::-1] for shape in shapes_of(views.images)], np.float32)[self.view_index]
                if (self.pixel < 0).any() or (self.pixel > size).any():
                    raise ContractError("pixel: coordinates outside their image")
        if (self.cameras is None) != (self.registered is None):
            raise ContractError("cameras and registered: give both or neither")
        if self.cameras is not None and self.registered is not None:
            _check("registered", self.registered, (len(views),), np.bool_)
            self.cameras.validate("cameras", len(views), where=self.registered)
        if self.depth is not None:
            if len(self.depth) != len(views):
                raise ContractError(f"depth: {len(self.depth)} maps seen, {len(views)} wanted")
            for i, (depth, photo) in enumerate(zip(self.depth, shapes_of(views.images))):
                _check(f"depth[{i}]", depth, photo[:2], np.float32)
                _check_length(f"depth[{i}]", depth, least=0.0)
        if self.renderings is not None:
            sizes = views.target_sizes if views.target_sizes is not None else np.zeros((0, 2), np.int32)
            if len(self.renderings) != len(sizes):
                raise ContractError(f"renderings: {len(self.renderings)} images seen, {len(sizes)} wanted")
            for i, (rendering, (width, height)) in enumerate(zip(self.renderings, sizes)):
                _check(f"renderings[{i}]", rendering, (height, width, 3), np.uint8)

    def save(self, path: Path) -> None:
        """Write everything to one `.npz`, see `write_npz`."""
        write_npz(path, self.arrays())

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The fields as named arrays, without pickle; `from_arrays` reads them back. Depth maps that are `OnDemand`
        are made when they are asked for."""
        out: dict[str, NDArray[Any]] = {
            "points": self.points,
            "frame": np.array(self.frame),
            "scale": np.array(self.scale),
        }
        for name in ("colors", "confidence", "view_index", "pixel", "registered", "up"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        if self.confidence_kind is not None:
            out["confidence_kind"] = np.array(self.confidence_kind)
        if self.cameras is not None:
            out.update(intrinsics=self.cameras.intrinsics, camera_from_world=self.cameras.camera_from_world)
        if self.renderings is not None:
            out.update({f"rendering_{i}": rendering for i, rendering in enumerate(self.renderings)})
        if self.mesh is not None:
            out.update(mesh_vertices=self.mesh.vertices, mesh_faces=self.mesh.faces)
            if self.mesh.colors is not None:
                out["mesh_colors"] = self.mesh.colors
        depth = self.depth or ()
        maps = {f"depth_{i}": _taken(depth, i) for i in range(len(depth))}
        return Fields({**{name: _made(array) for name, array in out.items()}, **maps})

    @staticmethod
    def load(path: Path) -> "Reconstruction":
        """Read what `save` wrote; not validated, since the views are not at hand."""
        with np.load(path, allow_pickle=False) as file:
            return Reconstruction.from_arrays({name: file[name] for name in file.files})

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> "Reconstruction":
        """The inverse of `arrays`."""

        def series(prefix: str) -> Optional[Sequence[Any]]:
            names = [name for name in arrays if name.startswith(prefix)]
            names.sort(key=lambda name: int(name[len(prefix) :]))
            shape_of = getattr(arrays, "shape_of", None)  # of a file that is read piece by piece
            if names and shape_of is not None:
                return OnDemand([shape_of(name) for name in names], lambda i: arrays[names[i]])
            return tuple(arrays[name] for name in names) or None

        return Reconstruction(
            points=arrays["points"],
            frame=str(arrays["frame"]),
            scale=str(arrays["scale"]),
            colors=arrays.get("colors"),
            confidence=arrays.get("confidence"),
            confidence_kind=str(arrays["confidence_kind"]) if "confidence_kind" in arrays else None,
            view_index=arrays.get("view_index"),
            pixel=arrays.get("pixel"),
            cameras=Cameras(arrays["intrinsics"], arrays["camera_from_world"]) if "intrinsics" in arrays else None,
            registered=arrays.get("registered"),
            up=arrays.get("up"),
            depth=series("depth_"),
            renderings=tuple(series("rendering_") or ()) or None,
            mesh=Mesh(arrays["mesh_vertices"], arrays["mesh_faces"], arrays.get("mesh_colors"))
            if "mesh_vertices" in arrays
            else None,
        )


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a network was run; "" where there is none, or it is not known."""

    precision: str = ""  # of its arithmetic: "float32", "bfloat16 autocast" ...
    resolution: str = ""  # of its input images, WIDTHxHEIGHT in pixels, several joined by a comma
    attention: str = ""  # the backend that computes attention: "flash", "math" ...
    foreground: str = ""  # how the object was cut out and what was put behind it: "given mask, on white" ...


def sizes_text(sizes: Sequence[Tuple[int, int]]) -> str:
    """`sizes`, width and height, as `Execution.resolution` has them: the distinct ones, or the first and the last."""
    distinct = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    texts = [f"{width}x{height}" for width, height in distinct]
    return ", ".join(texts) if len(texts) <= 4 else f"{texts[0]} to {texts[-1]}"


class Reconstructor:
    """Base class of every adapter. An adapter module defines `class Adapter(Reconstructor)`.

    Options are the keyword arguments of the class's constructor: an unknown option raises there.
    `prepare`, `infer` and `finish` are timed apart; the device is synchronised around each.
    """

    def load(self, device: str, weights: str, seed: int) -> None:
        """Load the network on `device` ("cpu", "cuda:0").

        `weights` is "none" where the card has none, "random" for a network of full size drawn from `seed`, or the
        absolute path of the checkpoint: a file, or the folder of the files where the card lists several; files of the
        card's sources `beside` lie in a folder there of that name."""

    def prepare(self, views: Views) -> Any:
        """Turn views into the network's inputs: resize, crop, normalise."""
        return views

    def infer(self, inputs: Any) -> Any:
        """The reconstruction proper."""
        return list(self.stream(inputs))

    def stream(self, inputs: Any) -> Iterator[Any]:
        """Of a system whose card says `streams`, instead of `infer`: it takes the views in their order and yields what
        it has as soon as it has it, for one view or for several at once. `finish` gets the list of what it yielded.

        The device is synchronised at each yield, which is timed: the last is the latency of the last frame. Nothing is
        to be kept on purpose for the end: what follows the last yield counts as part of the whole alone."""
        raise NotImplementedError

    def finish(self, outputs: Any, views: Views) -> Reconstruction:
        """Turn raw outputs into a Reconstruction; restore intrinsics at the original resolution."""
        if not isinstance(outputs, Reconstruction):
            raise ContractError(f"finish: {type(outputs).__name__} seen, Reconstruction wanted")
        return outputs

    def execution(self, inputs: Any) -> Execution:
        """How it ran on what `prepare` gave, by default views or a batch (N, C, h, w); asked for once, after the first
        call."""
        if isinstance(inputs, np.ndarray) and inputs.ndim == 4 and inputs.shape[1] <= 4:
            return Execution(inputs.dtype.name, sizes_text([(inputs.shape[3], inputs.shape[2])]))
        shapes = shapes_of(inputs.images) if isinstance(inputs, Views) else []
        return Execution(resolution=sizes_text([(shape[1], shape[0]) for shape in shapes]))

    def predict(self, views: Views) -> Reconstruction:
        """`prepare`, `infer` and `finish`, one after the other."""
        return self.finish(self.infer(self.prepare(views)), views)
