"""Cells of a kd-tree, found by sorting: the order of points that puts neighbours together, on any torch device."""

from __future__ import annotations

import torch

from metrics.kernels.cuda.device import Tensor


def tile_cuts(count: int, leaf: int) -> Tensor:
    """(2^depth + 1,) positions that cut `count` points into tiles of `leaf`, all full but the last that has any."""
    depth = max(0, -(-count // leaf) - 1).bit_length()
    return (leaf * torch.arange((1 << depth) + 1)).clamp_(max=count)


def sort_by_cells(points: Tensor, cuts: Tensor) -> Tensor:
    """(n,) int64: which of `points` (n, 3) stands at each place once sorted into kd-tree cells.

    As `metrics.kernels.cpu.cells.sort_by_cells`: cell k lies at `cuts[k]`..`cuts[k + 1]`, and cells are halved along
    their widest axis; `cuts` (2^depth + 1,), on the CPU, not falling; cells may be empty. Points are told apart by
    their rank along an axis, so that one sort a level does for all cells at once. The order within a cell is open."""
    count, device = len(points), points.device
    rank = torch.argsort(torch.argsort(points, dim=0, stable=True), dim=0)
    order = torch.arange(count, device=device)
    place = torch.arange(count, device=device)
    cells = len(cuts) - 1
    step = cells
    while step > 1:
        ends = cuts[step::step].contiguous().to(device)
        cell = torch.searchsorted(ends, place, right=True)
        here = points[order]
        into = cell[:, None].expand(-1, 3)
        shape = (cells // step, 3)
        low = torch.full(shape, torch.inf, dtype=points.dtype, device=device).scatter_reduce_(0, into, here, "amin")
        high = torch.full(shape, -torch.inf, dtype=points.dtype, device=device).scatter_reduce_(0, into, here, "amax")
        widest = (high - low).argmax(dim=1)
        order = order[torch.argsort(cell * count + rank[order, widest[cell]])]
        step //= 2
    return order
