"""Scoring against closed forms: what is put into a prediction is what the metrics read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adapters.contract import Cameras, InputError, Mesh, Reconstruction, Surface, Views
from adapters.systems.noisy_oracle.adapter import Adapter as NoisyOracle
from data.scene import Scene
from metrics.scoring.protocol import Protocol, load_protocol, metric_table
from metrics.scoring.score import PreparedTruth, Score, score
from metrics.scoring.truth import Box, Truth, sample_mesh
from metrics.scoring.visibility import seen_surface
from metrics.similarity import apply, invert, similarity
from tests.conftest import bumpy_mesh

PROTOCOL = msgspec.structs.replace(load_protocol("object-v1"), samples=10_000, emd_samples=256)
NO_ICP = msgspec.structs.replace(PROTOCOL, align=msgspec.structs.replace(PROTOCOL.align, icp=False))


@pytest.fixture(scope="module")
def truth(scene: Scene) -> Truth:
    return scene.truth("exact")


@pytest.fixture(scope="module")
def prepared(truth: Truth) -> PreparedTruth:
    return PreparedTruth.of(truth, PROTOCOL)


def fresh(truth: Truth, count: int = 40_000) -> np.ndarray:
    assert truth.vertices is not None and truth.faces is not None
    return sample_mesh(truth.vertices, truth.faces, count, seed=5)


def cloud(points: np.ndarray, truth: Truth, **more: object) -> Reconstruction:
    values: dict[str, object] = {"points": points.astype(np.float32), "frame": "world", "scale": "metric", **more}
    return Reconstruction(**values)  # type: ignore[arg-type]


def posed(prediction: Reconstruction, prepared: PreparedTruth, scope: str = "scene") -> Score:
    return score(prediction, prepared, prepared.truth.view_names, scope=scope, posed=True)


def reading(result: Score, name: str) -> float:
    value = result.values[name]
    assert value.status == "ok" and value.value is not None, (name, value)
    return value.value


def spoilt(truth: Truth, **options: float) -> Reconstruction:
    """What the noisy oracle returns on the scene."""
    whole = {"noise": 0.0, "floaters": 0.0, "missing": 0.0, **options}
    assert truth.vertices is not None and truth.faces is not None
    points = fresh(truth, 60_000)
    radial = points - points.mean(axis=0)
    normals = radial / np.linalg.norm(radial, axis=1, keepdims=True)
    surface = Surface(points, normals.astype(np.float32), truth.diameter)
    images = tuple(np.zeros((96, 96, 3), np.uint8) for _ in truth.view_names)
    views = Views(images, truth.view_names, cameras=truth.cameras, truth=surface)
    return NoisyOracle(**whole).predict(views)  # type: ignore[arg-type]


def test_every_metric_of_the_table_is_read_or_excused(prepared: PreparedTruth) -> None:
    result = posed(cloud(fresh(prepared.truth), prepared.truth), prepared)
    assert set(result.values) == set(metric_table(PROTOCOL))
    for value in result.values.values():
        assert (value.value is None) == (value.status != "ok")
        assert value.status == "ok" or value.note


def test_a_fresh_sample_of_the_surface_reads_the_floor(prepared: PreparedTruth) -> None:
    result = posed(cloud(fresh(prepared.truth, 50_000), prepared.truth), prepared)
    for name in ("completeness-visible", "completeness-given", "fscore@0.5%", "fscore@1%", "emd", "chamfer-l1-sum"):
        value = result.values[name]
        assert value.floor is not None and value.value == pytest.approx(
            value.floor, rel=0.2 if name == "emd" else 0.08
        ), name
    assert reading(result, "accuracy") < 1e-3


@pytest.mark.parametrize("noise", [0.002, 0.005])
def test_normal_noise_reads_its_half_normal_mean_and_its_precision(prepared: PreparedTruth, noise: float) -> None:
    rng = np.random.default_rng(0)
    points = fresh(prepared.truth).astype(np.float64)
    radial = points - points.mean(axis=0)
    # Not along the normal exactly, so the distance is that of the isotropic noise's normal component.
    points += rng.normal(0, noise * prepared.truth.diameter, radial.shape)
    result = posed(cloud(points, prepared.truth), prepared)
    assert reading(result, "accuracy") == pytest.approx(100 * noise * math.sqrt(2 / math.pi), rel=0.03)
    for threshold, name in ((0.005, "precision@0.5%"), (0.01, "precision@1%")):
        assert reading(result, name) == pytest.approx(math.erf(threshold / noise / math.sqrt(2)), abs=0.02)


def test_a_missing_share_takes_that_share_of_the_recall(prepared: PreparedTruth) -> None:
    points = fresh(prepared.truth, 60_000)
    side = points[:, 0]
    kept = points[side <= np.quantile(side, 0.75)]
    result = posed(cloud(kept, prepared.truth), prepared)
    visible = prepared.points[prepared.visible]
    share = float((visible[:, 0] <= np.quantile(side, 0.75)).mean())
    assert reading(result, "recall@1%") == pytest.approx(share, abs=0.03)
    assert reading(result, "precision@1%") == 1.0


def test_floaters_at_a_known_distance_read_their_share(prepared: PreparedTruth) -> None:
    # 3% of the diameter outside the surface: on the sphere-like scene the offset is the distance, up to its bumps.
    result = score(
        spoilt(prepared.truth, floaters=0.1, floater_distance=0.03),
        PreparedTruth.of(prepared.truth, NO_ICP),
        prepared.truth.view_names,
        scope="scene",
        posed=False,
    )
    # Floaters sit above hull vertices, many on one; equalisation thins both sides, so their share is read off anew.
    assert result.cloud is not None
    far = result.cloud.error > 2.0
    assert result.cloud.error[far] == pytest.approx(3.0, rel=0.05)
    assert reading(result, "accuracy") == pytest.approx(3.0 * (1 - reading(result, "precision@2%")), rel=0.05)


def test_the_noisy_oracles_similarity_is_undone_by_its_cameras(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    result = score(
        spoilt(truth, noise=0.003, rotation=120.0, scale=3.1), prepared, truth.view_names, scope="scene", posed=False
    )
    assert [stage.name for stage in result.stages] == ["cameras", "icp"]
    assert reading(result, "accuracy") < 0.4
    assert result.values["accuracy"].before_icp == pytest.approx(reading(result, "accuracy"), rel=0.05)
    assert reading(result, "auc@5") == pytest.approx(1.0)
    assert reading(result, "centre-rmse") < 1e-6


def test_a_wrong_pose_direction_is_seen(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    inverted = Cameras(truth.cameras.intrinsics, np.linalg.inv(truth.cameras.camera_from_world))
    wrong = cloud(fresh(truth), truth, frame="object", cameras=inverted, registered=np.ones(8, np.bool_))
    result = score(wrong, PreparedTruth.of(truth, NO_ICP), truth.view_names, scope="scene", posed=False)
    assert reading(result, "rotation") > 10
    value = result.values["fscore@1%"]
    assert value.status == "failed" or (value.value is not None and value.value < 0.5)


def test_scaling_the_world_changes_no_score(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    points = fresh(truth) + np.random.default_rng(0).normal(0, 0.01, (40_000, 3))
    move = similarity(1.0, np.eye(3), np.array([1.0, 2.0, 3.0]))
    move[:3, :3] *= 7.0
    poses = truth.cameras.camera_from_world.copy()
    poses[:, :3, 3] = 7.0 * poses[:, :3, 3] - poses[:, :3, :3] @ move[:3, 3]
    assert truth.vertices is not None and truth.depth is not None
    moved = replace(
        truth,
        points=apply(move, truth.points).astype(np.float32),
        vertices=apply(move, truth.vertices),
        cameras=Cameras(truth.cameras.intrinsics, poses),
        depth=tuple(depth * np.float32(7.0) for depth in truth.depth),
        diameter=truth.diameter * 7.0,
    )
    whole = posed(cloud(points, truth), prepared)
    other = posed(cloud(apply(move, points), moved), PreparedTruth.of(moved, PROTOCOL))
    for name in ("accuracy", "completeness-visible", "fscore@1%"):
        assert reading(other, name) == pytest.approx(reading(whole, name), rel=0.02)


def test_points_that_no_camera_can_judge_are_not_punished_and_counted(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    inside = np.random.default_rng(0).normal(0, 0.05, (3000, 3)) + [0, 0, 1.3]
    result = posed(cloud(np.concatenate([fresh(truth), inside]), truth), prepared)
    assert reading(result, "accuracy") < 0.1
    assert result.unobserved > 1000
    before = np.random.default_rng(0).normal(0, 0.05, (3000, 3)) + [2.5, 0, 1.5]
    result = posed(cloud(np.concatenate([fresh(truth), before]), truth), prepared)
    assert reading(result, "accuracy") > 0.5


def test_completeness_over_what_the_given_views_see_is_kinder_than_over_everything(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    observed = seen_surface(fresh(truth), truth, prepared.buffers, 0.01 * truth.diameter)
    near_first = fresh(truth)[observed[0]]
    result = score(cloud(near_first, truth), prepared, truth.view_names[:1], scope="scene", posed=True)
    assert reading(result, "completeness-given") < 0.8
    assert reading(result, "completeness-visible") > 5


def test_the_crop_volume_cuts_both_sides(truth: Truth) -> None:
    low, high = truth.points.min(axis=0), truth.points.max(axis=0)
    upper = Box((float(low[0]), float(low[1]), 1.3), tuple(map(float, high)))  # type: ignore[arg-type]
    cropped = PreparedTruth.of(replace(truth, crop=upper), PROTOCOL)
    assert cropped.points[:, 2].min() >= 1.3 - 1e-6
    floor = np.random.default_rng(0).uniform(-3, 3, (5000, 3)) * [1, 1, 0]
    result = posed(cloud(np.concatenate([fresh(truth), floor]), truth), cropped)
    assert reading(result, "accuracy") < 1e-3


def test_two_views_are_aligned_by_pixels(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    move = similarity(0.4, np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0] * 1.0, np.ones(3))
    if np.linalg.det(move[:3, :3]) < 0:
        move[:3, 0] *= -1
    points, pixels, index = [], [], []
    for i in range(2):
        assert truth.depth is not None
        rows, columns = np.nonzero(truth.depth[i])
        pixel = np.stack([columns, rows], axis=1) + 0.5
        points.append(truth.cameras.unproject(i, pixel, truth.depth[i][rows, columns]))
        pixels.append(pixel)
        index.append(np.full(len(pixel), i))
    made = cloud(
        apply(invert(move), np.concatenate(points)),
        truth,
        frame="first_camera",
        view_index=np.concatenate(index).astype(np.int32),
        pixel=np.concatenate(pixels).astype(np.float32),
    )
    result = score(made, PreparedTruth.of(truth, NO_ICP), truth.view_names[:2], scope="scene", posed=False)
    assert result.stages[0].name == "correspondences"
    assert reading(result, "accuracy") < 0.25
    np.testing.assert_allclose(result.stages[0].truth_from_pred, move, atol=0.02)


def test_an_object_is_found_by_search(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    move = similarity(2.0, turn * np.sign(np.linalg.det(turn)), np.array([3.0, -1.0, 2.0]))
    result = score(
        cloud(apply(move, fresh(truth)), truth, frame="object"), prepared, truth.view_names, scope="object", posed=False
    )
    assert [stage.name for stage in result.stages] == ["search", "icp"]
    assert reading(result, "accuracy") < 0.5


def test_a_mesh_is_sampled(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    assert truth.vertices is not None and truth.faces is not None
    mesh = Mesh(truth.vertices.astype(np.float32), truth.faces)
    result = posed(cloud(np.zeros((0, 3)), truth, mesh=mesh), prepared)
    assert reading(result, "accuracy") < 1e-3
    assert reading(result, "recall@1%") > 0.99


def test_what_cannot_be_aligned_or_scored_says_why(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    nowhere = cloud(fresh(truth), truth, frame="object")
    result = score(nowhere, prepared, truth.view_names, scope="scene", posed=False)
    assert result.values["accuracy"].status == "unsupported"
    assert "gives no cameras" in result.values["accuracy"].note
    lost = replace(nowhere, cameras=truth.cameras, registered=np.arange(8) < 2)
    result = score(lost, prepared, truth.view_names, scope="scene", posed=False)
    assert result.values["accuracy"].status == "failed"
    assert "2 views seen, at least 3 wanted" in result.values["accuracy"].note
    assert reading(result, "auc@30") < 0.1
    far = posed(cloud(fresh(truth) + [0, 0, 100], truth), prepared)
    assert far.values["accuracy"].status in ("ok", "failed")


def test_the_surest_points_are_kept(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    good, bad = fresh(truth, 20_000), fresh(truth, 20_000) + np.float32(0.5)
    confidence = np.random.default_rng(0).permutation(20_000) + np.array([[20_001], [0]])
    sure = confidence.ravel().astype(np.float32)
    made = cloud(np.concatenate([good, bad]), truth, confidence=sure, confidence_kind="probability")
    half = keeping(truth, 0.5)
    best = posed(made, half)
    assert reading(best, "accuracy") < 1e-3 < reading(posed(made, prepared), "accuracy")
    assert best.kept == 0.5 and best.notes == ()
    # The share alone decides: any increasing function of the confidence keeps the same points.
    again = replace(made, confidence=np.exp(sure / 4000).astype(np.float32))
    assert posed(again, half).values == best.values


def test_points_that_are_equally_sure_are_kept_together(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    tied = np.repeat([3, 2, 1], [2000, 16_000, 2000]).astype(np.float32)
    made = cloud(fresh(truth, 20_000), truth, confidence=tied, confidence_kind="track_length")
    assert [posed(made, keeping(truth, share)).kept for share in (0.1, 0.3, 0.9, 0.95)] == [0.1, 0.9, 0.9, 1.0]
    assert posed(made, keeping(truth, 0.3)).notes == ("confidence ties: 90% of the points kept",)


def test_without_confidence_every_point_is_kept_and_that_is_said(prepared: PreparedTruth) -> None:
    made = cloud(fresh(prepared.truth, 20_000), prepared.truth)
    result = posed(made, keeping(prepared.truth, 0.5))
    assert result.values == posed(made, prepared).values
    assert result.kept == 1.0 and "no confidence: every point is kept" in result.notes[0]


def keeping(truth: Truth, share: float) -> PreparedTruth:
    return PreparedTruth.of(truth, msgspec.structs.replace(PROTOCOL, confidence_keep=share))


def test_depth_is_scored_at_the_alignments_scale(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    assert truth.depth is not None
    made = cloud(fresh(truth), truth, depth=tuple(depth * np.float32(1.02) for depth in truth.depth))
    result = posed(made, prepared)
    assert reading(result, "depth-absrel") == pytest.approx(0.02, abs=1e-4)
    assert reading(result, "depth-delta@1.03") == 1.0
    assert reading(result, "depth-coverage") == 1.0


def test_scores_are_the_same_to_the_last_bit(prepared: PreparedTruth) -> None:
    made = cloud(fresh(prepared.truth), prepared.truth)
    again = PreparedTruth.of(prepared.truth, PROTOCOL)
    assert posed(made, prepared).values == posed(made, again).values


def test_a_protocols_hash_is_that_of_its_meaning() -> None:
    default = load_protocol("object-v1")
    assert msgspec.structs.replace(default, description="other").hash == default.hash
    assert msgspec.structs.replace(default, voxel=0.003).hash != default.hash
    assert msgspec.structs.replace(default, align=NO_ICP.align).hash != default.hash
    assert load_protocol("object-no-icp-v1").hash != load_protocol("object-masked-v1").hash


def test_a_malformed_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"known: .*object-masked-v1"):
        load_protocol("objekt")
    file = tmp_path / "p.toml"
    for text, sentence in (
        ('name = "p"\n', "missing required field `version`"),
        ('name = "p"\nversion = 1\ndescription = ""\nvoxel = 3.0\n', "voxel 3.0 seen"),
        ('name = "p"\nversion = 1\ndescription = ""\nrank_metric = "beauty"\n', "rank_metric 'beauty'"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=sentence) as caught:
            load_protocol(str(file))
        assert "p.toml" in str(caught.value)
    assert isinstance(load_protocol("object-v1"), Protocol)


def test_a_hole_in_a_measured_truth_does_not_punish_the_surface_that_fills_it(truth: Truth) -> None:
    """COLMAP's clouds have holes: through one, the inside of the far surface must not count as seen."""
    hole = truth.points[:, 0] > 0.55
    measured = replace(
        truth,
        kind="colmap",
        points=truth.points[~hole],
        normals=truth.normals[~hole],
        vertices=None,
        faces=None,
        depth=None,
        masks=truth.masks,
    )
    protocol = msgspec.structs.replace(PROTOCOL, voxel=0.005)
    result = posed(cloud(fresh(truth), truth), PreparedTruth.of(measured, protocol))
    floor = result.values["accuracy"].floor
    assert floor is not None and reading(result, "accuracy") < 2.5 * floor
    assert reading(result, "precision@2%") > 0.93
    before = np.random.default_rng(0).normal(0, 0.05, (3000, 3)) + [-1.6, 0, 1.5]
    floaters = posed(cloud(np.concatenate([fresh(truth), before]), truth), PreparedTruth.of(measured, protocol))
    assert reading(floaters, "accuracy") > reading(result, "accuracy") + 0.5


def test_renderings_are_compared_with_the_photos_held_back(scene: Scene, prepared: PreparedTruth) -> None:
    truth = prepared.truth
    photos = (scene.image("000"), scene.image("003"))

    def read(renderings: tuple[np.ndarray, ...]) -> Score:
        made = cloud(fresh(truth), truth, renderings=renderings)
        return score(made, prepared, truth.view_names[1:3], scope="scene", posed=True, photos=photos)

    same, other = read(photos), read((photos[0], photos[0]))
    assert reading(same, "psnr") == pytest.approx(58.9, abs=0.1)
    assert reading(same, "ssim") == pytest.approx(1.0)
    assert reading(other, "psnr") < 40 and reading(other, "ssim") < 0.95
    assert same.values["lpips"].status == "ok" or "torchmetrics" in same.values["lpips"].note
    assert posed(cloud(fresh(truth), truth), prepared).values["psnr"].note == "the adapter gives no renderings"


def walls(count: int, size: float) -> np.ndarray:
    """Points on the faces of a cube around the scene."""
    rng = np.random.default_rng(1)
    points = rng.uniform(-size, size, (count, 3))
    points[np.arange(count), rng.integers(0, 3, count)] = np.sign(rng.normal(size=count)) * size
    return points


def cropped_around(truth: Truth) -> Truth:
    low, high = truth.points.min(axis=0) - 0.1, truth.points.max(axis=0) + 0.1
    return replace(truth, crop=Box(tuple(map(float, low)), tuple(map(float, high))))  # type: ignore[arg-type]


def test_icp_and_residuals_look_at_what_is_inside_the_crop(truth: Truth) -> None:
    """With a room around it, a thousandth of a sample of everything would be the object."""
    small = PreparedTruth.of(cropped_around(truth), PROTOCOL)
    rng = np.random.default_rng(0)
    jitter = truth.cameras.camera_from_world.copy()
    jitter[:, :3, 3] += rng.normal(0, 0.05, (len(jitter), 3))
    cameras = Cameras(truth.cameras.intrinsics, jitter)
    given = {"frame": "object", "cameras": cameras, "registered": np.ones(8, np.bool_)}
    among = np.concatenate([fresh(truth, 12_000), walls(400_000, 60.0)])
    alone, crowded = (
        score(cloud(points, truth, **given), small, truth.view_names, scope="scene", posed=False)
        for points in (fresh(truth, 12_000), among)
    )
    assert [stage.name for stage in crowded.stages] == ["cameras", "icp"]
    assert crowded.points == pytest.approx(alone.points, rel=0.01)
    for before, after in zip(alone.stages, crowded.stages, strict=True):
        assert before.residual is not None and after.residual is not None
        assert after.residual == pytest.approx(before.residual, rel=0.1) and after.residual < 1.5
    np.testing.assert_allclose(crowded.stages[1].truth_from_pred, alone.stages[1].truth_from_pred, atol=2e-3)
    assert reading(crowded, "fscore@1%") == pytest.approx(reading(alone, "fscore@1%"), abs=0.02)


def test_too_few_points_for_icp_are_a_note(truth: Truth) -> None:
    small = PreparedTruth.of(cropped_around(truth), PROTOCOL)
    points = np.concatenate([fresh(truth, 30), walls(5000, 60.0)])
    made = cloud(points, truth, frame="object", cameras=truth.cameras, registered=np.ones(8, np.bool_))
    result = score(made, small, truth.view_names, scope="scene", posed=False)
    assert reading(result, "accuracy") < 0.01
    assert [(stage.name, stage.residual) for stage in result.stages] == [("cameras", None)]
    assert any("30 points seen, at least 50 wanted" in note and "no ICP" in note for note in result.notes)


def test_a_search_that_fits_poorly_in_the_end_is_a_failed_cell_that_keeps_its_stages(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    rod = np.random.default_rng(0).normal(size=(20_000, 3)) * [0.02, 0.02, 1.0]
    result = score(cloud(rod, truth, frame="object"), prepared, truth.view_names, scope="object", posed=False)
    assert result.values["fscore@1%"].status == "failed"
    assert "poor fit" in result.values["fscore@1%"].note
    assert [stage.name for stage in result.stages] == ["search", "icp"]
    assert all(stage.residual is not None and stage.gain is not None for stage in result.stages)


def test_two_views_are_scored_on_all_their_points(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    points = fresh(truth, 60_000)
    points = points[seen_surface(points, truth, prepared.buffers, 0.01 * truth.diameter)[0]]
    pixel, _ = truth.cameras.project(0, points)
    made = cloud(
        points,
        truth,
        view_index=np.zeros(len(points), np.int32),
        pixel=np.clip(pixel, 0, 96).astype(np.float32),
        cameras=truth.cameras.take([0, 1, 2]),
        registered=np.ones(3, np.bool_),
    )
    no_icp = PreparedTruth.of(truth, NO_ICP)
    two = score(replace(made, cameras=None, registered=None), no_icp, truth.view_names[:2], scope="scene", posed=False)
    three = score(made, no_icp, truth.view_names[:3], scope="scene", posed=False)
    assert [two.stages[0].name, three.stages[0].name] == ["correspondences", "cameras"]
    assert two.points == pytest.approx(three.points, rel=0.01)


def test_a_mesh_is_sampled_also_where_its_vertices_come_as_points(prepared: PreparedTruth) -> None:
    """A box of eight corners that are no sample of its surface, beside a mesh of one triangle the size of a room."""
    truth = prepared.truth
    assert truth.vertices is not None and truth.faces is not None
    vertices = truth.vertices.astype(np.float32)
    both = cloud(vertices[:20], truth, mesh=Mesh(vertices, truth.faces))
    result = posed(both, prepared)
    assert result.points > 20_000 and reading(result, "recall@1%") > 0.99
    assert posed(both, prepared).values == result.values
    floor = np.array([[-90, -90, -9], [90, -90, -9], [0, 90, -9]], np.float32)
    roomy = Mesh(
        np.concatenate([vertices, floor]), np.r_[truth.faces, [[len(vertices) + k for k in range(3)]]].astype(np.int32)
    )
    small = PreparedTruth.of(cropped_around(truth), PROTOCOL)
    within = posed(cloud(np.zeros((0, 3)), truth, mesh=roomy), small)
    assert within.points == pytest.approx(result.points, rel=0.05) and reading(within, "recall@1%") > 0.99
    flat = Mesh(vertices[:3], np.array([[0, 0, 1]], np.int32))
    assert "no face has an area" in posed(cloud(np.zeros((0, 3)), truth, mesh=flat), prepared).values["accuracy"].note


def test_cameras_that_were_given_get_no_scores(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    made = cloud(fresh(truth), truth, cameras=truth.cameras, registered=np.ones(8, np.bool_))
    result = posed(made, prepared)
    for name in ("rotation", "translation", "auc@30", "centre-rmse"):
        assert (result.values[name].status, result.values[name].note) == (
            "unsupported",
            "the cameras were given, not predicted",
        )
    own = score(made, prepared, truth.view_names, scope="scene", posed=False)
    assert reading(own, "auc@30") == pytest.approx(1.0)


def test_an_emd_keeps_its_certified_bounds(prepared: PreparedTruth) -> None:
    result = posed(cloud(fresh(prepared.truth), prepared.truth), prepared)
    value = result.values["emd"]
    assert value.lower is not None and value.upper is not None and value.value is not None and value.gap is not None
    assert value.lower <= value.value == value.upper <= value.lower * 1.0101
    assert value.gap == pytest.approx(value.upper / value.lower - 1)
    assert result.values["accuracy"].lower is None and result.values["accuracy"].gap is None


@pytest.mark.parametrize("kind", ["mesh", "points"])
@pytest.mark.parametrize("count", [3_000, 200_000])
def test_a_perfect_prediction_does_not_beat_its_floor(truth: Truth, kind: str, count: int) -> None:
    """The floor is read at the score's own sample sizes, whether the truth is a mesh or a cloud."""
    if kind == "points":
        truth = replace(truth, kind="scan", vertices=None, faces=None)
    prepared = PreparedTruth.of(truth, PROTOCOL)
    assert len(prepared.points) > 40_000
    mesh = bumpy_mesh()
    made = cloud(sample_mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int32), count, seed=9), truth)
    result = posed(made, prepared)
    for name in ("completeness-visible", "chamfer-l1-sum", "accuracy"):
        value = result.values[name]
        assert value.value is not None and value.floor is not None
        assert value.value == pytest.approx(value.floor, rel=0.12, abs=1e-4), name
    value = result.values["fscore@0.5%"]
    assert value.value is not None and value.floor is not None and value.value < value.floor + 0.03


@pytest.mark.parametrize(("size", "error"), [(1.0, 0.0), (1.25, 0.25), (0.8, 0.25)])
def test_the_error_of_a_metric_scale(prepared: PreparedTruth, size: float, error: float) -> None:
    # A truth in millimetres, predictions in metres that are `size` times as long as they should be.
    truth = replace(prepared.truth, metres=1e-3)
    ready = PreparedTruth.of(truth, PROTOCOL)
    metric = spoilt(truth, noise=0.001, rotation=30.0, scale=1e-3 * size)
    result = score(replace(metric, scale="metric"), ready, truth.view_names, scope="scene", posed=False)
    assert reading(result, "scale-error") == pytest.approx(error, abs=0.01)
    assert f"predicted lengths are {size:.1f}"[:-1] in result.values["scale-error"].note or error == 0


def test_where_there_is_no_metric_scale_to_judge_the_reason_is_told(prepared: PreparedTruth) -> None:
    truth = replace(prepared.truth, metres=1.0)
    ready = PreparedTruth.of(truth, PROTOCOL)
    made = spoilt(truth, noise=0.001, rotation=30.0, scale=2.0)
    free = score(replace(made, scale="arbitrary"), ready, truth.view_names, scope="scene", posed=False)
    unknown = score(replace(made, scale="metric"), prepared, truth.view_names, scope="scene", posed=False)
    given = posed(cloud(fresh(truth), truth), ready)
    notes = ("claims no metric scale", "does not say how long its unit is", "cameras were given")
    for result, note in zip((free, unknown, given), notes, strict=True):
        value = result.values["scale-error"]
        assert value.status == "unsupported" and value.value is None and note in value.note


def test_errors_of_pairs_say_how_many_pairs_they_are_of(prepared: PreparedTruth) -> None:
    truth = prepared.truth
    result = score(spoilt(truth, rotation=30.0), prepared, truth.view_names, scope="scene", posed=False)
    pairs = {name: value.pairs for name, value in result.values.items() if value.pairs is not None}
    assert pairs == dict.fromkeys(("rotation", "translation", "auc@5", "auc@10", "auc@30"), 28)
