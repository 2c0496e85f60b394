"""The CUDA backend's EMD, in Triton's interpreter: certificates as the CPU's, on the CPU's hard clouds."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: extra `kernels-test`")
pytest.importorskip("triton", reason="triton is not installed: extra `kernels-test`")

from adapters.contract import F64
from metrics import emd
from metrics.emd import emd_of_samples
from metrics.kernels.cpu.pricetree import PriceTree
from metrics.kernels.cuda import auction
from metrics.kernels.schedule import solve
from tests.metrics.test_emd import exact, hard_clouds, surface, verify


def thinned(pred: F64, truth: F64, n: int) -> tuple[F64, F64]:
    """`n` points of either cloud, the last ones among them: they make some clouds hard."""
    rng = np.random.default_rng(0)
    rows = [np.r_[rng.permutation(len(cloud) - 1)[: n - 1], len(cloud) - 1] for cloud in (pred, truth)]
    return pred[rows[0]], truth[rows[1]]


@pytest.mark.parametrize("name", hard_clouds())
def test_the_certificate_holds(name: str) -> None:
    """A bijection and a dual bound within 1%, with the exact value between; the CPU's own bounds overlap."""
    pred, truth = thinned(*hard_clouds()[name], 150)
    result = verify(pred, truth, 0.01, exact(pred, truth), device="cuda")
    cpu = emd(pred, truth)
    slack = 1e-12 * (1 + abs(cpu.upper)) if cpu.upper < 1e20 else 1e-12 * cpu.upper
    assert type(result) is type(cpu)
    assert max(result.lower, cpu.lower) <= min(result.upper, cpu.upper) + slack


@pytest.mark.parametrize("n", [1, 2, 3, 9, 63, 65])
def test_counts_that_divide_nothing(n: int) -> None:
    """Elsewhere n must be a multiple of 1024."""
    rng = np.random.default_rng(n)
    pred, truth = surface(n, rng), surface(n, rng) + [0.1, 0, 0]
    verify(pred, truth, 0.005, exact(pred, truth), device="cuda")


@pytest.mark.parametrize("gap", [0.05, 1e-6])
def test_the_rounds_alone_reach_the_gap(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody bids on the host; at a millionth bids compare in double precision."""
    monkeypatch.setattr(auction, "HOST_PERSONS", 0)
    monkeypatch.setattr(auction, "HOST_PAIRS", 0)
    rng = np.random.default_rng(1)
    pred, truth = surface(40, rng), surface(40, rng)
    verify(pred, truth, gap, exact(pred, truth), device="cuda")


def test_the_levels_from_coarse_to_fine() -> None:
    """Enough points for two levels of cells, and for the rounds to be split."""
    rng = np.random.default_rng(2)
    pred, truth = surface(1600, rng), surface(1600, rng) * [1, 1.05, 1]
    assert verify(pred, truth, 0.05, device="cuda").gap <= 0.05


def test_cells_and_least_sums_are_the_cpu_tree_s() -> None:
    rng = np.random.default_rng(3)
    points, prices, queries = rng.random((300, 3)), rng.random(300), rng.random((70, 3))
    cloud, tree = auction.Cloud(torch.from_numpy(points)), PriceTree(points)
    cloud.set_prices(torch.from_numpy(prices)[cloud.order])
    tree.set_prices(prices[tree.order])
    least = cloud.least_sums(torch.from_numpy(queries)).numpy()
    np.testing.assert_allclose(least, tree.least_sums(queries), rtol=1e-14)
    pred, truth = cloud.centroids(4).numpy(), tree.centroids(4)
    np.testing.assert_allclose(pred[np.lexsort(pred.T)], truth[np.lexsort(truth.T)], rtol=1e-12)
    beside = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, 1]
    assert cloud.spacing() == pytest.approx(np.sort(beside)[149], rel=1e-12)


def test_every_object_goes_to_one_person_alone() -> None:
    """Elsewhere many persons are matched to one object when the iterations run out. Here all want the same one."""
    pred = np.random.default_rng(4).normal(size=(90, 3)) * 1e-9
    truth = np.concatenate([np.zeros((1, 3)), np.random.default_rng(5).normal(size=(89, 3)) + [50.0, 0, 0]])
    result = verify(pred, truth, 0.01, exact(pred, truth), device="cuda")
    assert len(set(result.assignment.tolist())) == 90


def test_it_is_deterministic() -> None:
    rng = np.random.default_rng(6)
    pred, truth = surface(120, rng), surface(120, rng)
    first, second = emd(pred, truth, device="cuda"), emd(pred, truth, device="cuda")
    assert (first.value, first.lower) == (second.value, second.lower)
    np.testing.assert_array_equal(first.assignment, second.assignment)
    np.testing.assert_array_equal(first.prices, second.prices)


def test_the_order_of_arrival_changes_nothing() -> None:
    """The list of those without an object is filled in any order on a GPU."""
    rng = np.random.default_rng(7)
    pred, truth = surface(100, rng), surface(100, rng)
    backend = auction.Cuda(torch.device("cpu"))
    wanted = solve(backend, pred, truth, 0.01, 1e-15)

    class Shuffled(auction._Book):
        def turn(self) -> None:
            super().turn()
            count = int(self.count)
            self.todo[:count] = self.todo[:count][torch.randperm(count)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auction, "_Book", Shuffled)
        result = solve(backend, pred, truth, 0.01, 1e-15)
    np.testing.assert_array_equal(result.assignment, wanted.assignment)
    assert result.lower == wanted.lower


def test_tensors_and_samples_are_taken() -> None:
    rng = np.random.default_rng(8)
    pred, truth = surface(64, rng), surface(64, rng)
    wide = torch.from_numpy(np.repeat(pred, 2, axis=1))[:, ::2]
    assert not wide.is_contiguous()
    assert emd(wide, torch.from_numpy(truth), device="cuda").value == emd(pred, truth, device="cuda").value
    assert emd(pred, pred[::-1], device="cuda").value == 0
    samples = emd_of_samples(pred, truth[:50], 20, seed=1, device="cuda")
    assert samples.value == pytest.approx(emd_of_samples(pred, truth[:50], 20, seed=1).value, rel=0.02)
    with pytest.raises(ValueError, match=r"truth: 50 points seen, 64 wanted, as many as pred"):
        emd(pred, torch.from_numpy(truth[:50]), device="cuda")
    with pytest.raises(ValueError, match=r"pred: 1 points are not finite"):
        emd(torch.tensor([[torch.nan, 0, 0]]), torch.zeros(1, 3), device="cuda")
