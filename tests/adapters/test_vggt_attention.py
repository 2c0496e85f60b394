"""VGGT's attention, captured: rows are rows of the full maps, rollout is the product of the full matrices."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.contract import Unsupported, Views
from adapters.systems.vggt.adapter import Adapter
from adapters.systems.vggt.attention import (
    PROGRESS,
    Capture,
    Tokens,
    attention_rows,
    main,
    parse_ranges,
    queries_and_keys,
    residual_rows,
    rollout,
    source_patches,
)

DEPTH, VIEWS, HEIGHT, WIDTH = 24, 3, 70, 98
TOKENS = Tokens(VIEWS, HEIGHT // 14, WIDTH // 14, 5)


def upstream_aggregator() -> Any:
    """VGGT's own module; skips naming what is missing. RECONBENCH_UPSTREAM_VGGT names a checkout."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    folder = os.environ.get("RECONBENCH_UPSTREAM_VGGT")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module("vggt.models.aggregator")
    except ImportError as error:
        pytest.skip(f"VGGT's code is not importable ({error}); RECONBENCH_UPSTREAM_VGGT=FOLDER names a checkout")
    torch.manual_seed(0)
    network = module.Aggregator(img_size=70, depth=DEPTH, embed_dim=64, num_heads=4, patch_embed="conv").eval()
    with torch.no_grad():  # the initial network attends almost evenly: sharper queries tell rows apart
        for block in network.global_blocks:
            block.attn.q_norm.weight *= 4.0
    return network


def brute_force(heads: NDArray[np.float64], discard: float) -> NDArray[np.float64]:
    """Rollout as it is defined, from whole matrices (layers, heads, N, N)."""
    result = np.eye(heads.shape[-1])
    for layer in heads:
        fused = layer.max(axis=0)
        for row in fused:
            row[np.argsort(row, kind="stable")[: int(discard * len(row))]] = 0.0
        fused = (fused + np.eye(len(fused))) / 2
        result = fused / fused.sum(axis=1, keepdims=True) @ result
    return result


@pytest.mark.parametrize("discard", [0.0, 0.5, 0.9])
def test_rollout_is_the_product_of_the_whole_matrices(discard: float) -> None:
    rng = np.random.default_rng(3)
    logits = 3 * rng.standard_normal((6, 4, 90, 90))
    heads = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    sources = np.array([4, 17, 89])
    asked: list[int] = []

    def rows_of(layer: int) -> Any:
        def rows(index: NDArray[np.int64]) -> NDArray[np.float32]:
            asked.append(len(index))
            return heads[layer, :, index].max(axis=1)  # type: ignore[no-any-return]

        return rows, 32

    result = rollout(rows_of, 6, sources, 90, discard)
    np.testing.assert_allclose(result, brute_force(heads.copy(), discard)[sources], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.sum(axis=1), 1.0, rtol=1e-6)
    assert max(asked) <= 32  # memory stays bounded
    assert asked[0] == len(sources)  # of the last layer, no row but the sources'


def test_the_order_of_layers_and_the_identity_matter() -> None:
    rng = np.random.default_rng(5)
    layers = rng.dirichlet(np.ones(8), size=(2, 8))
    plain = layers[1] @ layers[0]
    result = rollout(lambda layer: (lambda rows: layers[layer][rows], 8), 2, np.arange(8), 8, 0.0)
    halves = (layers + np.eye(8)) / 2
    np.testing.assert_allclose(result, halves[1] @ halves[0], rtol=1e-6)
    assert np.abs(result - plain).max() > 0.05
    assert np.abs(result - halves[0] @ halves[1]).max() > 0.01


def test_discarding_keeps_ties_and_the_residual() -> None:
    rows = residual_rows(np.full((2, 10), 0.1), np.array([0, 7]), 0.9)
    np.testing.assert_allclose(rows[1], np.where(np.arange(10) == 7, 1.1, 0.1) / 2)
    with pytest.raises(Unsupported, match="discard"):
        rollout(lambda layer: (lambda rows: np.eye(3, dtype=np.float32)[rows], 3), 1, np.arange(3), 3, 1.0)


def test_tokens_and_sources() -> None:
    numbered = np.arange(len(TOKENS), dtype=np.float32)
    maps, special = TOKENS.split(numbered)
    assert maps.shape == (VIEWS, 5, 7)
    assert special.shape == (VIEWS,)
    everything = source_patches(TOKENS, 0)
    assert len(everything) == VIEWS * 35
    np.testing.assert_array_equal(numbered[TOKENS.index(*everything.T)], maps.ravel())
    small = source_patches(TOKENS, 3)
    assert {tuple(patch) for patch in small[:9, 1:]} == {(r, c) for r in (0, 2, 4) for c in (1, 3, 5)}
    assert len(source_patches(TOKENS, 99)) == len(everything)


def test_ranges() -> None:
    assert parse_ranges("", 24) == [(0, 5), (6, 11), (12, 17), (18, 23)]
    assert parse_ranges("", 2) == [(0, 0), (1, 1)]
    assert parse_ranges("0-5, 23", 24) == [(0, 5), (23, 23)]
    for wrong in ("24", "5-4", "a", "0-", "-3", "1,,2"):
        with pytest.raises(Unsupported, match="--layers"):
            parse_ranges(wrong, 24)


@pytest.mark.parametrize("heads", ["mean", "max"])
def test_captured_rows_and_rollout_equal_the_full_maps(heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = upstream_aggregator()
    import torch

    monkeypatch.setattr("adapters.systems.vggt.attention.CHUNK_BYTES", 4 * 4 * len(TOKENS) * 7)  # seven rows at once
    images = torch.rand(1, VIEWS, 3, HEIGHT, WIDTH)
    full, fused, undo = [], [], []
    for block in network.global_blocks:  # whole maps, from the module's own code without the fused kernel

        def see(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            weights: list[Any] = []
            drop = module.attn_drop.register_forward_hook(lambda m, a, out: weights.append(out))
            module.fused_attn = False
            plain = module.forward(*args, **kwargs)
            module.fused_attn = True
            drop.remove()
            full.append(weights[0][0].numpy())
            fused.append(float((plain - output).abs().max()))

        undo.append(block.attn.register_forward_hook(see, with_kwargs=True))
    patches = source_patches(TOKENS, 3)
    sources = TOKENS.index(*patches.T)
    ranges = parse_ranges("0-5,6-23,23", DEPTH)
    with torch.no_grad(), Capture(network.global_blocks, sources, ranges, heads, keep_inputs=True) as observed:
        before, _ = network(images)
    for handle in undo:
        handle.remove()
    maps = np.stack(full).astype(np.float64)
    assert maps.shape == (DEPTH, 4, len(TOKENS), len(TOKENS))
    assert max(fused) < 1e-5
    combined = (maps.mean(axis=1) if heads == "mean" else maps.max(axis=1))[:, sources]
    wanted = np.stack([combined[first : last + 1].mean(axis=0) for first, last in ranges])
    assert combined.max() > 10 / len(TOKENS)  # the rows are far from even, so that a wrong one is seen
    assert np.abs(observed.attention - wanted).max() < 1e-6
    assert np.abs(observed.rollout(0.9) - brute_force(maps.copy(), 0.9)[sources]).max() < 1e-6
    with torch.no_grad():  # the hooks changed nothing and are gone
        after, _ = network(images)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not network.global_blocks[0].attn._forward_pre_hooks


def test_the_whole_capture_on_cropped_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upstream's forward with small parts; at side 140, portraits of 480 x 640 become 140 x 182, cropped to 140."""
    trunk = upstream_aggregator()
    import torch
    from vggt.heads.camera_head import CameraHead
    from vggt.heads.dpt_head import DPTHead
    from vggt.models.vggt import VGGT

    small = {"conf_activation": "expp1", "features": 32, "out_channels": [16, 32, 64, 64]}
    network = VGGT.__new__(VGGT)
    torch.nn.Module.__init__(network)
    network.aggregator, network.track_head = trunk, None
    network.camera_head = CameraHead(dim_in=128, num_heads=4)
    network.depth_head = DPTHead(dim_in=128, output_dim=2, activation="exp", **small)
    network.point_head = DPTHead(dim_in=128, output_dim=4, activation="inv_log", **small)

    def load(self: Adapter, device: str, weights: str, seed: int) -> None:
        self.network = network.eval()

    monkeypatch.setattr(Adapter, "load", load)
    monkeypatch.setattr("adapters.systems.vggt.adapter.SIDE", 140)
    rng = np.random.default_rng(0)
    photos = tuple(rng.integers(0, 255, (640, 480, 3), dtype=np.uint8) for _ in range(2))
    Views(photos, ("000", "001")).save(tmp_path / "views.npz")
    asked = {"options": {}, "device": "cpu", "weights": "/some/file.pt", "seed": 0, "layers": "0,20-23", "pixels": 3}
    (tmp_path / "request.json").write_text(json.dumps({**asked, "heads": "mean", "discard": 0.9}))
    main(str(tmp_path))
    with np.load(tmp_path / "attention.npz", allow_pickle=False) as result:
        assert result["names"].tolist() == ["layers 0-0", "layers 20-23", "rollout"]
        assert result["maps"].shape == (3, 18, 2, 10, 10)
        assert result["sources"][:4].tolist() == [[0, 1, 1], [0, 1, 5], [0, 1, 8], [0, 5, 1]]
        np.testing.assert_allclose(result["maps"].sum(axis=(2, 3, 4)) + result["special"].sum(axis=2), 1.0, rtol=1e-4)
        top = 21 / 182 * 640
        np.testing.assert_allclose(result["area"], [[0, top, 480, 640 - top]] * 2)
    assert (tmp_path / "prediction.npz").is_file()
    output = [line for line in capsys.readouterr().out.splitlines() if line.startswith(PROGRESS)]
    assert len(output) == 1 + DEPTH + DEPTH
    assert output[1 + DEPTH - 1].split()[2] == "0.400"  # the pass is done
    assert output[-1].split()[2] == "0.975"  # the last layer of rollout begins


def test_another_row_is_another_patch() -> None:
    network = upstream_aggregator()
    import torch

    attention = network.global_blocks[0].attn
    x, position = torch.randn(1, len(TOKENS), 64), torch.zeros(1, len(TOKENS), 2, dtype=torch.long)
    queries, keys = queries_and_keys(attention, x, position)
    near, far = attention_rows(queries, keys, np.array([5, 6]), "mean")
    assert np.abs(near - far).max() > 1e-3
    np.testing.assert_allclose([near.sum(), far.sum()], 1.0, rtol=1e-5)
