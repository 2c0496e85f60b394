"""Depth Anything 3's adapter around upstream's own forward pass, its parts answering with known geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD
from adapters.systems.depth_anything_3.adapter import Adapter
from tests.adapters.upstream.oracle import LARGE_PHOTOS, PixelOracle, ThroughThePixels, answer, photo_sets

torch = pytest.importorskip("torch")
upstream = pytest.importorskip("depth_anything_3.model.da3", reason="Depth Anything 3's code is not importable")
from addict import Dict  # noqa: E402
from depth_anything_3.model.utils.transform import extri_intri_to_pose_encoding  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = LARGE_PHOTOS
# Ramps of larger photos are read less finely: a tenth of a pixel, where half a network pixel is 0.7 or more.
LIMITS = {"pixels": 0.1, "intrinsics": 0.3}


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's network, whose trunk looks at the images and whose heads say the oracle's truth, halved in scale."""
    told: dict[str, Any] = {}

    class Trunk(torch.nn.Module):
        def forward(self, images: Any, **options: Any) -> Any:
            height, width = images.shape[-2:]
            observed = [oracle.look(image) for image in images[0].numpy() * IMAGENET_STD + IMAGENET_MEAN]
            poses = np.stack([oracle.poses[s.index] for s in observed])  # its camera head says world_from_camera
            poses[:, :3, 3] /= 2
            K = np.tile(oracle.network_intrinsics(height, width), (len(observed), 1, 1))
            told["cameras"] = extri_intri_to_pose_encoding(
                torch.from_numpy(poses[None]), torch.from_numpy(K[None]), (height, width)
            )
            told["depth"] = np.stack([oracle.points(s, frame=s.index)[..., 2] for s in observed])[None] / 2
            told["conf"] = np.stack([oracle.confidence(s) for s in observed])[None]
            return [(None, None)], []

    class Head(torch.nn.Module):
        def forward(self, features: Any, height: int, width: int, patch_start_idx: int) -> Any:
            return Dict(depth=torch.from_numpy(told["depth"]), depth_conf=torch.from_numpy(told["conf"]))

    class Cameras(torch.nn.Module):
        def forward(self, features: Any) -> Any:
            return told["cameras"]

    network = upstream.DepthAnything3Net(Trunk(), Head(), Cameras(), Cameras()).eval()
    real = network.forward
    network.forward = lambda images: real(images, export_feat_layers=[])
    return {"model": network}


def run(oracle: PixelOracle) -> Any:
    return answer(Adapter(), Stub(oracle), oracle)


@photo_sets(LARGE_PHOTOS)
def test_known_geometry_comes_back_through_the_pixels(sizes: list[tuple[int, int]]) -> None:
    oracle = PixelOracle(*sizes, focal=(470.0, 430.0))
    oracle.check(run(oracle), **LIMITS)


class TestDepthAnything3(ThroughThePixels):
    turned = (PORTRAIT, LANDSCAPE)
    spoiled = (PORTRAIT, ODD)
    limits = LIMITS
    run = staticmethod(run)


@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT], [(301, 203)], [(504, 91)]])
def test_prepares_what_upstream_s_processor_would(sizes: list[tuple[int, int]]) -> None:
    module = pytest.importorskip("depth_anything_3.utils.io.input_processor", reason="wants torchvision and imageio")
    oracle = PixelOracle(*sizes)
    wanted, _, _ = module.InputProcessor()(list(oracle.views.images), num_workers=1)
    assert np.array_equal(Adapter().prepare(oracle.views).images, wanted.numpy())
