"""MapAnything's adapter around upstream's own inference, whose heads answer with known geometry: what becomes of their
words (activations, scale, poses, masks, fitted intrinsics) is upstream's."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.contract import Unavailable
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD
from adapters.systems.mapanything.adapter import Adapter, backbone, network_size
from tests.adapters.upstream.oracle import (
    LARGE_PHOTOS,
    PixelOracle,
    WithAnyPrincipalPoint,
    answer,
    by_exif,
    saved_photos,
)

torch = pytest.importorskip("torch")
models = pytest.importorskip("mapanything.models", reason="MapAnything's code is not importable")
from mapanything.utils import image as loader  # noqa: E402
from mapanything.utils.geometry import rotation_matrix_to_quaternion  # noqa: E402
from uniception.models.encoders import ViTEncoderOutput  # noqa: E402
from uniception.models.info_sharing.base import MultiViewTransformerOutput  # noqa: E402
from uniception.models.prediction_heads.base import PixelTaskOutput, SummaryTaskOutput  # noqa: E402

LANDSCAPE, PORTRAIT, SQUARE, ODD = LARGE_PHOTOS
WORLD = np.array([[0.0, -1, 0, 3], [0.6, 0, -0.8, 1], [0.8, 0, 0.6, -2], [0, 0, 0, 1]])  # one of no view's
TINY = [  # of upstream's own configuration
    "model=mapanything",
    "machine=default",
    "model.encoder.size=small",
    "model.encoder.keep_first_n_layers=1",
    "model.info_sharing.module_args.dim=384",
    "model.info_sharing.module_args.num_heads=6",
    "model.info_sharing.module_args.depth=4",
    "model.info_sharing.module_args.indices=[1,2]",
    "model.pred_head.feature_head.feature_dim=16",
    "+model.pred_head.feature_head.layer_dims=[8,8,8,8]",
    "+model.task.ray_dirs_encoder_config.intermediate_dims=[8,8,8]",
    "+model.task.depth_encoder_config.intermediate_dims=[8,8,8]",
]


@functools.cache
def tiny() -> Any:
    """Upstream's network by its own factory, small and random."""
    chosen = models._init_hydra_config("configs/train.yaml", TINY).model
    with mock.patch.object(torch.hub, "load", backbone):
        return models.init_model(chosen.model_str, chosen.model_config).eval()


def configuration(small: bool) -> dict[str, Any]:
    """Of that network, or of the published one."""
    chosen = models._init_hydra_config("configs/train.yaml", TINY if small else TINY[:2]).model
    return dict(models.OmegaConf.to_container(chosen.model_config, resolve=True))


def Stub(  # noqa: N802 - made as the other systems' stubs are
    oracle: PixelOracle, spoil: Callable[[NDArray[np.float64]], None] = lambda dense: None
) -> Any:
    """Upstream's network, whose encoder looks at the images and whose heads say the oracle's truth, halved in scale.

    `spoil` changes what the dense head says: (N, 6, h, w) of rays, log depth along them, log confidence, mask."""
    told: dict[str, Any] = {}

    class Encoder(torch.nn.Module):
        def forward(self, given: Any) -> Any:
            assert given.data_norm_type == "dinov2"
            observed = [oracle.look(image) for image in given.image.numpy() * IMAGENET_STD + IMAGENET_MEAN]
            points = np.stack([oracle.points(s, frame=s.index) for s in observed]) / 4
            reach = np.linalg.norm(points, axis=-1, keepdims=True)
            confidence = np.stack([oracle.confidence(s) for s in observed])[..., None]
            sure = np.full_like(reach, 4.0)
            dense = np.concatenate([3 * points / reach, np.log(reach), np.log(confidence - 1), sure], axis=-1)
            dense = dense.transpose(0, 3, 1, 2)
            spoil(dense)
            poses = np.stack([WORLD @ oracle.poses[s.index] for s in observed])
            quaternions = 2 * rotation_matrix_to_quaternion(torch.from_numpy(poses[:, :3, :3]))
            told["dense"] = torch.from_numpy(dense).float()
            told["pose"] = torch.cat([torch.from_numpy(poses[:, :3, 3] / 4), quaternions], dim=1).float()
            # Features say no more than which view they are of.
            return ViTEncoderOutput(features=torch.arange(float(len(observed)))[:, None, None, None])

    class Sharing(torch.nn.Module):
        def forward(self, given: Any) -> Any:
            out = MultiViewTransformerOutput(given.features, given.additional_input_tokens)
            return out, [out, out]

    class DenseHead(torch.nn.Module):
        def forward(self, given: Any) -> Any:
            return PixelTaskOutput(told["dense"][given.list_features[-1].flatten().long()])

    class PoseHead(torch.nn.Module):
        def forward(self, given: Any) -> Any:
            return SummaryTaskOutput(told["pose"][given.last_feature.flatten().long()])

    class ScaleHead(torch.nn.Module):
        def forward(self, given: Any) -> Any:
            return SummaryTaskOutput(torch.full((len(given.last_feature), 1, 1), np.log(2.0)))

    network = copy.deepcopy(tiny())
    network.encoder, network.info_sharing = Encoder(), Sharing()
    network.dense_head, network.pose_head, network.scale_head = DenseHead(), PoseHead(), ScaleHead()
    network._encode_and_fuse_optional_geometric_inputs = lambda views, features: features
    return network


def run(oracle: PixelOracle, spoil: Callable[[NDArray[np.float64]], None] = lambda dense: None) -> Any:
    return answer(Adapter(), Stub(oracle, spoil), oracle)


class TestMapanything(WithAnyPrincipalPoint):
    turned = (PORTRAIT, LANDSCAPE)
    spoiled = (ODD, PORTRAIT)
    run = staticmethod(run)


def test_lengths_are_those_of_the_scale_that_the_network_said() -> None:
    oracle = PixelOracle(LANDSCAPE, LANDSCAPE)
    result = run(oracle)
    assert result.scale == "metric"
    far = np.linalg.norm(oracle.poses[1, :3, 3] - oracle.poses[0, :3, 3])
    assert np.linalg.norm(result.cameras.centres[1]) == pytest.approx(far / 2, rel=1e-5)


def test_ambiguous_pixels_and_edges_give_no_point() -> None:
    oracle = PixelOracle(LANDSCAPE)

    def spoil(dense: NDArray[np.float64]) -> None:
        dense[:, 5, :, :100] = -4.0  # the sky
        dense[:, 3, 150:250, 250:400] -= 0.5  # something nearer stands in front of the wall

    adapter = Adapter()
    adapter.network = Stub(oracle, spoil)
    outputs = adapter.infer(adapter.prepare(oracle.views))
    shown = outputs.shown[0]
    assert not shown[:, :100].any() and shown[:100, 100:].all() and shown[160:240, 260:390].all()
    assert not shown[150:250, 250].any() and not shown[150, 250:400].any()
    result = adapter.finish(outputs, oracle.views)
    result.validate(oracle.views)
    assert len(result.points) == shown.sum()
    assert result.pixel[:, 0].min() == pytest.approx(outputs.placements[0].pixels()[0, 100, 0])
    assert (result.depth[0][:, :150] == 0).all() and (result.depth[0][5:100, 160:790] > 0).all()


SIZES = [[LANDSCAPE], [PORTRAIT] * 2, [SQUARE], [ODD, PORTRAIT], [(301, 203)], [(1600, 91)], [(640, 480), (519, 1037)]]


@pytest.mark.parametrize("sizes", SIZES)
def test_prepares_what_upstream_s_loaders_would(sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    oracle = PixelOracle(*sizes)
    paths = saved_photos(oracle.views, tmp_path)
    own = np.stack(Adapter().prepare(oracle.views).images)
    inputs = [{"img": image} for image in oracle.views.images]
    for wanted in (loader.load_images(paths), loader.preprocess_inputs(inputs)):
        assert np.array_equal(own, torch.cat([view["img"] for view in wanted]).numpy())


def test_prepares_what_upstream_s_loader_would_of_turned_photos(tmp_path: Path) -> None:
    oracle = PixelOracle(PORTRAIT, LANDSCAPE, ODD)
    upright = by_exif(tmp_path, oracle.views)
    wanted = loader.load_images(str(tmp_path))
    own = np.stack(Adapter().prepare(upright).images)
    assert np.array_equal(own, torch.cat([view["img"] for view in wanted]).numpy())


def test_shapes_are_chosen_as_upstream_does() -> None:
    rng = np.random.default_rng(0)
    for count in rng.integers(1, 4, 2000):
        photos = tuple(np.zeros((height, width, 3), np.uint8) for width, height in rng.integers(20, 90, (count, 2)))
        mean = sum(photo.shape[1] / photo.shape[0] for photo in photos) / count
        assert network_size(photos) == loader.find_closest_aspect_ratio(mean, 518)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*arguments: Any, **options: Any) -> None:
        raise AssertionError("something is fetched")

    monkeypatch.setattr(torch.hub, "load", fetch)


@pytest.mark.usefixtures("offline")
def test_loads_a_checkpoint_as_the_hub_has_it(tmp_path: Path) -> None:
    published, config = tiny(), configuration(small=True)
    published.save_pretrained(tmp_path, config=config)
    adapter = Adapter()
    adapter.load("cpu", str(tmp_path), 0)
    wanted, own = published.state_dict(), adapter.network.state_dict()
    assert own.keys() == wanted.keys() and all(torch.equal(own[name], wanted[name]) for name in wanted)
    assert not adapter.network.training
    oracle = PixelOracle((300, 200), (200, 300))
    outputs = adapter.infer(adapter.prepare(oracle.views))
    again = adapter.infer(adapter.prepare(oracle.views))
    assert outputs.points.shape == (2, 518, 518, 3) and outputs.points.dtype == np.float32
    assert outputs.confidence.min() >= 1 and outputs.shown.dtype == np.bool_
    assert np.array_equal(outputs.points, again.points)


@pytest.mark.usefixtures("offline")
def test_a_file_that_lacks_a_parameter_is_unavailable(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    published, config = tiny(), configuration(small=True)
    published.save_pretrained(tmp_path, config=config)
    parameters = load_file(tmp_path / "model.safetensors")
    parameters.pop("scale_token")
    save_file(parameters, tmp_path / "model.safetensors")
    with pytest.raises(Unavailable, match=r"not a checkpoint of this network.*scale_token"):
        Adapter().load("cpu", str(tmp_path), 0)


@pytest.mark.usefixtures("offline")
def test_random_weights_are_of_upstream_s_published_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def factory(model: str, **options: Any) -> Any:
        asked.update(options, model=model)
        return torch.nn.Linear(2, 2)

    monkeypatch.setattr(models, "model_factory", factory)
    adapters = [Adapter(), Adapter(), Adapter()]
    for adapter, seed in zip(adapters, (1, 1, 2), strict=True):
        adapter.load("cpu", "random", seed)
    assert asked["model"] == "mapanything" and asked["encoder_config"]["size"] == "giant"
    assert asked["encoder_config"]["keep_first_n_layers"] == 24
    assert asked["info_sharing_config"]["module_args"]["depth"] == 16
    first, same, other = (adapter.network.weight for adapter in adapters)
    assert torch.equal(first, same) and not torch.equal(first, other)
