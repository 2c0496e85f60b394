"""Fast3R's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adapters.systems.fast3r.adapter import Adapter
from tests.adapters.recorded import replayed


@pytest.mark.parametrize("registered", [[False, True], [True, False], [False, False]])
def test_points_stay_where_pnp_found_no_camera(registered: list[bool]) -> None:
    oracle, outputs, _ = replayed("fast3r", Adapter())
    result = Adapter().finish(dataclasses.replace(outputs, registered=np.array(registered)), oracle.views)
    result.validate(oracle.views)
    assert result.view_index is not None and set(result.view_index) == {0, 1}
    assert result.depth is not None and [bool((d > 0).any()) for d in result.depth] == registered


def test_an_unknown_choice_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"points: 'both' seen, .* wanted"):
        Adapter(points="both")
