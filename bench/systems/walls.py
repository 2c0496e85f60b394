"""The walls around other people's code: what a worker may see, touch and reach.

Behind them a process has no capability, no network but its own loopback, no process to see but its own, an
environment of listed variables, and a file system built of what its interpreter, weights and devices need, read-only.
`enclose.py` is the program that builds them; where the system does not permit namespaces the command runs in plain
view, which `isolated` tells, and its descendants alone are looked after."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import adapters
from bench.files import cache_dir

WORK = "reconbench-work-"  # what the name of a temporary folder of ours begins with
HOUSE = Path(adapters.__file__).resolve().parent.parent  # the folder of our packages
ROOMS = ("adapters", "baselines", "bench", "data", "metrics", "reports", "tests", ".git")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys")
# Of /etc what the loader, name look-ups and drivers read; no keys, no passwords.
ETC = (
    *("alternatives", "fonts", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias"),
    *("localtime", "machine-id", "nsswitch.conf", "OpenCL", "os-release", "passwd", "python3", "python3.11"),
    *("ssl/certs", "ssl/openssl.cnf", "vulkan"),
)
DEVICES = ("null", "zero", "full", "random", "urandom")
# What of the host's environment a worker inherits: where libraries and devices are, how many threads; never a secret.
INHERITED = ("LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "CUDA_HOME", "CUDA_PATH")
THREADS = ("MKL_NUM_", "NUMBA_NUM_", "OMP_NUM_", "OMP_PROC_BIND", "OMP_THREAD_", "OPENBLAS_NUM_")
INHERITED_PREFIXES = (
    *THREADS,
    "CUDA_VISIBLE_",
    "CUDA_DEVICE_",
    "NVIDIA_",
)


def enclosed(
    command: list[str],
    folder: Path,
    *,
    read: Iterable[Path] = (),
    write: Iterable[Path] = (),
    device: str = "cpu",
) -> list[str]:
    """`command` behind the walls; it works in `folder / "work"`, which is writable and removed if this process dies.

    `read` and `write` are folders and files that it may see and change beside its interpreter's; of our own packages it
    sees what `read` names. On systems other
    than Linux the command itself is returned."""
    if sys.platform != "linux":
        return command
    return _enclosed(command, folder, list(read), write, device, isolated())


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A temporary folder for one enclosed command. It is locked while this process lives, whatever container or
    namespace others look from: `sweep` removes what nobody holds."""
    sweep()
    with contextlib.ExitStack() as stack:
        folder = _held_folder(stack)
        remove = functools.partial(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(remove)  # where an interrupt cuts the removal below short
        try:
            yield folder
        finally:
            remove()
            atexit.unregister(remove)


def _held_folder(stack: contextlib.ExitStack) -> Path:
    """A new temporary folder whose lock `stack` holds."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=WORK))
        number = _opened(folder)
        if number is not None:
            stack.callback(os.close, number)
            with contextlib.suppress(OSError):  # a file system without locks: nobody else gets one either
                fcntl.flock(number, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # swept before it was locked
            state = folder.stat()
            if number is None or os.path.samestat(os.fstat(number), state):
                return folder


def _opened(folder: Path) -> int | None:
    with contextlib.suppress(OSError):
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    return None


def sweep() -> None:
    """Remove the temporary folders of processes that died before their walls stood, which remove them otherwise."""
    for folder in Path(tempfile.gettempdir()).glob(f"{WORK}*"):
        number = _opened(folder)
        if number is None:  # gone, or somebody else's
            continue
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # held
            pass
        finally:
            os.close(number)


def harness_generations() -> int:
    """How many processes of ours stand between this one and the command: they are not counted as its memory."""
    if sys.platform != "linux":
        return 0
    return 2 if isolated() else 1


@functools.cache
def isolated() -> bool:
    """Whether this system lets an ordinary process build the walls: tried once, with all of them."""
    if sys.platform != "linux":
        return False
    with work_folder() as folder, contextlib.suppress(OSError, subprocess.SubprocessError):
        command = _enclosed([sys.executable, "-I", "-S", "-c", ""], folder, (), (), "cpu", isolate=True)
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    return False


def environment(work: Path, compiled: Path) -> dict[str, str]:
    """The variables that a worker gets; what it compiles for itself is kept in `compiled`."""
    inherited = {k: v for k, v in os.environ.items() if k in INHERITED or k.startswith(INHERITED_PREFIXES)}
    return inherited | {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the driver's, by which records name the device
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(work),
        "TMPDIR": str(work),
        "XDG_CACHE_HOME": str(work / ".cache"),
        "HF_HUB_OFFLINE": "1",
        "NUMBA_CACHE_DIR": str(compiled),
        "TRITON_CACHE_DIR": str(compiled / "triton"),
        "LC_CTYPE": "C.UTF-8",
    }


def thread_settings() -> dict[str, str]:
    """The inherited variables that say how libraries use threads: sums depend on how they are split."""
    return {name: value for name, value in os.environ.items() if name.startswith(THREADS)}


def compiled_folder(key: str) -> Path:
    """Where the code of this key keeps what it compiles; nobody else's code writes there."""
    folder = cache_dir() / "compiled" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def interpreter_folders(python: Path) -> tuple[Path, ...]:
    """The folders that an interpreter and its packages lie in, our own rooms left out."""
    ask = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]))"
    answer = subprocess.run([python, "-I", "-c", ask], capture_output=True, timeout=60, check=True).stdout
    named = [str(name) for name in json.loads(answer)]
    paths = [Path(name) for name in dict.fromkeys(named) if name and Path(name).exists()]
    return (*(path for path in paths if path.resolve() != HOUSE), python, python.resolve())


def _enclosed(
    command: list[str], folder: Path, read: Collection[Path], write: Iterable[Path], device: str, isolate: bool
) -> list[str]:
    for place in ("work", "root"):
        (folder / place).mkdir(exist_ok=True)
    fields: list[tuple[str, object]] = [
        ("host", os.getpid()),
        ("folder", folder),
        ("isolate", "yes" if isolate else "no"),
        *(("read", path) for path in _visible([*_system(), *interpreter_folders(Path(command[0])), *read])),
        *(("write", path) for path in write),
        *(("hide", HOUSE / room) for room in ROOMS if HOUSE / room not in read),
        *(("device", f"/dev/{name}") for name in DEVICES),
        *(("device", node) for node in (_gpu_nodes() if device.startswith("cuda") else [])),
    ]
    script = str(Path(__file__).with_name("enclose.py"))
    return [sys.executable, "-I", "-S", script, *(f"{name}={value}" for name, value in fields), "--", *command]


def _system() -> list[Path]:
    return [Path(name) for name in SYSTEM] + [Path("/etc", name) for name in ETC]


def _gpu_nodes() -> list[str]:
    return sorted(str(node) for pattern in ("nvidia*", "dri") for node in Path("/dev").glob(pattern))


def _visible(paths: Iterable[Path]) -> list[Path]:
    """`paths` that exist, with what their links lead to, none inside another; outer ones first."""
    wanted: set[Path] = set()
    for path in paths:
        place = path.absolute()
        if not place.exists():
            continue
        wanted.add(place.resolve())
        if place.is_symlink():
            wanted.add(place.parent.resolve() / place.name)
        wanted.add(place)
    links = {path for path in wanted if path.is_symlink()}
    kept: list[Path] = []
    for path in sorted(wanted, key=lambda path: (len(path.parts), path)):
        if not any(outer in path.parents and outer not in links for outer in kept):
            kept.append(path)
    return kept
