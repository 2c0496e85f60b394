"""What importers must bear: coordinates far out, depth of another size, bent lenses, files that changed, files made to
deceive."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import ExifTags, Image

from adapters.contract import InputError
from bench.cli import main
from data.catalog import find_layout, layouts
from data.catalog.colmap import depth_map
from data.catalog.shared import write
from data.catalog.shared.files import MOST_TEXT, read_exr, read_jgz, read_npy, read_pfm
from data.catalog.shared.layout import Surface
from data.catalog.shared.lens import BENT, Lens, resampled, straighten
from data.catalog.shared.model import read_model
from data.catalog.shared.write import Written, write_capture
from data.scene import Scene
from tests.data.catalog.checks import check
from tests.data.catalog.miniatures import K_ANY, MINIATURES, UTM, colmap_model, write_exr, write_ply
from tests.data.catalog.world import SIZE, VIEWS, World


@pytest.fixture(autouse=True)
def _few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MOST_POINTS", 3000)


def _import(name: str, path: Path, out: Path, **options: str) -> Written:
    layout = find_layout(name)
    return write_capture(layout.read(path), layout, path, out, **options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a miniature that no test alters."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = MINIATURES[name](tmp_path_factory.mktemp(name)).path
        return made[name]

    return make


def test_points_in_utm_keep_a_tenth_of_a_millimetre(tmp_path: Path) -> None:
    world, path = World(K_ANY), tmp_path / "site"
    points, normals = world.samples
    moved = []
    for pose in world.poses:
        far = pose.copy()
        far[:3, 3] -= pose[:3, :3] @ UTM
        moved.append(far)
    names = [f"{i}.png" for i in range(VIEWS)]
    colmap_model(path / "sparse", world, names, _camera("PINHOLE"), points[:9] + UTM, np.array(moved))
    write_ply(path / "fused.ply", points + UTM, normals, double=True)
    for i, name in enumerate(names):
        (path / "images").mkdir(exist_ok=True)
        Image.fromarray(world.render(i)[0]).save(path / "images" / name)
    _import("colmap", path, tmp_path / "scene")
    scene = Scene.open(tmp_path / "scene")
    truth, offset = scene.truth("colmap"), np.array(scene.truth_file("colmap").offset)
    assert np.abs(offset - UTM).max() < 1.0
    assert np.abs(truth.points.astype(np.float64) + offset - (points + UTM)).max() < 1e-4
    for view in range(VIEWS):
        pixel, _ = truth.cameras.project(view, truth.points)
        assert np.abs(pixel - world.project(view, points)[0]).max() < 0.02


def _camera(model: str, extra: tuple[float, ...] = ()) -> str:
    numbers = (K_ANY[0, 0], K_ANY[1, 1], K_ANY[0, 2], K_ANY[1, 2], *extra)
    return f"{model} {SIZE[0]} {SIZE[1]} {' '.join(map(str, numbers))}"


def test_binary_models_are_read_as_pycolmap_writes_them(tmp_path: Path) -> None:
    world = World(K_ANY)
    colmap_model(
        tmp_path, world, ["a b.jpg", "c.jpg", "d.jpg", "e.jpg"], _camera("OPENCV", (0.1, 0, 0, 0)), world.samples[0][:7]
    )
    text = read_model(tmp_path)
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(
            camera_id=1, model="OPENCV", width=SIZE[0], height=SIZE[1], params=list(text[0]["c.jpg"][0].params)
        )
    )
    for i, (name, (_, pose)) in enumerate(sorted(text[0].items())):
        image = pycolmap.Image(name, np.arange(14.0).reshape(7, 2), camera_id=1, image_id=i + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
    assert text[1] is not None
    for row, point in enumerate(text[1].points):
        model.add_point3D(point, pycolmap.Track([pycolmap.TrackElement(1, row), pycolmap.TrackElement(2, row)]))
    (tmp_path / "binary").mkdir()
    model.write_binary(tmp_path / "binary")
    images, surface = read_model(tmp_path / "binary")
    assert set(images) == set(text[0]) and surface is not None
    for name, (lens, pose) in images.items():
        assert lens == text[0][name][0]
        np.testing.assert_allclose(pose, text[0][name][1], atol=1e-12)
    np.testing.assert_allclose(np.sort(surface.points, axis=0), np.sort(text[1].points, axis=0), atol=1e-12)


@pytest.mark.parametrize("model", BENT)
def test_every_bent_lens_is_straightened_as_colmap_projects(model: str) -> None:
    focal = (150.0,) if "SIMPLE" in model or model.startswith("RADIAL") else (150.0, 156.0)
    count = len(pycolmap.Camera.create_from_model_name(1, model, 150.0, *SIZE).params)
    extra = (0.9,) if model == "FOV" else (0.02, -0.01, 0.003, 0.002, 0.01, 0.0, 0.0, 0.0)[: count - len(focal) - 2]
    lens = Lens(model, SIZE, (*focal, 83.5, 57.25, *extra))
    lens.check("lens")
    straight = straighten(lens, "lens")
    ray = np.array([[0.11, -0.07, 1.0]])
    camera = pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=list(lens.params))
    bent = camera.img_from_cam(ray)[0]
    pixel = (straight.K @ ray[0])[:2]
    at = np.floor(pixel).astype(int)
    assert np.abs(straight.pixel[at[1], at[0]] - bent - (at + 0.5 - pixel)).max() < 0.05


def test_lenses_that_nothing_straightens_are_refused(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="camera model EQUIRECTANGULAR seen, one of SIMPLE_PINHOLE"):
        Lens("EQUIRECTANGULAR", SIZE, ()).check("photo")
    path = Path(shutil.copytree(kept("nerfstudio"), tmp_path / "raw"))
    meta = json.loads((path / "transforms.json").read_text())
    for change, sentence in (
        ({"k4": 0.1}, "k4 0.1 seen, 0 wanted"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model EQUIRECTANGULAR seen, one of OPENCV"),
        ({"fl_x": -3.0}, "a positive focal length wanted"),
        ({"w": 90}, "160 x 120 pixels seen, the shape of its camera's 90 x 120 wanted"),
    ):
        (path / "transforms.json").write_text(json.dumps({**meta, **change}))
        with pytest.raises(InputError, match=sentence):
            _import("nerfstudio", path, tmp_path / "scene")
        assert not (tmp_path / "scene").exists()


def test_a_file_outside_that_changes_or_goes_is_named(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    path = Path(shutil.copytree(kept("blendedmvs"), tmp_path / "raw"))
    _import("blendedmvs", path, tmp_path / "scene")
    scene = Scene.open(tmp_path / "scene")
    assert len(scene.outside) == VIEWS and not (tmp_path / "scene" / "images").exists()
    image = path / "blended_images" / "00000001.jpg"
    scene.image("00000001")
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(image)
    with pytest.raises(InputError, match=r"00000001\.jpg: changed since .*scene was made"):
        scene.image("00000001")
    image.unlink()
    with pytest.raises(InputError, match=r"00000001\.jpg: not readable \(No such file or directory\)"):
        scene.image_path("00000001")


def test_a_photo_that_would_be_turned_is_refused(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    path = Path(shutil.copytree(kept("blendedmvs"), tmp_path / "raw"))
    image = path / "blended_images" / "00000002.jpg"
    with Image.open(image) as photo:
        exif = photo.getexif()
        exif[ExifTags.Base.Orientation] = 3  # upside down: the size stays
        photo.save(image, exif=exif)
    with pytest.raises(InputError, match=r"00000002\.jpg: an EXIF orientation seen"):
        _import("blendedmvs", path, tmp_path / "scene")


def test_a_mask_outside_counts_by_what_it_holds(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    ids = []
    for place in ("here", "there"):
        path = Path(shutil.copytree(kept("co3d").parents[1], tmp_path / place)) / "teddybear" / kept("co3d").name
        _import("co3d", path, tmp_path / f"{place}-scene")
        ids.append(Scene.open(tmp_path / f"{place}-scene").truth("colmap").id)
    assert ids[0] == ids[1]


def test_depth_of_another_shape_is_refused() -> None:
    values = np.zeros((60, 90), np.float32)
    with pytest.raises(InputError, match="depth: 90 x 60 seen, the shape of its photo's 160 x 120 wanted"):
        resampled(values, SIZE, "depth")
    rows = np.repeat(np.arange(60.0)[:, None], 80, axis=1)
    assert resampled(rows, SIZE, "depth")[[0, 1, 2, 119], 5].tolist() == [0, 0, 1, 59]


def test_views_are_chosen_and_pinned(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    path = kept("dtu")
    whole = _import("dtu", path, tmp_path / "whole")
    assert whole.views == VIEWS and Scene.open(tmp_path / "whole").file.subset == f"all {VIEWS}"
    some = _import("dtu", path, tmp_path / "some", views="2")
    assert Scene.open(some.path).view_names == ("rect_001", "rect_004")
    _import("dtu", path, tmp_path / "again", views="2", pin=some.views_sha256[:16])
    for options, sentence in (
        ({"views": "2", "pin": whole.views_sha256}, "views of sha256 .* seen, .* wanted"),
        ({"views": "9"}, "--views: 9 seen, 1 to 4 wanted"),
        ({"views": "few"}, "--views: few seen, all, a number, pixelnerf-3"),
        ({"views": "pixelnerf-3"}, "4 views seen, 29 at least wanted for subset pixelnerf-3"),
    ):
        with pytest.raises(InputError, match=sentence):
            _import("dtu", path, tmp_path / "refused", **options)
        assert not (tmp_path / "refused").exists()
    with pytest.raises(InputError, match="some: exists, a folder to be made wanted"):
        _import("dtu", path, tmp_path / "some")
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


def test_cameras_and_surface_in_two_frames_are_refused(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    layout = layouts()["eth3d"]
    capture = layout.read(kept("eth3d"))
    assert capture.surface is not None
    elsewhere = replace(capture, surface=Surface(capture.surface.points + 500.0))
    mirrored = replace(capture, photos=[replace(p, camera_from_world=np.diag([-1.0, 1, 1, 1])) for p in capture.photos])
    for wrong, sentence in (
        (elsewhere, "no point falls into any of 4 photos"),
        (mirrored, "pose: a matrix that mirrors seen"),
    ):
        with pytest.raises(InputError, match=sentence):
            write_capture(wrong, layout, tmp_path, tmp_path / "scene")


def test_seven_scenes_without_projected_depth(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    path = Path(shutil.copytree(kept("seven-scenes"), tmp_path / "seq-01"))
    for file in path.glob("*.depth.proj.png"):
        file.unlink()
    made = _import("seven-scenes", path, tmp_path / "scene")
    miniature = MINIATURES["seven-scenes"](tmp_path / "whole")
    check(tmp_path / "scene", replace(miniature, depth=False))
    assert any("another camera" in note for note in made.notes)


def test_dtu_judges_where_it_observed(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    _import("dtu", kept("dtu"), tmp_path / "scene")
    truth = Scene.open(tmp_path / "scene").truth("scan")
    known = truth.knowledge
    assert known is not None and truth.crop is not None and 0.2 < known.trusted.mean() < 0.99
    floor = 600.0 + 300.0 * 0.1
    assert truth.points[known.trusted, 2].min() > floor - 0.5 and truth.points[~known.trusted, 2].max() < floor + 0.5
    low = truth.points.min(axis=0) - 40.0
    np.testing.assert_allclose(known.low, low - 4.0, atol=0.1)  # half a voxel under the centre of the first one
    index = np.floor((truth.points - known.low) / known.edge).astype(int)
    assert not known.free[tuple(index.T)].any() and known.free.mean() > 0.5


def test_a_packed_file_is_not_unpacked_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.jgz").write_bytes(gzip.compress(b" " * (MOST_TEXT // 64)) * 65)
    with pytest.raises(InputError, match=r"a\.jgz: "):
        read_jgz(tmp_path / "a.jgz", list[int])
    (tmp_path / "b.jgz").write_bytes(gzip.compress(b"[1, 2]")[:-9])
    with pytest.raises(InputError, match=r"b\.jgz: a gzip file that is cut off"):
        read_jgz(tmp_path / "b.jgz", list[int])


def test_arrays_are_never_unpickled_nor_believed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy: values of type object seen, numbers wanted"):
        read_npy(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((2, 2)))
    content = (tmp_path / "b.npy").read_bytes().replace(b"(2, 2), }  ", b"(1000000, 1000000), }  "[:11])
    (tmp_path / "b.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.npy: "):
        read_npy(tmp_path / "b.npy")
    (tmp_path / "a.pfm").write_bytes(b"Pf\n100000 100000\n-1.0\n" + bytes(16))
    with pytest.raises(InputError, match=r"a\.pfm: b'Pf', 100000 x 100000 and 16 bytes of values seen"):
        read_pfm(tmp_path / "a.pfm")
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 2**62))
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<Q", 2**62))
    with pytest.raises(InputError, match=r"cameras\.bin: 4611686018427387904 entries in 8 bytes seen"):
        read_model(tmp_path)


def test_depth_maps_are_read_as_pycolmap_writes_them(tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(1, 3, (5, 7)).astype(np.float32)
    pycolmap.DepthMap.from_array(values, 0.0, 3.0).write(tmp_path / "a.bin")
    np.testing.assert_array_equal(depth_map(tmp_path / "a.bin")(), values)


def test_exr_of_every_kind(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 9, (37, 21)).astype(np.float32)
    write_exr(tmp_path / "a.exr", {"B": values * 2, "R": values, "A": values + 1})
    np.testing.assert_array_equal(read_exr(tmp_path / "a.exr"), values)
    content = (tmp_path / "a.exr").read_bytes()
    (tmp_path / "b.exr").write_bytes(content.replace(b"compression\0\1\0\0\0\3", b"compression\0\1\0\0\0\4"))
    with pytest.raises(InputError, match="OpenEXR compression 4 seen, none, ZIPS or ZIP wanted"):
        read_exr(tmp_path / "b.exr")


DECEIT = [
    ("eth3d", "dslr_scan_eval/scan_alignment.mlp", "<MeshGroup>", "<!ENTITY a 'b'><MeshGroup>", "entities seen"),
    ("eth3d", "dslr_scan_eval/scan_alignment.mlp", 'filename="scan1', 'filename="../../x', "one beside it wanted"),
    ("eth3d", "dslr_calibration_undistorted/images.txt", "dslr_images", "../../../etc", "leaves the folder"),
    ("tanks-and-temples", "Ignatius_trans.txt", " ", " 9 ", "16 wanted"),
    ("tanks-and-temples", "Ignatius.json", '"Y"', '"W"', "Invalid enum value 'W'"),
    ("blendedmvs", "cams/00000000_cam.txt", "intrinsic", "inside", "extrinsic, 16 numbers, intrinsic and 9 numbers"),
    ("nerfstudio", "transforms.json", "transform_matrix", "matrix", "missing required field `transform_matrix`"),
    ("spatialbench", "meta.json", "div1000", "div7", "depth_format uint16_png_div7 seen"),
    ("google-scanned-objects", "meshes/model.obj", "vt ", "vn 0 ", "texture coordinates"),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "sentence"), DECEIT)
def test_what_deceives_is_one_sentence(
    name: str, file: str, old: str, new: str, sentence: str, tmp_path: Path, kept: Callable[[str], Path]
) -> None:
    path = Path(shutil.copytree(kept(name), tmp_path / kept(name).name))
    text = (path / file).read_text()
    assert old in text
    (path / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=sentence) as caught:
        _import(name, path, tmp_path / "scene")
    assert "\n" not in str(caught.value)


def test_the_command_refuses_with_a_sentence_and_code_2(
    tmp_path: Path, kept: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = ["data", "import", "blendedmvs", str(kept("blendedmvs")), "--out", str(tmp_path / "scene")]
    for arguments, sentence in (
        (
            ["data", "import", "sculptures", str(tmp_path), "--out", str(tmp_path / "x")],
            "layout sculptures seen, one of",
        ),
        (["data", "import", "dtu"], "a layout (blendedmvs,"),
        ([*good[:3], str(tmp_path), *good[4:]], "no *_cam.txt seen"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2 and sentence in capsys.readouterr().err.replace("\n", "")
    with pytest.raises(SystemExit) as ended:
        main(good)
    assert not ended.value.code and f"{VIEWS} of {VIEWS} views" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["data", "import", "--list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in MINIATURES) and listed.count("unverified") == 1


def test_paths_that_leave_the_dataset_are_refused(tmp_path: Path, kept: Callable[[str], Path]) -> None:
    root = Path(shutil.copytree(kept("co3d").parents[1], tmp_path / "co3d"))
    file = root / "teddybear" / "frame_annotations.jgz"
    text = gzip.decompress(file.read_bytes()).replace(b'"path": "teddybear/', b'"path": "../teddybear/')
    file.write_bytes(gzip.compress(text))
    with pytest.raises(InputError, match=r"frame 0: path \.\./teddybear/.* leaves"):
        _import("co3d", root / "teddybear" / kept("co3d").name, tmp_path / "scene")


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, overwritten, doubled or emptied."""
    kind, n = int(rng.integers(5)), len(content)
    at = int(rng.integers(max(n, 1)))
    if kind == 0:
        return content[:at]
    if kind == 1:
        noise = rng.integers(0, 256, min(n, 12), np.uint8).tobytes()
        return content[:at] + noise + content[at + len(noise) :]
    if kind == 2:
        return content[: n // 2] * 2
    if kind == 3:
        return content.replace(b"1", b"9e9", 3).replace(b"0.", b"nan", 1)
    return b""


def damaged_imports(name: str, path: Path, work: Path, count: int, seed: int) -> tuple[int, int]:
    """How many of `count` imports of the miniature at `path`, a file damaged, were read, and how many refused."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    outside = {"co3d": [path.parent / "frame_annotations.jgz"], "dtu": sorted(path.parents[1].glob("*/**/*6*.*"))}
    files += outside.get(name, [])
    read = 0
    for number in range(count):
        file = files[int(rng.integers(len(files)))]
        content = file.read_bytes()
        file.write_bytes(damage(content, rng))
        try:
            _import(name, path, work / f"{number}")
            read += 1
        except InputError as error:
            assert str(error) and "\n" not in str(error), error
        finally:
            file.write_bytes(content)
    return read, count - read


@pytest.mark.parametrize("name", MINIATURES)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MOST_POINTS", 300)
    path = MINIATURES[name](tmp_path / "raw").path
    damaged_imports(name, path, tmp_path / "scenes", 4, 5)
