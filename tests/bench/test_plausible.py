"""Whether a network's answers make sense: stubs that are right, and wrong in the ways that adapters are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.systems.cards import get_adapter
from bench.trials.conformance import Check, check_adapter
from bench.trials.plan import view_order
from data.scene import Scene

CARD = """
name = "stub"
title = "Stub"
licence_code = "MIT"
scope = "scene"
[weights]
hub = "org/stub"
"""
# A "network" that knows the scene: it has the true depth and cameras of the views it will be shown. It answers
# with noise that its confidence knows of, if its input is what it was trained on: levels in [-1, 1], red first.
CODE = """
from pathlib import Path

import numpy as np
from adapters.contract import Cameras, Reconstruction, Reconstructor

class Adapter(Reconstructor):
    def load(self, device, weights, seed):
        with np.load(Path(__file__).with_name("known.npz")) as file:
            self.known = {name: file[name] for name in file.files}
        self.trained = weights != "random" or WRONG == "weights not used"

    def prepare(self, views):
        images = np.stack(views.images)
        if WRONG == "channels swapped":
            images = images[..., ::-1]
        return images / 127.5 - 1 if WRONG != "input not normalised" else images / 255

    def infer(self, inputs):
        sure = np.abs(inputs.astype(np.float32) - self.known["images"]).max() < 0.02 and self.trained
        rng = np.random.default_rng(0)
        noise = rng.gamma(1.0, 0.02, self.known["depth"].shape) * rng.choice([-1, 1], self.known["depth"].shape)
        depth = self.known["depth"] * (1 + noise) if sure else rng.uniform(1, 5, noise.shape)
        confidence = 1 / (0.001 + np.abs(noise))
        if WRONG == "confidence transposed":
            confidence = confidence.transpose(0, 2, 1)
        return depth, confidence, self.known["poses"] if sure else self.known["random"]

    def finish(self, outputs, views):
        depth, confidence, poses = outputs
        cameras = Cameras(self.known["intrinsics"], poses)
        first = poses[0]
        poses = poses @ np.linalg.inv(first)
        if WRONG == "axis flipped":
            depth = -depth
        points, index, pixels = [], [], []
        for i in range(len(views)):
            y, x = np.nonzero(self.known["depth"][i] > 0)
            pixel = np.stack([x + 0.5, y + 0.5], axis=1)
            points.append(Cameras(self.known["intrinsics"], poses).unproject(i, pixel, depth[i][y, x]))
            index.append(np.full(len(x), i, np.int32))
            pixels.append(pixel.astype(np.float32))
        points = np.concatenate(points).astype(np.float32)
        if WRONG == "axis flipped":
            points[:, 0] *= -1
        kept = np.concatenate([confidence[i][self.known["depth"][i] > 0] for i in range(len(views))])
        return Reconstruction(points, "first_camera", "arbitrary", confidence=kept.astype(np.float32),
            confidence_kind="probability", view_index=np.concatenate(index), pixel=np.concatenate(pixels),
            cameras=Cameras(self.known["intrinsics"], poses), registered=np.ones(len(views), bool))
"""


def sense(folder: Path, scene: Scene, wrong: str) -> Check:
    """What `adapters check` says of a stub's answers."""
    folder.mkdir()
    (folder / "adapter.toml").write_text(CARD)
    (folder / "adapter.py").write_text(CODE.replace("WRONG", repr(wrong)))
    truth = scene.truth("exact")
    views = sorted(view_order(scene, 0))[:8]
    rows = [truth.view_names.index(view) for view in views]
    assert truth.depth is not None
    rng = np.random.default_rng(1)
    turns = np.linalg.qr(rng.normal(size=(len(rows), 3, 3)))[0]
    random = np.tile(np.eye(4), (len(rows), 1, 1))
    random[:, :3, :3] = turns * np.sign(np.linalg.det(turns))[:, None, None]
    random[:, :3, 3] = rng.normal(size=(len(rows), 3))
    cameras = truth.cameras.take(rows)
    np.savez(
        folder / "known.npz",
        images=np.stack([scene.image(view) for view in views]) / np.float32(127.5) - 1,
        depth=np.stack([truth.depth[row] for row in rows]),
        intrinsics=cameras.intrinsics,
        poses=cameras.camera_from_world,
        random=random,
    )
    weights = folder.with_suffix(".npz")
    np.savez(weights, a=np.zeros(1))
    checks = list(check_adapter(get_adapter(str(folder)), scene, weights=str(weights)))
    (result,) = [check for check in checks if check.name == "answers make sense"] or [checks[-1]]
    return result


def test_a_network_that_is_right_makes_sense(tmp_path: Path, scene: Scene) -> None:
    check = sense(tmp_path / "right", scene, "")
    assert check.verdict == "pass", check
    assert "; with random weights cameras" in check.detail  # what it was compared with


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("axis flipped", "F@5% is"),
        ("channels swapped", "degrees off"),
        ("input not normalised", "degrees off"),
        ("weights not used", "random weights reach as well"),
        ("confidence transposed", "its confidence says nothing of its errors"),
    ],
)
def test_a_network_that_is_wrong_does_not(wrong: str, sentence: str, tmp_path: Path, scene: Scene) -> None:
    check = sense(tmp_path / "wrong", scene, wrong)
    assert check.name == "answers make sense" and check.verdict == "fail", check
    assert "no better than chance" in check.detail and sentence in check.detail
