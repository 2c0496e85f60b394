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


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


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


SPOILT = {
    r"1 parameters missing \(1\.bias\)": lambda given: given.pop("1.bias"),
    r"4 unknown \(2\.0, 2\.1, 2\.2, \.\.\.\)": lambda given: given.update(
        {f"2.{i}": given["1.bias"] for i in range(4)}
    ),
    r"1 of another shape \(1\.bias \(\[3\] seen, \[2\] wanted\)\)": lambda given: given.update(
        {"1.bias": torch.zeros(3)}
    ),
    r"1 parameters missing \(1\.bias\); 1 unknown \(b\)": lambda given: given.update(b=given.pop("1.bias")),
}


@pytest.mark.parametrize("sentence", SPOILT)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_another_network_s_checkpoint_is_refused(sentence: str, suffix: str, tmp_path: Path) -> None:
    given = network(1).state_dict()
    SPOILT[sentence](given)
    save = torch.save if suffix == ".pt" else pytest.importorskip("safetensors.torch").save_file
    save({name: tensor.clone() for name, tensor in given.items()}, tmp_path / f"a{suffix}")
    with pytest.raises(Unavailable, match=f"not a checkpoint of this network: {sentence}$"):
        load_parameters(network(2), tmp_path / f"a{suffix}")


def twice(seed: int) -> Any:
    """A network that knows one of its parts by two names."""
    shared = network(seed)
    shared.again = shared[1]
    return shared


def test_a_tensor_of_two_names_may_stand_under_either(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(twice(1), str(tmp_path / "a.safetensors"))
    assert len(safetensors.load_file(tmp_path / "a.safetensors")) == 4 < len(twice(1).state_dict())
    assert same(load_parameters(twice(2), tmp_path / "a.safetensors"), twice(1))
    torch.save(twice(1).state_dict(), tmp_path / "a.pth")
    assert same(load_parameters(twice(2), tmp_path / "a.pth"), twice(1))
    given = twice(1).state_dict()
    for name in ("1.bias", "again.bias"):
        given.pop(name)
    torch.save(given, tmp_path / "b.pth")
    with pytest.raises(Unavailable, match=r"2 parameters missing \(1\.bias, again\.bias\)"):
        load_parameters(twice(2), tmp_path / "b.pth")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_into_the_network_s_own(dtype: str, tmp_path: Path) -> None:
    torch.save(
        {name: tensor.to(getattr(torch, dtype)) for name, tensor in network(1).state_dict().items()}, tmp_path / "a.pt"
    )
    loaded = load_parameters(network(2), tmp_path / "a.pt")
    assert all(tensor.dtype == torch.float32 for tensor in loaded.parameters())
    assert all(
        torch.allclose(a, b, atol=0.01) for a, b in zip(loaded.parameters(), network(1).parameters(), strict=True)
    )


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"<html>404</html>" * 9)
    with pytest.raises(Unavailable, match="not a file of tensors alone, and nothing in it is run"):
        load_parameters(network(1), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(Unavailable, match="list seen, named tensors wanted"):
        load_parameters(network(1), tmp_path / "list.pt")


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_a_file_that_would_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": network(1).state_dict(), "args": Malicious()}, tmp_path / "a.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match="nothing in it is run: Weights only load failed"):
        load_parameters(network(2), tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
