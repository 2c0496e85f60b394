"""The contract: what is refused, and that what is written is read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.contract import Cameras, ContractError, Mesh, Reconstruction, Surface, Views

RNG = np.random.default_rng(0)


def cameras(count: int) -> Cameras:
    poses = np.repeat(np.eye(4)[None], count, axis=0)
    poses[:, :3, 3] = RNG.normal(size=(count, 3))
    return Cameras(np.repeat(np.array([[[50.0, 0, 16], [0, 55, 12], [0, 0, 1]]]), count, axis=0), poses)


def views(count: int = 2) -> Views:
    images = tuple(RNG.integers(0, 255, (24, 32, 3)).astype(np.uint8) for _ in range(count))
    return Views(images, tuple(f"{i:03d}" for i in range(count)))


def whole() -> Reconstruction:
    return Reconstruction(
        points=RNG.normal(size=(5, 3)).astype(np.float32),
        frame="object",
        scale="arbitrary",
        colors=RNG.integers(0, 255, (5, 3)).astype(np.uint8),
        confidence=np.ones(5, np.float32),
        confidence_kind="probability",
        view_index=np.array([0, 1, 0, 1, 1], np.int32),
        pixel=np.full((5, 2), 3.5, np.float32),
        cameras=cameras(2),
        registered=np.array([True, True]),
        depth=tuple(np.ones((24, 32), np.float32) for _ in range(2)),
        mesh=Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32), np.zeros((3, 3), np.uint8)),
        up=np.array([0.0, 0.6, 0.8]),
    )


def test_a_whole_reconstruction_is_valid_and_survives_the_disk(tmp_path: Path) -> None:
    made = whole()
    made.validate(views())
    made.save(tmp_path / "r.npz")
    read = Reconstruction.load(tmp_path / "r.npz")
    read.validate(views())
    assert made.arrays().keys() == read.arrays().keys()
    for name, array in made.arrays().items():
        np.testing.assert_array_equal(array, read.arrays()[name])


def test_views_survive_the_disk(tmp_path: Path) -> None:
    given = replace(
        views(),
        masks=tuple(np.eye(24, 32, dtype=bool) for _ in range(2)),
        cameras=cameras(2),
        truth=Surface(np.ones((4, 3), np.float32), np.ones((4, 3), np.float32), 2.5),
    )
    given.save(tmp_path / "v.npz")
    read = Views.load(tmp_path / "v.npz")
    assert read.names == given.names and read.truth is not None and read.truth.diameter == 2.5
    assert read.masks is not None and read.masks[1].sum() == 24
    assert read.cameras is not None
    np.testing.assert_array_equal(read.cameras.camera_from_world, given.cameras.camera_from_world)  # type: ignore[union-attr]


def with_targets() -> Views:
    return replace(views(), cameras=cameras(2), targets=cameras(3), target_sizes=np.array([[32, 24]] * 3, np.int32))


def test_renderings_are_asked_for_by_targets_and_survive_the_disk(tmp_path: Path) -> None:
    asked = with_targets()
    asked.save(tmp_path / "v.npz")
    read = Views.load(tmp_path / "v.npz")
    assert read.targets is not None and len(read.targets) == 3
    made = replace(whole(), renderings=tuple(np.full((24, 32, 3), i, np.uint8) for i in range(3)))
    made.validate(read)
    made.save(tmp_path / "r.npz")
    again = Reconstruction.load(tmp_path / "r.npz")
    assert again.renderings is not None and [int(r[0, 0, 0]) for r in again.renderings] == [0, 1, 2]
    with pytest.raises(ContractError, match="renderings: 3 images seen, 0 wanted"):
        made.validate(views())
    with pytest.raises(ContractError, match=r"renderings\[0\]: shape \(32, 24, 3\) seen"):
        replace(made, renderings=tuple(np.zeros((32, 24, 3), np.uint8) for _ in range(3))).validate(asked)
    with pytest.raises(ContractError, match="give both or neither"):
        replace(asked, target_sizes=None).validate()


BROKEN = [
    ({"up": np.array([0.0, 0.6, 0.9])}, r"up: length 1.08167 seen, 1 wanted"),
    ({"up": np.zeros(3, np.float32)}, r"up: dtype float32 seen"),
    ({"points": np.zeros((5, 3))}, r"points: dtype float64 seen, float32"),
    ({"points": np.zeros((5, 2), np.float32)}, r"points: shape \(5, 2\) seen"),
    ({"points": np.full((5, 3), np.nan, np.float32)}, r"points: 15 of 15 numbers are not finite"),
    ({"points": np.zeros((0, 3), np.float32), "mesh": None}, r"points: 0 points and no mesh"),
    ({"colors": np.zeros((4, 3), np.uint8)}, r"colors: shape \(4, 3\) seen"),
    ({"frame": "camera"}, r"frame: 'camera' seen"),
    ({"scale": "metres"}, r"scale: 'metres' seen"),
    ({"confidence_kind": None}, r"confidence and confidence_kind: give both"),
    ({"confidence_kind": "magic"}, r"confidence_kind: 'magic' seen"),
    ({"view_index": np.full(5, 2, np.int32)}, r"view_index: values outside 0..1"),
    ({"pixel": np.full((5, 2), 33.0, np.float32)}, r"pixel: coordinates outside"),
    ({"registered": None}, r"cameras and registered: give both"),
    ({"depth": (np.ones((24, 32), np.float32),)}, r"depth: 1 maps seen, 2 wanted"),
    ({"depth": (np.ones((24, 31), np.float32),) * 2}, r"depth\[0\]: shape \(24, 31\) seen"),
    ({"mesh": Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 3]], np.int32))}, r"mesh.faces: indices outside 0..2"),
]


@pytest.mark.parametrize(("change", "sentence"), BROKEN)
def test_what_breaks_the_contract_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        replace(whole(), **change).validate(views())  # type: ignore[arg-type]


def test_a_reflection_is_no_camera() -> None:
    mirrored = cameras(2)
    mirrored.camera_from_world[1, 0, 0] = -1
    with pytest.raises(ContractError, match=r"camera_from_world\[1\]: det -1"):
        mirrored.validate("cameras", 2)
    mirrored.validate("cameras", 2, where=np.array([True, False]))


def test_project_and_unproject_are_inverse() -> None:
    rig = cameras(2)
    pixel, depth = RNG.uniform(0, 30, (50, 2)), RNG.uniform(1, 5, 50)
    points = rig.unproject(1, pixel, depth)
    again, far = rig.project(1, points)
    np.testing.assert_allclose(again, pixel, atol=1e-9)
    np.testing.assert_allclose(far, depth, atol=1e-12)


def test_points_behind_a_camera_have_no_pixel() -> None:
    rig = Cameras(np.array([[[50.0, 0, 16], [0, 50, 12], [0, 0, 1]]]), np.eye(4)[None])
    pixel, depth = rig.project(0, np.array([[0.0, 0, -2], [0, 0, 2]]))
    np.testing.assert_array_equal(pixel, [[-1, -1], [16, 12]])
    np.testing.assert_array_equal(depth, [-2, 2])


def test_centres_are_where_the_camera_is() -> None:
    rig = cameras(3)
    np.testing.assert_allclose(
        np.einsum("nij,nj->ni", rig.camera_from_world[:, :3, :3], rig.centres) + rig.camera_from_world[:, :3, 3],
        0,
        atol=1e-12,
    )
