"""What a score is computed by: one hash over the code that `score` reaches, so that no version is kept by hand.

Followed are the definitions that scoring uses, one after the other, through the metrics room and the contract:
functions and classes, constants, and which name an import brings. Hashed is their syntax tree without docstrings;
comments, formatting, and definitions that scoring never reaches change nothing. A backend is a package of kernels
beside `metrics.kernels.cpu`, and a named part of the hash: other kernels add up in another order or precision, and so
give other digits."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENTRIES = (
    ("metrics.scoring.score", "score"),
    ("metrics.scoring.prepared", "PreparedTruth"),
    ("metrics.scoring.protocol", "metric_table"),
)
KERNELS = "metrics.kernels"
CPU = "cpu"  # the backend that every other one may fall back to

Wanted = tuple[str, str]  # module, name; the name "" is the whole module


@functools.cache
def scoring_code(backend: str = CPU) -> str:
    """16 hex digits over the code that scores on `backend`, once a process; kept on disk, beside the compiled kernels,
    for as long as no file that it may reach changes its size or time."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _sources(ROOT)]
    key = hashlib.sha256(json.dumps([backend, stats]).encode()).hexdigest()
    cache = Path(importlib.util.cache_from_source(__file__)).with_name(f"scoring-{backend}.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(cache.read_text())
        if kept["key"] == key:
            return str(kept["code"])
    code = code_hash(ROOT, backend)
    with contextlib.suppress(OSError):  # a read-only installation computes it once a process
        cache.parent.mkdir(exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"key": key, "code": code}))
        temporary.replace(cache)
    return code


def _sources(root: Path) -> list[Path]:
    return [root / "adapters" / "contract.py", *sorted((root / "metrics").rglob("*.py"))]


def code_hash(root: Path, backend: str = CPU) -> str:
    """16 hex digits over what `ENTRIES` reach in the tree at `root`, for `backend`. ValueError where an entry is not
    there."""
    modules: dict[str, _Module] = {}
    for path in _sources(root):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = _Module(name, path)
    others = _other_backends(root, backend)
    visited: set[Wanted] = set()
    statements: dict[int, str] = {}  # of a statement that was reached -> its digest
    bindings: set[str] = set()
    waiting: list[Wanted] = list(ENTRIES)
    while waiting:
        wanted = waiting.pop()
        if wanted in visited or f"{wanted[0]}.".startswith(others):
            continue
        visited.add(wanted)
        module, name = modules[wanted[0]], wanted[1]
        if wanted in ENTRIES and name not in module.binds:
            raise ValueError(f"{module.path}: no {name} seen, which scoring starts from")
        for bound in module.binds if name == "" else [name]:
            for target in module.imports(modules).get(bound, ()):
                bindings.add(f"{module.name}: {bound} is {' '.join(target)}")
                waiting.append(target)
            for statement in (*module.binds.get(bound, ()), *module.loose):
                if id(statement) not in statements and not isinstance(statement, ast.Import | ast.ImportFrom):
                    statements[id(statement)] = _digest(statement)
                    waiting += _uses(statement, module, modules)
    digests = "\n".join([backend, *sorted(bindings), *sorted(statements.values())])
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def _other_backends(root: Path, backend: str) -> tuple[str, ...]:
    """How the names of modules begin that are kernels of backends which `backend` does not run."""
    folder = root / KERNELS.replace(".", "/")
    names = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    return tuple(f"{KERNELS}.{name}." for name in names if name not in (CPU, backend))


class _Module:
    """A module's top-level statements: those that bind names, and those that bind none but act."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self._imports: dict[str, list[Wanted]] | None = None

    @functools.cached_property
    def binds(self) -> dict[str, list[ast.stmt]]:
        """Name -> the statements that bind it."""
        out: dict[str, list[ast.stmt]] = {}
        for statement in self._statements:
            for name in _bound(statement):
                out.setdefault(name, []).append(statement)
        return out

    @functools.cached_property
    def loose(self) -> list[ast.stmt]:
        """What runs at import and binds nothing, such as registering something."""
        return [statement for statement in self._statements if not _bound(statement) and not _idle(statement)]

    def imports(self, modules: dict[str, _Module]) -> dict[str, list[Wanted]]:
        """Local name -> what it stands for, of the names that come from the rooms followed."""
        if self._imports is None:
            self._imports = {}
            for statement in self._statements:
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    for local, target in _imported(statement, modules):
                        self._imports.setdefault(local, []).append(target)
        return self._imports

    @functools.cached_property
    def _statements(self) -> list[ast.stmt]:
        return ast.parse(self.path.read_bytes(), str(self.path)).body


def _idle(statement: ast.stmt) -> bool:
    """Docstrings, what only type checkers read, imports (which bind), and assertions of nothing."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return True
    if isinstance(statement, ast.If) and isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING":
        return True
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement binds, but dunder ones."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            names = [statement.name]
        case ast.Import() | ast.ImportFrom():
            names = [(alias.asname or alias.name).split(".")[0] for alias in statement.names]
        case ast.Assign():
            names = [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.AnnAssign() | ast.AugAssign():
            names = [node.id for node in ast.walk(statement.target) if isinstance(node, ast.Name)]
        case _:
            names = []
    return names


def _imported(statement: ast.Import | ast.ImportFrom, modules: dict[str, _Module]) -> Iterator[tuple[str, Wanted]]:
    """Local name and what it stands for, of all that `statement` brings from the rooms followed."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.name in modules:
                yield (alias.asname or alias.name).split(".")[0], (alias.name, "")
        return
    for alias in statement.names:
        whole = f"{statement.module}.{alias.name}"
        local = alias.asname or alias.name
        if statement.module in modules and alias.name in modules[statement.module].binds:
            yield local, (statement.module, alias.name)
        elif whole in modules:
            yield local, (whole, "")


def _uses(statement: ast.stmt, module: _Module, modules: dict[str, _Module]) -> Iterable[Wanted]:
    """What `statement` refers to: names of its own module, attributes of modules, and what it imports itself."""
    out: list[Wanted] = []
    imports = module.imports(modules)
    spelled: set[int] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            for target, name in imports.get(node.value.id, ()):
                if not name:
                    out.append((target, node.attr))
                    spelled.add(id(node.value))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            out += [target for _, target in _imported(node, modules)]
        elif isinstance(node, ast.Name) and id(node) not in spelled and node.id in module.binds:
            out.append((module.name, node.id))
    return out


def _digest(statement: ast.stmt) -> str:
    digest = hashlib.sha256()
    for part in _canonical(statement):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _canonical(node: ast.AST) -> Iterator[str]:
    """A syntax tree as text, the same whatever Python's version: empty fields, which versions add, are left out."""
    yield type(node).__name__
    for field in node._fields:
        value = getattr(node, field, None)
        if field == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            value = node.body[ast.get_docstring(node, clean=False) is not None :]
        if value is None or value == [] or field in ("kind", "type_comment", "ctx"):
            continue
        yield f"<{field}"
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, ast.AST):
                yield from _canonical(entry)
            else:
                yield repr(entry)
        yield ">"
