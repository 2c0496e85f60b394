"""Chamfer and EMD as losses: values against the metrics, gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: extra `kernels-test`")
pytest.importorskip("triton", reason="triton is not installed: extra `kernels-test`")

from metrics import chamfer, emd, losses
from metrics.losses import MatchedLengths, chamfer_loss, emd_loss

DEVICES = ("cpu", "cuda")
FORMULAS = ("l1-sum", "l1-mean", "l2sq-sum", "l2sq-mean")


def batch(b: int, n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(b, n, 3)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_chamfer_values_and_gradients(device: str, formula: str) -> None:
    pred, truth = batch(2, 9, 0).requires_grad_(), batch(2, 12, 1).requires_grad_()
    values = chamfer_loss(pred, truth, formula, device=device)  # type: ignore[arg-type]
    for i in range(2):
        wanted = getattr(chamfer(pred[i], truth[i]), formula.replace("-", "_"))
        assert float(values[i].detach()) == pytest.approx(wanted, rel=1e-12)
    # The interpreter is slow: its matching is result once, the differences are taken of the lengths.
    if device == "cpu":
        assert torch.autograd.gradcheck(lambda p, t: chamfer_loss(p, t, formula), (pred, truth), atol=1e-7)  # type: ignore[arg-type]
    else:
        values.sum().backward()
        step = 1e-6
        for cloud in (pred, truth):
            moved = cloud.detach().clone()
            for at in ((0, 0, 0), (1, 8, 2)):
                ends = []
                for sign in (1, -1):
                    moved[at] += sign * step
                    pair = (moved, truth.detach()) if cloud is pred else (pred.detach(), moved)
                    ends.append(float(chamfer_loss(*pair, formula, device="cpu").sum()))  # type: ignore[arg-type]
                    moved[at] -= sign * step
                assert float(cloud.grad[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_emd_values_and_gradients(device: str) -> None:
    pred, truth = batch(2, 8, 2).requires_grad_(), batch(2, 8, 3).requires_grad_()
    values = emd_loss(pred, truth, 1e-6, device=device)
    for i in range(2):
        assert float(values[i].detach()) == pytest.approx(emd(pred[i], truth[i], 1e-6).value, rel=2e-6)
    if device == "cpu":
        assert torch.autograd.gradcheck(lambda p, t: emd_loss(p, t, 1e-6), (pred, truth), atol=1e-7)
    values.sum().backward()
    for cloud in (pred, truth):  # every point moves along its own pair, an eighth of a unit vector each
        np.testing.assert_allclose(cloud.grad.norm(dim=2).numpy(), 1 / 8, rtol=1e-12)


def test_many_points_matched_to_one_add_up() -> None:
    pred = batch(1, 6, 4).requires_grad_()
    truth = torch.zeros((1, 2, 3), dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[1, 1, 1, 0, 1, 1]])
    assert torch.autograd.gradcheck(lambda a, b: MatchedLengths.apply(a, b, index), (pred, truth), atol=1e-7)
    MatchedLengths.apply(pred, truth, index).sum().backward()
    np.testing.assert_allclose(truth.grad[0, 1], -pred.grad[0, [0, 1, 2, 4, 5]].sum(dim=0))


def test_points_that_coincide_have_gradient_zero_not_nan() -> None:
    cloud = batch(1, 5, 5).requires_grad_()
    chamfer_loss(cloud, cloud.detach().clone(), device="cpu").sum().backward()
    assert (cloud.grad == 0).all()


@pytest.mark.parametrize("device", DEVICES)
def test_descent_brings_a_cloud_onto_the_other(device: str) -> None:
    pred, truth = batch(1, 12, 6).float().requires_grad_(), batch(1, 12, 7).float()
    first = float(chamfer_loss(pred, truth, device=device).detach())
    for _ in range(8):
        (grad,) = torch.autograd.grad(chamfer_loss(pred, truth, "l2sq-sum", device=device).sum(), pred)
        assert grad.dtype == torch.float32
        pred = (pred - 2 * grad).detach().requires_grad_()
    assert float(chamfer_loss(pred, truth, device=device).detach()) < 0.8 * first


def test_large_clouds_take_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MANY", 10)
    pred, truth = batch(2, 20, 8), batch(2, 30, 9)
    wanted = chamfer_loss(pred, truth, device="cpu")
    np.testing.assert_allclose(chamfer_loss(pred, truth, device="cuda"), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("pred", "truth", "message"),
    [
        (torch.zeros(5, 3), torch.zeros(1, 5, 3), r"pred: shape \(5, 3\) seen, \(b, n, 3\)"),
        (torch.zeros(1, 0, 3), torch.zeros(1, 5, 3), r"pred: shape \(1, 0, 3\) seen"),
        (torch.zeros(2, 5, 3), torch.zeros(1, 5, 3), r"truth: a batch of 1 seen, 2 wanted, as pred"),
        (torch.zeros(1, 5, 3), torch.zeros(1, 5, 3).double(), r"truth: torch.float64 seen, torch.float32 wanted"),
        (torch.zeros(1, 5, 3).int(), torch.zeros(1, 5, 3), r"pred: torch.int32 seen, a floating-point tensor"),
        (torch.full((1, 5, 3), torch.nan), torch.zeros(1, 5, 3), r"pred: numbers that are not finite seen"),
        (np.zeros((1, 5, 3)), torch.zeros(1, 5, 3), r"pred: float64 seen, a floating-point tensor wanted"),
    ],
)
def test_bad_batches_are_refused_by_name(pred: object, truth: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chamfer_loss(pred, truth)
    with pytest.raises(ValueError, match=message):
        emd_loss(pred, truth)


def test_what_only_one_loss_asks() -> None:
    with pytest.raises(ValueError, match=r"formula: 'l3' seen, l1-sum, l1-mean"):
        chamfer_loss(torch.zeros(1, 5, 3), torch.zeros(1, 5, 3), "l3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"truth: shape \(1, 4, 3\) seen, \(1, 5, 3\) wanted, as pred"):
        emd_loss(torch.zeros(1, 5, 3), torch.zeros(1, 4, 3))
