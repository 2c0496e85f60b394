"""The attention page: what is coded comes back, what is counted is true, and a click shows what it should."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports.page.attention import (
    HIDDEN,
    OUTSIDE,
    SPAN,
    UNKNOWN,
    VISIBLE,
    AttentionPage,
    Matches,
    View,
    agreement,
    decode,
    encode,
    write_attention,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VIEWS, ROWS, COLUMNS, SIZE = 3, 5, 7, (70, 98)
TARGET = (3, 2)  # row and column where layers 2-3 look in every view


def make_page(name: str = "left") -> AttentionPage:
    """Two layer ranges: one looks evenly, one at TARGET; sources are a 2 x 3 grid of each view."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    views = tuple(
        View(n, rng.integers(0, 255, (height, width, 3), dtype=np.uint8), (0.0, 0.0, float(width), float(height)))
        for n in (name, "middle", "right")
    )
    grid = np.stack(np.meshgrid(range(VIEWS), (1, 3), (1, 3, 5), indexing="ij"), axis=-1).reshape(-1, 3)
    count = len(grid)
    maps = np.full((2, count, VIEWS, ROWS, COLUMNS), 1.0, np.float32)
    maps[1, :, :, TARGET[0], TARGET[1]] = 200.0
    special = np.full((2, count, VIEWS), 5.0, np.float32)
    total = maps.sum(axis=(2, 3, 4)) + special.sum(axis=2)
    pixel = np.tile([(TARGET[1] + 0.5) * 14, (TARGET[0] + 0.5) * 14], (count, VIEWS, 1)).astype(np.float64)
    state = np.full((count, VIEWS), VISIBLE, np.uint8)
    return AttentionPage(
        title="Attention of Looker",
        facts=(("Model", "Looker"),),
        footer="made up",
        views=views,
        names=("layers 0-1", "layers 2-3"),
        maps=maps / total[:, :, None, None, None],
        special=special / total[:, :, None],
        sources=grid.astype(np.int32),
        matches=Matches("the scene's exact truth", pixel, state),
    )


def test_the_code_is_within_its_stated_error() -> None:
    rng = np.random.default_rng(1)
    values = np.exp(rng.uniform(np.log(1e-9), np.log(0.7), 20_000)).astype(np.float32)
    levels, largest = encode(values)
    back = decode(levels, largest)
    kept = values > largest / SPAN * 1.03
    assert np.abs(back[kept] / values[kept] - 1).max() < 0.0233
    assert back[values < largest / SPAN * 0.97].max() == 0
    assert levels.max() == 255
    assert decode(*encode(np.zeros(5, np.float32))).max() == 0
    order = np.argsort(values)
    assert (np.diff(levels[order].astype(int)) >= 0).all()


def test_agreement_counts_what_other_views_see() -> None:
    page = make_page()
    assert page.matches is not None
    even, looking = agreement(page)
    assert looking.pairs == len(page.sources) * (VIEWS - 1)
    assert (looking.within, looking.median) == (1.0, 0.0)
    assert looking.chance == pytest.approx(5 / (ROWS * COLUMNS))  # the patch and its four neighbours
    assert even.within == 0.0  # the first patch of all equal ones is far away
    away = page.matches.pixel + [1.4 * 14, 0]
    moved = agreement(replace(page, matches=replace(page.matches, pixel=away)))[1]
    assert (moved.within, moved.median) == (0.0, pytest.approx(1.4))
    state = page.matches.state.copy()
    state[:, 0], state[:, 1], state[:, 2] = HIDDEN, OUTSIDE, UNKNOWN
    nothing = agreement(replace(page, matches=replace(page.matches, state=state)))[1]
    assert (nothing.pairs, nothing.within, nothing.median) == (0, None, None)
    assert agreement(replace(page, matches=None)) == []


def test_files_hold_every_source_once(tmp_path: Path) -> None:
    page = make_page()
    written = write_attention(page, tmp_path)
    assert all(path.is_file() for path in written)
    files = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert files == [f"{view}-{row}.js" for view in range(VIEWS) for row in (1, 3)]
    coded = re.fullmatch(r'reconbench\.receive\("0-1","(.*)"\);\n', (tmp_path / "maps" / "0-1.js").read_text())
    assert coded is not None
    assert len(coded[1]) == 4 * int(np.ceil(2 * 3 * VIEWS * ROWS * COLUMNS / 3))
    # A coarser page written to the same place leaves no file behind that it does not use.
    small = page.sources[:, 1] == 1
    coarse = replace(
        page, maps=page.maps[:, small], special=page.special[:, small], sources=page.sources[small], matches=None
    )
    write_attention(coarse, tmp_path)
    assert len(list((tmp_path / "maps").iterdir())) == VIEWS


def test_the_page_stands_alone_and_escapes(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script> & \"q\""
    write_attention(replace(make_page(hostile), title=hostile), tmp_path)
    html = (tmp_path / "attention.html").read_text()
    assert "<script>alert" not in html
    assert not re.search(r"https?://", html + (tmp_path / "assets" / "attention.js").read_text())
    data = re.search(r"reconbench = \{ attention: (\{.*\}) \};", html)
    assert data is not None
    assert json.loads(data[1])["views"][0]["name"] == hostile
    for link in re.findall(r'(?:src|href|data-image)="([^"#]+)"', html):
        assert link == "data:," or (tmp_path / link).is_file(), link


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (390, "dark")])
def test_a_click_shows_where_attention_falls(tmp_path: Path, width: int, theme: str) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    write_attention(make_page(), tmp_path)
    faults: list[str] = []
    with driver.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme).new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
        page.goto((tmp_path / "attention.html").as_uri())
        drawn = "document.querySelector('[data-attention]').dataset.drawn === '{}'"
        page.wait_for_function(drawn.format("1 0 log"))  # the source nearest to the middle of the first view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        right = page.locator("[data-view] canvas").nth(2)
        box = right.bounding_box()
        right.click(position={"x": box["width"] * 0.95, "y": box["height"] * 0.9})
        page.wait_for_function(drawn.format("17 0 log"))
        page.locator("[data-layer]").nth(1).click()
        page.get_by_role("button", name="linear").click()
        page.wait_for_function(drawn.format("17 1 linear"))
        output = page.locator("[data-view='0'] figcaption").inner_text()
        share = float(re.search(r"([\d.]+) % of the attention", output)[1])  # type: ignore[index]
        assert share == pytest.approx(100 * 234 / (3 * 239), rel=0.05)
        assert "strongest patch 0 px" in output
        shot = Image.open(io.BytesIO(page.locator("[data-view='1'] canvas").screenshot())).convert("L")
        at = (((TARGET[1] + 0.15) / COLUMNS, (TARGET[0] + 0.15) / ROWS), (5.15 / COLUMNS, 1.15 / ROWS))
        looked, beside = (shot.getpixel((int(x * shot.width), int(y * shot.height))) for x, y in at)
        assert looked > 150 > beside  # the heat lies on the patch that is looked at, and nowhere else
        right.press("ArrowLeft")
        page.wait_for_function(drawn.format("16 1 linear"))
        right.press("ArrowUp")
        page.wait_for_function(drawn.format("13 1 linear"))
        browser.close()
    assert faults == []
