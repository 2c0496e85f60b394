"""Who is better than whom, and how sure that is: paired comparisons, ranks, agreement of two rankings.

Everything here compares systems of one table (inputs x scope x protocol) at one number of views, under one truth and
one metric. A cell is one scene with one choice of views; two systems are compared only over cells that both tried.

Rules (all of them printed on the page):

- A cell where one failed and the other has a result is a clear loss of the one that failed. Where differences are
  averaged it counts as the largest difference seen between the two in any cell they share (1 where there is none), so
  that a third system never changes the outcome between two.
- Where both have a result, a win is clear when the two intervals over draws do not overlap.
- With at least `ENOUGH_SCENES` scenes, one is significantly better when the 95% percentile bootstrap interval, over
  scenes, of the mean per-scene difference excludes zero (Efron & Tibshirani 1993, chapter 13; not corrected for the
  number of pairs). With fewer, no interval is made: it is better when it has more clear wins than clear losses, and
  the claim is about these scenes only.
- Rank = 1 + the number of ranked systems significantly better. Ranks may tie.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from adapters.contract import F64, Bools

ENOUGH_SCENES = 8
BOOTSTRAP_DRAWS = 4000
BOOTSTRAP_SEED = 20260101
CONFIDENCE = 0.95

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """One system on one scene with one choice of views, its repeats taken together."""

    scene: str
    view_ids: str
    status: str  # ok | a failed trial's kind | unscorable | unscored | not_run
    value: float | None = None  # mean over repeats; None unless status is ok
    low: float | None = None  # lowest lower end over repeats; the value itself where there are no draws
    high: float | None = None
    floor: float | None = None
    before_icp: float | None = None

    @property
    def tried(self) -> bool:
        """False where nothing is known yet: such a cell is neither a win nor a loss."""
        return self.status not in UNTRIED


UNTRIED = ("not_run", "unavailable", "unscored")


@dataclass(frozen=True)
class Comparisons:
    """Every ordered pair of n systems; entry [i, j] is about system i against system j."""

    systems: tuple[str, ...]
    scenes: Counts  # (n, n) scenes with a cell both tried
    common: Counts  # (n, n) cells where both have a result
    wins: Counts  # (n, n) clear wins of i over j, cells
    gain: (
        F64  # (n, n) mean over scenes of how much better i is, in the metric's unit, > 0 is better; NaN: no common cell
    )
    low: F64  # (n, n) 95% interval of the mean difference, failures counted; NaN with fewer than ENOUGH_SCENES
    high: F64
    better: Bools  # (n, n) i is significantly better than j


def compare(cells: Mapping[str, Sequence[Cell]], better: str) -> Comparisons:
    """Compare every pair of systems. `cells` maps a system to its cells; `better` is "lower" or "higher"."""
    systems = tuple(sorted(cells))
    places = sorted({(cell.scene, cell.view_ids) for found in cells.values() for cell in found})
    column = {place: i for i, place in enumerate(places)}
    n, m = len(systems), len(places)
    value, draw_low, draw_high = np.full((3, n, m), np.nan)
    tried = np.zeros((n, m), bool)
    sign = 1.0 if better == "lower" else -1.0
    for i, system in enumerate(systems):
        for cell in cells[system]:
            j = column[cell.scene, cell.view_ids]
            tried[i, j] = cell.tried
            if cell.value is not None:
                ends = [sign * (cell.value if end is None else end) for end in (cell.low, cell.high)]
                value[i, j], draw_low[i, j], draw_high[i, j] = sign * cell.value, min(ends), max(ends)
    scene_names = sorted({scene for scene, _ in places})
    in_scene = np.array([[scene == name for name in scene_names] for scene, _ in places], float).reshape(
        m, len(scene_names)
    )

    scenes, common, wins = np.zeros((3, n, n), np.int64)
    gain, low, high = np.full((3, n, n), np.nan)
    superior = np.zeros((n, n), np.bool_)
    ok = ~np.isnan(value)
    for i in range(n - 1):
        rest = slice(i + 1, n)
        shared = tried[i] & tried[rest]
        both = shared & ok[i] & ok[rest]
        difference = np.where(both, value[rest] - value[i], 0.0)
        outlived, failed = shared & ok[i] & ~ok[rest], shared & ~ok[i] & ok[rest]
        forth = ((both & (draw_high[i] < draw_low[rest])) | outlived).sum(axis=1)
        back = ((both & (draw_low[i] > draw_high[rest])) | failed).sum(axis=1)
        margin = np.abs(difference).max(axis=1, initial=0.0)
        margin[margin == 0.0] = 1.0
        judged = difference + margin[:, None] * (outlived.astype(float) - failed)

        per_scene, has_scene = _scene_means(judged, shared, in_scene)
        means, has_mean = _scene_means(difference, both, in_scene)
        mean = np.where(has_mean.any(axis=1), means.sum(axis=1) / np.maximum(has_mean.sum(axis=1), 1), np.nan)
        sure = intervals(per_scene, has_scene)
        enough = has_scene.sum(axis=1) >= ENOUGH_SCENES

        scenes[i, rest] = scenes[rest, i] = has_scene.sum(axis=1)
        common[i, rest] = common[rest, i] = both.sum(axis=1)
        wins[i, rest], wins[rest, i] = forth, back
        gain[i, rest], gain[rest, i] = mean, -mean
        low[i, rest], low[rest, i] = sure[:, 0], -sure[:, 1]
        high[i, rest], high[rest, i] = sure[:, 1], -sure[:, 0]
        superior[i, rest] = np.where(enough, sure[:, 0] > 0, forth > back)
        superior[rest, i] = np.where(enough, sure[:, 1] < 0, back > forth)
    return Comparisons(systems, scenes, common, wins, gain, low, high, superior)


def _scene_means(values: F64, where: Bools, in_scene: F64) -> tuple[F64, Bools]:
    """Means of `values` (k, m) over the cells `where` (k, m) of each scene: (k, S), and which scenes have any."""
    count = where @ in_scene
    return (values * where) @ in_scene / np.maximum(count, 1), count > 0


def interval(values: F64) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of per-scene `values` (S,); NaNs with too few scenes."""
    low, high = intervals(values[None], np.ones((1, len(values)), np.bool_))[0]
    return float(low), float(high)


def intervals(values: F64, has_scene: Bools) -> F64:
    """`interval` of each row of `values` (k, S) over the scenes it has (k, S): (k, 2) low and high ends."""
    out = np.full((len(values), 2), np.nan)
    for pattern in np.unique(has_scene, axis=0):
        scenes = int(pattern.sum())
        if scenes >= ENOUGH_SCENES:
            rows = (has_scene == pattern).all(axis=1)
            means = values[np.ix_(rows, pattern)] @ _weights(scenes)
            out[rows] = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1).T
    return out


@lru_cache(maxsize=32)
def _weights(scenes: int) -> F64:
    """(scenes, draws) float64: the share of each scene in each resample."""
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(scenes, size=(BOOTSTRAP_DRAWS, scenes))
    return np.stack([(drawn == scene).mean(axis=1) for scene in range(scenes)])


def ranks(comparisons: Comparisons, among: Collection[str] | None = None) -> dict[str, int]:
    """Rank of every system compared (or only those `among` them): 1 + the number significantly better."""
    rows = [i for i, name in enumerate(comparisons.systems) if among is None or name in among]
    worse_than = comparisons.better[np.ix_(rows, rows)].sum(axis=0)
    return {comparisons.systems[i]: 1 + int(count) for i, count in zip(rows, worse_than, strict=True)}


@dataclass(frozen=True)
class Agreement:
    """How far two rankings of the same systems agree."""

    systems: int
    tau: float | None  # Kendall's tau-b; None with fewer than two systems, or where one ranking is one big tie


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> Agreement:
    """Kendall's tau-b (Kendall 1945) over the systems ranked by both, from ranks or from scores."""
    both = sorted(set(first) & set(second))
    x, y = [first[name] for name in both], [second[name] for name in both]
    if len(set(x)) < 2 or len(set(y)) < 2:
        return Agreement(len(both), None)
    return Agreement(len(both), round(float(kendalltau(x, y, variant="b").statistic), 12))
