"""Depth errors: closed forms, alignment, coverage, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import depth
from metrics.depth import depth_errors, depth_errors_of_views


def test_closed_form() -> None:
    truth = np.array([[1.0, 2.0], [4.0, 0.0]])
    pred = np.array([[1.02, 2.2], [0.0, 3.0]])
    errors = depth_errors(pred, truth)
    assert errors.absrel == pytest.approx((0.02 + 0.1) / 2)
    assert errors.rmse == pytest.approx(np.sqrt((0.02**2 + 0.2**2) / 2))
    assert errors.delta_1_03 == 0.5 and errors.delta_1_25 == 1
    assert errors.coverage == pytest.approx(2 / 3) and errors.scale == 1


def test_alignment_undoes_scale_and_shift() -> None:
    truth = np.random.default_rng(0).uniform(1, 5, (20, 30))
    assert depth_errors(truth / 3, truth, "scale").absrel == pytest.approx(0, abs=1e-12)
    assert depth_errors(truth / 3, truth, "scale").scale == pytest.approx(3)
    errors = depth_errors((truth - 0.5) / 3, truth, "scale_shift")
    assert errors.absrel == pytest.approx(0, abs=1e-12)
    assert (errors.scale, errors.shift) == pytest.approx((3, 0.5))
    assert depth_errors((truth - 0.5) / 3, truth, "scale").absrel > 0.01


def test_scale_is_robust_to_a_few_wrong_pixels() -> None:
    truth = np.random.default_rng(1).uniform(1, 5, (20, 30))
    pred = truth / 2
    pred[:3] = 1000
    assert depth_errors(pred, truth, "scale").scale == pytest.approx(2, rel=0.4)
    assert depth_errors(pred, truth, "scale_shift").absrel > 0.1


def test_least_squares_is_a_minimum() -> None:
    rng = np.random.default_rng(2)
    truth, pred = rng.uniform(1, 5, (20, 30)), rng.uniform(1, 5, (20, 30))
    best = depth_errors(pred, truth, "scale_shift")
    for scale, shift in ((1.01, 0), (0.99, 0), (1, 0.01), (1, -0.01)):
        other = np.sqrt(((best.scale * scale * pred + best.shift + shift - truth) ** 2).mean())
        assert best.rmse is not None and best.rmse <= other


def test_nothing_common() -> None:
    errors = depth_errors(np.zeros((2, 2)), np.ones((2, 2)), "scale")
    assert errors.absrel is None and errors.rmse is None and errors.coverage == 0
    assert depth_errors(np.ones((2, 2)), np.zeros((2, 2))).coverage is None


def test_constant_prediction_and_negative_aligned_depths_stay_finite() -> None:
    truth = np.array([[1.0, 2.0, 3.0]])
    assert depth_errors(np.full((1, 3), 7.0), truth, "scale_shift").absrel == pytest.approx((1 + 0 + 1 / 3) / 3)
    errors = depth_errors(np.array([[0.01, 5.0, 5.1, 5.2]]), np.array([[0.01, 1, 3, 6]]), "scale_shift")
    assert errors.delta_1_25 is not None and np.isfinite(errors.delta_1_25)


def test_refusals_name_the_argument() -> None:
    good = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"pred: shape \(3, 2\)"):
        depth_errors(good.T, good)
    with pytest.raises(ValueError, match="truth: negative"):
        depth_errors(good, -good)
    with pytest.raises(ValueError, match="pred: negative or non-finite"):
        depth_errors(good * np.nan, good)
    with pytest.raises(ValueError, match="align: 'shift'"):
        depth_errors(good, good, "shift")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pred: shape \(6,\)"):
        depth_errors(good.ravel(), good)


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4))
def test_many_views_are_one_map_of_all_their_pixels(seed: int, sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.01, 1.0, 15.0])  # from nearly equal depths, which share their upper bits, to all magnitudes
    holes = rng.choice([0.0, 0.3, 0.9])
    views = [
        [(np.exp(spread * rng.normal(size=size)) * (rng.random(size) > holes)).astype(np.float32) for size in sizes]
        for _ in range(2)
    ]
    whole = [np.concatenate([view.ravel() for view in side])[None] for side in views]
    for align in ("none", "scale"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(depth, "BLOCK", 5)
            errors = depth_errors_of_views(*views, (1.03, 1.25), align)
        wanted = depth_errors(*whole, align)
        assert errors.scale == wanted.scale and errors.coverage == wanted.coverage
        assert errors.deltas == (wanted.delta_1_03, wanted.delta_1_25)
        assert errors.absrel == (None if wanted.absrel is None else pytest.approx(wanted.absrel, rel=1e-12))


def test_views_of_other_shapes_and_negative_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        depth_errors_of_views([np.ones((2, 3), np.float32)], [np.ones((3, 2), np.float32)], ())
    with pytest.raises(ValueError, match="truth: negative"):
        depth_errors_of_views([np.ones((2, 3), np.float32)], [-np.ones((2, 3), np.float32)], ())
