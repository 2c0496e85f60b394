"""One metric's reading."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.contract import ScoreStatus


@dataclass(frozen=True)
class Value:
    """One metric's reading. `value` is null unless status is ok; lengths in the protocol's unit."""

    status: ScoreStatus
    value: float | None = None
    low: float | None = None  # 95% interval over draws
    high: float | None = None
    floor: float | None = None  # the truth against itself at the same sample count
    before_icp: float | None = None
    note: str = ""
    judged: float | None = None  # share of the predicted points that a measured truth could judge
    least: float | None = None  # of precision, recall and F-score: were all that is unknown to it wrong
    most: float | None = None  # and were it right
    lower: float | None = None  # of an EMD, mean over draws: the exact value lies certainly between these two
    upper: float | None = None
    pairs: int | None = None  # of views whose errors the value is a mean of, where it is that: see `metrics.cameras`

    @property
    def gap(self) -> float | None:
        """How far `upper` lies above `lower`, relative to it; None where there are none, or `lower` is 0."""
        return (self.upper - self.lower) / self.lower if self.upper is not None and self.lower else None
