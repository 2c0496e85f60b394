"""Nearest neighbours: an exhaustive search on inputs that break trees, and closed forms for meshes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adapters.contract import F64, InputError
from metrics import nearest
from metrics.nearest import distances, surface_distance


def exhaustive(queries: F64, points: F64) -> F64:
    """(Q,) least distances, from all pairs."""
    return np.concatenate([
        np.sqrt(((queries[i : i + 256, None] - points[None]) ** 2).sum(axis=2)).min(axis=1)
        for i in range(0, len(queries), 256)
    ])  # fmt: skip


def check(queries: F64, points: F64) -> None:
    result = nearest(queries, points)
    assert result.distance.dtype == np.float64 and result.index.dtype == np.int64
    expected = exhaustive(queries, points)
    scale = max(np.abs(queries).max(), np.abs(points).max(), 1e-300)
    np.testing.assert_allclose(result.distance, expected, rtol=1e-12, atol=1e-15 * scale)
    own = np.linalg.norm(queries - points[result.index], axis=1)
    np.testing.assert_allclose(own, expected, rtol=1e-12, atol=1e-15 * scale)


def hard_clouds() -> dict[str, tuple[F64, F64]]:
    rng = np.random.default_rng(0)
    cloud, other = rng.normal(size=(3000, 3)), rng.normal(size=(2500, 3))
    line = np.outer(rng.random(2000), [1.0, 2.0, -1.0])
    decades = rng.normal(size=(3000, 3)) * 10.0 ** rng.uniform(-12, 3, (3000, 1))
    return {
        "random": (cloud, other),
        "same": (cloud, cloud),
        "one point each": (cloud[:1], other[:1]),
        "one point": (cloud, other[:1]),
        "eight points": (cloud, other[:8]),
        "nine points": (cloud[:9], other[:9]),
        "sixty-five points": (cloud[:65], other[:65]),
        "all points equal": (cloud, np.repeat(other[:1], 2000, axis=0)),
        "all queries equal": (np.repeat(cloud[:1], 2000, axis=0), other),
        "duplicates": (np.repeat(cloud[:40], 50, axis=0), np.repeat(other[:40], 50, axis=0)),
        "collinear": (line, line[:1000] + [1e-3, 0, 0]),
        "planar": (cloud * [1, 1, 0], other * [1, 1, 0]),
        "lattice": (cloud, np.stack(np.meshgrid(*[np.arange(12.0)] * 3), axis=-1).reshape(-1, 3)),
        "far offset": (cloud + 1e6, other + 1e6),
        "far apart": (cloud, other + [1e4, 0, 0]),
        "one stray point": (cloud, np.concatenate([other, [[1e9, 0, 0]]])),
        "clusters at all scales": (decades, decades[::2] * 1.001),
        "tiny": (cloud * 1e-30, other * 1e-30),
        "huge": (cloud * 1e30, other * 1e30),
    }


@pytest.mark.parametrize("name", hard_clouds())
def test_distances_are_those_of_an_exhaustive_search(name: str) -> None:
    check(*hard_clouds()[name])


finite = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, 1.0 + 1e-15, -1e-300]))
clouds = st.integers(1, 90).flatmap(lambda n: arrays.arrays(np.float64, (n, 3), elements=finite))


@settings(max_examples=100, deadline=None)
@given(clouds, clouds)
def test_any_cloud(queries: F64, points: F64) -> None:
    check(queries, points)


def test_neighbours_in_one_cell_among_a_hundred_thousand() -> None:
    """A stray point must not make the search exhaustive: 10^10 pairs would take a minute."""
    rng = np.random.default_rng(1)
    points = np.concatenate([1e-9 * rng.normal(size=(100_000, 3)), [[1e9, 1e9, 1e9]]])
    result = nearest(points, points)
    assert (result.distance == 0).all()
    np.testing.assert_array_equal(points[result.index], points)


def test_both_directions_are_two_searches() -> None:
    rng = np.random.default_rng(2)
    pred, truth = rng.random((40_000, 3)), rng.random((30_000, 3))
    both = distances(pred, truth)
    np.testing.assert_array_equal(both.to_truth, nearest(pred, truth).distance)
    np.testing.assert_array_equal(both.to_pred, nearest(truth, pred).distance)


def cube() -> tuple[F64, np.ndarray]:
    """The unit cube as 12 triangles."""
    vertices = np.stack(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 1.0], indexing="ij"), axis=-1).reshape(-1, 3)
    quads = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    return vertices, np.array(faces, np.int32)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_distance_to_a_mesh_is_exact(offset: float) -> None:
    vertices, faces = cube()
    points = np.random.default_rng(3).uniform(-1, 2, (5000, 3))
    outside = np.maximum(np.maximum(-points, points - 1), 0)
    inside = np.minimum(points, 1 - points).min(axis=1)
    expected = np.where((outside == 0).all(axis=1), inside, np.linalg.norm(outside, axis=1))
    result = surface_distance(points + offset, vertices + offset, faces)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 if offset == 0 else 1e-5)
    clear = np.abs(np.sort(outside, axis=1)[:, -1]) > 0.01  # the nearest triangle is not in doubt
    np.testing.assert_allclose(result[clear], expected[clear], rtol=0, atol=1e-15 * max(10, offset * 10))


def test_a_triangle_without_area_is_its_edges() -> None:
    vertices, faces = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]], np.int32)
    np.testing.assert_allclose(surface_distance(np.array([[1.5, 1.0, 0], [3, 0, 0]]), vertices, faces), [1, 1])


def test_tensors_and_lists_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        """What numpy and we need of a torch CPU tensor that carries a gradient."""

        device = "cpu"

        def __init__(self, array: F64) -> None:
            self.array, self.free = array, False

        def detach(self) -> Tensor:
            out = Tensor(self.array)
            out.free = True
            return out

        def __array__(self, dtype: object = None, copy: object = None) -> F64:
            if not self.free:
                raise RuntimeError("requires grad")
            return self.array

    cloud = np.random.default_rng(4).random((20, 3))
    assert (nearest(Tensor(cloud), cloud.tolist()).distance == 0).all()  # type: ignore[arg-type]
    gpu = Tensor(cloud)
    gpu.device = "cuda:0"
    monkeypatch.delitem(sys.modules, "metrics.kernels.cuda.device", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"device cuda:0: torch is not installed \(pip install 'reconbench\[gpu\]'\)"):
        nearest(gpu, cloud)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 3)), r"points: 0 points seen, at least 1 wanted"),
        (np.zeros((4, 2)), r"points: shape \(4, 2\) seen, \(M, 3\) wanted"),
        (np.zeros(3), r"points: shape \(3,\) seen"),
        (np.array([[0, 0, np.nan], [0, 0, 0]]), r"points: 1 points are not finite"),
        (np.array([[np.inf, 0, 0]]), r"points: 1 points are not finite"),
        (np.array([[1e200, 0, 0]]), r"points: a coordinate of 1e\+200 seen"),
        (np.zeros((2, 3), np.complex128), r"points: dtype complex128 seen, real numbers wanted"),
        (np.array([["a", "b", "c"]]), r"points: dtype <U1 seen"),
        ([[1, 2, 3], [1, 2]], r"points: list seen, an array of numbers wanted"),
    ],
)
def test_bad_clouds_are_refused_by_name(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(np.zeros((1, 3)), bad)  # type: ignore[arg-type]


def test_bad_meshes_are_refused_by_name() -> None:
    vertices, faces = cube()
    with pytest.raises(ValueError, match=r"faces: indices 0\.\.7 seen, 0\.\.6 wanted"):
        surface_distance(vertices, vertices[:7], faces)
    with pytest.raises(ValueError, match=r"faces: float64 \(12, 3\) seen"):
        surface_distance(vertices, vertices, faces.astype(np.float64))


def test_the_instruments_load_lazily_and_stay_functions() -> None:
    """Importing the package compiles nothing and loads no numba; a submodule does not shadow its function."""
    code = (
        "import sys, metrics.points, metrics.chamfer, metrics.fscore, metrics.emd, metrics.nearest\n"
        "assert not {'numba', 'scipy', 'point_cloud_utils'} & set(sys.modules), 'heavy import'\n"
        "from metrics import chamfer, emd, fscore, nearest\n"
        "assert all(type(f).__name__ == 'function' for f in (chamfer, emd, fscore, nearest))\n"
        "assert 'numba' not in sys.modules\n"
        "import metrics.register.icp\n"
        "from metrics import register\n"
        "assert type(register).__name__ == 'function' and metrics.register is register\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
