"""Camera alignment and pose errors: known answers, outliers, the published definition, refusals."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adapters.contract import Cameras
from metrics.cameras import AlignmentError, align_cameras, pose_errors
from metrics.similarity import apply, invert, rotation_angle, rotation_of, scale_of, similarity


def ring(count: int, rng: np.random.Generator) -> Cameras:
    """Cameras around the origin, looking at it."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    height = rng.uniform(0.2, 1.0, count)
    centres = np.stack([2 * np.cos(angle), 2 * np.sin(angle), height], axis=1)
    return cameras_at(centres, [looking(centre) for centre in centres])


def looking(centre: np.ndarray) -> np.ndarray:
    z = -centre / np.linalg.norm(centre)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def cameras_at(centres: np.ndarray, rotations: list[np.ndarray]) -> Cameras:
    poses = np.tile(np.eye(4), (len(centres), 1, 1))
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = [-R @ c for R, c in zip(rotations, centres, strict=True)]
    return Cameras(np.tile(np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), (len(centres), 1, 1)), poses)


def moved(cameras: Cameras, transform: np.ndarray) -> Cameras:
    """The same cameras in the world that `transform` (new from old) leads to."""
    return cameras_at(
        apply(transform, cameras.centres),
        [pose[:3, :3] @ rotation_of(transform).T for pose in cameras.camera_from_world],
    )


def some_similarity(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return similarity(
        float(np.exp(rng.uniform(-2, 2))), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3) * 4
    )


@pytest.mark.parametrize("count", [3, 4, 8, 40])
@pytest.mark.parametrize("robust", [True, False])
def test_alignment_recovers_a_known_similarity(count: int, robust: bool) -> None:
    truth = ring(count, np.random.default_rng(count))
    world = some_similarity(count)
    fit = align_cameras(moved(truth, invert(world)), truth, robust)
    np.testing.assert_allclose(fit.truth_from_pred, world, rtol=1e-7, atol=1e-7)
    assert fit.scale == pytest.approx(scale_of(world))
    assert fit.centre_residual < 1e-7 and fit.rotation_residual < 1e-5 and fit.inliers.all()


@pytest.mark.parametrize("seed", range(8))
def test_alignment_survives_forty_percent_of_wrong_cameras(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = ring(20, rng)
    world = some_similarity(seed)
    centres = truth.centres + 0.01 * rng.normal(size=(20, 3))
    rotations = [
        Rotation.from_rotvec(0.01 * rng.normal(size=3)).as_matrix() @ p[:3, :3] for p in truth.camera_from_world
    ]
    wrong = rng.permutation(20)[:8]
    for i in wrong:
        centres[i] = rng.normal(size=3) * 2
        rotations[i] = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix()
    fit = align_cameras(moved(cameras_at(centres, rotations), invert(world)), truth)
    assert rotation_angle(rotation_of(fit.truth_from_pred) @ rotation_of(world).T) < 1.0
    assert fit.scale == pytest.approx(scale_of(world), rel=0.02)
    assert not fit.inliers[wrong].any()


def test_rotations_hold_the_turn_that_nearly_collinear_centres_leave_free() -> None:
    rng = np.random.default_rng(0)
    centres = np.stack([np.linspace(0, 1, 5), 0.004 * rng.normal(size=5), 0.004 * rng.normal(size=5)], axis=1)
    rotations = [Rotation.from_rotvec(0.3 * rng.normal(size=3)).as_matrix() for _ in range(5)]
    truth = cameras_at(centres, rotations)
    pred = cameras_at(centres + 0.01 * rng.normal(size=(5, 3)), rotations)
    assert rotation_angle(rotation_of(align_cameras(pred, truth).truth_from_pred)) < 3


def test_alignment_refuses_what_is_not_determined() -> None:
    truth = ring(6, np.random.default_rng(1))
    with pytest.raises(AlignmentError, match="2 views"):
        align_cameras(truth.take([0, 1]), truth.take([0, 1]))
    rotations = [pose[:3, :3] for pose in truth.camera_from_world]
    line = cameras_at(np.outer(np.arange(6.0), [1, 2, 3]), rotations)
    with pytest.raises(AlignmentError, match=r"pred.*line"):
        align_cameras(line, truth)
    with pytest.raises(AlignmentError, match=r"truth.*line"):
        align_cameras(truth, line)
    with pytest.raises(AlignmentError, match=r"pred.*coincide"):
        align_cameras(cameras_at(np.ones((6, 3)), rotations), truth)
    with pytest.raises(ValueError, match="pred: 5 cameras"):
        align_cameras(truth.take(range(5)), truth)


def test_right_poses_have_no_error_in_any_world() -> None:
    truth = ring(7, np.random.default_rng(2))
    errors = pose_errors(moved(truth, some_similarity(3)), truth)
    assert errors.rotation.shape == (21,)
    assert errors.rotation.max() < 1e-5 and errors.translation.max() < 1e-5
    assert (errors.auc_5, errors.auc_10, errors.auc_30, errors.registered) == (1, 1, 1, 1)
    assert errors.centre_rmse == pytest.approx(0, abs=1e-8) and errors.rotation_rmse == pytest.approx(0, abs=1e-5)


def test_one_turned_camera() -> None:
    truth = ring(5, np.random.default_rng(3))
    poses = truth.camera_from_world.copy()
    turn = Rotation.from_rotvec(np.radians([0, 0, 7.5])).as_matrix()
    poses[2, :3] = turn @ poses[2, :3]  # about its own centre: centres stay, four of ten pairs are off by 7.5 degrees
    errors = pose_errors(Cameras(truth.intrinsics, poses), truth)
    assert np.sort(errors.rotation)[-4:] == pytest.approx([7.5] * 4) and np.sort(errors.rotation)[5] < 1e-5
    assert errors.rra(5) == pytest.approx(0.6) and errors.rra(8) == 1
    assert errors.auc_5 == pytest.approx(0.6)
    assert errors.auc_10 == pytest.approx((0.6 * 7 + 3) / 10)  # thresholds 8, 9, 10 see every pair
    assert errors.centre_rmse == pytest.approx(0, abs=1e-8)
    assert errors.rotation_rmse == pytest.approx(np.sqrt((7.5 * 0.8) ** 2 / 5 + 4 * 1.5**2 / 5), rel=0.01)


def test_the_mean_of_auc_by_pairs_is_the_auc_of_all_pairs_together() -> None:
    rng = np.random.default_rng(8)
    parts = []
    for count in (3, 6, 11):
        truth = ring(count, rng)
        parts.append(
            pose_errors(cameras_at(truth.centres + 0.3 * rng.normal(size=(count, 3)), _turned(truth, rng)), truth)
        )
    pooled = np.concatenate([np.maximum(part.rotation, part.translation) for part in parts])
    share = np.mean([(pooled < limit).mean() for limit in range(1, 31)])
    mean = np.average([part.auc(30) or 0.0 for part in parts], weights=[len(part.rotation) for part in parts])
    assert mean == pytest.approx(share)
    assert mean != pytest.approx(np.mean([part.auc(30) or 0.0 for part in parts]), abs=0.01)


def _turned(truth: Cameras, rng: np.random.Generator) -> list[np.ndarray]:
    turns = Rotation.from_rotvec(0.1 * rng.normal(size=(len(truth), 3))).as_matrix()
    return [turn @ pose[:3, :3] for turn, pose in zip(turns, truth.camera_from_world, strict=True)]


def test_auc_is_that_of_the_published_evaluations() -> None:
    rng = np.random.default_rng(4)
    truth = ring(9, rng)
    noisy = cameras_at(
        truth.centres + 0.2 * rng.normal(size=(9, 3)),
        [Rotation.from_rotvec(0.1 * rng.normal(size=3)).as_matrix() @ p[:3, :3] for p in truth.camera_from_world],
    )
    errors = pose_errors(noisy, truth)
    worst = np.maximum(errors.rotation, errors.translation)
    for limit, observed in ((5, errors.auc_5), (10, errors.auc_10), (30, errors.auc_30)):
        assert observed == pytest.approx(np.mean([(worst < threshold).mean() for threshold in range(1, limit + 1)]))


def test_unregistered_views_fail_and_may_hold_anything() -> None:
    truth = ring(5, np.random.default_rng(5))
    poses = truth.camera_from_world.copy()
    poses[4] = np.nan
    errors = pose_errors(Cameras(truth.intrinsics, poses), truth, np.arange(5) < 4)
    assert (errors.rotation == 180).sum() == 4 and (errors.translation == 180).sum() == 4
    assert errors.auc_30 == pytest.approx(0.6) and errors.registered == pytest.approx(0.8)
    assert errors.centre_rmse == pytest.approx(0, abs=1e-8)
    none = pose_errors(Cameras(truth.intrinsics, poses), truth, np.zeros(5, bool))
    assert none.auc_30 == 0 and none.centre_rmse is None and none.rotation_rmse is None


def test_reversed_baselines_count_as_right_but_show_in_the_centres() -> None:
    truth = ring(6, np.random.default_rng(6))
    mirrored = cameras_at(-truth.centres, [pose[:3, :3] for pose in truth.camera_from_world])
    errors = pose_errors(mirrored, truth)
    assert errors.translation.max() < 1e-5 and errors.auc_5 == 1
    assert errors.centre_rmse is not None and errors.centre_rmse > 0.1


def test_coinciding_centres() -> None:
    truth = ring(3, np.random.default_rng(7))
    rotations = [pose[:3, :3] for pose in truth.camera_from_world]
    still = cameras_at(np.zeros((3, 3)), rotations)
    assert pose_errors(truth, still).translation.max() == 0
    assert pose_errors(still, truth).translation.min() == 180
    assert pose_errors(truth.take([0]), truth.take([0])).auc_5 is None
