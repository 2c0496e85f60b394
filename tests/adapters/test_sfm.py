"""Structure from motion on rendered photos whose cameras are known exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates, zoom

from adapters.contract import Cameras, Unsupported
from adapters.shared.sfm import ImageFiles, SparseModel, _extract, pinhole_focal, sparse_model, undistorted
from data.synthetic.rig import look_at

FOCAL, WIDTH, HEIGHT = 380.0, 320, 240
VIEWS = 6


def corner_views(count: int = VIEWS, radial: float = 0.0) -> tuple[list[np.ndarray], Cameras]:
    """Photos of a textured room corner (the planes x = 0, y = 0 and z = 0), `radial` being k of SIMPLE_RADIAL."""
    rng = np.random.default_rng(0)
    texture = sum(zoom(rng.uniform(size=(3, n, n, 3)), (1, 512 // n, 512 // n, 1), order=1) for n in (16, 64, 256))
    texture = (texture - texture.min()) / (texture.max() - texture.min()) * 255
    images, poses = [], []
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    for i in range(count):
        angle = np.pi / 4 + 0.13 * (i - (count - 1) / 2)
        centre = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), 1.6 + 0.15 * (i % 2)])
        pose = look_at(centre, np.array([0.5, 0.5, 0.5]))
        poses.append(pose)
        v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        plane = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL], axis=-1)
        for _ in range(20 if radial else 0):  # the inverse of x (1 + k r^2), by fixed-point iteration
            image_plane = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL], axis=-1)
            plane = image_plane / (1 + radial * (plane**2).sum(axis=-1, keepdims=True))
        rays = np.concatenate([plane, np.ones((*plane.shape[:2], 1))], axis=-1) @ pose[:3, :3]
        reach = np.where(rays < 0, -centre / np.where(rays < 0, rays, -1.0), np.inf)
        wall = reach.argmin(axis=-1)
        hit = centre + rays * reach.min(axis=-1)[..., None]
        across = np.stack([np.delete(np.arange(3), k) for k in range(3)])[wall]
        st = np.take_along_axis(hit, across, axis=-1) * 180
        image = np.zeros((HEIGHT, WIDTH, 3))
        for k in range(3):
            for channel in range(3):
                sample = map_coordinates(texture[k, :, :, channel], [st[..., 0], st[..., 1]], order=1, mode="mirror")
                image[..., channel] = np.where(wall == k, sample, image[..., channel])
        images.append(image.round().astype(np.uint8))
    return images, Cameras(np.tile(K, (count, 1, 1)), np.array(poses))


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Umeyama's scale, rotation and translation of `target` from `source`, both (M, 3)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    U, S, Vt = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(U @ Vt))])
    R = U * sign @ Vt
    scale = float((S * sign).sum() / (a**2).sum())
    return scale, R, target.mean(axis=0) - scale * R @ source.mean(axis=0)


@pytest.fixture(scope="module")
def corner() -> tuple[list[np.ndarray], Cameras]:
    return corner_views()


@pytest.fixture(scope="module")
def model(corner: tuple[list[np.ndarray], Cameras]) -> SparseModel:
    return sparse_model(corner[0], seed=3)


def test_cameras_and_points_are_right_up_to_a_similarity(
    model: SparseModel, corner: tuple[list[np.ndarray], Cameras]
) -> None:
    _, exact = corner
    assert model.registered.all()
    assert model.model_sizes[0] == VIEWS
    assert model.cameras.intrinsics[:, 0, 0] == pytest.approx(FOCAL, rel=0.01)
    assert np.allclose(model.cameras.intrinsics[:, :2, 2], (WIDTH / 2, HEIGHT / 2))
    assert model.distortion.max() < 0.5
    assert model.reprojection_error < 0.6
    scale, R, t = similarity(model.cameras.centres, exact.centres)
    assert np.abs(scale * model.cameras.centres @ R.T + t - exact.centres).max() < 0.02
    points = scale * model.points.astype(np.float64) @ R.T + t
    assert np.median(np.abs(points).min(axis=1)) < 0.003  # on one of the three planes


def test_observations_are_where_their_points_project(model: SparseModel) -> None:
    """An independent reading of tracks: reprojection through the pinhole cameras gives the stated error."""
    errors = np.zeros(len(model.observation_point))
    for view in range(VIEWS):
        rows = model.observation_view == view
        pixel, depth = model.cameras.project(view, model.points[model.observation_point[rows]])
        assert (depth > 0).all()
        errors[rows] = np.linalg.norm(pixel - model.observation_pixel[rows], axis=1)
    assert errors.mean() == pytest.approx(model.reprojection_error, abs=0.1)
    assert (np.diff(model.observation_point) >= 0).all()
    assert model.track_length.min() >= 2
    assert model.track_length.sum() == len(model.observation_view)


def test_colours_are_the_photos(model: SparseModel, corner: tuple[list[np.ndarray], Cameras]) -> None:
    images, _ = corner
    pairs = zip(model.observation_view, model.observation_pixel.astype(int), strict=True)
    observed = np.array([images[view][y, x] for view, (x, y) in pairs], float)
    modelled = model.colors[model.observation_point].astype(float)
    assert np.median(np.abs(observed - modelled).max(axis=1)) < 12


def test_same_bits_whatever_the_threads(model: SparseModel, corner: tuple[list[np.ndarray], Cameras]) -> None:
    again = sparse_model(corner[0], seed=3, threads=1)
    assert again.points.tobytes() == model.points.tobytes()
    assert again.cameras.camera_from_world.tobytes() == model.cameras.camera_from_world.tobytes()
    assert again.observation_pixel.tobytes() == model.observation_pixel.tobytes()


@pytest.mark.parametrize(("blank", "searches"), [(False, [False]), (True, [False, True])])
def test_large_photos_are_enlarged_only_where_one_stays_out(
    corner: tuple[list[np.ndarray], Cameras], blank: bool, searches: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, exact = corner
    done: list[bool] = []

    def extract(*arguments: Any) -> list[pycolmap.Camera]:
        done.append(arguments[4])
        return _extract(*arguments)

    monkeypatch.setattr("adapters.shared.sfm._extract", extract)
    monkeypatch.setattr("adapters.shared.sfm.LARGE", max(WIDTH, HEIGHT) - 1)
    model = sparse_model([*images, np.full((HEIGHT, WIDTH, 3), 127, np.uint8)] if blank else images, seed=3)
    assert done == searches
    assert model.registered[:VIEWS].all()
    scale, R, t = similarity(model.cameras.centres[:VIEWS], exact.centres)
    assert np.abs(scale * model.cameras.centres[:VIEWS] @ R.T + t - exact.centres).max() < 0.02
    assert model.matched[:VIEWS].min() > 0


def test_a_model_of_large_photos_as_they_are_outlives_a_worse_one_of_them_enlarged(
    corner: tuple[list[np.ndarray], Cameras], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One view stays out either way, and enlarged nothing is matched at all."""
    blank = np.full((HEIGHT, WIDTH, 3), 127, np.uint8)

    def extract(database: Path, images: Any, groups: Any, focal: Any, enlarged: bool, *rest: Any) -> Any:
        return _extract(database, [blank] * len(images) if enlarged else images, groups, focal, enlarged, *rest)

    monkeypatch.setattr("adapters.shared.sfm._extract", extract)
    monkeypatch.setattr("adapters.shared.sfm.LARGE", max(WIDTH, HEIGHT) - 1)
    assert sparse_model([*corner[0], blank], seed=3).registered.tolist() == [True] * VIEWS + [False]


def test_a_blank_view_stays_unregistered_and_groups_have_their_own_focal(
    corner: tuple[list[np.ndarray], Cameras],
) -> None:
    images = [*corner[0], np.full((HEIGHT, WIDTH, 3), 127, np.uint8)]
    model = sparse_model(images, groups=["a"] * VIEWS + ["b"], focal={"b": 555.0})
    assert model.registered.tolist() == [True] * VIEWS + [False]
    assert np.isnan(model.cameras.camera_from_world[-1]).all()
    assert model.cameras.intrinsics[-1, 0, 0] == 555.0
    model.cameras.validate("cameras", VIEWS + 1, where=model.registered)


def test_radial_distortion_is_found_and_its_cost_stated() -> None:
    images, _ = corner_views(radial=-0.15)
    model = sparse_model(images)
    assert model.radial.mean() == pytest.approx(-0.15, abs=0.02)
    assert model.cameras.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.02)
    radius = np.hypot(WIDTH, HEIGHT) / 2 / FOCAL
    assert model.distortion == pytest.approx(0.15 * radius**3 * FOCAL, rel=0.2)


@pytest.mark.parametrize("radial", [-0.2, 0.15])
def test_undistortion_gives_what_a_pinhole_sees(radial: float) -> None:
    """An analytic scene photographed through SIMPLE_RADIAL, undone, against the same scene through a pinhole."""
    size, focal = (160, 120), 140.0
    K = np.array([[focal, 0, 80.0], [0, focal, 60.0], [0, 0, 1]])

    def scene(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 127 + 50 * np.sin(9 * x + 2) + 50 * np.cos(7 * y)

    v, u = np.mgrid[: size[1], : size[0]] + 0.5
    ix, iy = (u - 80) / focal, (v - 60) / focal
    x, y = ix.copy(), iy.copy()
    for _ in range(100):
        factor = 1 + radial * (x**2 + y**2)
        x, y = ix / factor, iy / factor
    new_focal = pinhole_focal(focal, radial, size)
    photo = scene(x, y).round().astype(np.uint8)
    observed = undistorted(photo, K, radial, new_focal)
    wanted = scene((u - 80) / new_focal, (v - 60) / new_focal)
    assert np.abs(observed - wanted)[1:-1, 1:-1].max() < 4
    corner = np.hypot(80, 60) / new_focal
    assert focal * corner * (1 + radial * corner**2) <= np.hypot(80, 60) * (1 + 1e-9)  # nothing from beyond the photo
    colour = np.stack([photo, 255 - photo], axis=-1)
    assert np.array_equal(undistorted(colour, K, radial, new_focal)[..., 0], observed)
    assert undistorted(photo, K, 0.0, focal) is photo


def test_blank_or_single_photos_are_unsupported() -> None:
    blank = np.full((64, 64, 3), 90, np.uint8)
    with pytest.raises(Unsupported, match="at least 2"):
        sparse_model([blank])
    with pytest.raises(Unsupported, match="no model found among 3 views"):
        sparse_model([blank] * 3)
    with pytest.raises(ValueError, match="matcher"):
        sparse_model([blank] * 2, matcher="spatial")


def test_as_a_process_it_gives_the_same_model(
    tmp_path: Path, model: SparseModel, corner: tuple[list[np.ndarray], Cameras]
) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(VIEWS)]
    for path, image in zip(paths, corner[0], strict=True):
        Image.fromarray(image).save(path)
    assert np.array_equal(ImageFiles(paths)[2], corner[0][2])
    (tmp_path / "job.json").write_text(json.dumps({"images": [str(path) for path in paths], "seed": 3}))
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "adapters.shared.sfm", str(tmp_path / "job.json"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120)
    stages = [json.loads(line)["stage"] for line in done.stdout.splitlines()]
    assert stages[0] == "extract"
    assert "map" in stages
    other = SparseModel.load(tmp_path / "out.npz")
    assert other.points.tobytes() == model.points.tobytes()
    assert other.model_sizes == model.model_sizes
    assert other.reprojection_error == model.reprojection_error
