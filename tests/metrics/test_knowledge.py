"""Judging with a truth that has a hole: what it knows is read off closed forms, what it does not know is said."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import point_cloud_utils as pcu
import pytest
from numpy.typing import NDArray

from adapters.contract import Cameras, Mesh, Reconstruction
from data.scene import Scene
from metrics.scoring.knowledge import Evidence, Judge, astray
from metrics.scoring.memo import Memo
from metrics.scoring.prepared import PreparedTruth
from metrics.scoring.protocol import load_protocol
from metrics.scoring.score import Score, Value, score
from metrics.scoring.truth import Box, Knowledge, Truth, sample_mesh

PROTOCOL = msgspec.structs.replace(load_protocol("object-v1"), emd_draws=0)
EDGE = 0.01  # of the diameter, of the grid of free space
HOLE = 0.35  # x beyond which nothing of the surface was measured
Cloud = NDArray[np.floating]


@pytest.fixture(scope="module")
def exact(scene: Scene) -> Truth:
    return scene.truth("exact")


@pytest.fixture(scope="module")
def measured(exact: Truth) -> Truth:
    """The exact surface with a hole on one side, of which neither surface nor the space before it is known."""
    assert exact.vertices is not None and exact.faces is not None
    unit = exact.diameter
    low, high = exact.vertices.min(axis=0) - 0.1 * unit, exact.vertices.max(axis=0) + 0.1 * unit
    shape = np.ceil((high - low) / (EDGE * unit)).astype(int)
    centres = low + (np.indices(shape).reshape(3, -1).T + 0.5) * EDGE * unit
    away, _, _ = pcu.signed_distance_to_mesh(*(np.ascontiguousarray(a) for a in (centres, exact.vertices, exact.faces)))
    free = (away > 0.0075 * unit) & (centres[:, 0] < HOLE)
    known = exact.points[:, 0] < HOLE
    stray = exact.points[:1000] + np.float32(0.02 * unit)  # points that were fused, wrong, and are not trusted
    trusted = np.r_[np.ones(known.sum(), np.bool_), np.zeros(len(stray), np.bool_)]
    return replace(
        exact,
        kind="colmap",
        points=np.concatenate([exact.points[known], stray]),
        normals=np.concatenate([exact.normals[known], exact.normals[:1000]]),
        depth=None,
        vertices=None,
        faces=None,
        crop=Box(tuple(low.tolist()), tuple(high.tolist())),
        knowledge=Knowledge(trusted, free.reshape(shape), low, EDGE * unit, error=0.001),
    )


@pytest.fixture(scope="module")
def prepared(measured: Truth) -> PreparedTruth:
    return PreparedTruth.of(measured, PROTOCOL)


def surface(exact: Truth, count: int = 60_000) -> Cloud:
    assert exact.vertices is not None and exact.faces is not None
    return sample_mesh(exact.vertices, exact.faces, count, seed=3).astype(np.float64)


def outwards(points: Cloud) -> Cloud:
    """Near enough to the normals of the bumpy ball."""
    away = points - points.mean(axis=0)
    return np.asarray(away / np.linalg.norm(away, axis=1, keepdims=True))


def scored(points: Cloud, prepared: PreparedTruth) -> Score:
    cloud = Reconstruction(points=points.astype(np.float32), frame="world", scale="metric")
    return score(cloud, prepared, (), scope="scene", posed=True, brief=True)


def reading(result: Score, name: str) -> float:
    value = bounded(result, name)
    assert value.value is not None
    return value.value


def bounded(result: Score, name: str) -> Value:
    value = result.values[name]
    assert value.status == "ok", value.note
    return value


def test_a_perfect_system_reads_as_one_through_the_hole(exact: Truth, prepared: PreparedTruth) -> None:
    points = surface(exact)
    result = scored(points, prepared)
    assert reading(result, "fscore@1%") > 0.97
    assert reading(result, "accuracy") < 0.1
    value = bounded(result, "fscore@1%")
    assert value.least is not None and value.most is not None and value.judged is not None
    share = float((points[:, 0] < HOLE).mean())
    assert value.judged == pytest.approx(share, abs=0.03)
    assert value.least == pytest.approx(share, abs=0.15)
    assert value.most == 1.0
    assert result.known is not None and 0.5 < result.known < 1


def test_what_a_truth_with_holes_has_of_the_surface_is_no_floor_of_shares(
    exact: Truth, prepared: PreparedTruth
) -> None:
    cloud = Reconstruction(points=surface(exact).astype(np.float32), frame="world", scale="metric")
    values = score(cloud, prepared, (), scope="scene", posed=True).values
    assert all(values[f"{name}@1%"].floor is None for name in ("precision", "recall", "fscore"))
    assert values["accuracy"].floor is not None and values["chamfer-l1-sum"].floor is not None


def test_without_knowledge_the_hole_counts_as_wrong(exact: Truth, measured: Truth) -> None:
    bare = PreparedTruth.of(replace(measured, knowledge=None), PROTOCOL)
    assert bare.judge is None
    result = scored(surface(exact), bare)
    assert reading(result, "fscore@1%") < 0.97
    assert bounded(result, "fscore@1%").judged is None and result.known is None


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_floaters_in_free_space_take_their_share(exact: Truth, prepared: PreparedTruth, share: float) -> None:
    points = surface(exact)
    points = points[points[:, 0] < HOLE]
    count = round(share / (1 - share) * len(points))
    some = points[np.random.default_rng(0).permutation(len(points))[:count]]
    some = some[some[:, 0] < HOLE - 0.2]
    spoilt = np.concatenate([points, some + 0.08 * exact.diameter * outwards(points)[: len(some)]])
    some = some + 0.06 * exact.diameter * outwards(some)
    spoilt = np.concatenate([points, some])
    result = scored(spoilt, prepared)
    whole = scored(points, prepared)
    expected = reading(whole, "precision@1%") * len(points) / len(spoilt)  # equalisation thins both about alike
    assert reading(result, "precision@1%") == pytest.approx(expected, abs=0.05)
    value = bounded(result, "precision@1%")
    assert value.least is not None and value.most is not None
    assert value.least <= expected <= value.most


@pytest.mark.parametrize("shift", [0.025, -0.018])
def test_surface_beside_the_known_one_is_wrong(exact: Truth, prepared: PreparedTruth, shift: float) -> None:
    points = surface(exact)
    result = scored(points + shift * exact.diameter * outwards(points), prepared)
    assert reading(result, "precision@1%") < 0.1
    assert reading(result, "recall@1%") < 0.1


def test_what_lies_in_unknown_space_alone_is_not_judged(exact: Truth, prepared: PreparedTruth) -> None:
    points = surface(exact)
    hidden = points[points[:, 0] > HOLE + 0.05 * exact.diameter]
    value = bounded(scored(hidden, prepared), "precision@1%")
    assert value.judged is not None and value.judged < 0.05
    assert value.least == pytest.approx(0, abs=0.01)
    assert value.most == pytest.approx(1, abs=0.05)


def test_garbage_that_fills_unknown_space_is_not_rewarded(
    exact: Truth, measured: Truth, prepared: PreparedTruth
) -> None:
    points = surface(exact)
    assert measured.knowledge is not None
    grid = measured.knowledge
    unknown = np.argwhere(~grid.free)
    rng = np.random.default_rng(0)
    filled = grid.low + (unknown[rng.integers(len(unknown), size=400_000)] + rng.random((400_000, 3))) * grid.edge
    assert reading(scored(filled, prepared), "fscore@1%") < 0.7
    both = scored(np.concatenate([points, filled]), prepared)
    assert reading(both, "fscore@1%") < 0.85 * reading(scored(points, prepared), "fscore@1%")


def test_missing_known_surface_is_missed_and_missing_unknown_surface_lowers_coverage(
    exact: Truth, prepared: PreparedTruth
) -> None:
    points = surface(exact)
    whole = scored(points, prepared)
    for gone in (points[:, 0] < -HOLE, points[:, 0] > HOLE):
        part = scored(points[~gone], prepared)
        assert reading(part, "recall@1%") < reading(whole, "recall@1%") - 0.05
        assert reading(part, "precision@1%") > 0.97


def test_a_thin_plate_with_one_known_side(measured: Truth) -> None:
    """The far side of a plate thicker than the object is taken to be stays unknown; what lies inside is wrong."""
    rng = np.random.default_rng(0)
    flat = np.c_[rng.uniform(-0.5, 0.5, (40_000, 2)), np.zeros(40_000)]
    low, shape, edge = np.array([-0.6, -0.6, -0.2]), (120, 120, 40), 0.01
    free = np.zeros(shape, np.bool_)
    free[:, :, 21:] = True  # above z = 0.01
    up = np.tile(np.float32([0, 0, 1]), (len(flat), 1))
    truth = replace(
        measured,
        points=flat.astype(np.float32),
        normals=up,
        diameter=1.0,
        masks=None,
        crop=None,
        knowledge=Knowledge(np.ones(len(flat), np.bool_), free, low, edge, error=0.0),
    )
    judge = Judge.of(truth, truth.knowledge or pytest.fail(), np.arange(len(flat)))
    inner = flat[np.abs(flat[:, :2]).max(axis=1) < 0.45]
    for depth, decided in ((0.0, True), (-0.02, True), (-0.04, False), (0.02, True), (0.1, True)):
        right, far, near = judge.evidence(inner + [0, 0, depth]).verdicts(0.01)
        assert ((right | far | near).mean() > 0.95) == decided, depth
        assert (right.mean() > 0.95) == (depth == 0), depth
    assert judge.known is None  # no masks: nothing says how much of the object is unknown


def test_the_bounds_widen_with_what_is_unknown(exact: Truth, measured: Truth, prepared: PreparedTruth) -> None:
    assert measured.knowledge is not None
    less = replace(measured.knowledge, trusted=measured.knowledge.trusted & (measured.points[:, 0] < 0))
    blind = PreparedTruth.of(replace(measured, knowledge=less), PROTOCOL)
    points = surface(exact)
    value, other = (bounded(scored(points, truth), "fscore@1%") for truth in (prepared, blind))
    assert value.least is not None and other.least is not None and other.value is not None
    assert other.least < value.least - 0.1
    assert other.value > 0.9


def evidence_of(count: int, **known: object) -> Evidence:
    """Evidence of a prediction of `count` points at one place, right in every way but in what is `known` of it."""
    on = np.zeros(count)
    right = Evidence(
        lower=on,
        upper=on,
        height=on,
        free=np.zeros(count, np.bool_),
        reach=np.zeros(10),
        aside=np.zeros(10),
        covered=(1.0, 1.0),
        layers=1.0,
        error=0.0,
        known=None,
        cloud=np.zeros((count, 3)),
    )
    return replace(right, **known)


@pytest.mark.parametrize(
    ("known", "covered", "layers", "recall"),
    [
        (0.2, (0.75, 0.75), 0.0, 0.5),  # half of what a ray crosses is there
        (0.2, (0.75, 0.75), 0.6, 0.6),  # or more, by the layers of surface that it has
        (0.1, (0.5, 0.5), 0.2, 0.2),  # of scraps, layers alone tell
        (0.9, (0.75, 0.75), 0.0, 0.54),  # trusted surface is reached in six of ten places: at least 0.9 of that
        (0.2, (1.0, 1.0), 0.0, 0.92),  # what is not known may be there altogether
    ],
)
def test_recall_is_read_off_the_images_within_what_trusted_surface_allows(
    known: float, covered: tuple[float, float], layers: float, recall: float
) -> None:
    reach = np.where(np.arange(10) < 6, 0.0, 0.1)  # what is absent, not beside
    evidence = evidence_of(10, reach=reach, covered=covered, layers=layers, known=known)
    assert evidence.shares(0.01).recall == pytest.approx(recall, abs=1e-9)


def test_surface_that_lies_elsewhere_is_told_from_surface_that_ends() -> None:
    reach = np.where(np.arange(10) < 6, 0.0, 0.018)  # within twice the threshold
    ends = evidence_of(10, reach=reach, aside=np.zeros(10), known=0.2)
    lifted = evidence_of(10, reach=reach, aside=reach, known=0.2)
    assert ends.shares(0.01).recall == pytest.approx(0.92)  # all that is there is right
    assert lifted.shares(0.01).recall == pytest.approx(0.6)  # four tenths of it are not


def test_unknown_points_are_right_as_often_as_what_was_told_nearest_to_them() -> None:
    """Two patches far apart, each with points over trusted surface and with unknown ones; the second lies 1.5% off."""
    upper = np.tile([0.0, 0.04, 0.015, 0.04], 500)  # right, unknown; over the surface, unknown
    lower, place = np.where(upper == 0.015, 0.012, 0.0), np.repeat([0.0, 1.0], 2)
    cloud = np.random.default_rng(0).normal(np.tile(place, 500)[:, None], 0.01, (2000, 3))
    kwargs = {"upper": upper, "lower": lower, "height": upper, "free": lower > 0, "cloud": cloud}
    assert evidence_of(2000, **kwargs).shares(0.01).precision == pytest.approx(0.5 / 0.98, abs=0.01)
    mixed = kwargs | {"cloud": np.random.default_rng(0).normal(0, 0.01, (2000, 3))}
    assert evidence_of(2000, **mixed).shares(0.01).precision == pytest.approx((0.25 + 0.5 * 0.5) / 0.98, abs=0.03)
    half = kwargs | {"upper": np.tile([0.0, 0.0, 0.015, 0.04], 500)}  # unknown in the patch that is off alone
    assert evidence_of(2000, **half).shares(0.01).precision == pytest.approx(0.5 / 0.98, abs=0.01)


def test_what_is_told_with_nothing_unknown_or_nothing_told() -> None:
    assert evidence_of(10).shares(0.01).precision == 1.0
    lost = evidence_of(10, upper=np.full(10, 0.04))
    shares = lost.shares(0.01)
    assert shares.precision == 0.0 and shares.judged == 0.0
    assert shares.least[0] == 0.0 and shares.most[0] == 1.0


def test_half_a_ball_has_half_the_layers(exact: Truth, prepared: PreparedTruth) -> None:
    judge = prepared.judge or pytest.fail()
    points = surface(exact)
    whole, half = judge.evidence(points), judge.evidence(points[points[:, 1] < np.median(points[:, 1])])
    assert 0.75 < whole.layers <= 1  # behind the hole all space may be solid, which has layers of its own
    assert half.layers / whole.layers == pytest.approx(0.5, abs=0.1)
    assert half.there < 0.75
    floating = np.random.default_rng(0).uniform(points.min(axis=0), points.max(axis=0), (20_000, 3))
    clear = judge.evidence(floating)
    far = clear.lower > 0.01
    kept = judge.evidence(np.concatenate([points, floating[far]]))
    assert kept.layers == pytest.approx(whole.layers, abs=0.05)  # what is far from all surface makes no layer


@pytest.mark.parametrize("threshold", [0.005, 0.01, 0.02])
def test_an_estimate_lies_within_its_bounds(exact: Truth, prepared: PreparedTruth, threshold: float) -> None:
    judge, points, rng = prepared.judge or pytest.fail(), surface(exact, 20_000), np.random.default_rng(0)
    for _ in range(10):
        noise, kept = rng.choice([0.0, 0.004, 0.02]), rng.random()
        cloud = points[rng.random(len(points)) < kept]
        cloud = cloud + rng.normal(0, 1, cloud.shape) * noise * exact.diameter
        some = rng.integers(len(cloud), size=rng.integers(1, len(cloud)))
        shares = judge.evidence(cloud).shares(threshold, some)
        for value, low, high in zip((shares.precision, shares.recall), shares.least, shares.most, strict=False):
            assert low - 1e-9 <= value <= high + 1e-9


def test_a_wrong_camera_is_told_by_the_surface_that_its_mask_misses(measured: Truth) -> None:
    assert measured.masks is not None and measured.knowledge is not None
    surface = measured.points[measured.knowledge.trusted]
    poses = measured.cameras.camera_from_world.copy()
    poses[2, 0, 3] += 0.3 * measured.diameter  # to the side
    assert not astray(measured.cameras, measured.masks, surface).any()
    moved = astray(Cameras(measured.cameras.intrinsics, poses), measured.masks, surface)
    assert np.flatnonzero(moved).tolist() == [2]


def test_a_mesh_read_under_several_protocols_reads_as_under_each_alone(exact: Truth, measured: Truth) -> None:
    """How many points a mesh is sampled with is a later stage's affair, on which all that is kept of it depends."""
    assert exact.mesh is not None
    mesh = Mesh(np.asarray(exact.mesh[0], np.float32), exact.mesh[1])
    hull = Reconstruction(points=mesh.vertices, mesh=mesh, frame="world", scale="metric")
    memo = Memo()
    for samples in (2_000, 10_000, 2_000):
        own = PreparedTruth.of(measured, msgspec.structs.replace(PROTOCOL, samples=samples))
        shared = score(hull, own, (), scope="scene", posed=True, brief=True, memo=memo)
        assert shared.values == score(hull, own, (), scope="scene", posed=True, brief=True).values
