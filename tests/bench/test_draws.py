"""Stochastic systems: several samples a cell, on the same views."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import pytest

from adapters.contract import InputError
from bench.cli import main
from bench.cli.flags import RunFlags, suite_of
from bench.systems.cards import get_adapter
from bench.systems.measure import Policy
from bench.trials.plan import Trial, plan
from bench.trials.suite import Contestant, Suite
from data.scene import Scene

CARD = 'name = "dice"\ntitle = "Dice"\nlicence_code = "MIT"\nscope = "object"\n'
CODE = """
import numpy as np
from adapters.contract import Reconstruction, Reconstructor
class Adapter(Reconstructor):
    def load(self, device, weights, seed):
        self.rng = np.random.default_rng(seed)
    def infer(self, inputs):
        at = self.rng.normal(size=(3000, 3))
        x, y, z = (at / np.linalg.norm(at, axis=1, keepdims=True)).T
        radius = 1 + 0.15 * np.sin(3 * x + 1) * np.cos(2 * y) + 0.2 * np.maximum(z, 0) ** 3
        at = np.stack([x, 0.8 * y, 1.1 * z], axis=1) * radius[:, None]
        at += 0.1 * self.rng.random() * self.rng.normal(size=at.shape)  # the scene's surface, more or less
        return Reconstruction(at.astype(np.float32), "object", "arbitrary")
"""
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)


def dice(folder: Path, more: str = "stochastic = true\n") -> Contestant:
    folder.mkdir(exist_ok=True)
    (folder / "adapter.toml").write_text(CARD + more)
    (folder / "adapter.py").write_text(CODE)
    return Contestant(name=f"{folder}/")


def planned(scene: Scene, contestant: Contestant, seeds: tuple[int, ...] = (0,), draws: int = 3) -> list[Trial]:
    suite = Suite(name="s", adapters=[contestant], views=(2,), seeds=seeds, draws=draws, truth="exact", policy=QUICK)
    return plan(suite, [scene])


def test_samples_are_drawn_on_the_same_views_and_choices_of_views_are_as_ever(tmp_path: Path, scene: Scene) -> None:
    trials = planned(scene, dice(tmp_path / "dice"), seeds=(0, 7))
    assert [trial.seed for trial in trials] == [0, 1000, 2000, 7, 1007, 2007]
    assert len({trial.views for trial in trials[:3]}) == 1 and len({trial.views for trial in trials[3:]}) == 1
    assert len({trial.key for trial in trials}) == 6
    plain = planned(scene, dice(tmp_path / "plain", ""), seeds=(0, 7))
    assert [(trial.seed, trial.views) for trial in plain] == [(t.seed, t.views) for t in (trials[0], trials[3])]
    (trial,) = planned(scene, dice(tmp_path / "dice"), draws=1)
    assert trial.key == trials[0].key
    blind = dice(tmp_path / "blind", 'stochastic = true\naccepts = ["cameras"]\nrequires = ["cameras"]\n')
    posed = Suite(name="s", adapters=[blind, dice(tmp_path / "dice")], views=(2,), truth="colmap", policy=QUICK)
    assert [trial.lacks != "" for trial in plan(posed, [scene])] == [True, False, False, False]
    timed = Contestant(name=f"{tmp_path}/dice/", weights="random")
    assert get_adapter(timed.name).card.stochastic and len(planned(scene, timed)) == 1


def test_the_command_of_a_sample_plans_that_sample_alone(tmp_path: Path, scene: Scene) -> None:
    trial = planned(scene, dice(tmp_path / "dice"))[2]
    words = shlex.split(trial.command)
    assert words[words.index("--seeds") + 1] == "2000" and words[words.index("--draws") + 1] == "1"
    suite = suite_of(RunFlags(adapters=f"{tmp_path}/dice/", views="2", seeds="2000", draws=1, truth="exact"))
    (again,) = plan(suite, [scene])
    assert (again.seed, again.views) == (trial.seed, trial.views)
    with pytest.raises(InputError, match="draws 0 seen, at least 1 wanted"):
        suite_of(RunFlags(adapters=f"{tmp_path}/dice/", draws=0))


def test_a_stochastic_system_is_ranked_by_the_mean_of_its_samples_and_its_spread_is_shown(
    tmp_path: Path, scene: Scene
) -> None:
    """Through worker, store, score and report: three samples are one cell, and all of them stand in scores.csv."""
    store, out = tmp_path / "store", tmp_path / "report"
    named = ["--adapters", dice(tmp_path / "dice").name, "--scenes", str(scene.path), "--views", "2"]
    quick = ["--repeats", "0", "--warmups", "0", "--min-seconds", "0", "--truth", "exact"]
    for words in (["run", *named, *quick, "--store", str(store)], ["report", "--store", str(store), "--out", str(out)]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
    (row,) = pd.read_csv(out / "leaderboard.csv").to_dict("records")
    scores = pd.read_csv(out / "scores.csv")
    for metric in ("fscore@2%", "chamfer-l1-sum"):
        samples = scores[(scores.metric == metric) & (scores.truth == "exact")].value
        assert len(samples) == 3 and samples.nunique() == 3
        assert row[f"exact.{metric}"] == pytest.approx(samples.mean())
        assert row[f"exact.{metric}.spread"] == pytest.approx(samples.std())
        assert row[f"exact.{metric}.cells"] == "1 of 1"
    assert "by seed" in (out / "leaderboard.html").read_text()
