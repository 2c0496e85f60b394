"""Ground truth made behind the walls: photos are decoded, and COLMAP runs, where nothing else is in reach."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import msgspec

from adapters.contract import InputError
from bench.systems import walls
from bench.systems.measure import version
from bench.systems.process import run_tool, with_links
from data.groundtruth.build import Progress, Wanted
from data.scene import Scene

DEADLINE = 7 * 24 * 3600.0  # seconds; structure from motion has one of its own
ROOMS = ("adapters", "data", "metrics")
_STUB = "import sys; sys.path.insert(0, sys.argv[1]); from data.groundtruth.build import main; main(*sys.argv[2:])"


class _Line(msgspec.Struct):
    what: str = ""
    share: float = 0.0
    refused: str = ""


def _sources(wanted: Wanted) -> list[Path]:
    """What the photos are read from: a folder or file, and what a Scene refers to outside its own folder."""
    source = Path(wanted.source)
    return [source, *(Scene.open(source).outside if (source / "scene.json").is_file() else ())]


def behind_walls(wanted: Wanted, stage: Path, progress: Progress) -> None:
    """`data.groundtruth.build.make_truth` behind the walls; plain files and folders alone reach `stage`."""
    refused: list[str] = []

    def tell(line: bytes) -> None:
        try:
            message = msgspec.json.decode(line, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # printed by a library
        if message.refused:
            refused.append(message.refused[:2000])
        else:
            progress(message.what[:200], min(max(message.share, 0.0), 1.0))

    with walls.work_folder() as folder:
        made, job = folder / "work" / "scene", folder / "work" / "job.json"
        made.mkdir(parents=True)
        job.write_text(json.dumps(asdict(wanted)), encoding="utf-8")
        run_tool(
            "ground truth",
            [sys.executable, "-I", "-B", "-c", _STUB, str(walls.HOUSE), str(job), str(made)],
            folder,
            walls.compiled_folder(f"groundtruth-{version()}"),
            read=[*(walls.HOUSE / room for room in ROOMS), *(p for s in _sources(wanted) for p in with_links(s))],
            device="cuda",
            deadline=DEADLINE,
            tell=tell,
        )
        if refused:
            raise InputError(refused[-1])
        for path in made.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InputError(f"ground truth: {path.name} is neither a file nor a folder")
        shutil.copytree(made, stage, dirs_exist_ok=True)
