"""Agreement of images: renderings against photos taken from the same cameras."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import correlate1d

from adapters.contract import F64, Unavailable

WINDOW, SIGMA = 11, 1.5  # pixels, of SSIM's Gaussian
ROUNDING = 1 / (12 * 255**2)  # mean squared error that storing in 8 bits alone may leave
BACKBONE = "alexnet-owt-7be5be79.pth"


def psnr(pred: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Peak signal-to-noise ratio in dB of `pred` against `truth`, (H, W, 3) uint8, or floats in 0..1.

    10 log10(1 / MSE) over all channels of the pixels where `mask` (H, W) is true (default: all). The MSE is never
    taken below what rounding to 8 bits leaves, so identical images give 58.9 dB, not infinity."""
    x, y = _pair(pred, truth)
    if mask is None:
        error = float(((x - y) ** 2).mean())
    else:
        inside = np.asarray(mask, np.bool_)
        if inside.shape != x.shape[:2] or not inside.any():
            raise ValueError(
                f"mask: shape {inside.shape}, {int(inside.sum())} true seen, {x.shape[:2]}, some true wanted"
            )
        error = float(((x - y) ** 2)[inside].mean())
    return float(-10 * np.log10(max(error, ROUNDING)))


def ssim(pred: ArrayLike, truth: ArrayLike) -> float:
    """Structural similarity (Wang et al. 2004), -1..1, of images (H, W, 3) uint8, or floats in 0..1.

    11 x 11 Gaussian window of sigma 1.5 on the positions where it fits, K1 = .01, K2 = .03, population moments, mean
    over channels and positions. Raises ValueError for an image smaller than the window."""
    x, y = _pair(pred, truth)
    if min(x.shape[:2]) < WINDOW:
        raise ValueError(f"pred: shape {x.shape} seen, at least {WINDOW} x {WINDOW} pixels wanted")
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * SIGMA**2))
    window /= window.sum()

    def mean(image: F64) -> F64:
        blurred = correlate1d(correlate1d(image, window, axis=0), window, axis=1)
        edge = WINDOW // 2
        return np.asarray(blurred[edge:-edge, edge:-edge], np.float64)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(index.mean())


def lpips(pred: ArrayLike, truth: ArrayLike) -> float:
    """Learned perceptual distance (Zhang et al. 2018), AlexNet; 0 is equal.

    Images (H, W, 3) uint8, or floats in 0..1. Computed by torchmetrics. Raises Unavailable, saying what to install or
    fetch, where torchmetrics or the weights of its backbone are absent: nothing is downloaded here."""
    x, y = _pair(pred, truth)
    if min(x.shape[:2]) < 64:
        raise ValueError(f"pred: shape {x.shape} seen, at least 64 x 64 pixels wanted")
    network = _lpips_network()
    import torch

    images = [torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) for image in (x, y)]
    with torch.no_grad():
        return float(network(*images))


@cache
def _lpips_network() -> Any:
    try:
        import torch
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise Unavailable(
            f"lpips: {error.name} is absent; `pip install torchmetrics torchvision` provides it"
        ) from error
    weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if not weights.is_file():
        raise Unavailable(
            f"lpips: the AlexNet weights {weights} are absent; "
            "`python -c 'import torchvision; torchvision.models.alexnet(weights=\"IMAGENET1K_V1\")'` fetches them"
        )
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()
    except ModuleNotFoundError as error:
        raise Unavailable(f"lpips: {error}; `pip install torchvision` provides the backbone") from error


def _pair(pred: ArrayLike, truth: ArrayLike) -> tuple[F64, F64]:
    x, y = _checked("pred", pred), _checked("truth", truth)
    if x.shape != y.shape:
        raise ValueError(f"pred: shape {x.shape} seen, {y.shape} wanted, that of truth")
    return x, y


def _checked(name: str, image: ArrayLike) -> F64:
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"{name}: shape {array.shape} seen, (H, W, 3) wanted")
    if array.dtype == np.uint8:
        return np.asarray(array / 255.0, np.float64)
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: dtype {array.dtype} seen, uint8 or floats in 0..1 wanted")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ValueError(f"{name}: values outside 0..1 or not finite seen, uint8 or floats in 0..1 wanted")
    return np.asarray(array, np.float64)
