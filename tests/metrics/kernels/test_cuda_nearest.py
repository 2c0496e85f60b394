"""The CUDA backend's nearest neighbours, in Triton's interpreter: the CPU's hard clouds, and what breaks elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: extra `kernels-test`")
pytest.importorskip("triton", reason="triton is not installed: extra `kernels-test`")

from adapters.contract import F64, InputError
from metrics import chamfer, fscore, nearest
from metrics.kernels.cuda import device
from metrics.kernels.cuda import nearest as kernels
from metrics.kernels.cuda.cells import sort_by_cells, tile_cuts
from metrics.kernels.cuda.device import Tile
from metrics.nearest import distances
from tests.metrics.test_nearest import cube, exhaustive, hard_clouds

MOST = 330  # points of a cloud here: the interpreter takes some 10 ms a tile


def thinned(cloud: F64) -> F64:
    """`MOST` of the points, among them the last, which is the stray one of some clouds."""
    rows = np.random.default_rng(0).permutation(len(cloud) - 1)[: MOST - 1]
    return np.concatenate([cloud[np.sort(rows)], cloud[-1:]])


def check(queries: F64, points: F64) -> None:
    """As an exhaustive search in float64, and as the CPU instrument."""
    result, cpu = nearest(queries, points, device="cuda"), nearest(queries, points)
    assert type(result) is type(cpu)
    assert result.distance.dtype == np.float64 and result.index.dtype == np.int64
    wanted = exhaustive(queries, points)
    scale = max(np.abs(queries).max(), np.abs(points).max(), 1e-300)
    for values in (result.distance, np.linalg.norm(queries - points[result.index], axis=1), cpu.distance):
        np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-15 * scale)


@pytest.mark.parametrize("name", hard_clouds())
def test_distances_are_those_of_an_exhaustive_search(name: str) -> None:
    check(*map(thinned, hard_clouds()[name]))


@pytest.mark.parametrize(("queries", "points"), [(1, 1), (1, 97), (97, 1), (31, 33), (32, 64), (129, 257), (7, 512)])
def test_counts_that_divide_nothing(queries: int, points: int) -> None:
    rng = np.random.default_rng(queries)
    check(rng.normal(size=(queries, 3)), rng.normal(size=(points, 3)))


def test_the_tiles_prune() -> None:
    """A search that compared everything would be right as well."""
    cloud = torch.from_numpy(np.random.default_rng(1).random((2000, 3)))
    tree = kernels.TileTree(cloud)
    _, index, observed = tree.counted(kernels.TileTree(cloud[::4]))
    assert (index == torch.arange(0, 2000, 4)).all()
    assert observed.tiles < 0.25 * (500 / 32) * (2000 / 32)


def test_cells_are_those_of_a_balanced_tree() -> None:
    points = torch.from_numpy(np.random.default_rng(2).random((1000, 3)))
    cuts = tile_cuts(1000, 32)
    assert cuts.tolist() == [min(32 * k, 1000) for k in range(33)]
    order = sort_by_cells(points, cuts)
    assert sorted(order.tolist()) == list(range(1000))
    here = points[order]
    wide = (points.amax(0) - points.amin(0)).argmax()
    assert here[:512, wide].max() <= here[512:, wide].min()


def test_both_directions_chamfer_and_fscore_are_the_cpu_s() -> None:
    rng = np.random.default_rng(3)
    pred, truth = rng.random((300, 3)), rng.random((200, 3))
    both, cpu = distances(pred, truth, device="cuda"), distances(pred, truth)
    np.testing.assert_allclose(both.to_truth, cpu.to_truth, rtol=1e-13)
    np.testing.assert_allclose(both.to_pred, cpu.to_pred, rtol=1e-13)
    assert chamfer(pred, truth, device="cuda").l1_sum == pytest.approx(chamfer(pred, truth).l1_sum, rel=1e-13)
    assert fscore(pred, truth, 0.05, device="cuda") == fscore(pred, truth, 0.05)
    vertices, faces = cube()
    onto_mesh = distances(pred, truth, mesh=(vertices, faces), device="cuda")
    np.testing.assert_array_equal(onto_mesh.to_truth, distances(pred, truth, mesh=(vertices, faces)).to_truth)


def test_tensors_of_any_strides_and_dtypes() -> None:
    """Elsewhere a non-contiguous tensor is read as if it were contiguous."""
    rng = np.random.default_rng(4)
    wide = torch.from_numpy(rng.random((100, 6)).astype(np.float32)).requires_grad_()
    queries, points = wide[:, ::2], torch.from_numpy(rng.random((3, 80))).T
    assert not queries.is_contiguous() and not points.is_contiguous()
    result = nearest(queries, points, device="cuda")
    wanted = exhaustive(queries.detach().numpy().astype(np.float64), points.numpy())
    np.testing.assert_allclose(result.distance, wanted, rtol=1e-12)
    half = nearest(queries.half(), points.half(), device="cuda").distance
    np.testing.assert_allclose(half, wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(0, 3), r"points: 0 points seen, at least 1 wanted"),
        (torch.zeros(4, 2), r"points: shape \(4, 2\) seen, \(M, 3\) wanted"),
        (torch.tensor([[0, 0, torch.nan], [0, 0, 0]]), r"points: 1 points are not finite"),
        (torch.tensor([[1e200, 0, 0]], dtype=torch.float64), r"points: a coordinate of 1e\+200 seen"),
        (torch.zeros(2, 3, dtype=torch.complex64), r"points: dtype torch.complex64 seen, real numbers wanted"),
        (np.zeros((0, 3)), r"points: 0 points seen, at least 1 wanted"),
    ],
)
def test_bad_clouds_are_refused_by_name(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(np.zeros((1, 3)), bad, device="cuda")  # type: ignore[arg-type]


def brute(queries: Any, points: Any) -> tuple[Any, Any]:
    """Batch by batch in float64: squared distance and the least index of the nearest."""
    squared = ((queries.double()[:, :, None] - points.double()[:, None]) ** 2).sum(dim=3)
    return squared.amin(2), squared.argmin(2)


@pytest.mark.parametrize(
    ("batch", "queries", "points"), [(1, 1, 1), (3, 65, 130), (2, 700, 1), (520, 3, 5), (1, 64, 1030)]
)
def test_batches_of_any_size(batch: int, queries: int, points: int) -> None:
    """Batches of more than 512, counts that divide nothing, single points."""
    rng = np.random.default_rng(batch)
    pred = torch.from_numpy(rng.normal(size=(batch, queries, 3)))
    truth = torch.from_numpy(rng.normal(size=(batch, points, 3)))
    squared, index = kernels.search_batch(pred, truth, Tile(8, 8) if batch > 512 else None)
    wanted, at = brute(pred, truth)
    np.testing.assert_allclose(squared.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-10)
    assert (index == at).float().mean() > 0.999


def test_an_offset_costs_no_precision() -> None:
    """Expanded squares lose everything at 1e6."""
    rng = np.random.default_rng(5)
    queries, points = torch.from_numpy(rng.random((1, 50, 3))), torch.from_numpy(rng.random((1, 300, 3)))
    moved = kernels.search_batch(queries + 1e6, points + 1e6)
    np.testing.assert_array_equal(moved[1].numpy(), brute(queries, points)[1].numpy())
    single = kernels.search_batch((queries + 1e6).float(), (points + 1e6).float())  # quantised to 1/16 by its own type
    wanted = brute((queries + 1e6).float(), (points + 1e6).float())
    np.testing.assert_array_equal(single[0].numpy(), wanted[0].float().numpy())


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_however_the_points_are_split_the_first_nearest_wins(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "splits", lambda device, programs, most: parts)
    rng = np.random.default_rng(6)
    points = torch.from_numpy(np.repeat(rng.integers(0, 5, (700, 3)), 2, axis=0))[None].float()
    queries = torch.from_numpy(rng.integers(0, 5, (40, 3)))[None].float()
    squared, index = kernels.search_batch(queries, points, Tile(64, 128))
    wanted, at = brute(queries, points)
    np.testing.assert_array_equal(squared.numpy(), wanted.float().numpy())
    np.testing.assert_array_equal(index.numpy(), at.numpy())


def test_ten_million_points() -> None:
    """Indices beyond what single precision counts, and offsets beyond 2^24."""
    n = 10_000_000
    points = torch.zeros((1, n, 3), dtype=torch.float32)
    points[:, :, 0] = 10.0
    planted = torch.tensor([n - 1, 8_388_609, 3])
    points[0, planted, 0] = torch.tensor([0.0, 1.0, 2.0])
    queries = torch.tensor([[[0.1, 0, 0], [1.1, 0, 0], [2.1, 0, 0]]])
    _, index = kernels.search_batch(queries, points, Tile(4, 1 << 17))
    assert index[0].tolist() == planted.tolist()


class Elsewhere:
    """What we ask of a tensor before its device is known to be here."""

    def __init__(self, place: str) -> None:
        self.device = place

    def detach(self) -> Elsewhere:
        return self


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"queries on cuda:0, points on cuda:1: tensors on one device wanted"):
        nearest(Elsewhere("cuda:0"), Elsewhere("cuda:1"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"points: a tensor on mps:0 seen, a CPU or CUDA tensor or an array wanted"):
        nearest(np.zeros((2, 3)), Elsewhere("mps:0"))  # type: ignore[arg-type]


def test_a_device_that_is_not_here_or_too_old_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere an architecture that was not compiled for answers with zeros."""
    cloud = np.zeros((2, 3))
    monkeypatch.setattr(device, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"device cuda: torch .* sees no CUDA device here"):
        nearest(cloud, cloud, device="cuda")
    with pytest.raises(ValueError, match=r"device: 'tpu' seen, cpu, cuda or cuda:N wanted"):
        nearest(cloud, cloud, device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    with pytest.raises(InputError, match=r"device cuda:1: 1 CUDA devices are here, numbered from 0"):
        nearest(cloud, cloud, device="cuda:1")
    with pytest.raises(InputError, match=r"device cuda:0: compute capability 7.5 seen, 8.0 or newer wanted"):
        nearest(cloud, cloud, device="cuda:0")


def test_a_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere a kernel runs on the current device, reads cuda:0 and leaves zeros on cuda:1."""
    entered: list[str] = []

    @contextmanager
    def current(place: Any) -> Any:
        entered.append(str(place))
        yield
        entered.append("left")

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments, **constants: entered.append(f"grid {grid}, {constants['num_warps']} warps")

    class Tensor:
        device = torch.device("cuda", 1)

    monkeypatch.setattr(torch.cuda, "device", current)
    device.launch(Kernel(), (3,), Tile(1, 1, 8), Tensor())
    assert entered == ["cuda:1", "grid (3,), 8 warps", "left"]
