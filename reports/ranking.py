"""Who is better than whom, and how sure that is: paired comparisons, ranks, agreement of two rankings.

Everything here compares systems of one table (inputs x scope x protocol) at one number of views, under one truth and
one metric. A cell is one scene with one choice of views; two systems are compared only over cells that both tried.

Rules (all of them printed on the page):

- With at least `ENOUGH_SCENES` scenes, one is significantly better when the 95% interval, over scenes, of the mean
  per-scene difference excludes zero (`intervals`; not corrected for the number of pairs).
- A failure has no size, so it is never averaged in. Where one of two failed alone on a scene, Wilcoxon's signed-rank
  test over scenes decides instead (5%, two-sided, exact), each such failure a loss larger than every difference;
  Demšar 2006 recommends that test for comparing learners over several data sets.
- With fewer scenes no interval over scenes is made: one is better when it has more clear wins than clear losses, and
  the claim is about these scenes only. A win is clear where the two intervals over draws do not overlap, or where the
  other one failed.
- Rank = 1 + the number of ranked systems significantly better. Ranks may tie.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata
from scipy.stats import t as student

from adapters.contract import F64, Bools

ENOUGH_SCENES = 8
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
    spread: float | None = None  # standard deviation over its repeats; None where there is one
    floor: float | None = None
    before_icp: float | None = None
    judged: float | None = None  # by a measured truth: share of the predicted points
    least: float | None = None  # bounds of the value by what such a truth does not know
    most: float | None = None
    pairs: int | None = None  # of views that the value is a mean of, over all repeats

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
    failed: Counts  # (n, n) cells where i failed and j has a result; they are among the wins of j
    gain: (
        F64  # (n, n) mean per-scene difference over common cells, metric's unit, > 0: i is better; NaN: no common cell
    )
    low: F64  # (n, n) 95% interval of `gain`; NaN with fewer than ENOUGH_SCENES that have a common cell
    high: F64
    better: Bools  # (n, n) i is significantly better than j


def compare(cells: Mapping[str, Sequence[Cell]], better: str) -> Comparisons:
    """Compare every pair of systems. `cells` maps a system to its cells; `better` is "lower" or "higher"."""
    systems = tuple(sorted(cells))
    places = sorted({(cell.scene, cell.view_ids) for row in cells.values() for cell in row})
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

    scenes, common, wins, lost = np.zeros((4, n, n), np.int64)
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

        means, measured = _scene_means(difference, both, in_scene)
        survived = np.sign((outlived.astype(float) - failed) @ in_scene)
        mean = np.where(measured.any(axis=1), means.sum(axis=1) / np.maximum(measured.sum(axis=1), 1), np.nan)
        sure = intervals(means, measured)
        sign_rank = np.zeros(n - i - 1)  # +1: i is significantly better, -1: worse
        alone = survived.any(axis=1)
        enough = (measured | (survived != 0)).sum(axis=1) >= ENOUGH_SCENES
        for k in np.flatnonzero(alone & enough):
            outcome = np.where(survived[k] != 0, np.copysign(np.inf, survived[k]), means[k])
            sign_rank[k] = signed_rank(outcome[measured[k] | (survived[k] != 0)])
        by_interval = ~alone & ~np.isnan(sure[:, 0])
        choices = [by_interval, alone & enough]

        scenes[i, rest] = scenes[rest, i] = (shared @ in_scene > 0).sum(axis=1)
        common[i, rest] = common[rest, i] = both.sum(axis=1)
        wins[i, rest], wins[rest, i] = forth, back
        lost[i, rest], lost[rest, i] = failed.sum(axis=1), outlived.sum(axis=1)
        gain[i, rest], gain[rest, i] = mean, -mean
        low[i, rest], low[rest, i] = sure[:, 0], -sure[:, 1]
        high[i, rest], high[rest, i] = sure[:, 1], -sure[:, 0]
        superior[i, rest] = np.select(choices, [sure[:, 0] > 0, sign_rank > 0], forth > back)
        superior[rest, i] = np.select(choices, [sure[:, 1] < 0, sign_rank < 0], back > forth)
    return Comparisons(systems, scenes, common, wins, lost, gain, low, high, superior)


def _scene_means(values: F64, where: Bools, in_scene: F64) -> tuple[F64, Bools]:
    """Means of `values` (k, m) over the cells `where` (k, m) of each scene: (k, S), and which scenes have any."""
    count = where @ in_scene
    return (values * where) @ in_scene / np.maximum(count, 1), count > 0


def interval(values: F64) -> tuple[float, float]:
    """95% interval of the mean of per-scene `values` (S,), see `intervals`; NaNs with too few scenes."""
    low, high = intervals(values[None], np.ones((1, len(values)), np.bool_))[0]
    return float(low), float(high)


def intervals(values: F64, measured: Bools) -> F64:
    """95% interval of the mean of each row of `values` (k, S) over the scenes `measured` (k, S): (k, 2) low, high ends.

    The hull of two: Student's t, and Hall's skewness-corrected t (Hall 1992, "On the removal of skewness by
    transformation"). Alone, the first is too short for skewed differences and the second for heavy-tailed ones;
    docs/statistics.md has the coverage of each. NaN with fewer than `ENOUGH_SCENES`."""
    count = measured.sum(axis=1)
    n = np.maximum(count, 3)[:, None].astype(float)
    mean = np.sum(values * measured, axis=1, keepdims=True) / n
    away = np.where(measured, values - mean, 0.0)
    unit = np.ldexp(1.0, np.frexp(np.abs(away).max(axis=1, keepdims=True))[1])  # so that no power under- or overflows
    away /= unit
    variance = np.sum(away**2, axis=1, keepdims=True) / n
    scale = unit * np.sqrt(variance / (n - 1))
    third = np.sum(away**3, axis=1, keepdims=True) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(variance > 0, third / variance**1.5, 0.0) * np.sqrt(n * (n - 1)) / (n - 2)
    reach = student.ppf((1 + CONFIDENCE) / 2, n - 1) * np.array([1.0, -1.0])
    bend = skewness / np.sqrt(n)
    straight = np.abs(bend) < 1e-6  # the correction vanishes with the skewness, but divides by it
    safe = np.where(straight, 1.0, bend)
    bent = np.where(straight, reach, 3 / safe * (np.cbrt(1 + safe * (reach - safe / 6)) - 1))
    ends = np.stack([mean - scale * reach, mean - scale * bent])
    out = np.stack([ends.min(axis=0)[:, 0], ends.max(axis=0)[:, 1]], axis=1)
    out[count < ENOUGH_SCENES] = np.nan
    return out


def signed_rank(differences: F64) -> int:
    """Wilcoxon's signed-rank test (Wilcoxon 1945), exact with ties: 1 or -1 where `differences` (S,), which may be
    infinite, tend to that side of zero at the 5% level, two-sided; else 0. Zeros are left out."""
    moved = differences[differences != 0]
    # Doubled, mid-ranks are whole numbers, and the distribution of their signed sum is a polynomial product.
    size = tuple(sorted(np.rint(2 * rankdata(np.abs(moved))).astype(int).tolist()))
    positive = int(np.rint(2 * rankdata(np.abs(moved)))[moved > 0].sum())
    chance = _sums_of_signs(size)
    tail = min(chance[: positive + 1].sum(), chance[positive:].sum())
    return 0 if 2 * tail > 1 - CONFIDENCE else 1 if 2 * positive > sum(size) else -1


@lru_cache(maxsize=256)
def _sums_of_signs(size: tuple[int, ...]) -> F64:
    """Chance of each sum 0, 1 ... of those of `size` that fair coins choose: (sum(size) + 1,) float64."""
    chance = np.zeros(sum(size) + 1)
    chance[0] = 1.0
    for step in size:
        chance[step:] = (chance[step:] + chance[: len(chance) - step]) / 2
        chance[:step] /= 2
    return chance


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
