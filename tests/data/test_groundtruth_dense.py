"""The dense surface of ground truth, and COLMAP's own dense tools beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from adapters.contract import Cameras, InputError
from adapters.shared.stereo import DepthMap
from data.groundtruth import cuda
from data.groundtruth.colmap import run_module
from data.groundtruth.dense import Dense, Solved, dense_surface, enlarge
from data.groundtruth.fusion import fused_by_colmap
from data.groundtruth.measure import across, compare_fusion
from data.groundtruth.mesh import poisson_mesh
from tests.data.rings import ring


@pytest.fixture(scope="module")
def plane() -> tuple[Solved, Dense, list[float]]:
    """The plane z = 0 seen from above, by stereo that answers exactly; and the progress it made."""
    cameras = ring(6, height=5.0, radius=1.0, size=200)
    image = np.full((200, 200, 3), (10, 120, 200), np.uint8)
    points = (np.random.default_rng(0).uniform(-1, 1, (300, 3)) * [1, 1, 0]).astype(np.float32)
    solved = Solved([image] * 6, None, cameras, np.full((6, 2), 200, np.int32), points, np.ones((6, 300), bool))

    def exact(images, K, poses, ranges, neighbours, seed, valid, progress):  # type: ignore[no-untyped-def]
        cameras, maps = Cameras(K, poses), []
        for i, small in enumerate(images):
            assert small.shape == (100, 100, 3)
            v, u = np.mgrid[:100, :100] + 0.5
            pixel = np.stack([u.ravel(), v.ravel()], axis=1)
            ray = cameras.unproject(i, pixel, np.ones(len(pixel))) - cameras.centres[i]
            depth = -cameras.centres[i, 2] / ray[:, 2]
            assert (depth > ranges[i, 0]).all()
            normal = np.tile(cameras.camera_from_world[i, :3, 2], (100, 100, 1))
            maps.append(DepthMap(depth.reshape(100, 100).astype("f4"), normal.astype("f4"), np.zeros((100, 100), "f4")))
            progress(i + 1, len(images))
        return maps

    shares: list[float] = []
    return solved, dense_surface(solved, seed=0, side=100, stereo=exact, progress=shares.append), shares


def test_dense_surface_of_a_known_plane(plane: tuple[Solved, Dense, list[float]]) -> None:
    """The cloud lies on it, every pixel is confirmed, colours are the photos' and intrinsics are brought down with the
    images."""
    _, dense, shares = plane
    assert np.abs(dense.points[:, 2]).max() < 1e-3
    assert np.allclose(dense.normals, [0, 0, 1], atol=1e-5)
    assert (np.abs(dense.colors.astype(int) - (10, 120, 200)) <= 1).all()
    assert dense.coverage > 0.8  # the borders are in too few views to be agreed on
    assert shares[-1] == 1.0


def test_colmaps_fusion_finds_the_same_plane_and_a_raised_one_is_detected(
    plane: tuple[Solved, Dense, list[float]],
) -> None:
    """COLMAP itself, on maps that it reads from files: poses, normals and maps must all be where it looks for them."""
    solved, dense, _ = plane
    points = fused_by_colmap(dense, solved, seed=0)
    assert len(points) > 2000
    assert np.abs(points[:, 2]).max() < 1e-3
    assert np.ptp(points[:, :2], axis=0) == pytest.approx(np.ptp(dense.points[:, :2], axis=0), rel=0.1)
    notes: list[str] = []
    assert compare_fusion(dense, solved, None, 2.0, 0, notes) == pytest.approx(0, abs=0.01)
    raised = replace(dense, points=dense.points + np.float32([0, 0, 0.02]))
    assert compare_fusion(raised, solved, None, 2.0, 0, notes) == pytest.approx(1.0, rel=0.01)
    assert notes == []


def test_a_fusion_that_cannot_run_is_null_with_a_note(plane: tuple[Solved, Dense, list[float]]) -> None:
    solved, dense, _ = plane
    empty = replace(dense, maps=tuple(m.keep(np.zeros(m.depth.shape, np.bool_)) for m in dense.maps))
    notes: list[str] = []
    assert compare_fusion(empty, solved, None, 2.0, 0, notes) is None
    assert "fusion not compared" in notes[0]


def test_a_failure_of_colmap_is_reported() -> None:
    with pytest.raises(InputError, match=r"ended with code 1: .*no-such"):
        run_module("data.groundtruth.fusion", ["no-such-folder", "no-such.ply"])
    with pytest.raises(InputError, match=r"more than 0\.05 s"):
        run_module("data.groundtruth.fusion", ["a", "b"], 0.05)


def test_the_distance_off_a_surface_knows_no_spacing() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), [0.0]), axis=-1).reshape(-1, 3).astype(np.float32)
    queries = np.random.default_rng(0).uniform(0, 4, (50, 3)).astype(np.float32) * np.float32([1, 1, 0.1])
    up = np.tile(np.float32([0, 0, 1]), (25, 1))
    assert across(queries, grid, up)[1] == pytest.approx(queries[:, 2])


def test_a_mesh_ends_where_its_cloud_ends() -> None:
    """Most of a sphere: Poisson closes the hole, and what lies in it is cut off again."""
    sphere = np.random.default_rng(0).normal(size=(20_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    cloud = sphere[sphere[:, 2] > -0.3].astype(np.float32)
    mesh = poisson_mesh(cloud, cloud, np.full(cloud.shape, 90, np.uint8), unit=4.0)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 1).max() < 0.01
    assert -0.35 < mesh.vertices[:, 2].min() < -0.28
    assert mesh.area == pytest.approx(2 * np.pi * 1.3, rel=0.02)  # Archimedes: area is as height
    assert (np.einsum("fi,fi->f", mesh.face_normals, mesh.triangles_center) > 0).mean() > 0.999
    assert np.abs(np.asarray(mesh.visual.vertex_colors)[:, :3].astype(int) - 90).max() <= 1


def test_colmaps_patch_match_is_fed_and_read_through_its_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the CUDA kernel: poses, sizes and sources are read back with COLMAP's own readers, and the maps that
    it would write come back, limited to the valid pixels."""
    cameras = ring(3, size=60)
    images = [np.full((60, 60, 3), 40 * i, np.uint8) for i in range(3)]
    depth = np.random.default_rng(0).uniform(1, 2, (60, 60)).astype(np.float32)
    normal = np.tile(np.float32([0, 0, -1]), (60, 60, 1))

    def kernel(module: str, arguments: list[str]) -> None:
        assert module == "data.groundtruth.cuda"
        workspace, nearest, farthest = Path(arguments[0]), *map(float, arguments[1:])
        assert (nearest, farthest) == (1.0, 4.0)
        model = pycolmap.Reconstruction(workspace / "sparse")
        for index in range(3):
            image = model.find_image_with_name(f"{index:06d}.png")
            assert np.allclose(image.cam_from_world().matrix(), cameras.camera_from_world[index, :3])
            K = image.camera.calibration_matrix()
            assert np.allclose(K[:2, 2] + 0.5, cameras.intrinsics[index, :2, 2])  # pixel centres at whole numbers
            assert np.allclose(np.diag(K), np.diag(cameras.intrinsics[index]))
        config = (workspace / "stereo" / "patch-match.cfg").read_text().splitlines()
        assert config == ["000000.png", "000001.png, 000002.png", "000001.png", "000000.png"]
        for index in range(2):
            name = f"{index:06d}.png.geometric.bin"
            pycolmap.DepthMap.from_array(depth, 1.0, 4.0).write(workspace / "stereo" / "depth_maps" / name)
            pycolmap.NormalMap.from_array(normal).write(workspace / "stereo" / "normal_maps" / name)

    monkeypatch.setattr(cuda, "run_module", kernel)
    valid = [np.ones((60, 60), np.bool_) for _ in range(3)]
    valid[1][:30] = False
    ranges = np.array([[1.0, 3.0], [1.5, 4.0], [2.0, 3.0]])
    maps = cuda.patch_match_maps(
        images,
        cameras.intrinsics,
        cameras.camera_from_world,
        ranges,
        [(1, 2), (0,), ()],
        0,
        valid,
        lambda done, of: None,
    )
    assert np.array_equal(maps[0].depth, depth)
    assert np.array_equal(maps[0].normal, normal)
    assert not maps[1].depth[:30].any()
    assert np.array_equal(maps[1].depth[30:], depth[30:])
    assert not maps[2].depth.any()


def test_enlarged_depth_takes_the_pixel_under_each_centre() -> None:
    small = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(enlarge(small, (6, 4)), np.repeat(np.repeat(small, 2, 0), 2, 1))
    assert np.array_equal(enlarge(small, (3, 2)), small)
