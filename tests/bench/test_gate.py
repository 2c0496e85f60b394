"""The gate: what it compares, how it decides about noise and time, what it says, and that its soak has not rotted."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from adapters.contract import Reconstruction
from bench.cli import main
from bench.gate.baseline import load_baseline, load_frozen
from bench.gate.exact import cases
from bench.gate.fresh import MOVED, distance_from, frozen_name, name_of, run_fresh, worsening
from bench.gate.frozen import POINTS
from bench.gate.readings import differences, read
from bench.gate.timing import LIMIT, Rounds, judge, median_interval
from bench.gate.verdict import EXIT_CODES, Finding, Mismatch, junit, markdown, overall
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.suite import Contestant, Suite
from data.scene import Scene
from tests.soak.soak import ROOT, Case, apply, copy_tree, read_cases, run_case

CASES = read_cases()


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments])
    return int(stop.value.code or 0)


# What is compared


def test_readings_agree_to_rounding_and_no_further() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.random((2000, 3))
    expected = read("cloud", cloud) | {"status": "ok", "points": 2000}
    rounded = cloud * (1 + 1e-15)
    assert differences(expected, read("cloud", rounded) | {"status": "ok", "points": 2000}) == ()
    moved, swapped = cloud.copy(), cloud.copy()
    moved[7, 1] += 1e-4
    swapped[[3, 4]] = swapped[[4, 3]]
    for other in (moved, swapped):
        assert differences(expected, read("cloud", other) | {"status": "ok", "points": 2000})
    (wrong,) = differences(expected, read("cloud", cloud) | {"status": "ok", "points": 1999})
    assert wrong == Mismatch("points", "2000", "1999")


def test_readings_that_only_one_side_has_are_named() -> None:
    wrong = differences({"a": 1.0, "b": True}, {"b": True, "c": "x"})
    assert [(m.reading, m.expected, m.observed) for m in wrong] == [("a", "1.0", "nothing"), ("c", "nothing", "'x'")]


def test_an_emd_may_move_within_its_certificate() -> None:
    assert differences({"values.emd.value": 3.0}, {"values.emd.value": 3.02}) == ()
    assert differences({"values.emd.value": 3.0}, {"values.emd.value": 3.1})
    assert differences({"values.accuracy.value": 3.0}, {"values.accuracy.value": 3.00001})


# Noise of fresh runs


def test_chance_alone_is_hardly_ever_worse_and_a_real_shift_is() -> None:
    rng = np.random.default_rng(0)
    alarms = hits = 0
    for _ in range(1000):
        base = 1 + rng.normal(0, 0.01, (2, 5))
        alarms += worsening(base, 1 + rng.normal(0, 0.01, 5), "lower") > 0
        hits += worsening(base, base.mean(axis=0) + rng.normal(0, 0.002, 5) + 0.05, "lower") > 0
    assert alarms <= 5
    assert hits >= 900


def test_better_is_not_worse_and_equal_is_neither() -> None:
    base = np.array([[0.5, 0.51, 0.49, 0.5, 0.5]] * 2)
    assert worsening(base, base[0], "higher") == 0
    assert worsening(base, base[0] - 0.1, "higher") > 0
    assert worsening(base, base[0] + 0.1, "higher") < 0


def test_a_shifted_cloud_is_told_from_a_reordered_one() -> None:
    points = np.random.default_rng(0).random((5000, 3)).astype(np.float32)
    frozen = Reconstruction(points[::5], "world", "metric")
    assert distance_from(frozen, Reconstruction(points[::-1] * np.float32(1 + 1e-7), "world", "metric")) < MOVED / 10
    assert distance_from(frozen, Reconstruction(points + np.float32(0.001), "world", "metric")) > MOVED


def test_settings_weights_and_inputs_of_one_adapter_are_told_apart(scene: Scene, tmp_path: Path) -> None:
    folder, net = tmp_path / "net", 'accepts = ["masks"]\n[weights]\nurl = "https://weights.invalid/w.bin"\n'
    folder.mkdir()
    (folder / "adapter.toml").write_text(f'name = "net"\ntitle = "N"\nlicence_code = "MIT"\nscope = "scene"\n{net}')
    (folder / "adapter.py").write_text(
        "import numpy as np\nfrom adapters.contract import Reconstruction, Reconstructor\n"
        "class Adapter(Reconstructor):\n"
        "    def __init__(self, x=0.0): self.x = x\n"
        "    def load(self, device, weights, seed): self.w = float(open(weights).read())\n"
        "    def infer(self, views):\n"
        "        row = [self.x, self.w, float(views.masks is not None)]\n"
        "        return Reconstruction(np.array([row], np.float32), 'object', 'arbitrary')\n"
    )
    for weights in ("1", "2"):
        (tmp_path / weights).write_text(weights)
    settings = [
        Contestant(name=str(folder), weights=str(tmp_path / weights), options=options, give=give)
        for weights, options, give in (("1", {}, []), ("2", {}, []), ("2", {"x": 5.0}, []), ("2", {}, ["masks"]))
    ]
    policy = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
    trials = plan(Suite(name="t", adapters=settings, views=(2,), policy=policy), [scene])
    for name in (name_of, frozen_name, lambda trial: trial.label):
        assert len({name(trial) for trial in trials}) == 4
    predicted = [prediction.points[0].tolist() for _, prediction in map(run_fresh, trials) if prediction is not None]
    assert predicted == [[0, 1, 0], [0, 2, 0], [5, 2, 0], [0, 2, 1]]


# Times


def rounds(ratio: float, noise: float, count: int = 24, others: float = 0.0, seed: int = 0) -> Rounds:
    """Made-up rounds: a shared drift, noise on each time, this tree slower by `ratio`."""
    rng = np.random.default_rng(seed)
    made = Rounds(others_share=others)
    for clock in ("cpu", "wall"):
        times = rng.uniform(1, 3, (count, 1)) * np.exp(rng.normal(0, noise, (count, 3))) * [1, ratio, 1]
        made.seconds[clock] = [(float(a), float(b), float(c)) for a, b, c in times]  # type: ignore[index]
    return made


def test_the_interval_of_a_median_holds_it() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        result = median_interval(rng.standard_cauchy(24))
        held += result.low <= 1 <= result.high
    assert held >= 390
    small = median_interval(np.zeros(3))
    assert small.low == 0 and small.high == np.inf


def test_a_tenth_slower_is_a_regression_and_as_fast_passes() -> None:
    assert judge(rounds(1.10, 0.02))[0] == "regression"
    assert judge(rounds(1.00, 0.02))[0] == "pass"
    assert judge(rounds(0.80, 0.02))[0] == "pass"


def test_equal_code_never_raises_an_alarm() -> None:
    for noise in (0.005, 0.05, 0.3):
        for seed in range(100):
            assert judge(rounds(1.0, noise, seed=seed))[0] != "regression"


def test_a_machine_that_slows_equal_code_decides_nothing() -> None:
    made = rounds(1.5, 0.01)
    made.seconds["cpu"] = [(a, b, 1.2 * control) for a, b, control in made.seconds["cpu"]]
    made.seconds["wall"] = made.seconds["cpu"]
    assert judge(made)[0] == "inconclusive"


def test_wall_time_on_a_busy_machine_is_inconclusive() -> None:
    made = rounds(1.0, 0.01, others=0.5)
    made.seconds["wall"] = [(a, LIMIT * 2 * b, control) for a, b, control in made.seconds["wall"]]
    verdict, output = judge(made)
    assert verdict == "inconclusive" and "others used 50%" in output
    made.others_share = 0.0
    assert judge(made)[0] == "regression"


# What it says


FINDINGS = (
    Finding("exact", "a | <b>", "regression", "1 of 2 readings differ", (Mismatch("emd", "1.0", "2.0\x00"),), 0.5),
    Finding("fresh", "c", "pass"),
    Finding("time", "nearest", "inconclusive", "busy"),
)


def test_the_verdict_is_the_worst_that_is_certain() -> None:
    assert overall(FINDINGS) == "regression"
    assert overall(FINDINGS[1:]) == "inconclusive"
    assert overall([*FINDINGS[1:], Finding("time", "emd", "broken")]) == "broken"
    assert overall(FINDINGS[1:2]) == "pass"
    assert overall([]) == overall([Finding("time", "emd", "unmeasured")]) == "unmeasured"
    assert len(set(EXIT_CODES.values()) | {2}) == 6


def test_junit_is_xml_that_counts() -> None:
    suite = ET.fromstring(junit(FINDINGS))
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "1", "0", "1"]
    (failure,) = suite.iter("failure")
    assert failure.text is not None and "emd: 1.0 expected, 2.0? seen" in failure.text


def test_markdown_names_what_differs_and_is_no_markup() -> None:
    page = markdown(FINDINGS, "base")
    assert page.startswith("## Reconbench: regression")
    assert "a \\| &lt;b&gt;" in page and "emd: 1.0 expected" in page
    assert all(line.count("|") - line.count("\\|") == 5 for line in page.splitlines() if line.startswith("| "))


# The baseline in the repository


def test_the_kept_baseline_is_whole_and_small() -> None:
    folder = ROOT / "baselines" / "embedded"
    baseline = load_baseline(folder)
    for entry in baseline.frozen:
        prediction = load_frozen(folder, entry.name)
        assert 1000 < len(prediction.points) <= POINTS
        assert entry.posed == (prediction.frame == "world")
    assert cases(folder, baseline).keys() == baseline.exact.keys()
    assert [entry.name for entry in baseline.fresh] == [name_of(trial) for trial in plan(baseline.suite)]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 500_000


# Exit codes of the command


def test_bad_input_is_two(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert code_of("--baseline", str(tmp_path)) == 2
    assert code_of("--only", "everything") == 2
    assert code_of("--only", "time") == 2
    assert code_of("--only", "time", "--against", "no-such-commit") == 2
    (tmp_path / "baseline.json").write_text("{}")
    assert code_of("--baseline", str(tmp_path)) == 2
    assert "baseline.json" in capfd.readouterr().err


def test_a_tree_that_cannot_do_the_work_measures_nothing_and_one_that_falls_over_is_broken(tmp_path: Path) -> None:
    for package in ("adapters", "metrics"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    asked = ["--only", "time", "--against", str(tmp_path), "--workloads", "nearest"]
    assert code_of(*asked) == EXIT_CODES["unmeasured"] == 4
    (tmp_path / "metrics" / "__init__.py").write_text("def nearest(one, other): raise RuntimeError('fell over')")
    assert code_of(*asked) == EXIT_CODES["broken"] == 5


# The soak


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_seeded_change_still_applies_once(case: Case, tmp_path: Path) -> None:
    for file in {file for file, old, _ in case.edits if old}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    (tmp_path / "metrics").mkdir(exist_ok=True)
    apply(case, tmp_path)
    for file in {file for file, _, _ in case.edits}:
        compile((tmp_path / file).read_text(), file, "exec")
        if (ROOT / file).exists():
            assert (tmp_path / file).read_text() != (ROOT / file).read_text()


def test_the_soak_holds_twenty_of_each() -> None:
    assert min(sum(case.kind == kind for case in CASES) for kind in ("regression", "harmless")) >= 20
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sample_of_the_soak(tmp_path: Path) -> None:
    exact = [case for case in CASES if case.parts == "exact"]
    rng = np.random.default_rng(20)
    bad = [case for case in exact if case.kind == "regression"]
    good = [case for case in exact if case.kind == "harmless"]
    base = copy_tree(ROOT, tmp_path / "base")
    for case in (*(bad[i] for i in rng.choice(len(bad), 2, replace=False)), good[int(rng.integers(len(good)))]):
        row = run_case(case, base, tmp_path)
        assert row.as_expected, f"{row.change}: exit code {row.exit_code}, {row.caught_by}"


def test_the_workloads_stand_alone() -> None:
    script = ROOT / "bench" / "gate" / "workloads.py"
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(ROOT), "chamfer"],
        input="\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 2
