"""Recorded runs: what upstream's own code made of the oracle's geometry, as small arrays for machines without it.

`fixtures/NAME.npz` holds the fields of the adapter's `Outputs` (a tuple's members as NAME_0, NAME_1, ...) and the
images that upstream's own loader prepared; `fixtures/NAME.json` says from which commit, and what each array is.
Written by `python -m tests.adapters.upstream.record`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.contract import Reconstruction
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD
from tests.adapters.upstream.oracle import PixelOracle

FOLDER = Path(__file__).parent / "fixtures"


@dataclasses.dataclass(frozen=True)
class Case:
    """A recorded run: a network image's size (`constant` of the adapter) in place of upstream's, the photos shown."""

    side: int
    sizes: tuple[tuple[int, int], ...]
    focal: tuple[float, float]
    least: float = 5.0
    constant: str = "SIDE"
    mean: Any = 0.0  # of the levels in [0, 1], as the network takes them
    std: Any = 1.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the adapter

    def oracle(self) -> PixelOracle:
        return PixelOracle(*self.sizes, focal=self.focal, least=self.least)


CASES = {  # a portrait is cropped, a landscape is padded or cropped, by factors that differ in x and y
    "vggt": Case(70, ((123, 88), (90, 121)), (60.0, 52.0)),
    "dust3r": Case(64, ((123, 83), (83, 123)), (58.0, 58.0), mean=0.5, std=0.5),
    "fast3r": Case(64, ((123, 83), (83, 123)), (58.0, 58.0), mean=0.5, std=0.5),
    "pi3": Case(4900, ((123, 88), (90, 121)), (60.0, 52.0), least=0.0, constant="PIXELS"),
    "vggt-omega": Case(64, ((203, 88), (110, 121)), (60.0, 52.0)),
    "depth-anything-3": Case(84, ((123, 88), (90, 121)), (60.0, 52.0)),
    "mapanything": Case(
        2, ((123, 88), (90, 121)), (60.0, 52.0), constant="PATCH", mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "mast3r": Case(96, ((123, 88), (88, 123)), (85.0, 85.0), mean=0.5, std=0.5, options={"refinements": 0}),
}


def save(name: str, outputs: Any, prepared: list[NDArray[np.uint8]], **said: str) -> None:
    """Write a fixture and its manifest, `said` being what only upstream's code can tell."""
    arrays: dict[str, NDArray[Any]] = {}
    for field in dataclasses.fields(outputs):
        value = getattr(outputs, field.name)
        if field.name == "placements":
            continue
        if isinstance(value, tuple):
            arrays.update({f"{field.name}_{i}": member for i, member in enumerate(value)})
        else:
            arrays[field.name] = value
    arrays.update({f"prepared_{i}": image for i, image in enumerate(prepared)})
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    shapes = {key: f"{value.dtype} {list(value.shape)}" for key, value in arrays.items()}
    manifest = {**said, "case": dataclasses.asdict(CASES[name]), "arrays": shapes}
    (FOLDER / f"{name}.json").write_text(json.dumps(manifest, indent=2) + "\n")


def load(name: str, outputs: type[Any], placements: Any) -> tuple[Any, list[NDArray[np.uint8]]]:
    """The `Outputs` of a fixture with `placements`, and the images that upstream's loader prepared."""
    manifest = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    assert {key: f"{value.dtype} {list(value.shape)}" for key, value in arrays.items()} == manifest["arrays"]

    def members(field: str) -> tuple[NDArray[Any], ...]:
        return tuple(arrays[f"{field}_{i}"] for i in range(len(CASES[name].sizes)))

    names = [field.name for field in dataclasses.fields(outputs) if field.name != "placements"]
    fields = {field: arrays[field] if field in arrays else members(field) for field in names}
    return outputs(placements=placements, **fields), list(members("prepared"))


def check_recorded(name: str, adapter: Any, outputs: type[Any], cleaned: bool = False) -> None:
    """`prepare` of `adapter` against upstream's loader, and its `finish` on a fixture against the oracle's geometry."""
    oracle = CASES[name].oracle()
    inputs = adapter.prepare(oracle.views)
    said, prepared = load(name, outputs, inputs.placements)
    for image, theirs in zip(inputs.images, prepared, strict=True):
        mine = image * CASES[name].std + CASES[name].mean
        assert np.abs(mine * 255 - theirs).max() <= 1.01  # another Pillow may round otherwise
        oracle.look(mine)
    check_result(oracle, adapter.finish(said, oracle.views), cleaned)


def check_result(oracle: PixelOracle, result: Reconstruction, cleaned: bool = False) -> None:
    """What comes of a recorded run, against the geometry that `oracle` saw.

    Limits are wider than at full size: the ramps of a small image are fitted from few pixels."""
    oracle.check(result, cleaned, points=1e-3, centres=1e-3, depth=3e-3, pixels=0.1, intrinsics=0.2, degrees=0.1)
