"""A checkpoint file's parameters into a network, without running anything that the file says.

Runs inside the environments of the systems under test: torch (safetensors for its files), Python 3.9 syntax.
"""

from __future__ import annotations

import argparse
import json
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
    """`network` with the parameters of a file (.safetensors or a torch file).

    Raises Unavailable where they are not this network's."""
    wrong = network.load_state_dict(read_parameters(path), strict=False)
    for what, keys in (("missing", wrong.missing_keys), ("unknown", wrong.unexpected_keys)):
        if keys:
            raise Unavailable(f"{path}: not a checkpoint of this network: {len(keys)} {what} keys, as {keys[0]}")
    return network


def read_parameters(path: Path) -> dict[str, Any]:
    """Named tensors of a .safetensors or torch file; what a training script wrapped them in is taken off."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(str(path)))
    import torch

    # Training scripts keep their arguments beside the tensors: a plain record, which runs nothing when it is read.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(str(path), map_location="cpu", weights_only=True)
    for wrapper in ("model", "state_dict"):
        if isinstance(content.get(wrapper), dict):
            return dict(content[wrapper])
    return dict(content)
