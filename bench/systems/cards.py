"""Adapter cards and the registry: what systems exist, listed without importing any of them."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

import adapters
from adapters.contract import InputError

ENTRY_POINT_GROUP = "reconbench.adapters"
ADAPTERS = Path(adapters.__file__).parent  # the room: contract, worker, shared modules, systems
SYSTEMS = ADAPTERS / "systems"
ALWAYS_STAGED = ("__init__.py", "contract.py", "worker.py", "shared/__init__.py", "systems/__init__.py")
Given = Literal["masks", "cameras", "targets", "truth"]  # what a trial may give beside images
Options = dict[str, str | int | float | bool]  # of an adapter, by name


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a system's own code lives."""

    url: str
    commit: str = ""


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Published weights: files of a hub repository at a revision, or below a url."""

    hub: str = ""  # ORG/NAME
    revision: str = ""  # a commit; else the hub's main branch
    url: str = ""  # of the one file, or of the folder that holds them
    sha256: dict[str, str] = {}  # of each file; "" where its hash is not known: what comes first is believed
    # Networks beside this one, from other sources, each by the folder that its files are laid into.
    beside: dict[str, Weights] = {}

    @property
    def sources(self) -> dict[str, Weights]:
        """Every source by the folder of its files below the one that `load` is given: "" is this one's own."""
        return {"": self, **self.beside}

    @property
    def where(self) -> str:
        """The source in words."""
        return self.url or f"{self.hub} on the hub, revision {self.revision or 'main'}"

    @property
    def files(self) -> dict[str, str]:
        """sha256 of each file by its name; a card that lists none means the file that the hub's own library writes."""
        return self.sha256 or {self.url.rpartition("/")[2] or "model.safetensors": ""}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repository that pip cannot install: folders of its tree are put on the worker's import path."""

    url: str
    commit: str
    path: tuple[str, ...] = ("",)  # folders below the tree; "" is the tree itself
    only: tuple[str, ...] = ()  # its files and folders that are needed, the rest is not fetched; none: all


def tree_name(url: str) -> str:
    """The folder that a repository's tree lies in: the last word of its address."""
    return url.rstrip("/").rpartition("/")[2].removesuffix(".git")


class EnvironmentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the adapter's own environment holds; nothing requested means Reconbench's own environment serves."""

    python: str = ">=3.9"  # versions that may serve, as PEP 440 specifies them
    requirements: list[str] = []  # PEP 508, pinned; `NAME @ git+URL@COMMIT` for a repository that pip can install
    sources: list[Source] = []
    build: list[str] = []  # shell commands, run in the folder that holds a tree for each source

    @property
    def own(self) -> bool:
        """Whether the adapter needs an environment of its own."""
        return bool(self.requirements or self.sources or self.build)


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`adapter.toml`: what a reconstructor is, takes and gives."""

    name: str
    title: str
    description: str = ""
    paper: str = ""
    upstream: Upstream | None = None
    licence_code: str
    licence_weights: str = ""
    weights: Weights | None = None
    environment: EnvironmentSpec = msgspec.field(default_factory=EnvironmentSpec)
    accepts: list[Given] = []  # what it can use beside images
    requires: list[Given] = []  # what it cannot do without
    unavailable: str = ""  # one sentence: why it cannot run on this platform, where the card is all there is of it
    scope: Literal["scene", "object"]  # what its output covers
    min_views: int = 1
    max_views: int | None = None
    resize: str = "none"  # how images are brought to the network's size
    parameters: int = 0
    kin: list[str] = []  # makers of ground truth it shares method or code with
    training: list[str] = []  # datasets it was trained on, for contamination flags
    deterministic: bool = True  # same input and seed, same output to the last bit
    stochastic: bool = False  # another seed, another sample: a cell holds several
    reference: bool = False  # given the truth, or a test object: shown, never ranked
    streams: bool = False  # takes the views in their order, and answers while they come: see `Reconstructor.stream`
    estimate_seconds: tuple[float, float] = (1.0, 0.0)  # rough a + b * views on two cores, to plan with

    def check(self, where: Path) -> None:
        """Raise InputError where fields contradict each other."""
        check_name(self.name, str(where))
        if missing := [given for given in self.requires if given not in self.accepts]:
            raise InputError(f"{where}: requires {', '.join(missing)}, which accepts does not list")
        if "targets" in self.accepts and "cameras" not in self.requires:
            raise InputError(f"{where}: accepts targets, which are cameras in a given world: it must require cameras")
        if "truth" in self.accepts and not self.reference:
            raise InputError(f"{where}: accepts truth, so reference = true is wanted")
        if self.unavailable and (self.environment.own or self.weights is not None):
            raise InputError(f"{where}: unavailable, so neither an environment nor weights are wanted")
        self._check_environment(where)
        self._check_weights(where)
        if self.min_views < 1 or (self.max_views is not None and self.max_views < self.min_views):
            raise InputError(
                f"{where}: min_views {self.min_views}, max_views {self.max_views} seen, 1 <= min <= max wanted"
            )

    def _check_environment(self, where: Path) -> None:
        spec = self.environment
        try:
            SpecifierSet(spec.python)
        except InvalidSpecifier as error:
            raise InputError(f"{where}: python {spec.python!r} seen, versions such as '>=3.10' wanted") from error
        for text in spec.requirements:
            try:
                url = Requirement(text).url or ""
            except InvalidRequirement as error:
                raise InputError(f"{where}: requirement {text!r} seen, one as PEP 508 writes it wanted") from error
            if url.startswith("git+") and not re.search(r"@[0-9a-f]{40}(#.*)?$", url):
                raise InputError(f"{where}: requirement {text!r} seen, git+URL@COMMIT with 40 hex digits wanted")
        for source in spec.sources:
            if not re.fullmatch(r"[0-9a-f]{40}", source.commit):
                raise InputError(f"{where}: source {source.url} at commit {source.commit!r} seen, 40 hex digits wanted")
        if len({tree_name(source.url) for source in spec.sources}) < len(spec.sources):
            raise InputError(f"{where}: two sources of one name seen, distinct names wanted")

    def _check_weights(self, where: Path) -> None:
        for folder, source in (self.weights.sources if self.weights is not None else {}).items():
            weights = f"weights.beside.{folder}" if folder else "weights"
            if folder and (source.beside or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", folder)):
                raise InputError(f"{where}: {weights} seen, a lower-case word with no sources beside it wanted")
            if bool(source.hub) == bool(source.url):
                raise InputError(f"{where}: {weights} with a hub id or a url wanted, one of them")
            if source.url and not re.match("(https?|file)://", source.url):
                raise InputError(f"{where}: {weights} url {source.url!r} seen, https://... wanted")
            for name, digest in source.files.items():
                if not re.fullmatch(r"[0-9a-f]{64}|", digest):
                    raise InputError(f"{where}: sha256 {digest!r} of {name} seen, 64 hex digits wanted")
                if name.startswith("/") or ".." in Path(name).parts:
                    raise InputError(f"{where}: weights file {name!r} seen, a name below the repository wanted")


def check_name(name: str, where: str) -> None:
    """Raise InputError unless `name` can be an adapter's."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise InputError(f"{where}: name {name!r} seen, lower-case words joined by '-' wanted")


@dataclass(frozen=True)
class Adapter:
    """A registered adapter: a folder with `adapter.toml` and `adapter.py`, or the card alone of one that is
    unavailable."""

    name: str
    folder: Path
    origin: str  # "built-in", "plugin NAME VERSION" or "folder"

    @cached_property
    def card(self) -> Card:
        """The parsed card; InputError naming the file and field where it is malformed."""
        return read_card(self.folder / "adapter.toml")

    @cached_property
    def files(self) -> dict[str, Path]:
        """All of our code and its own that a worker is given, by path below a staged `adapters/`: contract and worker,
        the adapter's folder whole, and the shared modules that these import. InputError where one is not Python."""
        return _staged_files(self.folder, self.staged_at)

    @cached_property
    def content(self) -> dict[str, bytes]:
        """The bytes of `files`, read once: what is hashed is what is staged, whoever edits a file meanwhile."""
        return {name: path.read_bytes() for name, path in self.files.items()}

    @property
    def hash(self) -> str:
        """16 hex digits over `content`."""
        return content_digest(self.content)[:16]

    @cached_property
    def imports(self) -> frozenset[str]:
        """Top-level names of the packages that `files` import, lazily too, our own left out: those of them that are
        installed are what an adapter depends on."""
        python = [(name, path) for name, path in self.files.items() if path.suffix == ".py"]
        modules = {module.partition(".")[0] for name, path in python for module in _imports(path, name)}
        return frozenset(modules - {"adapters"})

    @property
    def argument(self) -> str:
        """What the command line calls it."""
        return str(self.folder) if self.origin == "folder" else self.name

    @property
    def module(self) -> str:
        """Dotted name of the adapter's module inside a staged tree."""
        return f"adapters.{self.staged_at.as_posix().replace('/', '.')}.adapter"

    @property
    def staged_at(self) -> Path:
        """Where its folder lies in a staged copy of `adapters/`: what is not ours lies apart, under the adapter's own
        name, so that a folder called `stereo` or `shared` takes no module's place."""
        if self.folder.is_relative_to(SYSTEMS):
            return Path("systems", self.folder.name)
        return Path("third_party", self.name.replace("-", "_"))


def option_value(text: str) -> str | int | float | bool:
    """The value that `text` stands for: a JSON number, boolean or quoted text, True or False; else the text itself."""
    if text in ("True", "False"):
        return text == "True"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (bool, int, float, str)) else text


def option_text(value: str | int | float | bool) -> str:
    """The shortest text that `option_value` reads as `value`."""
    return value if isinstance(value, str) and option_value(value) == value else json.dumps(value)


def list_text(parts: Iterable[str]) -> str:
    """`parts` joined by commas, as `list_values` reads them."""
    plain = re.compile(r'[^\s",]([^",]*[^\s",])?')
    return ",".join(part if plain.fullmatch(part) else '"{}"'.format(part.replace('"', '""')) for part in parts)


def list_values(text: str) -> list[str]:
    """The comma-separated parts of `text`, empty ones left out; one in double quotes may hold commas, spaces about it
    and quotes, each written twice."""
    parts = re.finditer(r'\s*(?:"((?:[^"]|"")*)"\s*(?=,|$)|([^,]*))(?:,|$)', text)
    read = (part[2].strip() if part[1] is None else part[1].replace('""', '"') for part in parts)
    return [part for part in read if part]


def content_digest(content: Mapping[str, bytes]) -> str:
    """sha256 over names and bytes of files, whatever their order."""
    digest = hashlib.sha256()
    for name, body in sorted(content.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(body).digest())
    return digest.hexdigest()


def read_card(path: Path) -> Card:
    """Parse and check one `adapter.toml`."""
    try:
        card = msgspec.toml.decode(path.read_bytes(), type=Card)
    except OSError as error:
        raise InputError(f"{path}: no adapter.toml seen, a folder with one wanted") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    card.check(path)
    return card


def find_adapters() -> dict[str, Adapter]:
    """Every built-in and plugin adapter by name, built-ins first; nothing is imported. A plugin whose card cannot be
    read is left out: see `broken_plugins`."""
    registry: dict[str, Adapter] = {}
    for file in sorted(SYSTEMS.glob("*/adapter.toml")):
        name = file.parent.name.replace("_", "-")
        registry[name] = Adapter(name, file.parent, "built-in")
    for plugin in _plugins():
        if isinstance(plugin, Adapter):
            registry.setdefault(plugin.name, plugin)
    return registry


def broken_plugins() -> list[str]:
    """A sentence on each registered plugin that is no adapter, or bears a built-in's name."""
    taken = {file.parent.name.replace("_", "-") for file in SYSTEMS.glob("*/adapter.toml")}
    return [
        plugin if isinstance(plugin, str) else f"{plugin.origin}: {plugin.name}: a built-in adapter is called so"
        for plugin in _plugins()
        if isinstance(plugin, str) or plugin.name in taken
    ]


def _plugins() -> Iterator[Adapter | str]:
    """Every registered plugin, or why it is none."""
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        origin = f"plugin {point.dist.name} {point.dist.version}" if point.dist else "plugin"
        try:
            folder = _package_folder(point.value)
            if folder is None:
                raise InputError(f"{point.value}: no package with an adapter.toml seen")
            adapter = Adapter(point.name, folder, origin)
            if adapter.card.name != point.name:
                raise InputError(f"{folder / 'adapter.toml'}: name {adapter.card.name!r} seen, {point.name!r} wanted")
            yield adapter
        except (InputError, ImportError, ValueError) as error:
            yield f"{origin}: {point.name}: {error}"


def get_adapter(name: str) -> Adapter:
    """The adapter called `name`, or in the folder `name`; InputError with the nearest names otherwise."""
    if "/" in name or (Path(name) / "adapter.toml").is_file():
        folder = Path(name).resolve()
        return Adapter(read_card(folder / "adapter.toml").name, folder, "folder")
    registry = find_adapters()
    if name in registry:
        return registry[name]
    matches = difflib.get_close_matches(name, registry, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(matches)}?" if matches else f"known: {', '.join(registry)}"
    raise InputError(f"adapter {name!r} is not known; {hint}")


def _package_folder(dotted: str) -> Path | None:
    """Folder of package `dotted` from its top-level spec, which imports nothing."""
    top, *rest = dotted.split(":")[0].split(".")
    spec = importlib.util.find_spec(top)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location, *rest)
        if (folder / "adapter.toml").is_file():
            return folder
    return None


def _staged_files(folder: Path, staged_at: Path) -> dict[str, Path]:
    """Every file that a worker of the adapter in `folder` is given, sorted by its path below `adapters/`."""
    staged = {name: ADAPTERS / name for name in ALWAYS_STAGED if (ADAPTERS / name).is_file()}
    staged |= _files_below(folder, staged_at)
    queue = list(staged)
    while queue:
        name = queue.pop()
        if not name.endswith(".py"):
            continue
        for module in _imports(staged[name], name):
            match = re.match(r"adapters\.shared\.(\w+)", module)
            if match is None:
                continue
            below = Path("shared", match[1])
            shared = _files_below(ADAPTERS / below, below)
            if (ADAPTERS / below.with_suffix(".py")).is_file():
                shared[f"{below}.py"] = ADAPTERS / below.with_suffix(".py")
            queue += [new for new in shared if new not in staged]
            staged |= shared
    return dict(sorted(staged.items()))


def _files_below(folder: Path, staged_at: Path) -> dict[str, Path]:
    """The files of `folder`, but for byte code, tests and what is hidden, by their path once it is staged."""
    paths = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
    return {
        (staged_at / relative).as_posix(): path
        for relative, path in paths
        if not any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        and not re.fullmatch(r"test_\w+\.py", relative.name)
    }


def _imports(path: Path, staged: str) -> Iterator[str]:
    """Dotted names of the modules that a file staged below `adapters/` imports, or names in a text; with their parents'
    names before them where the import is a relative one."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid Python ({error})") from error
    package = ("adapters", *Path(staged).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join((*above, *filter(None, [node.module]), alias.name)) for alias in node.names)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("adapters.shared.")
        ):
            yield node.value
