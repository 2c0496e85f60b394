"""From a finished training to the file that ships with its adapter."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save

import adapters
from adapters.contract import InputError
from bench.training.loop import averaged
from bench.training.networks import NETWORKS

FILE = "weights.safetensors"
RECORD = "training.json"
EARLIER = "earlier.json"  # in a run's folder: the record of the weights that it began with
COMMIT = "commit"


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """One training that gave some of a file's weights."""

    commit: str  # of the code that trained, with "+" where files differed from it
    settings: msgspec.Raw
    curve: msgspec.Raw
    minutes: float  # all stages, as the clock ran


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`training.json`, beside the weights: where they come from, each training having begun with the one before."""

    sha256: str
    trainings: list[Training]


def ship(run: Path, out: Path | None = None) -> str:
    """Write the weights of the training in `run` and their record; returns a sentence saying so."""
    weights, settings, curve = averaged(run)
    network = NETWORKS[settings.network]
    if not network.folder and out is None:
        raise InputError(f"{run}: {settings.network} is a variant that does not ship; --out FILE wanted")
    path = out or Path(adapters.__file__).parent / "systems" / network.folder / FILE
    note = {"network": settings.network, "settings": msgspec.json.encode(settings).decode()}
    path.write_bytes(save({name: value.astype(np.float16) for name, value in weights.items()}, note))
    last = {row.stage: row.seconds for row in curve}
    training = Training(
        commit=(run / COMMIT).read_text().strip() if (run / COMMIT).is_file() else "unknown",
        settings=msgspec.Raw(msgspec.json.encode(settings)),
        curve=msgspec.Raw(msgspec.json.encode(curve)),
        minutes=round(sum(last.values()) / 60, 1),
    )
    begun = run / EARLIER
    earlier = msgspec.json.decode(begun.read_bytes(), type=Record).trainings if begun.is_file() else []
    record = Record(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), trainings=[*earlier, training])
    path.with_name(RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    return f"{path}: {path.stat().st_size / 1e6:.1f} MB, {training.minutes} minutes of training"


def note_origin(run: Path, begin: Path | None) -> None:
    """Write into the folder of a training that begins what it begins with: this tree's commit, "+" appended where files
    differ, and the record beside the weights file `begin`, if there is one."""
    if (run / COMMIT).is_file():
        return
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else ""

    commit = git("rev-parse", "HEAD") or "unknown"
    run.mkdir(parents=True, exist_ok=True)
    if begin is not None and begin.with_name(RECORD).is_file():
        (run / EARLIER).write_bytes(begin.with_name(RECORD).read_bytes())
    (run / COMMIT).write_text(commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "") + "\n")
