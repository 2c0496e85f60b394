"""The procedural family: its objects, pictures, shards and the embedded suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapters.contract import InputError
from bench.systems.cards import find_adapters
from bench.systems.datasets import contamination
from bench.trials.scenes import embedded_scenes, get_scenes
from data.synthetic import family
from data.synthetic.shapes import CATEGORIES, FIRST_SEED, is_held_out, make
from data.synthetic.views import Studio, light_in_camera, poses, shade


def _closed(faces: np.ndarray) -> bool:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    there, back = edges[:, 0] << 32 | edges[:, 1], edges[:, 1] << 32 | edges[:, 0]
    return len(np.unique(there)) == len(there) and np.array_equal(np.sort(there), np.sort(back))


@pytest.mark.parametrize("number", range(2 * len(CATEGORIES)))
def test_an_object_is_watertight_centred_and_agrees_with_its_field(number: int) -> None:
    shape = make(FIRST_SEED["test"] + number)
    assert shape.category == CATEGORIES[number % len(CATEGORIES)]
    assert _closed(shape.faces)
    low, high = shape.vertices.min(axis=0), shape.vertices.max(axis=0)
    np.testing.assert_allclose(low, -high, atol=1e-12)
    assert np.linalg.norm(high - low) == pytest.approx(1)
    corner = shape.vertices[shape.faces]
    assert np.einsum("ij,ij->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) > 0, "outward faces"
    assert np.abs(shape.sdf(shape.vertices)).max() < 0.02
    rng = np.random.default_rng(0)
    points = shape.sample(500, rng)
    assert np.abs(shape.sdf(points)).mean() < 1e-3
    out = points + 0.004 * shape.normals(points)
    assert (shape.sdf(out) > 0).mean() > 0.95
    assert shape.held_out == is_held_out(shape.category, shape.parts) == (number >= len(CATEGORIES))


def test_a_seed_is_an_object_and_training_never_holds_a_held_out_combination() -> None:
    again = make(11)
    np.testing.assert_array_equal(make(11).vertices, again.vertices)
    assert not np.array_equal(make(11 + len(CATEGORIES)).vertices, again.vertices)
    for seed in [*range(40), *range(FIRST_SEED["val"], FIRST_SEED["val"] + 8)]:
        shape = make(seed, cells=24)
        assert not is_held_out(shape.category, shape.parts)


def test_a_picture_shows_the_object_where_its_camera_projects_it() -> None:
    shape, rng = make(4), np.random.default_rng(3)
    studio = Studio(shape, rng)
    for pose in poses(3, rng):
        cast, depth = studio.cast(pose, 64)
        camera = pose.camera(64)
        row, column = np.nonzero(depth)
        points = camera.unproject(0, np.stack([column, row], axis=1) + 0.5, depth[row, column])
        assert np.abs(shape.sdf(points)).max() < 0.01
        normals = cast[row, column, :3].view(np.int8) / 127
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=0.02)
        assert (normals[:, 2] < 0.3).all(), "they face the camera"
        pixel, _ = camera.project(0, shape.sample(400, rng))
        x, y = np.floor(pixel).astype(int).T
        grown = np.pad(depth > 0, 1)
        near = grown[1:-1, 1:-1] | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
        assert near[y, x].mean() > 0.97
        image = shade(cast[None], light_in_camera(pose)[None], np.random.default_rng(0))
        np.testing.assert_array_equal(image, shade(cast[None], light_in_camera(pose)[None], np.random.default_rng(0)))
        assert image.min() >= 0 and image.max() <= 1


def test_shards_are_written_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "SHARD", 2)
    for first in (0, 2):
        (tmp_path / "val").mkdir(exist_ok=True)
        family._write_shard((tmp_path / "val" / f"{first // 2:04d}.npz", "val", first, 2))
    read = family.Family.open(tmp_path, "val", 3)
    assert len(read) == 3 and list(read.seeds) == [1_000_000, 1_000_001, 1_000_002]
    assert read.casts.shape == (3, 2, family.SIZE, family.SIZE, 4)
    field = read.field[1].astype(np.float64)
    np.testing.assert_allclose(make(1_000_001).sdf(field[:, :3]), field[:, 3], atol=2e-3)
    with pytest.raises(InputError, match=r"0002\.npz: not written"):
        family.Family.open(tmp_path, "val", 5)


def test_the_embedded_objects_are_small_and_of_seeds_that_nothing_is_trained_on() -> None:
    scenes = get_scenes(["objects/*"])
    assert len(scenes) == 2 * len(CATEGORIES) and {scene.name for scene in scenes} == set(embedded_scenes("objects"))
    assert not set(embedded_scenes("objects")) & set(embedded_scenes())
    total = 0
    for scene in scenes:
        total += sum(path.stat().st_size for path in scene.path.rglob("*") if path.is_file())
        assert len(scene.view_names) == 12 and scene.has_masks
        truth = scene.truth("exact")
        assert truth.vertices is not None and truth.faces is not None and _closed(truth.faces)
        camera = truth.cameras
        pixel, depth = camera.project(0, truth.points)
        assert (depth > 0).all()
        x, y = np.floor(pixel[:2000]).astype(int).T
        assert scene.mask(scene.view_names[0])[y, x].mean() > 0.9
        for name in ("lmnet3d", "direct", "lam3d"):
            card = find_adapters()[name].card
            assert contamination(card.training, scene.file.source) == ("Reconbench shapes",)
    assert total < 6e6
