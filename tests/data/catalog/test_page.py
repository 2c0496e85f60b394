"""The page of datasets says what the importers declare."""

from __future__ import annotations

from dataclasses import fields

import msgspec

from data.catalog import layouts
from data.catalog.shared.page import PAGE, written
from data.scene import CameraFile, SceneFile, TruthFile, ViewFile


def test_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == written(text), "run `python -m data.catalog.shared.page`"


def test_every_declaration_is_whole() -> None:
    for name, layout in layouts().items():
        assert layout.name == name and layout.page.startswith("https://")
        for field in fields(layout):
            value = getattr(layout, field.name)
            assert value or field.name in ("licence_read", "checked", "subsets", "metres", "left_out"), (
                name,
                field.name,
            )
        assert len({subset.name for subset in layout.subsets}) == len(layout.subsets)


def test_the_format_page_names_every_field() -> None:
    text = (PAGE.parent / "scene-format.md").read_text(encoding="utf-8")
    for struct in (SceneFile, ViewFile, TruthFile, CameraFile):
        for field in msgspec.structs.fields(struct):
            assert f"`{field.name}`" in text, field.name
