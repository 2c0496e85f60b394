"""`choose`: one command from photos to the page, within a budget, resumed, honest about what it could not do."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from bench.engines import engine
from bench.engines.local import run_plan
from bench.systems.measure import Outcome, Policy
from bench.trials.plan import contestants_for, plan
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.groundtruth.quality import QualityCard, advice
from data.scene import Scene
from tests.bench.test_command import call
from tests.data.test_groundtruth import write_photos


def test_from_a_scene_to_a_page_that_opens_with_the_answer_and_again_for_nothing(
    scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("choose", scene_path, "--adapters", "visual-hull,vggt", "--views", "8,4", "--out", tmp_path / "out")
    assert call(*arguments, "--seconds", "300") == 0
    output, errors = capsys.readouterr()
    assert "with 8 views on this machine visual-hull alone is ranked" in output.replace("With", "with")
    assert "Not measured: VGGT" in output and "reconbench adapters install vggt" in output
    assert "3 trials in the" in errors, "what is not installed is tried once"
    assert str(tmp_path / "out" / "leaderboard.html") in output
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "<h1>Which reconstructor for bumpy?</h1>" in page and "visual-hull alone is ranked" in page
    store = Store(tmp_path / "out" / "store")
    finished = {record.key: record.finished for record in store.trials() if record.status == "ok"}
    monkeypatch.setattr(engine, "run_trial", lambda *_: pytest.fail("run again") if _[0].available else _unavailable())
    assert call(*arguments, "--seconds", "300") == 0
    assert {record.key: record.finished for record in store.trials() if record.status == "ok"} == finished


def _unavailable() -> tuple[Outcome, None]:
    return Outcome(status="unavailable", message="it is not here"), None


def test_what_outlasts_the_budget_is_stopped_and_not_kept(scene: Scene, tmp_path: Path) -> None:
    faulty = str(Path(__file__).parent.parent / "faulty")
    contestant = Contestant(name=faulty, options={"mode": "hang"})
    quick = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=600.0)
    suite = Suite(name="t", adapters=[contestant], views=(2,), truth="exact", policy=quick)
    result = run_plan(
        plan(suite, [scene]),
        Store(tmp_path / "store"),
        protocol="object-v1",
        truth="exact",
        budget_seconds=6.0,
        strictly=True,
    )
    assert not result.records and not Store(tmp_path / "store").trials()
    assert "stopped after the" in result.left_out[0].reason


def test_counts_fit_the_photos_that_have_a_camera(scene: Scene, tmp_path: Path) -> None:
    shutil.copytree(scene.path, tmp_path / "copy")
    file = tmp_path / "copy" / "truth" / "exact" / "cameras.json"
    file.write_bytes(msgspec.json.encode(msgspec.json.decode(file.read_bytes())[:5]))
    fewer = Scene.open(tmp_path / "copy")
    result = {c.name: c.views for c in contestants_for(fewer, "exact", (8, 4, 2))}
    assert result["colmap"] == (4, 2) and result["vggt"] == (4,)
    assert not {"oracle", "null", "lam3d"} & set(result)


def test_photos_that_do_not_fit_together_are_refused_with_what_would_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "noise", 3, (96, 64))
    out = tmp_path / "out"
    assert call("choose", tmp_path / "noise", "--out", out) == 1
    output = capsys.readouterr().out
    assert "no ground truth, so no system can be judged" in output and "no model found among 3" in output
    assert "3 photos are few" in output and "overlap more" in output
    assert not (out / "leaderboard.html").exists()
    assert call("choose", tmp_path / "noise", "--out", out) == 1
    assert "kept from before" in capsys.readouterr().err
    write_photos(tmp_path / "other", 4, (96, 64))
    assert call("choose", tmp_path / "other", "--out", out) == 2
    assert "ground truth of other photos" in capsys.readouterr().err.replace("\n", " ")
    assert call("groundtruth", tmp_path / "noise", "--out", tmp_path / "scene") == 1
    card = QualityCard.read(tmp_path / "scene" / "quality.json")
    assert advice(card) and not advice(msgspec.structs.replace(card, verdict="usable"))


@pytest.mark.parametrize(
    "words",
    [
        ("choose", "PHOTOS", "--seconds", "nan"),
        ("choose", "PHOTOS", "--memory", "-2"),
        ("predict", "--images", "PHOTOS", "--adapter", "null", "--deadline", "-1"),
        ("adapters", "check", "null", "--deadline", "inf"),
    ],
)
def test_a_limit_that_no_clock_can_meet_is_refused_before_anything_is_computed(
    words: tuple[str, ...], scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = () if words[0] == "adapters" else ("--out", str(tmp_path / "out"))
    photos = str(scene.path / "images")
    assert call(*(photos if word == "PHOTOS" else word for word in words), *out) == 2
    assert words[-1] in capsys.readouterr().err and not (tmp_path / "out").exists()
