"""What adapters of torch networks share: their options, loading, the batch of images, automatic casting, numpy.

Runs inside the environments of the systems under test: numpy and torch, Python 3.9 syntax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from typing import Any

import numpy as np

from adapters.contract import F32, Execution, Reconstructor, sizes_text
from adapters.shared.checkpoint import find_checkpoint, load_parameters
from adapters.shared.resize import Inputs

SDPA = "torch scaled_dot_product_attention"  # torch chooses among its backends, by shapes and precision
IMAGENET_MEAN, IMAGENET_STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32).reshape(2, 3, 1, 1)


@dataclasses.dataclass(eq=False)
class NetworkAdapter(Reconstructor):
    """An adapter of one torch network: what is its own are `build`, `prepare`, `infer` and `finish`.

    A subclass is a dataclass too. Its fields are the options; one of type `Literal` takes no value but those."""

    casts: typing.ClassVar[bool] = True  # to half precision on CUDA
    attends: typing.ClassVar[str] = SDPA  # what computes attention
    network: Any = dataclasses.field(default=None, init=False, repr=False)
    device: str = dataclasses.field(default="cpu", init=False)
    seed: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        """Raise ValueError where an option is none of its choices."""
        for name, annotation in typing.get_type_hints(type(self)).items():
            choices, value = typing.get_args(annotation), getattr(self, name, None)
            if typing.get_origin(annotation) is typing.Literal and value not in choices:
                raise ValueError(f"{name}: {value!r} seen, {' or '.join(map(repr, choices))} wanted")

    def build(self, config: dict[str, Any] | None) -> Any:
        """The network at full size, drawn from torch's generator.

        `config` is what the checkpoint's config.json says; None for random weights and where the card lists none."""
        raise NotImplementedError

    def load(self, device: str, weights: str, seed: int) -> None:
        """Build the network and load the checkpoint: a file, or a folder of config.json and model.safetensors.

        Raises Unavailable where the checkpoint is absent or is not this network's."""
        file, config = find_checkpoint(weights)
        import torch

        torch.manual_seed(seed)
        network = self.build(config)
        if file is not None:
            network = load_parameters(network, file)
        self.device, self.seed = device, seed
        self.network = network.eval().to(device)

    def batch(self, inputs: Inputs) -> Any:
        """(N, 3, h, w) float32 tensor on the device, of images that are of one size."""
        import torch

        return torch.from_numpy(np.stack(inputs.images)).to(self.device)

    def execution(self, inputs: Any) -> Execution:
        """The parameters' precision, or the one that they are cast to; the sizes of the network's images."""
        import torch

        parameter = next(iter(self.network.parameters()), None) if self.network is not None else None
        precision = str(parameter.dtype).rpartition(".")[2] if parameter is not None else ""
        if self.casts and self.device.startswith("cuda"):
            precision = f"{_half(self.device)} autocast"
        attention = self.attends
        if attention == SDPA and self.device.startswith("cuda"):
            backends = ("flash", "mem_efficient", "cudnn", "math")
            allowed = [name for name in backends if getattr(torch.backends.cuda, f"{name}_sdp_enabled", bool)()]
            attention = f"{SDPA}: {', '.join(allowed)} allowed"
        images = getattr(inputs, "images", ())
        return Execution(precision, sizes_text([(image.shape[-1], image.shape[-2]) for image in images]), attention)

    @contextlib.contextmanager
    def inference(self) -> typing.Iterator[None]:
        """No gradients; on CUDA torch's automatic casting to half precision, elsewhere float32."""
        import torch

        with torch.no_grad(), half_precision(self.device):
            yield


def half_precision(device: str) -> contextlib.AbstractContextManager[Any]:
    """On CUDA torch's automatic casting to bfloat16 (float16 before Ampere); elsewhere nothing."""
    if not device.startswith("cuda"):
        return contextlib.nullcontext()
    import torch

    return torch.autocast("cuda", dtype=getattr(torch, _half(device)))  # type: ignore[no-any-return]


def _half(device: str) -> str:
    import torch

    return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"


def to_numpy(tensor: Any) -> F32:
    """A tensor of any device and precision as float32."""
    return np.asarray(tensor.detach().float().cpu().numpy())
