"""Names and messages from elsewhere stay text in every file and on the terminal, whatever they hold."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.table import Table

from bench.cli.common import PlainConsole
from reports import text
from reports.board import leaderboard
from reports.export import latex, markdown
from reports.report import write_report
from reports.schema import Tables, write_csv

# Attacks, and any text at all; halves of surrogate pairs are how Python holds file names that are not UTF-8.
ATTACKS = (
    '=HYPERLINK("http://x/?"&A1,"y")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "\x9b31m",
    "abc\u202egnp.exe",
    "\u2066a\u2069\u200f",
    "a\x00b",
    "not UTF-8 \udcff",
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "| a | b |",
    "[x](javascript:alert(1)) ![y](http://z) www.z.com",
    "\\input{/etc/passwd} $x_1$ % & # {} ^^5c",
    "[red]x[/] [/nothing] :warning:",
    "{{ 7 * 7 }} {% raw %}",
    "a\nok: everything is well",
    "\u2028\u2029\x85",
)
names = st.sampled_from(ATTACKS) | st.text(st.characters(codec=None), max_size=30).map(lambda end: f"x{end}")
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


def attacked(tables: Tables, name: str) -> Tables:
    """`tables` with `name` in every text that may come from elsewhere."""
    trials = tuple(
        replace(row, title=name, message=name, log_tail=name, hardware=name, command=name, adapter=name, options=name)
        for row in tables.trials
    )
    scores = tuple(replace(row, note=name, adapter=name, protocol=name) for row in tables.scores)
    left = tuple(replace(row, reason=name, adapter=name) for row in tables.left_out)
    run = replace(tables.run, version=name, hardware=name, commands=(name,), protocols={"5e1f00": name})
    scenes = tuple(replace(row, title=name) for row in tables.scenes)
    return replace(tables, trials=trials, scores=scores, left_out=left, run=run, scenes=scenes)


@pytest.fixture(scope="module")
def small(builder: Callable[..., Tables], tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """One system's run, so that one name may stand for all."""
    made = builder(tmp_path_factory.mktemp("small"), views=(2,), scenes=("toy",))
    keys = {row.key for row in made.trials if row.adapter == "swiftrecon"}
    return replace(
        made,
        trials=tuple(row for row in made.trials if row.key in keys),
        scores=tuple(row for row in made.scores if row.key in keys),
        alignments=tuple(row for row in made.alignments if row.key in keys),
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names)
@example(name=ATTACKS[0])
@example(name=ATTACKS[6])
@example(name=ATTACKS[11])
@example(name=ATTACKS[12])
def test_every_file_of_a_report_holds_a_hostile_name_as_text(name: str, small: Tables) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = write_report(attacked(small, name), Path(folder))
        for path in written:
            if path.suffix in (".html", ".csv", ".md", ".tex", ".js", ".json") and path.name not in VENDORED:
                content = path.read_bytes().decode("utf-8")  # no half of a pair was written
                assert not HIDDEN.search(content), path.name
            if path.suffix == ".csv":
                for row in csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")):
                    assert not [cell for cell in row if cell.startswith(text.FORMULAS) and not is_number(cell)]
            if path.suffix == ".html":
                page = _Page()
                page.feed(path.read_text(encoding="utf-8"))
                assert not page.suspect, (path.name, page.suspect)


VENDORED = ("plotly.min.js",)


class _Page(HTMLParser):
    """What a page holds that only an attack puts there."""

    def __init__(self) -> None:
        super().__init__()
        self.suspect: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        handlers = [name for name in named if name.startswith("on")]
        if handlers or named.get("src") == "x" or str(named.get("href")).startswith("javascript:"):
            self.suspect.append(f"{tag} {attrs}")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and "alert(1)</" in data:
            self.suspect.append(data)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@given(name=names, value=st.floats(allow_nan=False, allow_infinity=False), whole=st.integers(-(2**60), 2**60))
@settings(max_examples=60, deadline=None)
def test_a_csv_keeps_numbers_and_has_no_formula(name: str, value: float, whole: int) -> None:
    cells = {"text": pd.Series([name], dtype=object), "value": [value], "whole": [whole]}
    with tempfile.TemporaryDirectory() as folder:
        path = write_csv(Path(folder, "a.csv"), pd.DataFrame(cells))
        (_, row) = csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""))
    assert not row[0].startswith(text.FORMULAS)
    assert (float(row[1]), int(row[2])) == (value, whole)


@given(name=names)
@settings(max_examples=100, deadline=None)
def test_what_is_hidden_is_spelled_out(name: str) -> None:
    out = text.shown(name)
    assert not [mark for mark in out if unicodedata.category(mark) in text.HIDDEN and mark not in "\n\t"]
    assert text.shown(out) == out
    if name.isprintable():
        assert out == name


@given(name=names)
@settings(max_examples=60, deadline=None)
def test_the_terminal_shows_a_hostile_name_as_text(name: str) -> None:
    file = io.StringIO()
    console = PlainConsole(width=200)
    console.file = file
    table = Table(box=None)
    table.add_column("name")
    table.add_row(name)
    for what in (name, f"{name}: done", table):
        console.print(what)
    console.print(name, style="red")
    printed = file.getvalue()
    assert not HIDDEN.search(printed.replace("\n", ""))
    if name == "[red]x[/] [/nothing] :warning:":
        assert printed.count(name) == 4


@given(name=names)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_markdown_and_latex_hold_a_hostile_name_on_its_line(name: str, small: Tables) -> None:
    hostile = attacked(small, name)
    board = leaderboard(hostile)
    plain = leaderboard(attacked(small, "x"))
    md, tex = markdown(board, hostile.run), latex(board, hostile.run)
    assert len(md.splitlines()) == len(markdown(plain, hostile.run).splitlines())
    assert len(tex.splitlines()) == len(latex(plain, hostile.run).splitlines())
    assert not HIDDEN.search(md + tex)
    row = next(line for line in md.splitlines() if line.startswith("| ") and "Rank" not in line)
    assert (
        len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) == len(re.findall(r"\|---", md.split("|---", 1)[1])) + 2
    )
    assert not re.search(r"(?<!\\)<|(?<!\\)\[[^]]*\]\(", md)
    for line in tex.splitlines()[2:]:
        assert "\\input" not in line and "^^" not in line


def test_json_of_a_page_hides_nothing() -> None:
    from reports.page.render import dumps

    assert json.loads(dumps({"a\u202e": ["\x1b[31m", 1.5, None]})) == {"a\\u202e": ["\\x1b[31m", 1.5, None]}
