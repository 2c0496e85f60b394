"""The documentation site: every page that it names is there, and every link between pages leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_page_of_the_site_is_there() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    named = re.findall(r"[\w-]+\.md", nav)
    assert len(named) > 20 and len(set(named)) == len(named)
    assert not [page for page in named if not (DOCS / page).is_file()]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not [link for link in links if link and not (page.parent / link).exists()]


def test_the_notebook_page_shows_what_the_readme_runs() -> None:
    blocks = [
        re.findall(r"```python\n(import reconbench.*?)```", (ROOT / name).read_text(), re.DOTALL)
        for name in ("README.md", "docs/notebook.md")
    ]
    assert blocks[0] == blocks[1] and len(blocks[0]) == 1
