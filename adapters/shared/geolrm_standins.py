"""What upstream's code imports of packages that want CUDA extensions, in plain torch, from the published mathematics.

`installed` puts stand-ins into sys.modules for mmcv (deformable attention: Zhu et al., Deformable DETR, 2021), curope3d
(rotary embedding along three axes: Su et al., RoFormer, 2021), flash_attn and diff_gaussian_rasterization, which are
never called here.
"""

from __future__ import annotations

import contextlib
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock


class _Registry:
    """Classes by name."""

    def __init__(self) -> None:
        self.classes: dict[str, Any] = {}

    def register_module(self) -> Callable[[Any], Any]:
        def keep(made: Any) -> Any:
            self.classes[made.__name__] = made
            return made

        return keep

    def build(self, config: Any) -> Any:
        options = dict(config)
        return self.classes[options.pop("type")](**options)


def sampled_attention(value: Any, shapes: Any, locations: Any, weights: Any) -> Any:
    """Deformable attention over several maps: (B, Q, H C) from `value` (B, L, H, C), the maps one after the other, of
    sizes `shapes` (M, 2), height then width; `locations` (B, Q, H, M, P, 2) in [0, 1], x then y; `weights` (B, Q, H, M,
    P). Bilinear, pixel centres at halves, 0 beyond the borders."""
    import torch

    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    maps = value.split([int(height) * int(width) for height, width in shapes], dim=1)
    result = value.new_zeros(batch * heads, channels, queries)
    for m, (height, width) in enumerate(shapes.tolist()):
        plane = maps[m].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = 2 * locations[:, :, :, m].permute(0, 2, 1, 3, 4).flatten(0, 1) - 1
        sampled = torch.nn.functional.grid_sample(plane, grid, align_corners=False)  # (B H, C, Q, P)
        result = result + (sampled * weights[:, :, :, m].permute(0, 2, 1, 3).flatten(0, 1)[:, None]).sum(-1)
    return result.reshape(batch, heads * channels, queries).transpose(1, 2).contiguous()


def rotate(tokens: Any, position: Any, base: float, direction: float) -> None:
    """Turn `tokens` (B, N, H, D) in place by their integer `position` (B, N, 3): each axis has a third of the channels,
    D / 6 pairs a half apart, pair i by position * direction / base^(6 i / D)."""
    import torch

    pairs = tokens.shape[-1] // 6
    frequency = direction / base ** (torch.arange(pairs, device=tokens.device, dtype=torch.float32) / pairs)
    for axis in range(3):
        angle = position[..., axis, None, None].float() * frequency
        cosine, sine = angle.cos().to(tokens.dtype), angle.sin().to(tokens.dtype)
        third = tokens[..., 2 * pairs * axis : 2 * pairs * (axis + 1)]
        first, second = third[..., :pairs].clone(), third[..., pairs:].clone()
        third[..., :pairs] = first * cosine - second * sine
        third[..., pairs:] = second * cosine + first * sine


def attend_to_tokens(module: Any, position: Any, h: Any) -> Any:
    """What upstream's self-attention does in half precision, by flash attention: each token attends to all."""
    import torch

    def heads(x: Any) -> Any:
        return x.view(*h.shape[:2], module.n_heads, module.head_dim)

    q, k, v = (heads(layer(h)) for layer in (module.wq, module.wk, module.wv))
    rotate(q, position, module.rope3d.base, module.rope3d.F0)
    rotate(k, position, module.rope3d.base, module.rope3d.F0)
    attended = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return module.wo(attended.transpose(1, 2).flatten(2))


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """The stand-ins in sys.modules while upstream's modules are imported."""
    import torch
    from transformers import Dinov2Backbone  # noqa: F401 - looks for the real flash_attn as it is imported

    def module(name: str, **members: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(members)
        return made

    def scaled(layer: Any, spread: float, bias: float = 0.0) -> None:
        if layer is not None:
            torch.nn.init.uniform_(layer.weight, -spread, spread)
            torch.nn.init.constant_(layer.bias, bias)

    def xavier_init(layer: Any, bias: float = 0.0, **_: Any) -> None:
        if layer is not None:
            scaled(layer, math.sqrt(6 / sum(layer.weight.shape)), bias)

    def constant_init(layer: Any, val: float, bias: float = 0.0) -> None:
        torch.nn.init.constant_(layer.weight, val)
        torch.nn.init.constant_(layer.bias, bias)

    class BaseModule(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, init_cfg: Any = None) -> None:
            super().__init__()

    def unchanged(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda function: function

    registry, nothing = _Registry(), types.SimpleNamespace(load_ext=lambda *_: None)
    registries = dict.fromkeys(("ATTENTION", "TRANSFORMER_LAYER", "TRANSFORMER_LAYER_SEQUENCE"), registry)
    lists = {"ModuleList": torch.nn.ModuleList, "Sequential": torch.nn.Sequential}
    made = [
        *(module(name) for name in ("mmcv", "mmcv.ops", "mmcv.cnn.bricks")),
        module("mmcv.ops.multi_scale_deform_attn", multi_scale_deformable_attn_pytorch=sampled_attention),
        module("mmcv.cnn", xavier_init=xavier_init, constant_init=constant_init),
        module("mmcv.cnn.bricks.registry", **registries),
        module("mmcv.cnn.bricks.transformer", build_attention=registry.build),
        module("mmcv.runner", force_fp32=unchanged, auto_fp16=unchanged),
        module("mmcv.runner.base_module", BaseModule=BaseModule, **lists),
        module("mmcv.utils", ext_loader=nothing),
        module("flash_attn", flash_attn_qkvpacked_func=None, flash_attn_func=None),
        module("diff_gaussian_rasterization", GaussianRasterizationSettings=None, GaussianRasterizer=None),
        module("curope3d", rope_3d=rotate),
    ]
    with mock.patch.dict(sys.modules, {part.__name__: part for part in made}):
        yield
