"""Where VGGT's global attention falls: rows of chosen source patches, captured while the network runs.

A whole map is N x N numbers for each layer and head (N = views x (5 + patches of a view)); a hook on each global
block recomputes the rows asked for and nothing else. Runs inside the adapter's environment, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F32, F64, ContractError, Unavailable, Unsupported, Views
from adapters.systems.vggt.adapter import PATCH, Adapter

I64 = NDArray[np.int64]
Range = tuple[int, int]  # first and last layer, both included
CHUNK_BYTES = 2**28  # of attention rows held at once
PARTS = 4  # layer ranges where none are asked for
PROGRESS = "attention progress "  # begins a line of standard output: a share of the work, then what is being done


@dataclasses.dataclass(frozen=True)
class Tokens:
    """How the tokens of S views lie in a row: for each view `special` ones (camera, registers), then its patches."""

    views: int
    rows: int
    columns: int
    special: int

    def __len__(self) -> int:
        return self.views * (self.special + self.rows * self.columns)

    def index(self, view: NDArray[Any], row: NDArray[Any], column: NDArray[Any]) -> I64:
        """The tokens of patches, each argument (M,)."""
        each = self.special + self.rows * self.columns
        return np.asarray(view * each + self.special + row * self.columns + column, np.int64)

    def split(self, attention: F32) -> tuple[F32, F32]:
        """(..., N) -> maps (..., S, rows, columns), and what falls on each view's special tokens (..., S)."""
        lead = attention.shape[:-1]
        whole = attention.reshape(*lead, self.views, self.special + self.rows * self.columns)
        maps = whole[..., self.special :].reshape(*lead, self.views, self.rows, self.columns)
        return maps, whole[..., : self.special].sum(axis=-1)


def source_patches(tokens: Tokens, pixels: int) -> I64:
    """(M, 3) view, row and column of the source patches: `pixels` evenly spread along each side; 0 = every patch."""
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * side / n)
        for side, n in ((s, min(pixels or s, s)) for s in (tokens.rows, tokens.columns))
    )
    grid = np.meshgrid(np.arange(tokens.views), rows, columns, indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, 3).astype(np.int64)


def parse_ranges(text: str, depth: int) -> list[Range]:
    """The ranges of "0-5,23": [(0, 5), (23, 23)]; four even ones where `text` is empty. Layers count from 0.

    Raises Unsupported for what is not a range of a network with `depth` global blocks."""
    if not text:
        parts = min(PARTS, depth)
        return [(depth * i // parts, depth * (i + 1) // parts - 1) for i in range(parts)]
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last) < depth):
            raise Unsupported(f"--layers: {part.strip()!r} seen, layers such as 0-5 of 0-{depth - 1} wanted")
        ranges.append((int(first), int(last)))
    return ranges


class Capture:
    """A context manager round one forward pass: hooks on the global blocks that record what is asked for."""

    def __init__(
        self,
        blocks: Sequence[Any],
        sources: I64,
        ranges: Sequence[Range],
        heads: str,
        keep_inputs: bool,
        progress: Callable[[int], None] = lambda layer: None,
    ) -> None:
        self._blocks, self._sources, self._ranges, self._heads = blocks, sources, ranges, heads
        self._keep, self._progress = keep_inputs, progress
        self._inputs: list[Any] = [None] * len(blocks)
        self.attention: F32 = np.zeros((len(ranges), len(sources), 0), np.float32)  # (R, M, N) after the pass
        self._handles: list[Any] = []

    def __enter__(self) -> Capture:
        for layer, block in enumerate(self._blocks):

            def hook(module: Any, args: Any, kwargs: Any, layer: int = layer) -> None:
                self._see(layer, args[0], kwargs.get("pos", args[1] if len(args) > 1 else None))

            self._handles.append(block.attn.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *ending: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, layer: int, x: Any, position: Any) -> None:
        if self.attention.shape[-1] == 0:
            self.attention = np.zeros((*self.attention.shape[:2], x.shape[1]), np.float32)
        if self._keep:
            self._inputs[layer] = (x.detach(), position)
        wanted = [(i, last - first + 1) for i, (first, last) in enumerate(self._ranges) if first <= layer <= last]
        if wanted:
            queries, keys = queries_and_keys(self._blocks[layer].attn, x, position)
            for part in chunks(len(self._sources), queries.shape[0] * x.shape[1] * 4):
                rows = attention_rows(queries, keys, self._sources[part], self._heads)
                for i, count in wanted:
                    self.attention[i, part] += rows / np.float32(count)
        self._progress(layer)

    def rollout(self, discard: float, progress: Callable[[int], None] = lambda layer: None) -> F32:
        """(M, N): attention rollout of the sources through every global block, after the pass; see `rollout`."""

        def rows_of(layer: int) -> tuple[Callable[[I64], F32], int]:
            progress(layer)
            queries, keys = queries_and_keys(self._blocks[layer].attn, *self._inputs[layer])
            step = max(1, CHUNK_BYTES // (queries.shape[0] * keys.shape[1] * 4))
            return lambda rows: attention_rows(queries, keys, rows, "max"), step

        return rollout(rows_of, len(self._blocks), self._sources, self.attention.shape[-1], discard)


def queries_and_keys(attention: Any, x: Any, position: Any) -> tuple[Any, Any]:
    """(heads, N, width) float32 each, rotated and scaled: softmax(q k^T) is the block's attention.

    The precision is the fused attention's own, that of the values (bfloat16 under autocast on CUDA)."""
    import torch

    batch, count, width = x.shape
    if batch != 1:
        raise ContractError(f"attention: batch of {batch} seen, 1 wanted")
    with torch.no_grad():
        packed = attention.qkv(x).reshape(count, 3, attention.num_heads, width // attention.num_heads)
        q, k, v = packed.permute(1, 2, 0, 3)[:, None].unbind(0)
        q, k = attention.q_norm(q), attention.k_norm(k)
        if attention.rope is not None:
            q, k = attention.rope(q, position), attention.rope(k, position)
        return q[0].to(v.dtype).float() * attention.scale, k[0].to(v.dtype).float()


def attention_rows(queries: Any, keys: Any, rows: I64, heads: str) -> F32:
    """(m, N) float32: the softmax rows of the tokens `rows` (m,), the mean or the max over heads."""
    import torch

    with torch.no_grad(), torch.autocast(device_type=queries.device.type, enabled=False):
        index = torch.from_numpy(np.asarray(rows, np.int64)).to(queries.device)
        weights = (queries[:, index] @ keys.transpose(-2, -1)).softmax(-1)
        combined = weights.mean(0) if heads == "mean" else weights.amax(0)
        return np.asarray(combined.cpu().numpy(), np.float32)


def rollout(
    rows_of: Callable[[int], tuple[Callable[[I64], F32], int]],
    depth: int,
    sources: I64,
    count: int,
    discard: float,
) -> F32:
    """(M, N) float32: rows `sources` (M,) of the product A_depth ... A_1 (attention rollout, Abnar & Zuidema 2020).

    A is the max over heads with the lowest share `discard` of each row set to 0, plus the identity for the residual
    path, halved, every row divided by its sum. A row vector times the last layer's matrix first: no N x N product
    and no whole matrix. `rows_of(layer)` gives a function from rows (m,) to attention (m, N), and the m to ask for
    at once; only rows that something has reached are asked for."""
    if not 0 <= discard < 1:
        raise Unsupported(f"discard: {discard} seen, a share from 0 to below 1 wanted")
    result: F64 = np.zeros((len(sources), count))
    result[np.arange(len(sources)), sources] = 1.0
    for layer in reversed(range(depth)):
        ask, step = rows_of(layer)
        reached = np.flatnonzero(result.any(axis=0))
        product = np.zeros_like(result)
        for start in range(0, len(reached), step):
            rows = reached[start : start + step]
            product += result[:, rows] @ residual_rows(ask(rows), rows, discard)
        result = product
    return result.astype(np.float32)


def residual_rows(attention: NDArray[np.floating], rows: I64, discard: float) -> F64:
    """(m, N): attention rows (m, N) of tokens `rows` as rollout multiplies them; ties at the threshold are kept."""
    kept = np.array(attention, np.float64)
    if lowest := int(discard * kept.shape[1]):
        threshold = np.partition(kept, lowest, axis=1)[:, lowest, None]
        kept[kept < threshold] = 0.0
    kept[np.arange(len(rows)), rows] += 1.0  # halving A + I changes nothing once its rows are divided by their sums
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def chunks(count: int, bytes_each: int) -> Iterator[slice]:
    """Slices of `count` things that each stay within CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // bytes_each)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def capture(request: dict[str, Any], folder: Path) -> None:
    """Run VGGT once on `folder`/views.npz and write `folder`/attention.npz:

    maps (K, M, S, h, w) float32 and special (K, M, S) float32 for K `names`, sources (M, 3) int64 (view, row, column of
    a patch), area (S, 4) float64: left, top, right and bottom of a view's grid of patches in pixels of its photo. And
    `folder`/prediction.npz, the Reconstruction, unless the weights are random: those reconstruct nothing.

    `request` holds options, device, weights, seed, as the worker is told them; pixels, layers, heads ("mean", "max"),
    and discard, the share that rollout leaves out, or null for no rollout."""
    views = Views.load(folder / "views.npz")
    adapter = Adapter(**request["options"])
    _say(0.0, "loading the network")
    adapter.load(request["device"], request["weights"], request["seed"])
    inputs = adapter.prepare(views)
    trunk = adapter.network.aggregator
    count, (width, height) = len(views), inputs.placements[0].network
    tokens = Tokens(count, height // PATCH, width // PATCH, trunk.patch_start_idx)
    depth, discard = len(trunk.global_blocks), request["discard"]
    ranges = parse_ranges(request["layers"], depth)
    patches = source_patches(tokens, request["pixels"])
    pass_share = 1.0 if discard is None else 0.4

    def passed(layer: int) -> None:
        _say(pass_share * (layer + 1) / depth, f"global attention, layer {layer + 1} of {depth}")

    def rolled(layer: int) -> None:
        _say(1.0 - (1.0 - pass_share) * (layer + 1) / depth, f"rollout, layer {layer + 1} of {depth}")

    sources = tokens.index(*patches.T)
    with Capture(trunk.global_blocks, sources, ranges, request["heads"], discard is not None, passed) as captured:
        outputs = adapter.infer(inputs)
    names, rows = [f"layers {first}-{last}" for first, last in ranges], captured.attention
    if discard is not None:
        names.append("rollout")
        rows = np.concatenate([rows, captured.rollout(discard, rolled)[None]])
    maps, special = tokens.split(rows)
    offset, scale, size = (
        np.array([getattr(place, name) for place in inputs.placements]) for name in ("offset", "scale", "network")
    )
    area = np.concatenate([-offset / scale, (size - offset) / scale], axis=1)
    np.savez(folder / "attention.npz", maps=maps, special=special, names=np.array(names), sources=patches, area=area)
    if request["weights"] != "random":
        adapter.finish(outputs, views).save(folder / "prediction.npz")


def _say(share: float, what: str) -> None:
    sys.stdout.write(f"{PROGRESS}{share:.3f} {what}\n")
    sys.stdout.flush()


def main(folder: str) -> None:
    """Do what `folder`/request.json asks; a refusal is one sentence on standard error and exit code 1."""
    request = json.loads((Path(folder) / "request.json").read_text(encoding="utf-8"))
    try:
        capture(request, Path(folder))
    except (ContractError, Unavailable, Unsupported) as error:
        sys.exit(str(error))
