"""Ablations at several seeds and reduced size: the first stage of each variant trained once a seed, then aligners of
image features with its latents, which are encoded once.

Each seed draws its own weights and batches, in both stages. The encoder of images is frozen, that of the shipped
`lmnet3d`, so that two rows differ in what their names say and in nothing else. A training that is there is not
repeated, a killed one goes on.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

import adapters
from adapters.contract import F64
from adapters.shared import functional
from adapters.shared.functional import Weights
from adapters.shared.latent import Shapes, network_input, read_weights
from adapters.systems.lam3d import diffusion
from adapters.systems.lam3d import model as lam3d
from adapters.systems.lmnet3d import model as lmnet3d
from bench.training.loop import Settings, averaged, train
from bench.training.networks import (
    Needs,
    Network,
    Stage,
    field_autoencoder,
    plane_aligner,
    plane_diffusion,
    point_aligner,
    point_autoencoder,
)
from bench.training.score import GRID, Answer, Case, cases, closeness, field_bound, point_bound, solid
from reports.ranking import interval

BATCH, OBJECTS = 16, 1024
SIZES = lam3d.Sizes(cloud=32, decoder=(32, 24, 16), mixed=16, fine=8, unet=24)
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Steps:
    """Of each kind of stage."""

    field: int = 600
    points: int = 800
    align: int = 1000


@dataclass(frozen=True)
class Variant:
    """A first stage, and by name the second stages that can follow it, each with the shapes of its own parts."""

    shapes: Mapping[str, Shapes]
    stage: Stage
    aligners: Mapping[str, tuple[Stage, Mapping[str, Shapes]]]


def variants(steps: Steps) -> dict[str, Variant]:
    """By name."""
    image = {"image": lmnet3d.shapes()["image"]}
    field = replace(field_autoencoder(steps.field, Needs(image=False, queries=512)), rate=2e-3)

    def planes(shapes: Mapping[str, Shapes], aligners: Mapping[str, tuple[Stage, Mapping[str, Shapes]]]) -> Variant:
        return Variant({**image, **{part: shapes[part] for part in field.parts}}, field, aligners)

    three, single = lam3d.shapes(SIZES, mapped=True), lam3d.shapes(SIZES, nets=1, mapped=True)
    vector, unrefined = lam3d.shapes(SIZES, vector=True), lam3d.shapes(SIZES, refiner=False)
    aligned, aligned_vector = lam3d.variant_shapes(), lam3d.variant_shapes(vector=True)
    step, diffuse = plane_aligner(steps.align), plane_diffusion(steps.align, lam3d.PLANES)
    points = {**lmnet3d.shapes(), **lmnet3d.variant_shapes()}
    return {
        "planes": planes(three, {"step": (step, aligned), "parallel": (diffuse, three), "single": (diffuse, single)}),
        "vector": planes(
            vector,
            {"step": (step, aligned_vector), "diffusion": (plane_diffusion(steps.align, (lam3d.VECTOR,)), vector)},
        ),
        "unrefined": planes(unrefined, {"step": (step, aligned)}),
        "points": Variant(
            {**image, "cloud": points["cloud"], "points": points["points"]},
            point_autoencoder(steps.points),
            {
                "l1": (point_aligner(steps.align, "l1"), points),
                "l2": (point_aligner(steps.align, "l2"), points),
                "probabilistic": (point_aligner(steps.align, "probabilistic"), points),
            },
        ),
    }


def train_all(
    data: Path,
    run: Path,
    steps: Steps,
    seeds: int,
    objects: int = OBJECTS,
    batch: int = BATCH,
    stop_at: float = float("inf"),
    progress: Callable[[str], None] = lambda line: None,
) -> bool:
    """Train every variant at every seed, in folders `run`/SEED/VARIANT/STAGE; True where all are done."""
    frozen = read_weights(Path(adapters.__file__).parent / "systems" / "lmnet3d" / WEIGHTS)
    image = {name: value for name, value in frozen.items() if name.startswith("image.")}
    for seed in range(seeds):
        for name, variant in variants(steps).items():
            folder = run / str(seed) / name
            begin = folder / WEIGHTS
            settings = Settings(
                network=name, steps=(variant.stage.steps,), batch=batch, objects=objects, seed=seed, every=250
            )
            trained = Network({part: variant.shapes[part] for part in variant.stage.parts}, (variant.stage,))
            report = _prefixed(progress, f"seed {seed}: ")
            if not train(trained, settings, data, folder / "first", stop_at=stop_at, progress=report):
                return False
            if not begin.is_file():
                begin.write_bytes(save({**image, **averaged(folder / "first")[0]}))
            for aligner, (stage, shapes) in variant.aligners.items():
                own = {part: shapes[part] for part in stage.parts}
                network = Network({**variant.shapes, **own}, (stage,), taken=tuple(variant.shapes))
                settings = Settings(
                    network=f"{name}-{aligner}",
                    steps=(stage.steps,),
                    batch=batch,
                    objects=objects,
                    seed=seed,
                    every=250,
                    begun_from=hashlib.sha256(begin.read_bytes()).hexdigest(),
                )
                if not train(network, settings, data, folder / aligner, "cpu", begin, stop_at, progress=report):
                    return False
    return True


def _prefixed(progress: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda line: progress(prefix + line)


# Of each row: its first stage, its second (none: a bound, fed the truth), and how the latent is drawn.
ROWS: dict[str, tuple[str, str, str]] = {
    "planes, one step": ("planes", "step", ""),
    "planes, three U-Nets": ("planes", "parallel", "8"),
    "planes, three U-Nets, one DDIM step": ("planes", "parallel", "1"),
    "planes, single U-Net": ("planes", "single", "8"),
    "vector, one step": ("vector", "step", ""),
    "vector, diffusion": ("vector", "diffusion", "8"),
    "planes without refiner, one step": ("unrefined", "step", ""),
    "bound: planes": ("planes", "", ""),
    "bound: vector": ("vector", "", ""),
    "bound: planes without refiner": ("unrefined", "", ""),
    "points, L1": ("points", "l1", ""),
    "points, L2": ("points", "l2", ""),
    "points, probabilistic, the mean": ("points", "probabilistic", ""),
    "points, probabilistic, one draw": ("points", "probabilistic", "draw"),
    "bound: points": ("points", "", ""),
}
PAIRS = (
    ("bound: planes", "bound: vector"),
    ("planes, one step", "vector, one step"),
    ("planes, three U-Nets", "vector, diffusion"),
    ("planes, three U-Nets", "planes, single U-Net"),
    ("planes, three U-Nets", "planes, one step"),
    ("planes, three U-Nets", "planes, three U-Nets, one DDIM step"),
    ("vector, diffusion", "vector, one step"),
    ("bound: planes", "bound: planes without refiner"),
    ("planes, one step", "planes without refiner, one step"),
    ("points, L2", "points, L1"),
    ("points, probabilistic, the mean", "points, L1"),
    ("points, probabilistic, the mean", "points, L2"),
    ("points, probabilistic, one draw", "points, probabilistic, the mean"),
)
COLUMNS = ("F@2%", "F@5%", "Chamfer-L1 %", "IoU %")


def _answer(weights: Weights, row: tuple[str, str, str], case: Case, rng: np.random.Generator) -> Answer:
    """What a row's weights make of an object, drawing from `rng` where its name says that it draws."""
    first, second, drawn = row
    F, points = functional, first == "points"
    if not second:
        return Answer(point_bound(weights, case)) if points else field_bound(weights, case, 0.0)
    features = lam3d.encode_image(F, weights, network_input((case.image,)))
    if points:
        latent = lmnet3d.align(F, weights, features)
        if drawn:
            latent = latent + lmnet3d.spread(F, weights, latent) * rng.standard_normal(latent.shape, np.float32)
        return Answer(np.asarray(lmnet3d.decode(F, weights, latent)[0], np.float64))
    if drawn:
        noise = rng.standard_normal((1, *weights["diffuse.mean"].shape), np.float32)
        latent = diffusion.sample(F, weights, features, noise, int(drawn))
    else:
        latent = lam3d.align(F, weights, features)
    return solid(lam3d.field(F, weights, latent, GRID), case, 0.0)


def score_seed(run: Path, seed: int, tested: list[Case], progress: Callable[[str], None]) -> dict[str, F64]:
    """Of each row the scores (N, `COLUMNS`) of the trainings of one seed, in the folder `run`."""
    values: dict[str, F64] = {}
    for name, row in ROWS.items():
        weights = averaged(run / row[0] / (row[1] or "first"))[0]
        draws = (np.random.default_rng([29, seed, i]) for i in range(len(tested)))
        pairs = zip(tested, draws, strict=True)
        values[name] = np.array([closeness(_answer(weights, row, case, rng), case) for case, rng in pairs])
        means = zip(COLUMNS, values[name].mean(axis=0), strict=True)
        progress(f"seed {seed}: {name}: " + ", ".join(f"{column} {mean:.2f}" for column, mean in means))
    return values


def score_all(data: Path, run: Path, seeds: int, count: int, out: Path, progress: Callable[[str], None]) -> str:
    """Score every row at every seed on `count` test objects; write `out`/ablations.csv; returns the tables."""
    tested = cases(data, count)
    scored = [score_seed(run / str(seed), seed, tested, progress) for seed in range(seeds)]
    values = {name: np.stack([table[name] for table in scored]) for name in ROWS}
    write(values, tested, out)
    return tables(values)


def write(values: Mapping[str, F64], tested: list[Case], out: Path) -> None:
    """`out`/ablations.csv: every row, training seed and object."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "ablations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "training seed", "object", *COLUMNS])
        for name, table in values.items():
            for seed in range(len(table)):
                for case, line in zip(tested, table[seed], strict=True):
                    numbers = ["" if np.isnan(v) else f"{v:.4g}" for v in line]
                    writer.writerow([name, seed, case.shape.seed, *numbers])


def tables(values: Mapping[str, F64]) -> str:
    """Markdown of scores (S, N, `COLUMNS`) by row, of S training seeds and N objects.

    A mean stands with the standard deviation of the seeds' means; a difference with its 95% interval over objects, of
    the means over seeds, and with the difference at each seed."""
    lines = ["| row | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, table in values.items():
        means = table.mean(axis=1)
        spread = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(len(COLUMNS), np.nan)
        both = zip(means.mean(axis=0), spread, strict=True)
        cells = ["" if np.isnan(mean) else f"{mean:.2f} ± {around:.2f}" for mean, around in both]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| paired difference | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for better, base in PAIRS:
        cells = []
        for difference in np.moveaxis(values[better] - values[base], 2, 0):
            low, high = interval(difference.mean(axis=0))
            span = "" if np.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
            seeds = ", ".join(f"{d:+.1f}" for d in difference.mean(axis=1))
            cells.append("" if np.isnan(difference).any() else f"{difference.mean():+.2f}{span} ({seeds})")
        lines.append(f"| {better} - {base} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
