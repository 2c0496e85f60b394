"""Empty modules in the place of packages that upstream imports and nothing calls."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

import pytest

from adapters.shared.absent import absent


def test_what_is_not_installed_can_be_imported_and_not_called_and_is_gone_afterwards() -> None:
    with absent("nowhere_a.inner", "nowhere_b"):
        inner = importlib.import_module("nowhere_a.inner")
        assert importlib.import_module("nowhere_a").inner is inner
        assert importlib.util.find_spec("nowhere_b") is not None
        kind = inner.Thing
        assert isinstance(kind, type)  # so that upstream's classes can have it for a parent

        class Mine(kind):  # type: ignore[misc, valid-type]
            pass

        for made in (kind, Mine):
            with pytest.raises(ImportError, match=r"nowhere_a.inner.Thing is called, and .* is not installed here"):
                made(1, two=2)
    for name in ("nowhere_a", "nowhere_a.inner", "nowhere_b"):
        assert name not in sys.modules
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_what_is_installed_or_imported_stays_and_so_does_what_is_imported_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = types.ModuleType("own_of_this_test")
    monkeypatch.setitem(sys.modules, "own_of_this_test", own)
    with absent("numpy.nothing", "own_of_this_test"):
        assert importlib.import_module("own_of_this_test") is own
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("numpy.nothing")
        importlib.import_module("colorsys")
    assert sys.modules["own_of_this_test"] is own and "colorsys" in sys.modules
