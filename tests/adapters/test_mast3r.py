"""MASt3R's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import dataclasses

import numpy as np

from adapters.systems.mast3r.adapter import Adapter
from tests.adapters.recorded import replayed


def test_a_view_whose_camera_is_no_camera_has_no_depth() -> None:
    oracle, outputs, _ = replayed("mast3r", Adapter(refinements=0))
    poses = outputs.camera_from_world.copy()
    poses[0] = np.nan
    points = (np.full_like(outputs.points[0], np.nan), *outputs.points[1:])
    lost = dataclasses.replace(outputs, points=points, camera_from_world=poses, registered=np.array([False, True]))
    result = Adapter().finish(lost, oracle.views)
    result.validate(oracle.views)
    assert result.scale == "metric"
    assert result.view_index is not None and set(result.view_index) == {1}
    assert result.depth is not None and (result.depth[0] == 0).all() and (result.depth[1] > 0).any()
