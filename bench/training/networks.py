"""What each network is trained with: its stages, and the loss of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional

from adapters.shared.latent import POINTS, Shapes
from adapters.systems.lam3d import model as lam3d
from adapters.systems.lmnet3d import model as lmnet3d
from bench.training.losses import clamped, occupancy, slope
from data.synthetic.family import Family
from data.synthetic.views import shade
from metrics.losses import chamfer_loss

Tensors = dict[str, torch.Tensor]
STEP = 0.01  # diameters between the queries of a finite difference


@dataclass(frozen=True)
class Needs:
    """What a batch holds beside the objects' surface."""

    image: bool = True
    queries: int = 0  # signed distances an object: half uniform, half near the surface
    slopes: int = 0  # surface points an object with normals


@dataclass(frozen=True)
class Batch:
    """Tensors of B objects; what is not needed is empty."""

    image: torch.Tensor  # (B, 3, SIDE, SIDE)
    cloud: torch.Tensor  # (B, POINTS, 3) surface
    queries: torch.Tensor  # (B, Q, 3)
    distances: torch.Tensor  # (B, Q)
    normals: torch.Tensor  # (B, slopes, 3) of the cloud's first points


@dataclass(frozen=True)
class Stage:
    """A part of a training, with an optimiser and a schedule of its own."""

    name: str
    steps: int  # of the full schedule
    parts: tuple[str, ...]  # of the network that are trained
    needs: Needs
    loss: Callable[[Tensors, Batch], torch.Tensor]  # of weights and a batch
    score: Callable[[Tensors, Batch], float]  # what validation watches, lower is better
    rate: float = 1e-3


@dataclass(frozen=True)
class Network:
    """A network and how it is trained."""

    shapes: Mapping[str, Shapes]
    stages: tuple[Stage, ...]
    folder: str  # of its adapter, below adapters/systems


def draw(family: Family, size: int, needs: Needs, rng: np.random.Generator) -> Batch:
    """`size` objects of `family`, each in one view, newly lit and painted."""
    objects = rng.integers(0, len(family), size)
    views = rng.integers(0, family.casts.shape[1], size)
    none = torch.zeros(0)
    image, queries, distances, normals = none, none, none, none
    if needs.image:
        pictures = family.casts[objects, views]
        image = torch.from_numpy(shade(pictures, family.lights[objects, views], rng, blur=True))
    chosen = rng.permutation(family.surface.shape[1])[:POINTS]
    cloud = torch.from_numpy(family.surface[objects][:, chosen].astype(np.float32))
    if needs.queries:
        half, each = family.field.shape[1] // 2, needs.queries // 2
        picked = np.concatenate([rng.integers(0, half, each), half + rng.integers(0, half, each)])
        field = torch.from_numpy(family.field[objects][:, picked].astype(np.float32))
        queries, distances = field[..., :3], field[..., 3]
    if needs.slopes:
        normals = torch.from_numpy(family.normals[objects][:, chosen[: needs.slopes]].astype(np.float32) / 127)
        normals = functional.normalize(normals, dim=-1)
    return Batch(image, cloud, queries, distances, normals)


def _point_stages() -> tuple[Stage, ...]:
    def rebuilt(w: Tensors, b: Batch) -> torch.Tensor:
        latent = lmnet3d.encode_cloud(functional, w, b.cloud[:, :512])
        return _to_cloud(w, latent, b)

    def matched(w: Tensors, b: Batch) -> torch.Tensor:
        with torch.no_grad():
            wanted = lmnet3d.encode_cloud(functional, w, b.cloud[:, :512])
        return (lmnet3d.encode_image(functional, w, b.image) - wanted).abs().mean()

    image_only = Needs()
    return (
        Stage("autoencoder", 3000, ("cloud", "points"), Needs(image=False), rebuilt, lambda w, b: rebuilt(w, b).item()),
        Stage("match", 1000, ("image",), image_only, matched, lambda w, b: _from_image(w, b).item()),
        Stage("together", 20000, ("image", "points"), image_only, _from_image, lambda w, b: _from_image(w, b).item()),
    )


def _from_image(w: Tensors, b: Batch) -> torch.Tensor:
    """Chamfer distance of the points predicted from the image."""
    latent = lmnet3d.encode_image(functional, w, b.image)
    return _to_cloud(w, latent, b)


def _to_cloud(w: Tensors, latent: torch.Tensor, b: Batch) -> torch.Tensor:
    """Mean Chamfer distance of the points decoded; in single precision, whatever automatic casting does."""
    loss: torch.Tensor = chamfer_loss(lmnet3d.decode(functional, w, latent).float(), b.cloud).mean()
    return loss


def _field_loss(w: Tensors, latent: torch.Tensor, b: Batch) -> torch.Tensor:
    """SDF (twice: clamped distances and occupancy), latent SDF, eikonal and normal losses."""
    unfolded = lam3d.unfold(functional, w, latent)
    planes = lam3d.refine(functional, w, unfolded)
    slopes = b.normals.shape[1]
    steps = torch.cat([torch.zeros(1, 3), torch.eye(3) * STEP]).to(latent.device)
    around = (b.cloud[:, :slopes, None] + steps).flatten(1, 2)
    values = lam3d.distance(functional, w, planes, torch.cat([b.queries, around], 1))
    predicted, near = values[:, : -4 * slopes], values[:, -4 * slopes :].unflatten(1, (slopes, 4))
    eikonal, normal = slope((near[..., 1:] - near[..., :1]) / STEP, b.normals)
    loss = occupancy(predicted, b.distances, lam3d.UNIT) + clamped(predicted, b.distances)
    rough = lam3d.refine(functional, w, unfolded, refined=False)
    some = slice(None, None, 4)
    unrefined = lam3d.distance(functional, w, rough, b.queries[:, some])
    loss = loss + 0.3 * occupancy(unrefined, b.distances[:, some], lam3d.UNIT)
    return loss + 0.01 * eikonal + 0.1 * normal


def _misses(w: Tensors, latent: torch.Tensor, b: Batch) -> float:
    """1 - intersection over union of inside and predicted inside, on the uniform half of the queries."""
    half = b.queries.shape[1] // 2
    planes = lam3d.decode(functional, w, latent)
    predicted = lam3d.distance(functional, w, planes, b.queries[:, :half]) < 0
    true = b.distances[:, :half] < 0
    shared = (predicted & true).sum(1) / (predicted | true).sum(1).clamp(min=1)
    return 1 - float(shared.float().mean())


def _plane_stages() -> tuple[Stage, ...]:
    def of_cloud(w: Tensors, b: Batch) -> torch.Tensor:
        return lam3d.encode_cloud(functional, w, b.cloud[:, ::2])

    def rebuilt(w: Tensors, b: Batch) -> torch.Tensor:
        latent = of_cloud(w, b)
        return _field_loss(w, latent, b) + 1e-3 * latent.square().mean()

    def of_image(w: Tensors, b: Batch) -> torch.Tensor:
        return lam3d.align(functional, w, lam3d.encode_image(functional, w, b.image))

    def matched(w: Tensors, b: Batch) -> torch.Tensor:
        with torch.no_grad():
            wanted = of_cloud(w, b)
        return (of_image(w, b) - wanted).abs().mean()

    field, both = Needs(image=False, queries=768, slopes=48), Needs(queries=768, slopes=48)
    return (
        Stage(
            "autoencoder",
            3000,
            ("cloud", "planes", "field"),
            field,
            rebuilt,
            lambda w, b: _misses(w, of_cloud(w, b), b),
        ),
        Stage(
            "align",
            1000,
            ("image", "align"),
            Needs(queries=1024),
            matched,
            lambda w, b: _misses(w, of_image(w, b), b),
        ),
        Stage(
            "together",
            20000,
            ("image", "align", "planes", "field"),
            both,
            lambda w, b: _field_loss(w, of_image(w, b), b),
            lambda w, b: _misses(w, of_image(w, b), b),
        ),
    )


NETWORKS: dict[str, Network] = {
    "lmnet3d": Network(lmnet3d.shapes(), _point_stages(), "lmnet3d"),
    "lam3d": Network(lam3d.shapes(), _plane_stages(), "lam3d"),
}
