"""View subsets are nested, seeded and spread."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.contract import Cameras
from data import subsets
from metrics.scoring.truth import Truth


@given(st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_an_order_is_a_permutation_and_the_same_for_a_seed(count: int, seed: int) -> None:
    directions = np.random.default_rng(seed).normal(size=(count, 3))
    order = subsets.nested_order(directions, seed)
    assert sorted(order) == list(range(count))
    assert order == subsets.nested_order(directions * 7.0, seed)


def test_two_of_a_ring_are_opposite_and_four_are_a_cross() -> None:
    order = subsets.even_order(24, 3)
    assert abs(order[0] - order[1]) == 12
    assert sorted((view - order[0]) % 24 for view in order[:4]) == [0, 6, 12, 18]


def test_seeds_start_elsewhere() -> None:
    assert len({subsets.even_order(24, seed)[0] for seed in range(12)}) > 4


def test_every_prefix_covers_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(60, 3))
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    order = subsets.nested_order(directions, 0)
    for count in (4, 8, 16):
        worst = np.arccos(np.clip(unit @ unit[order[:count]].T, -1, 1)).min(axis=1).max()
        by_chance = [
            np.arccos(np.clip(unit @ unit[rng.choice(60, count, False)].T, -1, 1)).min(axis=1).max() for _ in range(50)
        ]
        assert worst < np.median(by_chance)


@given(st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_an_overlap_order_is_a_permutation_and_the_same_for_a_seed(count: int, seed: int) -> None:
    share = np.random.default_rng(seed).uniform(size=(count, count))
    order = subsets.overlap_order(share, seed)
    assert sorted(order) == list(range(count))
    assert order == subsets.overlap_order(share, seed)


@given(st.integers(8, 60), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_photos_in_sequence_follow_a_neighbour(count: int, seed: int) -> None:
    share = subsets.sequence_overlap(count)
    order = subsets.overlap_order(share, seed)
    for i in range(1, count):
        assert 1 <= np.abs(order[i] - np.array(order[:i])).min() <= max(count // 12, 1)


def looking(centres: np.ndarray, targets: np.ndarray) -> Cameras:
    """Cameras at `centres` (N, 3) that look at `targets` (N, 3), z up, 90 degrees wide, 200 x 200 pixels."""
    poses = np.tile(np.eye(4), (len(centres), 1, 1))
    for i, (centre, target) in enumerate(zip(centres, targets, strict=True)):
        forward = (target - centre) / np.linalg.norm(target - centre)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        poses[i, :3, :3] = np.stack([right, np.cross(forward, right), forward])
        poses[i, :3, 3] = -poses[i, :3, :3] @ centre
    intrinsics = np.tile([[100.0, 0, 100], [0, 100, 100], [0, 0, 1]], (len(centres), 1, 1))
    return Cameras(intrinsics, poses)


def sphere(cameras: Cameras, radius: float, inside: bool) -> Truth:
    """A sphere about the origin as a truth of points, facing its cameras."""
    rng = np.random.default_rng(1)
    out = rng.normal(size=(40_000, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    normals = np.asarray(-out if inside else out, np.float32)
    count = len(cameras)
    return Truth(
        kind="exact",
        id="sphere",
        made_by=(),
        points=np.asarray(radius * out, np.float32),
        normals=normals,
        diameter=2 * radius,
        cameras=cameras,
        view_names=tuple(f"v{i:02d}" for i in range(count)),
        sizes=np.full((count, 2), 200, np.int32),
    )


def ring(count: int) -> np.ndarray:
    turn = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(turn), np.sin(turn), np.zeros(count)], axis=1)


def test_every_view_shares_surface_with_an_earlier_one_round_an_object_and_inside_a_room() -> None:
    around = ring(24)
    object_ = sphere(looking(3 * around, 0 * around), 1.0, inside=False)
    room = sphere(looking(0.4 * around, 3 * around), 3.0, inside=True)
    for truth in (object_, room):
        share = subsets.shared_surface(truth, list(range(24)))
        for seed in range(3):
            order = subsets.overlap_order(share, seed)
            steps = [share[order[i], order[:i]].max() for i in range(1, 24)]
            assert min(steps) >= subsets.ENOUGH, steps
            assert 1 <= min((order[1] - order[0]) % 24, (order[0] - order[1]) % 24) <= 3
            covered = {(view + k) % 24 for view in order[:12] for k in (-2, -1, 0, 1, 2)}
            assert len(covered) >= 16, "it goes on to new surface"


def test_views_inside_a_room_are_spread_by_where_they_look() -> None:
    """All of them stand about the centre: where they stand from there says nothing."""
    around = ring(12)
    jitter = 0.05 * np.random.default_rng(0).normal(size=(12, 3))
    cameras = looking(jitter, jitter + around)
    directions = subsets.view_directions(cameras, np.zeros(3))
    np.testing.assert_allclose(directions, around, atol=1e-9)
    order = subsets.nested_order(directions, 0)
    assert abs(order[0] - order[1]) == 6
    outside = looking(3 * around, 0 * around)
    np.testing.assert_allclose(subsets.view_directions(outside, np.zeros(3)), 3 * around, atol=1e-9)
