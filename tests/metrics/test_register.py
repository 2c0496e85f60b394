"""Registration: any pose is found, doubt is told, every route keeps its stages."""

import numpy as np
import pytest
import trimesh
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from adapters.contract import Cameras
from metrics.register import AlignmentError, Registration, from_shape, register, settle
from metrics.register.icp import about
from metrics.similarity import apply, invert, rotation_angle, rotation_of, scale_of, similarity

F64 = NDArray[np.float64]


def chair() -> trimesh.Trimesh:
    """A shape without symmetry."""
    pieces = [trimesh.creation.box((1, 1, 0.1))]
    for size, where in (
        ((1, 0.1, 1.2), (0, 0.45, 0.6)),
        ((0.1, 0.1, 0.9), (0.45, 0.45, -0.45)),
        ((0.1, 0.1, 0.9), (-0.45, 0.45, -0.45)),
        ((0.1, 0.1, 0.9), (0.45, -0.45, -0.45)),
        ((0.1, 0.8, 0.1), (0.5, 0, 0.4)),
    ):
        pieces.append(trimesh.creation.box(size).apply_translation(where))
    pieces.append(trimesh.creation.icosphere(3, 0.2).apply_translation((-0.3, 0.4, 1.3)))
    return trimesh.util.concatenate(pieces)


def sample(mesh: trimesh.Trimesh, count: int, seed: int) -> F64:
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0], np.float64)


def world(seed: int) -> F64:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix()
    return similarity(float(np.exp(rng.uniform(-2, 2))), rotation, 5 * rng.normal(size=3))


def errors(result: F64, truth: F64) -> tuple[float, float]:
    """Degrees, and the relative error of the scale."""
    angle = float(rotation_angle(rotation_of(result) @ rotation_of(truth).T))
    return angle, abs(scale_of(result) / scale_of(truth) - 1)


def check_stages(result: Registration, *names: str) -> None:
    assert tuple(stage.name for stage in result.stages) == names
    assert np.array_equal(result.stages[-1].transform, result.target_from_source)
    assert result.residual == result.stages[-1].residual
    assert result.scale == pytest.approx(scale_of(result.target_from_source))


@pytest.mark.parametrize("seed", [0, 1])
def test_any_pose_is_recovered(seed: int) -> None:
    truth, pose = sample(chair(), 6000, seed), world(seed)
    result = register(apply(invert(pose), sample(chair(), 6000, 100 + seed)), truth, seed=seed)
    angle, scale = errors(result.target_from_source, pose)
    assert angle < 1 and scale < 0.01
    assert not result.ambiguous and not result.poor_fit
    assert result.margin is not None and result.margin > 0.05
    check_stages(result, "search", "icp")


def test_half_a_cloud_among_floaters_registers_the_same_way_twice() -> None:
    rng = np.random.default_rng(2)
    truth, part, pose = sample(chair(), 6000, 2), sample(chair(), 8000, 3), world(2)
    part = part[part @ [0.5, 0.3, 0.8] <= np.quantile(part @ [0.5, 0.3, 0.8], 0.65)]
    part = part + 0.005 * rng.normal(size=part.shape)
    pred = apply(invert(pose), np.concatenate([part, rng.uniform(-1.5, 2, (1500, 3))]))
    result = register(pred, truth, seed=4)
    angle, scale = errors(result.target_from_source, pose)
    assert angle < 1 and scale < 0.01 and not result.ambiguous
    assert np.array_equal(register(pred, truth, seed=4).target_from_source, result.target_from_source)


@pytest.mark.parametrize(
    "mesh", [trimesh.creation.box((1, 0.7, 0.4)), trimesh.creation.cylinder(0.4, 1.3)], ids=["box", "cylinder"]
)
def test_symmetric_shapes_are_ambiguous(mesh: trimesh.Trimesh) -> None:
    result = register(apply(invert(world(5)), sample(mesh, 5000, 6)), sample(mesh, 5000, 7))
    assert result.ambiguous and not result.poor_fit


def test_another_object_is_a_poor_fit() -> None:
    rod = sample(trimesh.creation.cylinder(0.05, 3.0), 5000, 8)
    assert register(rod, sample(trimesh.creation.icosphere(4, 1.0), 5000, 9)).poor_fit


def test_correspondences_settle_the_pose() -> None:
    rng = np.random.default_rng(10)
    truth, pose = sample(chair(), 6000, 10), world(10)
    pred = apply(invert(pose), sample(chair(), 6000, 11))
    there = sample(chair(), 400, 12) + 0.01 * rng.normal(size=(400, 3))
    here = apply(invert(pose), sample(chair(), 400, 12))
    there[:150] = there[rng.permutation(150)]
    result = register(pred, truth, correspondences=(here, there))
    assert errors(result.target_from_source, pose)[0] < 0.3
    check_stages(result, "correspondences", "icp")
    assert result.margin is None and not result.ambiguous and not result.poor_fit
    rough = register(pred, truth, correspondences=(here, there), refine=False)
    check_stages(rough, "correspondences")
    assert rough.stages[0].residual == result.stages[0].residual
    assert result.stages[1].gain == pytest.approx(rough.residual - result.residual)


def test_cameras_settle_the_pose_even_of_a_symmetric_shape() -> None:
    mesh = trimesh.creation.box((1, 0.7, 0.4))
    truth, pose = sample(mesh, 5000, 13), world(13)
    rng = np.random.default_rng(14)
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[:, :3, :3] = Rotation.random(6, random_state=15).as_matrix()
    poses[:, :3, 3] = 3 * rng.normal(size=(6, 3))
    intrinsics = np.tile(np.diag([500.0, 500, 1]), (6, 1, 1))
    pred_poses = poses @ pose  # seen from pred's world: the rotation part carries the scale, which is divided out
    pred_poses[:, :3] /= scale_of(pose)
    result = register(
        apply(invert(pose), sample(mesh, 5000, 16)),
        truth,
        cameras=(Cameras(intrinsics, pred_poses), Cameras(intrinsics, poses)),
    )
    angle, scale = errors(result.target_from_source, pose)
    assert angle < 0.2 and scale < 0.003
    check_stages(result, "cameras", "icp")


def test_floats_of_any_kind_and_many_points() -> None:
    truth, pose = sample(chair(), 70_000, 17), world(17)
    pred = apply(invert(pose), sample(chair(), 70_000, 18)).astype(np.float32)
    assert errors(register(pred, truth).target_from_source, pose)[0] < 0.5


@pytest.mark.parametrize("side", ["pred", "truth"])
def test_a_point_far_away_does_no_harm(side: str) -> None:
    truth, pose = sample(chair(), 6000, 20), world(20)
    pred, stray = apply(invert(pose), sample(chair(), 6000, 21)), np.array([[3e5, 1e5, -2e5]])
    if side == "pred":
        pred = np.concatenate([pred, stray])
    else:
        truth = np.concatenate([truth, stray])
    result = register(pred, truth)
    angle, scale = errors(result.target_from_source, pose)
    assert angle < 1 and scale < 0.01 and result.residual < 0.05 and not result.poor_fit


def test_refusals_name_the_argument() -> None:
    cloud = sample(chair(), 200, 19)
    with pytest.raises(AlignmentError, match="pred: 10 points"):
        register(cloud[:10], cloud)
    with pytest.raises(AlignmentError, match="truth: the points lie on a line"):
        register(cloud, np.outer(np.arange(100.0), [1, 2, 3]))
    with pytest.raises(AlignmentError, match="pred"):
        register(np.repeat(cloud[:20], 10, axis=0), cloud)  # fewer than 50 distinct points
    with pytest.raises(ValueError, match="pred: 1 points are not finite"):
        register(np.where(np.arange(200)[:, None] == 3, np.nan, cloud), cloud)
    with pytest.raises(ValueError, match="truth_normals"):
        register(cloud, cloud, truth_normals=cloud[:5])
    cameras = Cameras(np.tile(np.eye(3), (3, 1, 1)), np.tile(np.eye(4), (3, 1, 1)))
    with pytest.raises(AlignmentError, match="coincide"):
        register(cloud, cloud, cameras=(cameras, cameras))
    with pytest.raises(ValueError, match="correspondences"):
        register(cloud, cloud, cameras=(cameras, cameras), correspondences=(cloud, cloud))


UPS = [Rotation.random(random_state=seed).as_matrix()[0] for seed in range(40)]


@settings(max_examples=4, deadline=None, phases=(Phase.generate,))
@given(
    seeds=st.tuples(st.integers(0, 19), st.integers(20, 39)), yaw=st.floats(0, 6.28), tilt=st.sampled_from([0.0, 0.3])
)
def test_where_up_is_known_nothing_turns_about_another_axis(seeds: tuple[int, int], yaw: float, tilt: float) -> None:
    """Whatever ICP would gain by it: with `tilt` the prediction leans, and goes on leaning."""
    truth = sample(chair(), 4000, 0)
    frames = [
        similarity(1.0, Rotation.align_vectors([[0, 0, 1.0]], [UPS[seed]])[0].as_matrix(), np.zeros(3))
        for seed in seeds
    ]
    leaning = Rotation.from_euler("zx", [yaw, tilt]).as_matrix()
    pose = similarity(1.7, leaning, np.array([3.0, -1.0, 2.0]))
    pred = apply(invert(frames[0]) @ pose, sample(chair(), 4000, 1))
    target = apply(invert(frames[1]), truth)
    up = (UPS[seeds[0]], UPS[seeds[1]])
    start = from_shape(pred, target, up=up)
    for result in (start.truth_from_pred, settle(start, pred, target).target_from_source):
        assert np.abs(rotation_of(result) @ up[0] - up[1]).max() < 1e-9
        if tilt == 0:
            angle, scale = errors(frames[1] @ result @ invert(frames[0]), invert(pose))
            assert angle < 1.5 and scale < 0.02


def test_only_up_is_kept_of_a_turn_and_the_centre_stays_where_it_came() -> None:
    axis, centre = UPS[0], np.array([1.0, 2.0, -1.0])
    change = similarity(
        1.3,
        Rotation.from_rotvec(0.4 * axis).as_matrix() @ Rotation.from_rotvec(0.2 * np.cross(axis, UPS[1])).as_matrix(),
        centre,
    )
    kept = about(change, axis, centre)
    assert scale_of(kept) == pytest.approx(1.3) and np.abs(rotation_of(kept) @ axis - axis).max() < 1e-12
    assert np.abs(apply(kept, centre[None]) - apply(change, centre[None])).max() < 1e-12
    twist = similarity(0.8, Rotation.from_rotvec(-2.9 * axis).as_matrix(), centre)
    assert np.abs(about(twist, axis, centre) - twist).max() < 1e-12
