"""The world of `world.py` in the on-disk layout of every dataset, written from the datasets' own descriptions."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from tests.data.catalog.world import SIZE, VIEWS, World, color_of

F64 = NDArray[np.float64]
# Where the layout lets them be: two focal lengths, a principal point off the middle.
K_ANY = np.array([[150.0, 0, 83.5], [0, 156.0, 57.25], [0, 0, 1]])
K_MIDDLE = np.array([[150.0, 0, 80.0], [0, 150.0, 60.0], [0, 0, 1]])
K_KINECT = np.array([[525 / 4, 0, 320.5 / 4], [0, 525 / 4, 240.5 / 4], [0, 0, 1]])
K_KINECT_DEPTH = np.array([[585 / 4, 0, 320.5 / 4], [0, 585 / 4, 240.5 / 4], [0, 0, 1]])
HALF = np.array([[1.0, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # into pixels whose centres are whole numbers
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
UTM = np.array([431_234.56, 5_412_345.67, 412.3])


@dataclass(frozen=True)
class Miniature:
    """A written layout, and what an import of it must say."""

    path: Path
    world: World
    kind: str
    depth: bool = True
    masks: bool = False
    truth_from_world: F64 | None = None  # similarity (4, 4) of the truth's own coordinates, offset included
    own_views: bool = False  # the importer stands its own cameras
    bent: bool = False  # photos are straightened, so that the cameras are others
    trusted: bool = False  # the truth says where it can judge
    coarse: bool = False  # depth maps are smaller than the photos


def _save(path: Path, image: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 98, "subsampling": 0} if path.suffix.lower() == ".jpg" else {}))


def _text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _row(values: NDArray[np.floating]) -> str:
    return " ".join(repr(float(value)) for value in values)


def write_ply(path: Path, points: F64, normals: F64 | None = None, double: bool = False) -> None:
    """A binary PLY as scanners write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, code = ("double", "<f8") if double else ("float", "<f4")
    fields = [(axis, code) for axis in "xyz"] + ([(f"n{axis}", "<f4") for axis in "xyz"] if normals is not None else [])
    data = np.zeros(len(points), [*fields, ("red", "u1"), ("green", "u1"), ("blue", "u1")])
    for i, axis in enumerate("xyz"):
        data[axis] = points[:, i]
        if normals is not None:
            data[f"n{axis}"] = normals[:, i]
    names = {"<f8": "double", "<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [
        f"property {kind if n in 'xyz' else names[str(data.dtype[n].str).replace('|', '')]} {n}"
        for n in data.dtype.names
    ]
    path.write_bytes(("\n".join([*header, "end_header"]) + "\n").encode() + data.tobytes())


def colmap_model(
    folder: Path, world: World, names: list[str], camera: str, points: F64, poses: F64 | None = None
) -> None:
    """COLMAP's text model: quaternions w first, world to camera, two lines an image."""
    images = []
    for i, (name, pose) in enumerate(zip(names, world.poses if poses is None else poses, strict=True)):
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        images += [f"{i + 1} {_row(np.array([w, x, y, z, *pose[:3, 3]]))} 1 {name}", ""]
    _text(folder / "cameras.txt", ["# cameras", f"1 {camera}"])
    _text(folder / "images.txt", ["# images", *images])
    colors = color_of(points)
    rows = [f"{i + 1} {_row(p)} {c[0]} {c[1]} {c[2]} 0.5" for i, (p, c) in enumerate(zip(points, colors, strict=True))]
    _text(folder / "points3D.txt", ["# points", *rows])


def _pinhole(world: World) -> str:
    K = world.K
    return f"PINHOLE {world.size[0]} {world.size[1]} {_row(np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]]))}"


def colmap(root: Path) -> Miniature:
    world = World(K_ANY)
    path = root / "workspace"
    names = [f"cam-{i}/shot.{i}.jpg" for i in range(VIEWS)]
    points, normals = world.samples
    colmap_model(path / "sparse", world, names, _pinhole(world), points[:50])
    write_ply(path / "fused.ply", points, normals)
    for i, name in enumerate(names):
        image, depth = world.render(i)
        _save(path / "images" / name, image)
        _save(path / "masks" / f"{name}.png", ((depth > 0) * 255).astype(np.uint8))
        file = path / "stereo" / "depth_maps" / f"{name}.geometric.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"{SIZE[0]}&{SIZE[1]}&1&".encode() + depth.astype("<f4").tobytes())
    return Miniature(path, world, "colmap", masks=True)


BEND = (0.08, -0.03, 0.004, -0.003)  # k1, k2, p1, p2


def bent_pixels(world: World) -> F64:
    """(H, W, 2) the direction x, y of the ray that each pixel of an OPENCV camera takes: by fixed-point steps."""
    k1, k2, p1, p2 = BEND
    width, height = world.size
    y, x = np.mgrid[:height, :width] + 0.5
    wanted = np.stack([(x - world.K[0, 2]) / world.K[0, 0], (y - world.K[1, 2]) / world.K[1, 1]], -1)
    ray = wanted.copy()
    for _ in range(60):
        u, v = ray[..., 0], ray[..., 1]
        r2 = u * u + v * v
        radial = k1 * r2 + k2 * r2 * r2
        du = u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
        dv = v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
        ray = wanted - np.stack([du, dv], -1)
    return ray


def _bent(world: World, view: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    ray = bent_pixels(world)
    rays = np.concatenate([ray, np.ones((*ray.shape[:2], 1))], -1).reshape(-1, 3)
    image, depth = world.trace(view, rays)
    return image.reshape(*ray.shape[:2], 3), depth.reshape(ray.shape[:2])


def mvimgnet(root: Path) -> Miniature:
    world = World(K_ANY)
    path = root / "7" / "1a00b2"
    names = [f"{i + 1:03d}.jpg" for i in range(VIEWS)]
    K = world.K
    camera = f"OPENCV {SIZE[0]} {SIZE[1]} {_row(np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2], *BEND]))}"
    colmap_model(path / "sparse" / "0", world, names, camera, world.samples[0])
    for i, name in enumerate(names):
        _save(path / "images" / name, _bent(world, i)[0])
    return Miniature(path, world, "colmap", depth=False, bent=True)


def nerfstudio(root: Path) -> Miniature:
    world = World(K_ANY)
    K, frames = world.K, []
    for i in range(VIEWS):
        image, depth = world.render(i)
        _save(root / "images" / f"frame_{i:05d}.png", image)
        _save(
            root / "depth" / f"{i:05d}.png", (depth[::2, ::2] * 1000).round().astype(np.uint16)
        )  # smaller than the photo
        pose = (np.linalg.inv(world.poses[i]) @ OPENGL).tolist()
        frames.append(
            {
                "file_path": f"images/frame_{i:05d}.png",
                "transform_matrix": pose,
                "depth_file_path": f"depth/{i:05d}.png",
            }
        )
    meta = {
        "camera_model": "OPENCV",
        "fl_x": K[0, 0],
        "fl_y": K[1, 1],
        "cx": K[0, 2],
        "cy": K[1, 2],
        "w": SIZE[0],
        "h": SIZE[1],
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "ply_file_path": "sparse_pc.ply",
        "frames": frames[::-1],
    }
    write_ply(root / "sparse_pc.ply", world.samples[0])
    (root / "transforms.json").write_text(json.dumps(meta))
    return Miniature(root, world, "colmap", coarse=True)


def co3d(root: Path) -> Miniature:
    world = World(K_ANY)
    K, short = world.K, min(SIZE) / 2
    sequence, frames = "110_13051_23361", []
    base = f"teddybear/{sequence}"
    turned = np.diag([-1.0, -1.0, 1.0])
    for i in range(VIEWS):
        image, depth = world.render(i)
        stem = f"frame{i + 1:06d}"
        _save(root / base / "images" / f"{stem}.jpg", image)
        _save(root / base / "masks" / f"{stem}.png", ((depth > 0) * 200).astype(np.uint8))
        halves = (depth / 1.25).astype(np.float16).view(np.uint16)
        _save(root / base / "depths" / f"{stem}.jpg.geometric.png", halves)
        _save(root / base / "depth_masks" / f"{stem}.png", ((depth > 0) * 255).astype(np.uint8))
        isotropic = i % 2 == 0
        half = np.array([short, short]) if isotropic else np.array(SIZE) / 2
        frames.append(
            {
                "sequence_name": sequence,
                "frame_number": i,
                "frame_timestamp": i / 10,
                "image": {"path": f"{base}/images/{stem}.jpg", "size": [SIZE[1], SIZE[0]]},
                "depth": {
                    "path": f"{base}/depths/{stem}.jpg.geometric.png",
                    "scale_adjustment": 1.25,
                    "mask_path": f"{base}/depth_masks/{stem}.png",
                },
                "mask": {"path": f"{base}/masks/{stem}.png", "mass": 1.0},
                "viewpoint": {
                    "R": (turned @ world.poses[i, :3, :3]).T.tolist(),
                    "T": (turned @ world.poses[i, :3, 3]).tolist(),
                    "focal_length": (np.array([K[0, 0], K[1, 1]]) / half).tolist(),
                    "principal_point": ((np.array(SIZE) / 2 - [K[0, 2], K[1, 2]]) / half).tolist(),
                    "intrinsics_format": "ndc_isotropic" if isotropic else "ndc_norm_image_bounds",
                },
            }
        )
    frames.append({**frames[0], "sequence_name": "another"})
    write_ply(root / base / "pointcloud.ply", world.samples[0])
    with gzip.open(root / "teddybear" / "frame_annotations.jgz", "wb") as file:
        file.write(json.dumps(frames).encode())
    return Miniature(root / base, world, "colmap", masks=True)


def _similarity(scale: float, rotation: tuple[float, float, float], move: F64) -> F64:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = scale * Rotation.from_euler("xyz", rotation).as_matrix(), move
    return out


def _apply(matrix: F64, points: F64) -> F64:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def dtu(root: Path) -> Miniature:
    world = World(K_ANY)
    millimetres = _similarity(300.0, (0, 0, 0), np.array([20.0, -30.0, 600.0]))
    to_full = np.diag([10.0, 10.0, 1.0])  # calibration is of 1600 x 1200
    for i in range(VIEWS):
        _save(root / "Rectified" / "scan6" / f"rect_{i + 1:03d}_3_r5000.png", world.render(i)[0])
        _save(root / "Rectified" / "scan6" / f"rect_{i + 1:03d}_0_r5000.png", np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
        pose = world.poses[i] @ np.linalg.inv(millimetres)
        P = -0.02 * HALF @ to_full @ world.K @ pose[:3]  # up to scale and sign
        _text(root / "Calibration" / "cal18" / f"pos_{i + 1:03d}.txt", [_row(row) for row in P])
    points = _apply(millimetres, world.samples[0])
    write_ply(root / "Points" / "stl" / "stl006_total.ply", points)
    low, high = points.min(axis=0) - 40.0, points.max(axis=0) + 40.0
    shape = np.ceil((high - low) / 8.0).astype(int) + 1
    (root / "ObsMask").mkdir()
    savemat(
        root / "ObsMask" / "ObsMask6_10.mat",
        {"ObsMask": np.ones(shape, np.uint8), "BB": np.stack([low, high]), "Res": 8.0},
    )
    floor = float(_apply(millimetres, np.array([[0, 0, 0.1]]))[0, 2])
    savemat(root / "ObsMask" / "Plane6.mat", {"P": np.array([[0.0], [0.0], [1.0], [-floor]])})
    return Miniature(
        root / "Rectified" / "scan6", world, "scan", depth=False, truth_from_world=millimetres, trusted=True
    )


def eth3d(root: Path) -> Miniature:
    world = World(K_ANY)
    path = root / "courtyard"
    names = [f"dslr_images_undistorted/DSC_{286 + i:04d}.JPG" for i in range(VIEWS)]
    points, _ = world.samples
    colmap_model(path / "dslr_calibration_undistorted", world, names, _pinhole(world), points[:20])
    for i, name in enumerate(names):
        _save(path / "images" / name, world.render(i)[0])
    meshes = []
    for number, part in enumerate((points[::2], points[1::2])):
        world_from_scan = _similarity(1.0, (0.3 + number, -0.4, 1.1), np.array([3.0, -2.0, 1.0 + number]))
        write_ply(path / "dslr_scan_eval" / f"scan{number + 1}.ply", _apply(np.linalg.inv(world_from_scan), part))
        rows = "\n".join(_row(row) for row in world_from_scan)
        name = f"scan{number + 1}.ply"
        meshes.append(f'<MLMesh label="{name}" filename="{name}">\n<MLMatrix44>\n{rows}\n</MLMatrix44>\n</MLMesh>')
    body = "\n".join(meshes)
    _text(
        path / "dslr_scan_eval" / "scan_alignment.mlp",
        [f"<!DOCTYPE MeshLabDocument>\n<MeshLabProject>\n<MeshGroup>\n{body}\n</MeshGroup>\n</MeshLabProject>"],
    )
    return Miniature(path, world, "scan", depth=False)


def tanks_and_temples(root: Path) -> Miniature:
    world = World(K_ANY)
    path = root / "Ignatius"
    scan_from_colmap = _similarity(2.5, (0.2, -0.7, 1.3), np.array([1.0, 4.0, -2.0]))
    scan_from_world = _similarity(0.8, (0.1, 0.5, -0.4), np.array([0.3, -0.1, 0.2]))
    names, log = [f"{i + 1:06d}.jpg" for i in range(VIEWS)], list[str]()
    points = _apply(scan_from_world, world.samples[0])
    colmap_from_world = np.linalg.inv(scan_from_colmap) @ scan_from_world
    scale = float(np.cbrt(np.linalg.det(colmap_from_world[:3, :3])))
    for i, name in enumerate(names):
        _save(path / "images" / name, world.render(i)[0])
        pose = np.eye(4)
        pose[:3, :3] = world.poses[i, :3, :3] @ (colmap_from_world[:3, :3] / scale).T
        pose[:3, 3] = scale * world.poses[i, :3, 3] - pose[:3, :3] @ colmap_from_world[:3, 3]
        log += [f"{i} {i} 0", *(_row(row) for row in np.linalg.inv(pose))]
    _text(path / "Ignatius_COLMAP_SfM.log", log)
    _text(path / "Ignatius_trans.txt", [_row(row) for row in scan_from_colmap])
    colmap_model(path / "sparse" / "0", world, names, _pinhole(world), points[:20])
    low, high = points.min(axis=0) - 0.05, points.max(axis=0) + 0.05
    corners = [[low[0], 0, low[2]], [high[0], 0, low[2]], [high[0], 0, high[2]], [low[0], 0, high[2]]]
    volume = {
        "class_name": "SelectionPolygonVolume",
        "orthogonal_axis": "Y",
        "axis_min": low[1],
        "axis_max": high[1],
        "bounding_polygon": corners,
        "version_major": 1,
    }
    (path / "Ignatius.json").write_text(json.dumps(volume))
    middle, out = (low + high) / 2, np.diag(high - low)
    write_ply(path / "Ignatius.ply", np.concatenate([points, middle + out, middle - out]))  # beyond each side a point
    return Miniature(path, world, "scan", depth=False, truth_from_world=scan_from_world)


def seven_scenes(root: Path) -> Miniature:
    world = World(K_KINECT)
    path = root / "chess" / "seq-01"
    for i in range(VIEWS):
        image, depth = world.render(i)
        stem = f"frame-{i:06d}"
        _save(path / f"{stem}.color.png", image)
        for name, own in (("depth.proj", depth), ("depth", world.render(i, K_KINECT_DEPTH)[1])):
            coded = np.where(own > 0, (own * 1000).round(), 65535).astype(np.uint16)
            _save(path / f"{stem}.{name}.png", coded)
        _text(path / f"{stem}.pose.txt", ["\t".join(map(repr, row)) for row in np.linalg.inv(world.poses[i]).tolist()])
    return Miniature(path, world, "scan")


def nrgbd(root: Path) -> Miniature:
    world = World(K_MIDDLE)
    path, lines = root / "green_room", list[str]()
    for i in range(VIEWS):
        image, depth = world.render(i)
        number = 8 + i  # 10 sorts before 8 by name
        _save(path / "images" / f"img{number}.png", image)
        _save(path / "depth" / f"depth{number}.png", (depth * 1000).round().astype(np.uint16))
    for number in range(8 + VIEWS):
        pose = np.linalg.inv(world.poses[number - 8]) @ OPENGL if number >= 8 else np.full((4, 4), np.nan)
        lines += [_row(row) for row in pose]
    _text(path / "poses.txt", lines)
    _text(path / "focal.txt", [repr(float(world.K[0, 0]))])
    return Miniature(path, world, "scan")


def blendedmvs(root: Path) -> Miniature:
    world = World(K_ANY)
    path = root / "5bfe5ae0fe0ea555e6a969ca"
    (path / "rendered_depth_maps").mkdir(parents=True)
    for i in range(VIEWS):
        image, depth = world.render(i)
        _save(path / "blended_images" / f"{i:08d}.jpg", image)
        _save(path / "blended_images" / f"{i:08d}_masked.jpg", np.zeros_like(image))
        lines = [
            "extrinsic",
            *(_row(row) for row in world.poses[i]),
            "",
            "intrinsic",
            *(_row(row) for row in world.K),
            "",
        ]
        _text(path / "cams" / f"{i:08d}_cam.txt", [*lines, "1.2 0.01 128 3.4"])
        header = f"Pf\n{SIZE[0]} {SIZE[1]}\n-1.000000\n".encode()
        (path / "rendered_depth_maps" / f"{i:08d}.pfm").write_bytes(header + np.flipud(depth).astype("<f4").tobytes())
    _text(path / "cams" / "pair.txt", ["0"])
    return Miniature(path, world, "scan")


def write_exr(path: Path, channels: dict[str, NDArray[np.float32]]) -> None:
    """An OpenEXR file of scan lines, ZIP, float channels in the order of their names, as Blender writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = next(iter(channels.values())).shape

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value

    listed = b"".join(name.encode() + b"\0" + struct.pack("<iBxxxii", 2, 0, 1, 1) for name in sorted(channels))
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = struct.pack("<II", 20000630, 2) + attribute("channels", "chlist", listed + b"\0")
    header += attribute("compression", "compression", b"\3") + attribute("dataWindow", "box2i", window)
    header += attribute("displayWindow", "box2i", window) + attribute("lineOrder", "lineOrder", b"\0")
    header += attribute("pixelAspectRatio", "float", struct.pack("<f", 1)) + attribute(
        "screenWindowWidth", "float", struct.pack("<f", 1)
    )
    header += attribute("screenWindowCenter", "v2f", struct.pack("<ff", 0, 0)) + b"\0"
    blocks = []
    for first in range(0, height, 16):
        rows = range(first, min(first + 16, height))
        raw = b"".join(channels[name][row].astype("<f4").tobytes() for row in rows for name in sorted(channels))
        split = np.frombuffer(raw[::2] + raw[1::2], np.uint8).astype(np.int64)
        split[1:] = (np.diff(split) + 128) % 256
        packed = zlib.compress(split.astype(np.uint8).tobytes())
        data = packed if len(packed) < len(raw) else raw
        blocks.append(struct.pack("<iI", first, len(data)) + data)
    offset, table = len(header) + 8 * len(blocks), b""
    for block in blocks:
        table, offset = table + struct.pack("<Q", offset), offset + len(block)
    path.write_bytes(header + table + b"".join(blocks))


def omniobject3d(root: Path) -> Miniature:
    world = World(K_MIDDLE)
    path, frames = root / "blender_renders" / "anise" / "anise_001", []
    for i in range(VIEWS):
        image, depth = world.render(i)
        alpha = ((depth > 0) * 255).astype(np.uint8)
        _save(path / "render" / "images" / f"r_{i}.png", np.dstack([image, alpha]))
        values = np.where(depth > 0, depth, np.float32(65504))
        write_exr(path / "render" / "depths" / f"r_{i}_depth.exr", dict.fromkeys("RGB", values))
        pose = np.linalg.inv(world.poses[i]) @ OPENGL
        frames.append({"file_path": f"r_{i}", "rotation": 0.1, "transform_matrix": pose.tolist()})
    angle = 2 * np.arctan(0.5 * SIZE[0] / world.K[0, 0])
    (path / "render" / "transforms.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return Miniature(path, world, "scan", masks=True)


def spatialbench(root: Path) -> Miniature:
    world = World(K_ANY)
    path = root / "sparse" / "droid" / "Fri_Jul_14"
    for folder in ("poses", "intrinsics"):
        (path / folder).mkdir(parents=True)
    for i in range(VIEWS):
        image, depth = world.render(i)
        noise = depth.copy()
        noise[:4] = 1.0  # what the mask takes out
        _save(path / "images" / f"{i:05d}.png", image)
        _save(path / "depths" / f"{i:05d}.png", (noise * 1000).round().astype(np.uint16))
        keep = np.ones_like(depth, np.uint8)
        keep[:4] = 0
        _save(path / "depth_masks" / f"{i:05d}.png", keep)
        np.save(path / "poses" / f"{i:05d}.npy", np.linalg.inv(world.poses[i])[:3].astype(np.float64))
    np.save(path / "intrinsics" / "intrinsic.npy", HALF @ world.K)
    meta = {"depth_format": "uint16_png_div1000", "intrinsic_mode": "shared", "tags": {"view_density": "sparse"}}
    (path / "meta.json").write_text(json.dumps(meta))
    return Miniature(path, world, "scan")


def google_scanned_objects(root: Path) -> Miniature:
    world = World(K_MIDDLE)
    path = root / "Weighted_Post"
    vertices, faces = world.vertices, world.faces
    side = int(np.ceil(np.sqrt(len(faces))))
    texture = np.zeros((side * 4, side * 4, 3), np.uint8)
    colors = color_of(vertices[faces].mean(axis=1))
    lines = ["mtllib model.mtl", "usemtl material_0", *(f"v {_row(v)}" for v in vertices)]
    for i, color in enumerate(colors):
        row, column = divmod(i, side)
        texture[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = color
        lines.append(f"vt {(column + 0.5) / side!r} {1 - (row + 0.5) / side!r}")  # v upwards
    lines += [f"f {a + 1}/{i + 1} {b + 1}/{i + 1} {c + 1}/{i + 1}" for i, (a, b, c) in enumerate(faces.tolist())]
    _text(path / "meshes" / "model.obj", lines)
    _save(path / "materials" / "textures" / "texture.png", texture)
    return Miniature(path, world, "exact", masks=True, own_views=True)


MINIATURES: dict[str, Callable[[Path], Miniature]] = {
    "blendedmvs": blendedmvs,
    "co3d": co3d,
    "colmap": colmap,
    "dtu": dtu,
    "eth3d": eth3d,
    "google-scanned-objects": google_scanned_objects,
    "mvimgnet": mvimgnet,
    "nerfstudio": nerfstudio,
    "nrgbd": nrgbd,
    "omniobject3d": omniobject3d,
    "seven-scenes": seven_scenes,
    "spatialbench": spatialbench,
    "tanks-and-temples": tanks_and_temples,
}


def mesh_of(miniature: Miniature) -> trimesh.Trimesh:
    """The solid in the coordinates that the truth must have."""
    vertices = miniature.world.vertices
    if miniature.truth_from_world is not None:
        vertices = _apply(miniature.truth_from_world, vertices)
    return trimesh.Trimesh(vertices, miniature.world.faces, process=False)
