"""Figures for papers: heat maps against closed forms, the page's colours, files that are there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from adapters.contract import Cameras
from reports.figures import write_figures
from reports.heatmaps import LONGER, colours, heat_map, write_heat_maps
from reports.page.clouds import COLOURS
from reports.report import write_parquet
from reports.schema import TableError, Tables

TEMPLATES = Path(__file__).parents[2] / "reports" / "page" / "templates"
CAMERA = Cameras(np.array([[[100.0, 0, 48], [0, 100.0, 36], [0, 0, 1]]]), np.eye(4)[None])


def test_the_colours_are_the_pages() -> None:
    (stated,) = re.findall(r"const SCALE = \[(.*?)\]", (TEMPLATES / "clouds.js").read_text())
    assert tuple(re.findall(r"#[0-9a-f]{6}", stated)) == COLOURS
    ends = ["#" + bytes(c).hex() for c in colours(np.array([0.0, 1.0, 7.0]))]
    assert ends == [COLOURS[0], COLOURS[-1], COLOURS[-1]]


def test_a_point_is_drawn_where_the_camera_sees_it_and_the_nearest_hides_the_rest() -> None:
    red, blue = np.array([[200, 0, 0]], np.uint8), np.array([[0, 0, 200]], np.uint8)
    points = np.array([[0.2, 0.1, 2.0], [0.1, 0.05, 1.0], [0, 0, -1.0]], np.float32)  # one ray, and one behind
    shades = np.concatenate([red, blue, red])
    for order in ([0, 1, 2], [2, 1, 0]):
        image = heat_map(points[order], shades[order], CAMERA, (96, 72))
        assert image.shape == (LONGER * 3 // 4, LONGER, 3)
        drawn = np.argwhere((image != 255).any(axis=2))
        assert np.abs(drawn.mean(axis=0) - [410, 580]).max() < 1  # pixel (58, 41), ten times as large
        assert (image[410, 580] == blue[0]).all()


def test_a_surface_has_no_holes() -> None:
    x, y = np.random.default_rng(0).uniform(-0.2, 0.2, (2, 20_000))
    plane = np.stack([x, y, np.ones_like(x)], axis=1).astype(np.float32)
    image = heat_map(plane, np.zeros((len(plane), 3), np.uint8), CAMERA, (96, 72))
    inside = image[200:520, 320:640]
    assert (inside == 0).all(axis=2).mean() > 0.97


def test_a_cloud_file_makes_an_image_a_camera(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {"pred": rng.normal(0, 0.05, (500, 3)) + [0, 0, 1], "error": rng.random(500), "truth": rng.random((9, 3))}
    np.savez(tmp_path / "plain.npz", **arrays)
    assert write_heat_maps(tmp_path / "plain.npz", tmp_path / "a") == []
    two = Cameras(np.repeat(CAMERA.intrinsics, 2, axis=0), np.repeat(CAMERA.camera_from_world, 2, axis=0))
    sizes = np.array([[96, 72], [72, 96]], np.int32)
    np.savez(
        tmp_path / "whole.npz",
        **arrays,
        intrinsics=two.intrinsics,
        camera_from_world=two.camera_from_world,
        sizes=sizes,
    )
    files = write_heat_maps(tmp_path / "whole.npz", tmp_path / "b")
    assert [file.name for file in files] == ["b-0.png", "b-1.png"]
    assert [Image.open(file).size[0] for file in files] == [LONGER, LONGER * 3 // 4]


@pytest.mark.parametrize("package", ["matplotlib", "pyarrow"])
def test_an_absent_extra_is_one_sentence(
    package: str, tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write = write_figures if package == "matplotlib" else write_parquet
    with pytest.raises(TableError, match=rf"{package} is not installed; `pip install 'reconbench\["):
        write(tables, tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_figures_come_as_svg_and_png_and_repeat_to_the_byte(make: Callable[..., Tables], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: extra `figures`")
    tables = make(views=(2, 8), scenes=("toy", "vase"))
    first, second = write_figures(tables, tmp_path / "a"), write_figures(tables, tmp_path / "b")
    names = {path.name for path in first}
    assert {name.rpartition(".")[0] for name in names if name.endswith(".svg")} == {
        name.rpartition(".")[0] for name in names if name.endswith(".png")
    }
    assert any("by-views" in name for name in names) and any("scores" in name for name in names)
    for before, after in zip(first, second, strict=True):
        assert before.read_bytes() == after.read_bytes(), before.name


def test_parquet_holds_the_rows_of_the_csv(tables: Tables, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra `parquet`")
    result = pd.read_parquet(write_parquet(replace(tables), tmp_path))
    assert len(result) >= len(tables.scores) and result["views"].dtype == "int64"
