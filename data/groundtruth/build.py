"""From photos to a frozen ground truth: ingest, solve, assess, register, write."""

from __future__ import annotations

import json
import math
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import trimesh
from numpy.typing import NDArray

from adapters.contract import F32, F64, U8, Bools, Cameras, InputError, Unsupported
from adapters.shared.sfm import ImageFiles, SparseModel, pinhole_focal, undistorted
from data.groundtruth.accounts import accounts_of, groups_of
from data.groundtruth.covariance import centre_error
from data.groundtruth.dense import Dense, Solved, dense_surface, enlarge
from data.groundtruth.fidelity import rank_fidelity
from data.groundtruth.frame import move_cameras, photographed, robust_box, upright
from data.groundtruth.ingest import Photos, ingest, save_image, save_mask
from data.groundtruth.knowledge import knowledge_of, trusted_points
from data.groundtruth.measure import compare_fusion, compare_halves, exact_error
from data.groundtruth.mesh import poisson_mesh
from data.groundtruth.quality import (
    DISTORTION_GATE,
    ExactError,
    Fidelity,
    Halves,
    Predicted,
    QualityCard,
    Seconds,
    judge,
    predicted_error,
)
from data.groundtruth.solve import solve
from data.scene import CameraFile, TruthFile, read_truth, write_truth
from metrics.cameras import align_cameras
from metrics.register import icp
from metrics.scoring.equalise import bounded_subset, voxel_subset
from metrics.scoring.knowledge import astray
from metrics.scoring.truth import Box, Knowledge, Truth, diameter
from metrics.similarity import AlignmentError, apply, rotation_of, scale_of

MAX_POINTS = 55_000
MAX_TRUSTED = 44_000  # of them: the rest shows what else was measured, for looking at and for finding the pose
EQUAL = 0.0025  # share of the diameter: the spacing at which the default protocol compares densities
MIN_POINTS = 50  # below this there is nothing to score against
MESH = "colmap-mesh.ply"  # beside truth/colmap, whose files are what is scored
CLOUD = "colmap-cloud"  # .ply and .glb, likewise: the points in their colours, to look at
EXPECTED_ERROR = 0.005  # of a trusted point, share of the diameter, where halves foretell none
GRID = 2e-4  # points are rounded to a grid of about this share of the diameter: far below their error, a third smaller
Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a ground truth is to be.

    name: the scene's, else the source's. frames: taken of a video, the sharpest of each of as many equal spans of time.
    timeout: seconds for structure from motion. dense: with the surface by multi-view stereo. halves: with the
    comparison of surfaces from disjoint views. mesh: with a Poisson mesh of the surface as `truth/colmap-mesh.ply`, to
    look at: the points are what is scored. keep_largest: of photos that fall into several groups, or of which many find
    no place, the largest group is the scene, and is judged as if it were all that was given."""

    name: str | None = None
    seed: int = 0
    frames: int = 60
    timeout: float = 3600.0
    dense: bool = True
    halves: bool = True
    mesh: bool = False
    keep_largest: bool = False


@dataclass(frozen=True)
class Job:
    """A ground truth to be made, in plain values."""

    source: str
    in_place: bool
    wanted: Wanted


Make = Callable[[Job, Path, Progress], None]


def build_groundtruth(
    source: Path, out: Path, wanted: Wanted | None = None, progress: Progress | None = None, make: Make | None = None
) -> QualityCard:
    """Write the Scene directory `out` with a COLMAP ground truth of `source` and its card `quality.json`.

    `source` is a folder of photos (with `masks/` if the object is masked), a video, or a Scene, which may be `out`
    itself. Structure from motion runs on full frames at full size in a process of its own. Where the scene has an exact
    truth, poses are still solved freely, then one similarity brings them into the exact frame, by the cameras first and
    then by the trusted surface itself; that truth's diameter and crop are taken, and how far its ranking of graded
    predictions agrees is measured; elsewhere z is up and the crop is what many views see.

    A refused reconstruction is written without its truth, so that nothing can be scored with it. `make` does the work:
    `make_truth`, or what runs it elsewhere. Raises InputError for input that cannot be used; then nothing is
    written."""
    make, wanted = make or make_truth, wanted or Wanted()
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if wanted.frames < 2:
        raise InputError(f"frames: {wanted.frames} seen, at least 2 wanted")
    if wanted.mesh and not wanted.dense:
        raise InputError("mesh: a mesh without the dense surface seen, both wanted")
    in_place = out.exists() and source.resolve() == out.resolve()
    if out.exists() and not in_place and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already, a new or empty folder wanted")
    if in_place and not (out / "scene.json").is_file():
        raise InputError(f"{out}: holds the photos themselves, another folder wanted to write the scene to")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        stage = Path(folder, "scene")
        stage.mkdir()
        make(Job(str(source.absolute()), in_place, wanted), stage, progress or (lambda what, share: None))
        card = QualityCard.read(stage / "quality.json")
        if in_place:
            shutil.rmtree(out / "truth" / "colmap", ignore_errors=True)
            for old in (MESH, f"{CLOUD}.ply", f"{CLOUD}.glb"):
                (out / "truth" / old).unlink(missing_ok=True)
            for made in (stage / "truth").glob("colmap*"):
                (out / "truth").mkdir(exist_ok=True)
                made.rename(out / "truth" / made.name)
            (stage / "quality.json").replace(out / "quality.json")
        else:
            if out.is_dir():
                out.rmdir()
            stage.rename(out)
            out.chmod(0o755)
    return card


def make_truth(job: Job, stage: Path, progress: Progress) -> None:
    """Write what `job` wants, with its card, into the empty folder `stage`: all the work, in this process."""
    wanted = job.wanted
    photos = ingest(Path(job.source), stage, wanted.name, wanted.frames, job.in_place)
    _run(_Work(photos, stage, wanted, progress)).write(stage / "quality.json")


def main(job: str, stage: str) -> None:
    """`make_truth` of a JSON file in a process of its own: a JSON line a step, or one that says why there is none."""

    def say(**words: str | float) -> None:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()

    try:
        given = msgspec.json.decode(Path(job).read_bytes(), type=Job)
        make_truth(given, Path(stage), lambda what, share: say(what=what, share=share))
    except InputError as error:
        say(refused=str(error))


@dataclass
class _Clock:
    """CPU seconds of this process and its children, by stage."""

    sparse: float = 0.0
    dense: float = 0.0
    halves: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before = _cpu_seconds()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + _cpu_seconds() - before)


def _cpu_seconds() -> float:
    usage = [resource.getrusage(scope) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


@dataclass
class _Work:
    """One run of `build_groundtruth`: what its steps share."""

    photos: Photos
    stage: Path
    wanted: Wanted
    progress: Progress
    clock: _Clock = field(default_factory=_Clock)
    notes: list[str] = field(default_factory=list)

    def solve(self, views: Sequence[int], low: float, high: float) -> SparseModel:
        """Structure from motion on `views`, which moves the progress from `low` to `high`."""
        starts = {"extract": 0.0, "match": 0.4, "map": 0.7, "": 1.0}
        names = list(starts)

        def report(stage: str, share: float) -> None:
            start, end = starts[stage], starts[names[names.index(stage) + 1]]
            self.progress(f"structure from motion: {stage}", low + (high - low) * (start + (end - start) * share))

        return solve(
            [self.photos.paths[i] for i in views],
            groups=[self.photos.groups[i] for i in views],
            focal=self.photos.focal,
            seed=self.wanted.seed,
            timeout=self.wanted.timeout,
            progress=report,
        )


def _run(work: _Work) -> QualityCard:
    """Solve, assess, register, densify, measure; the truth is written into the stage unless it is refused."""
    count = len(work.photos.paths)
    try:
        with work.clock.stage("sparse"):
            model = work.solve(range(count), 0.0, 0.4)
    except Unsupported as error:
        work.notes.append(str(error))
        return _card(work, _Measured(), count)
    if work.wanted.keep_largest and not model.registered.all():
        kept = int(model.registered.sum())
        work.notes.append(f"kept the largest group alone: {kept} of {count} photos")
        count, model = kept, replace(model, model_sizes=model.model_sizes[:1])
    bent = float(model.distortion[model.registered].max())
    measured = _Measured(model, bent, straightened=work.photos.ours and bent > DISTORTION_GATE)
    if _verdict(measured, count)[0] == "refused":
        return _card(work, replace(measured, straightened=False), count)
    centre_std = centre_error(model)  # while the model still has the lens that its pixels were taken with
    if measured.straightened:
        model = _straightened(work, model)
    return _card(work, _measure(work, measured, model, centre_std), count)


@dataclass(frozen=True)
class _Measured:
    """What the card is made from."""

    model: SparseModel | None = None
    distortion: float = 0.0  # pixels, as photographed
    straightened: bool = False
    dense: Dense | None = None
    points: int | None = None  # of the dense cloud that was kept
    fusion: float | None = None  # % of the diameter, from COLMAP's fusion to ours
    mesh_faces: int | None = None
    halves: Halves | None = None
    camera_error: float | None = None  # % of the diameter
    exact: ExactError | None = None
    trusted_share: float | None = None
    fidelity: Fidelity | None = None
    diameter: float | None = None

    @property
    def predicted(self) -> Predicted | None:
        if self.dense is None or self.halves is None or self.halves.apart_percent is None or self.camera_error is None:
            return None
        return predicted_error(self.camera_error, self.halves.apart_percent, _rounded(self.dense.coverage))


def _verdict(measured: _Measured, count: int) -> tuple[str, list[str]]:
    model = measured.model
    return judge(
        images=count,
        registered=int(model.registered.sum()) if model else 0,
        models=list(model.model_sizes) if model else [],
        reprojection_px=model.reprojection_error if model else None,
        longer_side=int(model.sizes.max()) if model else 0,
        distortion_left_px=0.0 if measured.straightened else measured.distortion,
        coverage=measured.dense.coverage if measured.dense else None,
        halves=measured.halves,
        predicted=measured.predicted,
    )


def _card(work: _Work, measured: _Measured, count: int) -> QualityCard:
    model, dense = measured.model, measured.dense
    registered = int(model.registered.sum()) if model else 0
    verdict, reasons = _verdict(measured, count)
    names = work.photos.scene.view_names
    left = (
        names if model is None else [name for name, placed in zip(names, model.registered, strict=True) if not placed]
    )
    return QualityCard(
        verdict=verdict,
        reasons=reasons,
        notes=[
            *work.notes,
            *([f"not registered, so without a camera: {', '.join(left)}"] if left and not work.photos.files else []),
        ],
        photos=accounts_of(work.photos, model),
        groups=groups_of(work.photos, model),
        images=count,
        registered=registered,
        registered_share=_rounded(registered / count),
        models=list(model.model_sizes) if model else [],
        reprojection_px=_rounded(model.reprojection_error) if model else None,
        track_length=_rounded(float(model.track_length.mean())) if model else None,
        sparse_points=len(model.points) if model else 0,
        distortion_px=_rounded(measured.distortion) if model else None,
        undistorted=measured.straightened,
        dense_by=dense.made_by if dense else None,
        dense_points=measured.points,
        dense_coverage=_rounded(dense.coverage) if dense else None,
        fusion_median_percent=measured.fusion,
        trusted_share=measured.trusted_share,
        mesh_faces=measured.mesh_faces,
        halves=measured.halves,
        camera_error_percent=measured.camera_error,
        predicted=measured.predicted,
        exact=measured.exact,
        fidelity=measured.fidelity,
        diameter=measured.diameter,
        cpu_seconds=Seconds(*(round(getattr(work.clock, name), 1) for name in ("sparse", "dense", "halves"))),
        seed=work.wanted.seed,
        versions={name: version(name) for name in ("pycolmap", "numpy", "numba")},
    )


def _rounded(value: float) -> float:
    return round(value, 4)


def _straightened(work: _Work, model: SparseModel) -> SparseModel:
    """Take the lens distortion out of the staged images and masks; the model's cameras are then exact pinholes."""
    intrinsics = model.cameras.intrinsics.copy()
    for index, view in enumerate(work.photos.scene.file.views):
        K, radial = model.cameras.intrinsics[index], float(model.radial[index])
        focal = pinhole_focal(float(K[0, 0]), radial, (int(model.sizes[index, 0]), int(model.sizes[index, 1])))
        image = undistorted(work.photos.scene.image(view.name), K, radial, focal)
        save_image(work.stage, view.name, image, Path(view.image).suffix)
        if view.mask is not None:
            mask = work.photos.scene.mask(view.name).astype(np.uint8) * 255
            save_mask(work.stage, view.name, undistorted(mask, K, radial, focal) > 127)
        intrinsics[index, 0, 0] = intrinsics[index, 1, 1] = focal
        work.progress("taking lens distortion out", 0.4)
    cameras = Cameras(intrinsics, model.cameras.camera_from_world)
    return replace(model, cameras=cameras, radial=np.zeros_like(model.radial))


def _measure(work: _Work, measured: _Measured, model: SparseModel, centre_std: float) -> _Measured:
    """Register, densify, compare, and write the truth; `centre_std` is the standard error of the model's centres."""
    scene = work.photos.scene
    views = np.flatnonzero(model.registered)
    names = [scene.view_names[i] for i in views]
    masks = [scene.mask(name) for name in names] if scene.has_masks else None
    solved = _solved(work, model, masks)
    exact = scene.truth("exact") if "exact" in scene.truth_kinds else None
    try:
        target_from_model, exact_cameras = _registration(solved, names, exact)
    except AlignmentError as error:
        raise InputError(f"{scene.path}: its exact cameras do not fix a frame: {error}") from error
    solved = move_solved(solved, target_from_model)
    surface: Dense | None = None
    if work.wanted.dense:
        with work.clock.stage("dense"):
            surface = dense_surface(
                solved, seed=work.wanted.seed, progress=lambda share: work.progress("dense surface", 0.4 + 0.4 * share)
            )
    cloud, normals = (surface.points, surface.normals) if surface else (solved.points, towards_cameras(solved))
    kept = photographed(cloud, solved.cameras, solved.sizes, masks)
    if kept.sum() < MIN_POINTS:
        raise InputError(f"{scene.path}: {int(kept.sum())} points on what was photographed, {MIN_POINTS} wanted")
    crop = exact.crop if exact is not None else robust_box(cloud[kept])
    if crop is not None:
        kept &= crop.contains(cloud)
    unit = exact.diameter if exact is not None else diameter(cloud[kept])
    chosen, trusted = np.flatnonzero(kept)[bounded_subset(cloud[kept], MAX_POINTS)], np.zeros(0, np.bool_)
    fusion = mesh_faces = agreement = knowledge = fidelity = None
    by_cameras, shift = solved.cameras, 0.0
    if surface is not None:
        with work.clock.stage("dense"):
            fusion = compare_fusion(surface, solved, crop, unit, work.wanted.seed, work.notes)
            chosen, trusted = _chosen(surface, np.flatnonzero(kept), unit)
        if exact is not None:
            exact_from_cameras = _onto_surface(work, cloud[chosen[trusted]], exact)
            shift = (
                100
                * float(np.linalg.norm(apply(exact_from_cameras, exact.points) - exact.points, axis=1).mean())
                / unit
            )
            solved, surface = move_solved(solved, exact_from_cameras), move_dense(surface, exact_from_cameras)
            cloud, normals = surface.points, surface.normals
    if surface is not None and work.wanted.mesh:
        (work.stage / "truth").mkdir(exist_ok=True)
        shape = poisson_mesh(cloud[kept], normals[kept], surface.colors[kept], unit)
        shape.export(work.stage / "truth" / MESH)
        mesh_faces = len(shape.faces)
    if work.wanted.halves and work.wanted.dense:
        with work.clock.stage("halves"):
            agreement = compare_halves(solved, crop, unit, work.wanted.seed, work.notes, work.progress)
    points, normals = cloud[chosen], normals[chosen]
    own_error = None
    if exact is not None and exact_cameras is not None:
        own_error = exact_error(points, trusted, shift, by_cameras, exact_cameras, exact)
    # Two cameras fix the similarity that the error is measured after: they have none.
    camera_error = _rounded(100 * centre_std * scale_of(target_from_model) / unit) if len(views) > 2 else None
    if surface is not None and crop is not None:
        expected = EXPECTED_ERROR
        if camera_error is not None and agreement is not None and agreement.apart_percent is not None:
            foreseen = predicted_error(camera_error, agreement.apart_percent, _rounded(surface.coverage))
            expected = math.sqrt(foreseen.low_percent * foreseen.high_percent) / 100
        knowledge = knowledge_of(points, trusted, surface, masks, crop, unit, expected)
        wrong = astray(solved.cameras, masks, points[trusted]) if masks is not None else np.zeros(0, np.bool_)
        if wrong.any():
            lost = ", ".join(names[view] for view in np.flatnonzero(wrong))
            work.notes.append(f"cameras that their masks contradict, left out of what is known: {lost}")
    folder = _write(
        work, names, solved, points, normals, surface, crop, unit, "exact" if exact else "colmap", knowledge
    )
    write_cloud(work.stage / "truth", points, surface.colors[chosen] if surface is not None else model.colors[chosen])
    if exact is not None and knowledge is not None:
        work.progress("ranking graded predictions", 0.98)
        fidelity = rank_fidelity(exact, read_truth(scene, folder))
    return replace(
        measured,
        dense=surface,
        points=len(points) if surface else None,
        fusion=fusion,
        mesh_faces=mesh_faces,
        halves=agreement,
        camera_error=camera_error,
        exact=own_error,
        trusted_share=_rounded(float(trusted.mean())) if surface else None,
        fidelity=fidelity,
        diameter=unit,
    )


def write_cloud(folder: Path, points: F32, colors: U8) -> None:
    """`points` (M, 3), z up, with their `colors` (M, 3), as PLY and, y up as glTF has it, as GLB."""
    cloud = trimesh.PointCloud(points, colors=colors)
    cloud.export(folder / f"{CLOUD}.ply")
    cloud.apply_transform(np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]))
    cloud.export(folder / f"{CLOUD}.glb")


def _solved(work: _Work, model: SparseModel, masks: Sequence[Bools] | None) -> Solved:
    """The registered views of `model`."""
    views = np.flatnonzero(model.registered)
    return Solved(
        ImageFiles([work.photos.paths[i] for i in views]),
        masks,
        model.cameras.take(views),
        model.sizes[views],
        model.points,
        model.visible[views],
    )


def _registration(solved: Solved, names: Sequence[str], exact: Truth | None) -> tuple[F64, Cameras | None]:
    """The similarity from the model's frame into the truth's, and the exact cameras of the registered views."""
    if exact is None:
        kept = photographed(solved.points, solved.cameras, solved.sizes, solved.masks)
        return upright(solved.points[kept], solved.cameras), None
    cameras = exact.cameras.take([exact.view_names.index(name) for name in names])
    return align_cameras(solved.cameras, cameras).truth_from_pred, cameras


def _chosen(surface: Dense, inside: NDArray[np.int64], unit: float) -> tuple[NDArray[np.int64], Bools]:
    """Which of the points `inside` of a dense surface become the truth, ascending, and which of these are trusted: as
    dense as scores are taken, trusted ones first, since they are what is scored against."""
    cloud = surface.points[inside]
    even = voxel_subset(cloud, EQUAL * unit)
    sure = trusted_points(cloud, surface.normals[inside], surface.support[inside], even, unit)
    trusted, rest = even[sure], even[~sure]
    trusted = trusted[bounded_subset(cloud[trusted], MAX_TRUSTED)]
    rest = rest[bounded_subset(cloud[rest], MAX_POINTS - len(trusted))]
    chosen = np.sort(np.r_[trusted, rest])
    return inside[chosen], np.isin(chosen, trusted)


def _onto_surface(work: _Work, trusted: F32, exact: Truth) -> F64:
    """The similarity that brings the `trusted` points (K, 3) onto the exact surface: cameras leave a shift of up to
    0.7% of the diameter, which every score would read as an error of the systems."""
    try:
        return icp(trusted, exact.points, exact.normals, seed=work.wanted.seed).transform
    except AlignmentError as error:
        work.notes.append(f"frame left as the cameras fit it: {error}")
        return np.eye(4)


def move_solved(solved: Solved, target_from_source: F64) -> Solved:
    """`solved` in another frame."""
    points = apply(target_from_source, solved.points).astype(np.float32)
    return replace(solved, cameras=move_cameras(solved.cameras, target_from_source), points=points)


def move_dense(dense: Dense, target_from_source: F64) -> Dense:
    """`dense` in another frame; depths take its scale."""
    scale, turn = scale_of(target_from_source), rotation_of(target_from_source)
    return replace(
        dense,
        points=apply(target_from_source, dense.points).astype(np.float32),
        normals=(dense.normals @ turn.T).astype(np.float32),
        maps=tuple(replace(depth_map, depth=(depth_map.depth * scale).astype(np.float32)) for depth_map in dense.maps),
        cameras=move_cameras(dense.cameras, target_from_source),
    )


def towards_cameras(solved: Solved) -> F32:
    """(M, 3) unit vectors from each sparse point towards the mean of the cameras that measured it."""
    mean = solved.visible.T.astype(np.float64) @ solved.cameras.centres
    away = mean / np.maximum(solved.visible.sum(axis=0), 1)[:, None] - solved.points
    return np.asarray(away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-30), np.float32)


def _write(
    work: _Work,
    names: Sequence[str],
    solved: Solved,
    points: F32,
    normals: F32,
    surface: Dense | None,
    crop: Box | None,
    unit: float,
    frame: str,
    knowledge: Knowledge | None,
) -> Path:
    """`truth/colmap` in the stage; depth maps only beside images of our own, an existing scene is not bloated."""
    cameras = [
        CameraFile(
            view=name,
            width=int(size[0]),
            height=int(size[1]),
            fx=float(K[0, 0]),
            fy=float(K[1, 1]),
            cx=float(K[0, 2]),
            cy=float(K[1, 2]),
            camera_from_world=pose.tolist(),
        )
        for name, size, K, pose in zip(
            names, solved.sizes, solved.cameras.intrinsics, solved.cameras.camera_from_world, strict=True
        )
    ]
    step = 2.0 ** np.round(np.log2(GRID * unit))
    on_grid = np.round(points.astype(np.float64) / step)
    order = np.lexsort(tuple((on_grid // 64).T))  # neighbours side by side: smaller files
    arrays: dict[str, NDArray[np.generic]] = {
        "points": (on_grid[order] * step).astype(np.float32),
        "normals": (np.round(normals[order] * 64) / 64).astype(np.float16),
    }
    depth, depth_unit = None, 1e-4 * unit
    if surface is not None and work.photos.ours:
        full = zip(names, surface.maps, solved.sizes, strict=True)
        depth = {name: enlarge(depth_map.depth, (int(w), int(h))) for name, depth_map, (w, h) in full}
        depth_unit = max(depth_unit, max(float(d.max()) for d in depth.values()) / 65000)
    truth = TruthFile(
        kind="colmap",
        made_by=["colmap"],
        diameter=unit,
        crop_low=crop.low if crop else None,
        crop_high=crop.high if crop else None,
        depth_unit=depth_unit,
        frame=frame,
    )
    if knowledge is not None:
        knowledge = replace(knowledge, trusted=knowledge.trusted[order])
    return write_truth(work.stage, truth, cameras, arrays, depth, knowledge)
