"""Every importer on a miniature of its layout, and the proof that a wrong axis, pose or scale would be noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.contract import InputError
from data.catalog import layouts
from data.catalog.shared import write
from data.catalog.shared.layout import Capture, Photo
from data.catalog.shared.write import write_capture
from data.scene import Scene
from tests.data.catalog.checks import check
from tests.data.catalog.miniatures import MINIATURES, Miniature
from tests.data.catalog.world import VIEWS


@pytest.fixture(autouse=True)
def _few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MOST_POINTS", 3000)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Miniature, Capture]]:
    """A layout's miniature and what its importer reads of it, made once."""
    made: dict[str, tuple[Miniature, Capture]] = {}

    def make(name: str) -> tuple[Miniature, Capture]:
        if name not in made:
            miniature = MINIATURES[name](tmp_path_factory.mktemp(name))
            made[name] = miniature, layouts()[name].read(miniature.path)
        return made[name]

    return make


def test_every_layout_has_a_miniature() -> None:
    assert set(MINIATURES) == set(layouts())


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_is_imported_as_it_is(name: str, written: Callable, tmp_path: Path) -> None:
    miniature, capture = written(name)
    result = write_capture(capture, layouts()[name], miniature.path, tmp_path / "scene", str(VIEWS))
    check(tmp_path / "scene", miniature)
    assert Scene.open(tmp_path / "scene").truth(capture.kind).metres == layouts()[name].metres
    assert result.agreement is None or result.agreement > 0.85  # edges of depth maps that were straightened


def _poses(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Photo], Photo]:
    return lambda photo: replace(photo, camera_from_world=change(photo.camera_from_world))


def _lens(change: Callable[[tuple[float, ...]], tuple[float, ...]]) -> Callable[[Photo], Photo]:
    return lambda photo: replace(photo, lens=replace(photo.lens, params=change(photo.lens.params)))


def _depth(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Photo], Photo]:
    def changed(photo: Photo) -> Photo:
        read = photo.depth
        return photo if read is None else replace(photo, depth=lambda: change(read()))

    return changed


def _transposed(pose: np.ndarray) -> np.ndarray:
    out = pose.copy()
    out[:3, :3] = pose[:3, :3].T
    return out


def _longer(pose: np.ndarray) -> np.ndarray:
    out = pose.copy()
    out[:3, 3] *= 1.1
    return out


# What an importer could get wrong, on what it returns: to err so and to be altered so is the same.
MISTAKES: dict[str, Callable[[Photo], Photo]] = {
    "pose inverted": _poses(np.linalg.inv),
    "rotation transposed": _poses(_transposed),
    "axes of OpenGL": _poses(lambda pose: np.diag([1.0, -1, -1, 1]) @ pose),
    "axes of PyTorch3D": _poses(lambda pose: np.diag([-1.0, -1, 1, 1]) @ pose),
    "world's y and z exchanged": _poses(
        lambda pose: pose @ np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    ),
    "translation in another unit": _poses(_longer),
    "principal point half a pixel off": _lens(lambda p: (*p[:2], p[2] + 0.5, p[3] + 0.5, *p[4:])),
    "focal length of half the image": _lens(lambda p: (p[0] / 2, p[1] / 2, *p[2:])),
    "depth in another unit": _depth(lambda depth: depth * 1.03),
    "depth upside down": _depth(lambda depth: depth[::-1]),
    "depth left to right": _depth(lambda depth: depth[:, ::-1]),
}
SURFACES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "points mirrored": lambda points: points * [-1.0, 1, 1],
    "points' y and z exchanged": lambda points: points[:, [0, 2, 1]] * [1.0, -1, 1],
    "points in another unit": lambda points: points * 1.05,
}


def _mistaken(capture: Capture, mistake: str) -> Capture | None:
    """The capture with the mistake in it; None where it has nothing to be mistaken about."""
    if mistake in SURFACES:
        if capture.surface is None:
            return None
        return replace(capture, surface=replace(capture.surface, points=SURFACES[mistake](capture.surface.points)))
    if mistake.startswith("depth") and not any(photo.depth for photo in capture.photos):
        return None
    return replace(capture, photos=[MISTAKES[mistake](photo) for photo in capture.photos])


def mistakes_of(capture: Capture) -> list[str]:
    """Those that can be made on it."""
    return [mistake for mistake in (*MISTAKES, *SURFACES) if _mistaken(capture, mistake) is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIATURES)
def test_a_mistake_would_be_noticed(name: str, written: Callable, tmp_path: Path) -> None:
    miniature, capture = written(name)
    unnoticed = []
    for number, mistake in enumerate(mistakes_of(capture)):
        wrong, out = _mistaken(capture, mistake), tmp_path / str(number)
        assert wrong is not None
        try:
            write_capture(wrong, layouts()[name], miniature.path, out, str(VIEWS))
            check(out, miniature)
        except (AssertionError, InputError):  # noticed by the check, or refused by the writer
            continue
        unnoticed.append(mistake)
    assert not unnoticed
