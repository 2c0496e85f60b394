"""A small scene with an exact surface, made in a second and shared by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import point_cloud_utils as pcu
import pytest
import trimesh
from hypothesis import settings
from PIL import Image

from data.scene import CameraFile, Scene, SceneFile, TruthFile, ViewFile, write_scene, write_truth
from data.synthetic.rig import look_at
from metrics.scoring.truth import diameter

SIZE, FOCAL, VIEWS = 96, 110.0, 8

# `pytest --hypothesis-profile thorough`: every property test with 100 times the examples that it asks for, and without
# a time limit. A decorator's count overrides a profile's, so the multiplication happens at collection.
THOROUGH = 100
settings.register_profile("thorough", print_blob=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Multiply the examples of every property test under the profile `thorough`."""
    if config.getoption("--hypothesis-profile") != "thorough":
        return
    multiplied = set()
    for item in items:
        test = item.obj if isinstance(item, pytest.Function) else None
        if test is None or not getattr(test, "is_hypothesis_test", False):
            continue
        item.add_marker(pytest.mark.timeout(0))
        if test not in multiplied:
            own = test._hypothesis_internal_use_settings or settings()
            test._hypothesis_internal_use_settings = settings(own, max_examples=THOROUGH * own.max_examples)
            multiplied.add(test)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test stages or compiles lands in the user's cache."""
    shared = tmp_path_factory.getbasetemp().parent / "reconbench-cache"
    monkeypatch.setenv("RECONBENCH_CACHE", str(shared))


def bumpy_mesh() -> trimesh.Trimesh:
    """A closed, asymmetric surface: a sphere of radius about 1 with smooth bumps, centred near (0, 0, 1.3)."""
    mesh = trimesh.creation.icosphere(subdivisions=4)
    v = np.asarray(mesh.vertices)
    radius = (
        1 + 0.15 * np.sin(3 * v[:, 0] + 1) * np.cos(2 * v[:, 1]) + 0.2 * np.maximum(v[:, 2], 0) ** 3 * (v[:, 0] > -2)
    )
    return trimesh.Trimesh(v * radius[:, None] * [1.0, 0.8, 1.1] + [0, 0, 1.3], mesh.faces, process=False)


def make_scene(path: Path, name: str = "bumpy") -> Path:
    """Write the scene; images are coloured by position so that they differ."""
    mesh = bumpy_mesh()
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32)
    (path / "images").mkdir(parents=True)
    (path / "masks").mkdir()
    (path / "truth" / "exact").mkdir(parents=True)
    mesh.export(path / "truth" / "exact" / "mesh.ply")
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    rays = np.stack([(x - SIZE / 2) / FOCAL, (y - SIZE / 2) / FOCAL, np.ones_like(x)], axis=-1).reshape(-1, 3)
    views, cameras, depth = [], [], {}
    for i in range(VIEWS):
        angle, height = 2 * np.pi * i / VIEWS, (0.9, 2.6, 1.7)[i % 3]
        centre = np.array([4 * np.cos(angle), 4 * np.sin(angle), height])
        pose = look_at(centre, np.array([0, 0, 1.3]))
        world = rays @ pose[:3, :3]
        hit = pcu.ray_mesh_intersection(vertices, faces, np.repeat(centre[None], len(rays), axis=0), world)
        t = np.where(np.isfinite(hit[2]), hit[2], 0.0)
        view = f"{i:03d}"
        depth[view] = t.reshape(SIZE, SIZE)
        where = centre + world * t[:, None]
        colors = np.where((t > 0)[:, None], 128 + 100 * np.sin(5 * where), 40).reshape(SIZE, SIZE, 3).astype(np.uint8)
        Image.fromarray(colors).save(path / "images" / f"{view}.png")
        Image.fromarray(((depth[view] > 0) * 255).astype(np.uint8)).save(path / "masks" / f"{view}.png")
        views.append(ViewFile(view, f"images/{view}.png", f"masks/{view}.png"))
        cameras.append(CameraFile(view, SIZE, SIZE, FOCAL, FOCAL, SIZE / 2, SIZE / 2, pose.tolist()))
    write_scene(path, SceneFile(name=name, title="Bumpy", licence="CC0-1.0", source="made by the tests", views=views))
    samples = trimesh.sample.sample_surface(mesh, 50_000, seed=0)[0]
    write_truth(
        path, TruthFile(kind="exact", made_by=[], diameter=diameter(samples), frame="exact"), cameras, depth=depth
    )
    return path


@pytest.fixture(scope="session")
def scene_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Scene directory `bumpy`."""
    return make_scene(tmp_path_factory.mktemp("scenes") / "bumpy")


@pytest.fixture(scope="session")
def scene(scene_path: Path) -> Scene:
    """The opened scene."""
    return Scene.open(scene_path)
