"""The soak's cases against the tree as it is: an edit whose text has moved on proves nothing."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tests.soak.soak import ROOT, Case, apply, read_cases

CASES = read_cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_edit_applies_once_and_leaves_valid_python(case: Case, tmp_path: Path) -> None:
    for file in {file for file, old, _ in case.edits if old}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, tmp_path / file)
    for file in {file for file, old, _ in case.edits if not old}:
        assert not (ROOT / file).exists()
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    apply(case, tmp_path)
    for file, _, _ in case.edits:
        changed = (tmp_path / file).read_text()
        assert not (ROOT / file).exists() or changed != (ROOT / file).read_text()
        ast.parse(changed)
