"""Real workers, failing in every way: each failure is a result, and nothing survives it."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from adapters.contract import ContractError, OnDemand, Reconstruction, Views
from bench.systems.cards import get_adapter
from bench.systems.clock import HostClock
from bench.systems.events import Cold, Loaded
from bench.systems.measure import Policy, Steps
from bench.systems.process import log_tail, run_adapter, stage
from bench.trials.store import Store
from tests.bench.spies import spy

FAULTY = get_adapter(str(Path(__file__).parent.parent / "faulty"))
VIEWS = Views(tuple(np.zeros((8, 8, 3), np.uint8) for _ in range(2)), ("000", "001"))
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)

FAILURES = [
    ("raise", "crash", "RuntimeError: something broke"),
    ("segfault", "crash", "killed by SIGSEGV"),
    ("killed", "crash", "killed by SIGKILL"),
    ("exit", "crash", "ended with exit code 3"),
    ("memory-error", "oom", "no room"),
    ("unsupported", "unsupported", "not these views"),
    ("unavailable", "unavailable", "no weights here"),
    ("nan", "invalid_output", "points: 1 of 6 numbers are not finite"),
    ("nothing", "invalid_output", "0 points"),
    ("wrong-shape", "invalid_output", r"points: shape \(2, 2\) seen"),
    ("none", "invalid_output", "NoneType seen"),
]


@pytest.mark.parametrize(("mode", "status", "message"), FAILURES)
def test_a_failure_is_a_result_with_its_log(mode: str, status: str, message: str) -> None:
    outcome, result = run_adapter(FAULTY, VIEWS, options={"mode": mode}, policy=QUICK)
    assert outcome.status == status, outcome
    assert result is None
    assert re.search(message, outcome.message), outcome.message
    assert f"about to be {mode}" in outcome.log_tail


def test_a_hanging_worker_and_its_children_are_killed_at_the_deadline() -> None:
    before = {p.pid for p in psutil.process_iter()}
    began = time.monotonic()
    policy = Policy(warmups=0, repeats=0, deadline=3.0)
    outcome, _ = run_adapter(FAULTY, VIEWS, options={"mode": "hang"}, policy=policy)
    assert outcome.status == "timeout"
    assert "3 s" in outcome.message
    assert time.monotonic() - began < 60
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and "time.sleep(600)" in str(p.info)]
    assert not left


def test_a_worker_that_allocates_without_end_is_stopped_at_its_limit() -> None:
    policy = Policy(warmups=0, repeats=0, deadline=60.0, memory_gib=0.5)
    outcome, _ = run_adapter(FAULTY, VIEWS, options={"mode": "allocate"}, policy=policy)
    assert outcome.status == "oom"
    assert "limit of 512 MiB" in outcome.message
    assert 0.5 * 2**30 < outcome.peak_rss < 4 * 2**30


def test_an_unknown_option_is_refused_and_the_known_are_listed() -> None:
    outcome, _ = run_adapter(FAULTY, VIEWS, options={"moed": "ok"}, policy=QUICK)
    assert outcome.status == "crash"
    assert "option moed is not known; known: mode, seconds" in outcome.message


def test_cold_and_warm_calls_are_counted_and_timed() -> None:
    policy = Policy(warmups=1, repeats=3, min_seconds=0.0, deadline=60.0)
    outcome, result = run_adapter(FAULTY, VIEWS, options={"seconds": 0.05}, policy=policy)
    assert outcome.status == "ok" and result is not None and outcome.cold is not None
    assert len(outcome.warm) == 3
    for call in (outcome.cold, *outcome.warm):
        assert call.infer >= 0.05
        assert call.total == pytest.approx(call.prepare + call.infer + call.finish, abs=1e-6)


def test_repeats_go_on_until_the_duration_is_met_and_stop_before_the_most() -> None:
    long = Policy(warmups=0, repeats=1, min_seconds=0.3, deadline=60.0)
    outcome, _ = run_adapter(FAULTY, VIEWS, options={"seconds": 0.05}, policy=long)
    assert sum(call.total for call in outcome.warm) >= 0.3
    adapter = get_adapter("null")  # microseconds a call: its messages may not flood the host, whatever the duration
    outcome, _ = run_adapter(adapter, VIEWS, policy=Policy(warmups=0, repeats=3, min_seconds=600.0, deadline=60.0))
    assert (outcome.status, len(outcome.warm)) == ("ok", 1000), outcome.message
    short = Policy(warmups=0, repeats=50, min_seconds=0.0, max_seconds=0.2, deadline=60.0)
    outcome, _ = run_adapter(FAULTY, VIEWS, options={"seconds": 0.05}, policy=short)
    assert 1 <= len(outcome.warm) <= 4


SEND = "import json, os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, json.dumps({}).encode() + b'\\n')\n"
SEND += "    except OSError:\n        pass"
NONE = "{'event': 'cold', 'seconds': dict(prepare=0.0, infer=0.0, finish=0.0, total=0.0)}"
LIES = {
    "sends times of its own": (SEND.format(NONE), "a call without its step infer seen"),
    "ends a step before it does": (
        SEND.format("{'event': 'mark', 'step': 'infer'}"),
        "the end of step infer seen, finish wanted",
    ),
    "stops the clock": (
        "import time\nnow = time.perf_counter()\ntime.perf_counter = lambda: now\ntime.sleep(5)",
        "the worker's clock: 0.0[0-9]* s for infer, which took",
    ),
    "speeds the clock up": (
        "import time\nreal = time.perf_counter\ntime.perf_counter = lambda: 1000 * real()\ntime.sleep(0.1)",
        "the worker's clock: [0-9.]+ s for infer, which took",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_lies_about_its_times_is_invalid_output(lie: str, tmp_path: Path) -> None:
    body, message = LIES[lie]
    adapter = spy(tmp_path / "spy", body)
    outcome, result = run_adapter(adapter, VIEWS, policy=Policy(warmups=0, repeats=3, min_seconds=9.0, deadline=60.0))
    assert (outcome.status, result) == ("invalid_output", None), outcome
    assert re.search(message, outcome.message), outcome.message


def test_times_are_the_hosts_own_and_a_worker_may_differ_by_little() -> None:
    clock = HostClock()
    clock.stop("begin")
    for step in ("prepare", "infer", "finish"):
        clock.start()
        time.sleep(0.02)
        clock.stop(step)
    timed = clock.timed(Cold(Steps(prepare=0.0, infer=0.0, finish=0.0, total=0.0)))
    assert isinstance(timed, Cold) and min(timed.seconds.prepare, timed.seconds.infer, timed.seconds.finish) >= 0.02
    assert timed.seconds.total == timed.seconds.prepare + timed.seconds.infer + timed.seconds.finish
    clock.start()
    began = time.perf_counter()
    with clock.paused():
        time.sleep(0.05)
    loaded = clock.timed(Loaded(0.0))
    assert isinstance(loaded, Loaded) and loaded.seconds <= time.perf_counter() - began - 0.05
    with pytest.raises(ContractError, match=r"the worker's clock: 5\.000 s for loading"):
        clock.timed(Loaded(5.0))


PIXELS = """import os
from adapters.contract import OnDemand, shapes_of
assert isinstance(inputs.images, OnDemand) and shapes_of(inputs.images)[3] == (8, 9, 3)
assert [int(image[0, 0, 0]) for image in inputs.images] == list(range(6))
assert [int(inputs.images[i][7, 8, 2]) for i in range(6)] == list(range(6))
assert [bool(mask[0, 0]) for mask in inputs.masks] == [i % 2 == 0 for i in range(6)]
assert inputs.images[-1][0, 0, 0] == 5 and len(inputs.images[1:3]) == 2
assert sum(os.path.getsize(name) for name in os.listdir('.')) < 5000, os.listdir('.')"""
FORGET = """for module in sys.modules.values():
    if hasattr(module, 'KEPT_BYTES'):
        module.KEPT_BYTES = 500
"""


@pytest.mark.parametrize("large", [False, True])
def test_images_and_masks_come_when_they_are_asked_for(large: bool, tmp_path: Path) -> None:
    asked: list[int] = []

    def image(i: int) -> np.ndarray:
        asked.append(i)
        return np.full((8, 9, 3), i, np.uint8)

    masks = OnDemand([(8, 9)] * 6, lambda i: np.full((8, 9), i % 2 == 0))
    views = Views(OnDemand([(8, 9, 3)] * 6, image), tuple(map(str, range(6))), masks=masks)
    folder = spy(tmp_path / "spy", PIXELS).folder
    if large:  # for a worker that keeps next to nothing, this scene is large
        with (folder / "adapter.py").open("a") as file:
            file.write("import sys\n" + FORGET)
    outcome, result = run_adapter(get_adapter(str(folder)), views, policy=QUICK)
    assert outcome.status == "ok" and result is not None, outcome
    assert set(asked) == set(range(6)) and outcome.resolution == "9x8"
    assert len(asked) > 12 if large else len(asked) == 6, "fetched again, or once"


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("Execution('float16', '518x392', 'flash')", "ok"),
        ("Execution('x' * 300)", "invalid_output"),
        ("Execution(3)", "invalid_output"),
        ("None", "invalid_output"),
    ],
)
def test_an_adapter_says_how_it_ran_and_nonsense_is_refused(told: str, status: str, tmp_path: Path) -> None:
    folder = spy(tmp_path / "spy", "pass").folder
    with (folder / "adapter.py").open("a") as file:
        file.write(
            f"    def execution(self, inputs):\n        return {told}\nfrom adapters.contract import Execution\n"
        )
    outcome, _ = run_adapter(get_adapter(str(folder)), VIEWS, policy=QUICK)
    assert outcome.status == status, outcome
    if status == "ok":
        assert (outcome.precision, outcome.resolution, outcome.attention) == ("float16", "518x392", "flash")


def test_depth_maps_of_full_size_are_read_one_at_a_time(tmp_path: Path) -> None:
    body = """from adapters.contract import OnDemand, shapes_of
shapes = [shape[:2] for shape in shapes_of(inputs.images)]
depth = OnDemand(shapes, lambda i: np.full(shapes[i], i + 1, np.float32))
return Reconstruction(np.zeros((1, 3), np.float32), 'object', 'arbitrary', depth=depth)"""
    outcome, result = run_adapter(spy(tmp_path / "spy", body), VIEWS, policy=QUICK)
    assert outcome.status == "ok" and result is not None, outcome
    assert isinstance(result.depth, OnDemand) and [float(d.max()) for d in result.depth] == [1, 2]
    store = Store(tmp_path / "store")
    identity, _ = store.put_prediction(result)
    kept = store.prediction(identity)
    assert isinstance(kept.depth, OnDemand) and kept.depth.shapes == ((8, 8), (8, 8))
    whole = Reconstruction(result.points, "object", "arbitrary", depth=tuple(result.depth))
    assert store.put_prediction(whole)[0] == identity
    assert store.problems() == []


def test_random_weights_time_infer_alone_and_finish_nothing(tmp_path: Path) -> None:
    shutil.copytree(FAULTY.folder, tmp_path / "net", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "net" / "adapter.toml").open("a") as card:
        card.write('[weights]\nhub = "nobody/nothing"\n')
    network = get_adapter(str(tmp_path / "net"))
    outcome, result = run_adapter(network, VIEWS, options={"mode": "nan"}, policy=QUICK, weights="random")
    assert outcome.status == "ok" and outcome.cold is not None and result is None
    assert outcome.cold.prepare == outcome.cold.finish == 0 and outcome.cold.total == outcome.cold.infer > 0
    assert outcome.message == "random weights: infer alone is timed"


def test_the_worker_cannot_import_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "secret_module.py").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    outcome, _ = run_adapter(spy(tmp_path / "spy", "import secret_module"), VIEWS, policy=QUICK)
    assert outcome.status == "unavailable" and "secret_module" in outcome.message


def test_what_an_adapter_prints_goes_to_the_log_and_breaks_nothing(tmp_path: Path) -> None:
    adapter = spy(tmp_path / "spy", 'import sys\nsys.stdout.write(\'{"event": "done"}\\n\')')
    outcome, result = run_adapter(adapter, VIEWS, policy=QUICK, log=tmp_path / "log.txt")
    assert outcome.status == "ok" and result is not None
    assert '{"event": "done"}' in (tmp_path / "log.txt").read_text()


def test_the_global_generators_are_seeded_alike_for_every_call(tmp_path: Path) -> None:
    body = """import random
open('draws', 'a').write(f'{random.random()} {np.random.random()}\\n')
draws = open('draws').read().splitlines()
assert len(set(draws)) == 1, draws"""
    policy = Policy(warmups=1, repeats=2, min_seconds=0.0, deadline=60.0)
    outcome, _ = run_adapter(spy(tmp_path / "spy", body), VIEWS, policy=policy, seed=7)
    assert outcome.status == "ok", outcome.message


def test_a_staged_tree_holds_adapters_alone() -> None:
    tree = stage(FAULTY)
    assert [path.name for path in tree.iterdir()] == ["adapters"]
    assert (tree / "adapters" / "third_party" / "faulty" / "adapter.py").is_file()
    assert stage(FAULTY) == tree


def test_the_hosts_memory_is_not_booked_on_the_worker() -> None:
    ballast = np.ones(100_000_000)  # 0.8 GB
    outcome, _ = run_adapter(FAULTY, VIEWS, policy=QUICK)
    assert ballast.sum() == len(ballast)
    assert 2**20 < outcome.peak_rss < 400 * 2**20


def test_bars_and_tensors_that_upstream_prints_are_kept_out_of_the_tail(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(
        b"loading\r\n 10%|#         | 3/30 [00:01<00:09,  2.9it/s]\r100%|##########| 30/30 [00:10<00:00,  2.9it/s]\n"
        b"\x1b[97m[INFO ] coloured\x1b[0m\nloss tensor([[1., 2.],\n        [3., 4.]], grad_fn=<Mul(1)>) at the end\n"
        b"Fetching \xe2\x94\x81\xe2\x94\x81\xe2\x94\x81\xe2\x94\x81 100%\n\nValueError: 50% of the views\n"
    )
    assert log_tail(log).splitlines() == [
        "loading",
        "[INFO ] coloured",
        "loss tensor(...) at the end",
        "ValueError: 50% of the views",
    ]
