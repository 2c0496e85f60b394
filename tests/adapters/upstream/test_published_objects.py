"""Checkpoints of single-object systems as upstream's own code writes them, fetched and checked through the worker.

Networks are narrow here. `RECONBENCH_FULL_SIZE=geolrm,lrm` (or `all`) builds those of the published size as well and
loads them from what upstream's code saved; of `hunyuan3d`, whose numbers want 14 GB, the names and shapes alone.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.systems.cards import Adapter as Registered
from bench.systems.cards import get_adapter
from tests.adapters.objects import narrowed, object_views
from tests.bench.test_cli import call

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

from tests.adapters.upstream.test_published import interpreter_of_this  # noqa: E402 - it wants torch

FEW: dict[str, dict[str, Any]] = {  # options that a machine without GPU has the time for
    "point-e": {"steps": 2},
    "lrm": {"size": "small", "resolution": 24},
    "geolrm": {},
    "geolrm-one-view": {"steps": 2},
    "lgm": {"steps": 2},
    "combined": {},
    "shap-e": {"steps": 2, "resolution": 24},
    "hunyuan3d": {"steps": 2, "resolution": 24},
    "triposr": {"resolution": 24},
}
# Of several checkpoints, too large together; the combined pipeline's are transformers' own folders.
NOT_WHOLE = ("geolrm-one-view", "lgm", "combined")
ASKED = os.environ.get("RECONBENCH_FULL_SIZE", "")
FULL = [name for name in FEW if (ASKED == "all" or name in ASKED.split(",")) and name not in NOT_WHOLE]
NAMES_ALONE = ("hunyuan3d",)


def parts_of(system: str) -> tuple[Any, Any]:
    """The adapter's module and its tests, which say what is narrow and how upstream saves; skips where upstream's code
    cannot be imported."""
    name = system.replace("-", "_")
    return importlib.import_module(f"adapters.systems.{name}.adapter"), importlib.import_module(
        f"tests.adapters.upstream.test_{name}"
    )


def with_a_surface(system: str, adapter: Any) -> None:
    """Shift the field's last layer so that its surface goes through the middle of its values: what is drawn at random
    may reach the level nowhere."""
    network = adapter.network
    fields: dict[str, tuple[float, str, Any]] = {  # the level, the layer, and what is before the activation
        "lrm": (3.0, "synthesizer.decoder.net.6", lambda x: 1 + np.log(np.expm1(x))),
        "triposr": (25.0, "decoder.layers.18", np.log),
        "shap-e": (0.0, "renderer.mlp.mlp.6", np.arctanh),
        "hunyuan3d": (0.0, "vae.geo_decoder.output_proj", lambda x: x),
    }
    if system not in fields:
        return
    level, layer, before = fields[system]
    last = network.get_submodule(layer)
    outputs = adapter.infer(adapter.prepare(object_views()))
    field = np.asarray(getattr(outputs, "density", outputs), np.float64)
    with torch.no_grad():
        last.bias[0] += float(before(level) - np.median(before(field)))


def publish(adapter: Registered, folder: Path, hub: Path) -> None:
    """What upstream's code saved in `folder` where the card's sources have it: the hub's own cache."""
    assert adapter.card.weights is not None
    for below, source in adapter.card.weights.sources.items():
        if not source.hub:
            continue
        repository = hub / f"models--{source.hub.replace('/', '--')}"
        for name in source.files:
            kept = repository / "snapshots" / ("0" * 40) / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / below / name, kept)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)


def small_system(system: str, module: Any, tests: Any, saved: Path, folder: Path) -> Path:
    """A folder with an adapter of `system` whose network is narrow, whose card names no hash and no host."""
    shutil.copytree(get_adapter(system).folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "adapter.py").rename(folder / "whole.py")
    card = (folder / "adapter.toml").read_text()
    card = re.sub(r'^name = ".*"', f'name = "small-{system}"', card, count=1, flags=re.M)
    card = re.sub(r'^revision = ".*"', "", card, flags=re.M)
    card = re.sub(r'"[0-9a-f]{64}"', '""', card)
    card = re.sub(r'^url = "https://openaipublic\S+/point-e/"', f'url = "file://{saved}/"', card, flags=re.M)
    card = re.sub(r'^url = "https://openaipublic\S+"', f'url = "file://{saved}/clip/ViT-L-14.pt"', card, flags=re.M)
    (folder / "adapter.toml").write_text(card)
    few = "".join(f"    {name}: Any = {value!r}\n" for name, value in FEW[system].items()) or "    pass\n"
    code = [
        "import contextlib, dataclasses, importlib",
        "from collections.abc import Iterator",
        "from typing import Any",
        "from unittest import mock",
        "from . import whole",
        inspect.getsource(narrowed),
        f"narrow = narrowed(whole, {getattr(tests, 'NARROW', {})!r})",
        "narrow.__enter__()",
        "@dataclasses.dataclass(eq=False)",
        f"class Adapter(whole.Adapter):\n{few}",
    ]
    (folder / "adapter.py").write_text("\n".join(code))
    # An adapter's module is looked for by its name where its networks are beside it.
    own = module.__name__.rpartition(".")[0]
    for path in folder.glob("*.py"):
        path.write_text(path.read_text().replace(f"from {own}.", "from ."))
    return folder


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("system", FEW)
def test_a_checkpoint_that_upstream_s_code_wrote_is_fetched_and_checked_through_the_worker(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, tests = parts_of(system)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))
    saved = tmp_path / "saved"
    saved.mkdir()
    with narrowed(module, getattr(tests, "NARROW", {})):
        adapter = module.Adapter(**FEW[system])
        if system != "combined":  # whose narrow networks have no adapter before they are saved
            adapter.load("cpu", "random", 1)
            with_a_surface(system, adapter)
        tests.save_as_upstream(adapter, saved)
    folder = small_system(system, module, tests, saved, tmp_path / f"small-{system}")
    publish(get_adapter(str(folder)), saved, tmp_path / "hub")

    python = interpreter_of_this(tmp_path / "env")
    assert call("adapters", "install", folder, "--python", python) == 0
    check = ("adapters", "check", folder, "--scene", "objects/animal-1", "--deadline", 1800)
    assert call(*check) == 1 and "--accept-licence" in " ".join(capsys.readouterr().out.split())
    assert call("adapters", "fetch", folder, "--accept-licence") == 0
    capsys.readouterr()
    code = call(*check)
    printed = capsys.readouterr().out
    verdicts = [line.split()[0] for line in printed.splitlines() if re.match("(pass|fail|skip)  ", line)]
    # Card, option refused, runs, frame, deterministic; of a scene's system also whether points are where pixels are.
    assert code == 0 and verdicts.count("pass") == 5 + (system == "combined") and "fail" not in verdicts, printed


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("system", FULL)
def test_a_checkpoint_of_the_published_size_loads(system: str, tmp_path: Path) -> None:
    module, tests = parts_of(system)
    with torch.device("meta" if system in NAMES_ALONE else "cpu"):
        adapter = module.Adapter()
        adapter.load("meta" if system in NAMES_ALONE else "cpu", "random", 1)
        built = {name: (tensor.shape, checksum(tensor)) for name, tensor in adapter.network.state_dict().items()}
        tests.save_as_upstream(adapter, tmp_path)
        parameters = sum(tensor.numel() for tensor in adapter.network.parameters())
        del adapter  # two of them and a file are more memory than a small machine has
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        again = module.Adapter()
        weights = str(files[0] if len(files) == 1 else tmp_path)
        again.load("meta" if system in NAMES_ALONE else "cpu", weights, 2)
    loaded = {name: (tensor.shape, checksum(tensor)) for name, tensor in again.network.state_dict().items()}
    assert loaded == built
    assert parameters == get_adapter(system).card.parameters
    print(system, parameters, {path.name: path.stat().st_size for path in files})  # noqa: T201 - what -s shows


def checksum(tensor: Any) -> float:
    """The sum of its numbers; 0 of one without any."""
    return 0.0 if tensor.is_meta else float(tensor.double().sum())
