"""From a finished training to the file that ships with its adapter."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save

import adapters
from bench.training.loop import averaged
from bench.training.networks import NETWORKS

FILE = "weights.safetensors"
RECORD = "training.json"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`training.json`, beside the weights: where they come from."""

    sha256: str
    commit: str  # of the code that trained, with "+" where files differed from it
    settings: msgspec.Raw
    curve: msgspec.Raw
    minutes: float  # of training, all stages, as the clock ran


def ship(run: Path, out: Path | None = None) -> str:
    """Write the weights of the training in `run` and their record; returns a sentence saying so."""
    weights, settings, curve = averaged(run)
    network = NETWORKS[settings.network]
    path = out or Path(adapters.__file__).parent / "systems" / network.folder / FILE
    note = {"network": settings.network, "settings": msgspec.json.encode(settings).decode()}
    path.write_bytes(save({name: value.astype(np.float16) for name, value in weights.items()}, note))
    last = {row.stage: row.seconds for row in curve}
    record = Record(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        commit=(run / "commit").read_text().strip() if (run / "commit").is_file() else "unknown",
        settings=msgspec.Raw(msgspec.json.encode(settings)),
        curve=msgspec.Raw(msgspec.json.encode(curve)),
        minutes=round(sum(last.values()) / 60, 1),
    )
    path.with_name(RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    return f"{path}: {path.stat().st_size / 1e6:.1f} MB, {record.minutes} minutes of training"


def note_commit(run: Path) -> None:
    """Write the commit of this tree into the folder of a training that begins, "+" appended where files differ."""
    if (run / "commit").is_file():
        return
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else ""

    commit = git("rev-parse", "HEAD") or "unknown"
    run.mkdir(parents=True, exist_ok=True)
    (run / "commit").write_text(commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "") + "\n")
