"""The training shape whose picture is nearest: what a network must beat before it can be said to reconstruct."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.contract import F32, Reconstruction, Reconstructor, Views
from adapters.shared.latent import network_input
from adapters.systems.retrieval.features import OUTLINE, gradients, outline

UNIT = 0.5 / 127  # of the stored points, diameters


@dataclass(frozen=True)
class Query:
    """Descriptors of the views."""

    gradients: F32  # (N, F)
    outlines: F32 | None  # (N, OUTLINE^2), where masks are given


class Adapter(Reconstructor):
    """Looks the views up among the training shapes' own: by silhouette where masks are given, else by gradients.

    With several views each shape is as far as the mean, over the views, of its nearest picture."""

    def load(self, device: str, weights: str, seed: int) -> None:
        """The shipped gallery."""
        with np.load(Path(__file__).with_name("gallery.npz"), allow_pickle=False) as arrays:
            self._points = arrays["points"]  # (G, M, 3) int8
            self._mean, self._axes = arrays["mean"].astype(np.float32), arrays["axes"].astype(np.float32)
            self._gradients = arrays["gradients"].astype(np.float32)  # (G V, D)
            bits = np.unpackbits(arrays["outlines"], axis=1, count=OUTLINE**2)
            self._outlines = bits.astype(np.float32)  # (G V, OUTLINE^2)

    def prepare(self, views: Views) -> Query:
        masks = views.masks
        side = [min(mask.shape) for mask in masks] if masks is not None else []
        squares = (
            np.concatenate([outline(_middle(mask, size)[None]) for mask, size in zip(masks, side, strict=True)])
            if masks is not None
            else None
        )
        return Query(gradients(network_input(views.images)), squares)

    def infer(self, inputs: Query) -> int:
        """Number of the nearest shape."""
        if inputs.outlines is not None:
            query, gallery = inputs.outlines, self._outlines
        else:
            query, gallery = (inputs.gradients - self._mean) @ self._axes.T, self._gradients
        distance = (query**2).sum(axis=1)[:, None] - 2 * query @ gallery.T + (gallery**2).sum(axis=1)
        by_shape = distance.reshape(len(query), len(self._points), -1).min(axis=2)
        return int(by_shape.mean(axis=0).argmin())

    def finish(self, outputs: int, views: Views) -> Reconstruction:
        """That shape's points, in the object's own frame."""
        points = self._points[outputs].astype(np.float32) * np.float32(UNIT)
        return Reconstruction(points=points, frame="object", scale="arbitrary")


def _middle(mask: np.ndarray, side: int) -> np.ndarray:
    """The largest square in the middle."""
    top, left = (mask.shape[0] - side) // 2, (mask.shape[1] - side) // 2
    return mask[top : top + side, left : left + side]
