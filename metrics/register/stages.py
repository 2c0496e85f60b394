"""What a registration returns, and the one measure by which its stages are compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from adapters.contract import F64, I32
from metrics.similarity import apply, invert, scale_of, spread

MOST = 60_000  # points of a cloud that a search tree holds


@dataclass(frozen=True)
class Stage:
    """One step of a registration."""

    name: str  # "correspondences" | "cameras" | "search" | "icp"
    transform: F64  # (4, 4) target_from_source once this stage is done, earlier stages included
    residual: float  # after it, truth's unit: median nearest-neighbour distance, both directions pooled
    gain: float  # residual before it less residual after, truth's unit; positive where it helped


@dataclass(frozen=True)
class Registration:
    """A similarity that brings a predicted cloud onto a true one, and how far it can be trusted."""

    target_from_source: F64  # (4, 4), truth from pred
    scale: float  # truth units a pred unit
    stages: tuple[Stage, ...]  # in order; the last one's transform is `target_from_source`
    residual: float  # that of the last stage
    margin: float | None  # lead over the best clearly different pose, relative; None where no search was made
    ambiguous: bool  # another, clearly different pose fits (nearly) as well: symmetry, or too little to tell
    poor_fit: bool  # even the best pose leaves the clouds unlike: treat as failed


@dataclass(frozen=True)
class Pairs:
    """Nearest-neighbour pairs of two clouds, those found for pred's samples first; truth's frame and unit."""

    moved: F64  # (M, 3) pred's points under the transform
    rows: I32  # (M,) their partners, rows of `Matcher.truth`
    distance: F64  # (M,)
    forward: int  # how many were found for samples of pred; the rest for samples of truth


class Matcher:
    """Nearest neighbours between two clouds under any similarity, in both directions, for fixed samples of each.

    Distances are exact within the clouds held: `pred` and `truth`, at most `MOST` points of those given."""

    def __init__(self, pred: F64, truth: F64, samples: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.pred, self.truth_rows = pred[_some(len(pred), MOST, rng)], _some(len(truth), MOST, rng)
        self.truth = truth[self.truth_rows]
        self._pred_sample = self.pred[_some(len(self.pred), samples, rng)]
        self._truth_sample = _some(len(self.truth), samples, rng)
        self._pred_tree, self.truth_tree = cKDTree(self.pred), cKDTree(self.truth)

    def pairs(self, transform: F64) -> Pairs:
        """The pairs under `transform` (4, 4), truth from pred."""
        moved = apply(transform, self._pred_sample)
        ahead, partner = self.truth_tree.query(moved)
        back, source = self._pred_tree.query(apply(invert(transform), self.truth[self._truth_sample]))
        return Pairs(
            moved=np.concatenate([moved, apply(transform, self.pred[source])]),
            rows=np.concatenate([partner, self._truth_sample]).astype(np.int32),
            distance=np.concatenate([ahead, back * scale_of(transform)]),
            forward=len(moved),
        )

    def residual(self, transform: F64) -> float:
        """The `residual` of a Stage that ends at `transform`."""
        return float(np.median(self.pairs(transform).distance))

    def score(self, transform: F64) -> float:
        """Agreement 0..1 under `transform`: mean Geman-McClure weight t^2 / (t^2 + d^2), averaged over both directions.

        The width t is fitted to the noise of pred's better part, between 3% and 12% of truth's radius."""
        pairs = self.pairs(transform)
        ahead, back = pairs.distance[: pairs.forward], pairs.distance[pairs.forward :]
        radius = float(np.linalg.norm(spread(self.truth)))
        width = float(np.clip(2.5 * np.quantile(ahead, 0.3), 0.03 * radius, 0.12 * radius))
        return float(sum((width**2 / (width**2 + d**2)).mean() for d in (ahead, back)) / 2)


def _some(count: int, most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """At most `most` of the indices below `count`, at random, in order."""
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
