"""From a worker's prediction to its score: nothing lost on the way, nothing that ends a run."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pycolmap
import pytest
import trimesh

from adapters.contract import ContractError, InputError, Reconstruction, Views
from bench.engines.local import run_plan
from bench.scoring import score as scoring
from bench.scoring.external import add_external, cameras_of_model
from bench.scoring.score import prepare, score_trial
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene
from metrics.scoring.protocol import load_protocol
from metrics.scoring.score import score

QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
PROTOCOL = msgspec.structs.replace(load_protocol("object-v1"), samples=4000, emd_samples=128, draws=2, emd_draws=2)
ADAPTER = """
import numpy as np
from adapters.contract import Reconstruction, Reconstructor

class Adapter(Reconstructor):
    def infer(self, inputs):
        rng = np.random.default_rng(0)
        surface = inputs.truth.points[rng.integers(0, len(inputs.truth.points), 12_000)]
        {room}
        depth = {depth}
        return Reconstruction(points, "world", "metric", depth=depth)
"""
# The walls, floor and ceiling of a room 40 diameters wide, 700,000 points of it.
ROOM = """walls = rng.uniform(-50, 50, (700_000, 3))
        walls[np.arange(len(walls)), rng.integers(0, 3, len(walls))] = np.sign(rng.normal(size=len(walls))) * 50
        points = np.concatenate([walls, surface]).astype(np.float32)"""


def adapter(folder: Path, room: str = "points = surface", depth: str = "None") -> str:
    """An adapter that returns samples of the truth, and perhaps more."""
    folder.mkdir()
    (folder / "adapter.toml").write_text(
        f'name = "{folder.name}"\ntitle = "Test"\nlicence_code = "MIT"\nscope = "scene"\nreference = true\n'
        'accepts = ["cameras", "truth"]\nrequires = ["cameras", "truth"]\n'
    )
    (folder / "adapter.py").write_text(ADAPTER.format(room=room, depth=depth))
    return str(folder)


def run(scene: Scene, store: Store, *names: str, keep_points: int | None = None) -> list[TrialRecord]:
    suite = Suite(name="t", adapters=[Contestant(name=name) for name in names], views=(4,), truth="exact", policy=QUICK)
    return run_plan(plan(suite, [scene]), store, protocol="object-v1", truth="exact", keep_points=keep_points).records


def reading(record: ScoreRecord, metric: str) -> float:
    (value,) = [value for value in record.values if value.metric == metric]
    assert value.value is not None, value.note
    return value.value


def test_a_room_around_the_object_costs_the_object_nothing(scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    room, bare = run(scene, store, adapter(tmp_path / "room", ROOM), adapter(tmp_path / "bare", "points = surface"))
    assert room.points == room.points_kept == 712_000
    alone = score_trial(store, bare, scene, "exact", PROTOCOL)
    among = score_trial(store, room, scene, "exact", PROTOCOL)
    cropped = replace_crop(scene, store, room)
    assert cropped.points == alone.points
    for metric in ("fscore@1%", "completeness-visible", "accuracy"):
        assert cropped_reading(cropped, metric) == pytest.approx(reading(alone, metric), rel=0.02, abs=1e-6)
    assert score_trial(store, room, scene, "exact", PROTOCOL, again=True) == among


def replace_crop(scene: Scene, store: Store, record: TrialRecord) -> object:
    """The score of a stored prediction with the truth cropped to what is around its surface."""
    from metrics.scoring.prepared import PreparedTruth
    from metrics.scoring.truth import Box

    truth = scene.truth("exact")
    low, high = truth.points.min(axis=0) - 0.05, truth.points.max(axis=0) + 0.05
    box = Box(tuple(map(float, low)), tuple(map(float, high)))  # type: ignore[arg-type]
    assert record.prediction is not None
    prepared = PreparedTruth.of(replace(truth, crop=box), PROTOCOL)
    return score(store.prediction(record.prediction), prepared, tuple(record.views), scope="scene", posed=True)


def cropped_reading(result: object, metric: str) -> float:
    value = result.values[metric]  # type: ignore[attr-defined]
    assert value.value is not None, value.note
    return float(value.value)


def test_what_is_read_back_from_the_store_scores_to_the_same_digits(scene: Scene, tmp_path: Path) -> None:
    truth = scene.truth("exact")
    assert truth.depth is not None
    rng = np.random.default_rng(0)
    points = np.concatenate([truth.points, rng.uniform(-40, 40, (600_000, 3))]).astype(np.float32)
    depth = tuple((d * rng.uniform(0.95, 1.05, d.shape)).astype(np.float32) for d in truth.depth)
    made = Reconstruction(points, "world", "metric", depth=depth)
    store = Store(tmp_path / "store")
    identity, kept = store.put_prediction(made)
    assert kept == len(points)
    prepared = prepare(scene, "exact", PROTOCOL)
    fresh, again = (
        score(reconstruction, prepared, truth.view_names, scope="scene", posed=True, brief=True)
        for reconstruction in (made, store.prediction(identity))
    )
    assert fresh.values == again.values and fresh.points == again.points


def test_a_draw_is_uniform_seeded_and_told(scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (record,) = run(scene, store, adapter(tmp_path / "bare"), keep_points=3000)
    assert (record.points, record.points_kept) == (12_000, 3000)
    (done,) = store.scores()
    assert done.notes[0] == "a uniform draw of 3000 of 12000 points was stored and scored"
    assert done.points <= 3000


def test_files_made_elsewhere_are_stored_whole(scene: Scene, tmp_path: Path) -> None:
    truth = scene.truth("exact")
    walls = np.random.default_rng(0).uniform(-40, 40, (500_000, 3))
    trimesh.PointCloud(np.concatenate([truth.points[:12_000], walls])).export(tmp_path / "cloud.ply")
    record = add_external(Store(tmp_path / "store"), tmp_path / "cloud.ply", scene, None, posed=True)
    assert record.points_kept == 512_000


def test_absurd_depth_and_coordinates_are_invalid_output(scene: Scene, tmp_path: Path) -> None:
    depth = "tuple(np.full(image.shape[:2], {}, np.float32) for image in inputs.images)"
    store = Store(tmp_path / "store")
    names = [
        adapter(tmp_path / "negative", depth=depth.format("-1.0")),
        adapter(tmp_path / "huge", depth=depth.format("3e38")),
        adapter(tmp_path / "far", "points = surface + np.float32(1e30)"),
        adapter(tmp_path / "fine"),
    ]
    statuses = {record.adapter: record for record in run(scene, store, *names)}
    assert {name: record.status for name, record in statuses.items()} == {
        "negative": "invalid_output",
        "huge": "invalid_output",
        "far": "invalid_output",
        "fine": "ok",
    }
    assert "depth[0]: -1 to -1 seen, 0 to 1e+12 wanted" in statuses["negative"].message
    assert len(store.scores()) == 4
    views = Views((np.zeros((4, 4, 3), np.uint8),), ("a",))
    with pytest.raises(ContractError, match="points"):
        Reconstruction(np.full((5, 3), 1e20, np.float32), "object", "arbitrary").validate(views)


def test_no_error_of_scoring_ends_a_run(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    original = scoring.score

    def breaks_once(prediction: Reconstruction, *rest: object, **more: object) -> object:
        if len(prediction.points) == 12_001:
            raise ZeroDivisionError("nobody foresaw this")
        return original(prediction, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "score", breaks_once)
    bad = adapter(tmp_path / "bad", "points = np.concatenate([surface, surface[:1]])")
    records = run(scene, store, bad, adapter(tmp_path / "good"))
    assert [record.status for record in records] == ["ok", "ok"]
    scores = {record.adapter: score_trial(store, record, scene, "exact", "object-v1") for record in records}
    for value in scores["bad"].values:
        assert (value.status, value.note) == ("failed", "scoring broke: ZeroDivisionError: nobody foresaw this")
    assert reading(scores["good"], "fscore@1%") > 0.5


def test_a_prediction_that_is_gone_is_a_failed_cell_until_it_is_back(scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (record,) = run(scene, store, adapter(tmp_path / "bare"))
    assert record.prediction is not None
    path = store.prediction_path(record.prediction)
    path.rename(path.with_suffix(".away"))
    scoring._prediction.cache_clear()  # the last prediction read is kept in memory
    gone = score_trial(store, record, scene, "exact", PROTOCOL)
    assert all(value.status == "failed" and "not in the store" in value.note for value in gone.values)
    path.with_suffix(".away").rename(path)
    assert reading(score_trial(store, record, scene, "exact", PROTOCOL), "fscore@1%") > 0.5


def test_a_damaged_colmap_model_is_one_sentence(tmp_path: Path) -> None:
    model = tmp_path / "sparse"
    model.mkdir()
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        (model / name).write_bytes(struct.pack("<Q", 2**40) + b"\xff" * 50)
    with pytest.raises(InputError, match=r"sparse/cameras\.bin: \d+ entries in 58 bytes seen"):
        cameras_of_model(model)
    (model / "images.bin").unlink()
    with pytest.raises(InputError, match=r"no images.bin or images.txt seen"):
        cameras_of_model(model)
    (model / "images.bin").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"images.bin: a link seen, a file wanted"):
        cameras_of_model(model)


@pytest.mark.parametrize("form", ["text", "binary"])
def test_the_cameras_of_a_colmap_model_are_those_that_colmap_reads_and_lost_distortion_is_told(
    tmp_path: Path, form: str
) -> None:
    written = pycolmap.synthesize_dataset(pycolmap.SyntheticDatasetOptions(num_rigs=1))
    assert {camera.model_name for camera in written.cameras.values()} == {"SIMPLE_RADIAL"}
    (tmp_path / "sparse").mkdir()
    (written.write_text if form == "text" else written.write_binary)(tmp_path / "sparse")
    told: list[str] = []
    files = {camera.view: camera for camera in cameras_of_model(tmp_path / "sparse", told.append)}
    assert len(files) == len(written.images)
    assert told == [
        f"{tmp_path}/sparse: the lens distortion of 5 images is left out: poses and focal lengths are scored"
    ]
    for image in written.images.values():
        read, camera = files[Path(image.name).stem], written.cameras[image.camera_id]
        assert (read.width, read.height) == (camera.width, camera.height)
        assert [read.fx, read.fy, read.cx, read.cy] == pytest.approx(
            [camera.focal_length_x, camera.focal_length_y, *camera.params[1:3]]
        )
        pose = np.array(read.camera_from_world)
        np.testing.assert_allclose(pose[:3], image.cam_from_world().matrix(), atol=1e-9)
        np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])
