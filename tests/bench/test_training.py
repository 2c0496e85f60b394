"""Training: what a kill leaves, and what ships. Skipped without torch, which only training needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adapters.shared.latent import read_weights
from adapters.systems.lam3d import model as lam3d
from adapters.systems.lmnet3d import model
from data.synthetic import family

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of made-up arrays in each split: what is trained on does not matter here."""
    folder, rng = tmp_path_factory.mktemp("family"), np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir()
        count, views = family.SHARD, 2
        np.savez(
            folder / split / "0000.npz",
            version=family.VERSION,
            casts=rng.integers(0, 256, (count, views, family.SIZE, family.SIZE, 4), np.uint8),
            lights=rng.normal(size=(count, views, 3)).astype(np.float32),
            poses=np.zeros((count, views, 3), np.float32),
            surface=rng.uniform(-0.4, 0.4, (count, family.SURFACE, 3)).astype(np.float16),
            normals=rng.integers(-127, 128, (count, family.SURFACE, 3), np.int8),
            field=rng.uniform(-0.4, 0.4, (count, family.FIELD, 4)).astype(np.float16),
            seeds=np.arange(count),
        )
    return folder


# Of each network the steps of its stages, and the rows of its curve; the last stage ends at step 4.
SCHEDULES = {
    "lmnet3d": (("4", "2", "9"), 5),
    "lmnet3d-probabilistic": (("2", "4", "9"), 5),
    "lam3d": (("4", "2", "9"), 5),
    "lam3d-diffusion": (("2", "9"), 3),
}


def _command(network: str, data: Path, run: Path) -> list[str]:
    options = ["--until", "4", "--cool", "3", "--objects", "128", "--batch", "2", "--every", "2"]
    if network == "lam3d-diffusion":
        options += ["--from", str(Path(lam3d.__file__).with_name("weights.safetensors"))]
    options += ["--data", str(data), "--run", str(run), "--steps", *SCHEDULES[network][0]]
    return [sys.executable, "-m", "bench.training", "train", network, *options]


@pytest.mark.slow
@pytest.mark.parametrize("network", list(SCHEDULES))
def test_a_killed_training_goes_on_to_the_same_curve_and_weights(network: str, data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(_command(network, data, whole), check=True, capture_output=True)
    process = subprocess.Popen(_command(network, data, killed), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (killed / "curve.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run(_command(network, data, killed), check=True, capture_output=True)
    curves = [json.loads((run / "curve.json").read_text()) for run in (whole, killed)]
    for row in curves[0] + curves[1]:
        row.pop("seconds")
    assert curves[0] == curves[1] and len(curves[0]) == SCHEDULES[network][1]
    states = [torch.load(run / "checkpoint.pt", weights_only=True)["average"] for run in (whole, killed)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    other = [*_command(network, data, whole), "--seed", "1"]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "a training with other settings" in refused.stderr
    if network == "lmnet3d":
        out = tmp_path / "weights.safetensors"
        ship = [sys.executable, "-m", "bench.training", "ship", str(whole), "--out", str(out)]
        subprocess.run(ship, check=True, capture_output=True)
        weights = read_weights(out)
        assert set(weights) == {f"{p}.{n}" for p, e in model.shapes().items() for n in e}
        for name, value in states[0].items():
            np.testing.assert_allclose(weights[name], value.numpy(), atol=1e-3)
        assert json.loads((tmp_path / "training.json").read_text())["trainings"][0]["curve"][-1]["stage"] == "together"
