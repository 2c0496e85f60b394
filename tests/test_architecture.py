"""The rooms of the house, and what each may import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "metrics": {"adapters.contract"},
    "data": {"adapters.contract", "adapters.stereo", "adapters.sfm", "metrics"},
    "reports": {"adapters.contract"},
    "bench": {"adapters", "metrics", "data", "reports"},
}
LEAVES = ("contract", "stereo", "sfm", "worker")
# What adapters may share.
SHARED = ("stereo", "sfm", "resize", "pairs", "pointmaps", "checkpoint", "precision", "torchvision")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("adapters", "bench", "data", "metrics", "reports", cache_dir=None)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_floors_below(graph: grimp.ImportGraph, room: str) -> None:
    allowed = {room, *ROOMS[room]}
    for module in (m for m in graph.modules if _within(m, room)):
        for imported in graph.find_modules_directly_imported_by(module):
            if imported == "adapters":  # the empty package itself
                continue
            assert any(_within(imported, package) for package in allowed), f"{module} imports {imported}"


def test_contract_and_stereo_import_nothing_of_ours(graph: grimp.ImportGraph) -> None:
    for leaf in ("adapters.contract", "adapters.stereo"):
        for module in (m for m in graph.modules if _within(m, leaf)):
            for imported in graph.find_modules_directly_imported_by(module):
                assert _within(imported, leaf), f"{module} imports {imported}"


def test_adapters_know_the_contract_and_the_leaves_alone(graph: grimp.ImportGraph) -> None:
    systems = [path.parent.name for path in sorted((ROOT / "adapters").glob("*/adapter.toml"))]
    assert {"colmap", "visual_hull", "oracle", "noisy_oracle"} <= set(systems)
    for system in systems:
        own = f"adapters.{system}"
        for module in (m for m in graph.modules if _within(m, own)):
            for imported in graph.find_modules_directly_imported_by(module):
                known = [own, "adapters.contract", *(f"adapters.{leaf}" for leaf in SHARED)]
                assert any(_within(imported, package) for package in known), f"{module} imports {imported}"


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("contract", set()),
        ("worker", set()),
        ("pointmaps", set()),
        ("resize", {"PIL"}),
        ("pairs", {"torch"}),
        ("checkpoint", {"torch", "safetensors"}),
        ("precision", {"torch"}),
        ("torchvision", {"torch"}),
    ],
)
def test_what_runs_in_old_environments_needs_little_and_parses_as_python_3_9(name: str, needs: set[str]) -> None:
    tree = ast.parse((ROOT / "adapters" / f"{name}.py").read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            top = module.split(".")[0]
            assert top in {*sys.stdlib_module_names, "numpy", "adapters", *needs}, f"{name}.py imports {module}"


def test_every_folder_of_adapters_is_a_leaf_or_has_the_two_files() -> None:
    for folder in (p for p in (ROOT / "adapters").iterdir() if p.is_dir() and p.name not in (*LEAVES, "__pycache__")):
        assert (folder / "adapter.toml").is_file(), folder
        assert (folder / "adapter.py").is_file(), folder
