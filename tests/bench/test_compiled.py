"""Compiled code answers the same in the process that compiles it and in those that find it in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCORED = """
from pathlib import Path
import numpy as np
from adapters.contract import Reconstruction
from bench.trials.plan import read_truth
from data.scene import Scene
from metrics.scoring.prepared import PreparedTruth
from metrics.scoring.protocol import load_protocol
from metrics.scoring.score import score

points = np.load("adapters/systems/medoid/points.npz", allow_pickle=False)["points"].astype(np.float32)
scene = Scene.open(Path("data/embedded/elephant"))
prepared = PreparedTruth.of(read_truth(scene, "exact"), load_protocol("object-v1"))
shape = Reconstruction(points=points, frame="object", scale="arbitrary")
result = score(shape, prepared, scene.view_names[:1], scope="object", posed=False, brief=True)
for stage in result.stages:
    print(stage.name, stage.truth_from_pred.tolist(), stage.residual)
for name, value in result.values.items():
    print(name, value.value)
"""


@pytest.mark.timeout(900)
def test_a_score_is_the_same_with_an_empty_and_a_filled_cache(tmp_path: Path) -> None:
    """Searched, refined, and all metrics, EMD among them, whose auction tells poses apart that differ in no digit
    shown."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCORED]
    runs = [subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True) for _ in range(2)]
    assert runs[0].returncode == 0 and "emd" in runs[0].stdout, runs[0].stderr
    assert any(tmp_path.rglob("*.nbc"))
    assert runs[0].stdout == runs[1].stdout
