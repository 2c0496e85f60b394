"""The performance model: its counts against a search written out, its loop against code written by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: extra `kernels-test`")
pytest.importorskip("triton", reason="triton is not installed: extra `kernels-test`")

from adapters.contract import F64
from metrics.kernels.cuda.compiled import Compiled
from metrics.kernels.cuda.model import H200, loop, occupancy, seconds
from metrics.kernels.cuda.nearest import SEARCH, TileTree
from tests.metrics.test_emd import surface

CODE = """
.L_x_0:
        /*0010*/                   LDG.E R2, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   FADD R4, R5, -R2 ;
        /*0030*/                   FFMA R4, R4, R4, R6 ;
        /*0040*/                   MUFU.RSQ R7, R4 ;
        /*0050*/              @!P0 FSEL R8, R4, R8, P1 ;
        /*0060*/               @P2 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
"""


def gaps(low: F64, high: F64, points: F64) -> F64:
    return np.asarray((np.maximum(np.maximum(low - points, points - high), 0) ** 2).sum(axis=-1))


def test_the_interpreter_visits_the_tiles_that_the_search_must() -> None:
    rng = np.random.default_rng(0)
    queries, points = TileTree(torch.from_numpy(surface(200, rng))), TileTree(torch.from_numpy(surface(900, rng)))
    low, high = points.boxes.numpy()[:3].T, points.boxes.numpy()[3:].T
    cloud, asked = points.points.numpy().T, queries.points.numpy().T
    visits = 0
    for begin in range(0, len(asked), SEARCH.rows):
        tile = asked[begin : begin + SEARCH.rows]
        inner, outer = tile.min(axis=0), tile.max(axis=0)
        between = (np.maximum(np.maximum(low - outer, inner - high), 0) ** 2).sum(axis=1)
        start = int(gaps(low, high, (inner + outer) / 2).argmin())
        best = np.full(len(tile), np.inf)
        for t in [start, *(t for t in np.argsort(between, kind="stable") if t != start)]:
            if t == start or (between[t] < best.max() and (gaps(low[t], high[t], tile) < best).any()):
                part = cloud[t * SEARCH.points : (t + 1) * SEARCH.points]
                best = np.minimum(best, ((tile[:, None] - part[None]) ** 2).sum(axis=2).min(axis=1))
                visits += 1
    assert points.counted(queries)[2].tiles == visits


def test_the_loop_the_occupancy_and_the_time_by_hand() -> None:
    made = Compiled("by hand", 90, registers=128, spills=0, shared=0, warps=4, code=CODE)
    body = loop(made, pairs=1)
    assert dict(body.instructions) == {"FADD": 1, "FFMA": 1, "MUFU": 1, "FSEL": 1, "BRA": 1}
    assert body.cycles(H200) == 1 / 16  # the square root's rate, not the 5 instructions'
    assert occupancy(made) == 4 * 4 / 64
    assert seconds(16e9, body, H200) == pytest.approx(1e9 / (132 * 1.98e9))
