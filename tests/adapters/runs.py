"""What each system's adapter must do with its recordings: the tests run these, and mutations of its code must fail one.

A run takes the adapter's module, so that a mutated one can stand in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.adapters.recorded import CASES, check_replayed, check_result, replayed

Run = Callable[[Any], None]


def whole(case: str) -> Run:
    """`prepare` as upstream's loader, every call of upstream's code as recorded, the known geometry in the end."""

    def run(module: Any) -> None:
        check_replayed(case, module.Adapter(**CASES[case].options))

    return run


def on_cuda(case: str, casting: str) -> Run:
    """Where the device is CUDA the network is given tensors there, under the automatic casting wanted."""

    def run(module: Any) -> None:
        adapter = module.Adapter(**CASES[case].options)
        adapter.device = "cuda:0"
        _, outputs, replay = replayed(case, adapter)
        assert replay.casts == [casting] and set(replay.devices) == {"cuda:0"}
        assert outputs is not None

    return run


def vggt_head(module: Any) -> None:
    """The point head's points and their confidence, which here is 10 above that of the depth."""
    oracle, outputs, _ = replayed("vggt", module.Adapter(points="head"))
    hidden = dataclasses.replace(outputs, depth=np.full_like(outputs.depth, np.nan), depth_conf=outputs.depth * np.nan)
    result = module.Adapter(points="head").finish(hidden, oracle.views)
    oracle.least += 10
    check_result(oracle, result)


def vggt_depth(module: Any) -> None:
    """By default nothing of the point head's is used."""
    oracle, outputs, _ = replayed("vggt", module.Adapter())
    nothing = np.full_like(outputs.world_points, np.nan)
    hidden = dataclasses.replace(outputs, world_points=nothing, world_points_conf=nothing[..., 0])
    check_result(oracle, module.Adapter().finish(hidden, oracle.views))


def pi3_unregistered(module: Any) -> None:
    """A view whose points no camera before them explains has no camera, whichever axis is at fault."""
    for axis in (0, 1):
        oracle, outputs, _ = replayed("pi3", module.Adapter())
        outputs.local_points[1, ..., axis] *= -1  # seen in a mirror
        result = module.Adapter().finish(outputs, oracle.views)
        assert result.registered.tolist() == [True, False]


def mapanything_on_cuda(module: Any) -> None:
    """There, and only there, upstream is asked for automatic casting."""
    adapter = module.Adapter()
    adapter.device = "cuda:0"
    with pytest.raises(AssertionError, match="use_amp: True, recorded False"):
        replayed("mapanything", adapter)


RUNS: dict[str, dict[str, Run]] = {
    "vggt": {
        "whole": whole("vggt"),
        "depth": vggt_depth,
        "head": vggt_head,
        "cuda": on_cuda("vggt", "cuda bfloat16"),
        "pad": whole("vggt-pad"),
    },
    "dust3r": {name: whole(name) for name in ("dust3r", "dust3r-one-view", "dust3r-aligned")},
    "mast3r": {name: whole(name) for name in ("mast3r", "mast3r-one-view")},
    "fast3r": {name: whole(name) for name in ("fast3r", "fast3r-global")},
    "pi3": {"whole": whole("pi3"), "cuda": on_cuda("pi3", "cuda bfloat16"), "unregistered": pi3_unregistered},
    "vggt-omega": {
        "whole": whole("vggt-omega"),
        "max_size": whole("vggt-omega-max-size"),
        "cuda": on_cuda("vggt-omega", ""),
    },
    "depth-anything-3": {"whole": whole("depth-anything-3"), "cuda": on_cuda("depth-anything-3", "cuda bfloat16")},
    "mapanything": {"whole": whole("mapanything"), "cuda": mapanything_on_cuda},
}
