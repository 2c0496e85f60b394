"""Every adapter on recorded runs of upstream's code: neither torch nor anything of upstream's is needed."""

from __future__ import annotations

import importlib

import pytest

from tests.adapters.recorded import CASES, check_replayed
from tests.adapters.runs import RUNS
from tests.adapters.upstream.oracle import MUTATIONS, SHOWN


@pytest.mark.parametrize(("system", "run"), [(system, run) for system, runs in RUNS.items() for run in runs])
def test_a_recorded_run_comes_back_as_the_known_geometry(system: str, run: str) -> None:
    RUNS[system][run](importlib.import_module(f"adapters.systems.{system.replace('-', '_')}.adapter"))


NO_CROP = ("pi3", "pi3x", "vggt-pad", "lingbot-map-wide")  # nothing to forget


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_recorded_run_shows_an_error_of_the_shared_modules(
    case: str, mutation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mutation == "crop forgotten" and case in NO_CROP:
        pytest.skip("there is no crop to forget")
    if mutation == "poses the other way round" and len(CASES[case].sizes) == 1:
        pytest.skip("the only camera is the identity")
    MUTATIONS[mutation](monkeypatch)
    adapter = importlib.import_module(CASES[case].module).Adapter(**CASES[case].options)
    with pytest.raises(SHOWN):
        check_replayed(case, adapter)
