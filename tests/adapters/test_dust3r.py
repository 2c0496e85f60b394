"""DUSt3R's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adapters.shared import pairs
from adapters.systems.dust3r.adapter import Adapter, Outputs
from tests.adapters.recorded import CASES, check_recorded, load


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "SIDE", CASES["dust3r"].side)


def test_a_recorded_run_is_prepared_as_upstream_did_and_comes_back_as_the_known_geometry() -> None:
    check_recorded("dust3r", Adapter(), Outputs, cleaned=True)


def test_a_view_not_registered_gives_no_points_no_camera_and_no_depth() -> None:
    oracle = CASES["dust3r"].oracle()
    inputs = Adapter().prepare(oracle.views)
    outputs, _ = load("dust3r", Outputs, inputs.placements)
    lost = dataclasses.replace(outputs, registered=np.array([False, True]))
    result = Adapter().finish(lost, oracle.views)
    result.validate(oracle.views)
    assert result.view_index is not None and set(result.view_index) == {1}
    assert result.cameras is not None and np.isnan(result.cameras.camera_from_world[0]).all()
    assert (result.cameras.camera_from_world[1] == np.eye(4)).all()
    assert result.depth is not None and (result.depth[0] == 0).all() and (result.depth[1] > 0).any()
