"""The hash of the code that scores, on mutated copies of the tree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metrics.scoring import identity
from metrics.scoring.identity import ROOT, code_hash, scoring_code
from metrics.scoring.protocol import load_protocol


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics", ignore=shutil.ignore_patterns("__pycache__", "*.toml"))
    (tmp_path / "adapters").mkdir()
    shutil.copy(ROOT / "adapters" / "contract.py", tmp_path / "adapters")
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("metrics/scoring/score.py", "SHOWN_POINTS = 40_000", "SHOWN_POINTS = 41_000"),  # a constant that it uses
        ("metrics/kernels/cpu/boxtree.py", "@njit(", "@njit(fastmath=True, "),  # imported inside a function
        ("metrics/kernels/schedule.py", "EPSILON = ", "EPSILON = 2 * "),
        ("metrics/register/search.py", "EXPLAINED = 0.9", "EXPLAINED = 0.95"),  # by a package's __init__
        ("metrics/similarity.py", "def apply(", "def apply_before(x):\n    return x\n\n\n@apply_before\ndef apply("),
        ("adapters/contract.py", "depth > 1e-12", "depth > 1e-9"),  # a method that only annotations lead to
        ("metrics/depth.py", "ratio < factor", "ratio <= factor"),
        (
            "metrics/scoring/score.py",
            "metrics.chamfer import chamfer_of",
            "metrics.fscore import fscore_of as chamfer_of",
        ),
    ],
)
def test_code_that_scores_changes_the_hash(tree: Path, file: str, old: str, new: str) -> None:
    replace(tree / file, old, new)
    assert code_hash(tree) != scoring_code()


def test_what_scoring_does_not_reach_changes_nothing(tree: Path) -> None:
    for path in sorted(tree.rglob("*.py")):
        text = path.read_text()
        path.write_text(f"# A comment.\n\n{text.replace(',' + chr(10), ',  # and another' + chr(10))}\n\n\n")
    replace(tree / "metrics/scoring/score.py", '"""A prediction against', '"""Some prediction against')
    replace(tree / "metrics/similarity.py", "def apply(", "def nobody_asks(x):\n    return x\n\n\ndef apply(")
    replace(tree / "metrics/volume.py", "MOST_CELLS = 1_000_000", "MOST_CELLS = 2_000_000")
    replace(
        tree / "adapters/contract.py",
        "class InputError",
        "class OtherError(Exception):\n    pass\n\n\nclass InputError",
    )
    (tree / "metrics/peers.py").rename(tree / "metrics/others.py")
    (tree / "metrics/new.py").write_text("from metrics.scoring.score import score\n")
    assert code_hash(tree) == scoring_code()


def test_the_tree_itself_is_what_a_copy_is(tree: Path) -> None:
    assert code_hash(tree) == code_hash(ROOT) == scoring_code()


def test_a_backend_is_a_named_part(tree: Path) -> None:
    """Kernels of another backend, though imported by what scores, are no part of the processor's digits."""
    before = scoring_code()
    kernels = tree / "metrics/kernels/fancy"
    kernels.mkdir()
    (kernels / "__init__.py").write_text("")
    (kernels / "nearest.py").write_text("def nearest(queries, points):\n    return 1\n")
    replace(
        tree / "metrics/emd.py",
        "        from metrics.kernels.cpu",
        "        import metrics.kernels.fancy.nearest\n        from metrics.kernels.cpu",
    )
    changed = code_hash(tree)  # by the line that imports it
    fancy = code_hash(tree, "fancy")
    assert len({before, changed, fancy}) == 3
    replace(kernels / "nearest.py", "1", "2")
    assert code_hash(tree) == changed
    assert code_hash(tree, "fancy") != fancy
    replace(tree / "metrics/kernels/cpu/boxtree.py", "@njit(", "@njit(fastmath=True, ")
    assert code_hash(tree) != changed


def test_a_protocol_hash_is_the_backends_own() -> None:
    protocol = load_protocol("object-v1")
    assert protocol.hash == protocol.hash_on("cpu") != protocol.hash_on("other")


def test_a_missing_entry_is_an_error(tree: Path) -> None:
    replace(tree / "metrics/scoring/score.py", "def score(", "def scored(")
    with pytest.raises(ValueError, match="no score seen"):
        code_hash(tree)


def test_the_hash_is_kept_until_a_file_changes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = 0

    def counted(root: Path, backend: str = "cpu") -> str:
        nonlocal times
        times += 1
        return code_hash(root, backend)

    monkeypatch.setattr(identity, "ROOT", tree)
    monkeypatch.setattr(identity, "__file__", str(tree / "metrics/scoring/identity.py"))
    monkeypatch.setattr(identity, "code_hash", counted)

    def in_a_new_process() -> str:
        scoring_code.cache_clear()
        return scoring_code()

    try:
        first = in_a_new_process()
        assert in_a_new_process() == first and times == 1
        replace(tree / "metrics/scoring/score.py", "SHOWN_POINTS = 40_000", "SHOWN_POINTS = 40_001")
        assert in_a_new_process() != first and times == 2
        for path in (tree / "metrics/scoring/__pycache__").iterdir():
            path.write_text("{")
        assert in_a_new_process() != first and times == 3
    finally:
        scoring_code.cache_clear()


def test_nothing_that_scores_is_compiled_with_fastmath() -> None:
    """Its last digits change with the process that compiles, and with the processor."""
    compiled = [path for path in (ROOT / "metrics").rglob("*.py") if "njit" in path.read_text()]
    assert len(compiled) > 5
    assert [path.name for path in compiled if "fastmath=" in path.read_text()] == []
