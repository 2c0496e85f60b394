"""The auction on a CUDA device: whoever lacks an object bids in the same round (Bertsekas' Jacobi form).

A round is three kernels: everyone without an object compares all objects and notes the best and the second best
(`bid`); offers for one object meet in a 64-bit maximum over (rise, person) packed (`settle`); winners take their
object and its price rises, and whoever ends without an object stands in the next round's list (`award`). The list's
length stays on the device, so rounds need no word from the host: on a GPU they are captured in a graph and replayed
many at a time. Maxima do not depend on the order of arrival, so the outcome is the same every time.

Bids compare in single precision as long as eps stands well above its resolution. Prices, bounds and lengths are
float64, and the dual bound is taken by exhaustive c-transforms: the certificate is that of `metrics.kernels.cpu`.

Most rounds of a phase serve its last few persons, and a round takes a GPU some 10 us however few bid. The CPU's tree
answers a bid in less: the last of a phase bid there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from adapters.contract import F64
from metrics.kernels import schedule
from metrics.kernels.cpu.auction import bid_in_turn
from metrics.kernels.cpu.pricetree import PriceTree, edges
from metrics.kernels.cuda.cells import sort_by_cells
from metrics.kernels.cuda.device import Device, Tensor, Tile, columns, interpreted, launch, splits
from metrics.kernels.schedule import EPSILON

BID = Tile(32, 64)
BID_DOUBLE = Tile(32, 64, 8)  # with four warps its registers spill
BID_INTERPRETED = Tile(64, 512)
BIDDERS = 128  # a program of `settle` and `award`
MOST_SPLITS = 128
NARROW = 256  # persons left: from here on the objects are split further
ROUNDS = 16  # pairs of rounds between two words to the host
HOST_PERSONS = 16  # so many left, or ...
HOST_PAIRS = 16_384  # ... so few persons left times objects: from here on bids are cheaper on the host
SINGLE_EPS = 1e-5  # in extents; below it bids compare in double precision
LEAF = 8  # points a cell: as in the CPU's trees


@triton.jit
def bid(  # type: ignore[no-untyped-def]
    X, Y, PRICE, TODO, COUNT, FIRST, CHOICE, SECOND, n, objects, span, capacity, BQ: tl.constexpr, BP: tl.constexpr
):  # fmt: skip
    """The least and the second least distance + price over a part of the objects, for each person on the list.

    `X` (3, n) persons, `Y` (3, objects), both float32 or float64; `PRICE` (objects,) float64; `TODO` (n,) persons of
    whom the first `COUNT` count. Program (q, s) fills row s of `FIRST`, `CHOICE` and `SECOND` (parts, capacity)."""
    count = tl.load(COUNT)
    q, s = tl.program_id(0), tl.program_id(1)
    if q * BQ < count:
        k = q * BQ + tl.arange(0, BQ)
        mask = k < count
        i = tl.load(TODO + k, mask=mask, other=0)
        x, y, z = tl.load(X + i), tl.load(X + n + i), tl.load(X + 2 * n + i)
        lane = tl.arange(0, BP)
        first = tl.full((BQ, BP), float("inf"), X.dtype.element_ty)
        second = first
        at = tl.zeros((BQ, BP), tl.int32)
        for j in range(s * span, tl.minimum((s + 1) * span, objects), BP):
            c = j + lane
            inside = c < objects
            price = tl.load(PRICE + c, mask=inside, other=float("inf")).to(X.dtype.element_ty)
            dx = x[:, None] - tl.load(Y + c, mask=inside, other=0.0)[None, :]
            dy = y[:, None] - tl.load(Y + objects + c, mask=inside, other=0.0)[None, :]
            dz = z[:, None] - tl.load(Y + 2 * objects + c, mask=inside, other=0.0)[None, :]
            value = tl.sqrt(dx * dx + dy * dy + dz * dz) + price[None, :]
            second = tl.minimum(second, tl.maximum(first, value))
            at = tl.where(value < first, c[None, :], at)
            first = tl.minimum(first, value)
        least = tl.min(first, axis=1)
        # Where many objects are equally good, each person begins to look at another place: not all want the same one.
        turn = tl.where(first == least[:, None], (lane[None, :] + i[:, None]) % BP, BP)
        column = (tl.min(turn, axis=1) - i % BP + BP) % BP
        chosen = lane[None, :] == column[:, None]
        out = s * capacity + k
        tl.store(FIRST + out, least, mask=mask)
        tl.store(CHOICE + out, tl.max(tl.where(chosen, at, -1), axis=1), mask=mask)
        tl.store(SECOND + out, tl.min(tl.where(chosen, second, first), axis=1), mask=mask)


@triton.jit
def settle(  # type: ignore[no-untyped-def]
    TODO, COUNT, FIRST, CHOICE, SECOND, EPS, RISE, WINNER, NEXT_COUNT, parts, capacity, B: tl.constexpr
):  # fmt: skip
    """Join the parts of each bidder's answer (`CHOICE` row 0 and `RISE` receive it), and make the offers."""
    count = tl.load(COUNT)
    pid = tl.program_id(0)
    if pid == 0:
        tl.store(NEXT_COUNT, 0)
    if pid * B < count:
        k = pid * B + tl.arange(0, B)
        mask = k < count
        i = tl.load(TODO + k, mask=mask, other=0)
        first = tl.full((B,), float("inf"), tl.float64)
        second = first
        at = tl.zeros((B,), tl.int32)
        for s in range(parts):
            part = (s + i) % parts * capacity + k
            v = tl.load(FIRST + part, mask=mask, other=0.0).to(tl.float64)
            w = tl.load(SECOND + part, mask=mask, other=0.0).to(tl.float64)
            j = tl.load(CHOICE + part, mask=mask, other=0)
            second = tl.minimum(tl.minimum(second, w), tl.maximum(first, v))
            at = tl.where(v < first, j, at)
            first = tl.minimum(first, v)
        rise = tl.where(second < float("inf"), second - first, 0.0) + tl.load(EPS)
        tl.store(RISE + k, rise, mask=mask)
        tl.store(CHOICE + k, at, mask=mask)
        offer = (rise.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64) << 32) | i.to(tl.int64)
        tl.atomic_max(WINNER + at, offer, mask=mask)


@triton.jit
def award(  # type: ignore[no-untyped-def]
    TODO, COUNT, CHOICE, RISE, WINNER, OWNER, HELD, PRICE, NEXT, NEXT_COUNT, B: tl.constexpr
):  # fmt: skip
    """Winners take their object from whoever held it, its price rises, and the next list is made."""
    count = tl.load(COUNT)
    pid = tl.program_id(0)
    if pid * B < count:
        k = pid * B + tl.arange(0, B)
        mask = k < count
        i = tl.load(TODO + k, mask=mask, other=0)
        j = tl.load(CHOICE + k, mask=mask, other=0)
        won = mask & ((tl.load(WINNER + j, mask=mask, other=0) & 0xFFFFFFFF) == i)
        before = tl.load(OWNER + j, mask=won, other=-1)
        tl.store(OWNER + j, i, mask=won)
        tl.store(HELD + i, j, mask=won)
        tl.store(PRICE + j, tl.load(PRICE + j, mask=won, other=0.0) + tl.load(RISE + k, mask=won, other=0.0), mask=won)
        tl.store(HELD + before, -1, mask=won & (before >= 0))
        without = tl.where(won, before, i)
        lacks = mask & (without >= 0)
        place = tl.cumsum(lacks.to(tl.int32), 0) - 1
        base = tl.atomic_add(NEXT_COUNT, tl.sum(lacks.to(tl.int32), 0))
        tl.store(NEXT + base + place, without, mask=lacks)


class Cloud:
    """One side of an assignment: points (n, 3) float64 in the order of kd-tree cells, and what they cost."""

    def __init__(self, points: Tensor) -> None:
        n = len(points)
        depth = max(0, int(np.ceil(np.log2(n / LEAF)))) if n > LEAF else 0
        self.order = sort_by_cells(points, torch.from_numpy(edges(n, depth)))
        self.points = points[self.order]
        self.exact = columns(self.points, torch.float64)
        self.single = columns(self.points, torch.float32)
        self.prices = torch.zeros(n, dtype=torch.float64, device=points.device)

    def set_prices(self, prices: Tensor) -> None:
        """Give every point a price, (n,) in this order."""
        self.prices = prices

    def least_sums(self, queries: Tensor, attained: Tensor | None = None, delta: float = 0.0) -> Tensor:
        """(m,) for each of `queries` (m, 3) the least distance + price, by exhaustive search in float64.

        `attained` and `delta`, which save a tree some of its search, are of no use here."""
        return self._least_two(queries, self.prices)[0]

    def centroids(self, depth: int) -> Tensor:
        """(2**depth, 3) mean points of the cells that the first `depth` rounds of splits made."""
        cut = torch.from_numpy(edges(len(self.points), depth)).to(self.points.device)
        sums = torch.cat([torch.zeros_like(self.points[:1]), self.points.cumsum(0)])[cut]
        return (sums[1:] - sums[:-1]) / (cut[1:] - cut[:-1])[:, None]

    def spacing(self) -> float:
        """Median distance of the points from their nearest."""
        return float(self._least_two(self.points, torch.zeros_like(self.prices))[1].median())

    def _least_two(self, queries: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
        """(m,) each: the least and the second least distance + price."""
        count, device = len(queries), queries.device
        book = _Book(count, len(self.points), torch.float64, device)
        book.list(torch.arange(count, dtype=torch.int32, device=device))
        parts = book.bid(columns(queries, torch.float64), self.exact, prices, count)
        least = torch.cat([book.first[: parts * count], book.second[: parts * count]]).view(-1, count)
        two = least.topk(2, dim=0, largest=False, sorted=True).values
        return two[0], two[1]


class _Book:
    """The list of those who bid, and what they found; memory goes with their number."""

    def __init__(self, persons: int, objects: int, dtype: object, device: Device) -> None:
        self.persons, self.objects = persons, objects
        self.tile = BID_INTERPRETED if interpreted() else BID_DOUBLE if dtype == torch.float64 else BID
        self.parts = splits(device, triton.cdiv(persons, self.tile.rows), self._most())
        self.narrow = max(self.parts, splits(device, triton.cdiv(min(persons, NARROW), self.tile.rows), self._most()))
        room = max(self.parts * persons, self.narrow * min(persons, NARROW))
        self.first, self.second = (torch.empty(room, dtype=dtype, device=device) for _ in range(2))
        self.choice = torch.empty(room, dtype=torch.int32, device=device)
        self.todo, self.next = (torch.empty(persons, dtype=torch.int32, device=device) for _ in range(2))
        self.count, self.next_count = (torch.zeros(1, dtype=torch.int32, device=device) for _ in range(2))

    def _most(self) -> int:
        return min(MOST_SPLITS, -(-self.objects // self.tile.points))

    def list(self, persons: Tensor) -> None:
        """Let `persons` (k,) int32 be those who bid."""
        self.todo[: len(persons)] = persons
        self.count.fill_(len(persons))

    def bid(self, persons: Tensor, objects: Tensor, prices: Tensor, at_most: int) -> int:
        """Fill in the parts of the answers of all on the list, no more than `at_most`; how many parts there are."""
        parts = self.narrow if at_most <= NARROW else self.parts
        span = triton.cdiv(triton.cdiv(self.objects, parts), self.tile.points) * self.tile.points
        launch(
            bid, (triton.cdiv(at_most, self.tile.rows), parts), self.tile, persons, objects, prices,
            self.todo, self.count, self.first, self.choice, self.second,
            self.persons, self.objects, span, at_most, BQ=self.tile.rows, BP=self.tile.points,
        )  # fmt: skip
        return parts

    def turn(self) -> None:
        """Let the next round's list be this round's."""
        self.todo, self.next = self.next, self.todo
        self.count, self.next_count = self.next_count, self.count


class Auction(schedule.Auction):
    """Persons, objects, prices, a partial assignment, and the best bounds so far, all on one device."""

    def __init__(self, persons: Cloud, objects: Cloud, prices: Tensor | None) -> None:
        n, device = len(persons.points), persons.points.device
        self.persons, self.objects = persons, objects
        self.prices = objects.prices if prices is None else prices
        self.held = torch.full((n,), -1, dtype=torch.int32, device=device)  # object a person holds, or -1
        self.owner = torch.full((n,), -1, dtype=torch.int32, device=device)  # its inverse
        self.profits = torch.zeros(n, dtype=torch.float64, device=device)
        self.upper, self.lower = np.inf, 0.0
        self.best = torch.arange(n, device=device)
        self.best_prices = self.prices
        self.rounds = self.bids = self.host_bids = 0  # so far: what the performance model counts

    def phase(self, eps: float, stop: int = 0, delta: float = 0.0) -> float:
        """One auction phase, completed to a bijection, and the dual bound it gives; returns upper - lower."""
        persons, objects = self.persons, self.objects
        prices = self._bid_until(eps, stop)
        full = self.held.to(torch.int64)
        lone = (full < 0).nonzero()[:, 0]
        if len(lone):
            free = (self.owner < 0).nonzero()[:, 0]
            costs = cdist(persons.points[lone].cpu().numpy(), objects.points[free].cpu().numpy())
            row, column = (torch.from_numpy(part).to(full.device) for part in linear_sum_assignment(costs))
            full[lone[row]] = free[column]
        lengths = (persons.points - objects.points[full]).norm(dim=1)
        upper = float(lengths.mean())
        objects.set_prices(prices)
        self.profits = objects.least_sums(persons.points)
        persons.set_prices(-self.profits)
        self.prices = torch.minimum(prices, -persons.least_sums(objects.points))
        size = 1 + float(self.prices.abs().max()) + float(self.profits.abs().max())
        lower = max(0.0, float(self.profits.mean() - self.prices.mean()) - 64 * EPSILON * size)
        return self.keep(upper, full, lower, self.prices)

    def release(self, eps: float) -> None:
        """Undo the assignments that break eps-complementary slackness under the present prices."""
        holders = (self.held >= 0).nonzero()[:, 0]
        theirs = self.held[holders].to(torch.int64)
        lengths = (self.persons.points[holders] - self.objects.points[theirs]).norm(dim=1)
        over = lengths + self.prices[theirs] > self.profits[holders] + eps
        self.owner[theirs[over]] = -1
        self.held[holders[over]] = -1

    def _bid_until(self, eps: float, stop: int) -> Tensor:
        """Bid until at most `stop` persons lack an object; the prices then."""
        device, n = self.held.device, len(self.held)
        single = eps > SINGLE_EPS
        book = _Book(n, n, torch.float32 if single else torch.float64, device)
        book.list((self.held < 0).nonzero()[:, 0].to(torch.int32))
        x, y = (side.single if single else side.exact for side in (self.persons, self.objects))
        prices, step = self.prices.clone(), torch.full((1,), eps, dtype=torch.float64, device=device)
        rise = torch.empty(n, dtype=torch.float64, device=device)
        winner = torch.empty(n, dtype=torch.int64, device=device)

        def pair_of_rounds(at_most: int) -> None:
            blocks = (triton.cdiv(at_most, BIDDERS),)
            for _ in range(2):
                winner.zero_()
                parts = book.bid(x, y, prices, at_most)
                launch(
                    settle, blocks, book.tile, book.todo, book.count, book.first, book.choice, book.second,
                    step, rise, winner, book.next_count, parts, at_most, B=BIDDERS,
                )  # fmt: skip
                launch(
                    award, blocks, book.tile, book.todo, book.count, book.choice, rise, winner,
                    self.owner, self.held, prices, book.next, book.next_count, B=BIDDERS,
                )  # fmt: skip
                book.turn()

        graphs: dict[int, object] = {}
        left = int(book.count)
        while left > stop:
            if left <= max(HOST_PERSONS, HOST_PAIRS // n):
                self._finish_on_host(prices, eps, stop)
                break
            self.bids += left
            self.rounds += 2
            if device.type == "cpu":
                pair_of_rounds(left)
            else:
                at_most = min(n, NARROW) if left <= NARROW else n
                if at_most not in graphs:  # the first time: also compiles what a capture must find compiled
                    pair_of_rounds(at_most)
                    graphs[at_most] = _captured(device, lambda: pair_of_rounds(at_most))  # noqa: B023
                graphs[at_most].replay()  # type: ignore[attr-defined]
                self.rounds += 2 * ROUNDS
            left = int(book.count)
        return prices

    def _finish_on_host(self, prices: Tensor, eps: float, stop: int) -> None:
        """The rest of a phase on the CPU; fills in `prices`, `held` and `owner`."""
        tree = self._tree
        tree.set_prices(prices.cpu().numpy()[tree.order])
        place = np.empty(len(tree.order), np.int64)
        place[tree.order] = tree.slot  # slot of each object, in this side's order
        before = self.held.cpu().numpy()
        held = np.where(before >= 0, place[before], -1)
        owner = np.full(len(tree.point_of), -1)
        owner[held[held >= 0]] = np.flatnonzero(held >= 0)
        favourites = np.full((len(held), 2), -1)
        self.host_bids += int(bid_in_turn(self.persons.points.cpu().numpy(), held, owner, favourites, eps, stop, tree))
        object_ = np.where(held >= 0, tree.order[tree.point_of[held]], -1).astype(np.int32)
        holder = np.full(len(object_), -1, np.int32)
        holder[object_[object_ >= 0]] = np.flatnonzero(object_ >= 0)
        after = np.empty(len(tree.order))
        after[tree.order] = tree.prices
        for tensor, array in ((prices, after), (self.held, object_), (self.owner, holder)):
            tensor.copy_(torch.from_numpy(array))

    @cached_property
    def _tree(self) -> PriceTree:
        return PriceTree(self.objects.points.cpu().numpy())


def _captured(device: Device, pair_of_rounds: Callable[[], None]) -> object:
    """A CUDA graph of `ROUNDS` pairs of rounds; a pair leaves every buffer in its place."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        for _ in range(ROUNDS):
            pair_of_rounds()
    return graph


class Cuda:
    """The auction's parts on one torch device, for `metrics.kernels.schedule`."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def side(self, points: F64) -> Cloud:
        return Cloud(torch.from_numpy(np.ascontiguousarray(points)).to(self.device))

    def coarse(self, side: Cloud, depth: int) -> Cloud:
        return Cloud(side.centroids(depth))

    def spacing(self, side: Cloud) -> float:
        return side.spacing()

    def auction(self, persons: Cloud, objects: Cloud, prices: Tensor | None) -> Auction:
        return Auction(persons, objects, prices)

    def host(self, values: Tensor) -> NDArray[np.generic]:
        return np.asarray(values.cpu().numpy())
