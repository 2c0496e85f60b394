"""Fast3R's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adapters.systems.fast3r import adapter as module
from adapters.systems.fast3r.adapter import Adapter, Outputs
from tests.adapters.recorded import CASES, check_recorded, load


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIDE", CASES["fast3r"].side)


def test_a_recorded_run_is_prepared_as_upstream_did_and_comes_back_as_the_known_geometry() -> None:
    check_recorded("fast3r", Adapter(), Outputs)


@pytest.mark.parametrize("registered", [[False, True], [True, False], [False, False]])
def test_points_stay_where_pnp_found_no_camera(registered: list[bool]) -> None:
    oracle = CASES["fast3r"].oracle()
    inputs = Adapter().prepare(oracle.views)
    outputs, _ = load("fast3r", Outputs, inputs.placements)
    result = Adapter().finish(dataclasses.replace(outputs, registered=np.array(registered)), oracle.views)
    result.validate(oracle.views)
    assert result.view_index is not None and set(result.view_index) == {0, 1}
    assert result.depth is not None and [bool((d > 0).any()) for d in result.depth] == registered


def test_an_unknown_choice_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"points: 'both' seen, .* wanted"):
        Adapter(points="both")
