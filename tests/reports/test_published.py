"""Published tables: complete, typed, shown where they fit and apart from what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.contract import InputError
from metrics.scoring.protocol import protocol_names
from reports.published import FOLDER, fitting, sources
from reports.report import write_report
from reports.schema import Tables

CSV = "dataset,system,views,metric,unit,better,value\n"
ROW = "D,S,6,psnr,dB,higher,20.5\n"
TOML = 'title = "T"\ncite = "C"\nprotocol = "P"\nunstated = "U"\nconfirmed = true\n[tables.D]\nwhere = "W"\n'


def test_every_source_is_complete() -> None:
    every = sources()
    assert {source.name for source in every} == {path.stem for path in FOLDER.glob("*.csv")}
    for source in every:
        assert set(source.file.presets) <= set(protocol_names()), source.name
        assert source.file.url.startswith("https://") or source.name == "stanford"  # which was never published
        for table in source.tables:
            assert table.where and table.rows and all(len(values) == len(table.heads) for *_, values in table.rows)
    confirmed = {source.name: source.file.confirmed for source in every}
    assert [name for name in confirmed if not confirmed[name]] == ["3dlmnet"]


def test_numbers_stand_as_printed() -> None:
    tables = {(source.name, table.dataset): table for source in sources() for table in source.tables}
    assert ("GeoLRM", 6, ("23.57", "0.872", "0.167", "0.167", "0.892")) in tables["geolrm", "GSO"].rows
    assert ("GeoLRM", 20, ("25.13", "1.84", "9.43")) in tables["geolrm", "GSO, by input views"].rows
    assert ("VGGT", 20, ("415", "23.24", "0.0679")) in tables["stanford", "One object, by input views"].rows
    assert ("3D-LMNet", 1, ("5.40", "7.00")) in tables["3dlmnet", "ShapeNet, mean of the categories"].rows
    assert ("VGGT aggregator", 200, ("8.75", "40.63")) in tables["vggt", "By input frames"].rows
    assert ("VGGT-Omega as released", None, ("0.0774",)) in tables["vggt-omega", "SpatialBench, sparse"].rows


def test_tables_fit_by_protocol_or_by_data() -> None:
    every = sources()
    assert fitting(every, {"object-v1"}, {"elephant", "Elephant"}) == []
    (same,) = fitting(every, {"geolrm", "object-v1"}, {"elephant"})
    assert same.name == "geolrm" and len(same.tables) == 3
    (data,) = fitting(every, {"object-v1"}, {"box-3", "Google Scanned Objects: Box 3"})
    assert data.name == "geolrm" and [table.dataset for table in data.tables] == ["GSO", "GSO, by input views"]
    assert {source.name for source in fitting(every, {"stanford"}, {"SpatialBench: a"})} == {"stanford", "vggt-omega"}


def test_the_page_shows_what_fits_and_no_file_of_numbers_does(
    make: Callable[..., Tables], tables: Tables, tmp_path: Path
) -> None:
    write_report(tables, tmp_path / "plain")
    assert "Reported elsewhere" not in (tmp_path / "plain" / "leaderboard.html").read_text(encoding="utf-8")
    scenes = (replace(tables.scenes[0], title="ShapeNet and OmniObject3D: x"), *tables.scenes[1:])
    written = write_report(replace(tables, scenes=scenes), tmp_path / "out")
    page = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert "Reported elsewhere" in page and "0.863" in page and "PSGN" in page and "not confirmed" in page
    assert "25.13" not in page  # of other data
    for path in written:
        if path.suffix == ".csv":
            content = path.read_text(encoding="utf-8")
            assert "GeoLRM" not in content and "PSGN" not in content


@pytest.mark.parametrize(
    ("toml", "csv", "message"),
    [
        (TOML.replace('"W"', "3"), CSV + ROW, "Expected `str`"),
        (TOML.replace("confirmed = true\n", ""), CSV + ROW, "missing required field `confirmed`"),
        (TOML.replace('"U"', '""'), CSV + ROW, 'unstated "" seen'),
        (TOML + "more = 1\n", CSV + ROW, "unknown field `more`"),
        (TOML.replace("tables.D", "tables.E"), CSV + ROW, r"tables \['E'\] seen, those of the .csv wanted: \['D'\]"),
        (TOML, CSV.replace("unit,", "") + ROW, "columns dataset"),
        (TOML, CSV + ROW.replace("dB", ""), "line 2: an empty field"),
        (TOML, CSV + ROW.replace(",6,", ",six,"), "line 2: views six seen"),
        (TOML, CSV + ROW.replace("higher", "up"), "line 2: better up seen"),
        (TOML, CSV + ROW.replace("20.5", "nan"), "line 2: value nan seen"),
        (TOML, CSV + ROW + ROW, "line 3: a second psnr of S at 6 views"),
        (
            TOML,
            CSV + ROW + ROW.replace("S,6", "R,6").replace("dB", "ratio"),
            "line 3: another unit or direction of psnr",
        ),
    ],
)
def test_what_is_incomplete_or_of_another_type_is_named(tmp_path: Path, toml: str, csv: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(toml)
    (tmp_path / "a.csv").write_text(csv)
    with pytest.raises(InputError, match=message):
        sources(tmp_path)


def test_a_source_without_its_numbers_is_named(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "geolrm.toml", tmp_path)
    with pytest.raises(InputError, match=r"geolrm\.csv"):
        sources(tmp_path)
