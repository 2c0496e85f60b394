"""Environments: the interpreter that each adapter runs under, installed in the cache or named by the user.

environments/KEY/        what one specification makes; adapters that ask for the same share it
    venv/                by `python -m venv` and pip
    sources/NAME/        the tree of each repository, at its commit
    constraints.txt      the card's pins: every pip below obeys them, so that a torch built for the CPU stays one
    steps                names of the finished steps: an install that was killed goes on after them
    log.txt
    done                 written last; without it nothing is installed
environments/KEY.lock    held while an install runs, by its steps' own processes as well
environments/NAME.json   the interpreter that the user named for the adapter called NAME"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name

from adapters.contract import InputError, Unavailable
from bench.files import cache_dir, write
from bench.systems.cards import Adapter, EnvironmentSpec, tree_name

OLDEST = (3, 9)  # what the contract's syntax needs
LOG_LINES = 15  # of a failed step
_PROBE = """
import importlib.metadata, json, sys
packages = {}
for package in importlib.metadata.distributions():
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id", "")
    modules = (package.read_text("top_level.txt") or "").split()
    if not modules:
        modules = {str(file).split("/")[0].split(".")[0] for file in package.files or ()}
    packages.setdefault(package.metadata["Name"], {
        "version": package.version, "commit": commit, "requires": package.requires or [], "modules": sorted(modules),
    })
print(json.dumps({"version": sys.version, "numbers": sys.version_info[:3], "packages": packages}))
"""


class Package(msgspec.Struct, frozen=True):
    """An installed package."""

    version: str
    commit: str  # where it was installed from a repository
    requires: list[str]  # PEP 508
    modules: list[str]  # top-level names that it brings


class Interpreter(msgspec.Struct, frozen=True):
    """What an interpreter reports about itself."""

    version: str
    numbers: tuple[int, int, int]
    packages: dict[str, Package]  # by name

    def closure(self, imports: Iterable[str], requirements: Iterable[str]) -> list[str]:
        """ "NAME==VERSION COMMIT" of the installed packages that bring one of `imports` or serve one of `requirements`
        (PEP 508), and of those that these require, extras left out; sorted."""
        named = {canonicalize_name(name): package for name, package in self.packages.items()}
        modules = set(imports)
        queue = [name for name, package in named.items() if modules & set(package.modules)]
        queue += [canonicalize_name(Requirement(text).name) for text in requirements]
        closed: set[NormalizedName] = set()
        while queue:
            name = queue.pop()
            if name in named and name not in closed:
                closed.add(name)
                needed = map(Requirement, named[name].requires)
                queue += [canonicalize_name(r.name) for r in needed if "extra" not in str(r.marker or "")]
        return sorted(f"{name}=={named[name].version} {named[name].commit}" for name in closed)


class ChosenInterpreter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The existing interpreter that the user chose for an adapter."""

    python: str


@dataclass(frozen=True)
class Environment:
    """An interpreter that runs an adapter."""

    python: Path
    key: str = ""  # of the specification it was installed from
    imports: frozenset[str] = frozenset()  # what the adapter imports
    requirements: tuple[str, ...] = ()  # what its card asks for, PEP 508

    @property
    def id(self) -> str:
        """12 hex digits over the specification, the interpreter and the packages that the adapter depends on: all of
        an environment that its card made, elsewhere what it imports and what that requires, so that a package which
        was installed beside changes nothing."""
        return _identity(self)


def find(adapter: Adapter) -> Environment:
    """The environment of `adapter`; Unavailable, naming the one command that makes it, where there is none, and where
    the system cannot run on this platform."""
    _refuse_unavailable(adapter, Unavailable)
    command = f"`reconbench adapters install {adapter.argument}`"
    if (file := _choice_file(adapter)).is_file():
        python = Path(msgspec.json.decode(file.read_bytes(), type=ChosenInterpreter).python)
        if not python.is_file():
            raise Unavailable(f"{python}, the interpreter named for it, is gone: {command} makes an environment")
        return Environment(python, "", adapter.imports, tuple(adapter.card.environment.requirements))
    spec = adapter.card.environment
    if not spec.own:
        return Environment(Path(sys.executable), "", adapter.imports)
    folder = _folder(spec)
    if not _installed(folder):
        raise Unavailable(f"it needs an environment of its own: {command} makes it")
    return Environment(folder / "venv" / "bin" / "python", folder.name)


def _refuse_unavailable(adapter: Adapter, error: type[Exception] = InputError) -> None:
    """`error` where the card says that the system cannot run on this platform."""
    if adapter.card.unavailable:
        raise error(f"{adapter.card.unavailable} No command makes it available here.")


def use(adapter: Adapter, python: Path) -> Environment:
    """Let `adapter` run under an existing interpreter; InputError where that cannot run a worker."""
    _refuse_unavailable(adapter)
    interpreter = _inspect(python)
    if interpreter.numbers < OLDEST:
        raise InputError(f"{python}: Python {'.'.join(map(str, interpreter.numbers))} seen, 3.9 or newer wanted")
    if "numpy" not in interpreter.packages:
        raise InputError(f"{python}: no numpy seen, an interpreter that has it wanted")
    write(_choice_file(adapter), msgspec.json.encode(ChosenInterpreter(str(python.absolute()))))
    return find(adapter)


def remove(adapter: Adapter) -> None:
    """Forget the interpreter named for `adapter` and delete its installed environment."""
    _choice_file(adapter).unlink(missing_ok=True)
    folder = _folder(adapter.card.environment)
    with _locked(folder, lambda sentence: None):
        (folder / "done").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def install(adapter: Adapter, sources: Sequence[str] = (), report: Callable[[str], None] = lambda line: None) -> None:
    """Make the environment that the card of `adapter` asks for, and forget an interpreter named for it.

    `sources` are local repositories (a checkout, or a bare one as `file://REPO`) that serve every repository of the
    card whose commit they hold, and submodules alike. `report` is called with each step. InputError names the step that
    failed, with the last lines of its log; the next call goes on from there."""
    _refuse_unavailable(adapter)
    spec = adapter.card.environment
    local = [_Repository.open(source) for source in sources]
    for repository in local:
        if not any(repository.has(commit) for commit in _commits(spec, local)):
            raise InputError(f"--source {repository.path}: none of the card's commits is in it")
    folder = _folder(spec)
    if spec.own:
        with _locked(folder, report) as lock:
            if not _installed(folder):
                _Installer(adapter, folder, local, lock, report).run()
    _choice_file(adapter).unlink(missing_ok=True)


def _choice_file(adapter: Adapter) -> Path:
    return cache_dir() / "environments" / f"{adapter.name}.json"


def _folder(spec: EnvironmentSpec) -> Path:
    return cache_dir() / "environments" / hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:16]


def _installed(folder: Path) -> bool:
    """Whether an install ended well, and the interpreter that it was built on is still there."""
    return (folder / "done").is_file() and (folder / "venv" / "bin" / "python").is_file()


def _inspect(python: Path) -> Interpreter:
    """What `python` reports about itself; InputError where it does not run."""
    try:
        done = subprocess.run([python, "-I", "-c", _PROBE], capture_output=True, timeout=120, check=True)
        return msgspec.json.decode(done.stdout, type=Interpreter)
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"{python}: not a working Python interpreter ({reason or error.returncode})") from error
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        raise InputError(f"{python}: not a working Python interpreter ({error})") from error


_inspect_once = functools.cache(_inspect)


@functools.cache
def _identity(environment: Environment) -> str:
    interpreter = _inspect_once(environment.python)
    asked = tuple(interpreter.packages) if environment.key else environment.requirements
    packages = interpreter.closure(environment.imports, asked)
    return hashlib.sha256("\n".join([environment.key, interpreter.version, *packages]).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _locked(folder: Path, report: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock of an environment; reports which process it waits for. Who inherits the descriptor holds it too."""
    path = folder.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            report(f"process {file.read().strip()} is installing the same environment; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


@dataclass(frozen=True)
class _Repository:
    """A local git repository, bare or not."""

    path: Path

    @staticmethod
    def open(source: str) -> _Repository:
        repository = _Repository(Path(source.removeprefix("file://")).expanduser().resolve())
        done = repository.git("rev-parse", "--git-dir")
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["no such folder"]
            raise InputError(f"--source {source}: a git repository wanted ({reason[0]})")
        return repository

    def git(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    def has(self, commit: str) -> bool:
        return self.git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0

    def submodules(self, commit: str) -> dict[str, str]:
        """Commit of each submodule by its folder."""
        lines = self.git("ls-tree", "-r", commit).stdout.splitlines()
        links = (line.split(None, 3) for line in lines if line.startswith("160000 "))
        return {folder: sha for _, _, sha, folder in links}


def _holder(repositories: Sequence[_Repository], commit: str) -> _Repository | None:
    return next((repository for repository in repositories if repository.has(commit)), None)


def _commits(spec: EnvironmentSpec, local: Sequence[_Repository]) -> list[str]:
    """Every commit that the card names, and those of their submodules as far as `local` knows them."""
    urls = [Requirement(text).url or "" for text in spec.requirements]
    commits = [source.commit for source in spec.sources]
    commits += [url.partition("#")[0].rpartition("@")[2] for url in urls if url.startswith("git+")]
    for commit in commits:  # grows while it is walked: submodules have submodules
        holder = _holder(local, commit)
        commits += holder.submodules(commit).values() if holder else []
    return commits


class _Installer:
    """One install: its steps, and which of them are finished."""

    def __init__(
        self, adapter: Adapter, folder: Path, local: list[_Repository], lock: int, report: Callable[[str], None]
    ) -> None:
        self._adapter, self._spec = adapter, adapter.card.environment
        self._folder, self._trees, self._venv = folder, folder / "sources", folder / "venv"
        self._local, self._lock, self._report = local, lock, report
        self._requirements = [*self._spec.requirements, "numpy"]  # the worker's own need
        self._steps: list[tuple[str, Callable[[], None]]] = []
        for source in self._spec.sources:
            self._add_tree(source.url, source.commit, source.only)
        for i, text in enumerate(self._spec.requirements):
            url = Requirement(text).url or ""
            address, _, commit = url.partition("#")[0].removeprefix("git+").rpartition("@")
            if url.startswith("git+") and _holder(local, commit):
                self._add_tree(address, commit)
                self._requirements[i] = text.replace(url.partition("#")[0], (self._trees / tree_name(address)).as_uri())
        self._steps += [("python", self._make_venv), ("requirements", self._install_requirements)]
        for i, command in enumerate(self._spec.build, start=1):
            self._steps.append((f"build step {i}: {command}", functools.partial(self._build, command)))

    def run(self) -> None:
        """Every step that is not finished, each noted when it is; then the mark that all are."""
        self._trees.mkdir(parents=True, exist_ok=True)
        requirements = [item for item in map(Requirement, self._spec.requirements) if not item.url]
        pins = [f"{item.name}{item.specifier}" + (f"; {item.marker}" if item.marker else "") for item in requirements]
        (self._folder / "constraints.txt").write_text("\n".join(pins) + "\n")
        record = self._folder / "steps"
        finished = record.read_text().splitlines() if record.is_file() else []
        if not (self._venv / "bin" / "python").exists():  # its base is gone, and with it what was put into it
            finished = [name for name in finished if name.startswith("source")]
        for number, (name, work) in enumerate(self._steps, start=1):
            self._now = f"step {number} of {len(self._steps)}, {name}"
            if name in finished:
                self._report(f"{self._now}: finished before")
                continue
            self._report(self._now)
            work()
            finished.append(name)
            write(record, "\n".join(finished).encode())
        write(self._folder / "done", b"")

    def _call(self, command: list[str], cwd: Path | None = None, **variables: str) -> None:
        """Run `command` in the environment, its output to the log; InputError naming the step where it fails."""
        log = self._folder / "log.txt"
        pins = f"{os.environ.get('PIP_CONSTRAINT', '')} {(self._folder / 'constraints.txt').as_uri()}".strip()
        variables |= {"PATH": f"{self._venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(self._venv)}
        variables |= {"PIP_CONSTRAINT": pins, "PYTHONNOUSERSITE": "1"}
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        with log.open("ab") as output:
            output.write(f"\n== {self._now}\n$ {shlex.join(command)}\n".encode())
            output.flush()
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd or self._trees,
                env=inherited | variables,
                pass_fds=(self._lock,),  # a step that outlives a killed install keeps others out
                check=False,
            ).returncode
        if code:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise InputError(f"{self._adapter.name}: {self._now}, ended with exit code {code}; log: {log}\n{tail}")

    def _make_venv(self) -> None:
        shutil.rmtree(self._venv, ignore_errors=True)
        self._call([_base_python(self._spec.python), "-m", "venv", str(self._venv)], self._folder)

    def _add_tree(self, url: str, commit: str, only: Sequence[str] = ()) -> None:
        self._steps.append((f"source {url} at {commit}", lambda: self._make_tree(url, commit, only)))

    def _make_tree(self, url: str, commit: str, only: Sequence[str]) -> None:
        tree = self._trees / tree_name(url)
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        if (holder := _holder(self._local, commit)) is not None:
            self._copy_tree(holder, commit, tree, only)
            return
        self._call(["git", "init", "--quiet"], tree)
        self._call(["git", "remote", "add", "origin", url], tree)
        if only:  # a server that cannot filter sends all of the commit
            self._call(["git", "sparse-checkout", "set", "--no-cone", *(f"/{part}" for part in only)], tree)
        partial = ["--filter=blob:none"] if only else []
        self._call(["git", "fetch", "--quiet", "--depth", "1", *partial, "origin", commit], tree)
        self._call(["git", "checkout", "--quiet", commit], tree)
        submodules = ["git", "submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1"]
        self._call([*submodules, "--", *only], tree)

    def _copy_tree(self, repository: _Repository, commit: str, tree: Path, only: Sequence[str] = ()) -> None:
        """The files of `commit`, and of its submodules, through an index of our own: `repository` is left as it is."""
        index = self._folder / "index"
        index.unlink(missing_ok=True)
        git = ["git", "-C", str(repository.path), f"--work-tree={tree}"]
        self._call([*git, "checkout", "--force", commit, "--", *(only or ["."])], GIT_INDEX_FILE=str(index))
        for folder, sha in repository.submodules(commit).items():
            if only and not any(Path(folder).is_relative_to(part) for part in only):
                continue
            beside = [repository.path / folder, *repository.path.parent.glob(f"{Path(folder).name}*")]
            siblings = [_Repository(path) for path in beside if path.is_dir()]
            if (holder := _holder([*self._local, *siblings], sha)) is None:
                raise InputError(
                    f"{self._adapter.name}: {self._now}: its submodule {folder} at {sha} is not beside it; "
                    "--source DIR for a repository that holds it wanted as well"
                )
            (tree / folder).mkdir(parents=True, exist_ok=True)
            self._copy_tree(holder, sha, tree / folder)

    def _install_requirements(self) -> None:
        python = str(self._venv / "bin" / "python")
        self._call([python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *self._requirements])
        paths = [self._trees / tree_name(source.url) / part for source in self._spec.sources for part in source.path]
        (site,) = self._venv.glob("lib/python*/site-packages")
        (site / "reconbench.pth").write_text("".join(f"{path}\n" for path in paths))

    def _build(self, command: str) -> None:
        self._call(["sh", "-ec", command])


def _base_python(specifier: str) -> str:
    """An interpreter that the card's `python` allows: this one, or one on the PATH, the newest first."""
    running = ".".join(map(str, sys.version_info[:3]))
    if running in (versions := SpecifierSet(specifier)):
        return sys.executable
    for minor in range(30, OLDEST[1] - 1, -1):
        with contextlib.suppress(InputError):  # a shim that leads nowhere
            path = shutil.which(f"python3.{minor}")
            if path and ".".join(map(str, _inspect(Path(path)).numbers)) in versions:
                return path
    raise InputError(
        f"Python {specifier} wanted: this one is {running}, and none on the PATH serves; name one by --python"
    )
