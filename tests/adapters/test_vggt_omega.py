"""VGGT-Omega's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.systems.vggt_omega.adapter import Adapter
from tests.adapters.recorded import replayed


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_a_view_whose_camera_is_none_is_not_registered(wrong: float) -> None:
    oracle, outputs, _ = replayed("vggt-omega", Adapter(side=64))
    outputs.intrinsics[1, 0, 0] = wrong
    result = Adapter().finish(outputs, oracle.views)
    result.validate(oracle.views)
    assert result.registered is not None and result.registered.tolist() == [True, False]
    assert result.depth is not None and (result.depth[1] == 0).all()


def test_an_unknown_choice_is_refused_in_one_sentence() -> None:
    for options in ({"fit": "stretch"}, {"side": 500}):
        with pytest.raises(ValueError, match=r"seen, .* wanted"):
            Adapter(**options)
