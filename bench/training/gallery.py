"""What the floors of common sense ship: a gallery of training shapes to look pictures up in, and the medoid of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

import adapters
from adapters.shared.latent import POINTS
from adapters.systems.retrieval.adapter import UNIT
from adapters.systems.retrieval.features import gradients, outline
from data.synthetic.family import Family
from data.synthetic.views import shade

OBJECTS = 1_024
DIMENSIONS = 64  # of the gradients' principal axes
CANDIDATES, OTHERS, FEW = 256, 128, 256  # medoid: shapes tried, shapes compared with, points of each


def write_galleries(data: Path) -> str:
    """Write `retrieval/gallery.npz` and `medoid/points.npz` from the training split; returns a sentence saying so."""
    family = Family.open(data, "train", OBJECTS)
    systems = Path(adapters.__file__).parent / "systems"
    rng = np.random.default_rng(17)
    count, views = family.casts.shape[:2]
    described = np.concatenate([gradients(shade(family.casts[i], family.lights[i], rng)) for i in range(count)])
    masks = (family.casts[..., :3] != 0).any(axis=-1).reshape(count * views, *family.casts.shape[2:4])
    mean = described.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((described - mean).T))
    axes = vectors[:, : -DIMENSIONS - 1 : -1].T
    gallery = systems / "retrieval" / "gallery.npz"
    np.savez_compressed(
        gallery,
        points=np.round(family.surface[:, :POINTS].astype(np.float32) / UNIT).astype(np.int8),
        mean=mean.astype(np.float16),
        axes=axes.astype(np.float16),
        gradients=((described - mean) @ axes.T).astype(np.float16),
        outlines=np.packbits(outline(masks) > 0.5, axis=1),
    )
    points = systems / "medoid" / "points.npz"
    np.savez_compressed(points, points=family.surface[_medoid(family.surface), :POINTS].astype(np.float16))
    return f"{gallery}: {gallery.stat().st_size / 1e6:.1f} MB; {points}: {points.stat().st_size / 1e6:.2f} MB"


def _medoid(surface: np.ndarray) -> int:
    """The candidate with the least mean Chamfer distance to the others."""
    sparse = surface[:, :FEW].astype(np.float64)
    trees = [cKDTree(points) for points in sparse[: max(CANDIDATES, OTHERS)]]
    totals = []
    for i in range(CANDIDATES):
        distances = [
            np.mean(trees[j].query(sparse[i])[0]) + np.mean(trees[i].query(sparse[j])[0]) for j in range(OTHERS)
        ]
        totals.append(np.mean(distances))
    return int(np.argmin(totals))
