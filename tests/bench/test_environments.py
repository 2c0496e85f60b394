"""Environments: installed from local wheels and repositories, killed, resumed, locked, named; and what runs in them."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adapters.contract import InputError, Unavailable, Views
from bench.cli import main
from bench.engines.local import run_plan
from bench.engines.node import Facts, Question, survey
from bench.systems import environments
from bench.systems.cards import Adapter, get_adapter
from bench.systems.measure import Policy
from bench.systems.process import run_adapter
from bench.trials.plan import plan
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene

VIEWS = Views((np.zeros((8, 8, 3), np.uint8),), ("000",))
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
CARD = 'name = "{name}"\ntitle = "T"\nlicence_code = "MIT"\nscope = "scene"\n'
SITE = Path(np.__file__).parent.parent  # where the host's numpy lies
BACKEND = """
import zipfile
def build_wheel(folder, settings=None, metadata=None):
    with zipfile.ZipFile(folder + "/piped-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write("piped.py")
        wheel.writestr("piped-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: piped\\nVersion: 1.0\\n")
        wheel.writestr("piped-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("piped-1.0.dist-info/RECORD", "")
    return "piped-1.0-py3-none-any.whl"
"""


def adapter_in(folder: Path, body: str = "", environment: str = "") -> Adapter:
    """An adapter that runs `body` when it loads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.toml").write_text(CARD.format(name=folder.name) + environment)
    (folder / "adapter.py").write_text(
        "import numpy as np\nfrom adapters.contract import Reconstruction, Reconstructor, Unavailable\n"
        "class Adapter(Reconstructor):\n    def load(self, device, weights, seed):\n"
        + "".join(f"        {line}\n" for line in (body or "pass").splitlines())
        + "    def infer(self, inputs):\n"
        "        return Reconstruction(np.zeros((1, 3), np.float32), 'object', 'arbitrary')\n"
    )
    return get_adapter(str(folder))


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A wheel made by hand."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    hashes = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = "".join(f"{path},sha256={hashes[path].rstrip(b'=').decode()},{len(files[path])}\n" for path in files)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for path, text in (files | {f"{info}/RECORD": record}).items():
            file.writestr(path, text)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder: Path, files: dict[str, str], links: dict[str, str] | None = None) -> str:
    """A git repository of `files` with submodules `links` (folder to commit); returns its commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git(folder, "add", ".")
    for path, sha in (links or {}).items():
        git(folder, "update-index", "--add", "--cacheinfo", f"160000,{sha},{path}")
    git(folder, "commit", "--quiet", "-m", "m")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and pip that sees nothing but wheels made here; numpy's leads to the host's."""
    wheels = tmp_path_factory.getbasetemp() / "wheels"
    if not wheels.is_dir():
        wheels.mkdir()
        wheel(wheels, "numpy", "9.9", {"numpy_of_the_host.pth": f"{SITE}\n"})
        for version in ("1.0", "2.0"):
            wheel(wheels, "pinned", version, {"pinned.py": f"version = '{version}'\n"})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_an_install_goes_on_from_the_step_that_failed_and_its_worker_sees_all_of_it(tmp_path: Path) -> None:
    inner = repository(tmp_path / "inner", {"within.py": "x = 3\n"})
    outer = repository(tmp_path / "outer", {"tree.py": "x = 2\n", "deep/deeper.py": "x = 4\n"}, {"inner": inner})
    piped = repository(
        tmp_path / "elsewhere",
        {
            "piped.py": "x = 1\n",
            "backend.py": BACKEND,
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        },
    )
    git(tmp_path, "clone", "--quiet", "--bare", "elsewhere", "piped.git")
    remote = repository(tmp_path / "remote", {"cloned.py": "x = 5\n"})
    adapter = adapter_in(
        tmp_path / "system",
        "import cloned, deeper, piped, pinned, sys, tree, within\n"
        "seen = [piped.x, tree.x, within.x, deeper.x, cloned.x, pinned.version]\n"
        "raise Unavailable(f'{seen} {sys.prefix}')",
        f"""
[environment]
requirements = ["pinned==1.0", "piped @ git+https://example.invalid/piped.git@{piped}"]
build = ["pip install --upgrade pinned", "test -e {tmp_path}/mended"]

[[environment.sources]]
url = "https://example.invalid/outer.git"
commit = "{outer}"
path = ["", "inner", "deep"]

[[environment.sources]]
url = "file://{tmp_path}/remote"
commit = "{remote}"
""",
    )
    sources = [str(tmp_path / "outer"), f"file://{tmp_path}/piped.git"]
    output: list[str] = []
    with pytest.raises(
        InputError, match=r"system: step 7 of 7, build step 2: test -e .*ended with exit code 1"
    ) as caught:
        environments.install(adapter, sources, output.append)
    assert str(caught.value).endswith("/mended'") and "log.txt" in str(caught.value)
    assert sum("finished before" in line for line in output) == 0
    with pytest.raises(Unavailable, match=r"`reconbench adapters install .*/system` makes it"):
        environments.find(adapter)
    assert run_adapter(adapter, VIEWS, policy=QUICK)[0].status == "unavailable"
    (tmp_path / "mended").touch()
    output.clear()
    environments.install(adapter, sources, output.append)
    assert sum("finished before" in line for line in output) == 6
    outcome, _ = run_adapter(adapter, VIEWS, policy=QUICK)
    assert outcome.message == f"[1, 2, 3, 4, 5, '1.0'] {environments.find(adapter).python.parent.parent}"
    assert git(tmp_path / "outer", "status", "--porcelain", "--ignore-submodules=all") == ""
    environments.remove(adapter)
    with pytest.raises(Unavailable):
        environments.find(adapter)


@pytest.mark.parametrize("local", [True, False])
def test_of_a_tree_only_what_the_card_names_is_fetched(tmp_path: Path, local: bool) -> None:
    inner = repository(tmp_path / "inner", {"within.py": "x = 3\n"})
    unwanted = repository(tmp_path / "unwanted", {"film.py": "x = 4\n"})
    files = {"model/net.py": "x = 1\n", "setup.cfg": "", "model.py": "x = 2\n", "film.mp4": "many megabytes"}
    submodules = {"inner": inner, "unwanted": unwanted} if local else {}
    outer = repository(tmp_path / "outer", files, submodules)
    film = git(tmp_path / "outer", "rev-parse", "HEAD:film.mp4")
    if local:  # a partial copy serves
        (tmp_path / "outer" / ".git" / "objects" / film[:2] / film[2:]).unlink()
    else:
        git(tmp_path / "outer", "config", "uploadpack.allowFilter", "true")
        git(tmp_path / "outer", "config", "uploadpack.allowAnySHA1InWant", "true")
    adapter = adapter_in(
        tmp_path / "system",
        "",
        f"""
[[environment.sources]]
url = "{"https://example.invalid/" if local else f"file://{tmp_path}/"}outer"
commit = "{outer}"
only = ["model", "setup.cfg", {'"inner"' if local else ""}]
""",
    )
    environments.install(adapter, [str(tmp_path / "outer")] if local else [], lambda line: None)
    (tree,) = (tmp_path / "cache").rglob("sources/outer")
    result = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and ".git" not in str(path)}
    assert result == {"model/net.py", "setup.cfg"} | ({"inner/within.py"} if local else set())
    if not local:
        listed = git(tree, "cat-file", "--batch-all-objects", "--batch-check")
        assert film not in listed and outer in listed


def test_a_killed_install_counts_for_nothing_and_the_next_one_waits_for_what_it_left_running(tmp_path: Path) -> None:
    wait = f"echo run >> {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    adapter = adapter_in(tmp_path / "slow", environment=f"[environment]\nbuild = ['{wait}']\n")
    command = [sys.executable, "-c", "from bench.cli import main; main()", "adapters", "install", str(adapter.folder)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "runs").exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    with pytest.raises(Unavailable):
        environments.find(adapter)
    output: list[str] = []
    second = threading.Thread(target=environments.install, args=(adapter, (), output.append))
    second.start()
    while not output:
        assert second.is_alive()
        time.sleep(0.05)
    assert output[0] == f"process {first.pid} is installing the same environment; waiting for it"
    assert (tmp_path / "runs").read_text() == "run\n"
    (tmp_path / "go").touch()
    second.join()
    assert (tmp_path / "runs").read_text() == "run\nrun\n", "the step that was killed is done again"
    assert sum("finished before" in line for line in output) == 2
    assert environments.find(adapter).python.is_file()


def test_a_cluster_s_node_makes_what_it_lacks_and_one_install_that_fails_stops_no_other(tmp_path: Path) -> None:
    spec = '[environment]\nrequirements = ["pinned=={}"]\nbuild = ["python -c \'import pinned\'"]\n'
    good = adapter_in(tmp_path / "good", "import pinned", spec.format("1.0"))
    broken = adapter_in(tmp_path / "broken", "import pinned", spec.format("7.0"))

    def facts(install: bool) -> Facts:
        systems = [(str(adapter.folder), "pretrained") for adapter in (broken, good)]
        question = Question(systems, [], install)
        return msgspec.msgpack.decode(survey(msgspec.msgpack.encode(question)), type=Facts)

    assert all("it needs an environment of its own" in lack for lack in facts(False).lacks)
    made = facts(True)
    assert made.problem == "" and made.environments == ["absent", environments.find(good).id]
    assert "pinned==7.0" in made.lacks[0] and made.lacks[1] == ""


def venv(folder: Path, with_numpy: bool = True) -> Path:
    """An interpreter that sees the host's packages, or none."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    if with_numpy:
        (site / "host.pth").write_text(f"{SITE}\n")
    return folder / "bin" / "python"


def test_a_named_interpreter_runs_the_worker_and_what_is_installed_in_it_is_part_of_the_key(
    tmp_path: Path, scene: Scene
) -> None:
    python = venv(tmp_path / "own")
    adapter = adapter_in(tmp_path / "named", "import sys\nprint('prefix', sys.prefix)\nif False:\n    import extra")
    core = environments.find(adapter)
    assert core.python == Path(sys.executable)
    assert call("adapters", "install", adapter.folder, "--python", python) == 0
    store = Store(tmp_path / "store")
    suite = Suite(name="t", adapters=[Contestant(name=str(adapter.folder))], views=(2,), truth="exact", policy=QUICK)

    def run() -> list[str]:
        environments._inspect_once.cache_clear()
        environments._identity.cache_clear()
        run_plan(plan(suite, [scene]), store, protocol="object-v1", truth="exact")
        return [record.environment for record in store.trials()]

    (first,) = run()
    (record,) = store.trials()
    assert record.status == "ok" and f"prefix {tmp_path / 'own'}" in store.log_path(record.key).read_text()
    assert run() == [first], "nothing has changed, nothing is run again"
    (site,) = (tmp_path / "own").glob("lib/python*/site-packages")
    for name in ("unrelated", "extra"):
        (site / f"{name}-1.0.dist-info").mkdir()
        (site / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (site / f"{name}-1.0.dist-info" / "top_level.txt").write_text(name)
        environments_now = {*run()}
        assert len(environments_now) == (1 if name == "unrelated" else 2), "what it imports is its environment, no more"
    assert call("adapters", "install", adapter.folder) == 0
    assert environments.find(adapter) == core


def test_an_interpreter_that_cannot_run_a_worker_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = adapter_in(tmp_path / "named")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho hello\n")
    broken.chmod(0o755)
    bare = venv(tmp_path / "bare", with_numpy=False)
    cases = [(tmp_path / "none", "not a working Python"), (broken, "not a working Python"), (bare, "no numpy seen")]
    for python, sentence in cases:
        assert call("adapters", "install", adapter.folder, "--python", python) == 2
        assert sentence in capsys.readouterr().err
    assert environments.find(adapter).python == Path(sys.executable)
    good = venv(tmp_path / "good")
    environments.use(adapter, good)
    good.unlink()
    outcome, _ = run_adapter(adapter, VIEWS, policy=QUICK)
    assert outcome.status == "unavailable" and "is gone: `reconbench adapters install" in outcome.message


def test_a_source_that_serves_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository(tmp_path / "other", {"a.py": ""})
    outer = repository(tmp_path / "outer", {"a.py": "x"}, {"inner": "1" * 40})
    adapter = adapter_in(
        tmp_path / "system", environment=f'[[environment.sources]]\nurl = "https://x.invalid/o"\ncommit = "{outer}"\n'
    )
    for source, sentence in [
        (tmp_path / "system", "a git repository wanted"),
        (tmp_path / "other", "none of the card"),
    ]:
        assert call("adapters", "install", adapter.folder, "--source", source) == 2
        assert sentence in capsys.readouterr().err
    assert call("adapters", "install", adapter.folder, "--source", "x", "--python", "y") == 2
    assert not (tmp_path / "cache" / "environments").exists()
    assert call("adapters", "install", adapter.folder, "--source", tmp_path / "outer") == 2
    assert f"submodule inner at {'1' * 40} is not beside it" in capsys.readouterr().err


def test_equal_specifications_share_an_environment_and_an_impossible_python_is_named(tmp_path: Path) -> None:
    wanted = '[environment]\nrequirements = ["pinned==1.0"]\n'
    first, second = (adapter_in(tmp_path / name, environment=wanted) for name in ("one", "two"))
    other = adapter_in(tmp_path / "other", environment=wanted.replace("1.0", "2.0"))
    folders = [environments._folder(adapter.card.environment) for adapter in (first, second, other)]
    assert folders[0] == folders[1] != folders[2]
    future = adapter_in(tmp_path / "future", environment='[environment]\npython = ">=9.9"\nbuild = ["true"]\n')
    with pytest.raises(InputError, match=r"Python >=9\.9 wanted: this one is 3\.\d+\.\d+, and none on the PATH serves"):
        environments.install(future)
    assert msgspec.to_builtins(future.card.environment)["python"] == ">=9.9"


def test_a_system_that_cannot_run_on_this_platform_says_so_wherever_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    sentence = "It wants a GPU of 24 GB."
    (folder / "adapter.toml").write_text(CARD.format(name="elsewhere") + f'unavailable = "{sentence}"\n')
    adapter = get_adapter(str(folder))
    outcome, _ = run_adapter(adapter, VIEWS, policy=QUICK)
    assert (outcome.status, outcome.message) == ("unavailable", f"{sentence} No command makes it available here.")
    assert adapter.hash and not (folder / "adapter.py").exists()
    for command in (("install", folder), ("install", folder, "--python", sys.executable), ("fetch", folder)):
        assert call("adapters", *command) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
    assert call("adapters", "check", folder) == 1
    assert sentence in " ".join(capsys.readouterr().out.split())
