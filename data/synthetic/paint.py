"""What a surface is made of, and the texture atlas that carries it.

Colours are given as sRGB hex strings and kept as linear reflectance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from adapters.contract import F32, F64, I32, U8
from data.synthetic.noise import fbm, lattice_hash, smoothstep, value_noise


@dataclass(frozen=True)
class Coat:
    """The material at M points."""

    colour: F64  # (M, 3) linear reflectance
    roughness: F64  # (M,), of the base layer, 0 = mirror
    metallic: F64  # (M,), 0 or 1
    clearcoat: F64  # (M,), strength of the lacquer


Paint = Callable[[F64, F64], Coat]  # points (M, 3) and unit normals (M, 3) -> their material


def linear(*colours: str) -> F64:
    """(K, 3) linear reflectance of sRGB hex colours such as "e07a5f"."""
    srgb = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in colours]) / 255
    return np.asarray(np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4))


def encode_srgb(reflectance: F64) -> U8:
    """Linear values in [0, 1] -> sRGB bytes (IEC 61966-2-1)."""
    x = np.clip(reflectance, 0, 1)
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(srgb * 255 + 0.5, np.uint8)


def mix(a: F64, b: F64, share: F64) -> F64:
    """`a` where `share` (M,) is 0, `b` where it is 1; colours (M, 3) or (3,)."""
    return np.asarray(a + (b - a) * share[:, None])


def terrazzo(
    side: float, texels: int, ground: str, chips: F64, sizes: tuple[tuple[float, float], ...], seed: int
) -> F32:
    """A square of cast stone: (texels, texels, 3) float32 linear reflectance, `side` metres wide.

    Chips of several `sizes` (metres, share of the places filled) are laid over one another; each is a cell of a
    scattered Voronoi diagram, shrunk by its joint.
    """
    axis = (np.arange(texels) + 0.5) / texels * side
    p = np.stack(np.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    colour = mix(linear(ground)[0] * np.ones((len(p), 1)), linear(ground)[0] * 0.78, fbm(p, 14, seed, 2))
    for layer, (size, share) in enumerate(sizes):
        rng = np.random.default_rng([seed, layer])
        count = int(np.ceil(side / size)) + 2
        cells = np.stack(np.meshgrid(np.arange(-1, count - 1), np.arange(-1, count - 1), indexing="ij"), -1)
        seeds = (cells.reshape(-1, 2) + rng.uniform(0, 1, (count**2, 2))) * size
        kept, tone = rng.uniform(size=len(seeds)) < share, rng.integers(len(chips), size=len(seeds))
        warped = p + size * 0.25 * np.stack([value_noise(p, 2 / size, seed + 7 + k) - 0.5 for k in (0, 1)], axis=1)
        distance, index = (np.asarray(part) for part in cKDTree(seeds).query(warped, k=2))
        inside = smoothstep(0.10, 0.16, (distance[:, 1] - distance[:, 0]) / size) * kept[index[:, 0]]
        colour = mix(colour, chips[tone[index[:, 0]]], 0.85 * inside)
    return np.clip(colour, 0.015, 0.92).reshape(texels, texels, 3).astype(np.float32)


@dataclass(frozen=True)
class Atlas:
    """A texture in which every triangle owns a patch, so that any solid texture fits any mesh without seams."""

    uv: F32  # (F, 3, 2) corners of each face, v downwards from the first row
    colour: F32  # (H, W, 3) linear
    roughness: F32  # (H, W)
    metallic: F32  # (H, W)
    clearcoat: F32  # (H, W)


def bake(vertices: F32, faces: I32, normals: F64, paint: Paint, texel: float) -> Atlas:
    """Paint every triangle into an atlas with texels of about `texel` (unit of `vertices`).

    `normals` is (F, 3, 3), one a corner. Two triangles share a square of s x s texels: one owns those with i + j < s,
    the other the rest. Corners are drawn in so far that bilinear look-ups never leave their own triangle's texels.
    """
    corner = vertices[faces].astype(np.float64)
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max(axis=1)
    sizes = np.clip(2 ** np.ceil(np.log2(longest / texel + 4)), 8, 256).astype(int)
    order = np.argsort(-sizes, kind="stable")
    width = 2048
    first = order[0::2]
    square = np.repeat(sizes[first], 2)[: len(faces)]  # the larger of the pair: sizes fall along `order`
    # Sizes are powers of two that fall: squares fill rows left to right without gaps.
    area, x, y, row = sizes[first], np.empty(len(first), int), np.empty(len(first), int), 0
    for size in np.unique(area)[::-1]:
        which = np.flatnonzero(area == size)
        per_row = width // size
        x[which], y[which] = np.arange(len(which)) % per_row * size, row + np.arange(len(which)) // per_row * size
        row += -(-len(which) // per_row) * size
    height = row
    origin = np.stack([np.repeat(x, 2), np.repeat(y, 2)], axis=1)[: len(faces)].astype(np.float64)
    s = square[:, None].astype(np.float64)
    lower = np.arange(len(faces)) % 2 == 0
    a = np.where(lower[:, None], 0.5, s - 0.5) * np.ones((1, 2))
    reach = np.where(lower[:, None], s - 3, 4 - s)
    local = np.stack([a, a + reach * [[1, 0]], a + reach * [[0, 1]]], axis=1)
    uv = np.empty((len(faces), 3, 2), np.float32)
    uv[order] = (origin[:, None] + local) / [width, height]

    owner = np.full((height, width), -1, np.int64)  # rank in `order` of the triangle that owns a texel
    for size in np.unique(area):
        i, j = np.meshgrid(np.arange(size), np.arange(size), indexing="xy")
        pairs = np.flatnonzero(area == size)
        upper = np.minimum(2 * pairs + 1, len(faces) - 1)
        rank = np.where((i + j < size)[None], 2 * pairs[:, None, None], upper[:, None, None])
        owner[y[pairs][:, None, None] + j, x[pairs][:, None, None] + i] = rank
    rows, columns = np.nonzero(owner >= 0)
    rank = owner[rows, columns]
    at = np.stack([columns, rows], axis=1) + 0.5 - origin[rank] - a[rank]
    weight = at / reach[rank]
    bary = np.stack([1 - weight.sum(axis=1), weight[:, 0], weight[:, 1]], axis=1)
    face = order[rank]
    shape = (height, width)
    colour, rough = np.zeros((*shape, 3), np.float32), np.ones(shape, np.float32)
    metal, coat = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for part in np.array_split(np.arange(len(face)), max(1, len(face) // 400_000)):
        point = np.einsum("mk,mkd->md", bary[part], corner[face[part]])
        normal = np.einsum("mk,mkd->md", bary[part], normals[face[part]])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        made = paint(point, normal)
        at_texel = (rows[part], columns[part])
        colour[at_texel], rough[at_texel] = made.colour, made.roughness
        metal[at_texel], coat[at_texel] = made.metallic, made.clearcoat
    return Atlas(uv, np.clip(colour, 0.012, 0.92), rough, metal, coat)


def corner_normals(vertices: F32, faces: I32, crease: float = 42.0) -> F64:
    """(F, 3, 3) shading normals: face normals averaged around a vertex, but not across edges
    sharper than `crease` degrees."""
    corner = vertices[faces].astype(np.float64)
    area = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    unit = area / np.maximum(np.linalg.norm(area, axis=1, keepdims=True), 1e-15)
    flat, face_of = faces.ravel(), np.repeat(np.arange(len(faces)), 3)
    order = np.argsort(flat, kind="stable")
    start = np.searchsorted(flat[order], np.arange(len(vertices) + 1))
    degree = np.diff(start)[flat]  # faces around the vertex of each corner
    here = np.repeat(np.arange(len(flat)), degree)
    step = np.arange(len(here)) - np.repeat(np.cumsum(degree) - degree, degree)
    there = face_of[order[start[flat[here]] + step]]
    smooth = np.einsum("md,md->m", unit[face_of[here]], unit[there]) > np.cos(np.deg2rad(crease))
    sums = [np.bincount(here[smooth], area[there[smooth], d], len(flat)) for d in range(3)]
    out = np.stack(sums, axis=1).astype(np.float64)
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-15)
    return out.reshape(-1, 3, 3)


def label(distances: dict[str, F64]) -> tuple[I32, dict[str, int]]:
    """The nearest part of every point (M,) int32, and the number of each part's name."""
    names = list(distances)
    nearest = np.argmin(np.stack([distances[name] for name in names], axis=1), axis=1)
    return nearest.astype(np.int32), {name: i for i, name in enumerate(names)}


def fabrics(points: F64, normals: F64, anchors: F64, facing: F64, palette: F64, seed: int, scale: float) -> F64:
    """Patchwork: (M, 3) linear colour. Every point takes the print of its nearest anchor (K, 3), laid in the anchor's
    tangent plane (`facing` (K, 3) its unit normal); seams are dark with light stitches. Lengths follow `scale`, the
    width of a print's repeat."""
    distance, index = (np.asarray(part) for part in cKDTree(anchors).query(points, k=2))
    own, joint = index[:, 0], (distance[:, 1] - distance[:, 0]) / scale
    rng = np.random.default_rng([seed, 5])
    up = np.cross(facing, rng.normal(size=facing.shape))
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    side = np.cross(facing, up)
    local = points - anchors[own]
    uv = np.stack([np.einsum("md,md->m", local, side[own]), np.einsum("md,md->m", local, up[own])], axis=1) / scale
    shift, zoom = rng.uniform(0, 1, (len(anchors), 2)), rng.uniform(0.75, 1.3, len(anchors))
    uv = (uv + shift[own]) * zoom[own, None]
    tones = np.array([rng.permutation(len(palette))[:3] for _ in anchors])
    ground, ink, accent = (palette[tones[own, k]] for k in range(3))
    kind = rng.permutation(np.arange(len(anchors)) % 6)[own]
    cell = np.floor(uv).astype(np.int64)
    frac = uv - cell - 0.5
    radius, angle = np.hypot(*frac.T), np.arctan2(frac[:, 1], frac[:, 0])
    pick = lattice_hash(cell, seed + 3)
    wave = np.abs((uv[:, 0] * 2) % 1 - 0.5)
    shares: list[tuple[F64, F64]] = [  # (ink, accent) of each print
        (smoothstep(0.30, 0.26, radius), smoothstep(0.15, 0.11, radius)),  # ringed dots
        (smoothstep(0.18, 0.22, wave), smoothstep(0.44, 0.46, np.abs(uv[:, 0] % 1 - 0.5))),  # stripes
        (((cell.sum(axis=1)) % 2).astype(np.float64), smoothstep(0.12, 0.08, radius)),  # checks
        (smoothstep(0.36, 0.32, radius * (1.25 + 0.35 * np.cos(5 * angle + 6 * pick))), smoothstep(0.12, 0.09, radius)),
        (  # plaid
            np.asarray(0.55 * (np.abs(frac[:, 0]) < 0.2) + 0.45 * (np.abs(frac[:, 1]) < 0.2)),
            ((np.abs(frac) < 0.04).any(axis=1)).astype(np.float64),
        ),
        (  # zigzag
            smoothstep(0.2, 0.25, np.abs((uv[:, 1] * 1.6 + np.abs((uv[:, 0] * 1.2) % 1 - 0.5)) % 1 - 0.5)),
            smoothstep(0.46, 0.48, np.abs((uv[:, 1] * 1.6 + np.abs((uv[:, 0] * 1.2) % 1 - 0.5)) % 1 - 0.5)),
        ),
    ]
    ink_share = np.choose(kind, [s[0] for s in shares])
    accent_share = np.choose(kind, [s[1] for s in shares])
    colour = mix(mix(ground, ink, ink_share), accent, accent_share)
    weave = 0.78 + 0.44 * fbm(points, 2.2 / scale, seed + 11, 5, 0.75)
    colour *= weave[:, None]
    seam = smoothstep(0.16, 0.05, joint)
    stitch = (smoothstep(0.34, 0.26, np.abs(joint - 0.42) * 2.2) > 0) & (np.abs(joint - 0.34) < 0.07)
    dash = lattice_hash(np.floor(points * 2.6 / scale).astype(np.int64), seed + 23) > 0.45
    colour = mix(colour, 0.25 * ground, seam)
    return mix(colour, linear("f6efe0")[0] * np.ones_like(colour), np.asarray((stitch & dash) * 0.8))
