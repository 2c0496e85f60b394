"""The combined pipeline around stubs that know a photo's object and depth, and around transformers' networks, small."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.contract import ContractError, Unavailable, Views
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD
from adapters.systems.combined.adapter import Adapter, depth_size, detector_size, segmenter_size
from tests.adapters.objects import DISC, check_disc, disc_depth, disc_views
from tests.adapters.upstream.oracle import PixelOracle

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def levels(image: Any) -> Any:
    return image[0].numpy() * IMAGENET_STD + IMAGENET_MEAN


def Stub(size: tuple[int, int] = (640, 480), relative: bool = False) -> Any:  # noqa: N802 - as the others' stubs
    """The disc's box, its mask among worse ones, and the depth where the photo's pixels say."""
    oracle = PixelOracle(size)

    def photo_pixels(image: Any, at: Any) -> Any:
        affine = oracle.look(levels(image)).affine
        return at @ affine[:, :2].T + affine[:, 2]

    def detector(pixel_values: Any, input_ids: Any) -> Any:
        assert min(pixel_values.shape[2:]) == 800 and input_ids.tolist() == [[101, 4874, 1012, 102]]
        (x, y), r = DISC[:2], DISC[2]
        boxes = np.array([[0.1, 0.1, 0.2, 0.2], [x / size[0], y / size[1], 2 * r / size[0], 2 * r / size[1]]])
        words = np.array([[-3.0, 0.0, -9.0], [-5.0, 2.0, -1.0]])
        return types.SimpleNamespace(logits=torch.from_numpy(words[None]), pred_boxes=torch.from_numpy(boxes[None]))

    def segmenter(pixel_values: Any, input_boxes: Any) -> Any:
        wanted = np.array([DISC[0] - DISC[2], DISC[1] - DISC[2], DISC[0] + DISC[2], DISC[1] + DISC[2]])
        corners = input_boxes[0, 0].reshape(2, 2).numpy()
        assert np.abs(photo_pixels(pixel_values, corners).ravel() - wanted).max() < 0.3
        u, v = np.meshgrid(*[(np.arange(256) + 0.5) * 4] * 2)
        away = np.linalg.norm(photo_pixels(pixel_values, np.stack([u, v], -1)) - DISC[:2], axis=-1)
        masks = np.stack([0 * away + 5, np.round(4 * (DISC[2] - away)) / 4, 0 * away - 5]).astype(np.float32)
        scores = torch.tensor([[[0.3, 0.9, 0.5]]])
        return types.SimpleNamespace(pred_masks=torch.from_numpy(masks[None, None]), iou_scores=scores)

    def depth(pixel_values: Any) -> Any:
        height, width = pixel_values.shape[2:]
        u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        far = disc_depth(photo_pixels(pixel_values, np.stack([u, v], -1)), size)
        predicted = (1 / far - 0.1) / 2 if relative else np.round(far * 512) / 512  # recorded in few bytes
        return types.SimpleNamespace(predicted_depth=torch.from_numpy(predicted[None]))

    network = torch.nn.Module()
    network.detector, network.segmenter, network.depth = detector, segmenter, depth
    return network


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (603, 411)])
@pytest.mark.parametrize("given", ["nothing", "camera", "mask"])
def test_the_disc_comes_back_where_it_is(size: tuple[int, int], given: str) -> None:
    views = disc_views(size, masked=given == "mask", posed=given == "camera")
    adapter = Adapter(fov=50.0)
    adapter.network, adapter.words = Stub(size), [101, 4874, 1012, 102]
    check_disc(adapter.predict(views), views, 50.0, "metric", 1.0 if given == "mask" else 1 / (1 + np.exp(-2)))


def test_relative_depth_is_inverted_by_the_numbers_given() -> None:
    views = disc_views()
    adapter = Adapter(fov=50.0, depth="relative", scale=2.0, shift=0.1)
    adapter.network, adapter.words = Stub(relative=True), [101, 4874, 1012, 102]
    check_disc(adapter.predict(views), views, 50.0, "arbitrary", 1 / (1 + np.exp(-2)))


def test_no_object_is_one_sentence() -> None:
    adapter = Adapter(least=0.95, prompt="cat")
    adapter.network, adapter.words = Stub(), [101, 4874, 1012, 102]
    with pytest.raises(ContractError, match=r"points: the detector sees no cat: 0.88 at best, 0.95 wanted"):
        adapter.predict(disc_views())


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1603, 411), (500, 500), (301, 203)])
def test_photos_are_prepared_as_transformers_own_processors_do(size: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    shown = Adapter().prepare(Views((photo,), ("000",)))
    look = transformers.GroundingDinoImageProcessor()(images=photo, return_tensors="pt")["pixel_values"]
    cut = transformers.SamImageProcessor()(images=photo, return_tensors="pt")["pixel_values"]
    options: dict[str, Any] = {"size": {"height": 518, "width": 518}, "keep_aspect_ratio": True, "resample": 3}
    options |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "ensure_multiple_of": 14}
    far = transformers.DPTImageProcessor(**options)(images=photo, return_tensors="pt")["pixel_values"]
    for name, ours, theirs in zip(("look", "cut", "far"), shown.images, (look, cut, far), strict=True):
        wanted = np.asarray(theirs[0])
        assert ours.shape == wanted.shape, name
        assert np.abs(ours - wanted).mean() < 0.01 and np.abs(ours - wanted).max() < 0.1, name
    assert detector_size(photo) and segmenter_size(photo) and depth_size(photo)


def small() -> dict[str, Any]:
    """Networks of transformers' classes, narrow."""
    t = transformers
    swin = t.SwinConfig(embed_dim=16, depths=[1] * 4, num_heads=[2] * 4, out_features=["stage2", "stage3", "stage4"])
    text = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "vocab_size": 200}
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 20}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32, "output_channels": 32}
    vision |= {"num_pos_feats": 16, "global_attn_indexes": [0]}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sam = t.SamConfig(
        vision_config=vision, prompt_encoder_config={"hidden_size": 32},
        mask_decoder_config={**decoder, "iou_head_hidden_dim": 32},
    )  # fmt: skip
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False}
    dino = t.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, patch_size=14, image_size=518, **stages
    )
    far = t.DepthAnythingConfig(
        backbone_config=dino, reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16,
        head_hidden_size=8, depth_estimation_type="metric", max_depth=20,
    )  # fmt: skip
    config = t.GroundingDinoConfig(backbone_config=swin, text_config=text, **sizes, **heads)
    return {
        "detector": t.GroundingDinoForObjectDetection(config),
        "segmenter": t.SamModel(sam),
        "": t.DepthAnythingForDepthEstimation(far),
    }


def save_as_upstream(_: Any, folder: Path) -> dict[str, Any]:
    """Small networks and a tokenizer of few words, by transformers; each network below its folder's name."""
    torch.manual_seed(0)
    networks = small()
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "red", "chair"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "detector")
    return networks


def test_whole_networks_saved_by_transformers_load_and_run(tmp_path: Path) -> None:
    networks = save_as_upstream(None, tmp_path)
    adapter = Adapter(prompt="Red chair.", least=0.0)
    adapter.load("cpu", str(tmp_path), 0)
    assert adapter.words == [2, 6, 7, 5, 3]
    own = {"detector": adapter.network.detector, "segmenter": adapter.network.segmenter, "": adapter.network.depth}
    for name, network in networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(own[name].state_dict()[key], tensor), (name, key)
    shown = adapter.prepare(disc_views())
    outputs = adapter.infer(shown)
    assert outputs.depth.shape == shown.images[2].shape[1:] and outputs.mask is not None
    assert outputs.mask.shape == (256, 256) and 0 <= outputs.score <= 1
    with pytest.raises(Unavailable, match="a network of metric depth seen, one of relative depth wanted"):
        Adapter(depth="relative").load("cpu", str(tmp_path), 0)
    from safetensors.torch import load_file, save_file

    wrong = load_file(tmp_path / "segmenter" / "model.safetensors")
    first = sorted(wrong)[0]
    del wrong[first]
    save_file({**wrong, "more": torch.zeros(1)}, tmp_path / "segmenter" / "model.safetensors", {"format": "pt"})
    with pytest.raises(Unavailable, match=r"segmenter: not a checkpoint of this network: .*unknown \(more\)"):
        adapter.load("cpu", str(tmp_path), 0)
    with pytest.raises(Unavailable, match="not a network's folder"):
        adapter.load("cpu", str(tmp_path / "nowhere"), 0)
