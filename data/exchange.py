"""Predictions as files that other tools open: PLY, GLB and a COLMAP text model; and clouds from elsewhere, read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from adapters.contract import Cameras, ContractError, InputError, Mesh, Reconstruction, Views, shapes_of
from data.scene import CameraFile

GEOMETRY = ("ply", "obj", "glb", "stl", "off")


def write_files(prediction: Reconstruction, views: Views, names: tuple[str, ...], out: Path) -> list[Path]:
    """Write `prediction.ply`, `prediction.glb`, and where cameras are known `colmap/` (text model, in the
    prediction's frame) and `cameras.json`; `names` are the images' file names. Returns the paths written."""
    out.mkdir(parents=True, exist_ok=True)
    colors = prediction.colors if prediction.colors is not None else np.full((len(prediction.points), 3), 180, np.uint8)
    written = [out / "prediction.ply", out / "prediction.glb"]
    cloud = trimesh.PointCloud(prediction.points, colors=colors)
    shape: trimesh.PointCloud | trimesh.Trimesh = cloud
    if prediction.mesh is not None:
        mesh = prediction.mesh
        shape = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colors, process=False)
    (shape if prediction.mesh is not None else cloud).export(written[0])
    # glTF's y points up where ours points down, and its z towards the viewer where ours points away.
    viewed = shape.copy()
    viewed.apply_transform(np.diag([1.0, -1.0, -1.0, 1.0]))
    viewed.export(written[1])
    if prediction.cameras is not None and prediction.registered is not None:
        written += _write_colmap(prediction, colors, views, names, out / "colmap")
        written.append(out / "cameras.json")
        written[-1].write_bytes(
            msgspec.json.format(msgspec.json.encode(_camera_files(prediction, views, names)), indent=1)
        )
    return written


def _camera_files(prediction: Reconstruction, views: Views, names: tuple[str, ...]) -> list[CameraFile]:
    cameras, registered = prediction.cameras, prediction.registered
    assert cameras is not None and registered is not None
    files = []
    for i in np.flatnonzero(registered):
        K, (height, width) = cameras.intrinsics[i], shapes_of(views.images)[i][:2]
        pose = cameras.camera_from_world[i].tolist()
        pinhole = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
        files.append(CameraFile(Path(names[i]).stem, width, height, *pinhole, pose))
    return files


def _write_colmap(
    prediction: Reconstruction, colors: np.ndarray, views: Views, names: tuple[str, ...], folder: Path
) -> list[Path]:
    """COLMAP's text format: a PINHOLE camera a view, quaternions w first, and every point with the track that is known
    of it: the view and pixel that it came from."""
    folder.mkdir(exist_ok=True)
    assert prediction.cameras is not None and prediction.registered is not None
    cameras, images, points = [], [], []
    tracks = np.full(len(prediction.points), "", object)
    for i in np.flatnonzero(prediction.registered):
        K, pose = prediction.cameras.intrinsics[i], prediction.cameras.camera_from_world[i]
        height, width = shapes_of(views.images)[i][:2]
        pinhole = " ".join(repr(float(value)) for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
        cameras.append(f"{i + 1} PINHOLE {width} {height} {pinhole}")
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = " ".join(repr(float(value)) for value in (w, x, y, z, *pose[:3, 3]))
        observed = ""
        if prediction.view_index is not None and prediction.pixel is not None:
            own = np.flatnonzero(prediction.view_index == i)
            pixels = prediction.pixel[own].tolist()
            observed = " ".join(f"{u:.3f} {v:.3f} {j + 1}" for j, (u, v) in zip(own.tolist(), pixels, strict=True))
            tracks[own] = [f" {i + 1} {k}" for k in range(len(own))]
        images += [f"{i + 1} {numbers} {i + 1} {names[i]}", observed]
    for j, (point, color) in enumerate(zip(prediction.points.tolist(), colors.tolist(), strict=True)):
        place = f"{point[0]!r} {point[1]!r} {point[2]!r} {color[0]} {color[1]} {color[2]} 0"
        points.append(f"{j + 1} {place}{tracks[j]}")
    paths = [folder / "cameras.txt", folder / "images.txt", folder / "points3D.txt"]
    for path, lines in zip(paths, (cameras, images, points), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


def read_cloud(path: Path, cameras: Sequence[CameraFile], posed: bool) -> Reconstruction:
    """A cloud or mesh made elsewhere (PLY, OBJ, GLB ...), with `cameras` of all its views, in order, or none."""
    loaded = load_geometry(path)
    vertices = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))), np.float32)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) == 0:
        raise InputError(f"{path}: no point seen, at least one wanted")
    if not np.isfinite(vertices).all():
        raise InputError(f"{path}: {int((~np.isfinite(vertices)).any(axis=1).sum())} points not finite, all must be")
    mesh = None
    if isinstance(loaded, trimesh.Trimesh) and len(loaded.faces):
        faces = np.asarray(loaded.faces)
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.min() < 0 or faces.max() >= len(vertices):
            low, high = faces.min(initial=0), faces.max(initial=0)
            raise InputError(f"{path}: faces of vertices {low}..{high} seen, 0..{len(vertices) - 1} wanted")
        mesh = Mesh(vertices, faces.astype(np.int32))
    colors = getattr(loaded, "colors", None)
    usable = mesh is None and colors is not None and np.shape(colors) == (len(vertices), 4)
    return Reconstruction(
        points=vertices if mesh is None else np.zeros((0, 3), np.float32),
        frame="world" if posed else "object",
        scale="arbitrary",
        colors=np.ascontiguousarray(np.asarray(colors)[:, :3], np.uint8) if usable else None,
        mesh=mesh,
        cameras=_matrices(cameras) if cameras else None,
        registered=np.ones(len(cameras), np.bool_) if cameras else None,
    )


def load_geometry(path: Path, most: int | None = None) -> object:
    """What trimesh makes of the file. Its parsers raise whatever they stumble over, so that everything is caught.
    InputError for more than `most` bytes."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in GEOMETRY:
        raise InputError(f"{path}: a .{kind} file seen, one of {', '.join(GEOMETRY)} wanted")
    if most is not None and path.is_file() and (size := path.stat().st_size) > most:
        raise InputError(f"{path}: {size} bytes seen, {most} at most wanted")
    try:
        # From memory: a file that names other files is not followed to them.
        loaded = trimesh.load(io.BytesIO(path.read_bytes()), file_type=kind, process=False)
        return loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
    except Exception as error:
        sentence = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable cloud or mesh ({type(error).__name__}: {sentence})") from error


def read_cameras(path: Path) -> list[CameraFile]:
    """The cameras of a `cameras.json`, as `predict` writes it; InputError where one of them is none."""
    try:
        files = msgspec.json.decode(path.read_bytes(), type=list[CameraFile])
        _matrices(files).validate("cameras", len(files))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, ContractError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    return files


def _matrices(files: Sequence[CameraFile]) -> Cameras:
    K = [[[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]] for c in files]
    poses = [c.camera_from_world for c in files]
    return Cameras(
        np.array(K, np.float64).reshape(len(files), 3, 3), np.array(poses, np.float64).reshape(len(files), 4, 4)
    )
