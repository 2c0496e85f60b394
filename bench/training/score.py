"""The held-out test split: our networks against the baselines that keep them honest. Runs without torch."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from adapters.contract import F64, Bools, Views
from adapters.shared import functional
from adapters.shared.latent import POINTS
from adapters.systems.direct.adapter import Adapter as Direct
from adapters.systems.lam3d import model as lam3d
from adapters.systems.lam3d.adapter import LEVEL
from adapters.systems.lam3d.adapter import Adapter as Lam3d
from adapters.systems.lmnet3d import model as lmnet3d
from adapters.systems.lmnet3d.adapter import Adapter as Lmnet3d
from adapters.systems.medoid.adapter import Adapter as Medoid
from adapters.systems.retrieval.adapter import Adapter as Retrieval
from adapters.systems.silhouette_hull.adapter import Adapter as Hull
from data.synthetic.family import SIZE, Family
from data.synthetic.shapes import CATEGORIES, Shape, Split, make
from data.synthetic.views import Pose, shade
from metrics.chamfer import chamfer_of
from metrics.emd import emd
from metrics.fscore import fscore_of
from metrics.nearest import distances
from metrics.normals import estimated_normals, normal_consistency
from metrics.scoring.truth import sample_mesh
from reports.ranking import interval

GRID = 48  # cells along the unit cube on which volumes are compared
EMD_POINTS = 512
COLUMNS = ("F@2%", "F@5%", "Chamfer-L1 %", "EMD %", "IoU %", "normals")
LOWER = ("Chamfer-L1 %", "EMD %")  # is better
NETWORKS = ("lmnet3d", "direct", "lam3d")
LEVELS = (0.0, 0.002, 0.004, 0.006, 0.008)  # diameters, tried for `lam3d`
TRUE_MASK = "retrieval by silhouette, true mask"


@dataclass(frozen=True)
class Case:
    """A test object, and the one view of it that is shown."""

    shape: Shape
    image: NDArray[np.uint8]  # (SIZE, SIZE, 3)
    mask: Bools  # (SIZE, SIZE)
    pose: Pose
    truth: F64  # (4096, 3)
    normals: F64
    occupied: Bools  # (GRID^3,)


@dataclass(frozen=True)
class Answer:
    """What a row answers; the volume only where it is a solid."""

    points: F64  # (POINTS, 3)
    occupied: Bools | None = None  # (GRID^3,)


Row = Callable[[Case], Answer]


def cases(data: Path, count: int, split: Split = "test") -> list[Case]:
    """The first `count` objects of the split, shown from all sides in turn, on a random background."""
    family = Family.open(data, split, count)
    out = []
    for i in range(count):
        view = i // len(CATEGORIES) % family.casts.shape[1]
        cast, rng = family.casts[i, view], np.random.default_rng([19, i])
        image = shade(cast[None], family.lights[i, view][None], rng)[0].transpose(1, 2, 0)
        shape = make(int(family.seeds[i]))
        truth = shape.sample(4096, rng)
        azimuth, elevation, distance = (float(v) for v in family.poses[i, view])
        out.append(
            Case(
                shape,
                np.asarray(np.round(image * 255), np.uint8),
                (cast[..., :3] != 0).any(axis=-1),
                Pose(azimuth, elevation, distance, np.zeros(3)),
                truth,
                shape.normals(truth),
                shape.sdf(lam3d.grid(GRID)) < 0,
            )
        )
    return out


def rows(data: Path) -> dict[str, Row]:
    """Every row by name, those that know more than one image last."""
    matched, direct = Lmnet3d(), Direct()
    planes = Lam3d(GRID), Lam3d(GRID, aligner="diffusion"), Lam3d(GRID, refiner=False)
    retrieval, medoid, hull = Retrieval(), Medoid(), Hull(GRID)
    out: dict[str, Row] = {}

    def cloud_of(adapter: Lmnet3d | Direct | Medoid) -> Row:
        return lambda case: Answer(np.asarray(adapter.predict(_views(case)).points, np.float64))

    def field_of(adapter: Lam3d) -> Row:
        return lambda case: solid(adapter.infer(adapter.prepare(_views(case))), case, LEVEL)

    for adapter in (matched, direct, *planes, retrieval, medoid, hull):
        adapter.load("cpu", "none", 0)
    out["lmnet3d"], out["direct"] = cloud_of(matched), cloud_of(direct)
    out["lam3d"], out["lam3d, by diffusion"], out["lam3d, no refiner"] = map(field_of, planes)
    gallery = Family.open(data, "train", len(retrieval._points))
    shapes = _Shapes(gallery)
    looked_up = _by_latent(matched, gallery)
    out["retrieval by gradients"] = lambda case: shapes.answer(retrieval.infer(retrieval.prepare(_views(case))), case)
    out["retrieval by lmnet3d's latent"] = lambda case: shapes.answer(looked_up(case), case)
    out["medoid"] = cloud_of(medoid)
    out[TRUE_MASK] = lambda case: shapes.answer(retrieval.infer(retrieval.prepare(_views(case, mask=True))), case)

    def carved(case: Case) -> Answer:
        mesh = hull.predict(_views(case, mask=True, camera=True)).mesh
        assert mesh is not None
        return Answer(np.asarray(sample_mesh(mesh.vertices, mesh.faces, POINTS, 0), np.float64))

    out["hull of one silhouette, true mask and camera"] = carved
    out["bound: nearest training shape to the truth"] = lambda case: shapes.answer(shapes.nearest(case), case)
    out["lmnet3d's decoder, fed the truth"] = lambda case: Answer(point_bound(matched._weights, case))
    out["lam3d's decoder, fed the truth"] = lambda case: field_bound(planes[0]._weights, case, LEVEL)
    out["bound: the exact field on the grid"] = lambda case: solid(
        case.shape.sdf(lam3d.grid(GRID)).reshape((GRID,) * 3), case, 0.0
    )
    out["bound: the truth resampled"] = lambda case: Answer(
        case.shape.sample(POINTS, np.random.default_rng(1)), case.occupied
    )
    return out


def _views(case: Case, mask: bool = False, camera: bool = False) -> Views:
    return Views(
        (case.image,),
        ("a",),
        masks=(case.mask,) if mask else None,
        cameras=case.pose.camera(SIZE) if camera else None,
    )


def solid(field: functional.Array, case: Case, level: float) -> Answer:
    """What `lam3d` answers by its field (GRID, GRID, GRID): points on its mesh, and where it is below `level`."""
    adapter = Lam3d(GRID, level)
    try:
        mesh = adapter.finish(field, _views(case)).mesh
    except ValueError:  # no surface: the worst answer there is, a point
        return Answer(np.zeros((POINTS, 3)), np.zeros(GRID**3, np.bool_))
    assert mesh is not None
    points = sample_mesh(mesh.vertices, mesh.faces, POINTS, 0)
    return Answer(np.asarray(points, np.float64), np.asarray(field.reshape(-1) < level))


def _known(case: Case) -> functional.Array:
    """(1, 512, 3) other points of the truth, for encoders of clouds."""
    return case.shape.sample(512, np.random.default_rng(3))[None].astype(np.float32)


def point_bound(weights: functional.Weights, case: Case) -> F64:
    """The points that the autoencoder of `weights` of `lmnet3d` makes of the truth."""
    latent = lmnet3d.encode_cloud(functional, weights, _known(case))
    return np.asarray(lmnet3d.decode(functional, weights, latent)[0], np.float64)


def field_bound(weights: functional.Weights, case: Case, level: float) -> Answer:
    """What the autoencoder of `weights` of `lam3d` makes of the truth, at `level` of its field."""
    latent = lam3d.encode_cloud(functional, weights, _known(case))
    return solid(lam3d.field(functional, weights, latent, GRID), case, level)


def _by_latent(network: Lmnet3d, gallery: Family) -> Callable[[Case], int]:
    """The training shape with the nearest latent of a picture, every third view of each."""
    rng = np.random.default_rng(23)
    lit = zip(gallery.casts[:, ::3], gallery.lights[:, ::3], strict=True)
    pictures = (shade(casts, lights, rng) for casts, lights in lit)
    latents = np.stack([lmnet3d.encode_image(functional, network._weights, images) for images in pictures])
    views = int(latents.shape[1])
    tree = cKDTree(latents.reshape(-1, latents.shape[2]))

    def look_up(case: Case) -> int:
        image = network.prepare(_views(case))
        _, nearest = tree.query(lmnet3d.encode_image(functional, network._weights, image)[0])
        return int(nearest) // views

    return look_up


class _Shapes:
    """Training shapes as answers."""

    def __init__(self, gallery: Family) -> None:
        self._gallery = gallery
        self._trees = [cKDTree(points[:256].astype(np.float64)) for points in gallery.surface]

    def answer(self, number: int, case: Case) -> Answer:
        shape = make(int(self._gallery.seeds[number]))
        points = shape.sample(POINTS, np.random.default_rng(2))
        return Answer(points, np.asarray(shape.sdf(lam3d.grid(GRID)) < 0))

    def nearest(self, case: Case) -> int:
        points = case.truth[:256]
        tree = cKDTree(points)
        there = [float(np.mean(other.query(points)[0])) for other in self._trees]
        back = [float(np.mean(tree.query(other.data)[0])) for other in self._trees]
        return int(np.argmin(np.add(there, back)))


def closeness(answer: Answer, case: Case) -> tuple[float, float, float, float]:
    """F@2%, F@5%, Chamfer-L1 % and IoU %, nan where a row has no volume. No alignment: pose and size count. Lengths in
    percent of the bounding box's diagonal."""
    both = distances(answer.points, case.truth)
    f2, f5 = (100 * fscore_of(both, threshold).fscore for threshold in (0.02, 0.05))
    iou = np.nan
    if answer.occupied is not None:
        iou = 100 * float((answer.occupied & case.occupied).sum() / (answer.occupied | case.occupied).sum())
    return f2, f5, 100 * chamfer_of(both).l1_mean, iou


def measure(answer: Answer, case: Case) -> tuple[float, ...]:
    """The values of `COLUMNS`: those of `closeness`, EMD and normals."""
    f2, f5, chamfer, iou = closeness(answer, case)
    moved = emd(answer.points[:: POINTS // EMD_POINTS], case.truth[:: 4096 // EMD_POINTS]).upper
    normals = np.nan
    if len(np.unique(answer.points, axis=0)) > 30:
        own = estimated_normals(answer.points, answer.points, 12)
        normals = normal_consistency(answer.points, own, case.truth, case.normals).mean
    return f2, f5, chamfer, 100 * moved, iou, normals


def score(data: Path, count: int, out: Path, progress: Callable[[str], None]) -> str:
    """Score every row on `count` test objects; write `out`/own-networks.csv and a picture sheet; returns the tables."""
    tested = cases(data, count)
    values: dict[str, F64] = {}
    shown: dict[str, list[F64]] = {}
    for name, row in rows(data).items():
        answers = [row(case) for case in tested]
        values[name] = np.array([measure(answer, case) for answer, case in zip(answers, tested, strict=True)])
        if name in NETWORKS:
            shown[name] = [answer.points for answer in answers]
        means = zip(COLUMNS, values[name].mean(axis=0), strict=True)
        progress(f"{name}: " + ", ".join(f"{column} {mean:.2f}" for column, mean in means))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "own-networks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", "category", "combination held out", *COLUMNS])
        for name, table in values.items():
            for case, line in zip(tested, table, strict=True):
                numbers = ["" if np.isnan(v) else f"{v:.4g}" for v in line]
                writer.writerow([name, case.shape.seed, case.shape.category, case.shape.held_out, *numbers])
    _sheet(tested, shown).save(out / "own-networks.png", optimize=True)
    return tables(values, tested)


def levels(data: Path, count: int) -> str:
    """Markdown: `lam3d` on `count` objects of the validation split at each of `LEVELS`, to choose its default by."""
    network = Lam3d(GRID)
    network.load("cpu", "none", 0)
    tried = cases(data, count, "val")
    fields = [network.infer(network.prepare(_views(case))) for case in tried]
    lines = ["| level | F@2% | F@5% | Chamfer-L1 % | IoU % |", "|---|---|---|---|---|"]
    for level in LEVELS:
        answers = [solid(field, case, level) for field, case in zip(fields, tried, strict=True)]
        table = [closeness(answer, case) for answer, case in zip(answers, tried, strict=True)]
        lines.append(f"| {level:g} | " + " | ".join(f"{mean:.2f}" for mean in np.mean(table, axis=0)) + " |")
    return "\n".join(lines)


def tables(values: dict[str, F64], tested: list[Case]) -> str:
    """Markdown: means, paired differences with 95% intervals over objects, F@5% by category and by combination."""
    lines = ["| row | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, table in values.items():
        cells = ["" if np.isnan(v) else f"{v:.2f}" for v in table.mean(axis=0)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| paired difference | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for network in NETWORKS:
        for base in values:
            if not base.startswith(("retrieval", "medoid", "hull")):
                continue
            cells = []
            for difference in (values[network] - values[base]).T:
                low, high = interval(difference)
                cells.append("" if np.isnan(low) else f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}]")
            lines.append(f"| {network} - {base} | " + " | ".join(cells) + " |")
    held_out = np.array([case.shape.held_out for case in tested])
    category = np.array([case.shape.category for case in tested])
    groups = [*((name, category == name) for name in CATEGORIES), ("parts seen", ~held_out), ("parts new", held_out)]
    lines += ["", "| F@5% | " + " | ".join(name for name, _ in groups) + " |", "|---" * (len(groups) + 1) + "|"]
    for name, table in values.items():
        lines.append(f"| {name} | " + " | ".join(f"{table[rows_, 1].mean():.0f}" for _, rows_ in groups) + " |")
    return "\n".join(lines)


def _sheet(tested: list[Case], shown: dict[str, list[F64]]) -> Image.Image:
    """A line an object: input, truth from two sides, then each network's points from the same two sides."""
    tile, count = 112, min(16, len(tested))
    sheet = Image.new("RGB", (tile * (3 + 2 * len(shown)), 14 + tile * count), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(["input", "truth", "", *(text for name in shown for text in (name, ""))]):
        draw.text((column * tile + 4, 1), label, fill="black")
    for line, index in enumerate(np.linspace(0, len(tested) - 1, count).astype(int)):
        case, top = tested[index], 14 + line * tile
        sheet.paste(Image.fromarray(case.image).resize((tile, tile), Image.Resampling.BICUBIC), (0, top))
        for column, points in enumerate([case.truth[:POINTS], *(answers[index] for answers in shown.values())]):
            for side in (0, 1):
                view = Pose(case.pose.azimuth + 90 * side, case.pose.elevation, case.pose.distance, np.zeros(3))
                left = tile * (1 + 2 * column + side)
                sheet.paste(_scatter(points, view, tile), (left, top))
    return sheet


def _scatter(points: F64, pose: Pose, size: int) -> Image.Image:
    """Points as dots, the nearer the darker."""
    pixel, depth = pose.camera(size).project(0, points)
    image = np.full((size, size, 3), 255, np.uint8)
    for i in np.argsort(-depth):
        x, y = np.floor(pixel[i]).astype(int)
        if 0 <= x < size - 1 and 0 <= y < size - 1:
            shade_ = int(np.clip(40 + 160 * (depth[i] - pose.distance + 0.5), 20, 220))
            image[y : y + 2, x : x + 2] = (shade_ // 2, shade_ // 2 + 20, shade_)
    return Image.fromarray(image)
