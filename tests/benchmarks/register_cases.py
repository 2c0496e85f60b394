"""Shapes and error models for the registration benchmark: what predicted clouds suffer from, with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh
from numba import njit
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from trimesh.creation import box, cone, cylinder, icosphere, revolve, torus

from metrics.similarity import apply, invert, similarity

F64 = NDArray[np.float64]
POINTS = 10_000


@dataclass(frozen=True)
class Scenario:
    """An error model."""

    noise: float = 0.005  # standard deviation, share of the truth's diagonal
    floaters: float = 0.0  # share of the points
    kept: float = 1.0  # share of the surface, cut by a random plane
    views: bool = False  # depth maps of five virtual cameras instead


SCENARIOS = {
    "clean": Scenario(),
    "floaters 20%": Scenario(floaters=0.2),
    "overlap 70%": Scenario(kept=0.7),
    "overlap 60%, floaters 20%": Scenario(floaters=0.2, kept=0.6),
    "noise 2%, overlap 85%, floaters 20%": Scenario(noise=0.02, floaters=0.2, kept=0.85),
    "overlap 60%, floaters 40%": Scenario(floaters=0.4, kept=0.6),
    "overlap 50%, floaters 30%, noise 1%": Scenario(noise=0.01, floaters=0.3, kept=0.5),
    "five views": Scenario(views=True),
}
FIVE = tuple(SCENARIOS)[:5]


@dataclass(frozen=True)
class Case:
    """A predicted cloud, the truth, and the similarity between them."""

    pred: F64  # (M, 3)
    truth: F64  # (K, 3)
    truth_from_pred: F64  # (4, 4)


def at(mesh: trimesh.Trimesh, *where: float, turn: tuple[float, float, float] = (0, 0, 0), stretch: object = None):
    """A copy of `mesh`, stretched, turned (Euler angles, radians) and moved."""
    mesh = mesh.copy()
    if stretch is not None:
        mesh.apply_scale(stretch)
    mesh.apply_transform(trimesh.transformations.euler_matrix(*turn))
    mesh.apply_translation(where or (0, 0, 0))
    return mesh


def rod(a: tuple[float, ...], b: tuple[float, ...], radius: float = 0.03) -> trimesh.Trimesh:
    return cylinder(radius, segment=[a, b], sections=16)


def lumps(seed: int, count: int, low: float, high: float, widths: tuple[float, float]) -> trimesh.Trimesh:
    """A sphere with smooth lumps and dents."""
    rng = np.random.default_rng(seed)
    ball = icosphere(5, 1.0)
    radius = np.ones(len(ball.vertices))
    for _ in range(count):
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        bump = np.exp(-((ball.vertices - way) ** 2).sum(axis=1) / (2 * rng.uniform(*widths)))
        radius += rng.uniform(low, high) * bump
    return trimesh.Trimesh(ball.vertices * radius[:, None], ball.faces, process=False)


def profile(waist: float = 0.25) -> F64:
    """(61, 2) radius and height of a vase."""
    height = np.linspace(0, 2, 60)
    radius = 0.45 + waist * np.sin(2.6 * height + 0.3) - 0.05 * height
    return np.concatenate([[[0, 0]], np.stack([radius, height], axis=1)])


def union(*parts: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.util.concatenate(list(parts))


def common_shapes() -> dict[str, trimesh.Trimesh]:
    """Five everyday shapes."""
    legs = [at(box((0.1, 0.1, 0.9)), x, y, -0.45) for x in (-0.45, 0.45) for y in (-0.45, 0.45)]
    chair = union(
        box((1, 1, 0.1)), at(box((1, 0.1, 1.2)), 0, 0.45, 0.6), *legs, at(box((0.1, 0.8, 0.1)), 0.5, 0, 0.4),
        at(icosphere(3, 0.15), -0.3, 0.4, 1.3),
    )  # fmt: skip
    mug = union(
        cylinder(0.5, 1.2, sections=64), at(torus(0.35, 0.08), 0.6, 0, 0.1, turn=(np.pi / 2, 0, 0)),
        at(box((0.3, 0.2, 0.2)), 0, -0.55, 0.3),
    )  # fmt: skip
    blob = at(lumps(3, 9, -0.25, 0.6, (0.04, 0.25)), stretch=[1, 0.8, 0.7])
    limbs = [at(cylinder(0.12, 0.9, sections=24), x, y, -0.7) for x in (-0.7, 0.7) for y in (-0.25, 0.25)]
    ears = [at(cylinder(0.05, 0.5, sections=16), 1.25, y, 0.95, turn=(0.3, 0, 0)) for y in (0.2, -0.2)]
    animal = union(
        at(icosphere(4, 1), stretch=[1.2, 0.5, 0.5]), at(icosphere(4, 0.4), 1.3, 0, 0.5),
        at(icosphere(3, 0.12), 1.7, 0.05, 0.45), *limbs, *ears,
        at(cylinder(0.06, 0.9, sections=16), -1.4, 0.1, 0.4, turn=(0, -0.7, 0.2)),
    )  # fmt: skip
    scene = union(
        box((4, 3, 0.02)), at(box((0.02, 3, 1.5)), -2, 0, 0.75), at(box((0.8, 0.6, 0.7)), -1, 0.7, 0.35),
        at(cylinder(0.3, 1.1, sections=32), 0.9, -0.6, 0.55), at(icosphere(4, 0.4), 1.2, 0.8, 0.4),
        at(box((1.2, 0.3, 0.3)), 0, -1, 0.15, turn=(0, 0, 0.4)),
    )  # fmt: skip
    return {"chair": chair, "mug": mug, "blob": blob, "animal": animal, "scene": scene}


def held_out_shapes() -> dict[str, trimesh.Trimesh]:
    """Shapes that no constant of the search was chosen on."""
    x, y = np.meshgrid(np.linspace(-1, 1, 90), np.linspace(-0.7, 0.7, 64), indexing="ij")
    height = 0.12 * np.exp(-((x - 0.35) ** 2 + (y - 0.2) ** 2) / 0.03) + 0.03 * np.sin(5 * x + 2 * y)
    height += 0.1 * ((abs(x + 0.45) < 0.28) & (abs(y + 0.15) < 0.1)) + 0.1 * (
        (abs(x + 0.6) < 0.08) & (abs(y - 0.2) < 0.32)
    )
    corner = (np.arange(89)[:, None] * 64 + np.arange(63)).ravel()
    quads = np.stack([corner, corner + 64, corner + 65, corner + 1], axis=1)
    sheet = trimesh.Trimesh(
        np.stack([x, y, height], axis=-1).reshape(-1, 3), np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])
    )
    relief = union(sheet, at(box((2, 1.4, 0.06)), 0, 0, -0.09))
    tool = union(
        rod((0, 0, 0), (3.2, 0, 0), 0.11), at(box((0.34, 0.95, 0.3)), 3.3, 0.1, 0), at(icosphere(3, 0.16), -0.05, 0, 0),
        at(cylinder(0.2, 0.25, sections=32), 3.3, -0.48, 0, turn=(np.pi / 2, 0, 0)),
        at(box((0.3, 0.5, 0.1)), 3.32, 0.75, 0, turn=(0.5, 0, 0)), at(box((0.5, 0.05, 0.2)), 1, 0.12, 0),
    )  # fmt: skip
    organic = lumps(29, 10, 0.1, 0.9, (0.02, 0.09))
    wheel = at(cylinder(0.4, 0.3, sections=32), turn=(np.pi / 2, 0, 0))
    wheels = [at(wheel, x, y, -0.35) for x in (-1.3, 1.3) for y in (-0.9, 0.9)]
    car = union(
        box((4, 1.8, 0.7)), at(box((2, 1.6, 0.7)), -0.3, 0, 0.7), at(box((0.3, 1.5, 0.15)), -1.9, 0, 0.5),
        *wheels,
        at(box((0.2, 0.3, 0.2)), 0.5, 1, 0.45),
    )  # fmt: skip
    lamp = union(
        cylinder(0.5, 0.08, sections=48), rod((0, 0, 0), (0.3, 0, 1.2), 0.04), rod((0.3, 0, 1.2), (-0.4, 0.2, 2), 0.04),
        at(cone(0.35, 0.5, sections=32), -0.4, 0.2, 1.7, turn=(0.3, 0.5, 0)),
        at(box((0.12, 0.08, 0.06)), 0.35, 0.1, 0.06),
    )  # fmt: skip
    return {"relief": relief, "tool": tool, "organic": organic, "car": car, "lamp": lamp}


def symmetric_shapes() -> dict[str, trimesh.Trimesh]:
    """Shapes that some turn maps onto themselves."""
    legs = [at(box((0.08, 0.08, 0.8)), x, y, 0.4) for x in (-0.7, 0.7) for y in (-0.4, 0.4)]
    return {
        "vase": revolve(profile(), sections=96),
        "box": box((1, 0.7, 0.4)),
        "cube": box((1, 1, 1)),
        "sphere": icosphere(5, 1),
        "cylinder": cylinder(0.4, 1.3, sections=64),
        "cone": cone(0.6, 1.4, sections=64),
        "torus": torus(1, 0.3),
        "hexagonal prism": cylinder(0.5, 1.0, sections=6),
        "table": union(at(box((1.6, 0.9, 0.08)), 0, 0, 0.8), *legs),
        "bowl": revolve(np.array([[0, 0], [0.6, 0.1], [0.9, 0.5], [0.85, 0.5], [0.55, 0.15], [0, 0.06]]), sections=96),
        "cross": union(box((1.5, 0.3, 0.3)), box((0.3, 1.5, 0.3))),
    }


GROUPS: dict[str, Callable[[], dict[str, trimesh.Trimesh]]] = {
    "common": common_shapes,
    "held out": held_out_shapes,
    "symmetric": symmetric_shapes,
}


def make_case(mesh: trimesh.Trimesh, name: str, scenario: str, seed: int) -> Case:
    """The case of a shape, a scenario and a seed: everything random follows from the three."""
    model = SCENARIOS[scenario]
    rng = np.random.default_rng([seed, sum(map(ord, name)), sum(map(ord, scenario))])
    truth = sample(mesh, POINTS, rng)
    diagonal = float(np.linalg.norm(np.ptp(truth, axis=0)))
    if model.views:
        points = five_views(mesh, rng)
    else:
        points = sample(mesh, int(POINTS * (1 - model.floaters) / model.kept), rng)
        if model.kept < 1:
            way = rng.normal(size=3)
            height = points @ (way / np.linalg.norm(way))
            points = points[height <= np.quantile(height, model.kept)]
        points = points + model.noise * diagonal * rng.normal(size=points.shape)
        if model.floaters:
            centre, half = (truth.min(axis=0) + truth.max(axis=0)) / 2, 0.75 * np.ptp(truth, axis=0) + 0.1 * diagonal
            strays = centre + half * rng.uniform(-1, 1, (POINTS - len(points), 3))
            points = np.concatenate([points, strays])
    rotation = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix()
    truth_from_pred = similarity(float(np.exp(rng.uniform(-1.6, 1.6))), rotation, 3 * rng.normal(size=3))
    pred = apply(invert(truth_from_pred), points)
    return Case(pred[rng.permutation(len(pred))], truth, truth_from_pred)


def sample(mesh: trimesh.Trimesh, count: int, rng: np.random.Generator) -> F64:
    """(count, 3) points, uniform over the area."""
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=int(rng.integers(1 << 30)))[0], np.float64)


def five_views(mesh: trimesh.Trimesh, rng: np.random.Generator, size: int = 150) -> F64:
    """(POINTS, 3) as a multi-view network sees a surface: the depth maps of five cameras over 220 degrees, each off in
    depth by 1 to 2%, with .3% noise and with pixels flying off depth edges; no back sides, uneven density."""
    turn = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix()  # which way is up is not known
    vertices = np.asarray(mesh.vertices, np.float64) @ turn.T
    centre = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    diagonal = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    focal = size / 2 / np.tan(np.radians(26))
    first = rng.uniform(0, 2 * np.pi)
    clouds = []
    for view in range(5):
        azimuth = first + np.radians(220) * ((view + 0.5) / 5 - 0.5) + 0.08 * rng.normal()
        elevation = np.radians(rng.uniform(10, 50))
        way = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        eye = centre + way * diagonal * rng.uniform(1.1, 1.4)
        right = np.cross(-way, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(-way, right), -way])
        local = (vertices - eye) @ axes.T
        pixel = focal * local[:, :2] / local[:, 2:] + size / 2
        depth = rasterise(np.column_stack([pixel, local[:, 2]]), np.asarray(mesh.faces, np.int64), size)
        observed = np.isfinite(depth)
        behind = np.where(observed, depth, depth[observed].max() + 0.1 * diagonal)
        around = np.max([np.roll(behind, s, axis=a) for s in (1, -1, 2, -2) for a in (0, 1)], axis=0)
        flying = observed & (around - behind > 0.04 * diagonal) & (rng.random(depth.shape) < 0.5)
        depth[flying] += (around - behind)[flying] * rng.random(int(flying.sum())) ** 2
        y, x = np.nonzero(observed)
        z = depth[y, x] * (1 + 0.003 * rng.normal(size=len(y))) * (1 + rng.choice([-1, 1]) * rng.uniform(0.01, 0.02))
        clouds.append(np.stack([(x - size / 2) / focal * z, (y - size / 2) / focal * z, z], axis=1) @ axes + eye)
    points = np.concatenate(clouds) @ turn
    return points[rng.permutation(len(points))[:POINTS]]


@njit(cache=True)
def rasterise(corners: F64, faces: NDArray[np.int64], size: int) -> F64:
    """(size, size) z-buffer, inf where empty, of triangles (F, 3) between `corners` (V, 3): pixel x, y and depth."""
    buffer = np.full((size, size), np.inf)
    for face in faces:
        a, b, c = corners[face[0]], corners[face[1]], corners[face[2]]
        area = (b[1] - c[1]) * (a[0] - c[0]) + (c[0] - b[0]) * (a[1] - c[1])
        if abs(area) < 1e-12:
            continue
        for y in range(max(int(np.ceil(min(a[1], b[1], c[1]))), 0), min(int(max(a[1], b[1], c[1])), size - 1) + 1):
            for x in range(max(int(np.ceil(min(a[0], b[0], c[0]))), 0), min(int(max(a[0], b[0], c[0])), size - 1) + 1):
                u = ((b[1] - c[1]) * (x - c[0]) + (c[0] - b[0]) * (y - c[1])) / area
                v = ((c[1] - a[1]) * (x - c[0]) + (a[0] - c[0]) * (y - c[1])) / area
                if u >= 0 and v >= 0 and u + v <= 1:
                    buffer[y, x] = min(buffer[y, x], 1 / (u / a[2] + v / b[2] + (1 - u - v) / c[2]))
    return buffer
