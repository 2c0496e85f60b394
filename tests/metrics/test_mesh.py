"""The census of meshes: closed forms, constructed defects, and an independent exact judge of intersections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.kernels.cpu.crossings import side_of_line, side_of_plane
from metrics.mesh import face_normals_at, mesh_quality, mesh_validity
from tests.metrics.meshes import moved, parts

Place = tuple[Fraction, ...]

BALL = trimesh.creation.icosphere(3, 1.0)
BOX = trimesh.creation.box((2, 2, 2))
TORUS = trimesh.creation.torus(2, 0.5)


def together(*meshes: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return parts(trimesh.util.concatenate(list(meshes)))


@pytest.mark.parametrize("mesh", [BALL, BOX, TORUS])
def test_a_sound_mesh_has_no_defect(mesh: trimesh.Trimesh) -> None:
    census = mesh_validity(*parts(mesh))
    assert (census.vertices, census.faces) == (len(mesh.vertices), len(mesh.faces))
    assert census.watertight and census.manifold and census.consistent and census.complete
    assert census.components == 1 and census.intersecting == 0
    assert (census.boundary_edges, census.crowded_edges, census.pinched_vertices) == (0, 0, 0)
    assert (census.degenerate_faces, census.duplicate_faces) == (0, 0)


def test_each_defect_is_counted_alone() -> None:
    vertices, faces = parts(BALL)
    whole = mesh_validity(vertices, faces)
    assert mesh_validity(vertices, faces[1:]) == replace(
        whole, faces=1279, checked_faces=1279, watertight=False, boundary_edges=3
    )
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    assert mesh_validity(vertices, turned) == replace(whole, consistent=False)
    twice = mesh_validity(vertices, np.concatenate([faces, faces[:1]]))
    assert (twice.duplicate_faces, twice.crowded_edges, twice.intersecting_faces) == (1, 3, 2)
    assert not twice.manifold and not twice.watertight and twice.pinched_vertices == 0
    flat = np.concatenate([faces, [[0, 1, 1]]])
    assert mesh_validity(vertices, flat) == replace(whole, faces=1281, degenerate_faces=1)
    assert mesh_validity(np.concatenate([vertices, [[9, 9, 9]]]), faces) == whole  # a vertex that no face has


def test_three_corners_on_a_line_are_degenerate_however_small_the_triangle() -> None:
    line = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [1, 1, 1 + 2**-40]], np.float64)
    assert mesh_validity(line, [[0, 1, 2]]).degenerate_faces == 1
    sliver = mesh_validity(line, [[0, 3, 2]])
    assert (sliver.degenerate_faces, sliver.checked_faces, sliver.intersecting) == (0, 1, 0)
    assert mesh_validity(line, [[0, 1, 2]]).intersecting is None


def test_vertices_where_two_surfaces_meet_in_a_place_are_pinched() -> None:
    a = moved(trimesh.creation.icosahedron(), 0, 0, 0)
    tip = np.asarray(a.vertices)[0]
    census = mesh_validity(*together(a, moved(a, *(2 * tip))))  # its own opposite tip lies on the first one's
    assert (census.pinched_vertices, census.components) == (1, 2)
    assert census.watertight and not census.manifold and census.intersecting == 0  # the place is a shared corner


def test_components_and_watertightness_agree_with_trimesh() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        vertices, faces = together(BALL, moved(BOX, 5, 0, 0))
        kept = faces[rng.random(len(faces)) < rng.choice([0.3, 0.9, 1.0])]
        other = trimesh.Trimesh(vertices, kept, process=False)
        census = mesh_validity(vertices, kept)
        assert census.watertight == other.is_watertight
        adjacency = trimesh.graph.connected_components(other.face_adjacency, nodes=np.arange(len(kept)))
        assert census.components == len(adjacency)


def test_places_that_coincide_are_one_vertex() -> None:
    vertices, faces = parts(BALL)
    soup = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    assert mesh_validity(*soup) == mesh_validity(vertices, faces)
    assert mesh_quality(*soup) == mesh_quality(vertices[np.lexsort(vertices.T[::-1])], renumbered(vertices)[faces])


def renumbered(vertices: np.ndarray) -> np.ndarray:
    """(V,) where each vertex stands once they are sorted."""
    out = np.empty(len(vertices), int)
    out[np.lexsort(vertices.T[::-1])] = np.arange(len(vertices))
    return out


def test_spheres_that_overlap_intersect_along_a_ring() -> None:
    census = mesh_validity(*together(BALL, moved(BALL, 1.0, 0.0, 0.0)))
    assert census.watertight and census.manifold and census.components == 2
    middles = BALL.triangles_center[:, 0]
    near = (np.abs(middles - 0.5) < 0.2).sum()  # the ring lies in the plane x = 1/2
    assert 0 < census.intersecting_faces <= 2 * near
    assert mesh_validity(*together(BALL, moved(BALL, 2.5, 0, 0))).intersecting == 0
    inside = BALL.copy().apply_scale(0.5)
    assert mesh_validity(*together(BALL, inside)).intersecting == 0  # one within the other touches nothing


def test_a_face_folded_over_its_neighbour_intersects_it() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.25, 0.25, 0], [0.25, -1, 0], [0.25, 0.25, 1]], np.float64)
    assert mesh_validity(corners, [[0, 1, 2], [1, 0, 3]]).intersecting_faces == 2  # same plane, same side
    assert mesh_validity(corners, [[0, 1, 2], [1, 0, 4]]).intersecting_faces == 0  # same plane, other side
    assert mesh_validity(corners, [[0, 1, 2], [1, 0, 5]]).intersecting_faces == 0  # another plane


def test_the_search_is_bounded_and_says_so() -> None:
    mesh = together(BALL, moved(BALL, 1.0, 0.0, 0.0))
    whole = mesh_validity(*mesh)
    some = mesh_validity(*mesh, most=200_000)
    assert whole.complete and not some.complete and 100 < some.checked_faces < 2560
    assert some.intersecting == pytest.approx(whole.intersecting, abs=0.06)
    assert some == mesh_validity(*mesh, most=200_000)
    other = mesh_validity(*mesh, most=200_000, seed=1)
    assert (other.checked_faces, other.intersecting_faces) != (some.checked_faces, some.intersecting_faces)
    # Long slivers in a fan, whose boxes all overlap: without a bound each would be compared with each.
    angle = np.linspace(0, 1, 3001)
    rim = np.stack([np.cos(angle), np.sin(angle), angle**2], axis=1)
    fan = np.concatenate([[[0, 0, 0]], rim]), np.stack([np.zeros(3000), np.arange(1, 3001), np.arange(2, 3002)], 1)
    bounded = mesh_validity(fan[0], fan[1].astype(int), most=100_000)
    assert not bounded.complete and bounded.intersecting == 0
    nothing = mesh_validity(*mesh, most=0)
    assert nothing.checked_faces == 0 and nothing.intersecting is None and not nothing.complete


# An independent judge: all corners of what two triangles have in common, in rational numbers.


def minus(a: Place, b: Place) -> Place:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def dot(a: Place, b: Place) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def cross(a: Place, b: Place) -> Place:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def holds(triangle: tuple[Place, ...], point: Place) -> bool:
    a, b, c = triangle
    normal = cross(minus(b, a), minus(c, a))
    if dot(normal, minus(point, a)) != 0:
        return False
    return all(
        dot(normal, cross(minus(y, x), minus(point, x))) >= 0 for x, y in ((a, b), (b, c), (c, a))
    )  # fmt: skip


def common(left: tuple[Place, ...], right: tuple[Place, ...]) -> Iterator[Place]:
    """The corners of the convex set that two triangles share."""
    for first, second in permutations((left, right)):
        yield from (point for point in first if holds(second, point))
        a, b, c = second
        normal = cross(minus(b, a), minus(c, a))
        for p, q in combinations(first, 2):
            slope = dot(normal, minus(q, p))
            if slope != 0:  # the edge meets the plane in one place
                share = dot(normal, minus(a, p)) / slope
                point = tuple(x + share * (y - x) for x, y in zip(p, q, strict=True))
                if 0 <= share <= 1 and holds(second, point):
                    yield point
                continue
            for r, s in combinations(second, 2):  # the edge runs along the plane: where it meets the other's edges
                d, e = minus(q, p), minus(s, r)
                n = cross(d, e)
                if dot(n, n) == 0 or dot(n, minus(r, p)) != 0:
                    continue
                t = dot(cross(minus(r, p), e), n) / dot(n, n)
                u = dot(cross(minus(r, p), d), n) / dot(n, n)
                if 0 <= t <= 1 and 0 <= u <= 1:
                    yield tuple(x + t * y for x, y in zip(p, d, strict=True))


def judged(vertices: np.ndarray, left: list[int], right: list[int]) -> bool:
    exact = [tuple(Fraction(float(x)) for x in corner) for corner in vertices]
    shared = {exact[i] for i in left} & {exact[i] for i in right}
    if len(shared) == 3:
        return True
    points = list(common(tuple(exact[i] for i in left), tuple(exact[i] for i in right)))
    if len(shared) < 2:
        return any(point not in shared for point in points)
    a, b = shared
    along = minus(b, a)
    return any(any(cross(along, minus(point, a))) for point in points)


def is_flat(vertices: np.ndarray, face: list[int]) -> bool:
    a, b, c = (tuple(Fraction(float(x)) for x in vertices[i]) for i in face)
    return not any(cross(minus(b, a), minus(c, a)))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=6, max_size=6),
    st.sampled_from([[[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [2, 3, 4]], [[0, 1, 2], [0, 2, 3]], [[0, 1, 2], [1, 2, 0]]]),
    st.sampled_from([1.0, 0.1, 1 / 3, 1e-7]),
    st.sampled_from([0.0, 1000.0]),
)
def test_intersections_are_those_of_exact_arithmetic(
    corners: list[tuple[int, ...]], faces: list[list[int]], scale: float, offset: float
) -> None:
    """On lattices nearly every pair is a special case. A scale such as 0.1 spoils the lattice by rounding; the offset
    rounds again. What is judged is what the census sees: coordinates rounded to 2^-50 of the extent."""
    vertices = np.array(corners, np.float64) * scale + offset
    used = vertices[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    extent = float((high - low).max())
    if extent == 0:
        return
    grid = np.ldexp(1.0, 50 - int(np.frexp(extent)[1]))
    rounded = np.rint((vertices - (low + (high - low) / 2)) * grid)
    census = mesh_validity(vertices, faces)
    flat = [is_flat(rounded, face) for face in faces]
    assert census.degenerate_faces == sum(flat)
    if not any(flat):
        assert census.intersecting_faces == 2 * judged(rounded, *faces)


@pytest.mark.parametrize("seed", range(4))
def test_sides_are_exact_where_float64_is_not(seed: int) -> None:
    """Places within a few units of one plane, or line, with coordinates of fifty bits."""
    rng = np.random.default_rng(seed)
    signs: set[tuple[int, int]] = set()
    for _ in range(200):
        a, b, c = rng.integers(-(2**46), 2**46, (3, 3))
        across, along = rng.integers(-3, 4, 2)
        d = a + across * (b - a) + along * (c - a) + rng.integers(-1, 2, 3) * rng.integers(0, 2)
        places = np.array([a, b, c, d], np.float64)
        exact = [[int(x) - int(y) for x, y in zip(row, d, strict=True)] for row in (a, b, c)]
        (p, q, r), (s, t, u), (v, w, x) = exact
        plane = p * (t * x - u * w) + q * (u * v - s * x) + r * (s * w - t * v)
        beside = a + across * (b - a) + rng.integers(-1, 2, 3) * rng.integers(0, 2)
        flat = np.array([a, b, beside], np.float64)
        e, f = [int(x) for x in a - beside], [int(x) for x in b - beside]
        line = e[0] * f[1] - e[1] * f[0]
        answers = side_of_plane(places, 0, 1, 2, 3), side_of_line(flat, 0, 1, 2, 0, 1)
        assert answers == ((plane > 0) - (plane < 0), (line > 0) - (line < 0))
        signs.add(answers)
    assert len(signs) >= 6  # all kinds came


@pytest.mark.parametrize("seed", range(3))
def test_a_soup_of_triangles_agrees_with_every_pair_judged(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vertices = rng.integers(0, 9, (20, 3)).astype(np.float64)
    vertices = np.unique(vertices, axis=0)
    faces = np.array([rng.choice(len(vertices), 3, replace=False) for _ in range(25)])
    faces = np.array([face for face in faces.tolist() if not is_flat(vertices, face)])
    hit = np.zeros(len(faces), bool)
    for i, j in combinations(range(len(faces)), 2):
        if judged(vertices, faces[i].tolist(), faces[j].tolist()):
            hit[[i, j]] = True
    assert mesh_validity(vertices, faces).intersecting_faces == int(hit.sum())


def test_quality_of_closed_forms() -> None:
    even = mesh_quality(*parts(trimesh.creation.icosahedron()))
    assert even.edge_spread == pytest.approx(0, abs=1e-12)
    assert even.turn == pytest.approx(180 - 138.1896851, abs=1e-6)  # the icosahedron's dihedral angle
    # Five neighbours at the edge e about an axis: their mean lies e^2 / (2 r) below the vertex.
    edge, radius = 1 / np.sin(2 * np.pi / 5), 1.0
    assert even.laplacian == pytest.approx(edge / (2 * radius), rel=1e-6)
    assert (even.stretched, even.acute) == (0, 0)
    box = mesh_quality(*parts(BOX))
    lengths = np.array([2.0] * 12 + [np.sqrt(8)] * 6)
    assert box.edge_spread == pytest.approx(lengths.std() / lengths.mean(), rel=1e-12)
    assert box.turn == pytest.approx(12 * 90 / 18)  # twelve edges of right angles, six diagonals of none


@pytest.mark.parametrize(("height", "stretched", "acute"), [(0.5, 0, 0), (0.13, 1, 0), (0.08, 1, 1)])
def test_thin_triangles_are_counted(height: float, stretched: float, acute: float) -> None:
    # Two equal angles of atan 2 h at a base of 1: the longest edge times the perimeter over 2 sqrt(3) h.
    perimeter = 1 + 2 * np.hypot(0.5, height)
    assert (perimeter / (2 * np.sqrt(3) * height) > 4) == bool(stretched)
    assert (np.degrees(np.arctan(2 * height)) < 10) == bool(acute)
    quality = mesh_quality([[0, 0, 0], [1, 0, 0], [0.5, height, 0]], [[0, 1, 2]])
    assert (quality.stretched, quality.acute) == (stretched, acute) and quality.turn is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_quality_knows_neither_pose_nor_scale_nor_the_order_of_faces(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    vertices, faces = parts(TORUS)
    other = mesh_quality(scale * vertices @ turn.T + rng.normal(size=3), rng.permutation(faces))
    for name, value in vars(mesh_quality(vertices, faces)).items():
        assert getattr(other, name) == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_the_angle_between_faces_does_not_depend_on_which_side_is_out() -> None:
    vertices, faces = parts(BALL)
    turned = faces.copy()
    turned[::3] = turned[::3, ::-1]
    assert mesh_quality(vertices, turned).turn == pytest.approx(mesh_quality(vertices, faces).turn, rel=1e-9)


def test_noise_reads_as_roughness() -> None:
    vertices, faces = parts(BALL)
    rough = vertices * (1 + np.random.default_rng(0).normal(0, 0.02, (len(vertices), 1)))
    smooth, noisy = mesh_quality(vertices, faces), mesh_quality(rough, faces)
    assert smooth.turn is not None and noisy.turn is not None and noisy.turn > 2 * smooth.turn
    assert smooth.laplacian is not None and noisy.laplacian is not None and noisy.laplacian > 1.5 * smooth.laplacian


def test_normals_are_those_of_the_nearest_face() -> None:
    points = np.array([[1.1, 0.2, -0.3], [0.1, -1.0, 0.4], [0.3, 0.2, 0.9]]) + 1e5
    box = moved(BOX, 1e5, 1e5, 1e5)
    assert face_normals_at(points, *parts(box)) == pytest.approx(np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="faces: none with an area"):
        face_normals_at(points, [[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])


def test_what_is_no_mesh_is_refused_by_name() -> None:
    vertices, faces = parts(BOX)
    for function in (mesh_validity, mesh_quality):
        with pytest.raises(ValueError, match="faces"):
            function(vertices, faces + 100)
        with pytest.raises(ValueError, match="vertices"):
            function(vertices[:, :2], faces)
    spoilt = vertices.copy()
    spoilt[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        mesh_validity(spoilt, faces)


def test_a_mesh_of_flat_faces_alone_has_no_quality() -> None:
    quality = mesh_quality([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])
    assert set(vars(quality).values()) == {None}
