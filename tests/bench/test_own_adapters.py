"""The gate of a model's own repository: its adapter's costs against another commit, parity, and the workflow."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adapters.contract import InputError
from bench.cli import main
from bench.gate import adapters
from bench.gate.adapters import STEP, check_adapters, measure, own_trials
from bench.gate.parity import Setting, check_parity
from bench.gate.timing import judge
from bench.gate.verdict import Finding
from bench.systems.measure import Outcome, Policy, Steps
from bench.systems.new import write_adapter
from bench.trials.plan import plan
from bench.trials.suite import Contestant, Suite
from data.scene import Scene

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=120.0)


def git(folder: Path, *arguments: str) -> None:
    named = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *named, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model's repository: one commit with an adapter."""
    folder = tmp_path / "model"
    write_adapter("my-depth", folder)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def suite_of(repository: Path, scene: Scene) -> Suite:
    contestant = Contestant(name=f"{repository}/my-depth")
    return Suite(name="t", adapters=[contestant], scenes=(str(scene.path),), views=(2,), policy=QUICK, truth="exact")


def edit(repository: Path, old: str, new: str) -> None:
    path = repository / "my-depth" / "adapter.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_an_adapter_that_has_not_changed_passes_without_a_run(
    repository: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "run_trial", lambda trial: pytest.fail("it was run"))
    finding = only(list(check_adapters("HEAD", suite_of(repository, scene))))
    assert (finding.part, finding.verdict, finding.detail) == ("time", "pass", "same code, environment and weights")


def test_more_memory_is_a_regression_whatever_the_clock_says(
    repository: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs for real: the change holds 300 MB; of the clock nothing is asserted."""
    monkeypatch.setattr(adapters, "MOST", STEP)
    edit(repository, "height, width = inputs", "self.kept = np.ones(40_000_000)\n        height, width = inputs")
    finding = only(list(check_adapters("HEAD", suite_of(repository, scene))))
    assert finding.verdict == "regression", finding
    assert re.search(r"memory x[1-9][\d.]* \[.*\], equal code x.*, regression", finding.detail)
    assert not list((repository / ".git" / "worktrees").glob("*"))  # the other tree is gone


def test_an_adapter_that_runs_no_more_is_a_regression_and_a_new_one_is_unmeasured(
    repository: Path, scene: Scene
) -> None:
    edit(repository, "height, width = inputs", "raise RuntimeError('torn')\n        height, width = inputs")
    finding = only(list(check_adapters("HEAD", suite_of(repository, scene))))
    assert finding.verdict == "regression" and "this tree: crash: RuntimeError: torn" in finding.detail
    git(repository, "commit", "-q", "-a", "-m", "torn")
    edit(repository, "raise RuntimeError('torn')", "pass")
    finding = only(list(check_adapters("HEAD", suite_of(repository, scene))))
    assert finding.verdict == "unmeasured" and "the other tree: crash" in finding.detail
    (repository / "my-depth").rename(repository / "another")
    moved = msgspec.structs.replace(
        suite_of(repository, scene), adapters=[Contestant(name=f"{repository}/another")]
    )  # fmt: skip
    assert only(list(check_adapters("HEAD", moved))).verdict == "unmeasured"
    with pytest.raises(InputError, match="neither a tree nor a commit of model"):
        list(check_adapters("no-such-commit", moved))


def test_a_slower_adapter_is_told_from_a_busy_machine(repository: Path, scene: Scene) -> None:
    (trial,) = plan(suite_of(repository, scene))
    other = plan(suite_of(repository, scene))[0]
    rng = np.random.default_rng(0)

    def runs(factor: float, others: float, memory: float = 1.0):  # type: ignore[no-untyped-def]
        def run(timed: object) -> Outcome:
            own = timed is trial
            seconds = float((factor if own else 1.0) * np.exp(rng.normal(0, 0.004)))
            steps = Steps(seconds, 0.0, 0.0, seconds)
            bytes_ = int(1e8 * (memory if own else 1.0))
            return Outcome(status="ok", cold=steps, warm=[steps] * 3, peak_rss=bytes_, others_share=others)

        return run

    assert measure(trial, other, runs(1.0, 0.0))[0] == "pass"
    assert measure(trial, other, runs(1.2, 0.0))[0] == "regression"
    assert measure(trial, other, runs(1.2, 0.9))[0] == "inconclusive"
    assert measure(trial, other, runs(1.0, 0.9, memory=1.2))[0] == "regression"
    assert judge(adapters.Rounds({"memory": [(1.0, 1.0, 1.0)] * 8}))[0] == "pass"


def test_only_folders_are_one_s_own(scene: Scene) -> None:
    suite = Suite(name="t", adapters=[Contestant(name="oracle")], scenes=(str(scene.path),), truth="exact")
    assert own_trials(suite) == []


def test_parity_tells_exact_from_noise_and_from_worse(repository: Path, scene: Scene) -> None:
    """The same numbers by another way, numbers that are moved by far less than a draw moves, and none at all."""
    edit(repository, "step: int = 2)", 'step: int = 2, way: str = "plain")')
    edit(repository, "self.step = step", "self.way = way\n        self.step = step")
    bent = (
        "depth, K = outputs\n"
        "        if self.way == 'twice':\n            depth = depth * 2 / 2\n"
        "        if self.way == 'half':\n            depth = depth + 1e-5 * np.sin(np.arange(depth.shape[1]))\n"
        "        if self.way == 'torn':\n            raise RuntimeError('no such kernel')"
    )
    edit(repository, "depth, K = outputs", bent)
    name = f"{repository}/my-depth"
    ways = ("plain", "twice", "half", "torn")
    settings = [Setting(f"way={way}", Contestant(name=name, options={"way": way})) for way in ways]
    suite = Suite(
        name="t", adapters=[], scenes=(str(scene.path),), views=(4,), policy=QUICK, truth="exact", draws=1
    )  # fmt: skip
    findings = {finding.case.partition(":")[0]: finding for finding in check_parity(suite, settings)}
    assert findings["way=plain"].detail == "reference: two runs are equal to the last bit"
    assert findings["way=twice"].detail.startswith("exact; ") and "memory" in findings["way=twice"].detail
    assert findings["way=half"].verdict == "pass" and findings["way=half"].detail.startswith("within noise; moved by")
    assert findings["way=torn"].verdict == "regression" and "no such kernel" in findings["way=torn"].detail
    assert {findings[way].verdict for way in ("way=plain", "way=twice", "way=half")} == {"pass"}


def test_parity_names_what_has_become_worse(scene: Scene) -> None:
    settings = [
        Setting(f"noise={noise}", Contestant(name="noisy-oracle", options={"noise": noise}))
        for noise in (0.002, 0.02)
    ]  # fmt: skip
    suite = Suite(
        name="t", adapters=[], scenes=(str(scene.path),), views=(4,), policy=QUICK, truth="exact", draws=1
    )  # fmt: skip
    reference, worse = check_parity(suite, settings)
    assert reference.verdict == "pass" and worse.verdict == "regression"
    assert worse.detail.startswith("regressed; moved by")
    assert {"accuracy", "chamfer-l1-sum"} <= {mismatch.reading for mismatch in worse.mismatches}


def test_parity_wants_two_settings(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["parity", "oracle", "noise=1"])
    assert ended.value.code == 2 and "two at least wanted" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_workflow_runs_as_written(repository: Path, tmp_path: Path) -> None:
    """Every command of docs/examples: the baseline's, and each step's script, in a repository of a model."""
    text = (EXAMPLES / "reconbench.yml").read_text()
    (written,) = re.findall(r"^#   (reconbench check --write .*)$", text, re.MULTILINE)
    scripts = [
        re.sub(r"^ {10}", "", block, flags=re.MULTILINE)
        for block in re.findall(r"        run: \|\n((?: {10}.*\n)+)", text)
    ]
    assert len(scripts) == 2
    (repository / "gate.toml").write_text((EXAMPLES / "gate.toml").read_text())
    shim = tmp_path / "bin" / "reconbench"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from bench.cli import main; main()" "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    summary = tmp_path / "summary.md"
    env = os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "BASE": "main"}
    env["GITHUB_STEP_SUMMARY"] = str(summary)

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=repository, env=env, capture_output=True, text=True, timeout=600, check=False
        )

    made = run(written)
    assert made.returncode == 0, made.stderr
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "baseline")
    for script in scripts:
        done = run(script)
        assert done.returncode == 0, done.stdout + done.stderr
    told = summary.read_text()
    assert "same code, environment and weights" in told and "reference: two runs are equal to the last bit" in told
    edit(repository, "np.ones((height, width))", "np.full((height, width), 1.0) + np.arange(width) / width")
    done = run(scripts[0])
    assert done.returncode == 1 and "a deterministic adapter predicts something else" in done.stdout
