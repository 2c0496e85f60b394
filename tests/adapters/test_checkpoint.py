"""Checkpoints: read by name, refused in one sentence, never run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from adapters.contract import Unavailable
from adapters.shared.checkpoint import find_checkpoint, load_parameters

torch = pytest.importorskip("torch")


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_torch_file_gives_its_parameters_whatever_wraps_them(wrapper: str | None, tmp_path: Path) -> None:
    told = network(1).state_dict()
    content = told if wrapper is None else {wrapper: told, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    assert same(load_parameters(network(2), tmp_path / "a.pth"), network(1))


def test_a_safetensors_file_gives_its_parameters(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(network(1).state_dict(), tmp_path / "a.safetensors")
    assert same(load_parameters(network(2), tmp_path / "a.safetensors"), network(1))


def test_a_checkpoint_is_a_file_or_a_folder_of_parameters_and_configuration(tmp_path: Path) -> None:
    assert find_checkpoint("random") == (None, None)
    (tmp_path / "model.safetensors").touch()
    assert find_checkpoint(str(tmp_path / "model.safetensors")) == (tmp_path / "model.safetensors", None)
    for path in (tmp_path, tmp_path / "nowhere.pt"):
        with pytest.raises(Unavailable, match=r"seen, a file, a folder of .* or 'random' wanted"):
            find_checkpoint(str(path))
    (tmp_path / "config.json").write_text('{"depth": 3}')
    assert find_checkpoint(str(tmp_path)) == (tmp_path / "model.safetensors", {"depth": 3})
    (tmp_path / "config.json").write_text("depth")
    with pytest.raises(Unavailable, match=r"config\.json: not a network's configuration"):
        find_checkpoint(str(tmp_path))


@pytest.mark.parametrize("what", ["missing", "unknown"])
def test_another_network_s_checkpoint_is_refused(what: str, tmp_path: Path) -> None:
    told = network(1).state_dict()
    if what == "missing":
        del told["1.bias"]
    else:
        told["2.bias"] = told["1.bias"]
    torch.save(told, tmp_path / "a.pt")
    with pytest.raises(Unavailable, match=rf"not a checkpoint of this network: 1 {what} keys, as [12]\.bias"):
        load_parameters(network(2), tmp_path / "a.pt")


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_a_file_that_would_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": network(1).state_dict(), "args": Malicious()}, tmp_path / "a.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="Weights only load failed"):
        load_parameters(network(2), tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
