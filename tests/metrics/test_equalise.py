"""Equalisation picks points, one a voxel, and keeps its bounds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.scoring.equalise import bounded_subset, random_subset, voxel_subset


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 2.0), st.floats(-1e3, 1e3))
@settings(max_examples=40, deadline=None)
def test_one_point_a_voxel_and_every_voxel_has_one(seed: int, edge: float, shift: float) -> None:
    points = np.random.default_rng(seed).normal(size=(300, 3)) + shift
    kept = voxel_subset(points, edge)
    voxels = np.floor(points / edge).astype(int)
    assert len(np.unique(voxels[kept], axis=0)) == len(kept)
    assert len(kept) == len(np.unique(voxels, axis=0))
    assert (np.diff(kept) > 0).all()


def test_the_point_nearest_to_the_centre_is_kept() -> None:
    points = np.array([[0.1, 0.1, 0.1], [0.45, 0.5, 0.55], [0.9, 0.9, 0.9], [1.5, 0.5, 0.5]])
    np.testing.assert_array_equal(voxel_subset(points, 1.0), [1, 3])


def test_edge_zero_keeps_all_and_empty_stays_empty() -> None:
    assert len(voxel_subset(np.zeros((5, 3)), 0.0)) == 5
    assert len(voxel_subset(np.zeros((0, 3)), 1.0)) == 0


# Voxels meet at the origin: of a cloud round it, a grid of any edge keeps at least eight points, or one.
@given(st.integers(0, 1000), st.integers(8, 400))
@settings(max_examples=30, deadline=None)
def test_a_bound_is_kept_and_not_wasted(seed: int, most: int) -> None:
    points = np.random.default_rng(seed).normal(size=(500, 3)).astype(np.float32)
    kept = bounded_subset(points, most)
    assert 1 <= len(kept) <= most
    assert len(kept) >= min(500, most) * 0.4
    assert len(set(kept.tolist())) == len(kept)


def test_random_subsets_are_seeded_and_without_replacement() -> None:
    first, again = (random_subset(100, 30, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(set(first.tolist())) == 30
    np.testing.assert_array_equal(random_subset(5, 30, np.random.default_rng(4)), np.arange(5))
