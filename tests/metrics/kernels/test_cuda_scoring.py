"""Scoring on the CUDA backend, in Triton's interpreter: the CPU's values, under a hash of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

torch = pytest.importorskip("torch", reason="torch is not installed: extra `kernels-test`")
pytest.importorskip("triton", reason="triton is not installed: extra `kernels-test`")

from adapters.contract import InputError, Reconstruction
from bench.cli import main
from bench.trials.store import Store
from data.scene import Scene
from metrics.kernels.cuda import device
from metrics.points import device_of
from metrics.scoring.protocol import load_protocol
from metrics.scoring.score import PreparedTruth, score

SMALL = """
name = "small"
version = 1
description = "for tests"
voxel = 0.08
samples = 120
draws = 2
emd_samples = 40
emd_draws = 2
thresholds = [0.02]
rank_metric = "fscore@2%"
"""


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_the_backend_s_values_are_the_cpu_s(scene: Scene, protocol: Path) -> None:
    prepared = PreparedTruth.of(scene.truth("exact"), load_protocol(str(protocol)))
    rng = np.random.default_rng(0)
    points = prepared.points + 0.01 * rng.normal(size=prepared.points.shape)
    prediction = Reconstruction(points.astype(np.float32), "world", "metric")
    ours, theirs = (
        score(prediction, part, scene.view_names, scope="scene", posed=True) for part in (prepared.on("cuda"), prepared)
    )
    for name, value in theirs.values.items():
        other = ours.values[name]
        assert other.status == value.status
        if value.value is not None:
            tolerance = 0.01 if name == "emd" else 1e-12
            assert other.value == pytest.approx(value.value, rel=tolerance), name
            assert (other.floor is None) == (value.floor is None)
            if value.floor is not None:
                assert other.floor == pytest.approx(value.floor, rel=tolerance), name
    assert {place for place, _ in prepared.floors} == {"cuda", None}


def test_a_score_says_its_backend_and_is_not_taken_for_the_ranked_one(
    scene_path: Path, tmp_path: Path, protocol: Path
) -> None:
    loaded = load_protocol(str(protocol))
    cloud = tmp_path / "cloud.ply"
    trimesh.PointCloud(PreparedTruth.of(Scene.open(scene_path).truth("exact"), loaded).points).export(cloud)
    command = ["score", "--prediction", cloud, "--scene", scene_path, "--posed", "--protocol", protocol]
    for more in ([], ["--metrics-device", "cuda"], ["--metrics-device", "cpu"]):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in [*command, "--store", tmp_path / "store", *more]])
        assert not ended.value.code
    store = Store(tmp_path / "store")
    (trial,) = store.trials()
    truth = Scene.open(scene_path).truth("exact")
    ranked = store.score(trial, loaded.hash, truth.id)
    measured = store.score(trial, loaded.hash_on("cuda"), truth.id)
    assert ranked is not None and measured is not None and loaded.hash == loaded.hash_on("cpu")
    assert "measured by the cuda backend" in measured.notes and "measured by the cuda backend" not in ranked.notes
    assert [value.metric for value in ranked.values] == [value.metric for value in measured.values]


def test_a_protocol_may_rank_another_backend_s_digits(protocol: Path) -> None:
    usual = load_protocol(str(protocol))
    protocol.write_text(SMALL + 'backend = "cuda"')
    other = load_protocol(str(protocol))
    assert other.hash == usual.hash_on("cuda") != usual.hash == other.hash_on("cpu")


def test_a_device_that_is_not_here_ends_the_command_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in (["run", "--dry-run"], ["score"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--store", str(tmp_path / "store"), "--metrics-device", "cuda:0"])
        assert ended.value.code == 2
        assert "sees no CUDA device here" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(InputError, match="device: 'gpu' seen, cpu, cuda or cuda:N wanted"):
        device_of("gpu")
