"""`--engine ray` where there is no Ray, no cluster or no address: one sentence, and nothing else happens."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.bench.test_cli import call

RUN = ("run", "--adapters", "null", "--scenes", "elephant", "--views", "1", "--engine", "ray")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (None, "RAY_ADDRESS is not set, a cluster's address wanted: `ray start --head`"),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS=ray://127.0.0.1:10001 seen, HOST:PORT wanted"),
        ("local", "RAY_ADDRESS is not set"),
        ("here", "RAY_ADDRESS=here seen, HOST:PORT wanted"),
    ],
)
def test_an_address_that_is_none_is_one_sentence(
    address: str | None,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert call(*RUN, "--store", tmp_path / "store") == 2
    assert sentence in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "store").exists()


def test_without_ray_the_sentence_says_what_brings_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert call(*RUN, "--store", tmp_path / "store") == 2
    assert "Ray is not installed: `pip install 'reconbench[ray]'` brings it" in capsys.readouterr().err


def test_an_address_at_which_nobody_answers_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # never listens
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        assert call(*RUN, "--store", tmp_path / "store") == 2
    assert "nobody answers at RAY_ADDRESS=127.0.0.1:" in capsys.readouterr().err.replace("\n", " ")


def test_scores_on_a_cluster_are_the_processors(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*RUN, "--metrics-device", "cpu", "--cpus", "0") == 2
    assert "--cpus: 0 seen, 1 or more wanted" in capsys.readouterr().err
