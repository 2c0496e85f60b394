"""LingBot-Map's adapter around upstream's own forward pass, its heads answering with known geometry, frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.shared.resize import Inputs, Placement
from adapters.systems.lingbot_map.adapter import Adapter
from tests.adapters.upstream.oracle import PHOTOS, PixelOracle, ThroughThePixels, answer, photo_sets, saved_photos

torch = pytest.importorskip("torch")
gct = pytest.importorskip("lingbot_map.models.gct_stream", reason="LingBot-Map's code is not importable")
from lingbot_map.utils.pose_enc import extri_intri_to_pose_encoding  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = PHOTOS


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's network, whose aggregator looks at the images and whose heads say the oracle's truth, halved in scale;
    the aggregator wants the first frames together and then one at a time."""
    told: dict[str, Any] = {}

    class Aggregator(torch.nn.Module):
        def clean_kv_cache(self) -> None:
            told["frames"] = 0

        def forward(self, images: Any, num_frame_for_scale: int, num_frame_per_block: int, **_: Any) -> Any:
            assert images.shape[1] == num_frame_per_block == (num_frame_for_scale if told["frames"] == 0 else 1)
            told["frames"] += num_frame_per_block
            observed, poses, K = oracle.look_at(images[0].numpy())
            points = np.stack([oracle.points(s) for s in observed])
            depth = np.einsum("nhwj,nj->nhw", points, poses[:, 2, :3]) + poses[:, 2, 3][:, None, None]
            world_from_camera = np.linalg.inv(poses)
            world_from_camera[:, :3, 3] /= 2
            told["cameras"] = extri_intri_to_pose_encoding(
                torch.from_numpy(world_from_camera[None, :, :3]), torch.from_numpy(K[None]), images.shape[-2:]
            )
            told["depth"] = torch.from_numpy(depth[None, ..., None] / 2)
            told["conf"] = torch.from_numpy(np.stack([oracle.confidence(s) for s in observed])[None])
            return [images], 6

    class CameraHead(torch.nn.Module):
        kv_cache: Any = None

        def clean_kv_cache(self) -> None:
            self.kv_cache = None

        def forward(self, tokens: Any, **_: Any) -> Any:
            return [told["cameras"]]

    class DepthHead(torch.nn.Module):
        def forward(self, tokens: Any, images: Any, patch_start_idx: int) -> Any:
            return told["depth"], told["conf"]

    network: Any = gct.GCTStream.__new__(gct.GCTStream)
    torch.nn.Module.__init__(network)
    network.aggregator, network.camera_head, network.depth_head = Aggregator(), CameraHead(), DepthHead()
    network.point_head = network.local_point_head = None
    network.enable_camera_sliding_window = False
    return network.eval()


def run(oracle: PixelOracle, **options: Any) -> Any:
    return answer(Adapter(**options), Stub(oracle), oracle)


@pytest.mark.parametrize("first", [1, 2, 8])
@photo_sets(PHOTOS)
def test_known_geometry_comes_back_through_the_pixels(sizes: list[tuple[int, int]], first: int) -> None:
    oracle = PixelOracle(*sizes, focal=(470.0, 430.0))
    oracle.check(run(oracle, first=first))


class TestLingbotMap(ThroughThePixels):
    spoiled = (PORTRAIT, PORTRAIT)
    run = staticmethod(run)


@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    oracle = PixelOracle(*sizes)
    paths = saved_photos(oracle.views, tmp_path)
    loader = pytest.importorskip("lingbot_map.utils.load_fn", reason="upstream's loader wants torchvision")
    wanted = loader.load_and_preprocess_images(paths, mode="crop", image_size=518, patch_size=14).numpy()
    assert np.array_equal(Adapter().prepare(oracle.views).images, wanted)


def tiny(first: int) -> Any:
    """Upstream's own network, small and random."""
    torch.manual_seed(0)
    return gct.GCTStream(
        img_size=56, embed_dim=384, patch_embed="dinov2_vits14_reg", max_frame_num=64,
        kv_cache_sliding_window=4, kv_cache_scale_frames=first, use_sdpa=True, camera_num_iterations=1,
    ).eval()  # fmt: skip


def test_a_stream_is_upstream_s_own_inference_frame_by_frame() -> None:
    rng = np.random.default_rng(0)
    adapter = Adapter(first=2)
    adapter.network = tiny(2)
    images = tuple(rng.random((3, 28, 56)).astype(np.float32) for _ in range(6))
    places = tuple(Placement((56, 28), (56, 28), (1.0, 1.0), (0.0, 0.0)) for _ in images)
    answers = list(adapter.stream(Inputs(images, places)))
    assert [len(each.depth) for each in answers] == [2, 1, 1, 1, 1]
    theirs = adapter.network.inference_streaming(torch.from_numpy(np.stack(images)), num_scale_frames=2)
    for name, values in (("depth", theirs["depth"][0, ..., 0]), ("confidence", theirs["depth_conf"][0])):
        assert np.array_equal(np.concatenate([getattr(each, name) for each in answers]), values.numpy())
