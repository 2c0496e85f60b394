"""MVSNet's camera files, which several datasets use."""

from __future__ import annotations

from pathlib import Path

from adapters.contract import F64, InputError
from data.catalog.shared.files import numbers, read_text


def read_camera(path: Path) -> tuple[F64, F64]:
    """Intrinsics (3, 3) and `camera_from_world` (4, 4): YoYo000/MVSNet@3ae2cb2 mvsnet/preprocess.py:115-130.

    Pixel centres are at .5 (mvsnet/homography_warping.py:102)."""
    words = read_text(path).split()
    if len(words) < 27 or words[0] != "extrinsic" or words[17] != "intrinsic":
        raise InputError(f"{path}: {len(words)} words seen, extrinsic, 16 numbers, intrinsic and 9 numbers wanted")
    pose = numbers(words[1:17], (4, 4), f"{path}: extrinsic")
    return numbers(words[18:27], (3, 3), f"{path}: intrinsic"), pose
