"""Runs: resumed, killed at any moment, shared, merged, within a budget; and the same scores whatever happened."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import psutil
import pytest

from adapters.contract import InputError
from bench.engines import local
from bench.engines.local import run_plan
from bench.scoring.collect import make_tables
from bench.systems.measure import Policy
from bench.trials.plan import estimate_seconds, plan, read_truth, view_order
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from bench.trials.suite import ALL_VIEWS, Contestant, Suite
from data.scene import Scene, write_scene
from metrics.scoring.protocol import Protocol, load_protocol
from tests.bench.spies import wait_for

FAULTY = str(Path(__file__).parent.parent / "faulty")
MARK = "NVIDIA_TEST_MARK"  # a variable that workers inherit
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)


def suite(**changes: object) -> Suite:
    contestants = [Contestant(name="oracle"), Contestant(name="noisy-oracle")]
    base = Suite(name="t", adapters=contestants, views=(2, 4), truth="exact", policy=QUICK)
    return msgspec.structs.replace(base, **changes)


def run(chosen: Suite, scene: Scene, store: Store, **more: object) -> object:
    return run_plan(plan(chosen, [scene]), store, protocol="object-v1", truth="exact", **more)  # type: ignore[arg-type]


def scores_of(store: Store) -> dict[tuple[str, int], list[object]]:
    trials = {record.key: record for record in store.trials()}
    return {
        (trials[s.trial].adapter, len(trials[s.trial].views)): [(v.metric, v.value, v.low, v.high) for v in s.values]
        for s in store.scores()
    }


@pytest.fixture(scope="module")
def undisturbed(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("undisturbed") / "store")
    run(suite(), scene, store)
    return store


def test_a_run_stores_every_trial_score_prediction_log_and_itself(undisturbed: Store) -> None:
    records = undisturbed.trials()
    assert sorted((r.adapter, len(r.views), r.status) for r in records) == [
        ("noisy-oracle", 2, "ok"),
        ("noisy-oracle", 4, "ok"),
        ("oracle", 2, "ok"),
        ("oracle", 4, "ok"),
    ]
    assert len(undisturbed.scores()) == 4
    for record in records:
        assert record.prediction is not None
        assert len(undisturbed.prediction(record.prediction).points) == record.points_kept
        assert undisturbed.log_path(record.key).is_file()
        assert record.cold is not None and record.peak_rss > 2**20
    (ran,) = undisturbed.runs()
    assert len(ran.trials) == 4 and ran.overhead_seconds is not None and ran.overhead_seconds < 0.01


def test_view_subsets_are_nested(scene: Scene) -> None:
    trials = plan(suite(views=(1, 2, 4, 8)), [scene])
    sets = [set(trial.views) for trial in trials if trial.adapter.name == "oracle"]
    assert [len(views) for views in sets] == [1, 2, 4, 8]
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert view_order(scene, 0) != view_order(scene, 1)


def regrouped(scene: Scene, folder: Path, groups: str) -> Scene:
    """A copy of `scene` with one letter a view."""
    shutil.copytree(scene.path, folder)
    views = [msgspec.structs.replace(v, group=group) for v, group in zip(scene.file.views, groups, strict=True)]
    write_scene(folder, msgspec.structs.replace(scene.file, views=views))
    return Scene.open(folder)


@pytest.mark.parametrize("order", ["spread", "overlap"])
@pytest.mark.parametrize(("groups", "first"), [("aabbbbbc", "23456"), ("abcabcab", ""), ("aaaaaaaa", "")])
def test_no_focal_group_is_dropped(
    scene: Scene, tmp_path: Path, order: Literal["spread", "overlap"], groups: str, first: str
) -> None:
    views = view_order(regrouped(scene, tmp_path / "copy", groups), 0, order)
    assert sorted(views) == list(scene.view_names)
    assert {int(view) for view in views[: len(first)]} == {int(view) for view in first}, "the main group comes first"
    if not first:
        assert views == view_order(scene, 0, order), "groups of less than half of the views change nothing"


def test_views_are_drawn_from_the_photos_that_the_truth_placed(scene: Scene, tmp_path: Path) -> None:
    shutil.copytree(scene.path, tmp_path / "copy")
    file = tmp_path / "copy" / "truth" / "exact" / "cameras.json"
    cameras = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode([camera for camera in cameras if camera["view"] != "003"]))
    remarks: list[str] = []
    chosen = suite(adapters=[Contestant(name="visual-hull"), Contestant(name="colmap")], views=(ALL_VIEWS,))
    for trial in plan(chosen, [Scene.open(tmp_path / "copy")], remark=remarks.append):
        assert trial.views == tuple(name for name in scene.view_names if name != "003")
        assert (trial.make_views().cameras is not None) == (trial.adapter.name == "visual-hull")
    (sentence,) = remarks
    assert sentence == "bumpy: not given to any system: 003, without a camera under the exact truth"


def bare(scene: Scene, folder: Path) -> Scene:
    """A copy of `scene` without masks."""
    shutil.copytree(scene.path, folder)
    views = [msgspec.structs.replace(view, mask=None) for view in scene.file.views]
    write_scene(folder, msgspec.structs.replace(scene.file, views=views))
    return Scene.open(folder)


def test_a_system_whose_inputs_are_missing_is_a_row_and_the_others_run(scene: Scene, tmp_path: Path) -> None:
    unmasked, store = bare(scene, tmp_path / "copy"), Store(tmp_path / "store")
    contestants = [Contestant(name="visual-hull"), Contestant(name="oracle")]
    run(suite(adapters=contestants, views=(2,)), unmasked, store)
    hull, oracle = sorted(store.trials(), key=lambda record: record.adapter, reverse=True)
    assert oracle.status == "ok"
    assert (hull.status, hull.message) == ("unsupported", "it needs masks, and there is none for 002, 006")
    with pytest.raises(InputError, match="visual-hull: it needs masks"):
        plan(suite(adapters=contestants[:1]), [unmasked])


def test_a_refused_scene_says_why(scene: Scene, tmp_path: Path) -> None:
    shutil.copytree(scene.path, tmp_path / "copy", ignore=shutil.ignore_patterns("truth"))
    (tmp_path / "copy" / "quality.json").write_text('{"verdict": "refused", "reasons": ["3 of 8 images registered"]}')
    remarks: list[str] = []
    contestants = [Contestant(name="patchmatch"), Contestant(name="colmap")]
    posed, unposed = plan(
        suite(adapters=contestants, views=(2,), truth="colmap"), [Scene.open(tmp_path / "copy")], remark=remarks.append
    )
    assert remarks == ["bumpy: its ground truth was refused, so nothing is scored against it: 3 of 8 images registered"]
    assert posed.lacks == "it needs cameras, and the scene has no colmap ground truth" and not unposed.lacks
    blind, _ = plan(suite(adapters=[Contestant(name="oracle"), contestants[1]], views=(2,), truth="colmap"), [scene])
    assert blind.lacks.endswith("has no colmap ground truth; it can run with --truth exact")


def test_an_interrupted_run_names_what_it_did_not_reach(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ended = Store(tmp_path / "store"), local.Progress()

    def killed(trial: object, seconds: float) -> None:
        raise KeyboardInterrupt

    ended.started = killed
    with pytest.raises(KeyboardInterrupt):
        run(suite(), scene, store, progress=ended)
    (ran,) = store.runs()
    assert [(left.system, left.views, left.reason) for left in ran.left_out] == [
        (name, views, local.NOT_REACHED) for views in (2, 4) for name in ("oracle", "noisy-oracle")
    ]
    monkeypatch.setattr(local, "run_and_keep", lambda *_: os._exit(9))  # as a SIGKILL: nothing is written afterwards
    if (child := os.fork()) == 0:
        run(suite(), scene, store)
    assert os.waitpid(child, 0)[1] != 0
    assert [len(ran.left_out) for ran in store.runs()] == [4, 4]
    monkeypatch.undo()
    run(suite(), scene, store)
    tables = make_tables(store, "object-v1")
    assert not tables.left_out, "what was reached later is not missing"


def test_a_suite_chooses_the_order_of_views(scene: Scene) -> None:
    spread, near = (plan(suite(views=(2,), order=order), [scene])[0].views for order in ("spread", "overlap"))
    assert spread == tuple(sorted(view_order(scene, 0)[:2]))
    assert near == tuple(sorted(view_order(scene, 0, "overlap")[:2])) != spread


def test_a_record_says_in_which_order_views_were_taken(scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run_plan(plan(suite(views=(2,), order="overlap"), [scene])[:1], store, protocol="object-v1", truth="exact")
    assert [record.order for record in store.trials()] == ["overlap"]


def test_what_is_compiled_once_is_not_counted_against_a_budget(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def compile_slowly(protocol: Protocol) -> None:
        compiled.append(protocol.name)
        time.sleep(3.0)

    monkeypatch.setattr(local, "compile_kernels", compile_slowly)
    store, chosen = Store(tmp_path / "store"), suite(adapters=[Contestant(name="oracle")], views=(2,))
    (trial,) = plan(chosen, [scene])
    assert estimate_seconds(trial, []) < 2.5
    run(chosen, scene, store, budget_seconds=2.5)
    assert [record.status for record in store.trials()] == ["ok"]
    run(chosen, scene, store, budget_seconds=2.5)
    assert compiled == ["object-v1"], "not where there is nothing to score"


def test_a_second_run_repeats_nothing(undisturbed: Store, scene: Scene) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*.json") if "runs" not in path.parts}
    run(suite(), scene, undisturbed)
    after = {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*.json") if "runs" not in path.parts}
    assert before == after


def workers(mark: str) -> list[int]:
    """The processes that inherited `MARK` as a run's workers do, the run itself left out, whoever their parent is."""
    pids = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if f"{MARK}={mark}".encode() in environment and "bench.cli" not in " ".join(process.cmdline()):
                pids.append(process.pid)
    return pids


def test_killed_at_any_moment_and_run_again_the_scores_are_those_of_an_undisturbed_run(
    undisturbed: Store, scene_path: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", "from bench.cli import main; main()", "run", "--adapters", "oracle,noisy-oracle"]
    command += ["--scenes", str(scene_path), "--views", "2,4", "--truth", "exact", "--store", str(store)]
    command += ["--repeats", "0"]

    def files(kind: str) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (store / kind).glob("[!.]*.json")}

    observed: dict[str, int] = {}
    mark = str(tmp_path)
    moments: tuple[Callable[[], object], ...] = (
        lambda: workers(mark),  # in the middle of the first trial
        lambda: files("trials"),  # finished, and not scored
        lambda: files("scores"),
        lambda: len(files("trials")) > 2 and workers(mark),
    )
    for moment in moments:
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, MARK: mark}
        )
        assert wait_for(lambda: moment() or process.poll() is not None), "nothing happened"  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wait_for(lambda: not workers(mark), 10), "a worker outlived its host"
        finished = files("trials")
        assert observed.items() <= finished.items(), "a finished trial was repeated"
        observed = finished
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    assert files("trials").items() >= observed.items()
    assert scores_of(Store(store)) == scores_of(undisturbed)


def test_a_worker_without_a_host_is_found() -> None:
    orphan = subprocess.Popen(["sleep", "30"], env={MARK: "of this test"})
    try:
        assert wait_for(lambda: workers("of this test") == [orphan.pid], 10)
    finally:
        orphan.kill()
        orphan.wait()
    assert not workers("of this test")


def test_changed_options_views_or_seed_are_other_trials(scene: Scene) -> None:
    def keys(chosen: Suite) -> set[str]:
        return {trial.key for trial in plan(chosen, [scene])}

    noisy = suite(adapters=[Contestant(name="noisy-oracle")], views=(4,))
    other = suite(adapters=[Contestant(name="noisy-oracle", options={"noise": 0.01})], views=(4,))
    repeats = suite(adapters=[Contestant(name="noisy-oracle")], views=(4,), policy=Policy(repeats=9))
    everything = [noisy, other, repeats, msgspec.structs.replace(noisy, seeds=(1,))]
    assert len(set.union(*map(keys, everything))) == 4
    assert keys(noisy) == keys(noisy)


def test_a_failed_trial_is_stored_and_fails_every_metric(scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    faulty = Contestant(name=FAULTY, options={"mode": "raise"})
    run(suite(adapters=[faulty, Contestant(name="colmap")], views=(1,)), scene, store)
    statuses = {record.adapter: record for record in store.trials()}
    assert statuses["faulty"].status == "crash" and "something broke" in statuses["faulty"].log_tail
    assert statuses["colmap"].status == "unsupported"
    for score in store.scores():
        assert all(value.status == "failed" and value.value is None for value in score.values)


def scores_under(store: Store, record: TrialRecord, scene: Scene) -> list[ScoreRecord]:
    """The scores that `store` holds of `record`."""
    protocol = load_protocol("object-v1").hash
    result = [store.score(record, protocol, read_truth(scene, kind).id) for kind in scene.truth_kinds]
    return [score for score in result if score is not None]


def test_what_was_missing_is_asked_for_again_and_its_scores_follow(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "needy"
    folder.mkdir()
    card = 'name = "needy"\ntitle = "Needy"\nlicence_code = "MIT"\nscope = "scene"\n'
    (folder / "adapter.toml").write_text(card)
    (folder / "adapter.py").write_text(f"""
import os
import numpy as np
from adapters.contract import Reconstruction, Reconstructor, Unavailable

class Adapter(Reconstructor):
    def load(self, device, weights, seed):
        if "{MARK}" in os.environ:
            raise Unavailable(os.environ["{MARK}"])

    def infer(self, inputs):
        return Reconstruction(np.random.rand(60, 3).astype(np.float32), "object", "arbitrary")
""")
    store, chosen = Store(tmp_path / "store"), suite(adapters=[Contestant(name=str(folder))], views=(2,))
    for missing in ("weights of needy", "a licence accepted"):
        monkeypatch.setenv(MARK, missing)
        run(chosen, scene, store)
        (record,) = store.trials()
        scores = scores_under(store, record, scene)
        assert record.status == "unavailable" and record.message == missing
        assert {value.note for score in scores for value in score.values} == {f"unavailable: {missing}"}
    monkeypatch.delenv(MARK)
    run(chosen, scene, store)
    (record,) = store.trials()
    assert record.status == "ok", record.message
    scores = scores_under(store, record, scene)
    assert scores and not any("unavailable" in value.note for score in scores for value in score.values)


def test_what_does_not_fit_the_budget_is_named(scene: Scene, tmp_path: Path) -> None:
    slow = suite(adapters=[Contestant(name="oracle"), Contestant(name="colmap")], views=(4,))
    result = run(slow, scene, Store(tmp_path / "store"), budget_seconds=4.0)
    assert [(left.adapter, left.views) for left in result.left_out] == [("colmap", 4)]  # type: ignore[attr-defined]
    assert [record.adapter for record in result.records] == ["oracle"]  # type: ignore[attr-defined]
    assert "budget" in Store(tmp_path / "store").runs()[0].left_out[0].reason


def test_a_measured_trial_is_planned_by_its_measurement(undisturbed: Store, scene: Scene) -> None:
    (trial,) = plan(suite(adapters=[Contestant(name="noisy-oracle")], views=(8,)), [scene])
    assert estimate_seconds(trial, undisturbed.trials()) != estimate_seconds(trial, [])


def test_a_trial_that_another_run_holds_is_left_out(scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    chosen = suite(adapters=[Contestant(name="oracle")], views=(2,))
    (trial,) = plan(chosen, [scene])
    with store.lock(trial.key) as own:
        assert own
        result = run(chosen, scene, store)
    assert result.left_out[0].reason == "another run holds this trial"  # type: ignore[attr-defined]
    assert not store.trials()


def test_stores_merge(undisturbed: Store, scene: Scene, tmp_path: Path) -> None:
    first, second = Store(tmp_path / "one"), Store(tmp_path / "two")
    run(suite(views=(2,)), scene, first)
    run(suite(views=(4,)), scene, second)
    assert first.merge(second) == 2
    assert first.merge(second) == 0
    assert scores_of(first) == scores_of(undisturbed)
    with pytest.raises(InputError, match="a store wanted"):
        first.merge(Store(tmp_path / "nothing"))


def test_files_left_by_a_killed_writer_are_not_read(undisturbed: Store) -> None:
    (undisturbed.path / "trials" / ".x123.json").write_text("{half")
    assert len(undisturbed.trials()) == 4


def test_equal_predictions_are_stored_once(undisturbed: Store) -> None:
    record = undisturbed.trials()[0]
    assert record.prediction is not None
    prediction = undisturbed.prediction(record.prediction)
    assert undisturbed.put_prediction(prediction)[0] == record.prediction


def test_views_held_back_are_rendered_and_scored(scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "renders"
    folder.mkdir()
    (folder / "adapter.toml").write_text(
        'name = "renders"\ntitle = "Renders"\nlicence_code = "MIT"\nscope = "scene"\n'
        'accepts = ["cameras", "targets"]\nrequires = ["cameras", "targets"]\n'
    )
    (folder / "adapter.py").write_text(
        "import numpy as np\nfrom adapters.contract import Reconstruction, Reconstructor\n"
        "class Adapter(Reconstructor):\n"
        "    def infer(self, inputs):\n"
        "        grey = tuple(np.full((h, w, 3), 90, np.uint8) for w, h in inputs.target_sizes)\n"
        "        return Reconstruction(np.zeros((20, 3), np.float32), 'world', 'metric', renderings=grey)\n"
    )
    store = Store(tmp_path / "store")
    run(suite(adapters=[Contestant(name=str(folder))], views=(3,)), scene, store)
    (record,) = store.trials()
    assert record.status == "ok", record.message
    assert record.inputs == "images+cameras"
    assert len(record.targets) == 4 and not set(record.targets) & set(record.views)
    (score,) = store.scores()
    psnr = next(value for value in score.values if value.metric == "psnr")
    assert psnr.value is not None and 5 < psnr.value < 20
