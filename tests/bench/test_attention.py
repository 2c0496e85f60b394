"""The host's side of the attention viewer: real subprocesses, true correspondence, refusals in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.contract import Cameras, InputError, Reconstruction, Views
from bench.cli import main
from bench.systems.cards import Adapter, get_adapter
from bench.trials.capture import (
    CaptureRequest,
    capture,
    chosen_views,
    correspondences,
    make_page,
    predicted_geometry,
    true_geometry,
)
from data.scene import Scene
from reports.page.attention import HIDDEN, OUTSIDE, UNKNOWN, VISIBLE, AttentionPage, View

CARD = 'name = "looker"\ntitle = "Looker"\nlicence_code = "Apache-2.0"\nscope = "scene"\n'
ADAPTER = "from adapters.contract import Reconstructor\n\n\nclass Adapter(Reconstructor):\n    pass\n"
# Stands for a network: uniform attention over a 3 x 4 grid, or whatever its options ask to go wrong.
ATTENTION = """
import json, os, sys
from pathlib import Path
import numpy as np
from adapters.contract import Views

def main(folder):
    folder = Path(folder)
    asked = json.loads((folder / "request.json").read_text())
    views = Views.load(folder / "views.npz")
    mode, count = asked["options"].get("mode", ""), len(views)
    sys.stdout.write("noise from a library\\nattention progress 0.500 half way\\n")
    sys.stdout.flush()
    if mode == "refuse":
        sys.exit("--layers: 99 seen, 0-23 wanted")
    if mode == "raise":
        raise RuntimeError("something broke")
    if mode == "crash":
        os.abort()
    if mode == "nothing":
        return
    sources = np.stack(np.meshgrid(range(count), range(3), range(4), indexing="ij"), axis=-1).reshape(-1, 3)
    names = ["layers 0-1", "layers 2-3"] + (["rollout"] if asked["discard"] is not None else [])
    maps = np.full((len(names), len(sources), count, 3, 4), 1.0 / (17 * count), np.float32)
    if mode == "nan":
        maps[0, 0, 0, 0, 0] = np.nan
    special = np.full((len(names), len(sources), count - (mode == "shape")), 5.0 / (17 * count), np.float32)
    area = np.array([[0.0, 0.0, image.shape[1], image.shape[0]] for image in views.images])
    np.savez(folder / "attention.npz", maps=maps, special=special, names=names, sources=sources, area=area)
"""


@pytest.fixture(scope="module")
def looker(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    folder = tmp_path_factory.mktemp("adapters") / "looker"
    folder.mkdir()
    for name, content in (("adapter.toml", CARD), ("adapter.py", ADAPTER), ("attention.py", ATTENTION)):
        (folder / name).write_text(content)
    return get_adapter(str(folder))


VIEWS = Views(tuple(np.zeros((30, 40, 3), np.uint8) for _ in range(2)), ("000", "001"))


def test_attention_comes_back_from_a_process_of_its_own(looker: Adapter) -> None:
    told: list[tuple[float, str]] = []
    result = capture(looker, VIEWS, CaptureRequest(rollout=0.9), lambda share, what: told.append((share, what)))
    assert told == [(0.5, "half way")]
    assert result.names == ("layers 0-1", "layers 2-3", "rollout")
    assert result.maps.shape == (3, 24, 2, 3, 4)
    assert result.prediction is None
    np.testing.assert_allclose(result.maps.sum(axis=(2, 3, 4)) + result.special.sum(axis=2), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("refuse", "^attention: --layers: 99 seen, 0-23 wanted$"),
        ("raise", "^attention: RuntimeError: something broke$"),
        ("crash", "^attention: .*SIGABRT"),
        ("nothing", "attention cannot be read"),
        ("nan", r"maps: .* finite numbers wanted"),
        ("shape", r"special: \(2, 24, 1\) seen, \(2, 24, 2\)"),
    ],
)
def test_what_goes_wrong_is_one_sentence(looker: Adapter, mode: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(looker, VIEWS, CaptureRequest(options={"mode": mode}))


def test_an_adapter_without_attention_is_refused() -> None:
    with pytest.raises(InputError, match=r"no attention\.py"):
        capture(get_adapter("null"), VIEWS, CaptureRequest())


def page_of(scene: Scene, names: tuple[str, ...], side: int = 32) -> AttentionPage:
    """A page without attention whose sources are every patch of a `side` x `side` grid."""
    grid = np.stack(np.meshgrid(np.arange(len(names)), np.arange(side), np.arange(side), indexing="ij"), axis=-1)
    images = [scene.image(name) for name in names]
    shown = tuple(
        View(n, image, (0.0, 0.0, image.shape[1], image.shape[0])) for n, image in zip(names, images, strict=True)
    )
    sources = grid.reshape(-1, 3).astype(np.int32)
    maps = np.zeros((1, len(sources), len(names), side, side), np.float32)
    return AttentionPage("", (), "", shown, ("layers",), maps, maps[..., 0, 0], sources, None)


def test_correspondence_is_the_same_surface_point(scene: Scene) -> None:
    names = scene.view_names[:3]
    page, truth = page_of(scene, names), scene.truth("exact")
    geometry = true_geometry(scene, names)
    assert geometry is not None
    matches = correspondences(page, *geometry)
    assert "exact" in matches.maker
    counts = np.bincount(matches.state.ravel(), minlength=4)
    assert counts[VISIBLE] > 500 and counts[HIDDEN] > 50 and counts[UNKNOWN] > 500
    observed = np.argwhere((matches.state == VISIBLE) & (page.sources[:, :1] != np.arange(3)))
    for index, other in observed[
        :: max(1, len(observed) // 40)
    ]:  # each ray pair meets: rays through both pixels, by hand
        view, row, column = page.sources[index]
        ends = []
        for v, pixel in ((view, page.patch_centres(view)[row, column]), (other, matches.pixel[index, other])):
            ray = (
                np.linalg.inv(truth.cameras.intrinsics[v]) @ [*pixel, 1.0] @ truth.cameras.camera_from_world[v, :3, :3]
            )
            ends.append((truth.cameras.centres[v], ray / np.linalg.norm(ray)))
        (a, u), (b, w) = ends
        gap = abs((b - a) @ np.cross(u, w)) / np.linalg.norm(np.cross(u, w))
        assert gap < 1e-6 * truth.diameter
    own = matches.state[np.arange(len(page.sources)), page.sources[:, 0]]
    assert set(own) == {VISIBLE, UNKNOWN}  # a surface is seen where it is, or there is none


def test_the_models_own_geometry_serves_where_there_is_no_truth(scene: Scene) -> None:
    names = scene.view_names[:3]
    page, truth = page_of(scene, names), scene.truth("exact")
    assert truth.depth is not None
    # The same geometry in another frame and scale, as a model would predict it.
    turn, scale = np.eye(4), 3.0
    turn[:3, :3], turn[:3, 3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]], (1, 2, 3)
    poses = truth.cameras.camera_from_world[:3] @ turn
    poses[:, :3, 3] *= scale
    prediction = Reconstruction(
        points=np.zeros((1, 3), np.float32),
        frame="first_camera",
        scale="arbitrary",
        cameras=Cameras(truth.cameras.intrinsics[:3], poses),
        registered=np.ones(3, np.bool_),
        depth=tuple(depth * np.float32(scale) for depth in truth.depth[:3]),
    )
    geometry, true = predicted_geometry(prediction), true_geometry(scene, names)
    assert geometry is not None and true is not None
    result, wanted = correspondences(page, *geometry), correspondences(page, *true)
    assert "model's own" in result.maker
    assert (result.state == wanted.state).mean() > 0.999
    both = (result.state == VISIBLE) & (wanted.state == VISIBLE)
    assert np.abs(result.pixel - wanted.pixel)[both].max() < 1e-3
    assert predicted_geometry(replace(prediction, depth=None)) is None
    assert predicted_geometry(replace(prediction, registered=np.array([True, False, True]))) is None


def test_a_point_outside_what_the_network_saw_is_not_judged(scene: Scene) -> None:
    names = scene.view_names[:2]
    page = page_of(scene, names)
    height, width = page.views[1].image.shape[:2]
    narrow = replace(page.views[1], area=(0.0, height / 3, float(width), 2 * height / 3))
    geometry = true_geometry(scene, names)
    assert geometry is not None
    matches = correspondences(replace(page, views=(page.views[0], narrow)), *geometry)
    own = page.sources[:, 0] == 0
    y = matches.pixel[own, 1, 1]
    outside = matches.state[own, 1] == OUTSIDE
    assert outside.sum() > 10
    assert ((y[outside] < height / 3) | (y[outside] > 2 * height / 3) | np.isnan(y[outside])).all()
    assert not ((y < height / 3) & (matches.state[own, 1] == VISIBLE)).any()


def test_the_page_says_what_it_is_made_of(looker: Adapter, scene: Scene) -> None:
    page = make_page(
        looker, scene, scene.view_names[:2], CaptureRequest(weights="random", rollout=0.5), lambda share, what: None
    )
    output = dict(page.facts)
    assert output["Weights"].startswith("random")
    assert "lowest 50%" in output["Rollout"]
    assert page.matches is not None
    assert page.maps.shape == (3, 24, 2, 3, 4)


def test_views_by_name_or_count(scene: Scene) -> None:
    two, three = chosen_views(scene, "2", 0), chosen_views(scene, "3", 0)
    assert len(two) == 2 and two == three[:2]
    assert chosen_views(scene, "005, 001", 0) == ("005", "001")
    assert chosen_views(scene, "001", 0) == ("001",)  # a name before a count
    for wrong in ("0", "", "001,001", "001,nothing"):
        with pytest.raises(InputError, match="--views"):
            chosen_views(scene, wrong, 0)


def test_the_command(looker: Adapter, scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*more: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main(["attention", "--adapter", str(looker.folder), "--out", str(tmp_path / "out"), *more])
        return int(caught.value.code or 0)

    assert call("--scene", str(scene_path), "--views", "000,001") == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(tmp_path / "out" / "attention.html")
    assert "pairs" in output.err and "24 source patches" in output.err
    assert call("--images", str(scene_path / "images")) == 0
    assert call() == 2
    assert call("--scene", str(scene_path), "--rollout", "1.5") == 2
    assert call("--scene", str(scene_path), "--option", "mode=refuse") == 2
    assert "--layers: 99 seen" in capsys.readouterr().err
