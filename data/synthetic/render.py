"""From a recipe to a Scene directory: mesh, photographs, exact depth, masks, cameras."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import point_cloud_utils as pcu
import trimesh
from numpy.typing import NDArray
from PIL import Image

from adapters.contract import F32, F64, I32, U8, Cameras
from data.scene import SURFACE_SAMPLES, CameraFile, SceneFile, TruthFile, ViewFile, write_scene, write_truth
from data.synthetic.denoise import Denoiser
from data.synthetic.paint import Atlas, bake, corner_normals, encode_srgb, linear, terrazzo
from data.synthetic.rig import WIDTH, orbit
from data.synthetic.sdf import MissingTool, polygonise
from data.synthetic.toy import Look, Toy
from metrics.scoring.truth import diameter

FACES = 22_000
METRE = 0.1  # per decimetre, the unit in which toys are modelled
TEXEL = 0.001  # metres, of the paint on the toy
EXPOSURE = 0.78
JPEG_QUALITY = 85
GUIDE_SPP = 16  # samples a pixel of the denoiser's guides
DEPTH_UNIT = 6e-4  # of the diameter: rounding errs by 0.03% of it at most


def render_scene(
    recipe: Callable[[int], Toy],
    out: Path,
    views: int = 24,
    spp: int = 32,
    seed: int = 0,
    wide_views: int = 8,
    elevation: float | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Model `recipe(seed)`, photograph it and write the Scene directory `out`.

    `views` cameras form group "a", `wide_views` more form group "b" (another focal length); `spp` are the light paths a
    pixel. With an `elevation` in degrees the views of "a" are a level ring at that height. Geometry, cameras and depth
    depend on everything but `spp`, images on `spp` too. Raises MissingTool where a package of the `render` extra is
    absent.
    """
    toy = recipe(seed)
    vertices, faces = polygonise(toy.solid, toy.low, toy.high, toy.cell, FACES)
    normals = corner_normals(vertices, faces)
    atlas = bake(vertices, faces, normals, toy.paint, TEXEL / METRE)
    colours = encode_srgb(toy.paint(vertices.astype(np.float64), _vertex_normals(faces, normals, len(vertices))).colour)
    vertices = (vertices * np.float32(METRE)).astype(np.float32)
    progress(f"{toy.name}: {len(faces)} faces, atlas {atlas.colour.shape[1]}x{atlas.colour.shape[0]}")

    rigs = {"a": orbit(vertices, "a", views, seed, elevation), "b": orbit(vertices, "b", wide_views, seed)}
    shots = [(f"{group}{i:02d}", group, rig.take([i])) for group, rig in rigs.items() for i in range(len(rig))]
    studio = _Studio(toy.look, vertices, faces, normals, atlas, seed)
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    depth: dict[str, F32] = {}
    for number, (name, _, camera) in enumerate(shots):
        depth[name] = z_depth(vertices, faces, camera)
        Image.fromarray(depth[name] > 0).save(out / "masks" / f"{name}.png", optimize=True)
        photo = studio.photograph(camera, spp, seed=seed * 1000 + number)
        Image.fromarray(photo).save(
            out / "images" / f"{name}.jpg", quality=JPEG_QUALITY, subsampling="4:2:0", progressive=True
        )
        progress(f"{toy.name}: {number + 1}/{len(shots)} views, object fills {(depth[name] > 0).mean():.0%}")
    write_scene(
        out,
        SceneFile(
            name=toy.name if seed == 0 else f"{toy.name}-{seed}",
            title=toy.title,
            licence="CC0-1.0",
            source=f"modelled and path-traced by data/synthetic (seed {seed}, {spp} paths a pixel)",
            difficulty=toy.difficulty,
            views=[ViewFile(name, f"images/{name}.jpg", f"masks/{name}.png", group) for name, group, _ in shots],
        ),
    )
    _write_exact(out, vertices, faces, colours, [(name, camera) for name, _, camera in shots], depth)


def z_depth(vertices: F32, faces: I32, camera: Cameras) -> F32:
    """(WIDTH, WIDTH) z-depth in metres of the mesh seen by one camera, through pixel centres; 0 off the mesh."""
    row, column = np.mgrid[0:WIDTH, 0:WIDTH] + 0.5
    pixel = np.stack([column.ravel(), row.ravel()], axis=1)
    rays = camera.unproject(0, pixel, np.ones(len(pixel))) - camera.centres[0]  # z-depth 1: a hit's t is its z-depth
    _, _, t = pcu.ray_mesh_intersection(
        vertices.astype(np.float32), faces, camera.centres[0].astype(np.float32), rays.astype(np.float32)
    )
    return np.where(np.isfinite(t), t, 0.0).astype(np.float32).reshape(WIDTH, WIDTH)


def _vertex_normals(faces: I32, normals: F64, count: int) -> F64:
    total = np.zeros((count, 3))
    np.add.at(total, faces.ravel(), normals.reshape(-1, 3))
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))


def _write_exact(
    out: Path, vertices: F32, faces: I32, colours: U8, shots: list[tuple[str, Cameras]], depth: dict[str, F32]
) -> None:
    """Write `truth/exact`: the mesh, the depth maps and the crop, which leaves the table out."""
    folder = out / "truth" / "exact"
    folder.mkdir(parents=True, exist_ok=True)
    mesh = trimesh.Trimesh(vertices, faces, vertex_colors=colours, process=False)
    (folder / "mesh.ply").write_bytes(trimesh.exchange.ply.export_ply(mesh, vertex_normal=False))
    samples, _ = trimesh.sample.sample_surface(mesh, SURFACE_SAMPLES, seed=0)
    unit = diameter(samples.astype(np.float32))
    low, high = vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)
    low -= 0.02 * unit
    low[2] = 0.01 * unit
    high += 0.02 * unit
    cameras = [
        CameraFile(
            view=name,
            width=WIDTH,
            height=WIDTH,
            fx=float(camera.intrinsics[0, 0, 0]),
            fy=float(camera.intrinsics[0, 1, 1]),
            cx=float(camera.intrinsics[0, 0, 2]),
            cy=float(camera.intrinsics[0, 1, 2]),
            camera_from_world=camera.camera_from_world[0].tolist(),
        )
        for name, camera in shots
    ]
    truth = TruthFile(
        kind="exact",
        made_by=[],
        diameter=unit,
        crop_low=(float(low[0]), float(low[1]), float(low[2])),
        crop_high=(float(high[0]), float(high[1]), float(high[2])),
        depth_unit=DEPTH_UNIT * unit,
        frame="exact",
        up=(0.0, 0.0, 1.0),
    )
    write_truth(out, truth, cameras, depth=dict(depth))


class _Studio:
    """The path-traced set: a stone table, a warm key light, a cool fill, a soft room."""

    def __init__(self, look: Look, vertices: F32, faces: I32, normals: F64, atlas: Atlas, seed: int) -> None:
        try:
            import mitsuba as mi
        except ImportError as error:
            raise MissingTool("mitsuba is not installed: `pip install 'reconbench[render]'` brings it") from error
        if mi.variant() is None:
            # The vectorised renderer needs LLVM; DRJIT_LIBLLVM_PATH names it. The scalar one needs nothing.
            mi.set_variant("llvm_ad_rgb" if "DRJIT_LIBLLVM_PATH" in os.environ else "scalar_rgb")
        self._mi: Any = mi
        try:
            self._denoise: Denoiser | None = Denoiser(WIDTH, WIDTH)
        except OSError:  # the pictures are only noisier without it
            self._denoise = None
        height = float(vertices[:, 2].max())
        reach = float(np.ptp(vertices, axis=0).max())
        self._first_hit = mi.load_dict({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"})
        self._scene = mi.load_dict(
            {
                "type": "scene",
                "integrator": {"type": "path", "max_depth": 6, "rr_depth": 4},
                "room": self._room(look),
                "key": self._softbox((0.95, 0.80, 1.05), height, reach, 0.30, (1.0, 0.90, 0.76), 112.0),
                "rim": self._softbox((-1.00, -0.60, 1.20), height, reach, 0.40, (0.72, 0.86, 1.0), 9.0),
                "table": self._table(look, 1.05 * reach, seed),
                "toy": self._toy(vertices, faces, normals, atlas),
            }
        )

    def photograph(self, camera: Cameras, spp: int, seed: int) -> U8:
        """(WIDTH, WIDTH, 3) sRGB, tone-mapped with K. Narkowicz's fit of the ACES curve."""
        mi = self._mi
        pose, f = camera.camera_from_world[0], float(camera.intrinsics[0, 0, 0])
        world_from_camera = np.linalg.inv(pose) @ np.diag([-1.0, -1.0, 1.0, 1.0])  # Mitsuba's x is left, y is up
        sensor = mi.load_dict(
            {
                "type": "perspective",
                "fov": float(np.rad2deg(2 * np.arctan(WIDTH / 2 / f))),
                "fov_axis": "x",
                "near_clip": 0.02,
                "far_clip": 50.0,
                "to_world": mi.ScalarTransform4f(world_from_camera),
                "film": {"type": "hdrfilm", "width": WIDTH, "height": WIDTH, "rfilter": {"type": "box"}},
                "sampler": {"type": "independent", "sample_count": spp},
            }
        )
        colour = np.array(mi.render(self._scene, sensor=sensor, spp=spp, seed=seed), np.float32)[..., :3]
        if self._denoise is not None:
            first_hit = mi.render(self._scene, integrator=self._first_hit, sensor=sensor, spp=GUIDE_SPP, seed=seed)
            guides = np.array(first_hit, np.float32)
            colour = self._denoise(colour, guides[..., :3], guides[..., 3:6])
        x = colour.astype(np.float64) * EXPOSURE
        return encode_srgb(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14))

    def _texture(self, image: F32) -> dict[str, Any]:
        bitmap = self._mi.Bitmap(image if image.ndim == 3 else image[..., None])
        return {"type": "bitmap", "bitmap": bitmap, "raw": True, "wrap_mode": "clamp"}

    def _room(self, look: Look) -> dict[str, Any]:
        """Walls that darken downwards under a paler ceiling, y up as Mitsuba has it, turned to z up."""
        wall, ceiling = linear(look.wall, look.ceiling)
        up = np.cos(np.linspace(0, np.pi, 128))[:, None, None]
        sky = np.where(up > 0, wall + (ceiling - wall) * np.clip(up, 0, 1) ** 0.8, wall * (1 + 0.5 * up))
        image = np.ascontiguousarray(np.broadcast_to(0.34 * sky, (128, 256, 3)), np.float32)
        to_world = self._mi.ScalarTransform4f().rotate([1, 0, 0], 90)
        return {"type": "envmap", "bitmap": self._mi.Bitmap(image), "to_world": to_world}

    def _softbox(
        self,
        towards: tuple[float, float, float],
        height: float,
        reach: float,
        size: float,
        tint: tuple[float, float, float],
        radiance: float,
    ) -> dict[str, Any]:
        """A square area light in the direction `towards`, its distance and size in proportion to the toy."""
        mi, direction = self._mi, np.array(towards)
        target = np.array([0, 0, height / 2])
        origin = target + direction * reach * 1.9
        place = mi.ScalarTransform4f().look_at(origin=origin.tolist(), target=target.tolist(), up=[0, 0, 1])
        return {
            "type": "rectangle",
            "to_world": place @ mi.ScalarTransform4f().scale(size * reach),
            "emitter": {"type": "area", "radiance": {"type": "rgb", "value": [radiance * t for t in tint]}},
        }

    def _table(self, look: Look, radius: float, seed: int) -> Any:
        """A round stone top of `radius` metres at z = 0, its rim bevelled."""
        stone = terrazzo(2 * radius, 1024, look.ground, linear(*look.chips), look.sizes, seed)
        angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rings = [(0.0, 0.0), (0.985, 0.0), (0.995, -0.004), (1.0, -0.012), (1.0, -0.05)]  # share of the radius, height
        vertices = np.concatenate([np.column_stack([circle * share * radius, np.full(180, z)]) for share, z in rings])
        i, j = np.arange(180), (np.arange(180) + 1) % 180
        strips = [
            np.concatenate([np.stack([i, i + 180, j + 180], 1), np.stack([i, j + 180, j], 1)]) + 180 * k
            for k in range(4)
        ]
        uv = 0.5 + vertices[:, :2] / (2 * radius)
        bsdf = {"type": "diffuse", "reflectance": self._texture(stone)}
        return self._mesh(vertices, np.concatenate(strips), None, uv, bsdf)

    def _toy(self, vertices: F32, faces: I32, normals: F64, atlas: Atlas) -> Any:
        """Every corner becomes a vertex of its own, so that each has its place in the atlas."""
        bsdf = {
            "type": "principled",
            "base_color": self._texture(atlas.colour),
            "roughness": self._texture(atlas.roughness),
            "metallic": self._texture(atlas.metallic),
            "clearcoat": self._texture(atlas.clearcoat),
            "clearcoat_gloss": 0.95,
            "specular": 0.4,
        }
        corners = np.arange(3 * len(faces)).reshape(-1, 3)
        return self._mesh(
            vertices[faces].reshape(-1, 3), corners, normals.reshape(-1, 3), atlas.uv.reshape(-1, 2), bsdf
        )

    def _mesh(
        self,
        vertices: NDArray[np.floating],
        faces: NDArray[np.integer],
        normals: NDArray[np.floating] | None,
        uv: NDArray[np.floating],
        bsdf: dict[str, Any],
    ) -> Any:
        mi = self._mi
        mesh = mi.Mesh(
            "mesh", len(vertices), len(faces), has_vertex_normals=normals is not None, has_vertex_texcoords=True
        )
        fields = mi.traverse(mesh)
        fields["vertex_positions"] = vertices.astype(np.float32).ravel()
        fields["vertex_texcoords"] = uv.astype(np.float32).ravel()
        fields["faces"] = faces.astype(np.uint32).ravel()
        if normals is not None:
            fields["vertex_normals"] = normals.astype(np.float32).ravel()
        fields.update()
        with tempfile.TemporaryDirectory() as folder:  # a mesh takes its material when it is read
            path = str(Path(folder) / "mesh.ply")
            mesh.write_ply(path)
            shape = {"type": "ply", "filename": path, "face_normals": normals is None}
            return mi.load_dict(shape | {"bsdf": {"type": "twosided", "bsdf": bsdf}})
