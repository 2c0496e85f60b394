"""A new adapter's files pass as they are written, alone and as an installed plugin; the guide's snippets run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from adapters.contract import InputError
from bench.systems.cards import broken_plugins, find_adapters, get_adapter
from bench.systems.new import write_adapter
from bench.trials.conformance import check_adapter
from bench.trials.scenes import get_scene
from data.scene import Scene

GUIDE = Path(__file__).parents[2] / "docs" / "guide-adapter.md"


def test_a_new_adapter_passes_its_check_as_it_is_written(tmp_path: Path, scene: Scene) -> None:
    folder = write_adapter("my-depth", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.py", "adapter.toml", "test_adapter.py"]
    adapter = get_adapter(str(folder))
    assert not [name for name in adapter.files if "test_" in name]  # a test is no part of what predicts
    checks = {check.name: check for check in check_adapter(adapter, scene)}
    assert {check.verdict for check in checks.values()} == {"pass"} and len(checks) == 6
    compile((folder / "test_adapter.py").read_text(), "test_adapter.py", "exec")
    with pytest.raises(InputError, match="exists already"):
        write_adapter("my-depth", tmp_path)


OBJECT = """
import numpy as np
from adapters.contract import ContractError, Reconstruction, Reconstructor

class Adapter(Reconstructor):
    def load(self, device, weights, seed):
        self.seed = seed

    def prepare(self, views):
        return views

    def infer(self, inputs):
        if inputs.masks is None:
            raise ContractError("masks: none seen")
        return np.random.default_rng(self.seed).normal(size=(500, 3)).astype(np.float32)

    def finish(self, outputs, views):
        return Reconstruction(outputs, "object", "arbitrary")
"""


def test_a_system_of_objects_is_checked_on_one_that_is_cut_out(tmp_path: Path) -> None:
    (tmp_path / "adapter.py").write_text(OBJECT)
    card = 'name = "mine"\ntitle = "Mine"\nlicence_code = "MIT"\nscope = "object"\ndeterministic = true\n'
    (tmp_path / "adapter.toml").write_text(card + 'accepts = ["masks"]\nmax_views = 1\n')
    checks = {check.name: check for check in check_adapter(get_adapter(str(tmp_path)), get_scene("objects/mug-1"))}
    assert checks["runs on 1 views"].verdict == checks["deterministic"].verdict == "pass", checks


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("Mine", "lower-case words"), ("../x", "lower-case words"), ("vggt", "built-in"), ("visual-hull", "built-in")],
)
def test_a_name_that_no_adapter_can_have_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        write_adapter(name, tmp_path)
    assert not list(tmp_path.iterdir())


def can_build() -> bool:
    """Whether setuptools here can make a wheel without fetching anything."""
    try:
        known = Version(importlib.metadata.version("setuptools"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return known >= Version("70.1") or importlib.util.find_spec("wheel") is not None


def by_hand(project: Path) -> Path:
    """What a build of the guide's package comes to: a wheel is a zip file."""
    path, info = project / "reconbench_my_depth-0.1.0-py3-none-any.whl", "reconbench_my_depth-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in (project / "my_depth").iterdir():
            wheel.write(file, f"my_depth/{file.name}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: reconbench-my-depth\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", "[reconbench.adapters]\nmy-depth = my_depth\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.parametrize("made", ["by the guide's pyproject.toml", "by hand"])
def test_a_plugin_is_installed_found_and_passes(
    made: str, tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pip into a folder of its own, of the adapter as it is written."""
    project, site = tmp_path / "project", tmp_path / "site"
    write_adapter("my-depth", project).rename(project / "my_depth")
    text = re.search(r"```toml\n# pyproject.toml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert text is not None
    (project / "pyproject.toml").write_text(text[1])
    if made != "by hand" and not can_build():
        pytest.skip("the setuptools here cannot build a wheel without fetching something")
    source = by_hand(project) if made == "by hand" else project
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, capture_output=True, timeout=120)
    shutil.rmtree(project)
    assert "my-depth" not in find_adapters()
    monkeypatch.syspath_prepend(str(site))
    adapter = find_adapters()["my-depth"]
    assert adapter.origin == "plugin reconbench-my-depth 0.1.0" and adapter.folder == site / "my_depth"
    assert not broken_plugins() and "my_depth" not in sys.modules
    assert {check.verdict for check in check_adapter(adapter, scene)} == {"pass"}


def test_a_broken_plugin_is_named_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "adapter.toml").write_text("name = ")
    write_adapter("my-depth", tmp_path).rename(tmp_path / "my_depth")
    info = tmp_path / "plugs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugs\nVersion: 1.0\n")
    points = {
        "torn": "torn",
        "nowhere": "no_such_package_.x",
        "odd": "a..b",
        "vggt": "my_depth",
        "my-depth": "my_depth",
    }
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[reconbench.adapters]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_adapters()["my-depth"].origin == "plugin plugs 1.0"
    assert find_adapters()["vggt"].origin == "built-in"
    told = "\n".join(broken_plugins())
    assert {"torn", "nowhere", "odd", "vggt"} == {line.split(": ")[1] for line in told.splitlines()}
    with pytest.raises(InputError, match="not known"):
        get_adapter("torn")
