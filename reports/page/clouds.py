"""Point clouds as script files, so that a page opened from disk can load them when asked to.

A browser refuses to read data files from `file://`, but runs scripts. Coordinates are quantised to 16 bits over the
cloud's box (1/65,535 of its side, far below what a screen shows), errors to 16 bits over their range.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.contract import TruthKind
from reports.schema import TableError

MOST_POINTS = 40_000
STEPS = 65_535
CAMERA_UP = (0.0, -1.0, 0.0)  # camera axes point down: the guess where a file says nothing
# Viridis without its darkest quarter, as clouds.js has it.
COLOURS = ("#3b518a", "#306a8e", "#27808e", "#21988a", "#2dae7f", "#50c26a", "#84d34a", "#c0df2a", "#fde725")
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # ends of the colour scale, % of the diameter


@dataclass(frozen=True)
class CloudPair:
    """A prediction's and its truth's script files, and what is said of the error."""

    key: str  # the trial's
    truth: TruthKind
    prediction: str  # id of the prediction's script: clouds/ID.js
    surface: str  # id of the truth's
    points: int
    median_error: float  # % of the diameter
    high_error: float  # 95th percentile
    scale: float  # end of the colour scale
    up: tuple[float, float, float]  # the direction that is up in the truth's frame, unit length


def write_clouds(key: str, truth: TruthKind, source: Path, folder: Path, written: dict[str, Path]) -> CloudPair:
    """Turn the clouds of `source` (see `CloudRow`) into script files in `folder`; clouds of equal content share one.

    `written` collects id -> file. Raises TableError where an array breaks its description."""
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as fault:
        raise TableError(f"clouds.path: {source}: {fault}") from fault
    points, surface, error = (_array(source, arrays, name) for name in ("pred", "truth", "error"))
    if len(error) != len(points):
        raise TableError(f"clouds.path: {source}: {len(error)} errors seen for {len(points)} points")
    if len(points) == 0 or len(surface) == 0:
        raise TableError(f"clouds.path: {source}: an empty cloud seen, at least one point wanted")
    high = float(np.quantile(error, 0.95))
    return CloudPair(
        key,
        truth,
        _write(folder, written, points, arrays.get("pred_colors"), error),
        _write(folder, written, surface, arrays.get("truth_colors"), None),
        len(points),
        float(np.median(error)),
        high,
        scale_end(high),
        _direction(arrays.get("up", np.array(CAMERA_UP))),
    )


def scale_end(high: float) -> float:
    """The end of the colour scale for a cloud whose 95th percentile of error is `high`, % of the diameter."""
    return next((end for end in SCALES if end >= high), SCALES[-1])


def _direction(vector: NDArray[Any]) -> tuple[float, float, float]:
    x, y, z = np.asarray(vector, np.float64) / max(float(np.linalg.norm(vector)), 1e-12)
    return float(x), float(y), float(z)


def _array(source: Path, arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
    if name not in arrays:
        raise TableError(f"clouds.path: {source}: no array {name} seen, one wanted")
    array = np.asarray(arrays[name], np.float64)
    if array.shape != (len(array), 3)[: 1 if name == "error" else 2] or not np.isfinite(array).all():
        raise TableError(f"clouds.path: {source}: {name}: shape {array.shape} or non-finite numbers seen")
    if len(array) > MOST_POINTS:
        raise TableError(f"clouds.path: {source}: {name}: {len(array)} points seen, at most {MOST_POINTS} wanted")
    return array


def _write(
    folder: Path,
    written: dict[str, Path],
    points: NDArray[np.float64],
    colors: NDArray[Any] | None,
    error: NDArray[np.float64] | None,
) -> str:
    low, high = points.min(axis=0), points.max(axis=0)
    side = np.where(high > low, high - low, 1.0)
    content: dict[str, Any] = {
        "low": low.tolist(),
        "side": side.tolist(),
        "points": _packed(np.round((points - low) / side * STEPS).astype("<u2")),
    }
    if colors is not None:
        content["colors"] = _packed(np.asarray(colors, np.uint8))
    if error is not None:
        most = max(float(error.max()), 1e-12)
        content |= {"most": most, "error": _packed(np.round(error / most * STEPS).astype("<u2"))}
    data = json.dumps(content, separators=(",", ":"))
    name = hashlib.sha256(data.encode()).hexdigest()[:16]
    if name not in written:
        written[name] = folder / f"{name}.js"
        written[name].write_text(f'reconbench.receive("{name}",{data});\n', encoding="ascii", newline="\n")
    return name


def _packed(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
