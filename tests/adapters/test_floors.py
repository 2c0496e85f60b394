"""The floors of common sense: retrieval, the medoid, and the hull of one silhouette."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from adapters.contract import Unsupported, Views
from adapters.systems.medoid.adapter import Adapter as Medoid
from adapters.systems.retrieval import adapter as retrieval
from adapters.systems.retrieval.features import OUTLINE, gradients, outline
from adapters.systems.silhouette_hull.adapter import Adapter as Hull
from bench.trials.scenes import get_scene
from data.synthetic.shapes import FIRST_SEED, make
from data.synthetic.views import Studio, light_in_camera, poses, shade

SIZE = 64


def _view(seed: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of the object of `seed`."""
    pose = poses(1, rng)[0]
    cast, depth = Studio(make(seed), rng).cast(pose, SIZE)
    image = shade(cast[None], light_in_camera(pose)[None], rng)[0].transpose(1, 2, 0)
    return np.round(image * 255).astype(np.uint8), depth > 0


def _gallery(path: Path, described: np.ndarray, masks: np.ndarray, points: np.ndarray) -> None:
    np.savez(
        path,
        points=points,
        mean=np.zeros(described.shape[1], np.float16),
        axes=np.eye(described.shape[1], dtype=np.float16),
        gradients=described.astype(np.float16),
        outlines=np.packbits(outline(masks) > 0.5, axis=1),
    )


@pytest.mark.parametrize("masked", [False, True])
def test_a_picture_of_the_gallery_gets_its_own_shape(
    masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    views = [_view(seed, rng) for seed in range(6)]
    images = np.stack([image for image, _ in views]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    points = rng.integers(-127, 128, (6, 200, 3), np.int8)
    _gallery(tmp_path / "gallery.npz", gradients(images), np.stack([mask for _, mask in views]), points)
    monkeypatch.setattr(retrieval, "__file__", str(tmp_path / "adapter.py"))
    adapter = retrieval.Adapter()
    adapter.load("cpu", "none", 0)
    for i, (image, mask) in enumerate(views):
        result = adapter.predict(Views((image,), ("a",), masks=(mask,) if masked else None))
        np.testing.assert_allclose(result.points, points[i] * 0.5 / 127, atol=1e-6)


def test_gradients_do_not_see_brightness_and_outlines_are_shares_of_cells() -> None:
    rng = np.random.default_rng(1)
    image = rng.random((1, 3, SIZE, SIZE)).astype(np.float32) * 0.5
    np.testing.assert_allclose(gradients(image), gradients(image + 0.4), atol=1e-3)
    assert gradients(image).shape == (1, 7 * 7 * 36)
    mask = np.zeros((2, 48, 48), np.bool_)
    mask[1, :24, :1] = True
    shares = outline(mask).reshape(2, OUTLINE, OUTLINE)
    assert (shares[0] == 0).all()
    np.testing.assert_allclose(shares[1, :12, 0], 0.5)
    assert shares[1, 12:].sum() == 0 and shares[1, :, 1:].sum() == 0


def test_the_shipped_floors_answer_in_the_family_s_frame() -> None:
    scene = get_scene("objects/mug-1")
    truth = scene.truth("exact").points[::50]
    image, mask = scene.image("03"), scene.mask("03")
    for adapter in (retrieval.Adapter(), Medoid()):
        adapter.load("cpu", "none", 0)
        points = adapter.predict(Views((image,), ("a",), masks=(mask,))).points
        assert points.shape == (1024, 3) and np.abs(points).max() <= 0.5
        assert cKDTree(points).query(truth)[0].mean() < 0.2, "no other axes, no other unit"


def test_the_hull_of_a_silhouette_holds_the_object_and_shows_its_mask() -> None:
    rng = np.random.default_rng(5)
    shape = make(FIRST_SEED["test"] + 6)
    for pose in poses(3, rng):
        camera = pose.camera(SIZE)
        _, depth = Studio(shape, rng).cast(pose, SIZE)
        views = Views((np.zeros((SIZE, SIZE, 3), np.uint8),), ("a",), masks=(depth > 0,), cameras=camera)
        mesh = Hull().predict(views).mesh
        assert mesh is not None
        pixel, _ = camera.project(0, mesh.vertices)
        x, y = np.clip(np.floor(pixel), 0, SIZE - 1).astype(int).T
        grown = np.pad(depth > 0, 2)
        near = np.any([grown[i : i + SIZE, j : j + SIZE] for i in range(5) for j in range(5)], axis=0)
        assert near[y, x].all()
        assert np.linalg.norm(mesh.vertices, axis=1).max() < 0.75, "around the object"
    with pytest.raises(Unsupported, match="mask and camera of the first view are wanted"):
        Hull().predict(Views(views.images, views.names))
    with pytest.raises(Unsupported, match="no object pixel"):
        Hull().predict(Views(views.images, views.names, masks=(np.zeros((SIZE, SIZE), np.bool_),), cameras=camera))
