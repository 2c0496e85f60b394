"""The README's adapter is run as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import reconbench as rb
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


def test_the_notebook_example_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.search(r"```python\n(import reconbench as rb.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(block[1], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "visual-hull" in printed and (tmp_path / "runs" / "store" / "trials").is_dir()


def test_every_public_name_of_the_notebook_is_there_and_says_what_it_is() -> None:
    for name in rb.__all__:
        assert getattr(rb, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = rb.nothing
    with pytest.raises(rb.InputError, match="neither an embedded scene nor a folder"):
        rb.scene("nowhere")


@pytest.mark.parametrize("command", ["bench", "test", "bench-full", "help"])
def test_the_commands_named_are_make_targets(command: str) -> None:
    assert re.search(rf"^{command}:", (README.parent / "Makefile").read_text(), re.MULTILINE)
