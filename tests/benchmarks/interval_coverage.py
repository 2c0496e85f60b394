"""How often 95% intervals over few scenes hold the mean, by simulation: the tables of docs/statistics.md.

python tests/benchmarks/interval_coverage.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from adapters.contract import F64
from reports.ranking import intervals, signed_rank

SCENES = (8, 12, 20, 50)
SAMPLES = 40_000
Draw = Callable[[np.random.Generator, tuple[int, int]], F64]

# Name -> draws of per-scene differences, their true mean.
DIFFERENCES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "t, 3 degrees": (lambda rng, shape: rng.standard_t(3, shape), 0.0),
    "log-normal, sigma 0.8": (lambda rng, shape: rng.lognormal(0, 0.8, shape), np.exp(0.32)),
    "uniform": (lambda rng, shape: rng.random(shape), 0.5),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "beta(1, 4)": (lambda rng, shape: rng.beta(1, 4, shape), 0.2),
    "log-normal minus log-normal": (
        lambda rng, shape: rng.lognormal(0, 0.8, shape) - rng.lognormal(0, 0.8, shape),
        0.0,
    ),
    "log-normal, sigma 1": (lambda rng, shape: rng.lognormal(0, 1, shape), np.exp(0.5)),
    "normal, one in ten off by 8": (
        lambda rng, shape: rng.standard_normal(shape) + 8.0 * (rng.random(shape) < 0.1),
        0.8,
    ),
}


def students(values: F64) -> F64:
    """Student's interval of each row, for comparison."""
    scenes = values.shape[1]
    half = student.ppf(0.975, scenes - 1) * values.std(axis=1, ddof=1) / np.sqrt(scenes)
    return np.asarray(values.mean(axis=1)[:, None] + half[:, None] * np.array([-1.0, 1.0]), np.float64)


def percentile(values: F64, rng: np.random.Generator, draws: int = 999) -> F64:
    """The percentile bootstrap's interval of each row, for comparison."""
    scenes = values.shape[1]
    weights = rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=draws) / scenes
    return np.asarray(np.quantile(values @ weights.T, [0.025, 0.975], axis=1).T, np.float64)


def covers(ends: F64, mean: float) -> float:
    """Share of the intervals `ends` (k, 2) that hold `mean`."""
    return float(((ends[:, 0] <= mean) & (mean <= ends[:, 1])).mean())


def main() -> None:
    print("| differences | scenes | ours | Student's t | percentile bootstrap | width, ours / t |")
    print("|---|---|---|---|---|---|")
    for place, (name, (draw, mean)) in enumerate(DIFFERENCES.items()):
        for scenes in SCENES:
            rng = np.random.default_rng([place, scenes])
            values = draw(rng, (SAMPLES, scenes))
            ours, plain = intervals(values, np.ones(values.shape, np.bool_)), students(values)
            boot = np.concatenate([percentile(part, rng) for part in np.split(values[: SAMPLES // 4], 20)])
            width = np.diff(ours).mean() / np.diff(plain).mean()
            shares = " | ".join(f"{covers(ends, mean):.3f}" for ends in (ours, plain, boot))
            print(f"| {name} | {scenes} | {shares} | {width:.2f} |")
    print("\n| scenes | failures on | calls one of two equals better |\n|---|---|---|")
    for scenes in SCENES:
        for rate in (0.05, 0.3):
            rng = np.random.default_rng([99, scenes, int(100 * rate)])
            values = rng.standard_normal((SAMPLES // 10, scenes))
            lost = rng.random(values.shape)
            values[lost < rate], values[lost > 1 - rate] = np.inf, -np.inf
            wrong = np.mean([signed_rank(row) != 0 for row in values])
            print(f"| {scenes} | {2 * rate:.0%} | {wrong:.3f} |")


if __name__ == "__main__":
    main()
