"""DVLT's adapter around upstream's own forward pass, its encoder and decoders answering with known geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.shared.absent import absent
from adapters.systems.dvlt.adapter import SIDE, Adapter
from tests.adapters.upstream.oracle import LARGE_PHOTOS, PixelOracle, ThroughThePixels, answer, photo_sets

torch = pytest.importorskip("torch")
with absent("open3d"):
    dvlt = pytest.importorskip("dvlt.model.dvlt.model", reason="DVLT's code is not importable")

LANDSCAPE, PORTRAIT, SQUARE, ODD = LARGE_PHOTOS
# One of no view's, in which all look forward: upstream fits cameras to x/z and y/z of the rays.
WORLD = np.array([[0.96, -0.28, 0, 3], [0.28, 0.96, 0, 1], [0, 0, 1, -2], [0, 0, 0, 1]])


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's network, whose encoder looks at the images and whose decoders say the oracle's truth, halved in scale:
    rays through the pixels' centres, the logarithms of depth and of confidence less one."""
    told: dict[str, Any] = {}

    def encode(images: Any) -> Any:
        images = network._normalize_images(images)[0]
        observed, _, K = oracle.look_at((images * network._resnet_std[0] + network._resnet_mean[0]).numpy())
        height, width = images.shape[2:]
        v, u = np.mgrid[:height, :width]
        pixels = np.stack([u, v, np.ones(u.shape)], axis=-1)
        depth = np.stack([oracle.points(s, frame=s.index)[..., 2] for s in observed]) / 2
        sure = np.stack([oracle.confidence(s) for s in observed])
        told["depth"] = np.stack([np.log(depth), np.log(sure - 1)], axis=1)
        poses = np.stack([WORLD @ oracle.poses[s.index] for s in observed])
        directions = np.einsum("nij,njk,hwk->nhwi", poses[:, :3, :3], np.linalg.inv(K), pixels)
        origins = np.broadcast_to(poses[:, None, None, :3, 3] / 2, directions.shape)
        told["ray"] = np.concatenate([directions, origins], axis=-1).transpose(0, 3, 1, 2)
        return torch.zeros(len(observed), height // 14 * (width // 14), 1)

    class Decoder(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, features: Any, **place: Any) -> Any:
            return torch.from_numpy(told[self.name]).float(), features

    network: Any = dvlt.DVLTModel.__new__(dvlt.DVLTModel)
    torch.nn.Module.__init__(network)
    network.patch_size, network.num_register_tokens, network.patch_start_idx = 14, 4, 5
    network.has_camera_head, network.decode_chunk_size = False, None
    network.register_token, network.camera_token = torch.zeros(1, 1, 4, 1), torch.zeros(1, 2, 1, 1)
    network.register_buffer("_resnet_mean", torch.FloatTensor(dvlt._RESNET_MEAN).view(1, 1, 3, 1, 1))
    network.register_buffer("_resnet_std", torch.FloatTensor(dvlt._RESNET_STD).view(1, 1, 3, 1, 1))
    network.position_getter = dvlt.PositionGetter()
    network._encode_images, network._solve_inference = encode, lambda x, *place: x
    network.ray_decoder, network.depth_decoder = Decoder("ray"), Decoder("depth")
    return network.eval()


def run(oracle: PixelOracle, **options: Any) -> Any:
    return answer(Adapter(**options), Stub(oracle), oracle)


# The middle of the image, where upstream counts pixels by their centres: what it makes of its homography (a rotation
# and a lower triangle) is a camera only there.
MIDDLE = (-0.5, -0.5)


class TestDvlt(ThroughThePixels):
    turned = (PORTRAIT, LANDSCAPE)
    spoiled = (ODD, PORTRAIT)
    off_centre = MIDDLE
    run = staticmethod(run)


@pytest.mark.parametrize("points", ["depth", "rays"])
@photo_sets(LARGE_PHOTOS)
def test_known_geometry_comes_back_through_the_pixels(sizes: list[tuple[int, int]], points: str) -> None:
    oracle = PixelOracle(*sizes, focal=(470.0, 430.0), off_centre=MIDDLE)
    oracle.check(run(oracle, points=points))


def test_points_along_the_rays_do_not_suffer_from_an_off_centre_principal_point() -> None:
    oracle = PixelOracle(ODD, PORTRAIT, off_centre=(20.0, -12.0))
    adapter = Adapter(points="rays")
    adapter.network = Stub(oracle)
    result = adapter.infer(adapter.prepare(oracle.views))
    truth = np.stack([oracle.points(oracle.seen[i]) for i in range(2)]) @ WORLD[:3, :3].T + WORLD[:3, 3]
    shown = np.stack([oracle.seen[i].shown for i in range(2)])
    assert np.abs(2 * result.points - truth)[shown].max() < 1e-4 * 12


@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT], [(640, 30)], [(300, 200)]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]]) -> None:
    loader = pytest.importorskip("dvlt.util.preprocess", reason="upstream's loader wants torchvision and OpenCV")
    oracle = PixelOracle(*sizes)
    photos = [Image.fromarray(image) for image in oracle.views.images]
    batch = loader.preprocess_images(photos, SIDE, 14, torch.device("cpu"))
    inputs = Adapter().prepare(oracle.views)
    # Upstream interpolates floats by torch, this does by Pillow: the same filter, other sums.
    assert np.abs(np.stack(inputs.images) - batch["images"][0].numpy()).max() < 1e-5
    shown = np.stack([placement.inside() for placement in inputs.placements])
    assert (shown == batch["gradio_valid_pixels"][0].numpy()).all()


@pytest.mark.parametrize("steps", [0, 65])
def test_steps_have_a_range(steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 wanted"):
        Adapter(steps=steps)
