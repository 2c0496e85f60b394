"""VGGT-Omega's adapter around upstream's own forward pass, its heads answering with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.systems.vggt_omega.adapter import Adapter
from tests.adapters.upstream.oracle import LARGE_PHOTOS, PixelOracle, ThroughThePixels, saved_photos

torch = pytest.importorskip("torch")
omega = pytest.importorskip("vggt_omega.models.vggt_omega", reason="VGGT-Omega's code is not importable")
from vggt_omega.utils.pose_enc import extri_intri_to_pose_encoding  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = LARGE_PHOTOS
WIDE = (1003, 401)
# Ramps of larger photos are read less finely: a tenth of a pixel, where half a network pixel is 0.6 or more.
LIMITS = {"pixels": 0.1, "intrinsics": 0.3}


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's network, whose aggregator looks at the images and whose heads say the oracle's truth, halved."""
    told: dict[str, Any] = {}

    class Aggregator(torch.nn.Module):
        def forward(self, images: Any) -> Any:
            observed, poses, K = oracle.look_at(images[0].numpy())
            depth = np.stack([oracle.points(s, frame=s.index)[..., 2:] for s in observed]) / 2
            poses[:, :3, 3] /= 2
            told["cameras"] = extri_intri_to_pose_encoding(
                torch.from_numpy(poses[None, :, :3]), torch.from_numpy(K[None]), images.shape[-2:]
            )
            told["depth"] = torch.from_numpy(depth[None])
            told["conf"] = torch.from_numpy(np.stack([oracle.confidence(s) for s in observed])[None])
            return [torch.zeros(1, len(observed), 5, 1)], 5

    class CameraHead(torch.nn.Module):
        def forward(self, tokens: Any, patch_token_start: int) -> Any:
            return told["cameras"]

    class DenseHead(torch.nn.Module):
        def forward(self, tokens: Any, images: Any, patch_token_start: int) -> Any:
            return told["depth"], told["conf"]

    network: Any = omega.VGGTOmega.__new__(omega.VGGTOmega)
    torch.nn.Module.__init__(network)
    network.aggregator, network.text_alignment_head = Aggregator(), None
    network.camera_head, network.dense_head = CameraHead(), DenseHead()
    return network.eval()


def run(oracle: PixelOracle, **options: Any) -> Any:
    adapter = Adapter(side=512, **options)
    adapter.network = Stub(oracle)
    return adapter.predict(oracle.views)


@pytest.mark.parametrize("fit", ["balanced", "max_size"])
@pytest.mark.parametrize(
    "sizes",
    [[LANDSCAPE] * 3, [PORTRAIT] * 2, [SQUARE], [WIDE, ODD], [WIDE[::-1]], [LANDSCAPE, PORTRAIT]],
    ids=["landscape", "portrait", "square", "wide", "tall", "mixed"],
)
def test_known_geometry_comes_back_through_the_pixels(sizes: list[tuple[int, int]], fit: str) -> None:
    oracle = PixelOracle(*sizes, focal=(470.0, 430.0))
    oracle.check(run(oracle, fit=fit), **LIMITS)


def test_an_off_centre_principal_point_shows_in_the_intrinsics_as_the_camera_cannot_say_it() -> None:
    oracle = PixelOracle(LANDSCAPE, LANDSCAPE, off_centre=(20.0, -12.0))
    result = oracle.measure(run(oracle))
    assert result["degrees"] < 0.01 and result["centres"] < 1e-4
    assert result["intrinsics"] == pytest.approx(20 * 800 / 592, abs=0.1)


class TestVggtOmega(ThroughThePixels):
    turned = (PORTRAIT, LANDSCAPE)
    spoiled = (WIDE, ODD)
    limits = LIMITS
    run = staticmethod(run)


@pytest.mark.parametrize("fit", ["balanced", "max_size"])
@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT, WIDE, (411, 1003)]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]], fit: str, tmp_path: Path) -> None:
    loader = pytest.importorskip("vggt_omega.utils.load_fn", reason="upstream's loader wants torchvision")
    oracle = PixelOracle(*sizes)
    paths = saved_photos(oracle.views, tmp_path)
    wanted = loader.load_and_preprocess_images(paths, mode=fit).numpy()
    assert np.array_equal(Adapter(fit=fit, side=512).prepare(oracle.views).images, wanted)
