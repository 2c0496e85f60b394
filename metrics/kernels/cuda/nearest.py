"""Nearest neighbours on a CUDA device: an exact search of any size, and a single-precision one for batches.

`search` sorts both clouds into kd-tree tiles. A program answers one tile of queries: it starts with the tile of points
whose box is nearest, then visits those whose box is nearer than the worst answer so far. Boxes are tested a block at a
time, so that this flat list of tiles prunes as a tree would, without the diverging stacks that a tree asks of threads
that work in step. Distances are differences, squared and summed, never expanded squares, which cancel.

`search_batch` compares everything with everything in single precision. The points are split across programs, which
meet in one 64-bit minimum over (distance, index) packed: no order of arrival can change an answer, and among equally
near points the first wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from metrics.kernels.cuda.cells import sort_by_cells, tile_cuts
from metrics.kernels.cuda.device import Tensor, Tile, columns, interpreted, launch, splits

SEARCH = Tile(32, 32)
BOXES = 256  # tested at a time
BATCH = Tile(64, 64)
BATCH_INTERPRETED = Tile(64, 512)  # the interpreter's time goes with the number of tiles
MOST_SPLITS = 64


@dataclass(frozen=True)
class Visits:
    """How much of the points a search looked at: what the performance model counts."""

    tiles: int  # of points, loaded and compared, over all programs
    boxes: int  # tested, over all programs


@triton.jit
def _box_gaps(BOX, first, tiles, lowx, lowy, lowz, highx, highy, highz, BC: tl.constexpr):  # type: ignore[no-untyped-def]
    """Squared distances from a box to the boxes `first`.. of the points' tiles; infinite past the last."""
    t = first + tl.arange(0, BC)
    inside = t < tiles
    ax = tl.maximum(tl.load(BOX + t, mask=inside, other=float("inf")) - highx, 0.0)
    bx = tl.maximum(lowx - tl.load(BOX + 3 * tiles + t, mask=inside, other=0.0), 0.0)
    ay = tl.maximum(tl.load(BOX + tiles + t, mask=inside, other=0.0) - highy, 0.0)
    by = tl.maximum(lowy - tl.load(BOX + 4 * tiles + t, mask=inside, other=0.0), 0.0)
    az = tl.maximum(tl.load(BOX + 2 * tiles + t, mask=inside, other=0.0) - highz, 0.0)
    bz = tl.maximum(lowz - tl.load(BOX + 5 * tiles + t, mask=inside, other=0.0), 0.0)
    gx, gy, gz = tl.maximum(ax, bx), tl.maximum(ay, by), tl.maximum(az, bz)
    return gx * gx + gy * gy + gz * gz


@triton.jit
def _point_gaps(BOX, t, tiles, x, y, z):  # type: ignore[no-untyped-def]
    """Squared distances from points to the box of tile `t`."""
    gx = tl.maximum(tl.maximum(tl.load(BOX + t) - x, x - tl.load(BOX + 3 * tiles + t)), 0.0)
    gy = tl.maximum(tl.maximum(tl.load(BOX + tiles + t) - y, y - tl.load(BOX + 4 * tiles + t)), 0.0)
    gz = tl.maximum(tl.maximum(tl.load(BOX + 2 * tiles + t) - z, z - tl.load(BOX + 5 * tiles + t)), 0.0)
    return gx * gx + gy * gy + gz * gz


@triton.jit
def _visit(P, n, t, x, y, z, best, index, BP: tl.constexpr):  # type: ignore[no-untyped-def]
    """The nearest so far, once tile `t` has been compared with."""
    c = t * BP + tl.arange(0, BP)
    inside = c < n
    dx = x[:, None] - tl.load(P + c, mask=inside, other=float("inf"))[None, :]
    dy = y[:, None] - tl.load(P + n + c, mask=inside, other=0.0)[None, :]
    dz = z[:, None] - tl.load(P + 2 * n + c, mask=inside, other=0.0)[None, :]
    value, column = tl.min(dx * dx + dy * dy + dz * dz, axis=1, return_indices=True)
    closer = value < best
    return tl.where(closer, value, best), tl.where(closer, t * BP + column, index)


@triton.jit
def search_tiles(  # type: ignore[no-untyped-def]
    Q, P, BOX, SQUARED, INDEX, VISITS, queries, n, tiles,
    BQ: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Squared distance and place of the nearest of sorted points `P` (3, n) to each of sorted queries `Q` (3, queries).

    `BOX` (6, tiles): low and high corners of the points' tiles. `VISITS` (programs,), where `COUNT`."""
    row = tl.program_id(0).to(tl.int64) * BQ + tl.arange(0, BQ)
    r = tl.minimum(row, queries - 1)  # past the end: the last one again
    x, y, z = tl.load(Q + r), tl.load(Q + queries + r), tl.load(Q + 2 * queries + r)
    lowx, lowy, lowz = tl.min(x, 0), tl.min(y, 0), tl.min(z, 0)
    highx, highy, highz = tl.max(x, 0), tl.max(y, 0), tl.max(z, 0)
    middle = (lowx + highx) / 2, (lowy + highy) / 2, (lowz + highz) / 2

    start = tl.zeros((), tl.int64)
    least = tl.full((), float("inf"), x.dtype)
    for first in range(0, tiles, BC):
        gap = _box_gaps(BOX, first, tiles, middle[0], middle[1], middle[2], middle[0], middle[1], middle[2], BC)
        value, k = tl.min(gap, axis=0, return_indices=True)
        start = tl.where(value < least, first + k, start)
        least = tl.minimum(value, least)

    best = tl.full((BQ,), float("inf"), x.dtype)
    index = tl.zeros((BQ,), tl.int64)
    best, index = _visit(P, n, start, x, y, z, best, index, BP)
    worst = tl.max(best, 0)
    visited = 1
    lane = tl.arange(0, BC)
    for first in range(0, tiles, BC):
        gap = _box_gaps(BOX, first, tiles, lowx, lowy, lowz, highx, highy, highz, BC)
        gap = tl.where(first + lane == start, float("inf"), gap)
        value, k = tl.min(gap, axis=0, return_indices=True)
        while value < worst:
            near = _point_gaps(BOX, first + k, tiles, x, y, z)
            if tl.max((near < best).to(tl.int32), 0) > 0:
                best, index = _visit(P, n, (first + k).to(tl.int64), x, y, z, best, index, BP)
                worst = tl.max(best, 0)
                visited += 1
            gap = tl.where(lane == k, float("inf"), gap)
            value, k = tl.min(gap, axis=0, return_indices=True)
    tl.store(SQUARED + row, best, mask=row < queries)
    tl.store(INDEX + row, index, mask=row < queries)
    if COUNT:
        tl.store(VISITS + tl.program_id(0), visited)


@triton.jit
def search_pairs(Q, P, KEY, queries, n, span, query_tiles, parts, BQ: tl.constexpr, BP: tl.constexpr):  # type: ignore[no-untyped-def]
    """The least (squared distance, index), packed, from each query to each batch's points; `KEY` starts at its most.

    `Q` (batch, 3, queries), `P` (batch, 3, n) float32, `KEY` (batch, queries) int64. A program takes one tile of
    queries and the part of `span` points."""
    pid = tl.program_id(0)
    tile, rest = pid % query_tiles, pid // query_tiles
    part, batch = rest % parts, (rest // parts).to(tl.int64)
    row = tile * BQ + tl.arange(0, BQ)
    mask = row < queries
    Q += batch * 3 * queries
    P += batch * 3 * n
    x = tl.load(Q + row, mask=mask, other=0.0)
    y = tl.load(Q + queries + row, mask=mask, other=0.0)
    z = tl.load(Q + 2 * queries + row, mask=mask, other=0.0)
    best = tl.full((BQ, BP), float("inf"), tl.float32)
    at = tl.zeros((BQ, BP), tl.int32)
    lane = tl.arange(0, BP)
    for j in range(part * span, tl.minimum((part + 1) * span, n), BP):
        c = j + lane
        inside = c < n
        dx = x[:, None] - tl.load(P + c, mask=inside, other=float("inf"))[None, :]
        dy = y[:, None] - tl.load(P + n + c, mask=inside, other=0.0)[None, :]
        dz = z[:, None] - tl.load(P + 2 * n + c, mask=inside, other=0.0)[None, :]
        squared = dx * dx + dy * dy + dz * dz
        closer = squared < best
        best = tl.where(closer, squared, best)
        at = tl.where(closer, c[None, :], at)
    key = (best.to(tl.int32, bitcast=True).to(tl.int64) << 32) | at.to(tl.int64)
    tl.atomic_min(KEY + batch * queries + row, tl.min(key, axis=1), mask=mask)


def boxes(points: Tensor, leaf: int) -> Tensor:
    """(6, tiles) low and high corners of each tile of `leaf` of the sorted `points` (n, 3)."""
    count = len(points)
    spare = -count % leaf
    padded = torch.cat([points, points[-1:].expand(spare, 3)]).view(-1, leaf, 3)
    return torch.cat([padded.amin(1), padded.amax(1)], dim=1).T.contiguous()


class TileTree:
    """A cloud (n, 3), float64 or float32, ready to be searched, and to search with."""

    def __init__(self, points: Tensor, leaf: int = SEARCH.points) -> None:
        self.leaf = leaf
        self.order = sort_by_cells(points, tile_cuts(len(points), leaf))  # (n,) which point of the input each is
        here = points[self.order]
        self.points = columns(here, points.dtype)  # (3, n)
        self.boxes = boxes(here, leaf)

    def search(self, other: TileTree, rows: int = SEARCH.rows) -> tuple[Tensor, Tensor]:
        """Squared distance and index, (q,) each, of the point of `self` nearest to each of `other`'s, in its input's
        order."""
        squared, index, _ = self.counted(other, rows, count=False)
        return squared, index

    def counted(self, other: TileTree, rows: int = SEARCH.rows, count: bool = True) -> tuple[Tensor, Tensor, Visits]:
        """The same, and what it took."""
        queries, device = other.points.shape[1], self.points.device
        programs, tiles = triton.cdiv(queries, rows), self.boxes.shape[1]
        squared = torch.empty(queries, dtype=self.points.dtype, device=device)
        index = torch.empty(queries, dtype=torch.int64, device=device)
        visits = torch.zeros(programs if count else 1, dtype=torch.int32, device=device)
        launch(
            search_tiles, (programs,), SEARCH, other.points, self.points, self.boxes, squared, index, visits,
            queries, self.points.shape[1], tiles, BQ=rows, BP=self.leaf, BC=BOXES, COUNT=count,
        )  # fmt: skip
        out_squared, out_index = torch.empty_like(squared), torch.empty_like(index)
        out_squared[other.order], out_index[other.order] = squared, self.order[index]
        work = Visits(int(visits.sum()), 2 * programs * tiles) if count else Visits(0, 0)
        return out_squared, out_index, work


def search_batch(queries: Tensor, points: Tensor, tile: Tile | None = None) -> tuple[Tensor, Tensor]:
    """Squared distance (b, q) float32 and index (b, q) int64 of the nearest of `points` (b, n, 3) to each of `queries`
    (b, q, 3), batch by batch, by exhaustive search in float32; the least index where several are equally near.

    Coordinates are taken about the centre of the points of their batch, so that an offset costs no precision."""
    batch, count, n = len(queries), queries.shape[1], points.shape[1]
    tile = tile or (BATCH_INTERPRETED if interpreted() else BATCH)
    centre = (points.amin(1, keepdim=True) + points.amax(1, keepdim=True)) / 2
    q = (queries - centre).to(torch.float32).transpose(1, 2).contiguous()
    p = (points - centre).to(torch.float32).transpose(1, 2).contiguous()
    tiles = triton.cdiv(count, tile.rows)
    parts = splits(q.device, tiles * batch, min(MOST_SPLITS, triton.cdiv(n, tile.points)))
    span = triton.cdiv(triton.cdiv(n, parts), tile.points) * tile.points
    key = torch.full((batch, count), torch.iinfo(torch.int64).max, dtype=torch.int64, device=q.device)
    if batch * count:
        launch(
            search_pairs, (tiles * parts * batch,), tile, q, p, key, count, n, span, tiles, parts,
            BQ=tile.rows, BP=tile.points,
        )  # fmt: skip
    return (key >> 32).to(torch.int32).view(torch.float32), key & 0xFFFFFFFF
