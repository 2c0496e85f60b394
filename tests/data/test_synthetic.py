"""The modelling tool, without the renderer: solids, normals, the texture atlas, the cameras."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import trimesh

from adapters.contract import F64
from data.synthetic import RECIPES, sdf
from data.synthetic.noise import fbm, lattice_hash
from data.synthetic.paint import Coat, bake, corner_normals, encode_srgb, linear, terrazzo
from data.synthetic.rig import FOCAL, FRAMING, WIDTH, orbit


def ball(radius: float = 1.0) -> trimesh.Trimesh:
    sphere: trimesh.Trimesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return sphere


def test_primitives_measure_distance_where_it_is_known() -> None:
    p = np.array([[3.0, 0, 0], [0, 0, 2.5], [0, 4.0, 0], [0, 0, 0]])
    np.testing.assert_allclose(sdf.ellipsoid(p, (0, 0, 0), (1, 1, 1))[:3], [2, 1.5, 3])
    np.testing.assert_allclose(sdf.box(p, (0, 0, 0), (1, 1, 1), 0.2), [2, 1.5, 3, -1])
    np.testing.assert_allclose(sdf.capsule(p, (0, 0, -1), (0, 0, 1), 0.5), [2.5, 1.0, 3.5, -0.5])
    np.testing.assert_allclose(sdf.torus(p, (0, 0, 0), (0, 0, 1), 2.0, 0.5), [0.5, np.hypot(2, 2.5) - 0.5, 1.5, 1.5])
    np.testing.assert_allclose(sdf.cylinder(p, (0, 0, 0), (0, 0, 2), 1.0, 0.5, 0.1), [2, 2, 3, -0.5])


def test_a_smooth_union_is_the_union_away_from_the_joint() -> None:
    a, b = np.array([1.0, -2.0, 0.3]), np.array([5.0, 3.0, 0.3])
    np.testing.assert_allclose(sdf.smooth_union(a, b, 0.2)[:2], sdf.union(a, b)[:2])
    assert sdf.smooth_union(a, b, 0.2)[2] < 0.3


def test_a_turn_keeps_lengths_and_follows_the_right_hand() -> None:
    np.testing.assert_allclose(sdf.rotation([0, 0, 2], 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_noise_depends_on_its_seed_alone() -> None:
    p = np.random.default_rng(0).uniform(-5, 5, (2000, 3))
    np.testing.assert_array_equal(fbm(p, 3, 7), fbm(p, 3, 7))
    assert np.abs(fbm(p, 3, 7) - fbm(p, 3, 8)).mean() > 0.05
    h = lattice_hash(np.stack([np.arange(-5000, 5000), np.zeros(10_000, np.int64)], axis=1), 1)
    assert h.min() >= 0 and h.max() < 1 and abs(h.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(h[:-1], h[1:])[0, 1]) < 0.05


def test_srgb_hex_survives_linear_light() -> None:
    np.testing.assert_array_equal(encode_srgb(linear("0a7bff", "e4572e")), [[10, 123, 255], [228, 87, 46]])


def test_terrazzo_has_its_ground_and_all_its_chips() -> None:
    chips, sizes = linear("b5533c", "2f6f73"), ((0.018, 0.22), (0.034, 0.30))
    stone = terrazzo(0.5, 128, "ded6c6", chips, sizes, 3)
    np.testing.assert_array_equal(stone, terrazzo(0.5, 128, "ded6c6", chips, sizes, 3))
    for colour in chips:
        assert (np.abs(stone - colour).max(axis=2) < 0.12).mean() > 0.02


def test_corner_normals_round_a_ball_and_keep_the_edges_of_a_box() -> None:
    sphere = ball()
    smooth = corner_normals(sphere.vertices.astype(np.float32), sphere.faces.astype(np.int32))
    outward = sphere.vertices[sphere.faces] / np.linalg.norm(sphere.vertices[sphere.faces], axis=2, keepdims=True)
    assert np.einsum("fkd,fkd->fk", smooth, outward).min() > 0.999
    cube = trimesh.creation.box()
    flat = corner_normals(cube.vertices.astype(np.float32), cube.faces.astype(np.int32))
    np.testing.assert_allclose(flat, np.repeat(cube.face_normals[:, None], 3, axis=1), atol=1e-6)


def test_the_atlas_gives_back_the_paint_and_never_a_neighbours() -> None:
    """Bilinear look-ups anywhere in a triangle read the solid texture there; faces of wild colours do not leak."""
    sphere = ball()
    vertices, faces = sphere.vertices.astype(np.float32), sphere.faces.astype(np.int32)

    def paint(p: F64, n: F64) -> Coat:
        return Coat(
            0.5 + 0.3 * p, np.full(len(p), 0.5), np.zeros(len(p)), np.zeros(len(p))
        )  # linear: bilinear is exact

    atlas = bake(vertices, faces, corner_normals(vertices, faces), paint, 0.02)
    rng = np.random.default_rng(0)
    weight = rng.dirichlet([0.4] * 3, len(faces))  # many close to corners and edges
    uv = np.einsum("fk,fkd->fd", weight, atlas.uv.astype(np.float64))
    height, width = atlas.roughness.shape
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = (x - i)[:, None], (y - j)[:, None]
    c = atlas.colour.astype(np.float64)
    right, below = np.minimum(i + 1, width - 1), np.minimum(j + 1, height - 1)
    read = (1 - b) * ((1 - a) * c[j, i] + a * c[j, right]) + b * ((1 - a) * c[below, i] + a * c[below, right])
    at = np.einsum("fk,fkd->fd", weight, vertices[faces].astype(np.float64))
    np.testing.assert_allclose(read, 0.5 + 0.3 * at, atol=2e-4)


@pytest.mark.parametrize("group", ["a", "b"])
def test_cameras_frame_the_object(group: str) -> None:
    vertices = ball(0.1).vertices * [1, 0.6, 1.5] + [0.02, 0, 0.15]
    cameras = orbit(vertices, group, 16, 5)
    cameras.validate("cameras", 16)
    np.testing.assert_array_equal(cameras.camera_from_world, orbit(vertices, group, 16, 5).camera_from_world)
    assert (cameras.intrinsics[:, 0, 0] == FOCAL[group]).all()
    for i in range(16):
        pixel, _ = cameras.project(i, vertices)
        low, high = pixel.min(axis=0), pixel.max(axis=0)
        np.testing.assert_allclose((low + high) / 2, WIDTH / 2, atol=0.03 * WIDTH)
        assert (high - low).max() == pytest.approx(FRAMING[group] * WIDTH, rel=0.05)
    assert (cameras.centres[:, 2] > vertices[:, 2].mean()).all()


def test_a_ring_is_level_and_goes_round_in_order() -> None:
    vertices = ball(0.1).vertices + [0.0, 0.0, 0.15]
    cameras = orbit(vertices, "a", 12, 5, elevation=30.0)
    out = cameras.centres - vertices.mean(axis=0)
    height = np.rad2deg(np.arctan2(out[:, 2], np.hypot(out[:, 0], out[:, 1])))
    np.testing.assert_allclose(height, 30.0, atol=2.0)  # about the outline's centre, which is not the mean exactly
    turns = np.diff(np.unwrap(np.arctan2(out[:, 1], out[:, 0])))
    np.testing.assert_allclose(turns, 2 * np.pi / 12, atol=0.02)
    np.testing.assert_allclose(cameras.camera_from_world[:, 0, 2], 0.0, atol=1e-9)  # no roll: x is horizontal


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_varies_with_its_seed_and_stays_in_its_box(name: str) -> None:
    rng = np.random.default_rng(1)
    first, other = RECIPES[name](0), RECIPES[name](1)
    p = rng.uniform(first.low, first.high, (4000, 3))
    inside = first.solid(p) < 0
    assert 0.02 < inside.mean() < 0.6
    np.testing.assert_array_equal(inside, RECIPES[name](0).solid(p) < 0)
    assert ((other.solid(p) < 0) != inside).mean() > 0.005
    rim = p.copy()
    axis = rng.integers(0, 3, len(p))
    rim[np.arange(len(p)), axis] = np.where(rng.uniform(size=len(p)) < 0.5, first.low[axis], first.high[axis])
    assert (first.solid(rim) > 0).all()
    surface = p[np.abs(first.solid(p)) < 0.2]
    coat = first.paint(surface, np.tile([0.0, 0.0, 1.0], (len(surface), 1)))
    for values in (coat.colour, coat.roughness, coat.metallic, coat.clearcoat):
        assert np.isfinite(values).all() and values.min() >= 0


def test_without_scikit_image_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(module: str, *rest: Any, **named: Any) -> Any:
        if module.startswith("skimage"):
            raise ImportError(module)
        return real(module, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(sdf.MissingTool, match=r"scikit-image or .* is not installed: `pip install"):
        sdf.polygonise(lambda p: sdf.ellipsoid(p, (0, 0, 0), (1, 1, 1)), (-2, -2, -2), (2, 2, 2), 0.1, 1000)


def test_a_polygonised_ball_is_closed_outward_and_on_its_surface() -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("fast_simplification")
    vertices, faces = sdf.polygonise(
        lambda p: sdf.ellipsoid(p, (0, 0, 0), (1, 1, 1)), (-1.5, -1.5, -1.5), (1.5, 1.5, 1.5), 0.05, 3000
    )
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and len(faces) <= 3000
    assert mesh.volume == pytest.approx(4 / 3 * np.pi, rel=0.01)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, atol=1e-4)
