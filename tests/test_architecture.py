"""The rooms of the house, and what each may import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("adapters", "bench", "data", "metrics", "reports")
# What each room, or part of a room, may import beside itself. A module belongs to the longest name that fits.
MAY_IMPORT = {
    "adapters.contract": set[str](),
    "adapters.worker": {"adapters.contract"},
    "adapters.shared": {"adapters.contract"},
    "adapters.shared.stereo": set(),
    "adapters.systems": {"adapters.contract", "adapters.shared"},
    "metrics": {"adapters.contract"},
    "metrics.kernels": {"adapters.contract"},
    "data": {
        "adapters.contract",
        "adapters.shared.stereo",
        "adapters.shared.sfm",
        "adapters.shared.surface",
        "metrics",
    },
    "reports": {"adapters.contract"},
    "bench": {"adapters", "metrics", "data", "reports"},
}
# The floors inside a room, from the ground up: a module imports its own floor and those below.
FLOORS = {
    "metrics": (
        ("metrics", "metrics.kernels", "metrics.register"),
        ("metrics.scoring",),
    ),
    "bench": (
        ("bench", "bench.arrays", "bench.files"),
        ("bench.systems",),
        ("bench.trials",),
        ("bench.scoring",),
        ("bench.engines",),
        ("bench.gate",),
        ("bench.cli",),
        ("bench.training",),  # nothing imports it
    ),
}
# Third-party packages of shared modules that run in a system's own, perhaps old, environment.
NEEDS_OF_SHARED = {
    "absent": set[str](),
    "checkpoint": {"torch", "safetensors", "omegaconf"},
    "geolrm": {"src", "torch", "transformers"},
    "geolrm_standins": {"torch", "transformers"},
    "local_points": set[str](),
    "network": {"torch"},
    "objects": {"PIL", "rembg"},
    "pairs": {"torch"},
    "pi3": {"torch"},
    "pointmaps": set[str](),
    "resize": {"PIL"},
    "stable_diffusion": {"torch"},
    "surface": {"point_cloud_utils"},
    "torchvision": {"torch"},
}
# Shared modules that need Reconbench's own environment.
OF_THE_CORE = ("functional", "latent", "mvs", "sfm", "stereo")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS, cache_dir=None)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _longest(module: str, names: tuple[str, ...]) -> str | None:
    return max((name for name in names if _within(module, name)), key=len, default=None)


def _imports(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    return sorted((module, imported) for module in graph.modules for imported in _of(graph, module))


def _of(graph: grimp.ImportGraph, module: str) -> set[str]:
    return graph.find_modules_directly_imported_by(module)


def test_a_room_imports_only_what_it_may(graph: grimp.ImportGraph) -> None:
    wrong = []
    for module, imported in _imports(graph):
        part = _longest(module, tuple(MAY_IMPORT))
        if part is None or imported in ("adapters", "adapters.shared", "adapters.systems"):  # packages without code
            continue
        room = module.split(".")[0]
        own = {part} if room == "adapters" or part == "metrics.kernels" else {room}
        if not any(_within(imported, package) for package in own | MAY_IMPORT[part]):
            wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", FLOORS)
def test_a_floor_imports_only_the_floors_below(graph: grimp.ImportGraph, room: str) -> None:
    floors = {name: level for level, names in enumerate(FLOORS[room]) for name in names}
    wrong = []
    for module, imported in _imports(graph):
        if not (_within(module, room) and _within(imported, room)):
            continue
        here, there = _longest(module, tuple(floors)), _longest(imported, tuple(floors))
        assert here is not None and there is not None
        if floors[there] > floors[here]:
            wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_imported_in_a_circle(graph: grimp.ImportGraph) -> None:
    state: dict[str, int] = {}  # 1: on the way, 2: done

    def visit(module: str, way: tuple[str, ...]) -> None:
        state[module] = 1
        for imported in sorted(_of(graph, module)):
            assert state.get(imported) != 1, " -> ".join((*way, module, imported))
            if imported not in state:
                visit(imported, (*way, module))
        state[module] = 2

    for module in sorted(graph.modules):
        if module not in state:
            visit(module, ())


def test_a_system_knows_the_contract_the_shared_modules_and_itself(graph: grimp.ImportGraph) -> None:
    for module, imported in _imports(graph):
        if _within(module, "adapters.systems") and _within(imported, "adapters.systems"):
            assert imported.split(".")[:3] == module.split(".")[:3], f"{module} imports {imported}"


def test_the_notebook_s_module_stands_above_every_room() -> None:
    names = {path.stem for path in ROOT.glob("*.py")}
    assert names == {"reconbench"}, "the one module at the root"
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert "reconbench" not in modules, path


def test_every_folder_of_systems_has_the_two_files_or_a_card_that_says_why_not() -> None:
    folders = [p for p in (ROOT / "adapters" / "systems").iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert len(folders) > 10
    for folder in folders:
        assert (folder / "adapter.toml").is_file(), folder
        assert (folder / "adapter.py").is_file() or "\nunavailable = " in (folder / "adapter.toml").read_text(), folder


def test_what_runs_in_old_environments_needs_little_and_parses_as_python_3_9() -> None:
    room = ROOT / "adapters"
    shared = {path.stem for path in (room / "shared").iterdir() if not path.name.startswith("__")}
    assert shared == {*NEEDS_OF_SHARED, *OF_THE_CORE}
    files = {room / "contract.py": set[str](), room / "worker.py": set[str]()}
    files |= {room / "shared" / f"{name}.py": needs for name, needs in NEEDS_OF_SHARED.items()}
    for file, needs in files.items():
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                top = module.split(".")[0]
                assert top in {*sys.stdlib_module_names, "numpy", "adapters", *needs}, f"{file.name} imports {module}"
