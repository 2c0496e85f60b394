"""DUSt3R's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import dataclasses

import numpy as np

from adapters.systems.dust3r.adapter import Adapter
from tests.adapters.recorded import replayed


def test_a_view_not_registered_gives_no_points_no_camera_and_no_depth() -> None:
    oracle, outputs, _ = replayed("dust3r", Adapter())
    lost = dataclasses.replace(outputs, registered=np.array([False, True]))
    result = Adapter().finish(lost, oracle.views)
    result.validate(oracle.views)
    assert result.view_index is not None and set(result.view_index) == {1}
    assert result.cameras is not None and np.isnan(result.cameras.camera_from_world[0]).all()
    assert (result.cameras.camera_from_world[1] == np.eye(4)).all()
    assert result.depth is not None and (result.depth[0] == 0).all() and (result.depth[1] > 0).any()
