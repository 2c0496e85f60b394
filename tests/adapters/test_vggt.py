"""VGGT's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.contract import Reconstruction
from adapters.systems.vggt import adapter as module
from adapters.systems.vggt.adapter import Adapter, Outputs
from tests.adapters.recorded import CASES


def test_padding_gives_no_points_and_all_of_each_photo_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = CASES["vggt"].oracle()
    monkeypatch.setattr(module, "SIDE", CASES["vggt"].side)
    adapter = Adapter(fit="pad")
    inputs = adapter.prepare(oracle.views)
    height, width = inputs.images[0].shape[1:]
    assert height == width == module.SIDE
    ones = np.ones((2, height, width), np.float32)
    pose = np.tile(np.eye(4, dtype=np.float32)[:3], (2, 1, 1))
    K = np.tile(np.array([[60, 0, width / 2], [0, 60, height / 2], [0, 0, 1]], np.float32), (2, 1, 1))
    points = np.zeros((2, height, width, 3), np.float32)
    result: Reconstruction = adapter.finish(Outputs(pose, K, ones, ones, points, ones, inputs.placements), oracle.views)
    result.validate(oracle.views)
    assert len(result.points) == sum(place.inside().sum() for place in inputs.placements) < 2 * height * width
    assert result.depth is not None and all((depth == 1).all() for depth in result.depth)


@pytest.mark.parametrize("options", [{"points": "both"}, {"fit": "stretch"}])
def test_an_unknown_choice_is_refused_in_one_sentence(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"seen, .* wanted"):
        Adapter(**options)
