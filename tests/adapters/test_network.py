"""The precision networks run in, by device: torch itself is not needed."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import pytest

from adapters.shared.network import half_precision


def test_off_cuda_nothing_is_cast() -> None:
    assert isinstance(half_precision("cpu"), contextlib.nullcontext)


@pytest.mark.parametrize(("capability", "wanted"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_on_cuda_by_what_the_device_can(
    capability: tuple[int, int], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    torch = SimpleNamespace(
        bfloat16="bfloat16",
        float16="float16",
        cuda=SimpleNamespace(get_device_capability=lambda device: capability),
        autocast=lambda kind, dtype: asked.append((kind, dtype)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    half_precision("cuda:1")
    assert asked == [("cuda", wanted)]
