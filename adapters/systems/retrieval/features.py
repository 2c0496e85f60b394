"""What a picture is looked up by: histograms of oriented gradients, or the silhouette where a mask is given."""

from __future__ import annotations

import numpy as np

from adapters.contract import F32, Bools

CELL, BINS = 8, 9  # pixels, orientations
OUTLINE = 24  # pixels along the side of a silhouette


def gradients(images: F32) -> F32:
    """(B, F) descriptors of images (B, 3, S, S), 0 to 1, after Dalal and Triggs (CVPR 2005): histograms of gradients by
    cell, normalised over blocks of 2 x 2 cells, then the square root."""
    grey = images.mean(axis=1)
    gx, gy = np.zeros_like(grey), np.zeros_like(grey)
    gx[:, :, 1:-1], gy[:, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2], grey[:, 2:] - grey[:, :-2]
    size = np.hypot(gx, gy)
    angle = np.arctan2(gy, gx) % np.pi / np.pi * BINS
    away = np.abs(angle[..., None] - np.arange(BINS))
    share = np.maximum(1 - np.minimum(away, BINS - away), 0) * size[..., None]
    count, cells = len(images), images.shape[2] // CELL
    histogram = share.reshape(count, cells, CELL, cells, CELL, BINS).sum(axis=(2, 4))
    blocks = [histogram[:, i : cells - 1 + i, j : cells - 1 + j] for i in (0, 1) for j in (0, 1)]
    block = np.concatenate(blocks, axis=3)
    block = np.sqrt(block / (np.linalg.norm(block, axis=3, keepdims=True) + 1e-3))
    return np.asarray(block.reshape(count, -1), np.float32)


def outline(masks: Bools | F32) -> F32:
    """(B, OUTLINE^2) shares of the object in the cells of masks (B, S, S)."""
    count, size = masks.shape[:2]
    edge = (np.arange(OUTLINE + 1) * size) // OUTLINE
    total = np.zeros((count, size + 1, size + 1), np.float32)
    total[:, 1:, 1:] = np.asarray(masks, np.float32).cumsum(axis=1).cumsum(axis=2)
    corner = total[:, edge][:, :, edge]
    cells = corner[:, 1:, 1:] - corner[:, :-1, 1:] - corner[:, 1:, :-1] + corner[:, :-1, :-1]
    area = np.diff(edge)[:, None] * np.diff(edge)[None]
    return np.asarray((cells / area).reshape(count, -1), np.float32)
