"""Writes recorded runs of systems whose code is importable: `python -m tests.adapters.upstream.record NAME ...`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import tests.adapters.upstream.conftest  # noqa: F401 - torchvision, whatever torch it was built for
from adapters.contract import Views
from bench.systems.cards import Upstream, get_adapter
from tests.adapters import objects
from tests.adapters.recorded import CASES, FOLDER, Case, noise
from tests.adapters.replay import Recorded, Recorder
from tests.adapters.upstream.oracle import saved_photos

DIRECTION = {
    "vggt": "camera_from_world",
    "streamvggt": "camera_from_world",
    "dust3r": "world_from_camera",
    "cut3r": "world_from_camera",
    "fast3r": "world_from_camera",
    "pi3": "world_from_camera",
    "pi3x": "world_from_camera",
    "vggt-omega": "camera_from_world",
    "depth-anything-3": "camera_from_world",
    "mapanything": "world_from_camera",
    "mast3r": "camera_from_world",
    "dvlt": "world_from_camera",
    "lingbot-map": "world_from_camera",
}
MEAN, SPREAD = (torch.tensor(three).view(3, 1, 1) for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def load_as_upstream(name: str, paths: list[str], side: int, options: dict[str, Any]) -> list[Any]:
    """(3, h, w) in [0, 1] of each photo, by upstream's own loader at another size."""
    if name in ("vggt", "streamvggt"):
        loader = importlib.import_module(f"{name}.utils.load_fn")
        # Its size is written into its code, which is run here with another one.
        source = Path(str(loader.__file__)).read_text().replace("target_size = 518", f"target_size = {side}")
        scope: dict[str, Any] = {}
        exec(compile(source, "load_fn", "exec"), scope)
        return list(scope["load_and_preprocess_images"](paths, mode=options.get("fit", "crop")).numpy())
    if name == "pi3":
        load = importlib.import_module("pi3.utils.basic").load_images_as_tensor
        return list(load(str(Path(paths[0]).parent), PIXEL_LIMIT=side, verbose=False).numpy())
    if name == "pi3x":
        load = importlib.import_module("pi3.utils.basic").load_multimodal_data
        return list(load(str(Path(paths[0]).parent), {}, PIXEL_LIMIT=side, verbose=False)[0][0].numpy())
    if name == "lingbot-map":
        load = importlib.import_module("lingbot_map.utils.load_fn").load_and_preprocess_images
        return list(load(paths, mode="crop", image_size=side, patch_size=14).numpy())
    if name == "dvlt":
        prepare = importlib.import_module("dvlt.util.preprocess").preprocess_images
        return list(prepare(list(map(Image.open, paths)), side, 14, torch.device("cpu"))["images"][0].numpy())
    if name == "vggt-omega":
        loader = importlib.import_module("vggt_omega.utils.load_fn")
        mode = options.get("fit", "balanced")
        return list(loader.load_and_preprocess_images(paths, mode=mode, image_resolution=side).numpy())
    if name == "depth-anything-3":
        module = importlib.import_module("depth_anything_3.utils.io.input_processor")
        loaded, _, _ = module.InputProcessor()(paths, process_res=side, num_workers=1)
        return list((loaded * SPREAD + MEAN).numpy())
    if name == "mapanything":
        module = importlib.import_module("mapanything.utils.image")
        shapes = module.RESOLUTION_MAPPINGS[518]
        small = {r: (w // 14 * side, h // 14 * side) for r, (w, h) in shapes.items()}
        with mock.patch.dict(module.RESOLUTION_MAPPINGS, {518: small}):
            loaded = torch.cat([view["img"] for view in module.load_images(paths)])
        return list((loaded * SPREAD + MEAN).numpy())
    package = "fast3r.dust3r" if name == "fast3r" else "dust3r"
    loaded = importlib.import_module(f"{package}.utils.image").load_images(paths, size=side, verbose=False)
    return [view["img"][0].numpy() * 0.5 + 0.5 for view in loaded]


def loaded_by_upstream(case: Case, views: Views) -> list[NDArray[np.uint8]]:
    """(3, h, w) levels of each photo, by upstream's own loader."""
    with tempfile.TemporaryDirectory() as folder:
        paths = saved_photos(views, Path(folder))
        images = load_as_upstream(case.system, paths, case.side, case.options)
    return [np.round(image * 255).astype(np.uint8) for image in images]


def record(name: str) -> None:
    """Run the adapter around upstream's code with the oracle's stub for a network."""
    case = CASES[name]
    module = importlib.import_module(case.module)
    tests = importlib.import_module(f"tests.adapters.upstream.test_{case.system.replace('-', '_')}")
    oracle = case.oracle()
    adapter = module.Adapter(**case.options)
    recorder = Recorder(case.functions, case.opaque)
    adapter.network = Recorded(tests.Stub(oracle), "network", recorder)
    torch.manual_seed(0)
    with case.small(), recorder.recording():
        adapter.prepare(noise(case))
        adapter.infer(adapter.prepare(oracle.views))
    arrays = dict(recorder.arrays)
    for kind, views in (("prepared", oracle.views), ("noise", noise(case))):
        arrays.update({f"{kind}_{i}": image for i, image in enumerate(loaded_by_upstream(case, views))})
    upstream = get_adapter(case.system).card.upstream
    assert upstream is not None
    shown = {**dataclasses.asdict(case), "mean": np.ravel(case.mean).tolist(), "std": np.ravel(case.std).tolist()}
    write(name, upstream, {"poses": DIRECTION[case.system], "case": shown}, arrays, recorder.calls)


def record_object(name: str) -> None:
    """The same of a single-object system."""
    case = objects.CASES[name]
    tests = importlib.import_module(f"tests.adapters.upstream.test_{case.system.replace('-', '_')}")
    adapter = objects.adapter_of(name)
    recorder = Recorder(case.functions, case.opaque)
    adapter.network, adapter.words = Recorded(tests.Stub(), "network", recorder), objects.OBJECT
    with recorder.recording():
        adapter.finish(adapter.infer(adapter.prepare(case.shown())), case.shown())
    upstream = get_adapter(case.system).card.upstream
    assert upstream is not None
    write(name, upstream, {"case": dataclasses.asdict(case)}, recorder.arrays, recorder.calls)


def write(
    name: str, upstream: Upstream, more: Any, arrays: dict[str, NDArray[Any]], calls: list[dict[str, Any]]
) -> None:
    """A fixture and its manifest."""
    manifest = {
        "upstream": upstream.url,
        "commit": upstream.commit,
        "torch": torch.__version__,
        **more,
        "arrays": {key: f"{value.dtype} {list(value.shape)}" for key, value in arrays.items()},
        "calls": calls,
    }
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    (FOLDER / f"{name}.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        (record_object if asked in objects.CASES else record)(asked)
