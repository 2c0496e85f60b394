"""The embedded scenes: what is committed is exact, all round, well framed, and small."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import point_cloud_utils as pcu
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from data.scene import Scene, TruthFile, _decode
from metrics.scoring.truth import Truth, diameter

EMBEDDED = Path(__file__).parents[2] / "data" / "embedded"
SCENES = sorted(path.parent.name for path in EMBEDDED.glob("*/scene.json"))
pytestmark = pytest.mark.parametrize("name", SCENES)


@cache
def opened(name: str) -> tuple[Scene, Truth, TruthFile]:
    scene = Scene.open(EMBEDDED / name)
    return scene, scene.truth("exact"), _decode(scene.path / "truth" / "exact" / "truth.json", TruthFile)


def mesh_of(truth: Truth) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    assert truth.vertices is not None and truth.faces is not None
    return truth.vertices, truth.faces


def depths_of(truth: Truth) -> tuple[NDArray[np.float32], ...]:
    assert truth.depth is not None and truth.masks is not None
    return truth.depth


def rays(truth: Truth, view: int, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """(M, 3) directions through pixel centres, z-depth 1 long: a hit's distance along them is its z-depth."""
    pixel = np.stack([columns + 0.5, rows + 0.5], axis=1)
    return np.asarray(truth.cameras.unproject(view, pixel, np.ones(len(pixel))) - truth.cameras.centres[view])


def first_hit(
    vertices: NDArray[np.float64], faces: NDArray[np.int32], origin: NDArray[np.float64], ray: NDArray[np.float64]
) -> float:
    """Distance along one ray to the nearest triangle, inf without one (Moeller and Trumbore, 1997)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    p = np.cross(ray, c - a)
    det = np.einsum("fd,fd->f", p, b - a)
    det = np.where(np.abs(det) < 1e-18, np.inf, det)
    s = origin - a
    u = np.einsum("fd,fd->f", s, p) / det
    q = np.cross(s, b - a)
    v, t = q @ ray / det, np.einsum("fd,fd->f", q, c - a) / det
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return float(t[hit].min()) if hit.any() else np.inf


def test_every_depth_map_is_the_mesh_seen_from_its_camera(name: str) -> None:
    _, truth, file = opened(name)
    vertices, faces = mesh_of(truth)
    for view, depth in enumerate(depths_of(truth)):
        rows, columns = (index.ravel()[::7] for index in np.indices(depth.shape))
        _, _, t = pcu.ray_mesh_intersection(
            vertices.astype(np.float32),
            faces,
            truth.cameras.centres[view].astype(np.float32),
            rays(truth, view, rows, columns).astype(np.float32),
        )
        observed = np.where(np.isfinite(t), t, 0.0)
        wrong = np.abs(depth[rows, columns] - observed) > 0.51 * file.depth_unit + 1e-6
        assert wrong.mean() < 1e-4, truth.view_names[view]


def test_depth_agrees_with_rays_traced_by_hand(name: str) -> None:
    _, truth, file = opened(name)
    vertices, faces = mesh_of(truth)
    rng = np.random.default_rng(0)
    for view in (0, 13, 27):
        depth = depths_of(truth)[view]
        rows, columns = rng.integers(0, depth.shape[0], 60), rng.integers(0, depth.shape[1], 60)
        origin = truth.cameras.centres[view]
        traced = np.array([first_hit(vertices, faces, origin, ray) for ray in rays(truth, view, rows, columns)])
        observed = np.where(np.isfinite(traced), traced, 0.0)
        assert (np.abs(depth[rows, columns] - observed) > 0.51 * file.depth_unit + 1e-6).sum() <= 1  # one on an outline


def test_depth_is_stored_finely(name: str) -> None:
    _, _, file = opened(name)
    assert file.depth_unit / 2 <= 3e-4 * file.diameter


def test_masks_are_where_there_is_depth(name: str) -> None:
    scene, truth, _ = opened(name)
    for view, depth in zip(truth.view_names, depths_of(truth), strict=True):
        np.testing.assert_array_equal(scene.mask(view), depth > 0)


def test_the_object_fills_the_frame_and_stays_inside(name: str) -> None:
    scene, truth, _ = opened(name)
    fill = np.array([(depth > 0).mean() for depth in depths_of(truth)])
    low = 0.12 if scene.file.difficulty == "thin" else 0.30  # holes show the table
    assert low <= fill.min() and fill.max() <= 0.65, fill.round(2)
    for view, (width, height) in enumerate(truth.sizes):
        pixel, _ = truth.cameras.project(view, mesh_of(truth)[0])
        assert (pixel > 2).all() and (pixel < [width - 2, height - 2]).all(), truth.view_names[view]


def test_views_go_all_round_at_varied_heights_with_two_lenses(name: str) -> None:
    scene, truth, _ = opened(name)
    groups = np.array([view.group for view in scene.file.views])
    assert (groups == "a").sum() == 24 and (groups == "b").sum() == 8
    assert (truth.sizes == 518).all()
    truth.cameras.validate("cameras", 32)
    np.testing.assert_allclose(np.linalg.det(truth.cameras.camera_from_world[:, :3, :3]), 1, atol=1e-12)
    focal = truth.cameras.intrinsics[:, 0, 0]
    assert len(set(focal[groups == "a"])) == 1 and len(set(focal[groups == "b"])) == 1
    assert abs(focal[groups == "a"][0] / focal[groups == "b"][0] - 1) > 0.2
    middle = mesh_of(truth)[0].mean(axis=0)
    for group, gap in (("a", 30), ("b", 80)):
        x, y, z = (truth.cameras.centres[groups == group] - middle).T
        azimuth = np.sort(np.degrees(np.arctan2(y, x)))
        assert np.diff(azimuth, append=azimuth[0] + 360).max() < gap
        assert np.ptp(np.degrees(np.arctan2(z, np.hypot(x, y)))) > 25


def places_seen(truth: Truth, views: tuple[int, int], slack: float) -> list[NDArray[np.intp]]:
    """For each of two views the (M, 2) pixels, row then column, of the same M surface points that both see."""
    points = truth.points[::10].astype(np.float64)
    observed, places = np.ones(len(points), bool), []
    for view in views:
        pixel, z = truth.cameras.project(view, points)
        column, row = pixel.astype(np.intp).clip(6, 511).T
        observed &= np.abs(depths_of(truth)[view][row, column] - z) < slack
        places.append(np.stack([row, column], axis=1))
    return [place[observed] for place in places]


def test_photographs_were_taken_by_these_cameras(name: str) -> None:
    """The same surface points look alike in neighbouring views, and over all pairs less so two pixels off."""
    scene, truth, file = opened(name)
    likeness: dict[int, list[float]] = {-2: [], 0: [], 2: []}
    for views in ((0, 1), (8, 9), (16, 17), (24, 25)):
        left, right = places_seen(truth, views, slack=0.006 * file.diameter)
        assert len(left) > 500
        first, second = (scene.image(truth.view_names[view]).astype(np.float64).mean(axis=2) for view in views)
        for shift, result in likeness.items():
            moved = second[right[:, 0], right[:, 1] + shift]
            result.append(np.corrcoef(first[left[:, 0], left[:, 1]], moved)[0, 1])
    assert min(likeness[0]) > (0.3 if scene.file.difficulty == "glossy" else 0.6), likeness
    assert np.mean(likeness[0]) > max(np.mean(likeness[-2]), np.mean(likeness[2])), likeness


def test_the_mesh_is_closed_small_and_measured_as_stored(name: str) -> None:
    _, truth, file = opened(name)
    vertices, faces = mesh_of(truth)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.volume > 0
    assert 15_000 <= len(faces) <= 30_000
    assert vertices[:, 2].min() == pytest.approx(0, abs=1e-4)
    assert diameter(truth.points) == pytest.approx(file.diameter, rel=1e-6)
    assert 0.2 < file.diameter < 0.6  # metres: a toy


def test_the_crop_holds_the_object_and_not_the_table(name: str) -> None:
    _, truth, file = opened(name)
    assert truth.crop is not None
    vertices, margin = mesh_of(truth)[0], 0.02 * file.diameter
    np.testing.assert_allclose(truth.crop.low[:2], vertices[:, :2].min(axis=0) - margin, atol=1e-6)
    np.testing.assert_allclose(truth.crop.high, vertices.max(axis=0) + margin, atol=1e-6)
    assert truth.crop.low[2] == pytest.approx(0.01 * file.diameter)


def test_no_mirror_and_no_turn_maps_the_object_to_itself(name: str) -> None:
    _, truth, file = opened(name)
    centred = truth.points[::8].astype(np.float64) - truth.points.mean(axis=0)
    cloud, tree = centred[::20], cKDTree(centred)
    for degrees in range(0, 180, 10):
        c, s = np.cos(np.radians(2 * degrees)), np.sin(np.radians(2 * degrees))
        mirror = np.array([[c, s, 0], [s, -c, 0], [0, 0, 1]])
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        for transform in (mirror, turn) if degrees else (mirror,):
            assert np.mean(tree.query(cloud @ transform.T)[0]) > 0.01 * file.diameter, degrees


def test_committed_files_stay_small(name: str) -> None:
    """15 MB for all scenes, COLMAP's truths included; the single objects have a limit of their own."""
    files = [p for scene in SCENES for p in (EMBEDDED / scene).rglob("*") if p.is_file()]
    assert (EMBEDDED / name / "scene.json") in files
    assert sum(p.stat().st_size for p in files) <= 15e6
