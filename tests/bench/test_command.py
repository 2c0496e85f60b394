"""A row's command reproduces the row; flags override a suite everywhere; what cannot be run is said."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.contract import InputError
from bench.cli import app, main
from bench.cli.common import split
from bench.cli.flags import RunFlags, suite_of
from bench.cli.show import outcome, who_ranks
from bench.engines.local import Progress, run_plan
from bench.systems.cards import list_text, option_text, option_value
from bench.systems.measure import Policy
from bench.trials.plan import Trial, plan, runnable
from bench.trials.records import LeftOut
from bench.trials.scenes import get_scene, scene_of_images
from bench.trials.store import Store
from bench.trials.suite import ALL_VIEWS, Contestant, Suite, load_suite
from data.scene import Scene

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VALUES = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
SECONDS = st.floats(0.0, 1e6)
POLICIES = st.builds(
    Policy,
    warmups=st.integers(0, 9),
    repeats=st.integers(0, 99),
    min_seconds=SECONDS,
    max_seconds=SECONDS,
    deadline=SECONDS,
    memory_gib=SECONDS,
    timing_only=st.booleans(),
)


@given(VALUES)
def test_an_option_comes_back_as_what_it_was(value: str | int | float | bool) -> None:
    read = option_value(option_text(value))
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "value"), [("False", False), ("true", True), ("1", 1), ("1.5", 1.5), ("a b", "a b"), ('"1"', "1")]
)
def test_an_option_is_read_as_people_write_it(text: str, value: object) -> None:
    assert option_value(text) == value and type(option_value(text)) is type(value)


def parsed(command: str) -> Trial:
    """The one trial that `command` asks for."""
    name, *tokens = shlex.split(command)
    assert name == "reconbench"
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    flags, images = bound.arguments["flags"], bound.arguments.get("images")
    (trial,) = plan(suite_of(flags), [scene_of_images(images)] if images is not None else None)
    return trial


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    options=st.dictionaries(st.sampled_from(["clean", "noise", "kind"]), VALUES),
    policy=POLICIES,
    views=st.integers(1, 8),
    seed=st.integers(0, 2**31),
    order=st.sampled_from(["spread", "overlap"]),
    weights=st.sampled_from(["pretrained", "random", "weights of mine.bin"]),
    give=st.sampled_from([[], ["masks"]]),
)
def test_a_row_s_command_is_the_row_s_trial(
    scene: Scene,
    tmp_path: Path,
    options: dict[str, str | int | float | bool],
    policy: Policy,
    views: int,
    seed: int,
    order: str,
    weights: str,
    give: list[str],
) -> None:
    folder = tmp_path / "system"
    folder.mkdir(exist_ok=True)
    (folder / "adapter.toml").write_text(
        'name = "system"\ntitle = "S"\nlicence_code = "MIT"\nscope = "scene"\naccepts = ["masks"]\n'
        '[weights]\nurl = "https://weights.invalid/w.bin"\n'
    )
    (folder / "adapter.py").write_text("")
    (tmp_path / "weights of mine.bin").write_bytes(b"1")
    path = str(tmp_path / weights) if weights.endswith(".bin") else weights
    contestant = {"name": str(folder), "options": options, "weights": path, "give": give}
    fields = {"name": "t", "adapters": [contestant], "views": [views], "seeds": [seed], "order": order}
    suite = msgspec.convert({**fields, "truth": "exact", "policy": msgspec.to_builtins(policy)}, Suite)
    (trial,) = plan(suite, [scene])
    again = parsed(trial.command)
    assert again.key == trial.key
    assert again.command == trial.command


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=3))
def test_a_list_comes_back_as_what_it_was(parts: list[str]) -> None:
    assert split(list_text(parts)) == parts
    assert split(" a, b ,,c") == ["a", "b", "c"] and split('a,"b,c", d"e') == ["a", "b,c", 'd"e']


def test_commas_and_spaces_in_paths_come_back(scene_path: Path, tmp_path: Path) -> None:
    faulty = shutil.copytree(Path(__file__).parent.parent / "faulty", tmp_path / 'my, "own" system ')
    copy = shutil.copytree(scene_path, tmp_path / " a scene, of mine ")
    suite = Suite(name="t", adapters=[Contestant(name=str(faulty))], views=(2,), truth="exact")
    for opened in (Scene.open(copy), scene_of_images(copy / "images")):
        (trial,) = plan(suite, [opened])
        again = parsed(trial.command)
        assert (again.key, again.command, again.scene.path) == (trial.key, trial.command, trial.scene.path)


def test_a_command_does_not_hang_on_the_folder_it_was_given_in(
    scene_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scene_path.parent)
    scene = get_scene(scene_path.name)
    (trial,) = plan(Suite(name="t", adapters=[Contestant(name="oracle")], views=(2,), truth="exact"), [scene])
    command, key = trial.command, trial.key
    monkeypatch.chdir(tmp_path)
    assert parsed(command).key == key


def test_flags_override_contestants_and_the_timing_part(scene: Scene) -> None:
    suite = suite_of(
        RunFlags(suite="scaling", views="4", seeds="3", deadline=9.0, truth="exact", protocol="object-no-icp-v1")
    )
    assert load_suite("scaling").timing is not None
    counts = {(trial.policy.timing_only, len(trial.views)) for part in suite.parts() for trial in plan(part, [scene])}
    assert counts == {(False, 4), (True, 4)}
    for part in suite.parts():
        assert part.policy.deadline == 9.0 and part.seeds == (3,) and part.protocols == ()
    assert {
        len(trial.views) for trial in plan(suite_of(RunFlags(suite="embedded", views="4", truth="exact")), [scene])
    } == {4}


def test_a_count_above_the_scene_s_is_left_out_and_said(scene: Scene) -> None:
    left: list[LeftOut] = []
    suite = Suite(name="t", adapters=[Contestant(name="oracle")], views=(2, 24, ALL_VIEWS), truth="exact")
    trials = plan(suite, [scene], left.append)
    assert [len(trial.views) for trial in trials] == [2, 8]
    assert [(cell.system, cell.views, cell.reason) for cell in left] == [("oracle", 24, "24 views asked for, 8 seen")]


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_run_in_which_nothing_succeeded_says_so(
    scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = Path(__file__).parent.parent / "faulty"
    run = ["run", "--scenes", scene_path, "--truth", "exact", "--repeats", "0", "--store", tmp_path / "store"]
    assert call(*run, "--adapters", faulty, "--option", "mode=raise", "--views", "2") == 1
    assert call(*run, "--adapters", "oracle", "--views", "24") == 2
    assert "24 views asked for, 8 seen" in capsys.readouterr().err.replace("\n", " ")
    assert call(*run, "--adapters", "oracle", "--views", "2,24") == 0
    (run_record,) = [record for record in Store(tmp_path / "store").runs() if record.left_out]
    assert run_record.left_out[0].views == 24


def test_what_cannot_be_scored_is_never_ok(scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    trials = plan(Suite(name="t", adapters=[Contestant(name="null")], views=(2,), truth="exact"), [scene])
    observed: list[str] = []
    progress = Progress(finished=lambda trial, record, scores, reused: observed.append(outcome(record, scores)))
    result = run_plan(trials, store, protocol="object-v1", truth="exact", progress=progress)
    (record,) = result.records
    assert record.status == "ok", record.message
    assert observed[0].startswith("ran, not scorable (") and outcome(record, []) == "ran, not scored (no ground truth)"
    (score,) = store.scores()
    values = [replace(v, status="ok", value=1.0) if v.metric == "auc@30" else v for v in score.values]
    assert outcome(record, [replace(score, values=values)]) == observed[0]  # two cameras are no shape


def test_who_can_be_ranked_is_said_beforehand(scene_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(scene_path, tmp_path / "copy")
    (copy / "truth" / "exact").rename(copy / "truth" / "colmap")
    file = copy / "truth" / "colmap" / "truth.json"
    file.write_text(file.read_text().replace('"made_by": []', '"made_by": ["colmap"]').replace("exact", "colmap"))
    contestants = [Contestant(name=name) for name in ("colmap", "visual-hull", "oracle", "colmap-mvs")]
    trials = plan(Suite(name="t", adapters=contestants, views=(4,)), [Scene.open(copy)])
    (sentence,) = who_ranks(trials)
    assert sentence == (
        "Under the COLMAP truth: ranked: visual-hull; of its own method, so compared by agreement with it: colmap, "
        "colmap-mvs; shown, not ranked: oracle."
    )


def test_photos_alone_run_what_can_run(scene_path: Path, tmp_path: Path) -> None:
    names = runnable(scene_of_images(scene_path / "images"))
    assert {"colmap", "colmap-mvs"} <= {*names} and not {"oracle", "null", "visual-hull", "patchmatch"} & {*names}
    assert not {"lmnet3d", "direct", "lam3d", "retrieval", "medoid"} & {*names}
    images = tmp_path / "one"
    images.mkdir()
    (images / "0.png").write_bytes((scene_path / "images" / "000.png").read_bytes())
    with pytest.raises(InputError, match="no system here runs on 1 images"):
        runnable(scene_of_images(images))
