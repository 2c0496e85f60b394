"""Pi3X's adapter around upstream's own forward pass, its heads answering with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.systems.pi3x.adapter import Adapter
from tests.adapters.upstream.oracle import LARGE_PHOTOS, PixelOracle, answer, saved_photos

torch = pytest.importorskip("torch")
pi3x = pytest.importorskip("pi3.models.pi3x", reason="Pi3X's code is not importable")
from tests.adapters.upstream.test_pi3 import Decoder, Encoder, OfWholePhotos, bare  # noqa: E402 - wants torch

LANDSCAPE, PORTRAIT, SQUARE, ODD = LARGE_PHOTOS
METRIC = 2.0  # what brings the halved truth to its own size: a network that claims metres must give these


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's Pi3X as images alone have it; its encoder looks at them, its heads say the oracle's truth."""
    told: dict[str, Any] = {}

    class Point(torch.nn.Module):
        def forward(self, hidden: Any, patch_h: int, patch_w: int) -> Any:
            dense = torch.from_numpy(told["point"]).float().permute(0, 3, 1, 2)
            return [dense[:, :2], dense[:, 2:]]

    class Confidence(torch.nn.Module):
        def forward(self, hidden: Any, patch_h: int, patch_w: int) -> Any:
            return [torch.from_numpy(told["conf"]).float().permute(0, 3, 1, 2)]

    class Camera(torch.nn.Module):
        def forward(self, *arguments: Any) -> Any:
            return torch.from_numpy(told["camera"]).float()

    class Scale(torch.nn.Module):
        def forward(self, tokens: Any, *_: Any, **__: Any) -> Any:
            return torch.full((len(tokens), 1), float(np.log(METRIC)))

    def decode(hidden: Any, count: int, height: int, width: int, *_: Any) -> Any:
        tokens = height // 14 * (width // 14) + network.patch_start_idx
        return torch.zeros(count, tokens, 1), torch.zeros(count, tokens, 2)

    network = bare(pi3x.Pi3X)
    network.use_multimodal, network.dec_embed_dim = False, 1
    network.encoder, network.decode = Encoder(oracle, network, told), decode
    network.metric_token = torch.nn.Parameter(torch.zeros(1, 1, 1))
    network.metric_decoder, network.metric_head = Scale(), torch.nn.Identity()
    for name, head in {"point": Point(), "conf": Confidence(), "camera": Camera()}.items():
        setattr(network, f"{name}_decoder", Decoder())
        setattr(network, f"{name}_head", head)
    return network.eval()


def run(oracle: PixelOracle) -> Any:
    return answer(Adapter(), Stub(oracle), oracle)


class TestPi3X(OfWholePhotos):
    run = staticmethod(run)


def test_the_metric_scale_is_that_of_the_network() -> None:
    oracle = PixelOracle(LANDSCAPE, ODD, least=0.0)
    result = run(oracle)
    oracle.check(result)
    assert result.scale == "metric" and result.cameras is not None
    apart = np.linalg.norm(np.subtract(*result.cameras.centres))
    assert apart == pytest.approx(np.linalg.norm(oracle.poses[0, :3, 3] - oracle.poses[1, :3, 3]), rel=1e-4)


@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT], [(640, 30)]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    loader = pytest.importorskip("pi3.utils.basic", reason="upstream's loader wants torchvision and plyfile")
    oracle = PixelOracle(*sizes)
    saved_photos(oracle.views, tmp_path)
    wanted, _ = loader.load_multimodal_data(str(tmp_path), {}, verbose=False)
    assert np.array_equal(Adapter().prepare(oracle.views).images, wanted[0].numpy())
