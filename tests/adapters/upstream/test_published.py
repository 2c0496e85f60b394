"""Checkpoints as upstream's own code writes them, laid out as the hub does, found, hashed and loaded by us.

Networks are small here: of upstream's classes, with fewer and narrower layers. `RECONBENCH_FULL_SIZE=dust3r,mast3r`
(or `all`) builds the published sizes as well, which takes gigabytes and minutes, and compares the file's length with
that of the published one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import json
import os
import re
import shutil
import sys
import types
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from adapters.shared.absent import absent
from bench.systems import weights
from bench.systems.cards import Adapter, get_adapter
from bench.trials.store import Store
from tests.bench.test_cli import call

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

NEEDS = {
    "dust3r": "dust3r.model",
    "mast3r": "mast3r.model",
    "fast3r": "fast3r.models.fast3r",
    "cut3r": "dust3r.inference",
    "vggt": "vggt.models.vggt",
    "vggt-omega": "vggt_omega.models",
    "streamvggt": "streamvggt.models.streamvggt",
    "pi3": "pi3.models.pi3",
    "pi3x": "pi3.models.pi3x",
    "depth-anything-3": "depth_anything_3.cfg",
    "mapanything": "mapanything.models",
    "dvlt": "dvlt",  # its model asks for open3d, which is stood in for
    "lingbot-map": "lingbot_map.models.gct_stream",
}
BYTES = {  # of the published files, as several people noted them
    "dust3r": 2_284_790_056,
    "mast3r": 2_754_661_648,
    "depth-anything-3": 1_643_843_860,
    "vggt": 5_026_367_224,
    "pi3": 3_834_909_248,
    "pi3x": 5_440_325_620,
    "mapanything": 4_914_062_480,
    "streamvggt": 5_026_743_569,
    "cut3r": 3_173_761_006,
    "lingbot-map": 4_632_303_465,
}
MOST_PADDING = 128  # bytes a tensor by which files of torch's own format differ from one version of it to another
ASKED = os.environ.get("RECONBENCH_FULL_SIZE", "")
FULL = [name for name in NEEDS if ASKED == "all" or name in ASKED.split(",")]
# Parameters of a checkpoint that its adapter lets go once they are read.
RELEASED = {"pi3x": ("depth_encoder.", "depth_emb", "ray_embed.", "pose_inject_blk.")}
NARROW = {"embed_dim": 64, "num_heads": 4, "depth": 12, "mlp_ratio": 2.0}


def import_upstream(system: str) -> None:
    """Import the network's code, as its adapter does; skips the test where it is not importable."""
    with absent("open3d") if system == "dvlt" else contextlib.nullcontext():
        pytest.importorskip(NEEDS[system], reason="upstream's code is not importable")


@contextlib.contextmanager
def narrow(system: str, module: Any) -> Iterator[None]:
    """The adapter of `module` builds a small network."""
    with contextlib.ExitStack() as stack:
        if system in ("streamvggt", "lingbot-map"):  # heads of full width, a frame at a time: small photos, or minutes
            stack.enter_context(mock.patch.object(module, "SIDE", 126))
        if system in ("dust3r", "mast3r"):
            size = {"enc_embed_dim": 64, "enc_depth": 2, "enc_num_heads": 4, "dec_embed_dim": 48, "dec_num_heads": 3}
            stack.enter_context(mock.patch.dict(module.NETWORK, size))
            heads = importlib.import_module("dust3r.heads.dpt_head")
            dense = heads.DPTOutputAdapter_fix

            def thin(**kinds: Any) -> Any:
                return dense(**{**kinds, "feature_dim": 32, "last_dim": 16})

            stack.enter_context(mock.patch.object(heads, "DPTOutputAdapter_fix", thin))
        elif system == "cut3r":
            size = {"enc_embed_dim": 64, "enc_depth": 2, "enc_num_heads": 4, "dec_embed_dim": 64, "dec_num_heads": 4}
            stack.enter_context(mock.patch.dict(module.SHAPE, size))
        elif system == "fast3r":
            for part in ("encoder_args", "decoder_args"):
                stack.enter_context(mock.patch.dict(module.SHAPE[part], NARROW))
            stack.enter_context(mock.patch.dict(module.SHAPE["decoder_args"], enc_embed_dim=64))
        elif system in ("vggt", "streamvggt"):
            upstream = importlib.import_module(f"{system}.models.{system}")
            kind, whole = upstream.VGGT if system == "vggt" else upstream.StreamVGGT, upstream.Aggregator

            def aggregator(img_size: int, patch_size: int, embed_dim: int) -> Any:
                return whole(embed_dim=64, num_heads=4, patch_embed="conv")

            stack.enter_context(mock.patch.object(upstream, "Aggregator", aggregator))
            defaults = (518, 14, 64, *kind.__init__.__defaults__[3:])
            stack.enter_context(mock.patch.object(kind.__init__, "__defaults__", defaults))
        elif system == "vggt-omega":
            upstream = importlib.import_module("vggt_omega.models.vggt_omega")
            stack.enter_context(
                mock.patch.object(upstream.VGGTOmega.__init__, "__defaults__", (16, 64, True, True, False))
            )
            thin_head = functools.partial(upstream.DenseHead, features=32, out_channels=[16, 32, 64, 64])
            stack.enter_context(mock.patch.object(upstream, "DenseHead", thin_head))
        elif system in ("pi3", "pi3x"):
            upstream = importlib.import_module(f"pi3.models.{system}")
            encoders = importlib.import_module("pi3.models.dinov2.models.vision_transformer")
            encoder, shallow = encoders.DinoVisionTransformer, functools.partial(upstream.TransformerDecoder, depth=1)

            def one_layer(**kinds: Any) -> Any:
                return encoder(**{**kinds, "depth": 1})

            stack.enter_context(mock.patch.object(encoders, "DinoVisionTransformer", one_layer))
            stack.enter_context(mock.patch.object(upstream, "TransformerDecoder", shallow))
            # Layers of upstream's trunk and of what injects poses into it: as many as it goes through.
            stack.enter_context(mock.patch.object(upstream, "range", lambda n: range(min(n, 2)), create=True))
        elif system == "lingbot-map":
            upstream = importlib.import_module("lingbot_map.models.gct_stream")
            network = upstream.GCTStream

            def gct(
                **kinds: Any,
            ) -> Any:  # its positions over time want heads of 64 numbers, which sixteen here have not
                small = {"embed_dim": 384, "patch_embed": "dinov2_vits14_reg", "enable_3d_rope": False}
                return network(**{**kinds, **small})

            stack.enter_context(mock.patch.object(upstream, "GCTStream", gct))
        elif system == "dvlt":
            with importlib.import_module("adapters.shared.absent").absent("open3d"):
                upstream = importlib.import_module("dvlt.model.dvlt.model")
            size = {"embed_dim": 384, "num_heads": 6, "decoder_embed_dim": 48, "decoder_num_heads": 3}
            small = functools.partial(upstream.DVLT, patch_embed="dinov2_vits14_reg", **size)
            stack.enter_context(mock.patch.object(upstream, "DVLT", small))
        elif system == "depth-anything-3":
            registry = importlib.import_module("depth_anything_3.registry").MODEL_REGISTRY
            stack.enter_context(mock.patch.dict(registry, {"da3-large": registry["da3-small"]}))
        elif system == "mapanything":
            importlib.import_module("adapters.shared.torchvision").import_torchvision()
            models, size = importlib.import_module("mapanything.models"), Path(module.__file__).with_name("size.json")

            def tiny(*_: object, **__: object) -> Any:
                if size.is_file():  # where there are no tests
                    return models.MapAnything(**json.loads(size.read_text()))
                return importlib.import_module("tests.adapters.upstream.test_mapanything").tiny()

            stack.enter_context(mock.patch.object(models, "init_model_from_config", tiny))
        yield


def save_as_upstream(system: str, network: Any, folder: Path) -> None:
    """Write the files of the card, as upstream's authors did."""
    folder.mkdir(parents=True)
    if system in (
        "vggt-omega",
        "streamvggt",
    ):  # load_state_dict(torch.load(path)): README, demo_gradio.py:49
        torch.save(network.state_dict(), folder / next(iter(get_adapter(system).card.weights.files)))  # type: ignore[union-attr]
    elif system == "cut3r":  # src/train.py; the published file holds no optimiser's state, as its size says
        misc = importlib.import_module("croco.utils.misc")
        config = Path(str(importlib.import_module("dust3r.model").__file__)).parents[2] / "config"
        arguments = importlib.import_module("omegaconf").OmegaConf.load(config / "dpt_512_vary_4_64.yaml")
        arguments.output_dir, empty = str(folder), types.SimpleNamespace(state_dict=dict)
        accelerator = types.SimpleNamespace(is_main_process=True, save=torch.save)
        misc.save_model(accelerator, arguments, 0, network, empty, empty, "last")
        (folder / "checkpoint-last.pth").rename(folder / next(iter(get_adapter(system).card.weights.files)))  # type: ignore[union-attr]
    elif system == "depth-anything-3":  # api.py: DepthAnything3, a PyTorchModelHubMixin that holds it as `model`
        safetensors.save_model(network, str(folder / "model.safetensors"))
    elif system == "lingbot-map":  # demo.py:151: of a checkpoint under `model`, or of plain names
        torch.save({"model": network.state_dict()}, folder / next(iter(get_adapter(system).card.weights.files)))  # type: ignore[union-attr]
    elif system == "dvlt":  # model/base.py:129, of the class that holds the network
        base, accelerate = importlib.import_module("dvlt.model.base"), importlib.import_module("accelerate")
        holder = types.SimpleNamespace(model=network, model_file="model.safetensors")
        base.Module.save_pretrained(holder, accelerate.Accelerator(cpu=True), str(folder))
    elif system == "mapanything":
        tests = importlib.import_module("tests.adapters.upstream.test_mapanything")
        small = sum(p.numel() for p in network.parameters()) < 10**8
        network.save_pretrained(folder, config=tests.configuration(small))
    else:
        network.save_pretrained(folder)


def in_the_hub_s_cache(system: str, network: Any, cache: Path) -> Adapter:
    """The adapter, its card naming no hash, and its files where the hub's own library puts them."""
    adapter = get_adapter(system)
    card = adapter.card
    assert card.weights is not None
    plain = msgspec.structs.replace(card.weights, sha256=dict.fromkeys(card.weights.files, ""))
    adapter.__dict__["card"] = msgspec.structs.replace(card, weights=plain)
    repository = cache / f"models--{plain.hub.replace('/', '--')}"
    commit = plain.revision or "0" * 40
    save_as_upstream(system, network, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return adapter


def module_of(system: str) -> Any:
    """The module of the system's adapter."""
    return importlib.import_module(f"adapters.systems.{system.replace('-', '_')}.adapter")


def digest(tensor: Any) -> tuple[str, str]:
    """A tensor's type and the hash of its numbers."""
    return str(tensor.dtype), hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy()).hexdigest()


def same_parameters(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, int]:
    """Build, save, find, load under another seed: the same numbers. The largest file's path, and how many tensors."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))
    module = module_of(system)
    torch.manual_seed(1)
    network = module.Adapter().build(None)
    adapter = in_the_hub_s_cache(system, network, tmp_path / "hub")
    built = {name: digest(tensor) for name, tensor in network.state_dict().items()}
    del network  # at full size two of them and a file do not fit into 16 GB
    weights.accept(adapter)
    given = weights.fetch(adapter)
    loaded = module.Adapter()
    loaded.load("cpu", given.load, 2)
    kept = {name: tensor for name, tensor in built.items() if not name.startswith(RELEASED.get(system, ()))}
    assert {name: digest(tensor) for name, tensor in loaded.network.state_dict().items()} == kept
    assert not loaded.network.training
    files = (path for path in (tmp_path / "hub").rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size), len(built)


@pytest.mark.parametrize("system", NEEDS)
def test_a_checkpoint_that_upstream_s_code_wrote_loads(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_upstream(system)
    with narrow(system, module_of(system)):
        same_parameters(system, tmp_path, monkeypatch)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("system", FULL)
def test_a_checkpoint_of_the_published_size_loads(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_upstream(system)
    path, tensors = same_parameters(system, tmp_path, monkeypatch)
    size = path.stat().st_size
    path.unlink()
    padding = 0 if path.suffix == ".safetensors" else MOST_PADDING * tensors
    assert abs(size - BYTES.get(system, size)) <= padding


HEADER = """import contextlib, functools, importlib, json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
NARROW = {narrow!r}
"""
BODY = """
from . import whole
from .whole import Adapter
narrowed = narrow({system!r}, whole)
narrowed.__enter__()
"""
FEW_STEPS = """
from adapters.shared import pairs
pairs.SIDE = 128  # pixels: matching eight photos of 512 takes an hour on two cores
class Adapter(Adapter):
    def __post_init__(self):
        super().__post_init__()
        self.iterations = self.refinements = 5  # of an alignment that chance has nothing to gain from
"""


def small_system(system: str, tmp_path: Path) -> Path:
    """A folder with an adapter of `system` whose network is narrow, and whose card names no hash."""
    folder = tmp_path / f"small-{system}"
    shutil.copytree(get_adapter(system).folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "adapter.py").rename(folder / "whole.py")
    card = (folder / "adapter.toml").read_text()
    card = re.sub(r'^name = ".*"', f'name = "small-{system}"', card, count=1, flags=re.M)
    (folder / "adapter.toml").write_text(re.sub(r'"[0-9a-f]{64}"', '""', card))
    if system == "mapanything":
        tests = importlib.import_module("tests.adapters.upstream.test_mapanything")
        tests.tiny()  # only then does upstream's configuration know its own words
        (folder / "size.json").write_text(json.dumps(tests.configuration(small=True)))
    code = HEADER.format(narrow=NARROW) + inspect.getsource(narrow) + BODY.format(system=system)
    code += FEW_STEPS if system in ("dust3r", "mast3r") else ""
    (folder / "adapter.py").write_text(code)
    return folder


def interpreter_of_this(folder: Path) -> Path:
    """The interpreter of an environment that imports what this process can, Reconbench left out."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    own = Path(__file__).parents[3]
    (site / "paths.pth").write_text("\n".join(p for p in sys.path if p and Path(p).is_dir() and Path(p) != own))
    return folder / "bin" / "python"


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("system", NEEDS)
def test_such_a_checkpoint_is_fetched_run_and_checked_through_the_worker(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import_upstream(system)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))
    folder = small_system(system, tmp_path)
    torch.manual_seed(1)
    with narrow(system, module_of(system)):
        in_the_hub_s_cache(system, module_of(system).Adapter().build(None), tmp_path / "hub")

    python = interpreter_of_this(tmp_path / "env")
    assert call("adapters", "install", folder, "--python", python) == 0
    cell = ("--adapters", folder, "--scenes", "elephant", "--views", 2, "--truth", "exact", "--max-seconds", 1)
    store = ("--store", tmp_path / "store")
    assert call("run", *cell, *store, "--deadline", 900) != 0  # not fetched
    assert call("adapters", "fetch", folder, "--accept-licence") == 0
    call("run", *cell, *store, "--deadline", 900)
    (record,) = [r for r in Store(tmp_path / "store").trials() if r.weights.startswith("pretrained:")]
    assert record.status in ("ok", "invalid_output"), record.status  # what chance answers may be none
    capsys.readouterr()
    assert call("adapters", "check", folder, "--deadline", 3000) == 1
    printed = " ".join(" ".join(capsys.readouterr()).split())
    # What chance answers is no better than chance, or on the check's eight views nothing at all.
    assert "its answers are no better than chance" in printed or "runs on 8 views: invalid_output" in printed, printed
