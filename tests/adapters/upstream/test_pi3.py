"""Pi3's adapter around upstream's own forward pass, its heads answering with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.systems.pi3.adapter import Adapter
from tests.adapters.upstream.oracle import LARGE_PHOTOS, PixelOracle, WithAnyPrincipalPoint, answer, saved_photos

torch = pytest.importorskip("torch")
pi3 = pytest.importorskip("pi3.models.pi3", reason="Pi3's code is not importable")

LANDSCAPE, PORTRAIT, SQUARE, ODD = LARGE_PHOTOS
WORLD = np.array([[0.0, -1, 0, 3], [0.6, 0, -0.8, 1], [0.8, 0, 0.6, -2], [0, 0, 0, 1]])  # one of no view's


class Encoder(torch.nn.Module):  # type: ignore[misc, unused-ignore] - no stubs
    """Looks at the images of `network`, and keeps in `told` what the heads are to say: the oracle's truth, halved."""

    def __init__(self, oracle: PixelOracle, network: Any, told: dict[str, Any]) -> None:
        super().__init__()
        self.look, self.told = oracle.look, told
        self.of, self.oracle = (network.image_mean, network.image_std), oracle

    def forward(self, images: Any, is_training: bool) -> Any:
        mean, std = self.of
        oracle, observed = self.oracle, [self.look(image.numpy()) for image in images * std + mean]
        points = np.stack([oracle.points(s, frame=s.index) for s in observed]) / 2
        poses = np.stack([WORLD @ oracle.poses[s.index] for s in observed])
        poses[:, :3, 3] = poses[:, :3, 3] / 2
        shares = np.stack([oracle.confidence(s) for s in observed])[..., None]
        # Heads say x/z, y/z and log z, and the logarithm of the odds.
        self.told["point"] = np.concatenate([points[..., :2] / points[..., 2:], np.log(points[..., 2:])], axis=-1)
        self.told["conf"], self.told["camera"] = np.log(shares / (1 - shares)), poses
        return {"x_norm_patchtokens": torch.zeros(len(observed), 9, 1)}


class Decoder(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    def forward(self, hidden: Any, xpos: Any) -> Any:
        return hidden


def bare(kind: Any) -> Any:
    """A network of upstream's class without layers, its normalisation apart."""
    network = kind.__new__(kind)
    torch.nn.Module.__init__(network)
    network.patch_start_idx = 5
    network.register_buffer("image_mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    network.register_buffer("image_std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
    return network


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's Pi3, whose encoder looks at the images and whose heads say the oracle's truth, halved in scale."""
    told: dict[str, Any] = {}

    class Head(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, *arguments: Any) -> Any:
            return torch.from_numpy(told[self.name]).float()

    network = bare(pi3.Pi3)
    network.encoder, network.decode = Encoder(oracle, network, told), lambda hidden, *size: (hidden, None)
    for name in ("point", "conf", "camera"):
        setattr(network, f"{name}_decoder", Decoder())
        setattr(network, f"{name}_head", Head(name))
    return network.eval()


def run(oracle: PixelOracle) -> Any:
    return answer(Adapter(), Stub(oracle), oracle)


class OfWholePhotos(WithAnyPrincipalPoint):
    turned = (PORTRAIT, LANDSCAPE)
    spoiled = (ODD, PORTRAIT)
    least = 0.0
    harmless = ("crop forgotten",)  # there is no crop


class TestPi3(OfWholePhotos):
    run = staticmethod(run)


@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT], [(640, 30)]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    loader = pytest.importorskip("pi3.utils.basic", reason="upstream's loader wants torchvision and plyfile")
    oracle = PixelOracle(*sizes)
    saved_photos(oracle.views, tmp_path)
    wanted = loader.load_images_as_tensor(str(tmp_path), verbose=False).numpy()
    assert np.array_equal(Adapter().prepare(oracle.views).images, wanted)
