"""StreamVGGT's adapter around upstream's own decoding of cameras, its heads answering with known geometry, and around
a small network of upstream's, to answer as upstream's own loop does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.shared.resize import Inputs, Placement
from adapters.systems.streamvggt.adapter import Adapter
from tests.adapters.upstream.oracle import PHOTOS, PixelOracle, ThroughThePixels, answer, photo_sets, saved_photos

torch = pytest.importorskip("torch")
upstream = pytest.importorskip("streamvggt.models.streamvggt", reason="StreamVGGT's code is not importable")
from streamvggt.utils.pose_enc import extri_intri_to_pose_encoding, pose_encoding_to_extri_intri  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = PHOTOS
MORE_SURE = 10  # of the point head's points


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's StreamVGGT, whose trunk looks at one image and whose heads say the oracle's truth, halved in scale."""
    told: dict[str, Any] = {}

    class Trunk(torch.nn.Module):
        depth = 3

        def forward(self, images: Any, past_key_values: Any, use_cache: bool, past_frame_idx: int) -> Any:
            assert images.shape[:2] == (1, 1) and use_cache and len(past_key_values) == self.depth
            assert past_key_values == [past_frame_idx or None] * self.depth  # what it gave with the view before
            observed, poses, K = oracle.look_at(images[0].numpy())
            points = np.stack([oracle.points(s) for s in observed])
            depth = points[0] @ poses[0, 2, :3] + poses[0, 2, 3]
            poses[:, :3, 3] /= 2
            told["camera"] = extri_intri_to_pose_encoding(
                torch.from_numpy(poses[None, :, :3]), torch.from_numpy(K[None]), images.shape[-2:]
            )
            told["depth"] = torch.from_numpy(depth[None, None, ..., None] / 2)
            told["points"] = torch.from_numpy(points[None] / 2)
            told["conf"] = torch.from_numpy(np.stack([oracle.confidence(s) for s in observed])[None])
            return [images], 5, [past_frame_idx + 1] * self.depth

    class Camera(torch.nn.Module):
        trunk_depth = 2

        def forward(self, tokens: Any, past_key_values_camera: Any, use_cache: bool) -> Any:
            assert use_cache and len(past_key_values_camera) == self.trunk_depth
            seen = past_key_values_camera[0] or 0
            return [told["camera"] * 0, told["camera"] * 0, told["camera"]], [seen + 1] * self.trunk_depth

    class Dense(torch.nn.Module):
        def __init__(self, name: str, more: float) -> None:
            super().__init__()
            self.name, self.more = name, more

        def forward(self, tokens: Any, images: Any, patch_start_idx: int) -> Any:
            return told[self.name], told["conf"] + self.more

    network = upstream.StreamVGGT.__new__(upstream.StreamVGGT)
    torch.nn.Module.__init__(network)
    network.aggregator, network.camera_head = Trunk(), Camera()
    network.depth_head, network.point_head = Dense("depth", 0), Dense("points", MORE_SURE)
    return network.eval()


def run(oracle: PixelOracle, points: str = "depth") -> Any:
    return answer(Adapter(points=points), Stub(oracle), oracle)  # type: ignore[arg-type]


@pytest.mark.parametrize("points", ["head", "depth"])
@photo_sets(PHOTOS)
def test_known_geometry_comes_back_through_the_pixels(sizes: Sequence[tuple[int, int]], points: str) -> None:
    oracle = PixelOracle(*sizes, focal=(470.0, 430.0))
    result = run(oracle, points)
    oracle.least += MORE_SURE if points == "head" else 0
    oracle.check(result)


class TestStreamVGGT(ThroughThePixels):
    run = staticmethod(run)


@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    loader = pytest.importorskip("streamvggt.utils.load_fn", reason="upstream's loader wants torchvision")
    oracle = PixelOracle(*sizes)
    paths = saved_photos(oracle.views, tmp_path)
    wanted = loader.load_and_preprocess_images(paths).numpy()
    assert np.array_equal(Adapter().prepare(oracle.views).images, wanted)


def small() -> Any:
    """Upstream's network with a narrow trunk of chance."""
    whole = upstream.Aggregator

    def aggregator(img_size: int, patch_size: int, embed_dim: int) -> Any:
        return whole(embed_dim=64, num_heads=4, patch_embed="conv")

    with mock.patch.object(upstream, "Aggregator", aggregator):
        return upstream.StreamVGGT(embed_dim=64).eval()


def test_it_says_what_upstream_s_own_loop_says() -> None:
    torch.manual_seed(0)
    adapter = Adapter()
    adapter.network = small()
    images = np.random.default_rng(0).uniform(0, 1, (3, 3, 28, 42)).astype(np.float32)
    places = tuple(Placement((42, 28), (42, 28), (1.0, 1.0), (0.0, 0.0)) for _ in images)
    ours = adapter.infer(Inputs(tuple(images), places))
    with torch.no_grad():
        theirs = adapter.network.inference([{"img": torch.from_numpy(image[None])} for image in images]).ress
    for view, wanted in zip(ours, theirs, strict=True):
        assert np.array_equal(view.depth, wanted["depth"][0, ..., 0])
        assert np.array_equal(view.depth_conf, wanted["depth_conf"][0])
        assert np.array_equal(view.world_points, wanted["pts3d_in_other_view"][0])
        assert np.array_equal(view.world_points_conf, wanted["conf"][0])
        pose, _ = pose_encoding_to_extri_intri(wanted["camera_pose"][None], (28, 42))
        assert np.allclose(view.camera_from_world, pose[0, 0], atol=1e-6)
    backwards = adapter.infer(Inputs(tuple(images[::-1]), places))
    assert not np.allclose(backwards[2].depth, ours[0].depth, atol=1e-6)  # the order matters
