"""Files made to deceive: one sentence, and nothing that they ask for is done."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh

from adapters.contract import InputError
from bench.systems.cards import read_card
from bench.trials.suite import load_suite
from data.exchange import read_cameras, read_cloud
from data.images import read_image
from data.scene import Scene
from metrics.scoring.protocol import load_protocol
from tests.data.fuzz import READERS, feed

BOX = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
FACE = "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n"


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    understood, refused, defects = feed(name, 60, 7, tmp_path)
    assert not defects
    assert understood + refused == 60 and refused > 5


def test_a_photo_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(out) (w) file\n")
    with pytest.raises(InputError, match=r"a\.jpg: not a readable image"):
        read_image(tmp_path / "a.jpg")


def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 25_000, 25_000, 8, 2, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(picture)
    with pytest.raises(InputError, match="25000 x 25000 pixels seen, 400000000 at most wanted"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("face", ["3 0 1 7", "3 0 1 -1"])
def test_faces_of_vertices_that_are_not_there(face: str, tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_text(BOX + FACE + face + "\n")
    with pytest.raises(InputError, match=r"a\.ply: "):
        read_cloud(tmp_path / "a.ply", [], posed=False)


def test_a_declared_count_takes_no_memory(tmp_path: Path) -> None:
    header = BOX.replace("ascii", "binary_little_endian").replace("vertex 3", "vertex 4000000000")
    (tmp_path / "a.ply").write_bytes((header + "end_header\n").encode() + b"\0" * 36)
    with pytest.raises(InputError, match=r"a\.ply: not a readable cloud"):
        read_cloud(tmp_path / "a.ply", [], posed=False)


def test_other_files_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.mtl").write_text("newmtl m\nmap_Kd secret.png\n")
    mesh = str(trimesh.creation.box().export(file_type="obj"))
    (tmp_path / "a.obj").write_text("mtllib secret.mtl\nusemtl m\n" + mesh)
    prediction = read_cloud(tmp_path / "a.obj", [], posed=False)
    assert prediction.mesh is not None and len(prediction.mesh.faces) == 12
    (tmp_path / "a.sh").write_text("echo")
    with pytest.raises(InputError, match=r"a \.sh file seen, one of ply, obj, glb"):
        read_cloud(tmp_path / "a.sh", [], posed=False)


def test_ragged_poses(tmp_path: Path) -> None:
    camera = '{"view":"a","width":4,"height":4,"fx":1,"fy":1,"cx":2,"cy":2,"camera_from_world":[[1,0],[0]]}'
    (tmp_path / "cameras.json").write_text(f"[{camera}]")
    with pytest.raises(InputError, match=r"cameras\.json"):
        read_cameras(tmp_path / "cameras.json")


DEEP = b"a = " + b"[" * 100_000


@pytest.mark.parametrize("read", ["adapter", "suite", "protocol"])
def test_deep_toml(read: str, tmp_path: Path) -> None:
    path = tmp_path / f"{read}.toml"
    path.write_bytes(DEEP)
    readers: dict[str, Callable[[], object]] = {
        "adapter": lambda: read_card(path),
        "suite": lambda: load_suite(str(path)),
        "protocol": lambda: load_protocol(str(path)),
    }
    with pytest.raises(InputError, match=f"{read}.toml"):
        readers[read]()


FORGED_TRUTHS: dict[str, tuple[str, str, str]] = {
    "a diameter of zero": ("truth.json", r'"diameter": *[-0-9.e]+', '"diameter": 0.0'),
    "a negative one": ("truth.json", r'"diameter": *[-0-9.e]+', '"diameter": -1.0'),
    "an infinite one": ("truth.json", r'"diameter": *[-0-9.e]+', '"diameter": 1e999'),
    "a ragged pose": ("cameras.json", r'"camera_from_world": *\[', '"camera_from_world": [[1.0], '),
    "no focal length": ("cameras.json", r'"fx": *[-0-9.e]+', '"fx": 0.0'),
}


@pytest.mark.parametrize("what", FORGED_TRUTHS)
def test_a_forged_truth_is_one_sentence(what: str, scene_path: Path, tmp_path: Path) -> None:
    shutil.copytree(scene_path, tmp_path / "scene")
    name, old, new = FORGED_TRUTHS[what]
    path = tmp_path / "scene" / "truth" / "exact" / name
    text, count = re.subn(old, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    with pytest.raises(InputError, match=name):
        Scene.open(tmp_path / "scene").truth("exact")


def test_a_truth_whose_points_are_cut_off(scene_path: Path, tmp_path: Path) -> None:
    shutil.copytree(scene_path, tmp_path / "scene")
    folder = tmp_path / "scene" / "truth" / "exact"
    (folder / "mesh.ply").unlink()
    np.savez(folder / "points.npz", points=np.zeros((9, 3), np.float32), normals=np.zeros((9, 3), np.float32))
    (folder / "points.npz").write_bytes((folder / "points.npz").read_bytes()[:-60])
    with pytest.raises(InputError, match=r"points\.npz: not readable"):
        Scene.open(tmp_path / "scene").truth("exact")
