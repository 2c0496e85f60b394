"""Image metrics: closed forms, a direct SSIM, refusals."""

import importlib.util

import numpy as np
import pytest

from adapters.contract import Unavailable
from metrics.image import lpips, psnr, ssim


def photo(seed: int, shape: tuple[int, int] = (24, 31)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def test_psnr_closed_form() -> None:
    grey = np.full((8, 9, 3), 0.5)
    assert psnr(grey + 0.1, grey) == pytest.approx(20)
    assert psnr(np.full((8, 9, 3), 51, np.uint8), np.zeros((8, 9, 3), np.uint8)) == pytest.approx(-20 * np.log10(0.2))
    assert psnr(grey, grey) == pytest.approx(58.92, abs=0.01)


def test_psnr_in_a_mask() -> None:
    grey = np.full((8, 9, 3), 0.5)
    other = grey.copy()
    other[:4] += 0.1
    assert psnr(other, grey, np.arange(72).reshape(8, 9) < 36) == pytest.approx(20)
    assert psnr(other, grey) == pytest.approx(20 + 10 * np.log10(2))


def test_ssim_is_that_of_its_definition() -> None:
    x, y = photo(0, (13, 12)) / 255.0, photo(1, (13, 12)) / 255.0
    i = np.arange(11) - 5
    window = np.exp(-(i[:, None] ** 2 + i[None] ** 2) / 4.5)
    window /= window.sum()
    values = []
    for row in range(3):
        for column in range(2):
            for channel in range(3):
                a, b = (image[row : row + 11, column : column + 11, channel] for image in (x, y))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert ssim(x, y) == pytest.approx(np.mean(values))


def test_ssim_of_equal_images_and_order() -> None:
    x = photo(2)
    assert ssim(x, x) == pytest.approx(1)
    assert ssim(x, photo(3)) == pytest.approx(ssim(photo(3), x))
    little = np.clip(x / 255 + 0.02 * np.random.default_rng(0).normal(size=x.shape), 0, 1)
    much = np.clip(x / 255 + 0.2 * np.random.default_rng(0).normal(size=x.shape), 0, 1)
    assert 1 > ssim(little, x / 255) > ssim(much, x / 255) > ssim(photo(3), x)


def test_refusals_name_the_argument() -> None:
    x = photo(4)
    with pytest.raises(ValueError, match=r"pred: shape \(24, 30, 3\)"):
        psnr(x[:, :30], x)
    with pytest.raises(ValueError, match="truth: values outside"):
        psnr(x, x.astype(float))
    with pytest.raises(ValueError, match="pred: dtype int64"):
        ssim(x.astype(np.int64), x)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(x[:10], x[:10])
    with pytest.raises(ValueError, match="mask"):
        psnr(x, x, np.zeros((24, 31)))


@pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is not None, reason="torchmetrics is installed")
def test_lpips_names_what_is_missing() -> None:
    with pytest.raises(Unavailable, match="pip install torchmetrics"):
        lpips(photo(5, (64, 64)), photo(6, (64, 64)))
