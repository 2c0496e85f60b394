"""Predictions saved by eval3r, on a miniature written as its `PredictionWriter` writes them (see data/eval3r.py)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from adapters.contract import InputError
from bench.scoring.external import add_external
from bench.trials.store import Store
from data.eval3r import MANIFEST, read_saved
from data.scene import Scene

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def save(folder: Path, scene: Scene, convention: str = "T_wc", axes: str = "opencv", **changed: object) -> Path:
    """The scene's own surface and cameras in centimetres; `changed` fields of the manifest."""
    truth = scene.truth("exact")
    artifacts = {}

    def keep(name: str, content: bytes) -> dict[str, object]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        artifacts[name] = {"path": name, "format": path.suffix[1:], "sha256": sha256, "count": None, "extra": {}}
        return artifacts[name]

    world_from_camera = np.linalg.inv(truth.cameras.camera_from_world)
    world_from_camera[:, :3, 3] *= 100
    if axes == "opengl":
        world_from_camera = world_from_camera @ FLIP
    poses = world_from_camera if convention == "T_wc" else np.linalg.inv(world_from_camera)
    rows = [[i, *p[:3, 3], *Rotation.from_matrix(p[:3, :3]).as_quat()] for i, p in enumerate(poses)]
    tum = "".join(" ".join(f"{value:.9f}" for value in row) + "\n" for row in rows)
    kitti = "".join(" ".join(f"{value:.9e}" for value in p[:3].reshape(-1)) + "\n" for p in poses)
    cloud = trimesh.PointCloud(truth.points[:5000].astype(np.float64) * 100)
    K, (width, height) = truth.cameras.intrinsics[0], truth.sizes[0]
    half = {"K": (np.diag([0.5, 0.5, 1]) @ K).tolist(), "image_size": [int(width) // 2, int(height) // 2]}
    manifest: dict[str, object] = {
        "eval3r_version": "0.2.1",
        "format_version": "0.1",
        "scene_id": scene.name,
        "dataset": "made",
        "method": "some-slam",
        "unit": "cm",
        "coordinate_system": axes,
        "pose_convention": convention,
        "geometry": {"mesh": None, "point_cloud": keep("geometry/pred_points.ply", cloud.export(file_type="ply"))},
        "trajectory": {
            "tum": keep("trajectory/pred_trajectory_tum.txt", tum.encode()),
            "kitti": keep("trajectory/pred_trajectory_kitti.txt", kitti.encode()),
        },
        "cameras": {"intrinsics": keep("cameras/intrinsics.json", json.dumps(half).encode()), "poses": None},
        "metadata": {"checkpoint": "x.pth"},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest | changed))
    return folder


@pytest.mark.parametrize("axes", ["opencv", "colmap", "opengl"])
@pytest.mark.parametrize("convention", ["T_wc", "T_cw"])
@pytest.mark.parametrize("form", ["tum", "kitti"])
def test_a_saved_prediction_is_read_in_metres(
    scene: Scene, tmp_path: Path, convention: str, axes: str, form: str
) -> None:
    save(tmp_path, scene, convention, axes)
    if form == "kitti":
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        manifest["trajectory"]["tum"] = None
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    saved = read_saved(tmp_path, scene, posed=False)
    truth, prediction = scene.truth("exact"), saved.prediction
    assert saved.method == "some-slam" and prediction.scale == "metric" and prediction.cameras is not None
    np.testing.assert_allclose(prediction.points, truth.points[:5000], atol=1e-5)
    np.testing.assert_allclose(prediction.cameras.camera_from_world, truth.cameras.camera_from_world, atol=1e-6)
    np.testing.assert_allclose(prediction.cameras.intrinsics[0], truth.cameras.intrinsics[0], rtol=1e-9)


def test_it_is_a_trial_that_is_shown_and_never_ranked(scene: Scene, tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", scene)
    record = add_external(Store(tmp_path / "store"), folder, scene, None, posed=False)
    assert (record.adapter, record.external, record.card.scope) == ("some-slam", True, "scene")
    assert record.points == 5000 and record.views == list(scene.view_names)
    with pytest.raises(InputError, match=f"no {MANIFEST} seen"):
        add_external(Store(tmp_path / "store"), tmp_path, scene, None, posed=False)


def test_what_is_not_said_is_not_guessed(scene: Scene, tmp_path: Path) -> None:
    told: list[str] = []
    for field in ("pose_convention", "coordinate_system"):
        save(tmp_path, scene, **{field: "unspecified"})
        assert read_saved(tmp_path, scene, False, told.append).prediction.cameras is None
        assert told[-1].endswith(f"{field} is unspecified, so its poses are left out")
    save(tmp_path, scene, unit="unspecified")
    saved = read_saved(tmp_path, scene, posed=False).prediction
    assert saved.scale == "arbitrary" and np.abs(saved.points).max() > 10  # centimetres, as they are
    save(tmp_path, scene, cameras={"intrinsics": None, "poses": None})
    assert read_saved(tmp_path, scene, False, told.append).prediction.cameras is not None
    assert "nominal focal length" in told[-1]


def test_a_broken_one_is_refused_in_a_sentence(scene: Scene, tmp_path: Path) -> None:
    def refused(folder: Path, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            read_saved(folder, scene, posed=False)

    refused(save(tmp_path / "a", scene, format_version="9"), "format_version '9' seen, 0.1 wanted")
    refused(save(tmp_path / "b", scene, geometry={}), "neither mesh nor point_cloud seen, one wanted")
    refused(save(tmp_path / "c", scene, unit="ells"), "unit")
    outside = {"point_cloud": {"path": "../a/geometry/pred_points.ply", "sha256": ""}}
    refused(save(tmp_path / "d", scene, geometry=outside), "leaves the folder")
    (save(tmp_path / "e", scene) / "trajectory/pred_trajectory_tum.txt").write_text("0 0 0 0 0 0 0 1\n")
    refused(tmp_path / "e", r"pred_trajectory_tum.txt: sha256 \w+ seen")
    (save(tmp_path / "f", scene) / "geometry/pred_points.ply").unlink()
    refused(tmp_path / "f", "not readable")
    short = save(tmp_path / "g", scene)
    tum = short / "trajectory/pred_trajectory_tum.txt"
    tum.write_text("".join(tum.read_text().splitlines(keepends=True)[:3]))
    manifest = json.loads((short / MANIFEST).read_text())
    manifest["trajectory"]["tum"]["sha256"] = hashlib.sha256(tum.read_bytes()).hexdigest()
    (short / MANIFEST).write_text(json.dumps(manifest))
    refused(short, "3 poses seen, 8 wanted, one for each view")
