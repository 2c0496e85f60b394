"""Adapters that attack: what they try is out of their reach, and what they say spoils nothing."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from adapters.contract import InputError, Views
from bench.arrays import read_npz
from bench.cli import main
from bench.systems import walls
from bench.systems.cards import Adapter
from bench.systems.measure import Policy
from bench.systems.process import LOG_BYTES, run_adapter, stage
from bench.trials.store import Store
from data.scene import Scene
from tests.bench.spies import spy

ROOT = Path(__file__).parents[2]
VIEWS = Views(tuple(np.zeros((8, 8, 3), np.uint8) for _ in range(2)), ("000", "001"))
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
enclosed_only = pytest.mark.skipif(not walls.isolated(), reason="this system permits no namespaces")

# What is done in the worker ends in an assertion that fails if the attack worked.
REACHES = {
    "the truth by its path": "assert not os.path.exists({truth!r})",
    "the house": "assert not glob.glob({root!r} + '/data/*') and not glob.glob({root!r} + '/.git/*')",
    "what unmounting shows": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for line in open('/proc/self/mountinfo'):
            where = line.split()[4]
            assert libc.umount2(where.encode(), 2) != 0, where
        assert not os.path.exists({truth!r})""",
    "a namespace with capabilities": """
        import ctypes
        assert ctypes.CDLL(None).unshare(0x10000000) != 0""",
    "mounting": """
        import ctypes
        assert ctypes.CDLL(None).mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) != 0""",
    "a capability": """
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        assert all(int(status[name], 16) == 0 for name in ('CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'CapInh')), status
        assert int(status['NoNewPrivs']) == 1""",
    "the host's processes": """
        assert len([name for name in os.listdir('/proc') if name.isdigit()]) < 5
        assert not os.path.exists('/proc/{host}/root/etc')""",
    "the network": """
        import socket
        try:
            socket.create_connection(('127.0.0.1', {port}), timeout=2)
        except OSError:
            pass
        else:
            raise AssertionError('connected')""",
    "the staged code": """
        import adapters.contract, sys
        for target in (adapters.contract.__file__, __file__):
            try:
                os.chmod(target, 0o666)
            except OSError:
                pass
            unwritable(target)""",
    "the kernel's switches": """
        for name in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches'):
            unwritable(name)""",
    "the secrets of the environment": """
        everything = repr(dict(os.environ)) + open('/proc/self/environ').read()
        assert 'hunter2' not in everything""",
    "the interpreter's packages": """
        unwritable(os.path.join(os.path.dirname(np.__file__), 'spoilt'))""",
}


def reach(body: str) -> str:
    """What an adapter runs to try `body`, one of `REACHES`."""
    tries = """
        import glob, os
        def unwritable(path):
            try:
                open(path, 'a').write('# spoilt')
            except OSError:
                return
            raise AssertionError(path)
        """
    return "\n".join(textwrap.dedent(part).strip() for part in (tries, body))


@enclosed_only
@pytest.mark.parametrize("what", REACHES)
def test_out_of_reach(what: str, tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    truth = str(scene.path.resolve())
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"truth": truth, "root": str(ROOT), "host": os.getpid(), "port": server.getsockname()[1]}
        body = reach(REACHES[what].format(**names))
        outcome, _ = run_adapter(spy(tmp_path / "spy", body), VIEWS, policy=QUICK)
    assert (outcome.status, outcome.isolated) == ("ok", True), outcome


# Lines that a hostile adapter writes to the pipe of its messages, whose number it finds out.
PIPE = """
import os
for number in range(3, 40):
    try:
        name = os.readlink(f'/proc/self/fd/{number}')
        os.write(number, {lines!r}) if name.startswith('pipe:') else None
    except OSError:
        pass
os._exit(0)
"""
LIES = {
    "NaN": b'{"event": "cold", "seconds": {"prepare": NaN, "infer": 1, "finish": 1, "total": 1}}\n',
    "infinity": b'{"event": "loaded", "seconds": 1e999}\n',
    "a negative time": b'{"event": "loaded", "seconds": -1.0}\n',
    "text for a number": b'{"event": "loaded", "seconds": "soon"}\n',
    "an unknown status": b'{"event": "failed", "status": "brilliant", "message": ""}\n',
    "an unknown event": b'{"event": "applause"}\n',
    "no JSON": b"\xff\xfe{{{\n",
    "depth": b'{"event": ' + b"[" * 50_000 + b"\n",
    "an endless line": b"x" * 300_000,
    "success without a call": b'{"event": "done", "peak_rss": 1}\n',
    "a huge integer": b'{"event": "done", "peak_rss": 99999999999999999999999}\n',
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_invalid_output(lie: str, tmp_path: Path) -> None:
    body = PIPE.replace("{lines!r}", repr(LIES[lie])).strip()
    outcome, result = run_adapter(spy(tmp_path / "spy", body), VIEWS, policy=QUICK)
    assert (outcome.status, result) == ("invalid_output", None), outcome
    assert "the worker's messages" in outcome.message and len(outcome.message) < 2000


def test_what_a_failure_says_is_bounded_and_printable(tmp_path: Path) -> None:
    body = "raise RuntimeError('\\x1b[31m' + 'long ' * 100_000)"
    outcome, _ = run_adapter(spy(tmp_path / "spy", body), VIEWS, policy=QUICK)
    assert outcome.status == "crash" and len(outcome.message) <= 2000 and "\x1b" not in outcome.message


# What stands where the prediction is expected.
FAKES = {
    "a pipe": ("os.mkfifo('out.npz')", "not a regular file"),
    "a link": ("os.symlink('/etc/passwd', 'out.npz')", "not readable"),
    "half a file": ("open('out.npz', 'wb').write(open('whole.npz', 'rb').read()[:-40])", "not readable"),
    "a folder": ("os.mkdir('out.npz')", "not a regular file"),
    "a bomb": (
        (
            "import zipfile\nwith zipfile.ZipFile('out.npz', 'w', zipfile.ZIP_DEFLATED) as z:\n"
            "    with z.open('points.npy', 'w', force_zip64=True) as f:\n"
            "        f.write(b'\\x93NUMPY\\x01\\x00v\\x00')\n        f.write(bytes(2**26))"
        ),
        "no readable header",
    ),
    "a pickle": ("np.savez('out.npz', points=np.array([{}], dtype=object))", "dtype"),
}


def faking(make: str) -> str:
    """What runs `make` where the prediction lies, once the worker has saved its own, which it does after `infer`."""
    lines = ["import atexit, os, shutil", "work = os.getcwd()", "def spoil():", "    os.chdir(work)"]
    lines += ["    os.rename('out.npz', 'whole.npz')", *(f"    {line}" for line in make.splitlines())]
    return "\n".join([*lines, "atexit.register(spoil)"])


@pytest.mark.parametrize("fake", FAKES)
def test_a_fake_prediction_is_invalid_output(fake: str, tmp_path: Path) -> None:
    make, message = FAKES[fake]
    outcome, result = run_adapter(spy(tmp_path / "spy", faking(make)), VIEWS, policy=QUICK)
    assert (outcome.status, result) == ("invalid_output", None), outcome
    assert (message in outcome.message and "out.npz" in outcome.message) or "points" in outcome.message


def test_too_many_points_are_invalid_output_and_take_no_memory(tmp_path: Path) -> None:
    """10^8 points in a file of a megabyte: real ones, which would be read to the end."""
    make = """
import zipfile
header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000, 3), }".ljust(117) + b"\\n"
with zipfile.ZipFile('big.npz', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z:
    with z.open('points.npy', 'w', force_zip64=True) as f:
        f.write(b'\\x93NUMPY\\x01\\x00' + len(header).to_bytes(2, 'little') + header)
        for _ in range(100):
            f.write(bytes(12 * 10**6))""".strip()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome, result = run_adapter(
        spy(tmp_path / "spy", make + "\n" + faking("os.rename('big.npz', 'out.npz')")), VIEWS, policy=QUICK
    )
    assert (outcome.status, result) == ("invalid_output", None), outcome
    assert "100000000 rows declared, 50000000 at most wanted" in outcome.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024


def test_a_declared_size_is_checked_before_memory_is_taken(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 3), }"
    body = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(tmp_path / "out.npz", "w") as archive:
        archive.writestr("points.npy", body)
    with pytest.raises(InputError, match=r"points.npy.*4000000000.*declared"):
        read_npz(tmp_path / "out.npz", 2**30)
    np.savez(tmp_path / "large.npz", points=np.zeros((1000, 3)))
    with pytest.raises(InputError, match="24128 bytes of arrays seen, 1000 at most wanted"):
        read_npz(tmp_path / "large.npz", 1000)
    assert read_npz(tmp_path / "large.npz", 10**6)["points"].shape == (1000, 3)


LEFT_BEHIND = {
    "a child that keeps the pipe": "os.fork() or time.sleep(600)",
    "a daemon of its own session": "os.fork() or (os.setsid(), os.fork() or time.sleep(600), os._exit(0))",
    "many": "[os.fork() or (os.setsid(), time.sleep(600)) for _ in range(30)]",
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_nothing_outlives_a_worker_and_nobody_waits_for_it(what: str, tmp_path: Path) -> None:
    began = time.monotonic()
    body = f"import os, time\n{LEFT_BEHIND[what]}"
    adapter = spy(tmp_path / "spy", body)
    outcome, result = run_adapter(adapter, VIEWS, policy=QUICK)
    assert outcome.status == "ok" and result is not None, outcome
    assert time.monotonic() - began < 50
    assert not _processes_of(adapter)


def test_signals_that_a_worker_ignores_end_it_all_the_same(tmp_path: Path) -> None:
    body = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    policy = Policy(warmups=0, repeats=0, deadline=4.0)
    adapter = spy(tmp_path / "spy", body)
    outcome, _ = run_adapter(adapter, VIEWS, policy=policy)
    assert outcome.status == "timeout"
    assert not _processes_of(adapter)


def test_a_flood_of_output_is_kept_at_both_ends(tmp_path: Path) -> None:
    body = "for i in range(40):\n    print(str(i) * 500_000)\nprint('the very end')"
    log = tmp_path / "log.txt"
    outcome, _ = run_adapter(spy(tmp_path / "spy", body), VIEWS, policy=QUICK, log=log)
    assert outcome.status == "ok" and "the very end" in outcome.log_tail
    assert log.stat().st_size < 2 * LOG_BYTES + 1000
    assert b" bytes left out ..." in log.read_bytes()


def test_spoilt_staged_code_is_staged_anew(tmp_path: Path) -> None:
    adapter = spy(tmp_path / "spy", "pass")
    folder = stage(adapter)
    victim = folder / "adapters" / "contract.py"
    good = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(good + b"# spoilt\n")
    assert (stage(adapter) / "adapters" / "contract.py").read_bytes() == good
    (folder / "adapters" / "shared" / "planted.py").write_text("")
    assert not (stage(adapter) / "adapters" / "shared" / "planted.py").exists()


HOST = """
import signal, sys, numpy as np
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests were started by nohup
from pathlib import Path
from adapters.contract import Views
from bench.systems.cards import get_adapter
from bench.systems.measure import Policy
from bench.systems.process import run_adapter
views = Views((np.zeros((8, 8, 3), np.uint8),), ("000",))
print("ready", flush=True)
run_adapter(get_adapter(sys.argv[1]), views, policy=Policy(deadline=600.0))
"""


@pytest.mark.parametrize(
    ("number", "delay"),
    [(signal.SIGKILL, 0.0), (signal.SIGKILL, 0.1), (signal.SIGKILL, 1.0), (signal.SIGTERM, 1.0), (signal.SIGHUP, 1.0)],
)
def test_a_host_that_dies_leaves_nothing(number: signal.Signals, delay: float, tmp_path: Path) -> None:
    adapter = spy(tmp_path / "spy", "import os, time\nos.fork()\ntime.sleep(600)")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", HOST, str(adapter.folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None and host.stdout.readline() == b"ready\n"
        _wait(lambda: _processes_of(adapter))
        time.sleep(delay)
        host.send_signal(number)
        host.wait(timeout=20)
    _wait(lambda: not _processes_of(adapter) and not list(temporary.iterdir()))


HOLDS = """
import sys, time
from bench.systems import walls
with walls.work_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_the_folder_of_a_host_that_died_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a lock, not by process ids: another container on the same folder counts its processes for itself."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "reconbench-notes").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    # Where namespaces are permitted, a host that no process here can see by the id it knows itself by.
    apart = ["unshare", "--user", "--pid", "--fork", "--kill-child"] if walls.isolated() else []
    with subprocess.Popen([*apart, sys.executable, "-c", HOLDS], env=environment, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        theirs = Path(host.stdout.readline().decode().strip())
        with walls.work_folder() as ours:
            walls.sweep()
            assert {path.name for path in tmp_path.iterdir()} == {ours.name, theirs.name, "reconbench-notes"}
        for process in [*psutil.Process(host.pid).children(recursive=True), host]:
            process.kill()
    _wait(lambda: (walls.sweep(), [path.name for path in tmp_path.iterdir()])[1] == ["reconbench-notes"])


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real, made = tempfile.mkdtemp, list[str]()

    def swept_at_once(**named: str) -> str:
        made.append(real(**named))
        if len(made) == 1:
            walls.sweep()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept_at_once)
    with walls.work_folder() as folder:
        assert folder.is_dir() and str(folder) == made[1] and not Path(made[0]).exists()
    assert not list(tmp_path.iterdir())


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _processes_of(adapter: Adapter) -> list[str]:
    """Command lines of living processes that were started for `adapter`, told by its staged code."""
    staged, commands = str(stage(adapter)), []
    for running in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(running.info["cmdline"] or [])
        if staged in words and running.info["status"] != psutil.STATUS_ZOMBIE:
            commands.append(words)
    return commands


def test_a_run_without_walls_says_so(
    scene_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(walls, "isolated", lambda: False)
    store = str(tmp_path / "store")
    run = ["run", "--adapters", "oracle", "--scenes", str(scene_path), "--views", "2", "--store", store]
    for words in ([*run, "--truth", "exact"], ["report", "--store", store, "--out", str(tmp_path / "out")]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    captured = capsys.readouterr()
    assert "not isolated" in captured.out + captured.err
    (record,) = Store(Path(store)).trials()
    assert (record.status, record.isolated) == ("ok", False)
    assert "not isolated" in (tmp_path / "out" / "leaderboard.html").read_text()
    assert ",False," in (tmp_path / "out" / "scores.csv").read_text()


def test_a_token_of_the_environment_is_nowhere(
    scene_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither in the log nor in the record, the CSV or the page, even where the adapter prints all that it has."""
    monkeypatch.setenv("HF_TOKEN", "hunter2-token")
    monkeypatch.setenv("CUDA_SECRET", "hunter2-cuda")
    body = "import os\nprint(dict(os.environ), open('/proc/self/environ').read())\nraise RuntimeError(str(os.environ))"
    adapter, store = spy(tmp_path / "spy", body), str(tmp_path / "store")
    run = ["run", "--adapters", str(adapter.folder), "--scenes", str(scene_path), "--views", "2", "--store", store]
    run += ["--truth", "exact"]
    for words in (run, ["report", "--store", store, "--out", str(tmp_path / "out")]):
        with pytest.raises(SystemExit):
            main(words)
    (record,) = Store(Path(store)).trials()
    assert record.status == "crash" and "XDG_CACHE_HOME" in record.message
    written = [path.read_bytes() for folder in (store, tmp_path / "out") for path in Path(folder).rglob("*.*")]
    assert len(written) > 5 and not [content for content in written if b"hunter2" in content]
    captured = capfd.readouterr()
    assert "hunter2" not in captured.out + captured.err
