"""Our instruments and other people's agree, where theirs are installed."""

from __future__ import annotations

import numpy as np
import pytest

from metrics import chamfer, emd, nearest
from metrics.peers import EMD, NEAREST, PeerMissing, emd_by, installed, nearest_by

FLOAT32_ONLY = {"pytorch3d"}


@pytest.mark.parametrize("peer", NEAREST)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_nearest_neighbours_agree(peer: str, scale: float) -> None:
    if peer not in installed(NEAREST):
        pytest.skip(f"{peer} is not installed")
    rng = np.random.default_rng(0)
    pred, truth = scale * rng.normal(size=(4000, 3)), scale * rng.normal(size=(3000, 3))
    own, reference = nearest(pred, truth), nearest_by(peer, pred, truth)
    tolerance = 1e-5 if peer in FLOAT32_ONLY else 1e-12
    np.testing.assert_allclose(reference.distance, own.distance, rtol=tolerance, atol=tolerance * scale)
    if peer not in FLOAT32_ONLY:
        np.testing.assert_array_equal(reference.index, own.index)


@pytest.mark.parametrize("peer", EMD)
def test_exact_transport_lies_in_our_interval(peer: str) -> None:
    if peer not in installed(EMD):
        pytest.skip(f"{peer} is not installed")
    rng = np.random.default_rng(1)
    pred, truth = rng.normal(size=(600, 3)), rng.normal(size=(600, 3)) + [0.5, 0, 0]
    result = emd(pred, truth, gap=1e-3)
    assert result.lower <= emd_by(peer, pred, truth) * (1 + 1e-9)
    assert result.upper >= emd_by(peer, pred, truth) * (1 - 1e-9)


def test_chamfer_of_pytorch3d_agrees() -> None:
    loss = pytest.importorskip("pytorch3d.loss", reason="pytorch3d is not installed")
    import torch

    rng = np.random.default_rng(2)
    pred, truth = rng.normal(size=(500, 3)).astype(np.float32), rng.normal(size=(700, 3)).astype(np.float32)
    reference = loss.chamfer_distance(torch.from_numpy(pred)[None], torch.from_numpy(truth)[None])[0].item()
    assert chamfer(pred, truth).l2sq_sum == pytest.approx(reference, rel=1e-5)


def test_an_absent_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEAREST, "nobody", ("a_package_nobody_wrote", NEAREST["scipy"][1]))
    assert "nobody" not in installed(NEAREST) and "scipy" in installed(NEAREST)
    with pytest.raises(PeerMissing, match="nobody: the package a_package_nobody_wrote is not installed"):
        nearest_by("nobody", np.zeros((1, 3)), np.zeros((1, 3)))
