"""The assignment problem on points as an auction with epsilon scaling, from coarse cells to single points.

Persons (points of one cloud) bid for objects (points of the other) at cost distance + price; a phase with step eps
ends with prices under which everyone holds an object within eps of the best (Bertsekas, "The auction algorithm: a
distributed relaxation method for the assignment problem", 1988). What makes it fast and certified:

- Coarse to fine: both clouds are cut by the same median splits into cells of equal mass, so that the cells'
  centroids are an assignment problem again. The profits pi of its solution extend to the next level's objects by the
  c-transform p(q) = max_i pi_i - |x_i - q|, which carries the potential along far transport exactly. Coarse levels
  supply prices to start from, never a bound.
- The dual bound is two-sided: pi is the c-transform of the prices over all objects, then the prices that of pi over
  all persons. The next eps follows from the gap thus measured, and only persons whose object breaks
  eps-complementary slackness under the better prices bid again.
- The last few persons, too few to matter for the gap, are matched to the free objects directly.

Lengths are in units of the clouds' joint extent. Who bids and who bounds is a `Backend`: `metrics.kernels.cpu.auction`
or `metrics.kernels.cuda.auction`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64

I64 = NDArray[np.int64]
Array: TypeAlias = Any  # a backend's own: of numpy, or a tensor on its device

CELL = 6  # at least this many points a cell of the finest coarse level
LEVEL_STEP = 2  # splits between coarse levels
COARSEST = 8  # splits of the coarsest level
SPACING_EPS = 0.5  # a coarse level stops at this eps, in units of its spacing ...
POINTS_EPS = 0.35  # ... and the points start at this one, in units of the finest coarse level's spacing
COARSE_STEP = 4.0  # eps shrinks by this on the coarse levels
STEP = 6.0  # eps shrinks by at most this on the points
AIM = 0.85  # aim at this share of the wanted gap
GAP_PER_EPS = 0.13  # (upper - lower) / eps that a phase leaves: measured .05 to .25
POWER = 1.15  # eps goes as gap ** POWER when the gap shrinks: measured 1.0 to 1.2
TAIL = 0.1  # share of the gap that matching the last persons directly may cost ...
MOST_LAST = 200  # ... and how many they may be: matching them takes the cube of their number
DELTA = 0.02  # share of the gap that inexact c-transforms may cost
RESOLUTION = 1e-9  # a difference of the bounds below this share of the extent is not pursued
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Solution:
    """A bijection and a dual bound, in units of the extent."""

    assignment: I64  # (n,) person i of the input holds object assignment[i] of the input
    prices: F64  # (n,) of the input's objects
    lower: float
    resolved: bool  # False where the bounds met the resolution of the arithmetic before the gap asked for


class Side(Protocol):
    """The points of one side, (n, 3), in an order of the backend's own, each with a price."""

    points: Array
    order: Array  # (n,) which point of the input each is

    def set_prices(self, prices: Array, /) -> None: ...

    def least_sums(self, queries: Array, /) -> Array:
        """(m,) for each of `queries` (m, 3) the least distance + price, never from above."""


class Auction(Protocol):
    """Persons, objects, prices, a partial assignment, and the best bounds so far; backends subclass it."""

    profits: Array  # (n,) of the persons
    upper: float
    lower: float
    best: Array  # (n,) the assignment of `upper`
    best_prices: Array  # (n,) those of `lower`

    def phase(self, eps: float, stop: int = 0, delta: float = 0.0) -> float:
        """One auction phase, completed to a bijection, and the dual bound it gives; returns upper - lower."""

    def keep(self, upper: float, assignment: Array, lower: float, prices: Array) -> float:
        """Keep what is better than before; returns `upper` - `lower`."""
        if upper < self.upper:
            self.upper, self.best = upper, assignment
        if lower >= self.lower:
            self.lower, self.best_prices = lower, prices
        return upper - lower

    def release(self, eps: float) -> None:
        """Undo the assignments that break eps-complementary slackness under the present prices."""


class Backend(Protocol):
    """What a device does of the work."""

    def side(self, points: F64) -> Side: ...

    def coarse(self, side: Any, depth: int) -> Side:
        """The 2**depth mean points of the cells of equal mass that `depth` rounds of median splits make."""

    def spacing(self, side: Any) -> float:
        """Median distance of a side's points from their nearest."""

    def auction(self, persons: Any, objects: Any, prices: Array | None) -> Auction:
        """An auction that starts at `prices` (n,), or at none."""

    def host(self, values: Array) -> NDArray[Any]:
        """A backend's array as numpy's."""


def _first_eps(gap: float, value: float) -> float:
    """The eps whose phase is expected to end at `AIM` of the gap."""
    return AIM * gap * value / GAP_PER_EPS


def _coarse_to_fine(backend: Backend, persons: Side, objects: Side, gap: float) -> tuple[Array | None, float, float]:
    """Prices of the objects from both clouds' cells, an eps to start at, and a first guess of the value."""
    n = len(persons.points)
    finest = int(np.log2(max(1, n // CELL)))
    eps, cells, auction, spacing = 0.25, None, None, 0.0
    for level in range(COARSEST + (finest - COARSEST) % LEVEL_STEP, finest + 1, LEVEL_STEP):
        finer, goods = backend.coarse(persons, level), backend.coarse(objects, level)
        prices = None
        if cells is not None and auction is not None:
            cells.set_prices(-auction.profits)
            prices = -cells.least_sums(goods.points)
        cells, auction = finer, backend.auction(finer, goods, prices)
        spacing = backend.spacing(goods)
        while True:
            auction.phase(eps)
            last = max(SPACING_EPS * spacing, _first_eps(gap, auction.upper))
            if eps <= 1.2 * last or auction.upper <= 0:
                break
            eps = max(eps / COARSE_STEP, last)
            auction.release(eps)
    if cells is None or auction is None:
        return None, eps, 0.0
    cells.set_prices(-auction.profits)
    prices = -cells.least_sums(objects.points)
    return prices, max(_first_eps(gap, auction.upper), POINTS_EPS * spacing), auction.upper


def solve(backend: Backend, persons: F64, objects: F64, gap: float, rounding: float) -> Solution:
    """A bijection of `persons` and `objects` (n, 3), n >= 1, whose mean length is within `gap` of the dual bound.

    `rounding`: the error of the coordinates themselves, a length. Ends early where the bounds differ by less than
    the resolution of the arithmetic."""
    n = len(persons)
    bidders, goods = backend.side(persons), backend.side(objects)
    prices, eps, value = _coarse_to_fine(backend, bidders, goods, gap)
    auction = backend.auction(bidders, goods, prices)
    resolution = max(RESOLUTION, 4 * rounding)
    while True:
        excess = auction.phase(eps, min(MOST_LAST, int(TAIL * gap * n * value)), DELTA * gap)
        wanted = max(gap * (auction.lower - rounding), resolution)
        if auction.upper - auction.lower + rounding <= wanted:
            break
        value = auction.upper
        ratio = AIM * wanted / excess
        steps = max(1.0, np.ceil(-np.log(ratio) * POWER / np.log(STEP)))
        eps *= min(0.7, ratio ** (POWER / steps))
        auction.release(eps)
    assignment: I64 = np.empty(n, np.int64)
    order = backend.host(goods.order)
    assignment[backend.host(bidders.order)] = order[backend.host(auction.best)]
    of_objects = np.empty(n)
    of_objects[order] = backend.host(auction.best_prices)
    lower = max(0.0, auction.lower - rounding)
    return Solution(assignment, of_objects, lower, auction.upper - lower <= gap * lower)
