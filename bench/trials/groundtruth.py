"""Ground truth made behind the walls: photos are decoded, and COLMAP runs, where nothing else is in reach."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from adapters.contract import InputError
from bench.systems import walls
from bench.systems.process import own_tool, run_tool, with_links
from data.groundtruth.build import Job, Progress
from data.scene import Scene

DEADLINE = 7 * 24 * 3600.0  # seconds; structure from motion has one of its own


class _Line(msgspec.Struct):
    what: str = ""
    share: float = 0.0
    refused: str = ""


def _sources(job: Job) -> list[Path]:
    """What the photos are read from: a folder or file, and what a Scene refers to outside its own folder."""
    source = Path(job.source)
    return [source, *(Scene.open(source).outside if (source / "scene.json").is_file() else ())]


def behind_walls(job: Job, stage: Path, progress: Progress) -> None:
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
        made, asked = folder / "work" / "scene", folder / "work" / "job.json"
        made.mkdir(parents=True)
        asked.write_bytes(msgspec.json.encode(job))
        read = [path for source in _sources(job) for path in with_links(source)]
        main = "data.groundtruth.build:main"
        run_tool(own_tool("ground truth", main, [asked, made], folder, read, DEADLINE, device="cuda"), tell)
        if refused:
            raise InputError(refused[-1])
        for path in made.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InputError(f"ground truth: {path.name} is neither a file nor a folder")
        shutil.copytree(made, stage, dirs_exist_ok=True)
