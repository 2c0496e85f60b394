"""Sparse structure from motion with COLMAP (pycolmap): photos in, cameras and tracked points out.

SIFT, exhaustive or sequential matching and incremental mapping (Schoenberger and Frahm, "Structure-from-Motion
Revisited", CVPR 2016), on full frames. Features COLMAP was built without abort the process instead of raising, so only
SIFT is used, and whoever cannot afford to die runs this module as a process of its own:

    python -m adapters.shared.sfm JOB.json OUT.npz

which writes one `{"stage", "share"}` JSON line per step to standard output, or one `{"unsupported"}` line.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

from adapters.contract import F32, F64, I32, U8, Bools, Cameras, Unsupported

EXHAUSTIVE_VIEWS = 100  # beyond this, "auto" takes photos for a sequence: pairs grow with the square of the views
PAIR_TRACK_VIEWS = 10  # below this, points seen in two views alone are kept: there are few others
FOCAL_GUESS = 1.2  # COLMAP's own default: initial focal length over the longer side
# COLMAP looks for features in photos enlarged twice, which is most of what features cost. Photos of more than LARGE
# pixels a side are searched as they are first, and enlarged only where one stays out or has fewer matches than SURE.
# As they are, their pairs are verified in FIRST_TRIALS of RANSAC, which find a fundamental matrix among 40% of right
# matches 99 times in a hundred: COLMAP's own 10,000 are spent mostly on pairs where nothing is to be found.
LARGE, SURE = 1500, 100
FIRST_TRIALS = 3000
Progress = Callable[[str, float], None]  # stage, share of it done


@dataclass(frozen=True)
class SparseModel:
    """The largest model found, in COLMAP's own frame and scale (arbitrary).

    COLMAP estimates one focal length and one radial coefficient k for each camera group (SIMPLE_RADIAL: a point at
    normalised (x, y) is imaged at (x, y)(1 + k r^2)). `cameras` are the pinholes left when k is dropped; `distortion`
    says what that costs, and pixels of observations are those of the photos as given, distortion included."""

    cameras: Cameras  # N; the pose is NaN where a view is not registered
    radial: F64  # (N,) k of SIMPLE_RADIAL
    sizes: I32  # (N, 2) width and height, pixels
    registered: Bools  # (N,)
    points: F32  # (M, 3)
    colors: U8  # (M, 3) sRGB, mean over the track
    observation_point: I32  # (K,) index into points, ascending
    observation_view: I32  # (K,) index into the views
    observation_pixel: F32  # (K, 2) x, y
    reprojection_error: float  # mean over observations, pixels, distortion modelled
    model_sizes: tuple[int, ...]  # registered views of every model found, largest first
    # Why views are where they are; empty where that is not known.
    model_of: I32 = field(default_factory=lambda: np.zeros(0, np.int32))  # (N,) the first model they are in, -1 in none
    matched: I32 = field(default_factory=lambda: np.zeros(0, np.int32))  # (N,) verified matches with their best partner

    @property
    def track_length(self) -> I32:
        """(M,) the number of views that each point was seen in."""
        return np.bincount(self.observation_point, minlength=len(self.points)).astype(np.int32)

    @property
    def visible(self) -> Bools:
        """(N, M) which view measured which point."""
        observed = np.zeros((len(self.registered), len(self.points)), np.bool_)
        observed[self.observation_view, self.observation_point] = True
        return observed

    @property
    def distortion(self) -> F64:
        """(N,) how far, in pixels, the pinhole misses the corner of the photo because it drops k."""
        K = self.cameras.intrinsics
        corner = np.maximum(K[:, :2, 2], self.sizes - K[:, :2, 2])
        radius = np.linalg.norm(corner / K[:, [0, 1], [0, 1]], axis=1)
        return np.asarray(np.abs(self.radial) * radius**3 * K[:, 0, 0])

    def save(self, path: Path) -> None:
        """Write everything to one uncompressed `.npz`."""
        arrays: dict[str, NDArray[np.generic]] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)[1:]}
        arrays.update(intrinsics=self.cameras.intrinsics, camera_from_world=self.cameras.camera_from_world)
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path) -> SparseModel:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return SparseModel(
                cameras=Cameras(file["intrinsics"], file["camera_from_world"]),
                radial=file["radial"],
                sizes=file["sizes"],
                registered=file["registered"],
                points=file["points"],
                colors=file["colors"],
                observation_point=file["observation_point"],
                observation_view=file["observation_view"],
                observation_pixel=file["observation_pixel"],
                reprojection_error=float(file["reprojection_error"]),
                model_sizes=tuple(int(size) for size in file["model_sizes"]),
                model_of=file["model_of"],
                matched=file["matched"],
            )


class ImageFiles(Sequence[U8]):
    """Upright image files as a sequence of (H, W, 3) uint8 sRGB arrays, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> U8:  # type: ignore[override]  # slices are not needed
        with Image.open(self._paths[index]) as image:
            return np.asarray(image.convert("RGB"), np.uint8)


def in_photo(pixel: F64, K: F64, radial: float, focal: float) -> F64:
    """Where `pixel` (M, 2) of a pinhole of focal length `focal` and K's principal point lies in the photo that a
    SIMPLE_RADIAL camera K, `radial` took: (x, y)(1 + k r^2), focal length 1."""
    x = (pixel - K[:2, 2]) / focal
    return np.asarray(K[:2, 2] + K[[0, 1], [0, 1]] * x * (1 + radial * (x**2).sum(axis=1, keepdims=True)))


def undistorted(image: U8, K: F64, radial: float, focal: float) -> U8:
    """`image` (H, W, C) or (H, W) of a SIMPLE_RADIAL camera as the pinhole of `in_photo` sees it, bilinear; beyond the
    photo its border pixels go on."""
    if radial == 0 and focal == K[0, 0]:
        return image
    height, width = image.shape[:2]
    out, planes = np.empty_like(image), image.reshape(height, width, -1)
    columns = np.arange(width) + 0.5
    for row in range(height):  # one at a time, so that a large photo takes little memory
        there = in_photo(np.stack([columns, np.full(width, row + 0.5)], axis=1), K, radial, focal) - 0.5
        x, y = there.clip(0, [width - 1, height - 1]).T
        i, j = np.minimum(x.astype(np.int64), width - 2), np.minimum(y.astype(np.int64), height - 2)
        fx, fy = (x - i)[:, None], (y - j)[:, None]
        top = planes[j, i] * (1 - fx) + planes[j, i + 1] * fx
        bottom = planes[j + 1, i] * (1 - fx) + planes[j + 1, i + 1] * fx
        out[row] = np.round(top * (1 - fy) + bottom * fy).reshape(out[row].shape)
    return out


def pinhole_focal(focal: float, radial: float, size: tuple[int, int]) -> float:
    """Focal length, pixels, at which an undistorted image of `size` shows nothing from beyond the photo's border.

    With k > 0 a pixel's place in the photo lies farther out than in the pinhole of the same focal length."""
    centre = np.array(size) / 2
    zoom = 1.0
    for _ in range(50 if radial > 0 else 0):
        radius = np.linalg.norm(centre) / (focal * zoom)
        zoom = 1 + radial * float(radius) ** 2
    return focal * zoom


def sparse_model(
    images: Sequence[U8],
    *,
    seed: int = 0,
    threads: int = 2,
    groups: Sequence[str] | None = None,
    focal: Mapping[str, float] | None = None,
    matcher: str = "auto",
    progress: Progress | None = None,
) -> SparseModel:
    """Cameras and sparse points of `images` (N arrays (H, W, 3) uint8 sRGB, upright), in one COLMAP model.

    `groups` names the camera of each view: views of one group share focal length and distortion (default: views of
    one size). `focal` gives first guesses in pixels by group. `matcher` is "exhaustive", "sequential" or "auto".
    Equal inputs give equal bits whatever `threads` is: pairs are seeded and mapping runs in one thread.
    Raises Unsupported for fewer than 2 views and where no model is found."""
    if len(images) < 2:
        raise Unsupported(f"images: {len(images)} view seen, structure from motion wants at least 2")
    if matcher not in ("auto", "exhaustive", "sequential"):
        raise ValueError(f"matcher: {matcher!r} seen, one of auto, exhaustive, sequential wanted")
    if matcher == "auto":
        matcher = "exhaustive" if len(images) <= EXHAUSTIVE_VIEWS else "sequential"
    report = progress or (lambda stage, share: None)
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)

    def solved(enlarged: bool) -> SparseModel | None:
        pycolmap.set_random_seed(seed)
        with tempfile.TemporaryDirectory(prefix="sfm-") as folder:
            database = Path(folder) / "database.db"
            initial = _extract(database, images, groups, focal or {}, enlarged, threads, report)
            report("match", 0.0)
            _match(database, matcher, seed, threads, None if enlarged else FIRST_TRIALS)
            models = _map(database, Path(folder), len(images), seed, report)
            return _collect(models, images, initial, _best_matches(database, len(images))) if models else None

    models = [solved(enlarged=False)] if all(max(image.shape) > LARGE for image in images) else []
    if not any(model is not None and model.registered.all() and model.matched.min() >= SURE for model in models):
        models.insert(0, solved(enlarged=True))
    # Of as many views the enlarged photos' model: it has more points.
    model = max((m for m in models if m is not None), key=lambda m: int(m.registered.sum()), default=None)
    if model is None:
        raise Unsupported(f"no model found among {len(images)} views: too little overlap or texture to match")
    return model


def _extract(
    database: Path,
    images: Sequence[U8],
    groups: Sequence[str] | None,
    focal: Mapping[str, float],
    enlarged: bool,
    threads: int,
    report: Progress,
) -> list[pycolmap.Camera]:
    """Fill the database with cameras, images (id = index + 1) and SIFT features, in the order of `images`, each
    `enlarged` twice for the search or not.

    Cameras and images are written first, because COLMAP's own reader numbers images in the order its threads finish,
    which would change the model from run to run, and because it trusts the EXIF data of files. Returns the
    camera of each view, as first guessed."""
    of_view: list[pycolmap.Camera] = []
    cameras: dict[tuple[str, int, int], tuple[pycolmap.Camera, int]] = {}
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = threads
    options.sift.first_octave = -1 if enlarged else 0
    batch = 4 * threads  # a bound on the disk space taken, and a step of the progress
    for start in range(0, len(images), batch):
        report("extract", start / len(images))
        with tempfile.TemporaryDirectory(prefix="sfm-") as folder, pycolmap.Database.open(database) as store:
            indices = range(start, min(start + batch, len(images)))
            for index in indices:
                pixels = images[index]
                height, width = pixels.shape[:2]
                key = (groups[index] if groups is not None else "", width, height)
                if key not in cameras:
                    cameras[key] = _write_camera(store, width, height, focal.get(key[0]))
                camera, rig_id = cameras[key]
                of_view.append(camera)
                image = pycolmap.Image(name=_file_name(index), camera_id=camera.camera_id, image_id=index + 1)
                store.write_image(image, use_image_id=True)
                frame = pycolmap.Frame(frame_id=index + 1, rig_id=rig_id)
                frame.add_data_id(image.data_id)
                store.write_frame(frame, use_frame_id=True)
                Image.fromarray(pixels).save(Path(folder, image.name))
            store.close()
            pycolmap.extract_features(
                database,
                folder,
                image_names=[_file_name(index) for index in indices],
                extraction_options=options,
                device=pycolmap.Device.cpu,
            )
    return of_view


def _file_name(index: int) -> str:
    return f"{index:06d}.bmp"


def _write_camera(
    store: pycolmap.Database, width: int, height: int, focal: float | None
) -> tuple[pycolmap.Camera, int]:
    """A SIMPLE_RADIAL camera, its principal point in the middle, and the id of its rig of one."""
    guess = focal or FOCAL_GUESS * max(width, height)
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", guess, width, height)
    camera.has_prior_focal_length = focal is not None
    camera.camera_id = store.write_camera(camera)
    rig = pycolmap.Rig()
    rig.add_ref_sensor(camera.sensor_id)
    return camera, store.write_rig(rig)


def _match(database: Path, matcher: str, seed: int, threads: int, trials: int | None) -> None:
    """Match and verify pairs, each model of a pair sought in at most `trials` (default: COLMAP's own number)."""
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = threads
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    if trials is not None:
        verification.ransac.max_num_trials = trials
    match = pycolmap.match_exhaustive if matcher == "exhaustive" else pycolmap.match_sequential
    match(database, matching_options=matching, verification_options=verification, device=pycolmap.Device.cpu)


def _map(database: Path, folder: Path, views: int, seed: int, report: Progress) -> list[pycolmap.Reconstruction]:
    """Every model that incremental mapping finds, largest first."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = 1  # two threads sum in another order each time
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
    options.triangulation.ignore_two_view_tracks = views >= PAIR_TRACK_VIEWS
    options.extract_colors = False
    options.min_model_size = 3  # by default COLMAP tells of no further model of fewer than ten views
    done = 2  # the initial pair

    def next_image() -> None:
        nonlocal done
        report("map", min(done / views, 1.0))
        done += 1

    models = pycolmap.incremental_mapping(
        database,
        folder,
        folder / "models",
        options,
        initial_image_pair_callback=next_image,
        next_image_callback=next_image,
    )
    return sorted(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True)


def _best_matches(database: Path, views: int) -> I32:
    """(N,) for each view, how many matches the pair that it matches best has after geometric verification."""
    best = np.zeros(views, np.int32)
    with pycolmap.Database.open(database) as store:
        pairs, counts = store.read_two_view_geometry_num_inliers()
        for pair, count in zip(pairs, counts, strict=True):
            for image_id in pycolmap.pair_id_to_image_pair(pair):
                best[image_id - 1] = max(best[image_id - 1], count)
    return best


def _collect(
    models: list[pycolmap.Reconstruction], images: Sequence[U8], initial: Sequence[pycolmap.Camera], matched: I32
) -> SparseModel:
    """The largest of `models` as arrays."""
    model, count = models[0], len(images)
    # COLMAP forgets cameras that match nothing.
    cameras = [model.camera(c.camera_id) if model.exists_camera(c.camera_id) else c for c in initial]
    focal, cx, cy, radial = np.array([camera.params for camera in cameras], np.float64).T
    intrinsics = np.zeros((count, 3, 3))
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = cx, cy, 1.0
    poses = np.full((count, 4, 4), math.nan)
    for image in model.images.values():
        if image.has_pose:
            poses[image.image_id - 1] = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
    model_of = np.full(count, -1, np.int32)
    for index in range(len(models) - 1, -1, -1):
        model_of[[image.image_id - 1 for image in models[index].images.values() if image.has_pose]] = index
    ids = sorted(model.points3D)
    tracks = [sorted((e.image_id, e.point2D_idx) for e in model.points3D[i].track.elements) for i in ids]
    views = np.array([view - 1 for track in tracks for view, _ in track], np.int32)
    pixels = np.array(
        [model.images[view].points2D[keypoint].xy for track in tracks for view, keypoint in track], np.float32
    ).reshape(-1, 2)
    points = np.array([model.points3D[i].xyz for i in ids], np.float32).reshape(-1, 3)
    owner = np.repeat(np.arange(len(ids), dtype=np.int32), [len(track) for track in tracks])
    return SparseModel(
        cameras=Cameras(intrinsics, poses),
        radial=radial,
        sizes=np.array([[camera.width, camera.height] for camera in cameras], np.int32),
        registered=np.isfinite(poses[:, 0, 0]),
        points=points,
        colors=_colors(images, len(ids), owner, views, pixels),
        observation_point=owner,
        observation_view=views,
        observation_pixel=pixels,
        reprojection_error=float(model.compute_mean_reprojection_error()),
        model_sizes=tuple(m.num_reg_images() for m in models),
        model_of=model_of,
        matched=matched,
    )


def _colors(images: Sequence[U8], count: int, owner: I32, views: I32, pixels: F32) -> U8:
    """(count, 3) uint8: the mean colour of each point over the pixels that it was observed in."""
    total = np.zeros((count, 3))
    for view in np.unique(views):
        image, own = images[int(view)], views == view
        column, row = np.floor(pixels[own]).astype(np.int64).T
        sample = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)]
        np.add.at(total, owner[own], sample)
    return np.round(total / np.maximum(np.bincount(owner, minlength=count), 1)[:, None]).astype(np.uint8)


def main(job: Path, out: Path) -> int:
    """Run the job described by `job` (images, groups, focal, seed, threads, matcher) and write the model to `out`."""

    def say(message: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    spec = json.loads(job.read_text())
    images = ImageFiles([Path(path) for path in spec.pop("images")])
    try:
        model = sparse_model(images, progress=lambda stage, share: say({"stage": stage, "share": share}), **spec)
    except Unsupported as error:
        say({"unsupported": str(error)})
        return 1
    model.save(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
