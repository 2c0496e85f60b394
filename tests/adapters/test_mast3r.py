"""MASt3R's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adapters.shared import pairs
from adapters.shared.pointmaps import Pointmaps
from adapters.systems.mast3r.adapter import Adapter
from tests.adapters.recorded import CASES, check_recorded, load
from tests.adapters.upstream.oracle import MUTATIONS


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "SIDE", CASES["mast3r"].side)


def test_a_recorded_run_comes_back_as_the_known_geometry() -> None:
    check_recorded("mast3r", Adapter(), Pointmaps, cleaned=True)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_recorded_run_shows_an_adapter_s_error(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(AssertionError):
        check_recorded("mast3r", Adapter(), Pointmaps, cleaned=True)


def test_a_view_whose_camera_is_no_camera_has_no_depth() -> None:
    oracle = CASES["mast3r"].oracle()
    inputs = Adapter().prepare(oracle.views)
    said, _ = load("mast3r", Pointmaps, inputs.placements)
    poses = said.camera_from_world.copy()
    poses[0] = np.nan
    points = (np.full_like(said.points[0], np.nan), *said.points[1:])
    lost = dataclasses.replace(said, points=points, camera_from_world=poses, registered=np.array([False, True]))
    result = Adapter().finish(lost, oracle.views)
    result.validate(oracle.views)
    assert result.scale == "metric"
    assert result.view_index is not None and set(result.view_index) == {1}
    assert result.depth is not None and (result.depth[0] == 0).all() and (result.depth[1] > 0).any()
