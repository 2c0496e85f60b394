"""View subsets: nested and seeded, spread over the angles of a scene or each overlapping an earlier view."""

from __future__ import annotations

from typing import Literal

import numpy as np

from adapters.contract import F64, Cameras
from metrics.scoring.truth import Truth
from metrics.scoring.visibility import depth_buffers, seen_surface

Order = Literal["spread", "overlap", "sequence"]
SURFACE_POINTS = 4_000  # of the truth, whose views are compared
AGREES = 0.01  # diameters: a view sees a point where its depth agrees to this
WIDEST = 25.0  # degrees: features of surface seen from farther apart are rarely matched
ENOUGH = 0.5  # of a view's surface, shared with an earlier view


def nested_order(directions: F64, seed: int) -> list[int]:
    """An order of N views whose every prefix is spread out: farthest-point order on the sphere.

    `directions` (N, 3): from the scene's centre to each camera, any length. The first view is drawn with `seed`;
    each next one is the farthest, by angle, from all before it (Gonzalez 1985), ties going to the lower index.
    Prefixes are nested by construction: the views of a count are among those of every larger count."""
    count = len(directions)
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    angle = np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
    order = [int(np.random.default_rng(seed).integers(count))]
    nearest = angle[order[0]].copy()
    nearest[order[0]] = -1.0
    while len(order) < count:
        order.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, angle[order[-1]])
        nearest[order] = -1.0
    return order


def even_order(count: int, seed: int) -> list[int]:
    """The same for views without known cameras, taken in sequence round an object: positions on a circle."""
    turn = 2 * np.pi * np.arange(count) / max(count, 1)
    return nested_order(np.stack([np.cos(turn), np.sin(turn), np.zeros(count)], axis=1), seed)


def view_directions(cameras: Cameras, centre: F64) -> F64:
    """(N, 3) what tells the views of a scene apart: for cameras round an object the directions from its `centre` (3,)
    to them; for cameras that mostly look elsewhere, as in a room, the directions in which they look."""
    away = cameras.centres - centre
    axes = cameras.camera_from_world[:, 2, :3]
    inwards = -(away * axes).sum(axis=1) / np.maximum(np.linalg.norm(away, axis=1), 1e-12)
    return np.asarray(away if np.median(inwards) > 0.5 else axes, np.float64)


def overlap_order(shared: F64, seed: int) -> list[int]:
    """An order of N views in which each shares surface with an earlier one, and otherwise brings as much new surface as
    it can.

    `shared` (N, N), 0..1: how much of their surface two views share (see `shared_surface`). The first view is drawn
    with `seed`; each next one is, of those that share `ENOUGH` with an earlier one, that which shares least with all
    earlier ones; where none shares as much, that which shares most. Ties go to the lower index; prefixes are nested."""
    count = len(shared)
    order = [int(np.random.default_rng(seed).integers(count))]
    while len(order) < count:
        left = np.setdiff1d(np.arange(count), order)
        most = shared[left][:, order].max(axis=1)
        near = most >= ENOUGH
        order.append(int(left[np.argmin(np.where(near, most, np.inf))] if near.any() else left[np.argmax(most)]))
    return order


def shared_surface(truth: Truth, views: list[int]) -> F64:
    """(N, N) share of the surface that one of two of the truth's `views` (N indices) sees and the other one sees too,
    from less than `WIDEST` degrees apart; of the two shares the smaller. Holds round objects and inside rooms."""
    points = truth.points[np.sort(np.random.default_rng(0).permutation(len(truth.points))[:SURFACE_POINTS])]
    visible = seen_surface(points, truth, depth_buffers(truth), AGREES * truth.diameter)[views]
    rays = points[None] - truth.cameras.centres[views][:, None]
    rays /= np.maximum(np.linalg.norm(rays, axis=2, keepdims=True), 1e-12)
    share = np.zeros((len(views), len(views)))
    for i in range(len(views)):
        close = np.einsum("md,nmd->nm", rays[i], rays) > np.cos(np.deg2rad(WIDEST))
        share[i] = (visible & visible[i] & close).sum(axis=1) / max(int(visible[i].sum()), 1)
    return np.minimum(share, share.T)


def sequence_overlap(count: int) -> F64:
    """(N, N) the same for views without known cameras: photos in the order in which they were taken share less the
    farther apart they are, as on a ring of 24, of which neighbours are 15 degrees apart."""
    apart = np.abs(np.arange(count)[:, None] - np.arange(count)) * max(24 / max(count, 1), 1.0)
    return np.asarray(np.maximum(1 - 0.3 * apart, 0.0), np.float64)
