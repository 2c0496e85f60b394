"""Mutations of the adapters' code, one at a time, each of which the recorded runs must refuse.

`python -m tests.adapters.mutate [SYSTEM ...]` prints those that survive. A mutation is a change of one place in one
function of its adapter, or of what it shares with a few others: a number, an operator, a comparison, a word, the order
of two arguments, a keyword left out, a transposition or a statement dropped. Functions are those that a prediction
runs through. Building and loading the network, and what stands in for upstream's parts, are not among them: they are
proven with upstream's code, which they call.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import io
import resource
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.adapters.runs import RUNS

MOST_MEMORY = 8 << 30
MOST_SECONDS = 15  # of the processor, for one mutation: a loop may never end
STEPS = ("prepare", "infer", "stream", "finish", "execution")  # of a prediction
MORE = {"pi3x": ("load",)}  # which lets a part of the network go
# Modules below adapters/shared that hold what is a few systems' own, each before those that import it.
SHARED = {
    **dict.fromkeys(("pi3", "pi3x"), ("local_points", "pi3")),
    **dict.fromkeys(("geolrm", "geolrm-one-view"), ("geolrm",)),
}
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.GtE,
    ast.Gt: ast.LtE,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.LtE: ast.Gt,
    ast.GtE: ast.Lt,
    ast.BitAnd: ast.BitOr,
    ast.Mod: ast.Mult,
}


def places(function: ast.AST) -> Iterator[tuple[ast.AST, str, Callable[[ast.AST], ast.AST | None]]]:
    """Nodes of `function`, what is done to each, and the doing: a changed copy, or None to drop a statement."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(function)
        if isinstance(node, ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
    }
    words = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    raised = {id(part) for node in ast.walk(function) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    for node in ast.walk(function):
        if id(node) in raised or id(node) in docstrings:
            continue
        yield from ((node, what, change) for what, change in changes(node, words))


def changes(node: ast.AST, words: list[str]) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST | None]]]:
    """What can be done to one node."""
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield f"{value} negated", lambda n: ast.Constant(not value)
        elif isinstance(value, int | float):
            other = value + 1 if isinstance(value, int) else value * 1.5 or 1.0
            yield f"{value} -> {other}", lambda n: ast.Constant(other)
        elif isinstance(value, str) and (rest := [word for word in words if word != value]):
            yield f"{value!r} -> {rest[0]!r}", lambda n: ast.Constant(rest[0])
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        operator = SWAPPED[type(node.op)]()
        yield f"{type(node.op).__name__} -> {type(operator).__name__}", lambda n: _with(n, op=operator)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield "factors exchanged", lambda n: _with(n, left=node.right, right=node.left)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield "comparison turned", lambda n: _with(n, ops=[SWAPPED[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.UnaryOp):
        yield f"{type(node.op).__name__} dropped", lambda n: node.operand
    if isinstance(node, ast.IfExp):
        yield "branches exchanged", lambda n: _with(n, body=node.orelse, orelse=node.body)
    if isinstance(node, ast.If):
        yield "condition negated", lambda n: _with(n, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Attribute) and node.attr == "T":
        yield "transposition dropped", lambda n: node.value
    if isinstance(node, ast.Call):
        if len(node.args) > 1 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
            yield "arguments exchanged", lambda n: _with(n, args=[node.args[1], node.args[0], *node.args[2:]])
        for keyword in node.keywords:
            rest_of = [other for other in node.keywords if other is not keyword]
            yield f"{keyword.arg}= dropped", lambda n, rest_of=rest_of: _with(n, keywords=rest_of)
    if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load) and len(node.elts) > 1:
        yield "members exchanged", lambda n: _with(n, elts=[node.elts[1], node.elts[0], *node.elts[2:]])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "statement dropped", lambda n: ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield "statement dropped", lambda n: ast.Pass()
    if isinstance(node, ast.With) and len(node.items) == 1 and node.items[0].optional_vars is None:
        yield "context dropped", lambda n: ast.If(ast.Constant(True), node.body, [])


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


class _Replace(ast.NodeTransformer):
    def __init__(self, target: ast.AST, change: Callable[[ast.AST], ast.AST | None]) -> None:
        self.target, self.change = target, change

    def visit(self, node: ast.AST) -> ast.AST | None:
        return self.change(node) if node is self.target else self.generic_visit(node)


Key = tuple[type[ast.AST], str]  # of a function: what calls it, and its name


def functions_of(tree: ast.Module) -> Iterator[tuple[Key, ast.FunctionDef]]:
    """A module's functions, which names call, and its classes' methods, which attributes do."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield (ast.Name, node.name), node
        elif isinstance(node, ast.ClassDef):
            yield from (
                ((ast.Attribute, inner.name), inner) for inner in node.body if isinstance(inner, ast.FunctionDef)
            )


def reached(trees: Iterable[ast.Module], methods: Iterable[str]) -> set[Key]:
    """The functions of `trees` that `methods` are, call or hand on, as far as names tell."""
    known: dict[Key, list[ast.FunctionDef]] = {}
    for key, function in (pair for tree in trees for pair in functions_of(tree)):
        known.setdefault(key, []).append(function)
    queue: list[Key] = [(ast.Attribute, name) for name in methods]
    result: set[Key] = set()
    while queue:
        key = queue.pop()
        if key in result or key not in known:
            continue
        result.add(key)
        for node in (node for function in known[key] for node in ast.walk(function)):
            if isinstance(node, ast.Attribute):
                queue.append((ast.Attribute, node.attr))
            elif isinstance(node, ast.Name):
                queue.append((ast.Name, node.id))
    return result


def mutants(path: Path, wanted: set[Key]) -> Iterator[tuple[str, ast.Module]]:
    """Every mutation of the functions `wanted` of the module at `path`: what it is, and the tree."""
    source = path.read_text()
    tree = ast.parse(source)
    for function in [function for key, function in functions_of(tree) if key in wanted]:
        typed = [node for node in ast.walk(function) if isinstance(node, ast.arg)]
        typed += [node.returns for node in ast.walk(function) if isinstance(node, ast.FunctionDef) and node.returns]
        annotations = {id(part) for node in typed for part in ast.walk(node)}
        for node, what, change in places(function):
            if id(node) in annotations:
                continue
            mutated = _copied(tree, node, change)
            line = getattr(node, "lineno", function.lineno)
            yield f"{function.name}:{line}: {what}: {source.splitlines()[line - 1].strip()}", mutated


def _copied(tree: ast.Module, target: ast.AST, change: Callable[[ast.AST], ast.AST | None]) -> ast.Module:
    """`tree` with one node changed; `tree` itself is left as it is."""
    nodes = list(ast.walk(tree))
    twin = copy.deepcopy(tree)
    same = dict(zip(map(id, nodes), ast.walk(twin), strict=True))
    copied = same[id(target)]

    def changed(_: ast.AST) -> ast.AST | None:
        return change(target)

    return ast.fix_missing_locations(_Replace(copied, changed).visit(twin))


def modules_of(system: str) -> dict[str, Path]:
    """Files of the modules that are mutated for `system`, by name: what it shares, then its adapter."""
    names = [f"adapters.shared.{shared}" for shared in SHARED.get(system, ())]
    names.append(f"adapters.systems.{system.replace('-', '_')}.adapter")
    return {name: Path(str(importlib.import_module(name).__file__)) for name in names}


def survives(system: str, mutated: str, tree: ast.Module) -> bool:
    """Whether every recorded run of `system` passes where `tree` stands in the place of its module `mutated`."""
    files = modules_of(system)
    kept = {name: sys.modules[name] for name in files}
    signal.signal(signal.SIGPROF, _out_of_time)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for name, path in files.items():
                module = types.ModuleType(name)
                module.__file__ = str(path)
                sys.modules[name] = module
                source = tree if name == mutated else ast.parse(path.read_text())
                exec(compile(source, str(path), "exec"), module.__dict__)
            for run in RUNS[system].values():
                run(module)
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - whatever it breaks, it is seen
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.modules.update(kept)
    return True


def _out_of_time(*_: object) -> None:
    raise TimeoutError


def main(asked: list[str]) -> int:
    """Survivors of each system asked for, or of all."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    least = MOST_MEMORY if most == resource.RLIM_INFINITY else min(MOST_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (least, most))  # a mutated size must not take the machine's
    lines, total, alive = [], 0, 0
    for system in asked or list(RUNS):
        files = modules_of(system)
        name, path = next(iter(files.items()))
        assert survives(system, name, ast.parse(path.read_text())), f"{system}: the adapter as it is does not pass"
        trees = [ast.parse(path.read_text()) for path in files.values()]
        wanted = reached(trees, (*STEPS, *MORE.get(system, ())))
        result = [
            (what, survives(system, name, tree)) for name, path in files.items() for what, tree in mutants(path, wanted)
        ]
        left = [what for what, lived in result if lived]
        lines += [f"{system}: {len(result)} mutations, {len(left)} survive", *(f"  {what}" for what in left)]
        total, alive = total + len(result), alive + len(left)
    sys.stdout.write("\n".join([*lines, f"{total} mutations, {alive} survive"]) + "\n")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
