"""The README's adapter is run as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.systems.cards import get_adapter
from bench.trials.conformance import check_adapter
from data.scene import Scene

README = Path(__file__).parent.parent / "README.md"


def test_the_example_adapter_passes_its_check(tmp_path: Path, scene: Scene) -> None:
    toml, python = (
        re.search(rf"```{kind}\n# mine/(\S+)\n(.*?)```", README.read_text(), re.DOTALL) for kind in ("toml", "python")
    )
    folder = tmp_path / "mine"
    folder.mkdir()
    for block in (toml, python):
        assert block is not None
        (folder / block[1]).write_text(block[2])
    checks = list(check_adapter(get_adapter(str(folder)), scene))
    assert len(checks) >= 4
    assert not [check for check in checks if check.verdict == "fail"]


@pytest.mark.parametrize("command", ["bench", "test", "bench-full", "help"])
def test_the_commands_named_are_make_targets(command: str) -> None:
    assert re.search(rf"^{command}:", (README.parent / "Makefile").read_text(), re.MULTILINE)
