"""The embedded objects: Scene directories of the procedural family, from seeds that nothing is trained on.

`python -m data.synthetic.objects FOLDER` writes all of them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import point_cloud_utils as pcu
import trimesh
from PIL import Image

from adapters.contract import U8
from data.scene import SURFACE_SAMPLES, CameraFile, SceneFile, TruthFile, ViewFile, write_scene, write_truth
from data.synthetic.shapes import CATEGORIES, FIRST_SEED, Shape, make
from data.synthetic.views import Studio, light_in_camera, poses, shade
from metrics.scoring.truth import diameter

SIZE = 256  # pixels
VIEWS = 12
CELLS = 128
FACES = 6_000
JPEG_QUALITY = 85
PER_CATEGORY = 2  # the second is of a combination of parts that is never trained on


def write_objects(folder: Path) -> None:
    """Write every object as `folder`/CATEGORY-NUMBER."""
    for index in range(PER_CATEGORY * len(CATEGORIES)):
        seed = FIRST_SEED["suite"] + index
        write_object(folder, seed, index // len(CATEGORIES) + 1)


def write_object(folder: Path, seed: int, number: int) -> None:
    """Write the object of `seed` as a Scene directory: 12 views all round, masks, cameras and the exact mesh.

    Frame and unit are the family's: a system that answers in the object's own frame is right without alignment."""
    shape = _reduced(make(seed, CELLS))
    rng = np.random.default_rng([13, seed])
    studio, around = Studio(shape, rng), poses(VIEWS, rng)
    name = f"{shape.category}-{number}"
    out = folder / name
    views, cameras = [], []
    for part in ("images", "masks"):
        (out / part).mkdir(parents=True, exist_ok=True)
    paint = int(rng.integers(2**31))
    for i, pose in enumerate(around):
        label, camera = f"{i:02d}", pose.camera(SIZE)
        cast, depth = studio.cast(pose, SIZE)
        image = _photograph(cast, light_in_camera(pose), paint)
        Image.fromarray(image).save(out / "images" / f"{label}.jpg", quality=JPEG_QUALITY, optimize=True)
        Image.fromarray(depth > 0).save(out / "masks" / f"{label}.png", optimize=True)
        views.append(ViewFile(label, f"images/{label}.jpg", f"masks/{label}.png"))
        K = camera.intrinsics[0]
        pinhole = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
        cameras.append(CameraFile(label, SIZE, SIZE, *pinhole, camera.camera_from_world[0].tolist()))
    kind = "a combination of parts that is not" if shape.held_out else "a combination of parts that is"
    write_scene(
        out,
        SceneFile(
            name=f"objects/{name}",
            title=f"{shape.category.capitalize()} {number}",
            licence="CC0-1.0",
            source=f"Reconbench shapes: data/synthetic/shapes.py, seed {seed}, {kind} in the training split",
            difficulty="textured",
            views=views,
        ),
    )
    exact = out / "truth" / "exact"
    exact.mkdir(parents=True, exist_ok=True)
    mesh = trimesh.Trimesh(shape.vertices.astype(np.float32), shape.faces, process=False)
    (exact / "mesh.ply").write_bytes(trimesh.exchange.ply.export_ply(mesh, vertex_normal=False))
    samples, _ = trimesh.sample.sample_surface(mesh, SURFACE_SAMPLES, seed=0)
    unit = diameter(samples.astype(np.float32))
    write_truth(out, TruthFile(kind="exact", made_by=[], diameter=unit, frame="exact", up=(0, 0, 1)), cameras)


def _reduced(shape: Shape) -> Shape:
    """The shape with a closed mesh of at most `FACES` triangles, its vertices on the surface: what is pictured and
    scored."""
    vertices, faces, _, _ = pcu.decimate_triangle_mesh(shape.vertices, shape.faces.astype(np.int64), FACES)
    step = np.clip(shape.sdf(vertices), -0.005, 0.005)[:, None] * shape.normals(vertices)
    return replace(shape, vertices=np.asarray(vertices - step, np.float64), faces=np.asarray(faces, np.int32))


def _photograph(cast: U8, light: np.ndarray, paint: int) -> U8:
    """(SIZE, SIZE, 3) uint8; the colours of an object and its backdrop are those of the seed `paint` in every view."""
    image = shade(cast[None], light[None], np.random.default_rng(paint))[0]
    return np.asarray(np.round(image.transpose(1, 2, 0) * 255), np.uint8)


if __name__ == "__main__":
    write_objects(Path(sys.argv[1]))
