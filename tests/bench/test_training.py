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
from safetensors.numpy import save

from adapters.contract import InputError
from adapters.shared.latent import read_weights
from adapters.systems.lam3d import model as lam3d
from adapters.systems.lmnet3d import model
from data.synthetic import family

torch = pytest.importorskip("torch")
from bench.training import ablate, losses, variants  # noqa: E402 - they need torch
from bench.training.loop import Settings, averaged, initial, train  # noqa: E402
from bench.training.networks import NETWORKS  # noqa: E402
from bench.training.ship import note_origin, ship  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of made-up arrays in each split: what is trained on does not matter here."""
    folder, rng = tmp_path_factory.mktemp("family"), np.random.default_rng(0)
    for split in ("train", "val", "test"):
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
    "lam3d": (("9",), 2),
    "lam3d-diffusion": (("9",), 2),
}


def _command(network: str, data: Path, run: Path) -> list[str]:
    options = ["--until", "4", "--cool", "3", "--objects", "128", "--batch", "2", "--every", "2"]
    if network != "lmnet3d":
        system = model if network == "lam3d" else lam3d
        options += ["--from", str(Path(system.__file__).with_name("weights.safetensors"))]
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
    kept = torch.load(whole / "checkpoint.pt", weights_only=True)
    for name in kept["average"]:  # what is read off the data stays as it was, so that nothing lags behind it
        assert not name.endswith(("diffuse.mean", "diffuse.scale")) or torch.equal(
            kept["average"][name], kept["weights"][name]
        ), name
    states = [kept["average"], torch.load(killed / "checkpoint.pt", weights_only=True)["average"]]
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


def test_a_training_stopped_after_a_step_is_done_and_can_go_on_as_if_it_had_not(data: Path, tmp_path: Path) -> None:
    network = NETWORKS["direct"]
    settings = Settings(network="direct", steps=(9,), batch=2, objects=128, every=2, until=5, cool=3)
    assert train(network, settings, data, tmp_path / "whole")
    for _ in range(2):  # the second time there is nothing to do
        assert train(network, settings, data, tmp_path / "stopped", stop_after=4)
        assert [row.step for row in averaged(tmp_path / "stopped")[2]] == [2, 4]
    assert train(network, settings, data, tmp_path / "stopped")
    whole, stopped = (averaged(tmp_path / run)[0] for run in ("whole", "stopped"))
    assert all(np.array_equal(value, stopped[name]) for name, value in whole.items())


@pytest.mark.parametrize("name", ["lmnet3d-l2", "lmnet3d-probabilistic", "lmnet3d-graph"])
def test_a_variant_trains(name: str, data: Path, tmp_path: Path) -> None:
    network = NETWORKS[name]
    settings = Settings(network=name, steps=(2, 2, 2), batch=2, objects=128)
    assert train(network, settings, data, tmp_path)
    weights, _, curve = averaged(tmp_path)
    begun = initial(network, 0)
    assert [row.stage for row in curve] == ["autoencoder", "match", "together"]
    assert np.isfinite([(row.train, row.validation) for row in curve]).all()
    for part in network.shapes:
        assert any((weights[n] != begun[n]).any() for n in begun if n.split(".")[0] == part), part
    with pytest.raises(InputError, match="a variant that does not ship"):
        ship(tmp_path)


def test_what_is_not_trained_comes_from_the_file_to_begin_with(data: Path, tmp_path: Path) -> None:
    shipped = Path(model.__file__).with_name("weights.safetensors")
    network = NETWORKS["lmnet3d-bound"]
    settings = Settings(network="lmnet3d-bound", steps=(1,), batch=2, objects=128)
    with pytest.raises(InputError, match="the parts image, points wanted"):
        train(network, settings, data, tmp_path)
    other = {name: value for name, value in read_weights(shipped).items() if name.startswith("image.")}
    (tmp_path / "other.safetensors").write_bytes(save(other))
    with pytest.raises(InputError, match=r"points\.0\.weight not there"):
        train(network, settings, data, tmp_path, begin=tmp_path / "other.safetensors")
    assert train(network, settings, data, tmp_path, begin=shipped)
    note_origin(tmp_path, shipped)
    for _ in range(2):  # shipped twice, recorded once
        ship(tmp_path, tmp_path / "weights.safetensors")
    trainings = json.loads((tmp_path / "training.json").read_text())["trainings"]
    earlier = json.loads(shipped.with_name("training.json").read_text())["trainings"]
    assert trainings[:-1] == earlier and trainings[-1]["settings"]["network"] == "lmnet3d-bound"
    given, weights = read_weights(shipped), averaged(tmp_path)[0]
    for name, value in weights.items():
        assert (given[name] == value).all() == (not name.startswith("cloud")), name


@pytest.mark.slow
def test_ablations_stop_in_time_go_on_and_are_not_repeated(data: Path, tmp_path: Path) -> None:
    options = ["--seeds", "1", "--steps", "1", "1", "1", "--train-objects", "128", "--batch", "2", "--objects", "1"]
    places = ["--data", str(data), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "bench.training", "ablate", *options, *places]
    stopped = subprocess.run([*command, "--minutes", "0.01"], capture_output=True, check=False)
    assert stopped.returncode == 3
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "seed 0: points-probabilistic match 1/1" in whole.stderr and " 1/1: " not in again.stderr
    assert whole.stdout == again.stdout
    lines = (tmp_path / "out" / "ablations.csv").read_text().splitlines()
    assert len(lines) == 1 + len(ablate.ROWS)


def test_a_difference_is_given_with_its_interval_and_at_each_seed() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 20, 4))
    values = {name: noise.copy() for name in ablate.ROWS}
    values["planes, one step"] += np.array([4.0, 5.0, 6.0])[:, None, None]
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in ablate.tables(values).splitlines() if line
    }
    assert rows["planes, one step - vector, one step"] == "+5.00 [+5.00, +5.00] (+4.0, +5.0, +6.0)"
    assert rows["planes, three U-Nets - planes, one step"].startswith("-5.00 [")
    assert rows["points, L2 - points, L1"] == "+0.00 [+0.00, +0.00] (+0.0, +0.0, +0.0)"


def test_points_that_crowd_are_pushed_apart() -> None:
    line = torch.arange(6.0)[None, :, None] * torch.tensor([1.0, 0, 0])
    assert losses.repulsion(line * 0.03) == 0
    assert losses.repulsion(line * 0).item() == pytest.approx(1, abs=1e-3)
    near = torch.tensor([[[0.0, 0, 0], [0.005, 0, 0]]], requires_grad=True)
    losses.repulsion(near, count=1).backward()
    assert near.grad is not None and near.grad[0, 0, 0] > 0 > near.grad[0, 1, 0]


def test_diversity_is_wanted_from_behind_alone() -> None:
    azimuth = torch.tensor([180.0, -180.0, 200.0, 0.0])
    wanted = torch.tensor([0.2, 0.2, 0.2 / np.e, 0.0])[:, None].expand(-1, 8)
    assert losses.diversity(wanted, azimuth).item() == pytest.approx(0, abs=1e-12)
    assert losses.diversity(wanted.flip(0), azimuth).item() > 0.1
    both = torch.tensor([[0.1, 0.3]])  # its mean counts, not every number
    assert losses.diversity(both, torch.tensor([180.0])).item() == pytest.approx(0, abs=1e-12)


def test_the_graph_encoder_does_not_see_the_order_of_points() -> None:
    weights = {n: torch.from_numpy(v) for n, v in initial({"a": variants.graph_encoder_shapes()}, 0).items()}
    part = {name.removeprefix("a."): value for name, value in weights.items()}
    cloud = torch.rand(2, 64, 3)
    latent = variants.graph_encoder(part, cloud)
    torch.testing.assert_close(variants.graph_encoder(part, cloud[:, torch.randperm(64)]), latent)
    assert not torch.allclose(variants.graph_encoder(part, cloud * 0.5), latent)
