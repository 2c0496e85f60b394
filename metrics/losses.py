"""Chamfer and Earth Mover's Distance as losses: batches of torch tensors in, gradients out.

The matching is that of the metrics, and the gradient goes through the matched pairs: wherever the matching
does not change, that is the exact derivative. On a CUDA device or on the CPU, as the tensors lie.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch

from metrics.emd import emd
from metrics.nearest import nearest
from metrics.points import device_of

Tensor: TypeAlias = Any  # a torch.Tensor
Formula = Literal["l1-sum", "l1-mean", "l2sq-sum", "l2sq-mean"]

MANY = 200_000  # points of a cloud above which a tree is worth its sorting


class MatchedLengths(torch.autograd.Function):  # type: ignore[misc]
    """Lengths (b, n) from `one` (b, n, 3) to `other[index]`, `other` (b, m, 3), `index` (b, n) int64.

    Where two points coincide the length has no derivative; 0, which is a subgradient, is given."""

    @staticmethod
    def forward(context: Any, queries: Tensor, points: Tensor, index: Tensor) -> Tensor:
        difference = queries - points.gather(1, index[..., None].expand(-1, -1, 3))
        lengths = difference.norm(dim=2)
        context.save_for_backward(difference, lengths, index)
        context.size = points.shape
        return lengths

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        difference, lengths, index = context.saved_tensors
        to_one = difference * (grad / torch.where(lengths > 0, lengths, torch.inf))[..., None]
        to_other = torch.zeros(context.size, dtype=to_one.dtype, device=to_one.device)
        to_other.scatter_add_(1, index[..., None].expand(-1, -1, 3), -to_one)
        return to_one, to_other, None


def chamfer_loss(pred: Tensor, truth: Tensor, formula: Formula = "l1-mean", *, device: str | None = None) -> Tensor:
    """(b,) Chamfer distances of `pred` (b, n, 3) and `truth` (b, m, 3), floating-point tensors on one device.

    `formula` as in `metrics.chamfer.Chamfer`. On a CUDA device clouds of up to 200,000 points are matched in single
    precision about their centre, so that near-ties may be matched to the second nearest; lengths and gradients have
    the tensors' own precision. Raises ValueError naming the argument at fault."""
    if formula not in ("l1-sum", "l1-mean", "l2sq-sum", "l2sq-mean"):
        raise ValueError(f"formula: {formula!r} seen, l1-sum, l1-mean, l2sq-sum or l2sq-mean wanted")
    _check(pred, truth)
    where = device_of(device, pred=pred, truth=truth)
    ahead = MatchedLengths.apply(pred, truth, _matches(pred, truth, where))
    back = MatchedLengths.apply(truth, pred, _matches(truth, pred, where))
    if formula.startswith("l2sq"):
        ahead, back = ahead.square(), back.square()
    total = ahead.mean(dim=1) + back.mean(dim=1)
    return total / 2 if formula.endswith("mean") else total


def emd_loss(pred: Tensor, truth: Tensor, gap: float = 0.01, *, device: str | None = None) -> Tensor:
    """(b,) Earth Mover's Distances of `pred` and `truth` (b, n, 3), each within `gap` of the least; see `metrics.emd`.

    Clouds of a batch are solved one after another. Raises ValueError naming the argument at fault."""
    _check(pred, truth)
    if pred.shape != truth.shape:
        raise ValueError(f"truth: shape {tuple(truth.shape)} seen, {tuple(pred.shape)} wanted, as pred")
    solved = [emd(source, target, gap, device=device).assignment for source, target in zip(pred, truth, strict=True)]
    index = torch.stack([torch.from_numpy(assignment) for assignment in solved]).to(pred.device)
    return MatchedLengths.apply(pred, truth, index).mean(dim=1)


def _matches(queries: Tensor, points: Tensor, where: Any) -> Tensor:
    """(b, q) int64, which of `points` is nearest to each of `queries`."""
    if where is not None and max(queries.shape[1], points.shape[1]) <= MANY:
        from metrics.kernels.cuda.nearest import search_batch

        return search_batch(queries.detach().to(where), points.detach().to(where))[1].to(queries.device)
    device = None if where is None else str(queries.device)
    result = [nearest(source, target, device=device).index for source, target in zip(queries, points, strict=True)]
    return torch.stack([torch.from_numpy(index) for index in result]).to(queries.device)


def _check(pred: Tensor, truth: Tensor) -> None:
    for name, cloud in (("pred", pred), ("truth", truth)):
        if not isinstance(cloud, torch.Tensor) or not cloud.is_floating_point():
            kind = getattr(cloud, "dtype", type(cloud).__name__)
            raise ValueError(f"{name}: {kind} seen, a floating-point tensor wanted")
        if cloud.ndim != 3 or cloud.shape[2] != 3 or 0 in cloud.shape:
            raise ValueError(f"{name}: shape {tuple(cloud.shape)} seen, (b, n, 3) with b and n at least 1 wanted")
        if not bool(cloud.isfinite().all()):
            raise ValueError(f"{name}: numbers that are not finite seen, all must be")
    if len(pred) != len(truth):
        raise ValueError(f"truth: a batch of {len(truth)} seen, {len(pred)} wanted, as pred")
    if pred.device != truth.device:
        raise ValueError(f"truth: a tensor on {truth.device} seen, {pred.device} wanted, as pred")
    if pred.dtype != truth.dtype:
        raise ValueError(f"truth: {truth.dtype} seen, {pred.dtype} wanted, as pred")
