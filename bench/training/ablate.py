"""Ablations at several seeds and reduced size: the first stage of each variant trained once a seed, then aligners of
image features with its latents, which are encoded once.

Each seed draws its own weights and batches, in both stages. The encoder of images is frozen, that of the shipped
`lmnet3d`, so that two rows differ in what their names say and in nothing else. A training that is there is not
repeated, a killed one goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.numpy import save

import adapters
from adapters.shared.latent import Shapes, read_weights
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

BATCH, OBJECTS = 16, 1024
SIZES = lam3d.Sizes(cloud=32, decoder=(32, 24, 16), mixed=16, fine=8, unet=24)
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Steps:
    """Of each kind of stage."""

    field: int = 500
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

    three, one = lam3d.shapes(SIZES), lam3d.shapes(SIZES, nets=1)
    vector, unrefined = lam3d.shapes(SIZES, vector=True), lam3d.shapes(SIZES, refiner=False)
    step, diffuse = plane_aligner(steps.align), plane_diffusion(steps.align, lam3d.PLANES)
    points = {**lmnet3d.shapes(), **lmnet3d.variant_shapes()}
    return {
        "planes": planes(three, {"step": (step, three), "parallel": (diffuse, three), "single": (diffuse, one)}),
        "vector": planes(
            vector,
            {"step": (step, vector), "diffusion": (plane_diffusion(steps.align, (lam3d.VECTOR,)), vector)},
        ),
        "unrefined": planes(unrefined, {"step": (step, unrefined)}),
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
            said = _prefixed(progress, f"seed {seed}: ")
            if not train(trained, settings, data, folder / "first", stop_at=stop_at, progress=said):
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
                if not train(network, settings, data, folder / aligner, "cpu", begin, stop_at, said):
                    return False
    return True


def _prefixed(progress: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda line: progress(prefix + line)
