"""A dataset's scene as a Scene directory: views chosen, lenses straightened, coordinates recentred, all or nothing."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from adapters.contract import F32, F64, Bools, InputError
from data.catalog.shared.layout import Capture, Layout, Photo, Surface
from data.catalog.shared.lens import Straightened, as_depth, as_mask, points_of, resampled, straighten
from data.images import image_size, is_turned, read_image, read_mask
from data.scene import CameraFile, SceneFile, TruthFile, ViewFile, write_scene, write_truth
from metrics.normals import estimated_normals
from metrics.scoring.truth import Knowledge, diameter

MOST_VIEWS = 64  # of a scene, unless more are asked for
MOST_POINTS = 4_000_000  # of a truth: denser scans are thinned at random
FAR = 8.0  # times its extent from the origin: float32 would lose more than a millionth of the extent
ROTATION = 1e-2  # what a rotation's columns may lack to be orthonormal: printed digits
STEPS = 65_535  # of a depth map
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Written:
    """What an import made."""

    path: Path
    views: int
    of: int  # views of the source
    points: int
    views_sha256: str
    agreement: float | None  # share of the truth's points that do not float before the depth maps
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _View:
    """A photo with the camera that it is written with."""

    photo: Photo
    K: F64  # (3, 3)
    size: tuple[int, int]  # width, height
    camera_from_world: F64  # (4, 4), rigid
    bend: Straightened | None


def write_capture(
    capture: Capture,
    layout: Layout,
    source: Path,
    out: Path,
    views: str = "",
    pin: str | None = None,
    progress: Progress = lambda what, share: None,
) -> Written:
    """Write `capture` as the Scene directory `out`, which must not exist yet or be empty.

    `views`: "all", a number (evenly spread), the name of one of the layout's subsets, or nothing for all of them and
    MOST_VIEWS at most. InputError for what cannot be used, and where the views' hash does not begin with `pin`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists, a folder to be made wanted")
    photos, subset = _chosen(capture, layout, views, source)
    taken = [_view(photo) for photo in photos]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        stage = Path(work) / "scene"
        stage.mkdir()
        files: list[ViewFile] = []
        for number, view in enumerate(taken):
            progress("photos", number / len(taken))
            files.append(_write_photo(stage, view, taken[:number], [file.group for file in files]))
        digest = _views_sha256(stage, files)
        if pin is not None and (len(pin) < 8 or not digest.startswith(pin.lower())):
            raise InputError(f"{source}: views of sha256 {digest} seen, {pin} wanted")
        scene = SceneFile(
            name=capture.name,
            title=f"{layout.title}: {capture.name}",
            licence=layout.licence,
            source=f"{layout.page} ({source})",
            subset=subset,
            views_sha256=digest,
            views=files,
        )
        write_scene(stage, scene)
        points, agreement = _write_truth(stage, capture, taken, source, layout.metres, progress)
        if out.exists():
            out.rmdir()
        stage.rename(out)
    return Written(out, len(taken), len(capture.photos), points, digest, agreement, capture.notes)


def _chosen(capture: Capture, layout: Layout, views: str, source: Path) -> tuple[list[Photo], str]:
    photos, count = list(capture.photos), len(capture.photos)
    if count == 0:
        raise InputError(f"{source}: no view seen, at least one wanted")
    doubled = [name for name, times in Counter(photo.name for photo in photos).items() if times > 1]
    if doubled:
        raise InputError(f"{source}: several views called {doubled[0]} seen, distinct names wanted")
    named = {subset.name: subset for subset in layout.subsets}
    if views in named:
        rows, name = named[views].of(count, str(source)), views
    elif views == "all" or (views == "" and count <= MOST_VIEWS):
        rows, name = list(range(count)), f"all {count}"
    elif views == "" or views.isdecimal():
        wanted = int(views or MOST_VIEWS)
        if not 1 <= wanted <= count:
            raise InputError(f"--views: {wanted} seen, 1 to {count} wanted")
        rows, name = np.linspace(0, count - 1, wanted).round().astype(int).tolist(), f"{wanted} of {count}, even"
        if not views:
            capture.notes.append(f"{MOST_VIEWS} of {count} views taken, evenly spread; `--views all` takes all")
    else:
        raise InputError(f"--views: {views} seen, {', '.join(('all', 'a number', *named))} wanted")
    return [photos[row] for row in rows], name


def _view(photo: Photo) -> _View:
    where = f"{photo.image if isinstance(photo.image, Path) else 'view'}: camera of {photo.name}"
    photo.lens.check(where)
    if isinstance(photo.image, Path) and is_turned(photo.image):
        raise InputError(f"{photo.image}: an EXIF orientation seen, pixels as the dataset's cameras have them wanted")
    size = image_size(photo.image) if isinstance(photo.image, Path) else photo.lens.size
    lens = photo.lens.scaled(size, where)
    pose = _rigid(photo.camera_from_world, where)
    K = lens.straight()
    if K is not None:
        return _View(photo, K, size, pose, None)
    bend = straighten(lens, where)
    return _View(photo, bend.K, bend.size, pose, bend)


def _rigid(pose: F64, where: str) -> F64:
    """`pose` (4, 4) with the rotation nearest to its own; InputError where that is far, mirrored or not finite."""
    pose = np.asarray(pose, np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise InputError(f"{where}: pose: a finite 4 x 4 matrix wanted")
    R = pose[:3, :3]
    off = float(np.abs(R.T @ R - np.eye(3)).max())
    if off > ROTATION or np.linalg.det(R) < 0 or np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        kind = "mirrors" if np.linalg.det(R) < 0 else f"is off a rotation by {off:.2g}"
        raise InputError(f"{where}: pose: a matrix that {kind} seen, a rotation and a translation wanted")
    left, _, right = np.linalg.svd(R)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = left @ right, pose[:3, 3]
    return out


def _write_photo(stage: Path, view: _View, before: Sequence[_View], groups: Sequence[str]) -> ViewFile:
    """The image of a view, referred to where it stays as it is; its mask likewise."""
    photo, name = view.photo, view.photo.name
    image, image_sha256 = _refer(photo.image) if isinstance(photo.image, Path) and view.bend is None else (None, None)
    if image is None:
        pixels = read_image(photo.image) if isinstance(photo.image, Path) else photo.image()
        (stage / "images").mkdir(exist_ok=True)
        image = f"images/{name}.png"
        Image.fromarray(pixels if view.bend is None else view.bend.image(pixels)).save(stage / image)
    mask, mask_sha256 = None, None
    if isinstance(photo.mask, Path) and view.bend is None and image_size(photo.mask) == view.size:
        mask, mask_sha256 = _refer(photo.mask)
    elif photo.mask is not None:
        values = read_mask(photo.mask) if isinstance(photo.mask, Path) else photo.mask()
        (stage / "masks").mkdir(exist_ok=True)
        mask = f"masks/{name}.png"
        Image.fromarray(as_mask(_on_image(values, view, f"mask of view {name}"))).save(stage / mask)
    group = f"g{len(set(groups))}"
    for other, theirs in zip(before, groups, strict=True):
        if other.size == view.size and np.allclose(other.K, view.K, rtol=1e-6, atol=1e-3):
            group = theirs
            break
    return ViewFile(name, image, mask, group, image_sha256, mask_sha256)


def _refer(path: Path) -> tuple[str, str]:
    """A file's absolute path and its hash."""
    with path.open("rb") as file:
        return str(path.resolve()), hashlib.file_digest(file, "sha256").hexdigest()


def _on_image(values: NDArray[np.generic], view: _View, where: str) -> NDArray[np.generic]:
    """A map of the photo, of whatever size, at the pixels of the image that is written."""
    if view.bend is None:
        return resampled(values, view.size, where)
    height, width = values.shape
    wide, high = view.bend.source
    if abs(width * high - height * wide) > max(wide, high):
        raise InputError(f"{where}: {width} x {height} seen, the shape of its photo's {wide} x {high} wanted")
    return view.bend.nearest(values)


def _views_sha256(stage: Path, files: Sequence[ViewFile]) -> str:
    """Over the names and images of the views, in order."""
    digest = hashlib.sha256()
    for file in files:
        image = file.image_sha256 or hashlib.sha256((stage / file.image).read_bytes()).hexdigest()
        digest.update(f"{file.name}\0{image}\n".encode())
    return digest.hexdigest()


def _depth(view: _View) -> F32 | None:
    if view.photo.depth is None:
        return None
    values = as_depth(view.photo.depth())
    return as_depth(_on_image(values, view, f"depth of view {view.photo.name}"))


def _write_truth(
    stage: Path, capture: Capture, views: Sequence[_View], source: Path, metres: float | None, progress: Progress
) -> tuple[int, float | None]:
    with_depth = all(view.photo.depth is not None for view in views)
    surface = capture.surface or _fused(views, source, progress)
    surface, trusted = _thinned(surface, capture)
    extent = float(np.ptp(surface.points, axis=0).max())
    if not extent > 0:
        raise InputError(f"{source}: {len(surface.points)} points at one place seen, a surface wanted")
    low, high = surface.points.min(axis=0), surface.points.max(axis=0)
    far = float(np.abs(surface.points).max()) > FAR * extent
    offset = np.round((low + high) / 2) if far else np.zeros(3)
    points = np.ascontiguousarray(surface.points - offset, np.float32)
    _check_sight(surface.points, views, source)
    progress("truth", 0.5)
    size = diameter(points)
    if not size > 0:
        raise InputError(f"{source}: points without extent seen, a surface wanted")
    crop = None if capture.crop is None else tuple(tuple((end - offset).tolist()) for end in capture.crop)
    largest = 0.0
    if with_depth:
        largest = max(float(result.max(initial=0)) for view in views if (result := _depth(view)) is not None)
    truth = TruthFile(
        kind=capture.kind,
        made_by=list(capture.made_by),
        diameter=size,
        crop_low=crop[0] if crop else None,
        crop_high=crop[1] if crop else None,
        depth_unit=largest / STEPS if largest > 0 else 1e-4,
        frame=capture.kind,
        offset=(float(offset[0]), float(offset[1]), float(offset[2])),
        metres=metres,
    )
    cameras = [_camera_file(view, offset) for view in views]
    arrays: dict[str, NDArray[np.generic]] | None = None
    if surface.faces is None:
        normals = surface.normals
        if normals is None:
            normals = _normals(surface.points, views)
            capture.notes.append("normals estimated: the truth came without any")
        arrays = {"points": points, "normals": np.ascontiguousarray(normals, np.float32)}
        if surface.colors is not None:
            arrays["colors"] = surface.colors
    knowledge = None
    if capture.observed is not None and trusted is not None:
        observed = capture.observed
        knowledge = Knowledge(trusted, observed.free, np.asarray(observed.low - offset), observed.edge, 0.0)
    agreement = []
    if largest > 0:
        for number, view in enumerate(views):
            progress("depth", number / len(views))
            depth = _depth(view)
            assert depth is not None
            write_truth(stage, truth, cameras, depth={view.photo.name: depth})
            agreement.append(_agreement(surface.points, depth, view))
    folder = write_truth(stage, truth, cameras, points=arrays, knowledge=knowledge)
    if surface.faces is not None:
        trimesh.Trimesh(surface.points - offset, surface.faces, process=False).export(folder / "mesh.ply")
    return len(points), float(np.nanmean(agreement)) if agreement and np.isfinite(agreement).any() else None


def _thinned(surface: Surface, capture: Capture) -> tuple[Surface, Bools | None]:
    """At most MOST_POINTS of the surface's points, at random but always the same."""
    trusted = None if capture.observed is None else capture.observed.trusted
    if surface.faces is not None or len(surface.points) <= MOST_POINTS:
        return surface, trusted
    capture.notes.append(f"{MOST_POINTS:,} of {len(surface.points):,} points kept, at random")
    rows = np.sort(np.random.default_rng(0).choice(len(surface.points), MOST_POINTS, replace=False))
    kept = replace(
        surface,
        points=surface.points[rows],
        normals=None if surface.normals is None else surface.normals[rows],
        colors=None if surface.colors is None else surface.colors[rows],
    )
    return kept, None if trusted is None else trusted[rows]


def _fused(views: Sequence[_View], source: Path, progress: Progress) -> Surface:
    """The depth maps' pixels as points, with what the images show there."""
    points, colors = [], []
    for number, view in enumerate(views):
        progress("points", number / len(views))
        depth = _depth(view)
        if depth is None:
            raise InputError(f"{source}: view {view.photo.name} has no depth and the scene no points, either wanted")
        own, rows, columns = points_of(depth, view.K, view.camera_from_world, MOST_POINTS // len(views))
        points.append(own)
        photo = view.photo.image
        pixels = read_image(photo) if isinstance(photo, Path) else photo()
        colors.append((pixels if view.bend is None else view.bend.image(pixels))[rows, columns])
    merged = np.concatenate(points)
    if len(merged) == 0:
        raise InputError(f"{source}: depth maps without any depth seen, some wanted")
    return Surface(merged, colors=np.concatenate(colors))


def _normals(points: F64, views: Sequence[_View]) -> F64:
    """(M, 3) estimated from neighbours, towards the nearest camera."""
    local = points - points.mean(axis=0)
    normals = estimated_normals(local, local)
    centres = np.array([-view.camera_from_world[:3, :3].T @ view.camera_from_world[:3, 3] for view in views])
    nearest = np.asarray(cKDTree(centres).query(points)[1])
    away = ((centres[nearest] - points) * normals).sum(axis=1) < 0
    return np.where(away[:, None], -normals, normals)


def _project(points: F64, view: _View) -> tuple[F64, F64]:
    local = points @ view.camera_from_world[:3, :3].T + view.camera_from_world[:3, 3]
    z = local[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = local[:, :2] / z[:, None] * [view.K[0, 0], view.K[1, 1]] + [view.K[0, 2], view.K[1, 2]]
    return pixel, z


def _inside(pixel: F64, z: F64, size: tuple[int, int]) -> Bools:
    return np.asarray((z > 0) & (pixel >= 0).all(axis=1) & (pixel < size).all(axis=1))


def _check_sight(points: F64, views: Sequence[_View], source: Path) -> None:
    """InputError where no camera has the surface in its image: they are not in one frame."""
    some = points[np.random.default_rng(0).permutation(len(points))[:10_000]]
    for view in views:
        if _inside(*_project(some, view), view.size).any():
            return
    raise InputError(
        f"{source}: no point falls into any of {len(views)} photos, cameras and surface in one frame wanted"
    )


def _agreement(points: F64, depth: F32, view: _View) -> float:
    """Share of the points in a depth map's sight that do not float more than 1% before it; NaN where none is."""
    some = points[np.random.default_rng(0).permutation(len(points))[:200_000]]
    pixel, z = _project(some, view)
    inside = _inside(pixel, z, view.size)
    column, row = np.floor(pixel[inside]).astype(np.int64).T
    measured = depth[row, column]
    return float((z[inside] > 0.99 * measured)[measured > 0].mean()) if (measured > 0).any() else float("nan")


def _camera_file(view: _View, offset: F64) -> CameraFile:
    pose = view.camera_from_world.copy()
    pose[:3, 3] += pose[:3, :3] @ offset
    K = view.K
    pinhole = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    return CameraFile(view.photo.name, *view.size, *pinhole, pose.tolist())
