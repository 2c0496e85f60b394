"""Damaged files: `python -m tests.data.fuzz [--count 100000] [--seed 0]` feeds them to every reader.

A reader may understand a damaged file or refuse it with InputError; anything else is a defect, and is printed."""

from __future__ import annotations

import argparse
import collections
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from adapters.contract import InputError
from bench.arrays import read_npz
from bench.systems.cards import read_card
from bench.trials.suite import load_suite
from data.exchange import read_cameras, read_cloud
from data.images import read_image
from data.scene import Scene
from metrics.scoring.protocol import load_protocol

MOST = 2**28  # bytes that an `.npz` may hold here

CARD = 'name = "x"\ntitle = "X"\nlicence_code = "MIT"\nscope = "scene"\nparameters = 3\naccepts = ["masks"]\n'
SUITE = 'name = "s"\nscenes = ["duck"]\nviews = [2, 4]\nadapters = [{ name = "colmap", options = { a = 1 } }]\n'
PROTOCOL = (Path(__file__).parents[2] / "metrics/scoring/protocols/geolrm.toml").read_text()
SCENE = {
    "name": "s",
    "title": "S",
    "licence": "CC0-1.0",
    "source": "",
    "views": [{"name": "a", "image": "a.png", "group": "main"}],
}
CAMERA = {
    "view": "a",
    "width": 4,
    "height": 4,
    "fx": 1.0,
    "fy": 1.0,
    "cx": 2.0,
    "cy": 2.0,
    "camera_from_world": np.eye(4).tolist(),
}


def _geometry(kind: str) -> bytes:
    box = trimesh.creation.box()
    if kind == "cloud.ply":
        return bytes(trimesh.PointCloud(box.vertices, colors=np.full((8, 4), 9, np.uint8)).export(file_type="ply"))
    exported = box.export(file_type=kind.partition(".")[2])
    return exported if isinstance(exported, bytes) else str(exported).encode()


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, kind)
    return file.getvalue()


def _arrays() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, points=np.zeros((5, 3), np.float32), frame=np.array("object"))
    return file.getvalue()


def _cloud(path: Path) -> object:
    return read_cloud(path, [], posed=False)


def _scene(path: Path) -> object:
    folder = path.parent / "scene"
    folder.mkdir(exist_ok=True)
    (folder / "scene.json").write_bytes(path.read_bytes())
    return Scene.open(folder)


# A good file of each kind, under the name it has, and what reads it.
READERS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object]]] = {
    "cloud.ply": (lambda: _geometry("cloud.ply"), _cloud),
    "mesh.ply": (lambda: _geometry("mesh.ply"), _cloud),
    "mesh.obj": (lambda: _geometry("mesh.obj"), _cloud),
    "mesh.glb": (lambda: _geometry("mesh.glb"), _cloud),
    "photo.jpg": (lambda: _picture("JPEG"), read_image),
    "photo.png": (lambda: _picture("PNG"), read_image),
    "photo.tif": (lambda: _picture("TIFF"), read_image),
    "photo.webp": (lambda: _picture("WEBP"), read_image),
    "out.npz": (_arrays, lambda path: read_npz(path, MOST)),
    "adapter.toml": (CARD.encode, read_card),
    "suite.toml": (SUITE.encode, lambda path: load_suite(str(path))),
    "protocol.toml": (PROTOCOL.encode, lambda path: load_protocol(str(path))),
    "scene.json": (json.dumps(SCENE).encode, _scene),
    "cameras.json": (json.dumps([CAMERA]).encode, read_cameras),
}
TOKENS = (b"-1", b"1e999", b"NaN", b"99999999999", b"\x00", b"\xff" * 4, b"[" * 5000, b'"', b"\n", b"../../x", b"")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """`content` after one to four changes: bytes flipped, a part cut, repeated or replaced, or the end missing."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at, kind = int(rng.integers(0, len(out) + 1)), int(rng.integers(0, 5))
        end = min(len(out), at + int(rng.integers(1, 12)))
        if kind == 0 and at < len(out):
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del out[at:end]
        elif kind == 2:
            out[at:at] = out[at:end] * int(rng.integers(1, 50))
        elif kind == 3:
            out[at:end] = TOKENS[int(rng.integers(0, len(TOKENS)))]
        else:
            del out[at:]
    return bytes(out)


def feed(name: str, count: int, seed: int, folder: Path) -> tuple[int, int, list[str]]:
    """How many of `count` damaged files of the kind `name` were read, how many refused, and the defects."""
    make, read = READERS[name]
    rng, content = np.random.default_rng([seed, len(name), sum(name.encode())]), make()
    path, understood, refused, defects = folder / name, 0, 0, list[str]()
    path.write_bytes(content)
    read(path)  # what is damaged below was good
    for number in range(count):
        path.write_bytes(damaged(content, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
            understood += 1
        except InputError as error:
            refused += 1
            if "\n" in str(error).strip() and name.endswith((".ply", ".obj", ".glb")):
                defects.append(f"{name} {number}: more than a sentence: {str(error)[:200]!r}")
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            defects.append(f"{name} {number}: {type(error).__name__}: {str(error)[:200]}")
    return understood, refused, defects


def main() -> None:
    """Feed all readers and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000, help="damaged files in all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in READERS:
        with tempfile.TemporaryDirectory() as folder:
            understood, refused, defects = feed(name, arguments.count // len(READERS), arguments.seed, Path(folder))
        print(f"{name:14} read {understood:6}, refused {refused:6}, defects {len(defects)}", flush=True)  # noqa: T201
        kinds = collections.Counter(defect.split(": ", 1)[1][:60] for defect in defects)
        for kind, times in kinds.most_common(8):
            print(f"    {times:5} x {kind}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
