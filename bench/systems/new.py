"""A new adapter: the files to start from, which pass the conformance check as they are."""

from __future__ import annotations

from pathlib import Path

from adapters.contract import InputError
from bench.systems.cards import SYSTEMS, check_name

CARD = """\
name = "NAME"
title = "TITLE"
description = "A flat scene, to start from."
# upstream = { url = "https://github.com/ORG/REPOSITORY", commit = "40 hex digits" }
licence_code = "MIT"
# licence_weights = "..."          # shown and accepted before weights are fetched
scope = "scene"                    # or "object": what the output covers
# accepts = ["masks", "cameras"]   # what it can use beside images; requires = [...]: what it cannot do without
min_views = 1
# max_views = 8
# training = ["CO3D"]              # datasets that it was trained on: scenes that come from them are flagged
# parameters = 120_000_000
estimate_seconds = [0.1, 0.0]      # a + b * views, roughly, to plan with

# [weights]                        # without it `load` is given "none"
# hub = "ORG/NAME"                 # or url = "https://..."
# revision = "40 hex digits"
# [weights.sha256]
# "model.safetensors" = ""

# [environment]                    # without it: Reconbench's own environment, numpy, scipy and Pillow among it
# python = ">=3.10"
# requirements = ["torch==2.13.0", "REPOSITORY @ git+https://github.com/ORG/REPOSITORY@40 hex digits"]
"""

ADAPTER = '''\
"""TITLE for Reconbench. Replace what says UPSTREAM; the rest is what every adapter must get right."""

from __future__ import annotations

import numpy as np

from adapters.contract import Cameras, Reconstruction, Reconstructor, Views


class Adapter(Reconstructor):
    """The constructor's keyword arguments are the options of `--option NAME=VALUE`; an unknown one raises."""

    def __init__(self, step: int = 2) -> None:
        if step < 1:
            raise ValueError(f"step: {step} seen, at least 1 wanted")
        self.step = step  # every how many pixels a point is returned

    def load(self, device: str, weights: str, seed: int) -> None:
        """UPSTREAM: import it here, build the network on `device`, read the file or folder `weights`."""

    def prepare(self, views: Views) -> Views:
        """UPSTREAM: resize, crop and normalise `views.images`, each (H, W, 3) uint8 RGB. Timed apart."""
        return views

    def infer(self, inputs: Views) -> tuple[np.ndarray, np.ndarray]:
        """UPSTREAM: the network alone. Here the first view's z-depth (H, W) and intrinsics (3, 3), both made up."""
        height, width = inputs.images[0].shape[:2]
        focal = 1.2 * max(height, width)
        return np.ones((height, width)), np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])

    def finish(self, outputs: tuple[np.ndarray, np.ndarray], views: Views) -> Reconstruction:
        """Depth to points in the first camera's frame: x right, y down, z forward, pixel centres at half-integers.

        Depth and intrinsics must be those of the ORIGINAL image: undo what `prepare` resized and cropped."""
        depth, K = outputs
        count, image = len(views), views.images[0]
        rows, columns = np.mgrid[0 : image.shape[0] : self.step, 0 : image.shape[1] : self.step].reshape(2, -1)
        pixel = np.stack([columns, rows], axis=1) + 0.5
        rays = np.concatenate([pixel, np.ones((len(pixel), 1))], axis=1) @ np.linalg.inv(K).T
        points = rays * depth[rows, columns][:, None]
        first = np.arange(count) == 0  # the views whose camera was found; of the others nothing is known
        return Reconstruction(
            points=points.astype(np.float32),
            frame="first_camera",  # "world": that of the cameras given; "object": the network's own
            scale="arbitrary",  # "metric" where lengths are metres
            colors=image[rows, columns],
            view_index=np.zeros(len(points), np.int32),
            pixel=pixel.astype(np.float32),
            cameras=Cameras(np.tile(K, (count, 1, 1)), np.tile(np.eye(4), (count, 1, 1))),  # camera_from_world
            registered=first,
        )
'''

TEST = '''\
"""Reconbench's own checks of this adapter, as a test: `pytest NAME`. Files called test_*.py never reach a worker."""

import subprocess
from pathlib import Path


def test_the_adapter_keeps_the_contract() -> None:
    subprocess.run(["reconbench", "adapters", "check", str(Path(__file__).parent)], check=True)
'''


def write_adapter(name: str, into: Path) -> Path:
    """Write a folder `name` with a card, an adapter and its test below `into`; InputError where it is there already, or
    the name is no name or a built-in adapter's."""
    check_name(name, "the name of the adapter")
    if (SYSTEMS / name.replace("-", "_")).is_dir():
        raise InputError(f"{name}: a built-in adapter is called so, another name wanted")
    folder = into / name
    if folder.exists():
        raise InputError(f"{folder}: it exists already, a new folder wanted")
    folder.mkdir(parents=True)
    title = " ".join(word.capitalize() for word in name.split("-"))
    for file, content in (("adapter.toml", CARD), ("adapter.py", ADAPTER), ("test_adapter.py", TEST)):
        (folder / file).write_text(content.replace("TITLE", title).replace("NAME", name, 1))
    return folder
