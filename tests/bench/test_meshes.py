"""A system that answers with a mesh, from its worker through store and score to the tables and the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.cli import main
from data.scene import Scene
from metrics.scoring.protocol import MESH_METRICS

CARD = 'name = "mesher"\ntitle = "Mesher"\nlicence_code = "MIT"\nscope = "object"\n'
CODE = '''
import numpy as np
from adapters.contract import Mesh, Reconstruction, Reconstructor
from adapters.shared.objects import field_mesh
class Adapter(Reconstructor):
    """Marching cubes of the scene's own shape, grown by `level`; `cut` leaves faces out."""
    def __init__(self, level: float = 0.0, cut: int = 0) -> None:
        self.level, self.cut = level, cut
    def infer(self, inputs):
        at = np.stack(np.meshgrid(*[np.linspace(-2, 2, 80)] * 3, indexing="ij"), axis=-1)
        scaled = at / [1.0, 0.8, 1.1]
        unit = scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-9)
        x, y, z = np.moveaxis(unit, -1, 0)
        radius = 1 + 0.15 * np.sin(3 * x + 1) * np.cos(2 * y) + 0.2 * np.maximum(z, 0) ** 3
        return (radius - np.linalg.norm(scaled, axis=-1)).astype(np.float32)
    def finish(self, outputs, views):
        vertices, faces = field_mesh(outputs, self.level, -2.0, 2.0)
        return Reconstruction(vertices, "object", "arbitrary", mesh=Mesh(vertices, faces[self.cut:]))
'''


def call(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code


def test_a_mesh_reaches_the_tables_and_the_page(tmp_path: Path, scene: Scene) -> None:
    """Three variants: sound, with a hole, and a level that its field has nowhere."""
    folder = tmp_path / "mesher"
    folder.mkdir()
    (folder / "adapter.toml").write_text(CARD)
    (folder / "adapter.py").write_text(CODE)
    protocol = tmp_path / "asked.toml"  # a protocol of the user's own
    protocol.write_text(
        'name = "asked"\nversion = 1\ndescription = "Meshes."\ncrop = false\nobserved_only = false\nvoxel = 0.0\n'
        "samples = 2000\ndraws = 2\nemd_draws = 0\nnormals = true\nface_normals = true\nvolume = 48\nmesh = true\n"
        'rank_metric = "fscore@2%"\n'
    )
    store, out = tmp_path / "store", tmp_path / "report"
    quick = [
        "--views",
        1,
        "--repeats",
        0,
        "--warmups",
        0,
        "--min-seconds",
        0,
        "--truth",
        "exact",
        "--protocol",
        protocol,
    ]
    for option in ("level=0.0", "cut=40"):
        call("run", "--adapters", f"{folder}/", "--scenes", scene.path, *quick, "--option", option, "--store", store)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                str(word)
                for word in (
                    "run",
                    "--adapters",
                    f"{folder}/",
                    "--scenes",
                    scene.path,
                    *quick,
                    "--option",
                    "level=7.5",
                    "--store",
                    store,
                )
            ]
        )
    assert ended.value.code == 1  # no trial ended well
    call("report", "--store", store, "--protocol", protocol, "--truth", "exact", "--out", out)

    scores = pd.read_csv(out / "scores.csv").set_index(["adapter", "metric"])
    names = ["volume-iou", "normal-consistency", *MESH_METRICS]
    systems = sorted(set(scores.index.get_level_values("adapter")))
    empty, holed, sound = (next(s for s in systems if mark in s) for mark in ("7.5", "cut=40", "level=0.0"))
    of_sound = scores.loc[sound]
    assert of_sound.loc[names, "status"].eq("ok").all()
    assert of_sound.loc["volume-iou", "value"] > 0.9 and of_sound.loc["normal-consistency", "value"] > 0.97
    assert of_sound.loc[["mesh-watertight", "mesh-manifold", "mesh-components"], "value"].tolist() == [1, 1, 1]
    of_holed = scores.loc[holed]
    assert of_holed.loc["volume-iou", "status"] == "failed" and pd.isna(of_holed.loc["volume-iou", "value"])
    assert "not watertight" in of_holed.loc["volume-iou", "note"]
    assert of_holed.loc["mesh-watertight", "value"] == 0 and of_holed.loc["fscore@2%", "status"] == "ok"
    of_empty = scores.loc[empty]
    assert of_empty["status"].eq("failed").all() and of_empty["value"].isna().all()
    assert of_empty["note"].str.contains("invalid_output: mesh: no surface at level 7.5: the field's values are").all()

    board = pd.read_csv(out / "leaderboard.csv").set_index("adapter")
    assert {f"exact.{name}" for name in names} <= set(board.columns)
    assert board.loc[sound, "exact.volume-iou"] == of_sound.loc["volume-iou", "value"]
    assert pd.isna(board.loc[holed, "exact.volume-iou"]) and board.loc[holed, "exact.mesh-watertight"] == 0
    assert "invalid_output" in board.loc[empty, "failures"] or "invalid output" in board.loc[empty, "failures"]
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    for name in names:
        assert name in page, name
