"""CUT3R's adapter around upstream's own recurrent pass and its head's formulas, which answer with known geometry."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.shared.resize import Inputs, Placement
from adapters.systems.cut3r import adapter as module
from adapters.systems.cut3r.adapter import Adapter
from tests.adapters.upstream.oracle import PHOTOS, PixelOracle, ThroughThePixels, answer, photo_sets, saved_photos

torch = pytest.importorskip("torch")
model = pytest.importorskip("dust3r.model", reason="CUT3R's code is not importable")
if not hasattr(model, "ARCroco3DStereo"):
    pytest.skip("dust3r here is not CUT3R's", allow_module_level=True)
from dust3r.heads.dpt_head import DPTPts3dPose  # noqa: E402
from dust3r.utils.camera import matrix_to_quaternion, pose_encoding_to_camera  # noqa: E402
from dust3r.utils.misc import transpose_to_landscape  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = PHOTOS
MORE_SURE = 10  # of the points in the common frame
SMALL = {"enc_embed_dim": 64, "enc_depth": 2, "enc_num_heads": 4, "dec_embed_dim": 64, "dec_num_heads": 4}


def before_exp(points: Any) -> Any:
    """(..., 3) that upstream's exponential makes `points` of."""
    length = np.linalg.norm(points, axis=-1, keepdims=True)
    return points / np.maximum(length, 1e-12) * np.log1p(length)


def Stub(oracle: PixelOracle) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's CUT3R, whose encoder looks at each image and whose head says the oracle's truth, in the frame of the
    first camera that was looked at."""
    told: dict[str, Any] = {}

    def encode(image: Any, true_shape: Any) -> Any:
        assert image.shape[0] == 1 and true_shape.tolist() == [list(image.shape[2:])]
        observed = oracle.look(image[0].numpy() * 0.5 + 0.5)
        first = told.setdefault("first", observed.index)
        pose = oracle.camera_from_world(first) @ oracle.poses[observed.index]
        for name, frame, more in (("self", observed.index, 0), ("cross", first, MORE_SURE)):
            raw = before_exp(oracle.points(observed, frame=frame))
            sure = np.log(oracle.confidence(observed) - 1 + more)[..., None]
            told[name] = torch.from_numpy(np.concatenate([raw, sure], axis=-1)).float().permute(2, 0, 1)[None]
        turn = -matrix_to_quaternion(torch.from_numpy(pose[None, :3, :3])) * 3  # upstream makes it a unit's, w > 0
        told["pose"] = torch.cat([torch.from_numpy(before_exp(pose[None, :3, 3])), turn], dim=-1).float()
        return [torch.zeros(1, 9, 1)], torch.zeros(1, 9, 2), None

    class Says(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, *_: Any, **__: Any) -> Any:
            return told[self.name]

    head = DPTPts3dPose.__new__(DPTPts3dPose)
    torch.nn.Module.__init__(head)
    head.has_rgb, head.has_pose, head.final_transform = False, True, []
    head.depth_mode, head.conf_mode, head.pose_mode = (module.SHAPE[f"{n}_mode"] for n in ("depth", "conf", "pose"))
    head.dpt_self, head.dpt_cross, head.pose_head = Says("self"), Says("cross"), Says("pose")

    network = model.ARCroco3DStereo.__new__(model.ARCroco3DStereo)
    torch.nn.Module.__init__(network)
    network.dec_depth, network.pose_head_flag = 4, True
    network.pose_token = torch.nn.Parameter(torch.zeros(1, 1, 1))
    network.head = transpose_to_landscape(head, activate=False)
    network.pose_retriever = types.SimpleNamespace(
        mem=torch.zeros(1, 2, 2), inquire=lambda feature, mem: feature, update_mem=lambda mem, *_: mem
    )
    network._encode_image = encode
    network._init_state = lambda *_: (torch.zeros(1, 3, 1), torch.zeros(1, 3, 2))
    network._recurrent_rollout = lambda *_, **__: (torch.zeros(1, 3, 1), [torch.zeros(1, 10, 1)] * 5)
    return network.eval()


def run(oracle: PixelOracle, **options: str) -> Any:
    return answer(Adapter(**options), Stub(oracle), oracle)


@pytest.mark.parametrize("points", ["local", "world"])
@photo_sets(PHOTOS)
def test_known_geometry_comes_back_through_the_pixels(sizes: Sequence[tuple[int, int]], points: str) -> None:
    oracle = PixelOracle(*sizes)
    result = run(oracle, points=points)
    oracle.least += MORE_SURE if points == "world" else 0
    oracle.check(result)
    assert result.scale == "metric" and result.cameras is not None
    apart = np.linalg.norm(result.cameras.centres - result.cameras.centres[0], axis=1)
    wanted = np.linalg.norm(oracle.poses[: len(sizes), :3, 3] - oracle.poses[0, :3, 3], axis=1)
    assert np.allclose(apart, wanted, atol=1e-3)  # in the network's own metres


class TestCUT3R(ThroughThePixels):
    run = staticmethod(run)


def test_views_are_shown_one_after_the_other_in_the_order_given() -> None:
    oracle = PixelOracle(LANDSCAPE, PORTRAIT, LANDSCAPE)
    shown: list[int] = []
    look = oracle.look
    with mock.patch.object(oracle, "look", lambda image: shown.append(look(image).index) or look(image)):
        run(oracle)
    assert shown == [0, 1, 2]


@pytest.mark.parametrize("sizes", [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT], [(300, 200), (900, 300)]])
def test_prepares_what_upstream_s_loader_would(sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    loader = pytest.importorskip("dust3r.utils.image", reason="upstream's loader wants torchvision and OpenCV")
    oracle = PixelOracle(*sizes)
    paths = saved_photos(oracle.views, tmp_path)
    prepared = Adapter().prepare(oracle.views)
    for image, wanted in zip(prepared.images, loader.load_images(paths, 512, verbose=False), strict=True):
        assert np.array_equal(image, wanted["img"][0].numpy())


def records(images: Any) -> list[dict[str, Any]]:
    """Upstream's records of images (N, 3, h, w), as its demo makes them."""
    flags = {"img_mask": True, "ray_mask": False, "update": True, "reset": False}
    return [
        {
            "img": torch.from_numpy(image[None]),
            "ray_map": torch.full((1, 6, *image.shape[1:]), torch.nan),
            "true_shape": torch.from_numpy(np.int32([image.shape[1:]])),
            "camera_pose": torch.eye(4)[None],
            **{name: torch.tensor([flag]) for name, flag in flags.items()},
        }
        for image in images
    ]


def test_it_says_what_upstream_s_demo_says() -> None:
    """Upstream's demo encodes all images at once, which wants them of one size; its recurrent pass does not."""
    from dust3r.inference import inference, inference_recurrent

    torch.manual_seed(0)
    adapter = Adapter()
    with mock.patch.dict(module.SHAPE, SMALL):
        adapter.network = adapter.build(None).eval()
    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, 32, 48)).astype(np.float32)
    places = tuple(Placement((48, 32), (48, 32), (1.0, 1.0), (0.0, 0.0)) for _ in images)
    ours = adapter.infer(Inputs(tuple(images), places))
    for way in (inference, inference_recurrent):
        theirs = way(records(images), adapter.network, "cpu", verbose=False)[0]["pred"]
        for view, wanted in zip(ours, theirs, strict=True):
            assert np.allclose(view.local_points, wanted["pts3d_in_self_view"][0], rtol=1e-4, atol=1e-5)
            assert np.allclose(view.world_points, wanted["pts3d_in_other_view"][0], rtol=1e-4, atol=1e-5)
            assert np.allclose(view.local_confidence, wanted["conf_self"][0], rtol=1e-4)
            assert np.allclose(view.world_confidence, wanted["conf"][0], rtol=1e-4)
            pose = pose_encoding_to_camera(wanted["camera_pose"])[0]
            assert np.allclose(view.world_from_camera, pose, atol=1e-5)
    backwards = adapter.infer(Inputs(tuple(images[::-1]), places))
    assert not np.allclose(backwards[2].world_from_camera, ours[0].world_from_camera, atol=1e-4)  # the order matters
