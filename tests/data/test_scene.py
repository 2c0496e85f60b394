"""Scene directories: what is written is read, and what is broken is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adapters.contract import InputError
from data.scene import Scene, read_truth, truth_id
from metrics.scoring.truth import diameter


@pytest.fixture
def copy(scene_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scene_path, tmp_path / "copy"))


def test_depth_masks_cameras_and_mesh_agree(scene: Scene) -> None:
    truth = scene.truth("exact")
    assert truth.depth is not None and truth.masks is not None
    for view in range(len(truth.view_names)):
        np.testing.assert_array_equal(truth.depth[view] > 0, truth.masks[view])
        rows, columns = np.nonzero(truth.depth[view])
        pixel = np.stack([columns + 0.5, rows + 0.5], axis=1)
        points = truth.cameras.unproject(view, pixel, truth.depth[view][rows, columns])
        again, depth = truth.cameras.project(view, points)
        np.testing.assert_allclose(again, pixel, atol=1e-6)
        np.testing.assert_allclose(depth, truth.depth[view][rows, columns], rtol=1e-6)
        assert np.abs(np.linalg.norm((points - [0, 0, 1.3]) / [1.0, 0.8, 1.1], axis=1) - 1).max() < 0.4


BROKEN = [
    (lambda s: s.update(format=9), "format 9 seen, 1 wanted"),
    (lambda s: s.update(colour=1), "unknown field `colour`"),
    (lambda s: s.pop("licence"), "missing required field `licence`"),
    (lambda s: s["views"].append(s["views"][0]), "8 distinct view names seen for 9 views"),
    (lambda s: s["views"][0].update(image="../../etc/passwd"), "leaves the scene's folder"),
]


@pytest.mark.parametrize(("change", "sentence"), BROKEN)
def test_a_broken_scene_file_is_named_with_its_field(copy: Path, change: object, sentence: str) -> None:
    file = copy / "scene.json"
    content = json.loads(file.read_text())
    change(content)  # type: ignore[operator]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence) as caught:
        Scene.open(copy)
    assert "scene.json" in str(caught.value)


def test_what_is_missing_is_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no scene.json seen"):
        Scene.open(tmp_path)
    scene = Scene.open(copy)
    with pytest.raises(InputError, match=r"no colmap ground truth \(present: exact\)"):
        scene.truth("colmap")
    with pytest.raises(InputError, match="view 099 seen"):
        scene.image("099")
    (copy / "masks" / "003.png").unlink()
    with pytest.raises(InputError, match=r"003.png: no such mask"):
        scene.mask("003")
    (copy / "truth" / "exact" / "mesh.ply").unlink()
    with pytest.raises(InputError, match=r"neither mesh.ply nor points.npz"):
        scene.truth("exact")


def test_the_truths_id_is_that_of_its_files(copy: Path) -> None:
    folder = copy / "truth" / "exact"
    before = truth_id(folder)
    assert truth_id(folder) == before
    (folder / "truth.json").write_text((folder / "truth.json").read_text() + "\n")
    assert truth_id(folder) != before


def test_a_truth_is_read_from_where_it_is_made(copy: Path, tmp_path: Path) -> None:
    folder = copy / "truth" / "exact"
    staged = tmp_path / "stage" / "truth" / "exact"  # beside it no scene.json, as where a truth is made in place
    shutil.copytree(folder, staged)
    assert read_truth(Scene.open(copy), staged).id == truth_id(folder)


def test_the_diameter_is_invariant_to_rotation_and_robust_to_a_few_outliers() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 3))
    points *= (1 / np.linalg.norm(points, axis=1))[:, None]
    assert diameter(points) == pytest.approx(2.0, rel=1e-3)
    turned = points @ Rotation.random(rng=1).as_matrix().T
    assert diameter(turned) == pytest.approx(diameter(points), rel=1e-6)
    spoilt = np.concatenate([points, rng.normal(size=(10, 3)) * 100])
    assert diameter(spoilt) == pytest.approx(2.0, rel=1e-2)


def test_the_diameter_of_flat_and_tiny_clouds() -> None:
    assert diameter(np.array([[0.0, 0, 0]])) == 0.0
    line = np.zeros((50, 3))
    line[:, 0] = np.linspace(0, 3, 50)
    assert diameter(line, trim=0.0) == pytest.approx(3.0)
