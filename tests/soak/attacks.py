"""What each known attack prints now: `python -m tests.soak.attacks [--only PATTERN] [--write docs/security.md]`.

Each row is done for real: an adapter runs as a trial does, a file or a store is given to the command. Exit code 1 where
a row does not end as wanted."""

from __future__ import annotations

import argparse
import csv
import math
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from bench.systems import walls
from bench.systems.measure import Policy
from bench.systems.process import run_adapter
from tests.bench.spies import spy
from tests.bench.test_store import edited
from tests.bench.test_walls import FAKES, LEFT_BEHIND, LIES, PIPE, REACHES, ROOT, VIEWS, faking, reach
from tests.conftest import make_scene

RUN = "import sys; from bench.cli import main; main(sys.argv[1:])"
QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
LONGEST = 260  # characters of what was printed that a row shows
# A disk of its own in place of the store: `SIZE` or read-only.
OWN_DISK = """
import ctypes, os, sys
libc, place, how = ctypes.CDLL(None), sys.argv.pop(1), sys.argv.pop(1)
uid, gid = os.geteuid(), os.getegid()
assert libc.unshare(0x10000000 | 0x20000) == 0
for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
    open(f"/proc/self/{name}", "w").write(line)
os.makedirs(place)
assert libc.mount(b"tmpfs", place.encode(), b"tmpfs", 0, b"size=256k") == 0
if how == "full":
    open(place + "/full", "wb").write(bytes(60 * 4096))
else:
    assert libc.mount(b"none", place.encode(), None, 33, None) == 0
"""


@dataclass(frozen=True)
class Place:
    """What every attack is given."""

    folder: Path  # its own
    scene: Path  # without truth
    truth: Path  # the same with one
    store: Path  # three good trials, to copy


@dataclass(frozen=True)
class Attack:
    """`do` returns what was printed and the exit code, or a trial's outcome; both must match `wanted`."""

    name: str
    wanted: str  # a regular expression over "OUTCOME: PRINTED"
    do: Callable[[Place], tuple[str, str]]


def _command(words: list[str | Path], prelude: str = "", first: tuple[str, ...] = ()) -> tuple[str, str]:
    """Exit code, and the last that was printed for a person."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{prelude}\n{RUN}", *first, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        env={**os.environ, "COLUMNS": "4000", "HF_TOKEN": "hunter2"},
        timeout=900,
    )
    text = done.stderr.decode(errors="backslashreplace").strip() or done.stdout.decode(errors="backslashreplace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and "━" not in line]
    return f"exit {done.returncode}", lines[-1] if lines else ""


def _trial(body: str, policy: Policy = QUICK, shown: bool = False) -> Callable[[Place], tuple[str, str]]:
    """An adapter whose `infer` runs `body`."""

    def do(place: Place) -> tuple[str, str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            names = {"truth": str(place.truth), "root": str(ROOT), "host": os.getpid()}
            text = body
            for key, value in (names | {"port": server.getsockname()[1]}).items():
                text = text.replace(f"{{{key}!r}}", repr(value)).replace(f"{{{key}}}", str(value))
            outcome, _ = run_adapter(spy(place.folder / "spy", text), VIEWS, policy=policy)
        assert outcome.isolated
        return f"`{outcome.status}`", outcome.message or (outcome.log_tail if shown else "")

    return do


UNMOUNT = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
told = set()
for line in open('/proc/self/mountinfo'):
    libc.umount2(line.split()[4].encode(), 2)
    told.add(os.strerror(ctypes.get_errno()))
print('umount2 of every mount:', *sorted(told), '; the truth is there:', os.path.exists({truth!r}))
""".strip()


def _workers() -> Iterator[Attack]:
    yield Attack("`umount2` on every path of mountinfo", r"`ok`.*not permitted.*False", _trial(UNMOUNT, shown=True))
    for what, body in REACHES.items():
        yield Attack(f"an adapter reaches for {what}", "^`ok`: $", _trial(reach(body)))
    for lie, line in LIES.items():
        body = PIPE.replace("{lines!r}", repr(line)).strip()
        yield Attack(f"a worker's message: {lie}", "^`invalid_output`: the worker's messages", _trial(body))
    name = PIPE.replace("{lines!r}", repr(b'{"event": "failed", "status": "crash", "message": "\xff\xfe"}\n')).strip()
    yield Attack(
        "a worker's message: a name that is not UTF-8", "^`invalid_output`: the worker's messages", _trial(name)
    )
    for fake, (make, _) in FAKES.items():
        yield Attack(f"for the prediction's file: {fake}", "^`invalid_output`: ", _trial(faking(make)))
    for left, body in LEFT_BEHIND.items():
        yield Attack(f"left running: {left}", "^`ok`: $", _trial(f"import os, time\n{body}"))
    short = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=5.0)
    native = (
        "import ctypes, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nctypes.PyDLL(None).sleep(600)"
    )
    yield Attack("hangs in native code, every signal blocked", "^`timeout`: ", _trial(native, short))
    small = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0, memory_gib=0.3)
    yield Attack("memory without end", "^`oom`: ", _trial("hold = []\nwhile True: hold.append(np.ones(2**20))", small))
    escape = "raise RuntimeError('\\x1b]0;owned\\x07 \\x1b[2J')"
    yield Attack("escape sequences in an error", r"^`crash`: [^\x1b\x07]*$", _trial(escape))
    token = "raise RuntimeError('HF_TOKEN' in os.environ)"
    yield Attack("a token of the environment", "^`crash`: RuntimeError: False", _trial(f"import os\n{token}"))
    yield Attack("rewrites the code of the next trial", "^`ok`: $", _next_trial)


def _next_trial(place: Place) -> tuple[str, str]:
    """The code is written to from outside the walls even, and the next trial runs as it should."""
    from bench.systems.process import stage

    adapter = spy(place.folder / "spy", "print('well')")
    staged = stage(adapter) / "adapters" / "contract.py"
    staged.chmod(0o644)
    staged.write_text("raise RuntimeError('spoilt')\n")
    outcome, _ = run_adapter(adapter, VIEWS, policy=QUICK)
    return f"`{outcome.status}`", outcome.message


def _flag(*flags: str) -> Callable[[Place], tuple[str, str]]:
    words = ["run", "--adapters", "noisy-oracle", "--views", "2", "--truth", "exact", *flags]
    return lambda place: _command([*words, "--scenes", place.truth, "--store", place.folder / "store"])


def _store(spoil: Callable[[Path], None], *words: str) -> Callable[[Place], tuple[str, str]]:
    """A copy of the good store whose first record was spoilt, given to a command."""

    def do(place: Place) -> tuple[str, str]:
        store = Path(shutil.copytree(place.store, place.folder / "store"))
        spoil(sorted((store / "trials").glob("*.json"))[0])
        given = {"STORE": store, "OUT": place.folder / "out"}
        code, output = _command([given.get(word, word) for word in words])
        outside = [p for p in place.folder.rglob("x.*") if p.is_file()]
        return code, f"{output}{' WRITTEN OUTSIDE' if outside else ''}"

    return do


def _nan(path: Path) -> None:
    path.write_text(re.sub(r'"seed": 0', '"seed": NaN', path.read_text()))


def _disk(how: str) -> Callable[[Place], tuple[str, str]]:
    def do(place: Place) -> tuple[str, str]:
        adapter, store = spy(place.folder / "spy", "print('well')"), place.folder / "store"
        words = ["run", "--adapters", str(adapter.folder), "--scenes", str(place.scene), "--views", "2,3,4"]
        return _command([*words, "--repeats", "0", "--store", store], OWN_DISK, (str(store), how))

    return do


def _cloud(write: Callable[[Path], None], name: str) -> Callable[[Place], tuple[str, str]]:
    def do(place: Place) -> tuple[str, str]:
        write(place.folder / name)
        words: list[str | Path] = ["score", "--scene", place.truth, "--store", place.folder / "store"]
        if name in ("cameras.json", "sparse"):
            trimesh.PointCloud(np.eye(3)).export(place.folder / "a.ply")
            return _command([*words, "--prediction", place.folder / "a.ply", "--cameras", place.folder / name])
        return _command([*words, "--prediction", place.folder / name])

    return do


FACE = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
FACE += "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n"


def _photo(name: str, content: bytes) -> Callable[[Place], tuple[str, str]]:
    def do(place: Place) -> tuple[str, str]:
        photos = place.folder / "photos"
        photos.mkdir()
        (photos / name).write_bytes(content)
        shutil.copy(next((place.scene / "images").iterdir()), photos / "other.png")
        out = place.folder / "out"
        return _command(["predict", "--adapter", "colmap", "--images", photos, "--out", out])

    return do


def _pixel_bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 25_000, 25_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _truth(**changes: object) -> Callable[[Place], tuple[str, str]]:
    def do(place: Place) -> tuple[str, str]:
        scene = Path(shutil.copytree(place.truth, place.folder / "scene"))
        edited(**changes)(scene / "truth" / "exact" / "truth.json")
        words: list[str | Path] = ["run", "--adapters", "oracle", "--scenes", scene, "--views", "2"]
        return _command([*words, "--store", place.folder / "store"])

    return do


def _deep(place: Place) -> tuple[str, str]:
    (place.folder / "deep.toml").write_bytes(b"a = " + b"[" * 100_000)
    return _command(["run", str(place.folder / "deep.toml"), "--store", place.folder / "store"])


def _model(path: Path) -> None:
    path.mkdir()
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        (path / name).write_bytes(struct.pack("<Q", 2**40) + b"\xff" * 50)


def _formula(place: Place) -> tuple[str, str]:
    """What a report's CSV holds of a cloud whose name is a formula."""
    trimesh.PointCloud(np.random.default_rng(0).random((2000, 3))).export(place.folder / "a.ply")
    store, out = place.folder / "store", place.folder / "out"
    words: list[str | Path] = ["score", "--prediction", place.folder / "a.ply", "--name", '=HYPERLINK("http://x")']
    code, output = _command([*words, "--scene", place.truth, "--posed", "--store", store])
    if code == "exit 0":
        code, output = _command(["report", "--store", store, "--out", out])
    cells = [cell for path in sorted(out.glob("*.csv")) for row in csv.reader(path.open(newline="")) for cell in row]
    named = [cell for cell in cells if "HYPERLINK(" in cell]
    formulas = [
        cell for cell in cells if cell.startswith(("=", "+", "@", "\t")) or (cell[:1] == "-" and not _number(cell))
    ]
    return code, f"every table holds {named[0]}" if named and not formulas else f"A FORMULA {formulas[:1]} {output}"


def _number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _against(place: Place) -> tuple[str, str]:
    tree = place.folder / "tree"
    for package in ("adapters", "metrics"):
        (tree / package).mkdir(parents=True)
        (tree / package / "__init__.py").write_text("")
    secrets = [str(path) for path in (place.truth, ROOT / "tests", ROOT / ".git", *Path.home().glob(".*rc"))]
    body = f"import os\nREACHED = [path for path in {secrets} if os.path.exists(path)]\n"
    body += "def nearest(a, b): raise RuntimeError(f'reached: {REACHED}')\n"
    (tree / "metrics" / "__init__.py").write_text(body)
    code, _ = _command(["check", "--only", "time", "--against", tree, "--workloads", "nearest", "--junit", tree / "j"])
    return code, next(iter(re.findall(r'nearest in tree: [^<"\n]*', (tree / "j").read_text())), "")


def _commands() -> Iterator[Attack]:
    for flags in (("--deadline", "inf"), ("--deadline", "nan"), ("--option", "noise=1e999"), ("--memory", "-1")):
        yield Attack(f"`{' '.join(flags)}`", "^exit 2: .*finite", _flag(*flags))
    check = ("store", "check", "STORE")
    yield Attack("NaN in a record, `store check`", "^exit 1: .*1 ", _store(_nan, *check))
    yield Attack("NaN in a record, `report`", "^exit 0: ", _store(_nan, "report", "--store", "STORE", "--out", "OUT"))
    leads = edited(prediction="../../x")
    yield Attack("a record's prediction `../../x`, `store check`", "^exit 1: ", _store(leads, *check))
    yield Attack(
        "a record's prediction `../../x`, `merge`",
        "^exit 0: (?!.*OUTSIDE).*2 trials",
        _store(leads, "merge", "STORE", "--into", "OUT"),
    )
    yield Attack(
        "a record's prediction `../../x`, `report`",
        "^exit 0: (?!.*OUTSIDE)",
        _store(leads, "report", "--store", "STORE", "--out", "OUT"),
    )
    yield Attack("a store of a newer format", "^exit 2: .*format 99", _store(edited(format=99), *check))
    yield Attack("a disk that is full", "^exit [12]: .*No space", _disk("full"))
    yield Attack("a store that is read-only", "^exit 2: .*Read-only", _disk("read-only"))
    yield Attack(
        "a PLY whose face names vertex 7 of 3", "^exit 2: ", _cloud(lambda p: p.write_text(FACE) and None, "a.ply")
    )
    yield Attack("a damaged COLMAP model", "^exit 2: .*cameras.bin: .*entries", _cloud(_model, "sparse"))
    camera = '[{"view":"000","width":4,"height":4,"fx":1,"fy":1,"cx":2,"cy":2,"camera_from_world":[[1,0],[0]]}]'
    yield Attack("ragged poses", "^exit 2: ", _cloud(lambda p: p.write_text(camera) and None, "cameras.json"))
    yield Attack(
        "a `.jpg` that holds EPS", "^exit 2: .*not a readable image", _photo("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n")
    )
    yield Attack("a PNG of 25000 x 25000 pixels", "^exit 2: .*25000 x 25000", _photo("a.png", _pixel_bomb()))
    yield Attack("a truth of diameter zero", "^exit 2: ", _truth(diameter=0.0))
    yield Attack("a truth of an unknown kind", "^exit 2: ", _truth(kind="divine"))
    yield Attack("deep TOML as a suite", "^exit 2: ", _deep)
    yield Attack("a formula as a system's name", "^exit 0: (?!A FORMULA)", _formula)
    yield Attack("`check --against` a hostile tree", r"^exit 5: .*reached: \[\]", _against)


def tried(attack: Attack, shared: Path) -> tuple[str, str, bool]:
    """Outcome, what was printed, and whether both are as wanted."""
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        place = Place(Path(name), shared / "plain", shared / "bumpy", shared / "store")
        outcome, printed = attack.do(place)
        for path, short in ((name, "DIR"), (str(shared), "DIR")):
            printed = printed.replace(path, short)
    printed = re.sub(r"\b[0-9a-f]{24}\b", "KEY", " ".join(printed.split()))
    printed = re.sub(rf"/\S*{walls.WORK}[^/\s]*", "DIR", printed)
    printed = "".join(char if char.isprintable() else repr(char)[1:-1] for char in printed)
    good = re.search(attack.wanted, f"{outcome}: {printed}", re.DOTALL) is not None and "Traceback" not in printed
    return outcome, printed, good


def prepared(shared: Path) -> None:
    """Scenes and the good store."""
    make_scene(shared / "bumpy")
    make_scene(shared / "plain", "plain")
    shutil.rmtree(shared / "plain" / "truth")
    adapter = spy(shared / "spy", "print('well')")
    words: list[str | Path] = ["run", "--adapters", adapter.folder, "--scenes", shared / "plain", "--views", "2,3,4"]
    code, output = _command([*words, "--repeats", "0", "--store", shared / "store"])
    assert code == "exit 0", output


def main() -> int:
    """Try every attack and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", help="a pattern: attacks whose name it is found in; others keep their rows"
    )
    parser.add_argument("--write", type=Path, help="a page whose table between `attacks` marks is made anew")
    arguments = parser.parse_args()
    assert walls.isolated(), "this system permits no namespaces: the table of attacks wants them"
    every = (*_workers(), *_commands())
    lines, bad = ["| attack | ends as | printed |", "|---|---|---|"], 0
    with tempfile.TemporaryDirectory(prefix="attacks-") as name:
        os.environ["RECONBENCH_CACHE"] = f"{name}/cache"
        os.environ["SECRET_TOKEN"] = "hunter2"
        prepared(Path(name))
        for attack in every:
            if not re.search(arguments.only, attack.name):
                continue
            outcome, printed, good = tried(attack, Path(name))
            bad += not good
            shown = printed if len(printed) <= LONGEST else f"{printed[:LONGEST]} ..."
            shown = f"`{shown.replace('|', chr(92) + '|').replace('`', chr(39))}`" if shown else ""
            lines.append(f"| {attack.name} | {outcome}{'' if good else ' **NOT AS WANTED**'} | {shown} |")
            sys.stderr.write(f"{lines[-1]}\n")
    table = "\n".join(lines)
    sys.stdout.write(f"{table}\n{len(lines) - 2} attacks, {bad} not as wanted\n")
    if arguments.write is not None:
        before, _, rest = arguments.write.read_text().partition("<!-- attacks -->\n")
        known, _, after = rest.partition("<!-- /attacks -->")
        # Rows that were not tried stay as they are.
        rows = {line.split(" | ")[0]: line for line in (*known.splitlines(), *lines)}
        order = [*(line.split(" | ")[0] for line in lines[:2]), *(f"| {attack.name}" for attack in every)]
        table = "\n".join(rows[name] for name in order if name in rows)
        arguments.write.write_text(f"{before}<!-- attacks -->\n{table}\n<!-- /attacks -->{after}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
