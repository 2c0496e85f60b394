"""A checkpoint file's parameters into a network, without running anything that the file says.

Runs inside the environments of the systems under test: torch (safetensors for its files), Python 3.9 syntax.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adapters.contract import Unavailable


def load_parameters(network: Any, weights: str) -> Any:
    """`network` with the parameters of the file `weights` (.safetensors or a torch file); "random" changes nothing.

    Raises Unavailable where there is no such file or its parameters are not this network's."""
    if weights == "random":
        return network
    if not Path(weights).is_file():
        raise Unavailable(f"weights: {weights} seen, a checkpoint file or 'random' wanted")
    wrong = network.load_state_dict(read_parameters(Path(weights)), strict=False)
    for what, keys in (("missing", wrong.missing_keys), ("unknown", wrong.unexpected_keys)):
        if keys:
            raise Unavailable(f"{weights}: not a checkpoint of this network: {len(keys)} {what} keys, as {keys[0]}")
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
