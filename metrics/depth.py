"""Depth maps against depth maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.contract import F32, F64

Align = Literal["none", "scale", "scale_shift"]
BLOCK = 1 << 22  # pixels of many views that are compared at once
SMALLEST = 1e-6  # an aligned depth below this share of the true one is lifted to it, so that ratios stay finite


@dataclass(frozen=True)
class DepthErrors:
    """Errors over the pixels where both maps hold a depth; None where there is no such pixel."""

    absrel: float | None  # mean |pred - truth| / truth
    rmse: float | None  # root mean square difference, truth's unit
    delta_1_03: float | None  # share of the pixels with max(pred / truth, truth / pred) < 1.03
    delta_1_25: float | None  # the same, < 1.25
    scale: float  # pred was multiplied by this
    shift: float  # then this was added, truth's unit
    coverage: float | None  # share of truth's pixels that pred has a depth for; None where truth is empty


def depth_errors(pred: ArrayLike, truth: ArrayLike, align: Align = "none") -> DepthErrors:
    """Errors of a z-depth map `pred` (H, W) against `truth` (H, W); 0 means no depth in either.

    `align` first fits pred to truth over the common pixels: "scale" by the ratio of the medians (Eigen et al. 2014's
    protocol as of Zhou et al. 2017), "scale_shift" by least squares in depth, not in disparity. AbsRel, RMSE and
    delta < 1.25 after Eigen et al. (2014); delta < 1.03 is that of multi-view depth (Schroeppel et al. 2022). Pixels
    without prediction enter no error: read `coverage` beside them.

    Raises ValueError where the shapes differ or a depth is negative or not finite.
    """
    p, t = _checked("pred", pred), _checked("truth", truth)
    if p.shape != t.shape:
        raise ValueError(f"pred: shape {p.shape} seen, {t.shape} wanted, that of truth")
    if align not in ("none", "scale", "scale_shift"):
        raise ValueError(f"align: {align!r} seen, none, scale or scale_shift wanted")
    known = t > 0
    both = known & (p > 0)
    coverage = float(both.sum() / known.sum()) if known.any() else None
    if not both.any():
        return DepthErrors(None, None, None, None, 1.0, 0.0, coverage)
    p, t = p[both], t[both]
    scale, shift = 1.0, 0.0
    if align == "scale":
        scale = float(np.median(t) / np.median(p))
    elif align == "scale_shift":
        variance = p.var()
        # a constant prediction has no slope to fit: scale alone
        scale = float(((p - p.mean()) * (t - t.mean())).mean() / variance) if variance > 0 else t.mean() / p.mean()
        shift = float(t.mean() - scale * p.mean())
    aligned = scale * p + shift
    ratio = _ratio(aligned, t)
    return DepthErrors(
        absrel=float((np.abs(aligned - t) / t).mean()),
        rmse=float(np.sqrt(((aligned - t) ** 2).mean())),
        delta_1_03=float((ratio < 1.03).mean()),
        delta_1_25=float((ratio < 1.25).mean()),
        scale=scale,
        shift=shift,
        coverage=coverage,
    )


@dataclass(frozen=True)
class ViewsErrors:
    """Errors over the pixels of several views together, as in `DepthErrors`."""

    absrel: float | None
    deltas: tuple[float | None, ...]  # of each factor
    scale: float
    coverage: float | None


def depth_errors_of_views(
    pred: Sequence[F32], truth: Sequence[F32], factors: Sequence[float], align: Literal["none", "scale"] = "none"
) -> ViewsErrors:
    """`depth_errors` of many views (H, W) each, as of one map that holds the pixels of all, and the share of these
    within each of `factors`. One view is held at a time; each is asked for once, or three times to align.

    Raises ValueError as `depth_errors` does."""

    def blocks() -> Iterator[tuple[F32, F32]]:
        for predicted, true in zip(pred, truth, strict=True):
            p, t = np.asarray(predicted, np.float32), np.asarray(true, np.float32)
            if p.shape != t.shape:
                raise ValueError(f"pred: shape {p.shape} seen, {t.shape} wanted, that of truth")
            p, t = p.reshape(-1), t.reshape(-1)
            for begin in range(0, len(p), BLOCK):
                block = p[begin : begin + BLOCK], t[begin : begin + BLOCK]
                for name, values in zip(("pred", "truth"), block, strict=True):
                    _checked(name, values[None])
                yield block

    scale = 1.0
    if align == "scale":
        middle = _medians(blocks)
        scale = middle[1] / middle[0] if middle is not None else 1.0
    known = common = 0
    error, within = 0.0, np.zeros(len(factors), np.int64)
    for p, t in blocks():
        both = (t > 0) & (p > 0)
        known += int((t > 0).sum())
        common += int(both.sum())
        aligned, true = scale * p[both].astype(np.float64), t[both].astype(np.float64)
        error += float((np.abs(aligned - true) / true).sum())
        ratio = _ratio(aligned, true)
        within += [int((ratio < factor).sum()) for factor in factors]
    coverage = common / known if known else None
    if not common:
        return ViewsErrors(None, (None,) * len(factors), 1.0, coverage)
    return ViewsErrors(error / common, tuple((within / common).tolist()), scale, coverage)


def _medians(blocks: Callable[[], Iterator[tuple[F32, F32]]]) -> tuple[float, float] | None:
    """The medians of both sides of `blocks` over the pixels that both have a depth for, exactly: the bits of positive
    numbers are in their order, so that two looks at 16 of them find any rank."""
    high = np.zeros((2, 1 << 16), np.int64)
    for sides in _common_bits(blocks):
        for side, bits in enumerate(sides):
            high[side] += np.bincount(bits >> 16, minlength=1 << 16)
    count = int(high[0].sum())
    if not count:
        return None
    ranks = (count - 1) // 2, count // 2
    above = [[int(np.searchsorted(np.cumsum(high[side]), rank, side="right")) for rank in ranks] for side in range(2)]
    low = np.zeros((2, 2, 1 << 16), np.int64)
    for sides in _common_bits(blocks):
        for side, bits in enumerate(sides):
            for which, bucket in enumerate(above[side]):
                low[side, which] += np.bincount(bits[bits >> 16 == bucket] & 0xFFFF, minlength=1 << 16)
    out = []
    for side in range(2):
        middle = []
        for which, (bucket, rank) in enumerate(zip(above[side], ranks, strict=True)):
            rest = rank - int(high[side, :bucket].sum())
            pattern = bucket << 16 | int(np.searchsorted(np.cumsum(low[side, which]), rest, side="right"))
            middle.append(float(np.array(pattern, np.uint32).view(np.float32)))
        out.append((middle[0] + middle[1]) / 2)
    return out[0], out[1]


def _common_bits(
    blocks: Callable[[], Iterator[tuple[F32, F32]]],
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
    for p, t in blocks():
        both = (t > 0) & (p > 0)
        yield p[both].view(np.uint32), t[both].view(np.uint32)


def _ratio(aligned: F64, true: F64) -> F64:
    """(n,) by what factor, at least 1, an aligned depth and the true one differ."""
    positive = np.maximum(aligned, SMALLEST * true)
    return np.maximum(positive / true, true / positive)


def _checked(name: str, depth: ArrayLike) -> F64:
    array = np.asarray(depth, np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name}: shape {array.shape} seen, (H, W) wanted")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name}: negative or non-finite depths seen, 0 wanted where there is none")
    return array
