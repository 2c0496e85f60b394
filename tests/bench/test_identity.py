"""Identity: what is told apart, what is the same, and what survives another machine, a merge or a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from adapters.contract import Reconstruction
from bench.scoring.collect import _ranks_most, make_tables, newest
from bench.systems import measure
from bench.systems.cards import Adapter, Card, get_adapter
from bench.systems.environments import Interpreter, Package
from bench.systems.measure import Hardware, Policy
from bench.systems.process import stage
from bench.trials import plan as planning
from bench.trials.plan import Trial, plan
from bench.trials.records import LeftOut, RunRecord, ScoredValue, ScoreRecord, TrialRecord
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene, truth_id

CARD = 'name = "x"\ntitle = "X"\nlicence_code = "MIT"\nscope = "scene"\n'
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "x"
    (path / "cfg").mkdir(parents=True)
    (path / "adapter.toml").write_text(CARD)
    (path / "adapter.py").write_text("x = 1\n")
    (path / "cfg" / "model.yaml").write_text("depth: 3\n")
    (path / "ops.cu").write_text("__global__ void f() {}\n")
    return path


def hash_of(folder: Path) -> str:
    return get_adapter(f"{folder}/").hash


def edit(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        edit("adapter.py", "x = 2\n"),
        edit("cfg/model.yaml", "depth: 4\n"),
        edit("ops.cu", "__global__ void g() {}\n"),
        edit("weights.bin", "new"),
        lambda folder: (folder / "ops.cu").rename(folder / "cfg" / "ops.cu"),
        edit("adapter.py", "from adapters.shared import resize\n"),
        edit("adapter.py", "from ...shared.resize import resized\n"),
        edit("adapter.py", "import importlib\nimportlib.import_module('adapters.shared.resize')\n"),
    ],
)
def test_every_file_of_an_adapter_is_part_of_what_it_is(folder: Path, change: Callable[[Path], object]) -> None:
    before = hash_of(folder)
    change(folder)
    assert hash_of(folder) != before


@pytest.mark.parametrize("name", ["__pycache__/adapter.pyc", ".git/HEAD", ".adapter.py.swp", "../beside.py"])
def test_what_is_no_code_of_an_adapter_changes_nothing(folder: Path, name: str) -> None:
    before = hash_of(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("1")
    assert hash_of(folder) == before


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("from adapters.shared import resize\n", {"shared/resize.py"}),
        ("def f():\n    from ...shared.resize import resized\n", {"shared/resize.py"}),
        ("x = 1\n", set[str]()),
    ],
)
def test_what_is_hashed_is_what_is_staged(folder: Path, text: str, shared: set[str]) -> None:
    (folder / "adapter.py").write_text(text)
    adapter = get_adapter(f"{folder}/")
    staged = stage(adapter) / "adapters"
    files = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    assert files == set(adapter.content) >= {"contract.py", "worker.py", "third_party/x/cfg/model.yaml"} | shared
    assert {name for name in files if name.startswith("shared/")} - {"shared/__init__.py"} >= shared
    assert not any(name.startswith("systems/") and name != "systems/__init__.py" for name in files)
    assert staged.parent.name == adapter.hash


def test_an_adapter_edited_while_it_is_staged_is_staged_as_it_was_hashed(folder: Path) -> None:
    adapter = get_adapter(f"{folder}/")
    before = adapter.hash
    (folder / "adapter.py").write_text("x = 2\n")
    assert (stage(adapter) / "adapters" / "third_party" / "x" / "adapter.py").read_text() == "x = 1\n"
    assert adapter.hash == before != hash_of(folder)


def test_worker_and_contract_are_part_of_every_adapter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, other = (get_adapter(f"{folder}/") for _ in range(2))
    content = {**adapter.content, "worker.py": b"another"}
    monkeypatch.setitem(other.__dict__, "content", content)
    assert adapter.hash != other.hash


def package(*requires: str, version: str = "1", modules: tuple[str, ...] = ()) -> Package:
    return Package(version, "", list(requires), list(modules))


def test_only_packages_that_the_code_depends_on_count() -> None:
    packages = {
        "torch": package("typing-extensions", "numpy; extra == 'np'", modules=("torch", "functorch")),
        "typing_extensions": package(modules=("typing_extensions",)),
        "Pillow": package(modules=("PIL",)),
        "pytest": package("pluggy"),
        "numpy": package(modules=("numpy",)),
    }
    interpreter = Interpreter("3.11", (3, 11, 0), packages)
    assert interpreter.closure({"torch", "os", "absent"}, []) == ["torch==1 ", "typing-extensions==1 "]
    assert interpreter.closure({"PIL"}, ["numpy>=1"]) == ["numpy==1 ", "pillow==1 "]
    newer = Interpreter("3.11", (3, 11, 0), {**packages, "typing_extensions": package(version="2")})
    assert newer.closure({"torch"}, []) != interpreter.closure({"torch"}, [])
    beside = Interpreter("3.11", (3, 11, 0), {**packages, "unrelated": package("torch", modules=("unrelated",))})
    assert beside.closure({"torch"}, []) == interpreter.closure({"torch"}, [])


def oracle(scene: Scene, **changes: object) -> Trial:
    chosen = Suite(name="t", adapters=[Contestant(name="oracle")], views=(2,), truth="exact", policy=QUICK)
    (trial,) = plan(msgspec.structs.replace(chosen, **changes), [scene])
    return trial


OTHER = Hardware(cpu="another", cores=64, memory_gib=512, devices=["NVIDIA H200, 570.1"], system="Linux", python="3.12")


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "hardware", lambda: OTHER)


def test_a_prediction_is_the_same_everywhere_and_a_measurement_is_of_one_machine(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = oracle(scene)
    patient = oracle(scene, policy=Policy(deadline=61.0))
    assert here.identity == patient.identity and here.key != patient.key
    keys = {here.key, patient.key, oracle(scene, seeds=(1,)).key, oracle(scene, views=(3,)).key}
    assert len(keys) == 4
    key_here = here.key
    elsewhere(monkeypatch)
    there = oracle(scene)
    assert there.identity == here.identity and there.key != key_here


def test_threads_and_the_kind_of_device_tell_predictions_apart(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plain, on_device = oracle(scene).identity, oracle(scene, device="cuda:0").identity
    assert measure.device_kind("cuda:0") == "cuda NVIDIA H200" and measure.device_kind("cpu") == "cpu"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert len({plain, on_device, oracle(scene).identity}) == 3


def test_images_are_known_by_their_bytes(scene_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    copy = tmp_path / "copy"
    shutil.copytree(scene_path, copy)
    before = oracle(Scene.open(copy))
    assert oracle(Scene.open(scene_path)).identity == before.identity, "the place of a scene changes nothing"
    path = Scene.open(copy).image_path(before.views[0])
    monkeypatch.setattr(planning, "decoder", lambda: "another Pillow")
    assert oracle(Scene.open(scene_path)).identity != before.identity, "which may decode them otherwise"
    monkeypatch.undo()
    Image.new("RGB", (96, 96)).save(path)
    assert oracle(Scene.open(copy)).identity != before.identity


def record_of(trial: Trial, hardware: Hardware, **changes: object) -> TrialRecord:
    base = TrialRecord(
        key=trial.key,
        identity=trial.identity,
        adapter="oracle",
        adapter_hash=trial.adapter.hash,
        card=trial.adapter.card,
        environment=trial.environment,
        weights="none",
        options={},
        inputs=trial.inputs,
        scene=trial.scene.name,
        scene_path=str(trial.scene.path),
        inputs_hash=trial.inputs_hash,
        views=list(trial.views),
        seed=0,
        device="cpu",
        policy=QUICK,
        status="ok",
        hardware=hardware,
        finished="2026-01-01",
        command="",
    )
    return msgspec.structs.replace(base, **changes)


def score_of(record: TrialRecord) -> ScoreRecord:
    return ScoreRecord(
        trial=record.key,
        of=record.scored_as,
        truth="exact",
        truth_id="t",
        truth_made_by=[],
        protocol="p",
        protocol_version=1,
        protocol_hash="h",
        values=[],
        stages=[],
        points=0,
        unobserved=0,
        notes=[],
    )


def test_stores_of_two_machines_merge_into_one_that_holds_both(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Store(tmp_path / "one"), Store(tmp_path / "two")
    cloud = Reconstruction(np.eye(3, dtype=np.float32), "world", "metric")
    here = oracle(scene)
    for store in (ours, theirs):
        identity, _ = store.put_prediction(cloud)
    first = record_of(here, measure.hardware(), prediction=identity, peak_rss=1)
    ours.put_trial(first)
    ours.put_score(score_of(first), None)
    elsewhere(monkeypatch)
    there = oracle(scene)
    assert ours.measured(there.key) is None, "seconds of one machine are never another's"
    second = record_of(there, OTHER, prediction=identity, peak_rss=2)
    theirs.put_trial(second)
    assert ours.merge(theirs) == 1
    assert {record.peak_rss for record in ours.trials()} == {1, 2}
    shared = ours.score(second, "h", "t")
    assert shared is not None and shared.trial == second.key, "equal predictions have one score"


def test_a_score_belongs_to_what_was_scored_whenever_the_run_was_killed(scene: Scene, tmp_path: Path) -> None:
    store, trial = Store(tmp_path / "store"), oracle(scene)
    missing = record_of(trial, measure.hardware(), status="unavailable", message="no weights")
    store.put_trial(missing)
    store.put_score(score_of(missing), None)
    assert store.score(missing, "h", "t") is not None
    identity, _ = store.put_prediction(Reconstruction(np.eye(3, dtype=np.float32), "world", "metric"))
    answered = msgspec.structs.replace(missing, status="ok", message="", prediction=identity)
    store.put_trial(answered)  # and the kill comes here, before it is scored
    assert store.score(answered, "h", "t") is None
    other, _ = store.put_prediction(Reconstruction(np.ones((3, 3), np.float32), "world", "metric"))
    store.put_score(score_of(answered), None)
    for changes in ({"prediction": other}, {"views": ["a", "b"]}, {"posed": True}, {"status": "crash"}):
        assert store.score(msgspec.structs.replace(answered, **changes), "h", "t") is None


def test_a_merge_prefers_an_answer_to_what_was_missing(scene: Scene, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    record = record_of(oracle(scene), measure.hardware(), status="crash", message="fell over")
    missing = msgspec.structs.replace(record, status="unavailable", message="no weights")
    here.put_trial(missing)
    there.put_trial(record)
    assert here.merge(there) == 1
    assert [r.status for r in here.trials()] == ["crash"]
    there.put_trial(missing)
    assert here.merge(there) == 0
    assert [r.status for r in here.trials()] == ["crash"]


def test_a_truth_is_told_by_its_masks_as_well(scene_path: Path, tmp_path: Path) -> None:

    copy = tmp_path / "copy"
    shutil.copytree(scene_path, copy)
    folder = copy / "truth" / "exact"
    before = truth_id(folder)
    assert before == truth_id(scene_path / "truth" / "exact")
    mask = Scene.open(copy).mask_path(Scene.open(copy).view_names[0])
    Image.new("L", (96, 96), 255).save(mask)
    assert truth_id(folder) != before


def test_an_adapter_that_is_not_python_is_named(folder: Path) -> None:
    (folder / "adapter.py").write_text("def (\n")
    with pytest.raises(ValueError, match=r"adapter.py: not valid Python"):
        _ = Adapter("x", folder, "folder").hash


def test_a_report_keeps_machines_and_clouds_apart_and_what_was_missing_gives_way(scene: Scene) -> None:
    trial = oracle(scene)
    here = record_of(trial, measure.hardware(), prediction="a", finished="2026-01-01")
    later = msgspec.structs.replace(here, key="later", finished="2026-01-02")
    there = msgspec.structs.replace(here, key="there", hardware=OTHER)
    missing = msgspec.structs.replace(here, key="missing", status="unavailable", finished="2026-01-03")
    missing_there = msgspec.structs.replace(missing, hardware=OTHER)
    assert {r.key for r in newest([here, later, there, missing, missing_there])} == {"later", "there"}
    assert newest([missing]) == [missing]
    clouds = [  # y and v: one file, with and without the truth's frame
        msgspec.structs.replace(here, key=f"{name}12345", external=True, adapter=file, prediction=of, posed=name == "v")
        for name, file, of in (("x", "mesh", "a"), ("y", "mesh", "b"), ("v", "mesh", "b"), ("z", "other", "c"))
    ]
    assert sorted(record.system for record in newest(clouds)) == ["mesh v12345", "mesh x12345", "mesh y12345", "other"]


def test_a_report_ranks_under_the_truth_that_ranks_most_systems(scene: Scene) -> None:
    record = record_of(oracle(scene), measure.hardware())
    plain = msgspec.structs.replace(record.card, reference=False, kin=[])
    kin = msgspec.structs.replace(plain, kin=["colmap"])
    good = ScoredValue("emd", "%", "lower", "ok", 1.0)

    def opening(systems: dict[str, tuple[Card, str]]) -> str:
        """The truth, where each system has a card and the truths that it was scored against."""
        pairs = []
        for name, (card, truths) in systems.items():
            own = msgspec.structs.replace(record, adapter=name, card=card)
            for truth in truths.split():
                made_by = ["colmap"] if truth == "colmap" else []
                changes = {"truth": truth, "truth_made_by": made_by, "values": [good]}
                pairs.append((own, msgspec.structs.replace(score_of(own), **changes)))
        return _ranks_most(pairs, [scene], "emd")

    assert opening({"a": (plain, "exact colmap"), "b": (plain, "colmap")}) == "colmap"
    assert opening({"a": (plain, "exact colmap"), "b": (kin, "colmap")}) == "exact"
    assert opening({"a": (plain, "exact colmap"), "b": (plain, "exact colmap")}) == "exact"
    assert opening({}) == "exact", "what the scene has"


def test_what_was_left_out_is_told_by_system_inputs_and_the_newest_knowledge(scene: Scene, tmp_path: Path) -> None:
    store, trial = Store(tmp_path / "store"), oracle(scene)
    store.put_trial(record_of(trial, measure.hardware(), status="crash"))
    done = LeftOut("oracle", trial.inputs, scene.name, 2, 0, "no budget")
    others = [
        LeftOut("oracle", trial.inputs, scene.name, 3, 0, "no budget"),
        LeftOut("oracle", "images", scene.name, 3, 0, "no budget"),
    ]
    blank = RunRecord(
        version="",
        command="",
        started="2026-01-01",
        seconds=0.0,
        hardware=OTHER,
        overhead_seconds=None,
        trials=[],
        left_out=[done, *others],
        protocol="object-v1",
        truth="exact",
    )
    store.put_run(blank)
    newer = msgspec.structs.replace(others[0], reason="another run holds this trial")
    store.put_run(msgspec.structs.replace(blank, started="2026-01-02", left_out=[newer]))
    rows = make_tables(store, "object-v1", "exact").left_out
    assert {(row.inputs, row.views, row.reason) for row in rows} == {
        (trial.inputs, 3, "another run holds this trial"),
        ("images", 3, "no budget"),
    }
    same = [msgspec.structs.replace(left, reason="no budget") for left in others]
    store.put_run(msgspec.structs.replace(blank, started="2026-01-03", left_out=same))
    assert {row.inputs for row in make_tables(store, "object-v1", "exact").left_out} == {trial.inputs, "images"}
    missing = {"key": "missing", "status": "unavailable", "inputs": "images", "views": ["0", "1", "2"]}
    store.put_trial(record_of(trial, measure.hardware(), **missing, finished="2026-01-04"))
    assert [row.inputs for row in make_tables(store, "object-v1", "exact").left_out] == [trial.inputs]
    store.put_run(msgspec.structs.replace(blank, started="2026-01-05", left_out=same))
    assert len(make_tables(store, "object-v1", "exact").left_out) == 2, "told of anew"
