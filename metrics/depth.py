"""Depth maps against depth maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from adapters.contract import F64

Align = Literal["none", "scale", "scale_shift"]
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


def depth_delta(pred: ArrayLike, truth: ArrayLike, factor: float, scale: float = 1.0) -> float | None:
    """Share of the pixels of `scale` * `pred` (H, W) within a `factor` of `truth` (H, W), over those where both hold a
    depth; None where there is none. ValueError as in `depth_errors`."""
    p, t = _checked("pred", pred), _checked("truth", truth)
    both = (t > 0) & (p > 0)
    if not both.any():
        return None
    ratio = scale * p[both] / t[both]
    return float((np.maximum(ratio, 1 / ratio) < factor).mean())


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
    positive = np.maximum(aligned, SMALLEST * t)
    ratio = np.maximum(positive / t, t / positive)
    return DepthErrors(
        absrel=float((np.abs(aligned - t) / t).mean()),
        rmse=float(np.sqrt(((aligned - t) ** 2).mean())),
        delta_1_03=float((ratio < 1.03).mean()),
        delta_1_25=float((ratio < 1.25).mean()),
        scale=scale,
        shift=shift,
        coverage=coverage,
    )


def _checked(name: str, depth: ArrayLike) -> F64:
    array = np.asarray(depth, np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name}: shape {array.shape} seen, (H, W) wanted")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name}: negative or non-finite depths seen, 0 wanted where there is none")
    return array
