"""The catalogue's part of `docs/datasets.md`: `python -m data.catalog.shared.page` writes it anew."""

from __future__ import annotations

from pathlib import Path

from data.catalog import layouts
from data.catalog.shared.layout import Layout

BEGIN, END = "<!-- layouts -->", "<!-- /layouts -->"
PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"


def markdown() -> str:
    """A table of all layouts, then what each declares."""
    lines = ["| layout | dataset | state | licence |", "|---|---|---|---|"]
    for layout in layouts().values():
        licence = layout.licence + ("" if layout.licence_read else " †")
        lines.append(f"| [`{layout.name}`](#{layout.name}) | {layout.title} | {layout.state} | {licence} |")
    return "\n".join([*lines, *(line for layout in layouts().values() for line in _section(layout))])


def _section(layout: Layout) -> list[str]:
    read = f" ({layout.licence_read})" if layout.licence_read else " († not read on its page: ask it)"
    checked = ", ".join(f"`{source}`" for source in layout.checked) or "nothing: unverified"
    out = [
        "",
        f"### {layout.name}",
        "",
        f"{layout.title}, <{layout.page}>.",
        "",
        f"- Licence: {layout.licence}{read}.",
        f"- Download: {layout.download}.",
        f"- PATH: {layout.folder}.",
        f"- Truth: {layout.truth}{_unit(layout.metres)}.",
        f"- Checked against: {checked}.",
    ]
    for subset in layout.subsets:
        rule = f"every {subset.every}th view" if subset.every else f"{len(subset.rows)} views"
        out.append(f"- Subset `{subset.name}`: {rule}, `{subset.sha256[:16]}` ({subset.source}).")
    if layout.left_out:
        out.append(f"- Left out: {layout.left_out}.")
    return out


def _unit(metres: float | None) -> str:
    return {None: "; its scale is not known", 1.0: "; in metres", 1e-3: "; in millimetres"}[metres]


def written(text: str) -> str:
    """`text` of the page with the catalogue's part as it is now."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
