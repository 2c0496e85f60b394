"""View subsets are nested, seeded and spread."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.subsets import even_order, nested_order


@given(st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_an_order_is_a_permutation_and_the_same_for_a_seed(count: int, seed: int) -> None:
    directions = np.random.default_rng(seed).normal(size=(count, 3))
    order = nested_order(directions, seed)
    assert sorted(order) == list(range(count))
    assert order == nested_order(directions * 7.0, seed)


def test_two_of_a_ring_are_opposite_and_four_are_a_cross() -> None:
    order = even_order(24, 3)
    assert abs(order[0] - order[1]) == 12
    assert sorted((view - order[0]) % 24 for view in order[:4]) == [0, 6, 12, 18]


def test_seeds_start_elsewhere() -> None:
    assert len({even_order(24, seed)[0] for seed in range(12)}) > 4


def test_every_prefix_covers_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(60, 3))
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    order = nested_order(directions, 0)
    for count in (4, 8, 16):
        worst = np.arccos(np.clip(unit @ unit[order[:count]].T, -1, 1)).min(axis=1).max()
        by_chance = [
            np.arccos(np.clip(unit @ unit[rng.choice(60, count, False)].T, -1, 1)).min(axis=1).max() for _ in range(50)
        ]
        assert worst < np.median(by_chance)
