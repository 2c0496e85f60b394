"""Pi3's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.systems.pi3 import adapter as module
from adapters.systems.pi3.adapter import Adapter, Outputs, fitted_intrinsics
from tests.adapters.recorded import CASES, check_recorded, load
from tests.adapters.upstream.oracle import MUTATIONS


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIXELS", CASES["pi3"].side)


def test_a_recorded_run_is_prepared_as_upstream_did_and_comes_back_as_the_known_geometry() -> None:
    check_recorded("pi3", Adapter(), Outputs)


# There is no crop to forget.
@pytest.mark.parametrize("mutation", sorted(set(MUTATIONS) - {"crop forgotten"}))
def test_a_recorded_run_shows_an_adapter_s_error(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(AssertionError):
        check_recorded("pi3", Adapter(), Outputs)


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
    oracle = CASES["pi3"].oracle()
    inputs = Adapter().prepare(oracle.views)
    said, _ = load("pi3", Outputs, inputs.placements)
    said.local_points[1, ..., 0] *= -1  # seen in a mirror
    result = Adapter().finish(said, oracle.views)
    result.validate(oracle.views)
    assert result.registered is not None and result.registered.tolist() == [True, False]
    assert result.view_index is not None and set(result.view_index) == {0, 1}
