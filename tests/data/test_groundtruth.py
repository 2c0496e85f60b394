"""Ground truth: what is taken in, how frames are chosen, what the card says, and a known corner end to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from adapters.contract import Cameras, InputError, Unsupported
from data.groundtruth import fidelity, measure, photos
from data.groundtruth.build import Wanted, build_groundtruth
from data.groundtruth.dense import Dense, Solved
from data.groundtruth.frame import move_cameras, photographed, robust_box, upright
from data.groundtruth.ingest import ingest
from data.groundtruth.measure import exact_error
from data.groundtruth.photos import sort_photos
from data.groundtruth.quality import TRUSTED_ERROR, Halves, Predicted, QualityCard, judge, predicted_error
from data.groundtruth.solve import solve
from data.scene import CameraFile, Scene, SceneFile, TruthFile, ViewFile, write_scene, write_truth
from metrics.cameras import align_cameras
from metrics.scoring.truth import Truth
from tests.adapters.test_sfm import corner_views
from tests.data.rings import ring, some_similarity
from tests.data.test_video import write_video

EMBEDDED = sorted(p.parent for p in (Path(__file__).parents[2] / "data" / "embedded").glob("*/quality.json"))

# -- the card


GOOD = {
    "images": 20,
    "registered": 20,
    "models": [20],
    "reprojection_px": 0.4,
    "longer_side": 960,
    "distortion_left_px": 0.1,
    "coverage": 0.9,
    "halves": Halves((10, 10), 0.98, 0.2),
    "predicted": Predicted(0.1, 0.3),
}


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, "trusted", []),
        ({"registered": 17, "models": [17]}, "refused", ["17 of 20 images"]),
        ({"models": [20, 4]}, "refused", ["models of 20, 4"]),
        ({"models": [20, 2]}, "trusted", []),
        ({"reprojection_px": 1.2}, "refused", ["1.20 px"]),
        ({"reprojection_px": 1.2, "longer_side": 1920}, "trusted", []),
        ({"reprojection_px": 1.3, "longer_side": 1920}, "refused", ["less than 1.28 px"]),
        ({"images": 2, "registered": 2, "models": [2]}, "usable", ["two photos"]),
        ({"models": [], "registered": 0, "reprojection_px": None}, "refused", ["no model"]),
        ({"registered": 18, "models": [18]}, "usable", ["18 of 20"]),
        ({"coverage": None}, "usable", ["no dense"]),
        ({"coverage": 0.1}, "usable", ["10%"]),
        ({"halves": None, "predicted": None}, "usable", ["not known"]),
        ({"halves": Halves((10, 10), 0.3, 0.2)}, "usable", ["30%"]),
        ({"distortion_left_px": 0.8}, "trusted", []),
        ({"predicted": Predicted(0.2, 0.7)}, "usable", ["0.70%"]),
        ({"distortion_left_px": 3.0}, "usable", ["3.0 px"]),
    ],
)
def test_verdicts(change: dict[str, object], verdict: str, words: list[str]) -> None:
    observed, reasons = judge(**{**GOOD, **change})  # type: ignore[arg-type]
    assert observed == verdict
    assert len(reasons) == len(words)
    for reason, word in zip(reasons, words, strict=True):
        assert word in reason


def test_the_predicted_error_grows_with_its_predictors() -> None:
    sharp, blurred = predicted_error(0.03, 0.04, 0.8), predicted_error(0.08, 0.06, 0.8)
    bare = predicted_error(0.03, 0.04, 0.2)
    assert 0 < sharp.low_percent < sharp.high_percent
    assert (blurred.low_percent, blurred.high_percent) == pytest.approx(
        (2 * sharp.low_percent, 2 * sharp.high_percent), rel=0.01
    )
    assert bare.high_percent == pytest.approx(2 * sharp.high_percent, rel=0.01)


# -- ingest


def write_photos(folder: Path, count: int = 3, size: tuple[int, int] = (48, 32)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"p{i}.jpg")


def refused(source: Path, tmp_path: Path) -> str:
    """The message that `source` is refused with; nothing may be left behind."""
    out = tmp_path / "place" / "scene"
    with pytest.raises(InputError) as caught:
        build_groundtruth(source, out)
    assert not out.exists()
    assert not list(out.parent.iterdir()) if out.parent.exists() else True
    return str(caught.value)


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no image" in refused(empty, tmp_path)
    assert "no such" in refused(tmp_path / "absent", tmp_path)
    write_photos(tmp_path / "one", 1)
    assert "at least 2" in refused(tmp_path / "one", tmp_path)
    write_photos(tmp_path / "cut")
    data = (tmp_path / "cut" / "p1.jpg").read_bytes()
    for name in ("p1.jpg", "p2.jpg"):
        (tmp_path / "cut" / name).write_bytes(data[: len(data) // 2])
    message = refused(tmp_path / "cut", tmp_path)
    assert "1 image that can be used seen" in message and "p1.jpg: unreadable" in message and "p2.jpg" in message
    write_photos(tmp_path / "twice")
    Image.new("RGB", (48, 32)).save(tmp_path / "twice" / "p1.png")
    assert "several images called p1" in refused(tmp_path / "twice", tmp_path)
    write_photos(tmp_path / "masked")
    (tmp_path / "masked" / "masks").mkdir()
    for i in (0, 2):
        Image.new("L", (48, 32), 255).save(tmp_path / "masked" / "masks" / f"p{i}.png")
    assert "no mask for image p1.jpg" in refused(tmp_path / "masked", tmp_path)
    Image.new("L", (32, 48), 255).save(tmp_path / "masked" / "masks" / "p1.png")
    assert "(32, 48)" in refused(tmp_path / "masked", tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    assert "not a readable video" in refused(tmp_path / "clip.mp4", tmp_path)


def test_as_many_frames_of_a_video_as_were_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", set())
    card = build_groundtruth(tmp_path / "clip.mp4", tmp_path / "scene", Wanted(frames=5, dense=False))
    assert card.verdict == "refused"  # noise: the frames are kept, no truth is
    assert len(Scene.open(tmp_path / "scene").file.views) == 5
    with pytest.raises(InputError, match="frames: 1 seen, at least 2 wanted"):
        build_groundtruth(tmp_path / "clip.mp4", tmp_path / "other", Wanted(frames=1))


def test_every_file_is_accounted_for_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_photos(folder, 5, (96, 64))
    smooth = np.linspace(0, 200, 96)[None, :, None] + np.zeros((64, 96, 3))
    smooth[10:30, 5:40] += 50
    Image.fromarray(smooth.astype(np.uint8)).save(folder / "p5.png")
    Image.fromarray(smooth[:, ::-1].astype(np.uint8)).save(folder / "p5-turned.jpg", quality=90)
    (folder / "copy of 'p0'.jpg").write_bytes((folder / "p0.jpg").read_bytes())
    for name in ("p1.jpg", "p2.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:400])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("hello")
    (folder / "IMG.HEIC").write_bytes(b"heic")
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (30, 50, 3), dtype=np.uint8)).save(folder / "p9.png")
    result = sort_photos(folder)
    assert [path.name for path in result.used] == ["p0.jpg", "p3.jpg", "p4.jpg", "p5.png", "p9.png"]
    assert result.left["copy of 'p0'.jpg"] == "identical to p0.jpg"
    assert result.left["p5-turned.jpg"] == "mirrored: p5.png turned left to right"
    assert result.left["notes.txt"] == "not a photo (.txt)" and "HEIC" in result.left["IMG.HEIC"]
    assert all(result.left[name].startswith("unreadable (") for name in ("p1.jpg", "p2.jpg", "empty.jpg"))
    assert str(folder) not in result.left["p1.jpg"]
    assert result.remarks["p9.png"] == "another size, 50 x 30 where most are 96 x 64"
    assert result.remarks["p5.png"].startswith("blurred: sharpness")
    card = build_groundtruth(folder, tmp_path / "out")
    assert [photo.file for photo in card.photos] == sorted(path.name for path in folder.iterdir())
    assert not any(photo.placed for photo in card.photos)
    assert QualityCard.read(tmp_path / "out" / "quality.json") == card


def test_a_symmetric_photo_is_no_mirrored_copy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    half = rng.integers(0, 255, (8, 6, 3), dtype=np.uint8)
    for i in range(3):  # photos of a symmetric thing, hardly different
        face = np.concatenate([half, half[:, ::-1]], axis=1).copy()
        face[0, i] = 0
        Image.fromarray(face).resize((96, 64), Image.Resampling.NEAREST).save(tmp_path / f"{i}.png")
    assert len(sort_photos(tmp_path).used) == 3


def test_a_large_folder_is_thinned_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MOST_PHOTOS", 4)
    write_photos(tmp_path, 9)
    result = sort_photos(tmp_path)
    assert [path.name for path in result.used] == ["p0.jpg", "p3.jpg", "p5.jpg", "p8.jpg"]
    assert result.left["p1.jpg"] == "left out: 9 photos seen, 4 evenly taken are enough"


def test_two_places_in_one_folder_are_told_apart_and_the_larger_one_goes_on(tmp_path: Path) -> None:
    views, _ = corner_views()
    rng = np.random.default_rng(0)
    for i, image in enumerate(views):
        Image.fromarray(image).save(tmp_path / f"corner{i}.png")
    for i in range(2):  # noise matches nothing
        Image.fromarray(rng.integers(0, 255, views[0].shape, dtype=np.uint8)).save(tmp_path / f"noise{i}.png")
    card = build_groundtruth(tmp_path, tmp_path.parent / "refused", Wanted(dense=False))
    assert card.verdict == "refused"
    lost = {photo.file: photo.why for photo in card.photos if not photo.placed}
    assert sorted(lost) == ["noise0.png", "noise1.png"] and all("too few matches" in why for why in lost.values())
    kept = build_groundtruth(tmp_path, tmp_path.parent / "kept", Wanted(dense=False, keep_largest=True))
    assert kept.verdict == "usable" and kept.registered == kept.images == len(views)
    assert "kept the largest group alone: 6 of 8 photos" in kept.notes
    scene = Scene.open(tmp_path.parent / "kept")
    cloud = trimesh.load(scene.path / "truth" / "colmap-cloud.ply")
    assert len(cloud.vertices) == len(scene.truth("colmap").points) and len(np.unique(cloud.colors, axis=0)) > 10
    assert (scene.path / "truth" / "colmap-cloud.glb").is_file()


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    write_photos(tmp_path / "other")
    with pytest.raises(InputError, match="exists already"):
        build_groundtruth(tmp_path / "photos", tmp_path / "other")
    with pytest.raises(InputError, match="another folder"):
        build_groundtruth(tmp_path / "photos", tmp_path / "photos")
    assert len(list((tmp_path / "photos").iterdir())) == 3


def test_photos_are_written_upright_without_exif_and_grouped_by_camera(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    stage = tmp_path / "stage"
    stage.mkdir()
    left = np.zeros((32, 48, 3), np.uint8)
    left[:, :24] = 255
    for i, (orientation, equivalent) in enumerate([(1, 35), (6, 35), (1, 70)]):
        exif = Image.Exif()
        exif[274], exif[271] = orientation, "Maker"
        exif.get_ifd(34665).update({41989: equivalent, 37386: equivalent / 2})
        left[20 + i, 40:] = 90  # three photos, not one thrice
        Image.fromarray(left).save(tmp_path / "in" / f"{i}.jpg", exif=exif, quality=95)
    taken = ingest(tmp_path / "in", stage, None, 10, in_place=False)
    assert taken.groups == ("a", "b", "c")
    assert taken.focal["a"] == pytest.approx(35 / 43.27 * np.hypot(48, 32))
    assert taken.focal["c"] == pytest.approx(2 * taken.focal["a"])
    assert taken.scene.image("1").shape == (48, 32, 3)
    assert taken.scene.image("1")[:20].mean() > 250  # orientation 6: the photo's left side is up
    for path in taken.paths:
        with Image.open(path) as image:
            assert not dict(image.getexif())


# -- solving in a process


def test_a_deadline_and_a_crash_are_reported_and_no_model_is_unsupported(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / f"{i}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]

    def run(images: Sequence[Path], timeout: float) -> None:
        solve(images, groups=["a"] * len(images), focal={}, seed=0, timeout=timeout, progress=lambda *_: None)

    with pytest.raises(InputError, match="timeout"):
        run(paths, 0.01)
    with pytest.raises(InputError, match="ended with code"):
        run([tmp_path / "absent.png", *paths], 60)
    with pytest.raises(Unsupported, match="no model"):
        run(paths, 60)


# -- frames


def test_moved_cameras_see_the_moved_points() -> None:
    cameras, transform = ring(5), some_similarity()
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    moved = move_cameras(cameras, transform)
    moved.validate("moved", 5)
    there = points @ transform[:3, :3].T + transform[:3, 3]
    for view in range(5):
        before, after = cameras.project(view, points), moved.project(view, there)
        assert np.allclose(before[0], after[0], atol=1e-8)
        assert np.allclose(2.5 * before[1], after[1])


def test_upright_undoes_any_similarity_up_to_a_turn_about_z() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (4000, 3)) * [0.5, 0.4, 0.3]
    for seed in range(3):
        transform = some_similarity(seed)
        cameras = move_cameras(ring(8), transform)
        back = upright(points @ transform[:3, :3].T + transform[:3, 3], cameras) @ transform
        up = back[:3, :3] @ [0, 0, 1.0]
        assert up / np.linalg.norm(up) == pytest.approx([0, 0, 1], abs=1e-6)
        there = points @ back[:3, :3].T + back[:3, 3]
        box = robust_box(there)
        low, high = np.array(box.low), np.array(box.high)
        assert np.linalg.norm(high - low) == pytest.approx(1)
        assert np.allclose(low + high, 0, atol=1e-6)


def test_what_is_photographed_is_in_sight_and_on_the_masks() -> None:
    cameras, sizes = ring(8), np.full((8, 2), 200, np.int32)
    points = np.array([[0, 0, 0], [0.1, 0.2, 0], [0.8, 0, 0.2], [40, 0, 0]])
    assert photographed(points, cameras, sizes, None).tolist() == [True, True, True, False]
    v, u = np.mgrid[:200, :200] + 0.5
    disc = np.hypot(u - 100, v - 100) < 30
    assert photographed(points, cameras, sizes, [disc] * 8).tolist() == [True, True, False, False]


# -- the error against an exact scene


def test_exact_error_of_a_swollen_sphere_and_shifted_cameras() -> None:
    """A sphere of radius 1 swollen by 1%, cameras 0.02 too high: errors known in closed form."""
    cameras = ring(12, radius=5.0)
    sphere = trimesh.creation.icosphere(5)
    samples, index = trimesh.sample.sample_surface(sphere, 40_000, seed=0)
    truth = Truth(
        kind="exact",
        id="",
        made_by=(),
        points=samples.astype(np.float32),
        normals=sphere.face_normals[index].astype(np.float32),
        diameter=2.0,
        view_names=tuple(map(str, range(12))),
        cameras=cameras,
        sizes=np.full((12, 2), 200, np.int32),
        vertices=np.asarray(sphere.vertices, np.float64),
        faces=np.asarray(sphere.faces, np.int32),
    )
    swollen = (1.01 * trimesh.sample.sample_surface(sphere, 90_000, seed=1)[0]).astype(np.float32)
    poses = cameras.camera_from_world.copy()
    poses[:, :3, 3] -= 0.02 * poses[:, :3, 2]
    intrinsics = cameras.intrinsics.copy()
    intrinsics[3, :2, :2] *= 1.004
    trusted = swollen[:, 2] > 0
    error = exact_error(swollen, trusted, 0.25, Cameras(intrinsics, poses), cameras, truth)
    assert error.centre_rmse_percent == pytest.approx(1.0)
    assert error.rotation_rmse_degrees == pytest.approx(0, abs=1e-3)
    assert error.focal_percent == pytest.approx(0.4)
    assert error.accuracy_percent == pytest.approx(0.5, rel=0.02)
    assert error.precision_1_percent == 1.0
    assert error.completeness_1_percent > 0.95
    assert error.trusted_percent == pytest.approx(0.5, rel=0.02)
    assert error.frame_percent == 0.25
    half = exact_error(swollen[trusted], trusted[trusted], 0.0, cameras, cameras, truth)
    assert half.completeness_1_percent < 0.75
    assert half.completeness_percent > 5


# -- two halves of the views


def whole_of(count: int) -> Solved:
    """A ring of views of nothing."""
    image, sizes = np.zeros((200, 200, 3), np.uint8), np.full((count, 2), 200, np.int32)
    return Solved(
        [image] * count, None, ring(count), sizes, np.zeros((3, 3), np.float32), np.ones((count, 3), np.bool_)
    )


def halves_of(
    monkeypatch: pytest.MonkeyPatch, radii: tuple[float, float], count: int = 24
) -> tuple[Halves | None, list[str]]:
    """The comparison where either half finds a sphere of its own radius about the origin."""
    sphere = np.random.default_rng(0).normal(size=(20_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    calls = iter(radii)
    observed: list[np.ndarray] = []

    def surface(part: Solved, **_: object) -> Dense:
        observed.extend(part.cameras.centres)
        points, colors = (next(calls) * sphere).astype(np.float32), np.zeros((len(sphere), 3), np.uint8)
        return Dense(
            "stereo",
            points,
            sphere.astype(np.float32),
            colors,
            np.full(len(points), 3, np.int32),
            (),
            (),
            part.cameras,
            1.0,
        )

    monkeypatch.setattr(measure, "dense_surface", surface)
    notes: list[str] = []
    whole = whole_of(count)
    halves = measure.compare_halves(whole, None, 2.0, 0, notes, lambda what, share: None)
    if halves is not None:  # every view in one half
        assert np.array_equal(np.unique(observed, axis=0), np.unique(whole.cameras.centres, axis=0))
    return halves, notes


def test_halves_that_differ_by_a_known_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spheres of radius 0.5 and 0.5 + d about one centre: every distance is d, and 1% of the diameter 2 is 0.02."""
    halves, notes = halves_of(monkeypatch, (0.5, 0.51))
    assert notes == []
    assert halves is not None
    assert halves.views == (12, 12)
    assert halves.apart_percent == pytest.approx(0.5, rel=0.03)
    assert halves.within_1_percent > 0.8  # the farthest neighbours are beyond it: the points have a spacing
    apart, _ = halves_of(monkeypatch, (0.5, 0.53))
    assert apart is not None
    assert apart.apart_percent is None
    assert apart.within_1_percent == 0
    short, _ = halves_of(monkeypatch, (0.5, 0.5), count=6)
    assert short is not None and short.views == (3, 3)
    small, notes = halves_of(monkeypatch, (0.5, 0.5), count=5)
    assert small is None
    assert "2 odd views" in notes[0]


# -- end to end, and what is frozen


@pytest.fixture(scope="module")
def corner_scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cameras]:
    """Six photos of the corner as a Scene with its exact cameras and surface."""
    images, cameras = corner_views()
    folder = tmp_path_factory.mktemp("corner")
    (folder / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
    views = [ViewFile(str(i), f"images/{i}.png") for i in range(len(images))]
    write_scene(folder, SceneFile(name="corner", title="Corner", licence="", source="", views=views))
    square = np.array([[0, 0], [2.0, 0], [2, 2], [0, 2]])
    quads = [np.insert(square, axis, 0.0, axis=1) for axis in range(3)]
    faces = np.concatenate([[[0, 1, 2], [0, 2, 3]] + 4 * np.array(k) for k in range(3)])
    files = [
        CameraFile(str(i), 320, 240, K[0][0], K[1][1], K[0][2], K[1][2], pose)
        for i, (K, pose) in enumerate(zip(cameras.intrinsics.tolist(), cameras.camera_from_world.tolist(), strict=True))
    ]
    low, high = (-0.1, -0.1, -0.1), (2.0, 2.0, 2.0)
    truth = TruthFile(kind="exact", made_by=[], diameter=3.0, crop_low=low, crop_high=high, frame="exact")
    write_truth(folder, truth, files)
    trimesh.Trimesh(np.concatenate(quads), faces, process=False).export(folder / "truth" / "exact" / "mesh.ply")
    return folder, cameras


def test_poses_are_registered_to_the_exact_frame(corner_scene: tuple[Path, Cameras], tmp_path: Path) -> None:
    source, exact = corner_scene
    progress: list[float] = []
    card = build_groundtruth(
        source, tmp_path / "out", Wanted(dense=False), progress=lambda _, share: progress.append(share)
    )
    assert card.verdict == "usable"
    assert card.exact is not None
    assert card.exact.centre_rmse_percent < 0.5
    assert card.exact.accuracy_median_percent < 0.2
    assert card.exact.rotation_rmse_degrees < 0.3
    assert progress == sorted(progress)
    scene = Scene.open(tmp_path / "out")
    assert scene.truth_kinds == ("exact", "colmap")
    truth = scene.truth("colmap")
    assert truth.diameter == 3.0
    assert truth.made_by == ("colmap",)
    assert np.abs(truth.cameras.centres - exact.centres).max() < 0.03
    assert np.median(np.abs(truth.points).min(axis=1)) < 0.006
    assert QualityCard.read(tmp_path / "out" / "quality.json") == card
    again = build_groundtruth(tmp_path / "out", tmp_path / "out", Wanted(dense=False))  # in place, once more: the same
    assert again.exact == card.exact
    assert scene.truth("colmap").points.tobytes() == truth.points.tobytes()


def test_a_dense_truth_and_its_mesh_lie_on_the_walls(
    corner_scene: tuple[Path, Cameras], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "POINTS", 40_000)
    source, out = corner_scene[0], tmp_path / "out"
    card = build_groundtruth(source, out, Wanted(halves=False, mesh=True))
    assert card.exact is not None and card.fusion_median_percent is not None
    assert card.exact.accuracy_percent < 0.3
    assert card.fusion_median_percent < 0.1
    truth = Scene.open(out).truth("colmap")
    assert truth.knowledge is not None and card.fidelity is not None
    assert card.exact.trusted_percent is not None and card.exact.trusted_percent < 0.2
    assert truth.knowledge.trusted.mean() == pytest.approx(card.trusted_share, abs=1e-3)
    assert card.fidelity.perfect_fscore > 0.9 and card.fidelity.tau > 0.5
    mesh = trimesh.load_mesh(out / "truth" / "colmap-mesh.ply")
    assert len(mesh.faces) == card.mesh_faces
    assert np.median(np.abs(mesh.vertices).min(axis=1)) < 0.006
    build_groundtruth(out, out, Wanted(dense=False))  # in place: a truth without its mesh leaves none behind
    assert not (out / "truth" / "colmap-mesh.ply").exists()


def test_photos_without_overlap_are_refused_and_unscorable(tmp_path: Path) -> None:
    write_photos(tmp_path / "noise", 3, (96, 64))
    card = build_groundtruth(tmp_path / "noise", tmp_path / "out")
    assert card.verdict == "refused"
    assert card.registered == 0
    with pytest.raises(InputError, match="no colmap"):
        Scene.open(tmp_path / "out").truth("colmap")


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.name)
def test_frozen_truths_are_as_good_as_their_cards_say(path: Path) -> None:
    """The card's error is computed again from the frozen files."""
    card, scene = QualityCard.read(path / "quality.json"), Scene.open(path)
    assert card.verdict in ("trusted", "usable")
    truth, exact = scene.truth("colmap"), scene.truth("exact")
    assert truth.diameter == exact.diameter
    assert truth.crop == exact.crop
    order = [exact.view_names.index(name) for name in truth.view_names]
    theirs = exact.cameras.take(order)
    by_cameras = move_cameras(truth.cameras, align_cameras(truth.cameras, theirs).truth_from_pred)
    assert card.exact is not None
    known = truth.knowledge is not None
    trusted = truth.knowledge.trusted if truth.knowledge is not None else np.zeros(len(truth.points), np.bool_)
    again = exact_error(truth.points, trusted, card.exact.frame_percent or 0.0, by_cameras, theirs, exact)
    assert card.halves is not None and card.halves.apart_percent is not None
    assert card.camera_error_percent is not None and card.dense_coverage is not None
    apart = card.halves.apart_percent
    assert card.predicted == predicted_error(card.camera_error_percent, apart, card.dense_coverage)
    if card.verdict == "trusted":  # what the word promises
        assert card.exact.accuracy_percent < TRUSTED_ERROR
    for field in ("accuracy_percent", "completeness_percent", "centre_rmse_percent", *["trusted_percent"] * known):
        assert getattr(again, field) == pytest.approx(getattr(card.exact, field), abs=0.02)
