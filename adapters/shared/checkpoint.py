"""A checkpoint file's parameters into a network, without running anything that the file says.

Runs inside the environments of the systems under test: torch (safetensors for its files), Python 3.9 syntax.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapters.contract import Unavailable

FILES = ("config.json", "model.safetensors")  # of a checkpoint that is a folder


def find_checkpoint(weights: str) -> tuple[Path | None, dict[str, Any] | None]:
    """The file of parameters and what its config.json says: `weights` is a file (which has none), a folder of both, or
    "random" (neither). Raises Unavailable where they are not there."""
    path = Path(weights)
    if weights == "random":
        return None, None
    if path.is_file():
        return path, None
    if not all((path / name).is_file() for name in FILES):
        raise Unavailable(f"weights: {weights} seen, a file, a folder of {' and '.join(FILES)} or 'random' wanted")
    try:
        return path / "model.safetensors", dict(json.loads((path / "config.json").read_text()))
    except ValueError as error:
        raise Unavailable(f"{path / 'config.json'}: not a network's configuration ({error})") from error


def load_parameters(network: Any, path: Path) -> Any:
    """`network` with the parameters of a file (.safetensors or a torch file): all of them, and no others.

    A tensor that the network knows by several names may stand under any of them: safetensors stores it once. Raises
    Unavailable where the file's parameters are not this network's, with three names of each kind that is wrong."""
    return insert_parameters(network, read_parameters(path), path)


def insert_parameters(network: Any, given: dict[str, Any], path: Path) -> Any:
    """The same with the named tensors that `path` gave."""
    own = network.state_dict()
    shapes = [
        f"{name} ({list(given[name].shape)} seen, {list(tensor.shape)} wanted)"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]
    missing, unknown = [], []
    if not shapes:  # torch ends at them with an error
        wrong = network.load_state_dict(given, strict=False)
        stored = {_storage(own[name]) for name in given if name in own} - {None}
        missing = [name for name in wrong.missing_keys if _storage(own[name]) not in stored]
        unknown = list(wrong.unexpected_keys)
    kinds = {"parameters missing": missing, "unknown": unknown, "of another shape": shapes}
    told = [f"{len(names)} {kind} ({_examples(names)})" for kind, names in kinds.items() if names]
    if told:
        raise Unavailable(f"{path}: not a checkpoint of this network: {'; '.join(told)}")
    return network


def read_parts(path: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Named tensors of each of the networks `names` of a torch file that holds several.

    Raises Unavailable where one is absent, or the file holds what only running it could read."""
    import torch

    try:
        content = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # torch has several
        reason = " ".join(str(error).split())[:200]
        raise Unavailable(f"{path}: not a file of tensors alone, and nothing in it is run: {reason}") from error
    lacks = [name for name in names if not isinstance(content, dict) or not isinstance(content.get(name), dict)]
    if lacks:
        raise Unavailable(f"{path}: no parameters of {', '.join(lacks)} seen, those of {', '.join(names)} wanted")
    return {name: dict(content[name]) for name in names}


def published(kind: Any, folder: Path) -> Any:
    """The network of a class of transformers or diffusers from its folder: every parameter, and no other."""
    try:
        network, info = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise Unavailable(f"{folder}: not a network's folder: {' '.join(str(error).split())[:200]}") from error
    kinds = {"parameters missing": "missing_keys", "unknown": "unexpected_keys", "of another shape": "mismatched_keys"}
    wrong = {words: sorted(map(str, info[name])) for words, name in kinds.items() if info[name]}
    if wrong:
        told = [f"{len(names)} {words} ({', '.join(names[:3])})" for words, names in wrong.items()]
        raise Unavailable(f"{folder}: not a checkpoint of this network: {'; '.join(told)}")
    return network


def _storage(tensor: Any) -> Any:
    """What tensors that are one and the same agree in; None of one without numbers."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else None


def _records() -> list[Any]:
    """Types of the arguments that training scripts keep beside the tensors: plain records, which run nothing when they
    are read. Those of omegaconf where it is installed."""
    types: list[Any] = [argparse.Namespace]
    if importlib.util.find_spec("omegaconf") is not None:
        from omegaconf import DictConfig, ListConfig
        from omegaconf.base import ContainerMetadata, Metadata
        from omegaconf.nodes import AnyNode

        types += [DictConfig, ListConfig, ContainerMetadata, Metadata, AnyNode, (Any, "typing.Any")]
        types += [collections.defaultdict, dict, list, int]
    return types


def _examples(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def read_parameters(path: Path) -> dict[str, Any]:
    """Named tensors of a .safetensors or torch file; what a training script wrapped them in is taken off.

    Raises Unavailable where the file is none, or holds what only running it could read."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(path)))
        import torch

        with torch.serialization.safe_globals(_records()):
            content = torch.load(str(path), map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # each library has its own
        reason = " ".join(str(error).split())[:200]
        raise Unavailable(f"{path}: not a file of tensors alone, and nothing in it is run: {reason}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())
    if not tensors:
        raise Unavailable(f"{path}: {type(content).__name__} seen, named tensors wanted")
    return dict(content)
