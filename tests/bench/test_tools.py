"""Ground truth's COLMAP, the attention capture, the conformance check and the gate run behind the walls."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import grimp
import numpy as np
import pytest
from PIL import Image

from adapters.contract import InputError
from bench.cli import main
from bench.gate import exact, fresh
from bench.systems import measure, process
from bench.trials import capture, conformance, groundtruth, run
from data.groundtruth.build import build_groundtruth
from data.scene import Scene
from tests.bench.spies import spy
from tests.bench.test_walls import ROOT, enclosed_only


def tool(folder: Path, body: str, *, deadline: float = 60.0, read: tuple[Path, ...] = ()) -> list[bytes]:
    """The lines that a Python program prints behind the walls."""
    lines: list[bytes] = []
    compiled = folder / "compiled"
    for place in (folder, compiled, folder / "work"):
        place.mkdir(exist_ok=True)
    command = [sys.executable, "-I", "-S", "-c", body]
    process.run_tool(process.Tool("tool", command, folder, compiled, read, deadline), lines.append)
    return lines


@enclosed_only
def test_a_tool_reaches_nothing_that_it_was_not_given(tmp_path: Path, scene: Scene) -> None:
    body = f"""
import os, socket
seen = [os.path.exists(p) for p in ({str(scene.path)!r}, {str(ROOT / "data")!r}, {str(ROOT / "adapters")!r})]
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print(seen, error.errno, len([p for p in os.listdir("/proc") if p.isdigit()]), os.environ.get("SECRET_TOKEN"))
"""
    (line,) = tool(tmp_path / "tool", body, read=(ROOT / "adapters",))
    assert line == b"[False, False, True] 101 2 None"  # ENETUNREACH


TOOL_FAULTS = {
    "flood of lines": ("while True: print('x' * 1000)", "messages"),
    "endless line": ("import sys\nwhile True: sys.stdout.write('x' * 1000)", "messages"),
    "failure": ("raise SystemExit('out of film')", "tool: out of film"),
    "signal": ("import os\nos.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "hang": ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)", "not finished after 3 s"),
    "daemon": ("import os, time\nos.fork() or (os.setsid(), time.sleep(600))", ""),
}


@pytest.mark.parametrize("which", TOOL_FAULTS)
def test_a_tool_that_fails_is_one_sentence_and_leaves_nothing(which: str, tmp_path: Path) -> None:
    body, message = TOOL_FAULTS[which]
    began = time.monotonic()
    if which == "daemon":
        assert tool(tmp_path / "tool", body, deadline=60.0) == []  # nobody waits for what it left behind
    else:
        with pytest.raises(InputError, match=message):
            tool(tmp_path / "tool", body, deadline=3.0 if which == "hang" else 60.0)
    assert time.monotonic() - began < 55


def test_a_tool_is_held_to_the_memory_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "memory_limit_bytes", lambda policy: 200 * 2**20)
    with pytest.raises(InputError, match="200 MiB of memory"):
        tool(tmp_path / "tool", "hold = []\nwhile True: hold.append(bytearray(2**20))")


def test_ground_truth_is_made_behind_the_walls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photos of noise, one of them a link: decoded, solved in vain and refused, all in there."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for path in (photos / "0.png", tmp_path / "1.png"):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    (photos / "1.png").symlink_to(tmp_path / "1.png")
    calls: list[list[str]] = []
    real = process.run_tool
    monkeypatch.setattr(groundtruth, "run_tool", lambda *a, **k: (calls.append(a[0].command), real(*a, **k)))
    for source in (photos, tmp_path / "scene"):  # and once more, in place
        with pytest.raises(SystemExit) as ended:
            main(["groundtruth", str(source), "--out", str(tmp_path / "scene")])
        assert ended.value.code == 1
    assert len(calls) == 2 and "data.groundtruth.build" in calls[0][4]
    scene = Scene.open(tmp_path / "scene")
    assert scene.view_names == ("0", "1") and not scene.truth_kinds
    assert '"verdict": "refused"' in (tmp_path / "scene" / "quality.json").read_text()


def test_ground_truth_of_nothing_is_the_same_sentence_behind_the_walls(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["groundtruth", str(tmp_path / "photos"), "--out", str(tmp_path / "scene")])
    assert ended.value.code == 2 and not (tmp_path / "scene").exists()


def test_what_ground_truth_brings_out_is_plain_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(tool: process.Tool, tell: object) -> None:
        (tool.folder / "work" / "scene" / "quality.json").symlink_to("/etc/passwd")

    monkeypatch.setattr(groundtruth, "run_tool", hostile)
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"quality.json is neither a file nor a folder"):
        build_groundtruth(tmp_path / "photos", tmp_path / "out", make=groundtruth.behind_walls)
    assert not (tmp_path / "out").exists()


@enclosed_only
def test_the_conformance_check_and_the_attention_capture_run_the_adapter_behind_the_walls(
    tmp_path: Path, scene: Scene
) -> None:
    attack = f"import os\nassert not os.path.exists({str(scene.path.resolve())!r}), 'the truth is there'"
    adapter = spy(tmp_path / "spy", attack)
    checks = {check.name: check for check in conformance.check_adapter(adapter, scene)}
    assert checks["runs on 8 views"].verdict == "pass", checks
    body = "import sys\nfrom pathlib import Path\n" + attack + "\ndef main(work): raise SystemExit('reached nothing')\n"
    (adapter.folder / "attention.py").write_text(body)
    from bench.systems.cards import get_adapter

    views = conformance.Trial(
        adapter, conformance.Contestant(name="spy"), scene, scene.view_names[:2], 0, "cpu", measure.Policy(), "exact"
    ).make_views()
    with pytest.raises(InputError, match="reached nothing"):
        capture.capture(get_adapter(str(adapter.folder)), views, capture.CaptureRequest())


SPY_TREE = """
import os, socket, sys
def reached():
    for path in {paths!r}:
        if os.path.exists(path):
            return path
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    except OSError as error:
        return "" if error.errno == 101 and "SECRET_TOKEN" not in os.environ else str(error)
    return "the network"
def nearest(one, other):
    raise RuntimeError("reached " + (reached() or "nothing"))
"""


@enclosed_only
def test_another_commit_is_timed_behind_the_walls(
    tmp_path: Path, scene: Scene, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    tree = tmp_path / "tree"
    for package in ("adapters", "metrics"):
        (tree / package).mkdir(parents=True)
    (tree / "adapters" / "__init__.py").write_text("")
    paths = [str(scene.path), str(ROOT / "metrics" / "__init__.py"), str(ROOT / "tests"), str(tmp_path / "store")]
    (tmp_path / "store").mkdir()
    (tree / "metrics" / "__init__.py").write_text(SPY_TREE.format(paths=paths))
    with pytest.raises(SystemExit) as ended:
        main(["check", "--only", "time", "--against", str(tree), "--workloads", "nearest"])
    assert ended.value.code == 5  # broken
    assert "nearest in tree: RuntimeError: reached nothing" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("print('{\"cpu\": NaN}', flush=True)", "NaN"),
        ("print('x' * 10**6, flush=True)", "times wanted"),
        ("os._exit(0)", "times wanted"),
    ],
)
def test_nothing_that_another_commit_says_ends_the_gate(
    line: str, sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for package in ("adapters", "metrics"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "metrics" / "__init__.py").write_text(f"import os\n{line}\nos._exit(0)\n")
    with pytest.raises(SystemExit) as ended:
        main(["check", "--only", "time", "--against", str(tmp_path), "--workloads", "nearest,emd"])
    assert ended.value.code == 5
    shown = capfd.readouterr().out
    assert shown.count("broken") >= 2 and sentence in shown


# Who may start a process, and why it is not somebody else's code in plain view.
STARTS = {
    "bench.systems.walls": "the walls themselves",
    "bench.systems.process": "behind them: workers, ground truth, the attention capture; the gate and all else call it",
    "bench.systems.events": "no start: the type of what it reads from",
    "bench.systems.environments": "installing an adapter, which says that it runs arbitrary code",
    "bench.systems.measure": "nvidia-smi",
    "bench.gate.timing": "git; workloads run behind the walls",
    "bench.training.ship": "git, asking which commit this is",
    "data.groundtruth.colmap": "inside ground truth's process, which is behind the walls",
    "data.groundtruth.solve": "inside ground truth's process, which is behind the walls",
    "metrics.kernels.cuda.compiled": "the compiler of our own kernels",
}


def test_nobody_else_starts_a_process() -> None:
    graph = grimp.build_graph("adapters", "bench", "data", "metrics", "reports", include_external_packages=True)
    graph_of = {name for name in graph.modules if "subprocess" in graph.find_modules_directly_imported_by(name)}
    assert {name for name in graph_of if not name.startswith("adapters.")} == set(STARTS)
    assert fresh.run_trial is run.run_trial  # the gate runs adapters as trials do
    assert {run.run_adapter, exact.run_adapter, conformance.run_adapter} == {process.run_adapter}
