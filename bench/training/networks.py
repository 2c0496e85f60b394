"""What each network is trained with: its stages, and the loss of one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from adapters.shared.functional import below
from adapters.shared.latent import LATENT, POINTS, Shapes, image_encoder, image_encoder_shapes, point_decoder_shapes
from adapters.systems.lam3d import diffusion
from adapters.systems.lam3d import model as lam3d
from adapters.systems.lmnet3d import model as lmnet3d
from bench.training.losses import clamped, diversity, occupancy, repulsion, slope
from bench.training.variants import graph_encoder, graph_encoder_shapes, patch_encoder, patch_encoder_shapes
from data.synthetic.family import Family
from data.synthetic.views import shade
from metrics.losses import chamfer_loss

Tensors = dict[str, torch.Tensor]
Ints = NDArray[np.int64]
DDIM_STEPS = 8  # of validation
STEP = 0.01  # diameters between the queries of a finite difference


ENCODINGS = 8  # pictures of an object whose features a frozen encoder gives once


@dataclass(frozen=True)
class Needs:
    """What a batch holds beside the objects' surface."""

    image: bool = True
    queries: int = 0  # signed distances an object: half uniform, half near the surface
    slopes: int = 0  # surface points an object with normals
    noise: tuple[int, ...] = ()  # shape of an object's normal noise


def _nothing() -> torch.Tensor:
    return torch.zeros(0)


@dataclass(frozen=True)
class Batch:
    """Tensors of B objects; what is not needed is empty."""

    image: torch.Tensor = field(default_factory=_nothing)  # (B, 3, SIDE, SIDE)
    azimuth: torch.Tensor = field(default_factory=_nothing)  # (B,) of the image, degrees from the object's front
    cloud: torch.Tensor = field(default_factory=_nothing)  # (B, POINTS, 3) surface
    queries: torch.Tensor = field(default_factory=_nothing)  # (B, Q, 3)
    distances: torch.Tensor = field(default_factory=_nothing)  # (B, Q)
    normals: torch.Tensor = field(default_factory=_nothing)  # (B, slopes, 3) of the cloud's first points
    features: torch.Tensor = field(default_factory=_nothing)  # (B, LATENT) of the image, where they are known
    latent: torch.Tensor = field(default_factory=_nothing)  # (B, ...) of the cloud, where it is known
    noise: torch.Tensor = field(default_factory=_nothing)  # (B, ...) standard normal
    time: torch.Tensor = field(default_factory=_nothing)  # (B,) of diffusion, 0 to 1, where there is noise


Loss = Callable[[Tensors, Batch], torch.Tensor]  # of weights and a batch
OfCloud = Callable[[Tensors, torch.Tensor], torch.Tensor]  # latents of clouds


@dataclass(frozen=True)
class Encoded:
    """What frozen encoders make of a family, so that an aligner's training need not ask them at every step."""

    features: torch.Tensor  # (N, ENCODINGS, LATENT)
    azimuth: torch.Tensor  # (N, ENCODINGS)
    latents: torch.Tensor  # (N, 2, ...) of two samples of the surface; or, empty,
    family: Family | None = None  # what they were made of: its surface and field then go with the features

    def draw(self, size: int, needs: Needs, rng: np.random.Generator) -> Batch:
        """A batch of features and azimuths, with latents and noise or with what the family holds."""
        objects = torch.from_numpy(rng.integers(0, len(self.features), size))
        views = torch.from_numpy(rng.integers(0, self.features.shape[1], size))
        features, azimuth = self.features[objects, views], self.azimuth[objects, views]
        if self.family is not None:
            drawn = _drawn(self.family, objects.numpy(), np.zeros(size, np.int64), replace(needs, image=False), rng)
            return replace(drawn, features=features, azimuth=azimuth)
        samples = torch.from_numpy(rng.integers(0, self.latents.shape[1], size))
        noise, time = _noise(size, needs, rng)
        return Batch(
            features=features,
            azimuth=azimuth,
            latent=self.latents[objects, samples].float(),
            noise=noise,
            time=time,
        )


@dataclass(frozen=True)
class Stage:
    """A part of a training, with an optimiser and a schedule of its own."""

    name: str
    steps: int  # of the full schedule
    parts: tuple[str, ...]  # of the network that are trained
    needs: Needs
    loss: Loss
    score: Callable[[Tensors, Batch], float]  # what validation watches, lower is better
    rate: float = 1e-3
    encode: Callable[[Tensors, Family], Encoded] | None = None  # its batches come from that, not from the family
    statistics: Callable[[Encoded], Tensors] = lambda encoded: {}  # the weights that are read off
    read_off: tuple[str, ...] = ()  # their names: of the `parts`, but not trained

    def trains(self, name: str) -> bool:
        """Whether the weight of this name is trained."""
        return name.split(".")[0] in self.parts and name not in self.read_off


@dataclass(frozen=True)
class Network:
    """A network and how it is trained."""

    shapes: Mapping[str, Shapes]
    stages: tuple[Stage, ...]
    folder: str = ""  # of its adapter, below adapters/systems; none: a variant that does not ship
    taken: tuple[str, ...] = ()  # parts that begin as they are in the file `--from`, if there; untrained ones must be


def draw(family: Family, size: int, needs: Needs, rng: np.random.Generator) -> Batch:
    """`size` objects of `family`, each in one view, newly lit and painted."""
    objects = rng.integers(0, len(family), size)
    return _drawn(family, objects, rng.integers(0, family.casts.shape[1], size), needs, rng)


def _drawn(family: Family, objects: Ints, views: Ints, needs: Needs, rng: np.random.Generator) -> Batch:
    image, queries, distances, normals = (_nothing() for _ in range(4))
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
    noise, time = _noise(len(objects), needs, rng)
    azimuth = torch.from_numpy(family.poses[objects, views, 0])
    return Batch(image, azimuth, cloud, queries, distances, normals, noise=noise, time=time)


def _noise(size: int, needs: Needs, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    if not needs.noise:
        return _nothing(), _nothing()
    noise = rng.standard_normal((size, *needs.noise), np.float32)
    return torch.from_numpy(noise), torch.from_numpy(rng.random(size, np.float32))


_pictures: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}  # features and azimuths of the last family, by encoder


def encode(of_cloud: OfCloud | None, w: Tensors, family: Family) -> Encoded:
    """What the image encoder of `w` and `of_cloud` (weights, clouds -> latents; None: no latents) make of `family`.

    Trainings that follow each other in one process with the same encoder of images share what it gave."""
    image = [value for name, value in sorted(w.items()) if name.startswith("image.")]
    key = hashlib.sha256(family.seeds.tobytes() + b"".join(value.cpu().numpy().tobytes() for value in image)).digest()
    device = next(iter(w.values())).device
    blocks = np.array_split(np.arange(len(family)), max(1, len(family) // 64))
    with torch.no_grad():
        if key not in _pictures:
            _pictures.clear()
            features = torch.empty(len(family), ENCODINGS, LATENT)
            azimuth = torch.empty(len(family), ENCODINGS)
            rng = np.random.default_rng([3, 0])
            for objects in blocks:
                for i in range(ENCODINGS):
                    views = rng.integers(0, family.casts.shape[1], len(objects))
                    batch = _drawn(family, objects, views, Needs(), rng)
                    features[objects, i] = image_encoder(functional, below(w, "image"), batch.image.to(device)).cpu()
                    azimuth[objects, i] = batch.azimuth
            _pictures[key] = features, azimuth
        if of_cloud is None:
            return Encoded(*_pictures[key], _nothing(), family)
        rng = np.random.default_rng([3, 1])
        latents = []
        for objects in blocks:
            two = []
            for _ in range(2):
                batch = _drawn(family, objects, np.zeros_like(objects), Needs(image=False), rng)
                two.append(of_cloud(w, batch.cloud.to(device)).cpu())
            latents.append(torch.stack(two, 1).half())
    return Encoded(*_pictures[key], torch.cat(latents))


def _features(w: Tensors, b: Batch) -> torch.Tensor:
    return b.features if len(b.features) else image_encoder(functional, below(w, "image"), b.image)


Matching = Literal["l1", "l2", "probabilistic"]


OfBatch = Callable[[Tensors, Batch], torch.Tensor]


def _point_latent(w: Tensors, cloud: torch.Tensor) -> torch.Tensor:
    return lmnet3d.encode_cloud(functional, w, cloud[:, :512])


def _matched(matching: Matching, of_image: OfBatch, of_cloud: OfCloud) -> Loss:
    """The loss between the latents of image and cloud; the probabilistic one draws the image's."""

    def loss(w: Tensors, b: Batch) -> torch.Tensor:
        with torch.no_grad():
            wanted = b.latent if len(b.latent) else of_cloud(w, b.cloud)
        mean = of_image(w, b)
        if matching == "l1":
            return (mean - wanted).abs().mean()
        if matching == "l2":
            return (mean - wanted).square().mean()
        spread = lmnet3d.spread(functional, w, mean)
        return (mean + spread * b.noise - wanted).square().mean() + diversity(spread, b.azimuth)

    return loss


def _point_stages(
    matching: Matching = "l1",
    of_image: OfBatch = lambda w, b: lmnet3d.encode_image(functional, w, b.image),
    of_cloud: OfCloud = _point_latent,
    crowding: float = 0.0,
) -> tuple[Stage, ...]:
    """The three stages of 3D-LMNet and after; `crowding` is the weight of the repulsion loss in the last."""

    def rebuilt(w: Tensors, b: Batch) -> torch.Tensor:
        return _to_cloud(w, of_image(w, b), b)

    def apart(w: Tensors, b: Batch) -> torch.Tensor:
        points = lmnet3d.decode(functional, w, of_image(w, b)).float()
        loss: torch.Tensor = chamfer_loss(points, b.cloud).mean() + crowding * repulsion(points)
        return loss

    def score(w: Tensors, b: Batch) -> float:
        return float(rebuilt(w, b))

    parts, noise = (("image", "spread"), (LATENT,)) if matching == "probabilistic" else (("image",), ())
    return (
        point_autoencoder(3000, of_cloud=of_cloud),
        Stage("match", 1000, parts, Needs(noise=noise), _matched(matching, of_image, of_cloud), score),
        Stage("together", 20000, ("image", "points"), Needs(), apart if crowding else rebuilt, score),
    )


def point_autoencoder(
    steps: int, parts: tuple[str, ...] = ("cloud", "points"), of_cloud: OfCloud = _point_latent
) -> Stage:
    """Points to latent to points."""

    def rebuilt(w: Tensors, b: Batch) -> torch.Tensor:
        return _to_cloud(w, of_cloud(w, b.cloud), b)

    return Stage("autoencoder", steps, parts, Needs(image=False), rebuilt, lambda w, b: float(rebuilt(w, b)))


def _direct_stage() -> Stage:
    """Image to points in one piece: what an autoencoder and matching latents are compared with."""

    def rebuilt(w: Tensors, b: Batch) -> torch.Tensor:
        return _to_cloud(w, lmnet3d.encode_image(functional, w, b.image), b)

    return Stage("points", 20000, ("image", "points"), Needs(), rebuilt, lambda w, b: float(rebuilt(w, b)))


def point_aligner(steps: int, matching: Matching) -> Stage:
    """Features of a frozen image encoder to the latents of a frozen cloud encoder; one of the second stage's losses."""

    def of_image(w: Tensors, b: Batch) -> torch.Tensor:
        return lmnet3d.align(functional, w, _features(w, b))

    def score(w: Tensors, b: Batch) -> float:
        return float(_to_cloud(w, of_image(w, b), b))

    parts, noise = (("align", "spread"), (LATENT,)) if matching == "probabilistic" else (("align",), ())
    encoder = partial(encode, _point_latent)
    return Stage(
        "match", steps, parts, Needs(noise=noise), _matched(matching, of_image, _point_latent), score, encode=encoder
    )


def _to_cloud(w: Tensors, latent: torch.Tensor, b: Batch) -> torch.Tensor:
    """Mean Chamfer distance of the points decoded; in single precision, whatever automatic casting does."""
    loss: torch.Tensor = chamfer_loss(lmnet3d.decode(functional, w, latent).float(), b.cloud).mean()
    return loss


def _field_loss(w: Tensors, latent: torch.Tensor, b: Batch) -> torch.Tensor:
    """SDF (twice: clamped distances and occupancy), latent SDF, eikonal and normal losses."""
    unfolded = lam3d.unfold(functional, w, latent)
    planes = lam3d.refine(functional, w, unfolded)
    slopes = b.normals.shape[1] if len(b.normals) else 0
    if not slopes:
        predicted = lam3d.distance(functional, w, planes, b.queries)
        return _distance_loss(predicted, b, w, unfolded)
    steps = torch.cat([torch.zeros(1, 3), torch.eye(3) * STEP]).to(latent.device)
    around = (b.cloud[:, :slopes, None] + steps).flatten(1, 2)
    values = lam3d.distance(functional, w, planes, torch.cat([b.queries, around], 1))
    predicted, near = values[:, : -4 * slopes], values[:, -4 * slopes :].unflatten(1, (slopes, 4))
    eikonal, normal = slope((near[..., 1:] - near[..., :1]) / STEP, b.normals)
    return _distance_loss(predicted, b, w, unfolded) + 0.01 * eikonal + 0.1 * normal


def _distance_loss(predicted: torch.Tensor, b: Batch, w: Tensors, unfolded: torch.Tensor) -> torch.Tensor:
    """SDF and, where there is a refiner, latent SDF losses: of what the planes say before it."""
    loss = occupancy(predicted, b.distances, lam3d.UNIT) + clamped(predicted, b.distances)
    if "planes.mix.weight" not in w:
        return loss
    rough = lam3d.refine(functional, w, unfolded, refined=False)
    some = slice(None, None, 4)
    unrefined = lam3d.distance(functional, w, rough, b.queries[:, some])
    return loss + 0.3 * occupancy(unrefined, b.distances[:, some], lam3d.UNIT)


def _misses(w: Tensors, latent: torch.Tensor, b: Batch) -> float:
    """1 - intersection over union of inside and predicted inside, on the uniform half of the queries."""
    half = b.queries.shape[1] // 2
    planes = lam3d.decode(functional, w, latent)
    predicted = lam3d.distance(functional, w, planes, b.queries[:, :half]) < 0
    true = b.distances[:, :half] < 0
    shared = (predicted & true).sum(1) / (predicted | true).sum(1).clamp(min=1)
    return 1 - float(shared.float().mean())


def plane_latent(w: Tensors, cloud: torch.Tensor) -> torch.Tensor:
    """Latent planes, or vectors, of clouds (B, POINTS, 3), half of whose points are looked at."""
    return lam3d.encode_cloud(functional, w, cloud[:, ::2])


def _rebuilt_field(w: Tensors, b: Batch, cloud: torch.Tensor) -> torch.Tensor:
    latent = plane_latent(w, cloud)
    return _field_loss(w, latent, b) + 1e-3 * latent.square().mean()


def field_autoencoder(steps: int, needs: Needs, parts: tuple[str, ...] = ("cloud", "planes", "field")) -> Stage:
    """Points to latent to signed distance."""

    def loss(w: Tensors, b: Batch) -> torch.Tensor:
        return _rebuilt_field(w, b, b.cloud)

    return Stage("autoencoder", steps, parts, needs, loss, lambda w, b: _misses(w, plane_latent(w, b.cloud), b))


def _plane_stage() -> Stage:
    """Clouds to latent planes to signed distance: half of them of the truth, half those that a frozen network makes of
    a picture. The encoder of clouds so aligns pictures with what it makes of the truth."""

    def loss(w: Tensors, b: Batch) -> torch.Tensor:
        half = len(b.cloud) // 2
        with torch.no_grad():
            points = lmnet3d.decode(functional, w, _features(w, b)[:half])
        return _rebuilt_field(w, b, torch.cat([points, b.cloud[half:]]))

    def score(w: Tensors, b: Batch) -> float:
        return _misses(w, lam3d.encode_points(functional, w, _features(w, b)), b)

    parts, needs = ("cloud", "planes", "field"), Needs(queries=1024, slopes=32)
    return Stage("field", 12000, parts, needs, loss, score, rate=2e-3, encode=partial(encode, None))


def plane_aligner(steps: int) -> Stage:
    """Features of a frozen image encoder to the latents of a frozen cloud encoder, in one deterministic step."""

    def of_image(w: Tensors, b: Batch) -> torch.Tensor:
        return lam3d.align(functional, w, _features(w, b))

    return Stage(
        "align",
        steps,
        ("align",),
        Needs(queries=1024),
        lambda w, b: (of_image(w, b) - b.latent).abs().mean(),
        lambda w, b: _misses(w, of_image(w, b), b),
        encode=partial(encode, plane_latent),
    )


def plane_diffusion(steps: int, latent: tuple[int, ...], mapped: bool = True) -> Stage:
    """The same by diffusion: mean squared error of the clean latent of this shape, predicted from a noisy one and,
    where networks are not `mapped`, from that of the picture's points."""

    def known(w: Tensors, features: torch.Tensor) -> torch.Tensor | None:
        if mapped:
            return None
        with torch.no_grad():
            return diffusion.standard(w, lam3d.encode_points(functional, w, features))

    def loss(w: Tensors, b: Batch) -> torch.Tensor:
        clean = diffusion.standard(w, b.latent)
        noisy, kept = diffusion.shares(b.time, clean)
        mixed = kept * clean + noisy * b.noise
        predicted = diffusion.denoise(functional, w, mixed, b.time, b.features, known(w, b.features))
        return (predicted - clean).square().mean()

    def score(w: Tensors, b: Batch) -> float:
        features = _features(w, b)
        return _misses(w, diffusion.sample(functional, w, features, b.noise, DDIM_STEPS, known(w, features)), b)

    read_off = ("diffuse.mean", "diffuse.scale")

    def statistics(encoded: Encoded) -> Tensors:
        values = encoded.latents.float().flatten(0, 1)
        mean = values.mean(0)
        spread = (values - mean).transpose(0, 1).reshape(mean.shape[0], -1).std(1)
        scale = spread.clamp(min=1e-4).reshape(-1, *(1 for _ in mean.shape[1:]))
        return dict(zip(read_off, (mean, scale), strict=True))

    return Stage(
        "diffusion",
        steps,
        ("diffuse",),
        Needs(queries=1024, noise=latent),
        loss,
        score,
        encode=partial(encode, plane_latent),
        statistics=statistics,
        read_off=read_off,
    )


_POINTS, _PLANES = lmnet3d.shapes(), lam3d.shapes()
_SPREAD = {"spread": lmnet3d.variant_shapes()["spread"]}
NETWORKS: dict[str, Network] = {
    "lmnet3d": Network(_POINTS, _point_stages(), "lmnet3d"),
    "lmnet3d-l2": Network(_POINTS, _point_stages("l2")),
    "lmnet3d-probabilistic": Network({**_POINTS, **_SPREAD}, _point_stages("probabilistic")),
    "lmnet3d-graph": Network(
        {"image": patch_encoder_shapes(), "cloud": graph_encoder_shapes(), "points": _POINTS["points"]},
        _point_stages(
            "l1",
            lambda w, b: patch_encoder(dict(below(w, "image")), b.image),
            lambda w, cloud: graph_encoder(dict(below(w, "cloud")), cloud[:, :256]),
            crowding=0.01,
        ),
    ),
    "direct": Network(
        {"image": image_encoder_shapes((32, 64, 128)), "points": point_decoder_shapes(256)},
        (_direct_stage(),),
        "direct",
    ),
    # The upper bound: an encoder of points for the decoder that ships.
    "lmnet3d-bound": Network(_POINTS, (point_autoencoder(3000, ("cloud",)),), "lmnet3d", ("image", "points")),
    # Begins with the pictures' points of `lmnet3d`.
    "lam3d": Network(
        {part: entries for part, entries in _PLANES.items() if part != "diffuse"},
        (_plane_stage(),),
        "lam3d",
        ("image", "points"),
    ),
    # The diffusion that aligns images with the latents of that network's encoder.
    "lam3d-diffusion": Network(
        _PLANES,
        (plane_diffusion(8000, lam3d.PLANES, mapped=False),),
        "lam3d",
        ("image", "points", "cloud", "planes", "field", "diffuse"),
    ),
}
