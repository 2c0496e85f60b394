"""Writes recorded runs of systems whose code is importable: `python -m tests.adapters.upstream.record NAME ...`."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import tests.adapters.upstream.conftest  # noqa: F401 - torchvision, whatever torch it was built for
from bench.systems.cards import get_adapter
from tests.adapters.recorded import CASES, save

DIRECTION = {
    "vggt": "camera_from_world",
    "dust3r": "world_from_camera",
    "fast3r": "world_from_camera",
    "pi3": "world_from_camera",
    "vggt-omega": "camera_from_world",
    "depth-anything-3": "camera_from_world",
    "mapanything": "world_from_camera",
    "mast3r": "camera_from_world",
}
MEAN, SPREAD = (torch.tensor(three).view(3, 1, 1) for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def load_as_upstream(name: str, paths: list[str], side: int) -> list[Any]:
    """(3, h, w) in [0, 1] of each photo, by upstream's own loader at another size."""
    if name == "vggt":
        loader = importlib.import_module("vggt.utils.load_fn")
        # Its size is written into its code, which is run here with another one.
        source = Path(str(loader.__file__)).read_text().replace("target_size = 518", f"target_size = {side}")
        scope: dict[str, Any] = {}
        exec(compile(source, "load_fn", "exec"), scope)
        return list(scope["load_and_preprocess_images"](paths).numpy())
    if name == "pi3":
        load = importlib.import_module("pi3.utils.basic").load_images_as_tensor
        return list(load(str(Path(paths[0]).parent), PIXEL_LIMIT=side, verbose=False).numpy())
    if name == "vggt-omega":
        loader = importlib.import_module("vggt_omega.utils.load_fn")
        return list(loader.load_and_preprocess_images(paths, image_resolution=side).numpy())
    if name == "depth-anything-3":
        module = importlib.import_module("depth_anything_3.utils.io.input_processor")
        loaded, _, _ = module.InputProcessor()(paths, process_res=side, num_workers=1)
        return list((loaded * SPREAD + MEAN).numpy())
    if name == "mapanything":
        module = importlib.import_module("mapanything.utils.image")
        shapes = module.RESOLUTION_MAPPINGS[518]
        module.RESOLUTION_MAPPINGS[518] = {r: (w // 14 * side, h // 14 * side) for r, (w, h) in shapes.items()}
        loaded = torch.cat([view["img"] for view in module.load_images(paths)])
        return list((loaded * SPREAD + MEAN).numpy())
    package = "fast3r.dust3r" if name == "fast3r" else "dust3r"
    loaded = importlib.import_module(f"{package}.utils.image").load_images(paths, size=side, verbose=False)
    return [one["img"][0].numpy() * 0.5 + 0.5 for one in loaded]


def record(name: str) -> None:
    """Run the adapter around upstream's code with the oracle's stub for a network."""
    case = CASES[name]
    module = importlib.import_module(f"adapters.{name.replace('-', '_')}.adapter")
    tests = importlib.import_module(f"tests.adapters.upstream.test_{name.replace('-', '_')}")
    setattr(module, case.constant, case.side)
    oracle = case.oracle()
    adapter = module.Adapter(**case.options)
    adapter.network = tests.Stub(oracle)
    torch.manual_seed(0)
    outputs = adapter.infer(adapter.prepare(oracle.views))
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{view}.png") for view in oracle.views.names]
        for path, image in zip(paths, oracle.views.images, strict=True):
            Image.fromarray(image).save(path)
        loaded = load_as_upstream(name, paths, case.side)
    prepared: list[NDArray[np.uint8]] = [np.round(image * 255).astype(np.uint8) for image in loaded]
    upstream = get_adapter(name).card.upstream
    assert upstream is not None
    said = {"upstream": upstream.url, "commit": upstream.commit, "torch": torch.__version__, "poses": DIRECTION[name]}
    save(name, outputs, prepared, **said)


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        record(asked)
