"""What a triangle mesh is worth by itself, without any truth: is it valid, and are its triangles well shaped?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from adapters.contract import F64, I32, Bools
from metrics.points import checked_faces, checked_points

I64 = NDArray[np.int64]
MOST_WORK = 200_000_000  # comparisons of boxes that a search for intersections may take: enough for some 500,000 faces
BITS = 50  # to which coordinates are rounded before intersections are told, relative to the mesh's extent


@dataclass(frozen=True)
class MeshValidity:
    """A census of a mesh's defects. Places that coincide count as one vertex; one that no face has counts as none."""

    vertices: int
    faces: int
    watertight: bool  # every edge borders two faces
    manifold: bool  # no edge borders more than two faces, and the faces about every vertex are one fan
    consistent: bool  # faces that share an edge agree which side is out
    components: int  # sets of faces that edges connect
    boundary_edges: int  # that border one face
    crowded_edges: int  # that border more than two
    pinched_vertices: int  # about which the faces are more than one fan
    degenerate_faces: int  # whose three corners lie on one line, or are not three places
    duplicate_faces: int  # that have all corners of an earlier one
    checked_faces: int  # for intersections: all others but degenerate ones; fewer where that would take too long
    intersecting_faces: int  # of the checked ones, those that intersect another beyond the corners and edge they share

    @property
    def complete(self) -> bool:
        """Whether every face was checked for intersections; else a draw of them was, and the share is an estimate."""
        return self.checked_faces == self.faces - self.degenerate_faces

    @property
    def intersecting(self) -> float | None:
        """Share of the checked faces that intersect another one; None where every face is degenerate."""
        return self.intersecting_faces / self.checked_faces if self.checked_faces else None


@dataclass(frozen=True)
class MeshQuality:
    """How well shaped a mesh's triangles are and how smooth its surface; unaffected by pose and scale. Degenerate faces
    have no shape, and count in neither."""

    edge_spread: float | None  # standard deviation of the edges' lengths, relative to their mean
    turn: float | None  # degrees, mean angle between the normals of two faces that share an edge
    laplacian: float | None  # mean distance from a vertex to its neighbours' mean, relative to the mean edge
    stretched: float | None  # share of the faces whose aspect ratio is above 4
    acute: float | None  # share of the faces with an angle below 10 degrees


def mesh_validity(vertices: ArrayLike, faces: ArrayLike, most: int = MOST_WORK, seed: int = 0) -> MeshValidity:
    """The census of the mesh `vertices` (V, 3) float, `faces` (F, 3) int.

    Intersections are exact: two faces intersect where they have a point in common beyond the corners and the edge that
    they share, decided by predicates with certain signs on coordinates rounded to 2^-50 of the mesh's extent. Faces are
    checked in an order drawn from `seed`, until `most` comparisons are made: see `complete`. Memory: about 400 bytes a
    face.

    Raises ValueError for shapes, indices or numbers that are no mesh."""
    mesh = _Mesh.of(vertices, faces)
    flat = mesh.flat
    crossing, checked = 0, 0
    if not flat.all():
        from metrics.kernels.cpu.crossings import crossing_faces

        solid = np.ascontiguousarray(mesh.faces[~flat])
        asked = np.random.default_rng(seed).permutation(len(solid))
        answers = crossing_faces(mesh.whole, solid, asked, most)
        crossing, checked = int(answers.sum()), len(answers)
    three = mesh.faces[mesh.distinct]
    edges = _Edges.of(three)
    count = np.bincount(edges.number, minlength=len(edges.ends))
    fans = edges.fans(three)
    about = np.bincount(fans, minlength=len(mesh.vertices))
    ordered = np.sort(mesh.faces, axis=1)
    crowded, pinched = int((count > 2).sum()), int((about > 1).sum())
    return MeshValidity(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        watertight=bool(len(count) and (count == 2).all()),
        manifold=bool(len(count) and not crowded and not pinched),
        consistent=edges.consistent(count),
        components=edges.components(len(three)),
        boundary_edges=int((count == 1).sum()),
        crowded_edges=crowded,
        pinched_vertices=pinched,
        degenerate_faces=int(flat.sum()),
        duplicate_faces=len(ordered) - len(np.unique(ordered, axis=0)),
        checked_faces=checked,
        intersecting_faces=crossing,
    )


def mesh_quality(vertices: ArrayLike, faces: ArrayLike) -> MeshQuality:
    """Shape and smoothness of the mesh `vertices` (V, 3) float, `faces` (F, 3) int; None for what it has no parts for.

    Edge lengths and the uniform Laplacian are what Pixel2Mesh (Wang et al. 2018) and Mesh R-CNN (Gkioxari et al. 2019)
    are trained to keep small, the angle between neighbouring faces is what PyTorch3D's normal consistency loss is of;
    here lengths are relative to the mean edge, so that a finer mesh is not a better one by its scale alone. Aspect
    ratios above 4 and angles below 10 degrees are what FlexiCubes (Shen et al. 2023) reports. The aspect ratio is
    Verdict's: longest edge times perimeter over 4 sqrt(3) times the area, 1 for an equilateral triangle.

    Raises ValueError for shapes, indices or numbers that are no mesh."""
    mesh = _Mesh.of(vertices, faces)
    solid = mesh.faces[~mesh.flat]
    if not len(solid):
        return MeshQuality(None, None, None, None, None)
    edges = _Edges.of(solid)
    at = mesh.vertices
    lengths = np.linalg.norm(at[edges.ends[:, 0]] - at[edges.ends[:, 1]], axis=1)
    mean = float(lengths.mean())

    a, b, c = (at[solid[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    area = np.linalg.norm(normals, axis=1)  # twice that of the triangle
    real = area > 0  # one that is not exactly flat may be so in float64
    unit = normals / np.where(real, area, 1.0)[:, None]
    first, last, same_way = edges.pairs()
    both = real[first] & real[last]
    cosine = (unit[first[both]] * unit[last[both]]).sum(axis=1) * np.where(same_way[both], -1.0, 1.0)
    turn = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()) if both.any() else None

    n = len(at)
    ends = np.concatenate([edges.ends, edges.ends[:, ::-1]])
    beside = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n)).tocsr()
    degree = np.asarray(beside.sum(axis=1)).ravel()
    used = degree > 0
    offset = at[used] - (beside @ at)[used] / degree[used, None]

    sides = np.stack([np.linalg.norm(c - b, axis=1), np.linalg.norm(a - c, axis=1), np.linalg.norm(b - a, axis=1)])
    aspect = np.full(len(solid), np.inf)
    aspect[real] = (sides.max(axis=0) * sides.sum(axis=0))[real] / (2 * np.sqrt(3) * area[real])
    least = np.sort(sides, axis=0)
    # The least angle lies between the two longer sides: its sine is twice the area over their product.
    angle = np.degrees(np.arcsin(np.clip(area / np.maximum(least[1] * least[2], np.finfo(float).tiny), 0, 1)))
    return MeshQuality(
        float(lengths.std() / mean),
        turn,
        float(np.linalg.norm(offset, axis=1).mean() / mean),
        float((aspect > 4).mean()),
        float((angle < 10).mean()),
    )


def face_normals_at(points: ArrayLike, vertices: ArrayLike, faces: ArrayLike) -> F64:
    """(M, 3) unit normals of the faces that are nearest to `points` (M, 3), of the mesh `vertices` (V, 3), `faces`
    (F, 3). Faces without an area have none, and are passed over."""
    import point_cloud_utils

    cloud, mesh = checked_points("points", points), _Mesh.of(vertices, faces)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    area = np.linalg.norm(normals, axis=1)
    real = area > 0
    if not real.any():
        raise ValueError("faces: none with an area seen, at least one wanted")
    unit = normals[real] / area[real, None]
    centre = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    triangles = np.ascontiguousarray(mesh.faces[real], np.int32)
    _, face, _ = point_cloud_utils.closest_points_on_mesh(cloud - centre, mesh.vertices - centre, triangles)
    return np.asarray(unit[np.reshape(face, -1)])


@dataclass(frozen=True)
class _Mesh:
    vertices: F64  # (V, 3), distinct places, each of a face
    faces: I32  # (F, 3)

    @staticmethod
    def of(vertices: ArrayLike, faces: ArrayLike) -> _Mesh:
        """The mesh with places that coincide as one: formats such as STL repeat them for every face."""
        corners = checked_points("vertices", vertices, 3)
        triangles = checked_faces("faces", faces, len(corners))
        used = np.unique(triangles)
        places, same = np.unique(corners[used] + 0.0, axis=0, return_inverse=True)  # -0 is 0
        number = np.zeros(len(corners), np.int32)
        number[used] = np.reshape(same, -1)
        return _Mesh(places, number[triangles])

    @property
    def distinct(self) -> Bools:
        """(F,) bool: which faces have three places."""
        return np.asarray((self.faces != np.roll(self.faces, 1, axis=1)).all(axis=1))

    @property
    def whole(self) -> F64:
        """The vertices about the middle of their box, as whole numbers of BITS bits at most."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        extent = float((high - low).max())
        scale = np.ldexp(1.0, BITS - int(np.frexp(extent)[1])) if extent > 0 else 1.0
        return np.asarray(np.rint((self.vertices - (low + (high - low) / 2)) * scale))

    @property
    def flat(self) -> Bools:
        """(F,) bool: which faces have no area, exactly."""
        from metrics.kernels.cpu.crossings import flat_faces

        return np.asarray(flat_faces(self.whole, self.faces))


@dataclass(frozen=True)
class _Edges:
    """The edges of faces with three distinct corners: half-edge h is side h // F of face h % F."""

    ends: I64  # (E, 2), each edge's corners, the lower one first
    number: I64  # (3 F,), which edge a half-edge is of
    upward: Bools  # (3 F,), whether it runs from the lower corner to the higher
    order: I64  # (3 F,), half-edges sorted by edge

    @staticmethod
    def of(faces: I32) -> _Edges:
        sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
        size = int(faces.max()) + 1 if len(faces) else 1
        low, high = sides.min(axis=1), sides.max(axis=1)
        keys, number = np.unique(low * size + high, return_inverse=True)
        number = np.reshape(number, -1)
        ends = np.stack([keys // size, keys % size], axis=1)
        return _Edges(ends, number, sides[:, 0] == low, np.argsort(number, kind="stable"))

    def _neighbours(self) -> tuple[I64, I64]:
        """Half-edges of one edge, each with the next one of it: chains that connect all of an edge."""
        follows = self.number[self.order[1:]] == self.number[self.order[:-1]]
        return self.order[:-1][follows], self.order[1:][follows]

    def pairs(self) -> tuple[I64, I64, Bools]:
        """The two faces of each edge that borders two (P,), (P,), and whether they run along it the same way (P,)."""
        twice = (np.bincount(self.number, minlength=len(self.ends)) == 2)[self.number[self.order]]
        halves = self.order[twice].reshape(-1, 2)
        faces = len(self.number) // 3
        first, last = halves.T
        return (
            first % faces if faces else first,
            last % faces if faces else last,
            self.upward[first] == self.upward[last],
        )

    def consistent(self, count: I64) -> bool:
        """Whether every edge of two faces is run along once each way."""
        up = np.bincount(self.number[self.upward], minlength=len(count))
        return bool((up[count == 2] == 1).all())

    def components(self, faces: int) -> int:
        """How many sets of faces edges connect."""
        if not faces:
            return 0
        first, last = self._neighbours()
        links = coo_array((np.ones(len(first), np.int8), (first % faces, last % faces)), shape=(faces, faces))
        _, label = connected_components(links, directed=False)
        return int(label.max()) + 1

    def fans(self, faces: I32) -> I64:
        """The vertex of every fan: of every set of corners at one vertex that edges at it connect."""
        if not len(faces):
            return np.zeros(0, np.int64)
        first, last = self._neighbours()
        rows, columns = [], []
        for high in (False, True):  # at both ends of the edge
            # The corner of a face at which half-edge side k begins is k, at which it ends k + 1.
            corner = [
                (h // len(faces) + (self.upward[h] == high)) % 3 * len(faces) + h % len(faces) for h in (first, last)
            ]
            rows.append(corner[0])
            columns.append(corner[1])
        row, column = np.concatenate(rows), np.concatenate(columns)
        size = 3 * len(faces)
        links = coo_array((np.ones(len(row), np.int8), (row, column)), shape=(size, size))
        _, label = connected_components(links, directed=False)
        _, any_of_it = np.unique(label, return_index=True)
        return np.asarray(faces.T.reshape(-1)[any_of_it], np.int64)
