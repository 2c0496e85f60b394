"""The pages: every name escaped, every link to a file that is there, nothing read from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.page.clouds import write_clouds
from reports.published import sources
from reports.report import write_report
from reports.schema import TableError, Tables
from tests.reports.rows import altered


class Reader(HTMLParser):
    """Collects tags, links and visible text; fails on tags that do not close."""

    VOID = frozenset(("meta", "link", "input", "img", "br", "path"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> seen"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def pages(written: list[Path]) -> list[Path]:
    return [path for path in written if path.suffix == ".html"]


def test_every_link_leads_to_a_file_beside_the_page(make: Callable[..., Tables], tmp_path: Path) -> None:
    written = write_report(make(cloud_points=60, clouds=3, images=2), tmp_path / "out")
    result = pages(written)
    assert len(result) == 1 + 40
    papers = {source.file.url for source in sources()}  # links to follow, nothing that is loaded
    ids = set(read(tmp_path / "out" / "leaderboard.html").ids)
    for page in result:
        reader = read(page)
        assert len(set(reader.ids)) == len(reader.ids)
        for link in reader.links:
            if link.startswith("data:") or link in papers:
                continue
            path, _, mark = link.partition("#")
            assert not re.match(r"[a-z]+:|//", path), link
            assert not path or (page.parent / path).is_file(), f"{page.name}: {link}"
            if mark and page.name == "leaderboard.html" and not path:
                assert mark in ids or mark == "main"


def test_hostile_names_stay_text(hostile: Tables, make: Callable[..., Tables], tmp_path: Path) -> None:
    written = write_report(hostile, tmp_path / "bad")
    tame = write_report(make(views=(2, 4), cloud_points=50, images=1), tmp_path / "tame")
    for bad, good in zip(pages(written), pages(tame), strict=True):
        reader = read(bad)
        assert "<script>alert" not in bad.read_text(encoding="utf-8")
        assert reader.handlers == []
        assert reader.tags.count("script") == read(good).tags.count("script")
    front = read(tmp_path / "bad" / "leaderboard.html")
    assert any("<script>alert('x')</script>" in text for text in front.text)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in written)


def test_the_front_page_says_what_must_be_said(tables: Tables, tmp_path: Path) -> None:
    keys = {t.key for t in tables.trials if (t.adapter, t.views) == ("carver", 8)}
    command = "reconbench adapters install carver"
    trials = altered(tables.trials, lambda t: t.key in keys, status="unavailable", message=command)
    scores = tuple(s for s in tables.scores if s.key not in keys)
    write_report(replace(tables, trials=trials, scores=scores), tmp_path / "out")
    text = " ".join(" ".join(read(tmp_path / "out" / "leaderboard.html").text).split())
    for words in (
        "kin of this truth (colmap)",
        "reference: given the truth",
        "external prediction",
        "random weights: timed only",
        "oom 1",
        "Ranks hold within these 4 scenes only.",
        "agree with Kendall's τ = 1.00 (n = 3)",
        "reconbench adapters install carver",
        "over the budget of 600 s",
        "floor 0.12",
        "standard",
        "6.00 ms",
    ):
        assert words in text, words
    assert "Predicted" in text and "0.20 to 0.50" in text  # of the first scene's COLMAP truth


def test_the_first_screen_says_how_far_a_measured_truth_can_be_trusted(tables: Tables, tmp_path: Path) -> None:
    names = [scene.scene for scene in tables.scenes]
    scenes = tables.scenes
    for name, fidelity in zip(names, (0.95, 0.6), strict=False):  # the others have no exact surface
        (scene,) = (row for row in tables.scenes if row.scene == name)
        card = replace(scene.truths["colmap"], fidelity=fidelity, perfect=0.97, judged=0.4, known=0.5)
        scenes = altered(scenes, lambda row, name=name: row.scene == name, truths={**scene.truths, "colmap": card})
    scores = altered(
        tables.scores, lambda row: row.truth == "colmap" and row.status == "ok", judged=0.4, least=0.25, most=0.85
    )
    told = replace(tables, scenes=scenes, scores=scores, run=replace(tables.run, rank_truth="exact"))
    write_report(told, tmp_path / "out")
    text = " ".join(" ".join(read(tmp_path / "out" / "leaderboard.html").text).split())
    first = text[: text.index("Filter systems")]
    good, bad, other = names[:3]
    assert f"{good} τ 0.95, 40% of the surface judged" in first
    assert f"{bad} τ 0.60, 40% of the surface judged: this truth cannot rank here" in first
    assert f"{other} τ not known" in first
    assert first.count("cannot rank here") == 1
    assert re.search(r"Exact truth ranks (\d) systems in this table, COLMAP truth ranks \d; nothing is kin", first)
    assert "judged 40%" in text and "bounds 0.25–0.85" in text


def test_a_row_page_holds_what_reproduces_it(tables: Tables, tmp_path: Path) -> None:
    write_report(tables, tmp_path / "out")
    page = next((tmp_path / "out" / "rows").glob("grid3r-8-*.html"))
    text = " ".join(" ".join(read(page).text).split())
    for words in (
        "reconbench run --adapters grid3r --scenes skull --views 8",
        "grid3r gave up on skull",
        "Killed",
        "9f31c2",
        "77aa01",
        "5e1f00",
        "2 x Xeon, 24 GiB",
        "umeyama",
        "rank 1 of 3",
        "before ICP",
    ):
        assert words in text, words


def test_a_row_page_says_why_a_score_is_missing(tables: Tables, tmp_path: Path) -> None:
    write_report(tables, tmp_path / "out")
    page = next((tmp_path / "out" / "rows").glob("carver-2-*.html"))
    text = " ".join(" ".join(read(page).text).split())
    assert text.count("no overlap with the truth") == 2  # once a truth, all metrics together
    assert "unscorable" in text


def test_predictions_are_linked_where_they_exist(tables: Tables, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "p 1"
    folder.mkdir(parents=True)
    trials = altered(tables.trials, lambda t: t.key == "grid3r-toy-8", prediction_path=str(folder))
    write_report(replace(tables, trials=trials), tmp_path / "out")
    page = next((tmp_path / "out" / "rows").glob("grid3r-8-*.html"))
    assert "../../store/p%201" in read(page).links


def test_a_missing_image_is_said_to_be_missing(make: Callable[..., Tables], tmp_path: Path) -> None:
    tables = make(images=2)
    (tmp_path / "made" / "toy-00.png").unlink()
    (tmp_path / "made" / "toy-01.png").write_bytes(b"not an image")
    write_report(tables, tmp_path / "out")
    text = " ".join(read(tmp_path / "out" / "leaderboard.html").text)
    assert "v00: image not found" in text and "v01: image not found" in text


def test_clouds_survive_quantisation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3)).astype(np.float32)
    error = rng.exponential(size=500).astype(np.float32)
    np.savez(tmp_path / "c.npz", pred=points, error=error, truth=points[:7])
    written: dict[str, Path] = {}
    pair = write_clouds("k", "exact", tmp_path / "c.npz", tmp_path, written)
    content = decoded(written[pair.prediction])
    assert np.abs(content["points"] - points).max() < np.ptp(points, axis=0).max() / 65535
    assert np.abs(content["error"] - error).max() < error.max() / 65535
    assert pair.scale >= np.quantile(error, 0.95)
    again = write_clouds("other", "exact", tmp_path / "c.npz", tmp_path, written)
    assert (again.prediction, again.surface) == (pair.prediction, pair.surface)
    assert len(written) == 2


def decoded(path: Path) -> dict[str, np.ndarray]:
    import base64
    import json

    result = re.fullmatch(r'reconbench\.receive\("[0-9a-f]{16}",(\{.*\})\);\n', path.read_text(encoding="ascii"))
    assert result
    data = json.loads(result[1])
    places = np.frombuffer(base64.b64decode(data["points"]), "<u2").reshape(-1, 3) / 65535
    return {
        "points": np.array(data["low"]) + places * np.array(data["side"]),
        "error": np.frombuffer(base64.b64decode(data["error"]), "<u2") / 65535 * data["most"],
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"error": np.zeros(3, np.float32)}, "3 errors seen for 5 points"),
        ({"pred": np.zeros((5, 2), np.float32)}, "pred: shape"),
        ({"pred": np.full((5, 3), np.nan, np.float32)}, "non-finite"),
        ({"truth": np.zeros((0, 3), np.float32)}, "an empty cloud"),
        ({"truth": np.zeros((40_001, 3), np.float32)}, "at most 40000"),
    ],
)
def test_bad_clouds_are_refused(tmp_path: Path, change: dict[str, np.ndarray], words: str) -> None:
    arrays = {
        "pred": np.zeros((5, 3), np.float32),
        "error": np.zeros(5, np.float32),
        "truth": np.ones((4, 3), np.float32),
    }
    np.savez(tmp_path / "c.npz", **(arrays | change))
    with pytest.raises(TableError, match=words):
        write_clouds("k", "exact", tmp_path / "c.npz", tmp_path, {})


def test_what_ran_without_walls_is_said_everywhere(tables: Tables, tmp_path: Path) -> None:
    write_report(tables, tmp_path / "unknown")
    key = next(t.key for t in tables.trials if (t.adapter, t.scene, t.views) == ("swiftrecon", "toy", 2))
    trials = altered(tables.trials, lambda t: True, isolated=lambda t: t.key != key)
    out = tmp_path / "out"
    write_report(replace(tables, trials=trials), out)
    (named,) = (out / "rows").glob("swiftrecon-2-*.html")
    assert " ".join(read(named).text).count("not isolated") == 1  # beside the trial
    assert "not isolated" in " ".join(read(out / "leaderboard.html").text)
    assert not [page for page in (out / "rows").glob("grid3r*.html") if "not isolated" in page.read_text()]
    board = pd.read_csv(out / "leaderboard.csv")
    assert board.query("not_isolated_trials > 0")[["system", "views"]].values.tolist() == [["swiftrecon", 2]]
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores[~scores["isolated"].astype(bool)]["key"]) == {key}
    for name in ("leaderboard.md", "leaderboard.tex"):
        assert sum("not isolated" in line for line in (out / name).read_text().splitlines()) == 1
    for page in (tmp_path / "unknown").rglob("*.html"):
        assert "not isolated" not in page.read_text(encoding="utf-8")  # where nothing ran or nothing is known
