"""Systems that take their views one after the other: each answer is timed by the host, on hundreds of views too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapters.contract import ContractError, Views
from bench.engines.local import run_plan
from bench.scoring.collect import make_tables
from bench.scoring.costs import cost_series
from bench.systems.cards import Adapter, get_adapter
from bench.systems.clock import HostClock
from bench.systems.events import Cold
from bench.systems.measure import Policy, Steps, growth
from bench.systems.process import run_adapter
from bench.trials.plan import plan
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite, Timing
from data.scene import Scene
from reports.board import leaderboard
from reports.curves import curves
from reports.export import leaderboard_csv
from reports.report import write_report
from tests.bench.spies import spy
from tests.benchmarks.bench_memory import ADAPTER, CARD, make_scene

VIEWS = Views(tuple(np.full((8, 8, 3), i, np.uint8) for i in range(4)), ("000", "001", "002", "003"))
QUICK = Policy(warmups=0, repeats=2, min_seconds=0.0, deadline=120.0)
STREAM = """import time
import numpy as np
from adapters.contract import Reconstruction, Reconstructor

class Adapter(Reconstructor):
    def stream(self, inputs):
{body}

    def finish(self, outputs, views):
        points = np.array(outputs, np.float32)[:, None] * np.ones(3, np.float32)
        return Reconstruction(points, "object", "arbitrary")
"""


def streaming(folder: Path, body: str, streams: bool = True) -> Adapter:
    """An adapter whose `stream` runs `body`."""
    folder.mkdir()
    card = 'name = "slow-stream"\ntitle = "Slow stream"\nlicence_code = "MIT"\nscope = "scene"\n'
    (folder / "adapter.toml").write_text(card + ("streams = true\n" if streams else ""))
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    (folder / "adapter.py").write_text(STREAM.format(body=lines) + f"# {folder}\n")
    return get_adapter(str(folder))


ONE_BY_ONE = "for i, image in enumerate(inputs.images):\n    time.sleep(0.02 * (i + 1))\n    yield float(image.mean())"


def test_each_answer_is_timed_and_the_last_is_told_apart_from_the_whole(tmp_path: Path) -> None:
    outcome, result = run_adapter(streaming(tmp_path / "a", ONE_BY_ONE), VIEWS, policy=QUICK)
    assert outcome.status == "ok" and result is not None, outcome
    np.testing.assert_array_equal(result.points[:, 0], range(4))  # in the views' order
    assert outcome.cold is not None and len(outcome.warm) == 2
    for call in (outcome.cold, *outcome.warm):
        assert len(call.frames) == 4
        assert all(seconds >= 0.02 * (i + 1) for i, seconds in enumerate(call.frames))
        assert sum(call.frames) <= call.infer <= call.total
    assert outcome.frame_seconds == pytest.approx(np.mean([call.frames for call in outcome.warm], axis=0))


def test_several_views_may_be_answered_at_once_and_what_follows_counts_for_the_whole(tmp_path: Path) -> None:
    body = "yield float(sum(image.mean() for image in inputs.images[:3]))\nyield 1.0\ntime.sleep(0.1)"
    outcome, _ = run_adapter(streaming(tmp_path / "a", body), VIEWS, policy=QUICK)
    assert outcome.cold is not None and len(outcome.cold.frames) == 2
    assert outcome.cold.infer >= sum(outcome.cold.frames) + 0.1


def test_a_system_that_does_not_stream_has_no_frames_and_the_same_answer(tmp_path: Path) -> None:
    whole, same = run_adapter(streaming(tmp_path / "a", ONE_BY_ONE, streams=False), VIEWS, policy=QUICK)
    assert whole.cold is not None and whole.cold.frames == [] == whole.frame_seconds and same is not None
    np.testing.assert_array_equal(same.points[:, 0], range(4))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("yield from range(9)", "more than 4 outputs seen, one a view at most wanted"),
        ("yield from ()", "no output seen, at least one wanted"),
    ],
)
def test_too_many_answers_or_none_are_invalid_output(body: str, message: str, tmp_path: Path) -> None:
    outcome, result = run_adapter(streaming(tmp_path / "a", body), VIEWS, policy=QUICK)
    assert (outcome.status, result) == ("invalid_output", None) and message in outcome.message


def test_a_worker_cannot_make_up_frames(tmp_path: Path) -> None:
    forged = "import json, os\nfor fd in range(3, 64):\n    try:\n"
    forged += "        os.write(fd, json.dumps({'event': 'mark', 'step': 'frame'}).encode() + b'\\n')\n"
    outcome, _ = run_adapter(spy(tmp_path / "spy", forged + "    except OSError:\n        pass"), VIEWS, policy=QUICK)
    assert outcome.status == "invalid_output" and "an output too many seen, 0 at most wanted" in outcome.message
    clock = HostClock(most_frames=2)
    clock.stop("begin")
    with pytest.raises(ContractError, match="an output too many"):
        clock.stop("frame")  # before `prepare` ended
    clock.stop("prepare")
    for step in ("frame", "frame", "infer", "finish"):
        clock.stop(step)
    timed = clock.timed(Cold(Steps(prepare=0.0, infer=0.0, finish=0.0, total=0.0, frames=[9.0])))
    assert isinstance(timed, Cold) and len(timed.seconds.frames) == 2 and max(timed.seconds.frames) < 9


def test_growth_is_the_last_tenth_over_the_first() -> None:
    assert growth([1.0] * 9) is None
    assert growth([1.0] * 10) == 1.0
    seconds = [50.0, *np.linspace(1, 3, 199)]  # the first answer, which warms up, is no tenth
    assert growth(seconds) == pytest.approx(np.median(seconds[-20:]) / np.median(seconds[:20]))


def test_a_stream_of_hundreds_of_frames_from_the_suite_to_the_page(tmp_path: Path) -> None:
    make_scene(tmp_path / "ball", 240, 64, 48)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter.toml").write_text(CARD)
    (tmp_path / "adapter" / "adapter.py").write_text(ADAPTER)
    policy = Policy(warmups=0, repeats=1, min_seconds=0.0, deadline=280.0)
    adapters = [Contestant(name=str(tmp_path / "adapter"), views=(240,))]
    timing = Timing(views=(30, 60, 120, 240), policy=policy)
    suite = Suite(name="t", adapters=adapters, truth="colmap", policy=policy, order="sequence", timing=timing)
    store = Store(tmp_path / "store")
    trials = [trial for part in suite.parts() for trial in plan(part, [Scene.open(tmp_path / "ball")])]
    run_plan(trials, store, protocol="object-no-icp-v1", truth="colmap")
    records = [record for record in store.trials() if not record.policy.timing_only]
    assert [(r.status, len(r.views), len(r.frame_seconds)) for r in records] == [("ok", 240, 240)], records[0].message
    tables = make_tables(store, "object-no-icp-v1")
    (trial,) = tables.trials
    assert trial.frames == 240 and trial.last_frame_seconds == records[0].frame_seconds[-1]
    assert trial.frame_growth == growth(records[0].frame_seconds) and trial.last_frame_seconds < trial.infer_seconds
    board = leaderboard(tables)
    line = leaderboard_csv(board, tables.run).iloc[0]
    assert line["last_frame_seconds"] == trial.last_frame_seconds and line["frame_growth"] == trial.frame_growth
    assert {"warm_seconds", "last_frame_seconds"} <= {curve.quantity for curve in curves(board)}
    lasts = [series for series in cost_series(store.trials()) if series.quantity == "last_frame_seconds"]
    assert not lasts or {int(n) for n in lasts[0].points.n} == {30, 60, 120, 240}  # none where all take next to nothing
    write_report(tables, tmp_path / "report")
    assert "last frame" in (tmp_path / "report" / "leaderboard.html").read_text(encoding="utf-8")
    (page,) = (tmp_path / "report" / "rows").glob("*.html")
    assert "Last frame of the stream" in page.read_text(encoding="utf-8")
