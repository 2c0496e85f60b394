"""Whether a network's answers make sense: bounds that any working system of its kind meets, and chance does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from adapters.contract import F64, Bools, Reconstruction
from metrics.cameras import pose_errors
from metrics.fscore import fscore
from metrics.scoring.truth import Truth
from metrics.similarity import AlignmentError, apply, umeyama

ROTATION_DEGREES = 30.0  # most, the median over pairs of views; of random turns it is 120
FSCORE, THRESHOLD = 0.5, 0.05  # least, at that share of the diameter
CONFIDENCE_RANKS = -0.05  # most, Spearman's correlation of confidence with error; of a shuffled one it is 0
POINTS = 20_000  # that errors are taken at


@dataclass(frozen=True)
class Plausibility:
    """What an answer measures against the truth; None where the answer does not hold it."""

    rotation: float | None  # degrees, median over pairs of views; 180 where a view is not registered
    fscore: float | None  # of what the given views see, after the similarity that fits the pixels' points best
    confidence: float | None  # Spearman's correlation with the error

    @property
    def faults(self) -> list[str]:
        """The bounds not met, in words."""
        broken = []
        if self.rotation is not None and not self.rotation <= ROTATION_DEGREES:
            broken.append(f"cameras are {self.rotation:.0f} degrees off, at most {ROTATION_DEGREES:.0f} wanted")
        if self.fscore is not None and not self.fscore >= FSCORE:
            broken.append(f"F@{THRESHOLD:.0%} is {self.fscore:.2f}, at least {FSCORE} wanted")
        if self.confidence is not None and not self.confidence <= CONFIDENCE_RANKS:
            broken.append(f"its confidence says nothing of its errors (rank correlation {self.confidence:+.2f})")
        return broken

    def beats(self, random: Plausibility) -> bool:
        """Whether all that both measure is better than what the same network answers with `random` weights."""
        pairs = [(random.rotation, self.rotation), (self.fscore, random.fscore)]
        return all(more > less for more, less in pairs if more is not None and less is not None)

    def __str__(self) -> str:
        parts = {
            "cameras {:.1f} degrees off": self.rotation,
            f"F@{THRESHOLD:.0%} {{:.2f}}": self.fscore,
            "confidence against error {:+.2f}": self.confidence,
        }
        return ", ".join(text.format(value) for text, value in parts.items() if value is not None)


def plausibility(result: Reconstruction, truth: Truth, views: tuple[str, ...]) -> Plausibility:
    """Measure `result`, made from the `views` of `truth` (names, in the prediction's order; all have a true camera)."""
    rows = [truth.view_names.index(view) for view in views]
    rotation = None
    if result.cameras is not None and result.registered is not None and len(views) > 1:
        errors = pose_errors(result.cameras, truth.cameras.take(rows), result.registered)
        rotation = float(np.median(errors.rotation))
    if truth.depth is None or result.view_index is None or result.pixel is None:
        return Plausibility(rotation, None, None)
    target, known = _observed(result, truth, rows)
    if known.sum() < 100:
        return Plausibility(rotation, 0.0, None)
    source, target = result.points[known].astype(np.float64), target[known]
    try:
        aligned = apply(umeyama(source, target), source)
    except AlignmentError:
        return Plausibility(rotation, 0.0, None)
    confidence = None
    if result.confidence is not None and np.ptp(result.confidence[known]) > 0:
        errors_of_points = np.linalg.norm(aligned - target, axis=1)
        confidence = float(spearmanr(result.confidence[known], errors_of_points).statistic)
    return Plausibility(rotation, fscore(aligned, target, THRESHOLD * truth.diameter).fscore, confidence)


def _observed(result: Reconstruction, truth: Truth, rows: list[int]) -> tuple[F64, Bools]:
    """(M, 3): the true point at each predicted point's pixel, and (M,) where there is one; a sample of many."""
    assert truth.depth is not None and result.view_index is not None and result.pixel is not None
    count = len(result.points)
    picked = np.random.default_rng(0).permutation(count)[: POINTS * 4]  # most photos are mostly background
    target, known = np.zeros((count, 3)), np.zeros(count, np.bool_)
    for index, row in enumerate(rows):
        own = picked[result.view_index[picked] == index]
        depth = truth.depth[row]
        x, y = np.minimum(result.pixel[own].astype(np.int64), [depth.shape[1] - 1, depth.shape[0] - 1]).T
        measured = depth[y, x] > 0
        own, z = own[measured], depth[y, x][measured]
        target[own] = truth.cameras.unproject(row, result.pixel[own], z)
        known[own] = True
    return target, known
