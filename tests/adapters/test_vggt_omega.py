"""VGGT-Omega's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.shared.pointmaps import PosedDepth
from adapters.systems.vggt_omega import adapter as module
from adapters.systems.vggt_omega.adapter import Adapter
from tests.adapters.recorded import CASES, check_recorded, load
from tests.adapters.upstream.oracle import MUTATIONS


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIDE", CASES["vggt-omega"].side)


def test_a_recorded_run_is_prepared_as_upstream_did_and_comes_back_as_the_known_geometry() -> None:
    check_recorded("vggt-omega", Adapter(), PosedDepth)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_recorded_run_shows_an_adapter_s_error(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(AssertionError):
        check_recorded("vggt-omega", Adapter(), PosedDepth)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_a_view_whose_camera_is_none_is_not_registered(wrong: float) -> None:
    oracle = CASES["vggt-omega"].oracle()
    inputs = Adapter().prepare(oracle.views)
    said, _ = load("vggt-omega", PosedDepth, inputs.placements)
    said.intrinsics[1, 0, 0] = wrong
    result = Adapter().finish(said, oracle.views)
    result.validate(oracle.views)
    assert result.registered is not None and result.registered.tolist() == [True, False]
    assert result.depth is not None and (result.depth[1] == 0).all()


def test_an_unknown_choice_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"seen, .* wanted"):
        Adapter(fit="stretch")
