"""How far off ground truth is on scenes whose surface is known exactly, and how well its quality card knows.

    python -m tests.benchmarks.bench_groundtruth SCENE_DIR ... --held-out SCENE_DIR ... --csv FILE

Every scene's truth is rebuilt from its photographs in a folder that is thrown away, and its card becomes a row of FILE;
a scene that has a row already is not built again. Then the constants of `data.groundtruth.quality` are fitted to the
first scenes, and those held out say how often the interval so predicted holds the true error. Scenes come from
`python -m data.synthetic`; another seed is another toy.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from data.groundtruth.build import build_groundtruth
from data.groundtruth.quality import CONFIDENCE, FACTOR, SPREAD, error_predictor
from data.scene import Scene


@dataclass(frozen=True)
class Row:
    """One scene's card; lengths in percent of the diameter, shares of 1, empty where not known."""

    scene: str
    difficulty: str
    part: str  # calibration | held out
    images: int
    registered: int
    verdict: str
    reprojection_px: float | None
    track_length: float | None
    coverage: float | None
    fusion_percent: float | None
    camera_error_percent: float | None
    halves_within: float | None
    halves_apart_percent: float | None
    error_percent: float | None  # what was to be predicted: the cloud's mean distance from the exact surface
    error_median_percent: float | None
    precision: float | None
    completeness: float | None

    @property
    def predictor(self) -> float | None:
        """What the error is a multiple of."""
        if self.camera_error_percent is None or self.halves_apart_percent is None or self.coverage is None:
            return None
        return error_predictor(self.camera_error_percent, self.halves_apart_percent, self.coverage)


def measure(path: Path, part: str) -> Row:
    """Build the truth of one scene and read its card."""
    scene = Scene.open(path)
    with tempfile.TemporaryDirectory() as folder:
        card = build_groundtruth(path, Path(folder) / "scene")
    halves, exact = card.halves, card.exact
    return Row(
        scene.name,
        scene.file.difficulty,
        part,
        card.images,
        card.registered,
        card.verdict,
        card.reprojection_px,
        card.track_length,
        card.dense_coverage,
        card.fusion_median_percent,
        card.camera_error_percent,
        halves.within_1_percent if halves else None,
        halves.apart_percent if halves else None,
        exact.accuracy_percent if exact else None,
        exact.accuracy_median_percent if exact else None,
        exact.precision_1_percent if exact else None,
        exact.completeness_1_percent if exact else None,
    )


def log_ratios(rows: Sequence[Row]) -> np.ndarray:
    """log of true error over `predictor`, which the model takes for normally distributed."""
    return np.log([row.error_percent / row.predictor for row in rows if row.error_percent and row.predictor])


def calibrate(rows: Sequence[Row]) -> tuple[float, float]:
    """FACTOR and SPREAD: error = FACTOR x `error_predictor`, times or divided by SPREAD at most, with CONFIDENCE.

    The interval of one further draw from a normal distribution of unknown mean and variance (Student's t). Three
    degrees of freedom are spent: on the factor, and on the form of `error_predictor` and its power of the
    coverage, which were chosen by the same scenes."""
    logs = log_ratios(rows)
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(logs) - 3))
    spread = quantile * float(logs.std(ddof=3)) * (1 + 1 / len(logs)) ** 0.5
    return float(np.exp(logs.mean())), float(np.exp(spread))


def held(rows: Sequence[Row], factor: float, spread: float) -> int:
    """Of how many rows the interval holds the true error."""
    return int((np.abs(log_ratios(rows) - np.log(factor)) <= np.log(spread)).sum())


def read(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    if not path.is_file():
        return []
    kinds = {field.name: str(field.type) for field in fields(Row)}

    def value(name: str, text: str) -> str | int | float | None:
        if kinds[name] == "str":
            return text
        return None if text == "" else int(text) if kinds[name] == "int" else float(text)

    with path.open(newline="") as file:
        return [Row(**{name: value(name, row[name]) for name in kinds}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


def write(path: Path, rows: Sequence[Row]) -> None:
    """All rows, with what the constants in force predict."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(field.name for field in fields(Row)), "predicted_low_percent", "predicted_high_percent"])
        for row in sorted(rows, key=lambda row: (row.part, row.difficulty, row.scene)):
            interval = (
                [round(FACTOR * row.predictor * x, 4) for x in (1 / SPREAD, SPREAD)] if row.predictor else ["", ""]
            )
            writer.writerow([*asdict(row).values(), *interval])


def main() -> None:
    """Print a line a scene, then the calibration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="*", help="to calibrate with")
    parser.add_argument("--held-out", type=Path, nargs="*", default=[])
    parser.add_argument("--csv", type=Path, required=True)
    options = parser.parse_args()
    rows = read(options.csv)
    for part, paths in (("calibration", options.scenes), ("held out", options.held_out)):
        for path in paths:
            if Scene.open(path).name not in {row.scene for row in rows}:
                rows.append(measure(path, part))
                write(options.csv, rows)
                print(rows[-1], flush=True)
    write(options.csv, rows)
    chosen, rest = ([row for row in rows if row.part == part and row.predictor] for part in ("calibration", "held out"))
    if len(chosen) < 5:
        parser.exit(message=f"{len(chosen)} scenes to calibrate with, at least 5 wanted\n")
    factor, spread = calibrate(chosen)
    print(f"calibrated on {len(chosen)} scenes: FACTOR = {factor:.2f}, SPREAD = {spread:.2f}")
    print(f"held out: {held(rest, factor, spread)} of {len(rest)} true errors in the interval")
    print(f"constants in force ({FACTOR:g}, {SPREAD:g}): {held(rest, FACTOR, SPREAD)} of {len(rest)}")


if __name__ == "__main__":
    main()
