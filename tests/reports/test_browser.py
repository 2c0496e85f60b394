"""The page in a real browser, headless: what a reader clicks works, and nothing is read from the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from reports.report import write_report
from reports.schema import Tables

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.slow,
]
FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--disable-background-networking",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        result = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield result
        result.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; afterwards asserts that no error was printed and no request left the disk."""
    faults: list[str] = []
    contexts = []

    def asked(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            faults.append(f"request: {request.url}")

    def opened(path: Path, width: int = 1440, theme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", asked)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def front(builder: Callable[..., Tables], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_report(builder(folder / "run", cloud_points=4000, clouds=6, images=2), folder / "out")
    return folder / "out" / "leaderboard.html"


def names(page: Any) -> list[str]:
    return page.locator("table.ranks:visible tbody tr:visible .name a").all_inner_texts()


def test_sort_tabs_filters_and_views(visit: Callable[..., Any], front: Path) -> None:
    page = visit(front)
    assert names(page)[:3] == ["Grid3R", "Dense stereo", "SwiftRecon"]
    warm = page.locator("table.ranks:visible thead th", has_text="Warm run")
    warm.locator("button").click()
    assert warm.get_attribute("aria-sort") == "ascending"
    assert names(page)[0] == "SwiftRecon"
    assert names(page)[-1] == "Made elsewhere"  # it has no time: always last
    warm.locator("button").click()
    assert names(page)[0] == "Dense stereo"
    assert names(page)[-1] == "Made elsewhere"
    page.get_by_label("ranked only").locator("visible=true").check()
    assert set(names(page)) == {"Grid3R", "Dense stereo", "SwiftRecon"}
    page.locator("[data-search]:visible").fill("grid")
    assert names(page) == ["Grid3R"]
    page.locator("[data-search]:visible").fill("")
    page.locator(".controls:visible [data-truth=exact]").click()
    assert "COLMAP" in names(page)
    page.locator(".controls:visible [data-views='1']").click()
    assert "unsupported 2" in page.locator("table.ranks:visible").inner_text()
    page.get_by_role("tab").nth(1).click()
    assert set(names(page)) == {"Carver", "Visual hull"}
    page.get_by_role("tab").nth(1).press("ArrowRight")
    assert page.get_by_role("tab").nth(2).get_attribute("aria-selected") == "true"
    assert set(names(page)) == {"Oracle", "Noisy oracle"}


def test_hidden_metrics_come_on_request(visit: Callable[..., Any], front: Path) -> None:
    page = visit(front)
    head = page.locator("table.ranks:visible thead th:visible")
    small = head.count()
    page.get_by_label("all metrics").locator("visible=true").check()
    assert head.count() == small + 3


def test_curves_are_drawn(visit: Callable[..., Any], front: Path) -> None:
    page = visit(front)
    page.locator("[data-curves]:visible").scroll_into_view_if_needed()
    page.wait_for_selector("[data-plot=peak_rss_bytes] .main-svg")
    assert page.locator("[data-plot=quality]:visible .scatterlayer .trace").count() == 5
    page.locator("[data-quantity]:visible").select_option("fscore@1%")
    page.wait_for_function("document.querySelector('[data-plot=quality] .gtitle').textContent.includes('fscore')")


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_of_laws_draws_every_table_it_judges(visit: Callable[..., Any], tmp_path: Path, width: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["curves", "--published", "--out", str(tmp_path)])
    assert ended.value.code == 0
    page = visit(tmp_path / "curves.html", width, "dark")
    figures = page.locator("[data-figure]")
    page.wait_for_function("document.querySelectorAll('[data-figure] .main-svg').length >= 5")
    for figure in figures.all():
        figure.scroll_into_view_if_needed()
        assert figure.locator(".scatterlayer .points path").count() >= 5  # a point for each published count
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_clouds_are_drawn_and_share_a_camera(visit: Callable[..., Any], front: Path) -> None:
    page = visit(front)
    viewer = page.locator("[data-viewer]").first
    viewer.locator("[data-cloud-load]").click()
    page.wait_for_selector("[data-drawn]")
    lit = """async (element) => {
      await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
      return Array.from(element.querySelectorAll("canvas"), (canvas) => {
        const gl = canvas.getContext("webgl"), size = gl.drawingBufferWidth * gl.drawingBufferHeight;
        const pixels = new Uint8Array(4 * size);
        gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
        let count = 0, sum = 0;
        for (let i = 0; i < size; i++) if (pixels[4 * i + 1] > 60) { count++; sum += i; }
        return [count / size, sum / Math.max(count, 1)];
      });
    }"""
    before = viewer.evaluate(lit)
    assert all(0.02 < share < 0.6 for share, _ in before)
    viewer.locator("canvas").first.focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    after = viewer.evaluate(lit)
    assert all(a != b for a, b in zip(before, after, strict=True))  # both moved, though one was turned
    assert "error: median" in viewer.locator("[data-cloud-status]").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_it_without_sideways_scroll(visit: Callable[..., Any], front: Path, theme: str) -> None:
    for path in (front, *sorted(front.parent.glob("rows/grid3r-8-*.html"))):
        page = visit(path, width=390, theme=theme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_theme_can_be_chosen(visit: Callable[..., Any], front: Path) -> None:
    page = visit(front)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.locator("[data-theme-toggle]").click()
    assert page.evaluate(ground) != "rgb(255, 255, 255)"


def test_hostile_names_run_nothing(visit: Callable[..., Any], hostile: Tables, tmp_path: Path) -> None:
    write_report(hostile, tmp_path / "bad")
    page = visit(tmp_path / "bad" / "leaderboard.html")
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    page.locator("[data-curves]:visible").scroll_into_view_if_needed()
    page.wait_for_selector("[data-plot=quality] .legendtext")
    assert "<script>" in page.locator("[data-plot=quality] .legendtext").first.text_content()
    page.locator("[data-cloud-load]").first.click()
    page.wait_for_selector("[data-drawn]")
