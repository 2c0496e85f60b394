"""Other people's implementations of the same quantities, to check ours against and to time it beside.

Never used for scoring. SciPy is always at hand; the others come with `pip install 'reconbench[peers]'`, PyTorch3D by
its own instructions. Implementations that only approximate (torch.cdist in its matrix mode, Sinkhorn iterations,
sliced distances) are not here: their error is larger than what a comparison would look for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.nearest import Nearest

Cloud = NDArray[np.floating[Any]]  # (M, 3); float32 or float64, which decides the precision of most peers


class PeerMissing(ImportError):
    """A peer whose package is not installed; the message names it."""


def nearest_by(peer: str, queries: Cloud, points: Cloud) -> Nearest:
    """The nearest of `points` (M, 3) to each of `queries` (Q, 3), computed by `peer`, one of `NEAREST`.

    Raises PeerMissing where its package is absent."""
    package, search = NEAREST[peer]
    _require(peer, package)
    distance, index = search(queries, points)
    return Nearest(np.asarray(distance, np.float64), np.asarray(index, np.int64))


def emd_by(peer: str, pred: Cloud, truth: Cloud) -> float:
    """The exact least mean length of a bijection of `pred` and `truth` (n, 3), computed by `peer`, one of `EMD`.

    Takes memory for n^2 float64. Raises PeerMissing where its package is absent."""
    package, solve = EMD[peer]
    _require(peer, package)
    return solve(pred, truth)


def installed(table: dict[str, tuple[str, Any]]) -> list[str]:
    """The peers of a table, `NEAREST` or `EMD`, whose package is here."""
    return [peer for peer, (package, _) in table.items() if find_spec(package) is not None]


def _require(peer: str, package: str) -> None:
    if find_spec(package) is None:
        raise PeerMissing(f"{peer}: the package {package} is not installed (pip install 'reconbench[peers]')")


def _scipy(queries: Cloud, points: Cloud) -> tuple[Any, Any]:
    from scipy.spatial import cKDTree

    return cKDTree(points).query(queries, workers=-1)


def _pykdtree(queries: Cloud, points: Cloud) -> tuple[Any, Any]:
    from pykdtree.kdtree import KDTree

    distance, index = KDTree(points).query(queries)
    return distance, index


def _pynanoflann(queries: Cloud, points: Cloud) -> tuple[Any, Any]:
    from pynanoflann import KDTree

    tree = KDTree(n_neighbors=1)
    tree.fit(points)
    distance, index = tree.kneighbors(queries, n_jobs=os.cpu_count() or 1)
    return distance[:, 0], index[:, 0]


def _open3d(queries: Cloud, points: Cloud) -> tuple[Any, Any]:
    import open3d

    tree = open3d.core.nns.NearestNeighborSearch(open3d.core.Tensor.from_numpy(np.ascontiguousarray(points)))
    tree.knn_index()
    index, squared = tree.knn_search(open3d.core.Tensor.from_numpy(np.ascontiguousarray(queries)), 1)
    return np.sqrt(squared.numpy()[:, 0]), index.numpy()[:, 0]


def _pytorch3d(queries: Cloud, points: Cloud) -> tuple[Any, Any]:
    import torch
    from pytorch3d.ops import knn_points

    x, y = (torch.from_numpy(np.ascontiguousarray(cloud, np.float32))[None] for cloud in (queries, points))
    result = knn_points(x, y, K=1)
    return np.sqrt(result.dists.numpy()[0, :, 0]), result.idx.numpy()[0, :, 0]  # its distances are squared


def _pot(pred: Cloud, truth: Cloud) -> float:
    import ot
    from scipy.spatial.distance import cdist

    weights = np.full(len(pred), 1 / len(pred))
    return float(ot.emd2(weights, weights, cdist(pred, truth), numItermax=10**8))


def _scipy_assignment(pred: Cloud, truth: Cloud) -> float:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    costs = cdist(pred, truth)
    return float(costs[linear_sum_assignment(costs)].mean())


NEAREST: dict[str, tuple[str, Callable[[Cloud, Cloud], tuple[Any, Any]]]] = {
    "scipy": ("scipy", _scipy),
    "pykdtree": ("pykdtree", _pykdtree),
    "pynanoflann": ("pynanoflann", _pynanoflann),
    "open3d": ("open3d", _open3d),
    "pytorch3d": ("pytorch3d", _pytorch3d),
}
EMD: dict[str, tuple[str, Callable[[Cloud, Cloud], float]]] = {
    "scipy": ("scipy", _scipy_assignment),
    "pot": ("ot", _pot),
}
