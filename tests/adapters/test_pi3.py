"""Pi3's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import numpy as np

from adapters.systems.pi3.adapter import Adapter, fitted_intrinsics
from tests.adapters.recorded import replayed


def test_intrinsics_are_those_the_points_were_seen_by_and_lean_on_the_sure_ones() -> None:
    K = np.array([[70.0, 0, 31], [0, 90, 22], [0, 0, 1]])
    v, u = np.mgrid[:40, :60]
    z = 2 + np.sin(u / 7) + np.cos(v / 5)
    points = np.stack([(u - 31) / 70 * z, (v - 22) / 90 * z, z], axis=-1)
    weights = np.ones((40, 60))
    assert np.abs(fitted_intrinsics(points, weights) - K).max() < 1e-10
    points[5:9, 5:30, :2], weights[5:9, 5:30] = 3.0, 0.0
    assert np.abs(fitted_intrinsics(points, weights) - K).max() < 1e-10


def test_a_view_that_no_camera_explains_is_not_registered_and_keeps_its_points() -> None:
    oracle, outputs, _ = replayed("pi3", Adapter())
    outputs.local_points[1, ..., 0] *= -1  # seen in a mirror
    result = Adapter().finish(outputs, oracle.views)
    result.validate(oracle.views)
    assert result.registered is not None and result.registered.tolist() == [True, False]
    assert result.view_index is not None and set(result.view_index) == {0, 1}
