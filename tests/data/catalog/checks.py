"""Does an imported Scene show the world that its miniature was written from? Every claim is computed two ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import point_cloud_utils as pcu
import trimesh
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from data.scene import Scene
from metrics.scoring.truth import Truth
from tests.data.catalog.miniatures import Miniature, mesh_of
from tests.data.catalog.world import VIEWS, World, color_of

PIXEL = 0.02  # between where a point must fall and where it falls
LEVELS = 12  # of 255, median difference of colours


def check(scene_path: Path, miniature: Miniature) -> None:
    """AssertionError where the Scene says anything that the world does not."""
    scene, world = Scene.open(scene_path), miniature.world
    assert scene.truth_kinds == (miniature.kind,)
    truth = scene.truth(miniature.kind)
    offset = np.array(scene.truth_file(truth.kind).offset)
    matrix = np.eye(4) if miniature.truth_from_world is None else miniature.truth_from_world
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    samples, _ = world.samples
    places = samples @ matrix[:3, :3].T + matrix[:3, 3] - offset
    assert (truth.depth is not None) == miniature.depth
    assert (truth.masks is not None) == miniature.masks
    assert (truth.knowledge is not None) == miniature.trusted
    assert len(truth.view_names) == len(scene.view_names) and len(scene.view_names) == VIEWS
    _check_surface(truth, miniature, offset, places, scale)
    for row, name in enumerate(truth.view_names):
        image = scene.image(name)
        width, height = truth.sizes[row]
        assert image.shape == (height, width, 3)
        pixel, z = truth.cameras.project(row, places)
        if miniature.own_views:
            inside = (z > 0) & (pixel >= 1).all(axis=1) & (pixel < truth.sizes[row] - 1).all(axis=1)
            assert inside.all()  # the views are framed by the importer
            column, line = np.floor(pixel).astype(int).T
            assert truth.depth is not None
            observed = np.abs(truth.depth[row][line, column] / z - 1) < 0.01
            assert observed.mean() > 0.3
        else:
            wanted, depth = world.project(row, samples)
            observed = world.sees(row, samples)
            assert observed.sum() > 100
            np.testing.assert_allclose(z, depth * scale, rtol=1e-5)
            if miniature.bent:
                observed &= ((pixel >= 1) & (pixel < truth.sizes[row] - 1)).all(axis=1)
                assert observed.sum() > 100
            else:
                assert np.abs(pixel - wanted).max() < PIXEL
        if miniature.own_views or miniature.bent:
            _check_retraced(image, truth, row, world)
        _check_pixels(image, pixel[observed], samples[observed])
        column, line = np.floor(pixel[observed]).astype(int).T
        if truth.depth is not None:
            measured = truth.depth[row]
            assert measured.shape == (height, width)
            there = measured[line, column] > 0
            assert there.mean() > (0.8 if miniature.coarse else 0.9)
            off = np.abs(measured[line, column][there] / z[observed][there] - 1)
            least, share = (0.012, 0.7) if miniature.coarse else (0.004, 0.9)
            assert np.median(off) < least and (off < 0.03).mean() > share
            own, own_z = truth.cameras.project(row, truth.points)
            within = (own_z > 0) & (own >= 0).all(axis=1) & (own < truth.sizes[row]).all(axis=1)
            at, down = np.floor(own[within]).astype(int).T
            behind = binary_erosion(measured > 0, iterations=2)[down, at]
            floats = (own_z[within] < 0.97 * measured[down, at])[behind]
            assert floats.mean() < (0.1 if miniature.coarse else 0.02)  # nothing stands before the surface
        if truth.masks is not None:
            mask = truth.masks[row]
            assert binary_dilation(mask)[line, column].mean() > 0.98
            assert truth.depth is not None
            outline = truth.depth[row] > 0
            assert not (mask & ~binary_dilation(outline, iterations=1)).any()
            assert not (binary_erosion(outline, iterations=1) & ~mask).any()


def _check_surface(truth: Truth, miniature: Miniature, offset: NDArray, places: NDArray, scale: float) -> None:
    """The truth's points lie on the solid and cover what was seen of it; normals point outwards."""
    mesh = mesh_of(miniature)
    vertices = np.asarray(mesh.vertices) - offset
    points = truth.points.astype(np.float64)
    distance, face, _ = pcu.closest_points_on_mesh(points, vertices, miniature.world.faces)
    size = float(pdist(trimesh.convex.convex_hull(vertices).vertices).max())
    assert (np.abs(distance) < 0.004 * size).mean() > 0.99
    reach = cKDTree(points).query(places)[0]
    assert (reach < 0.06 * size).mean() > 0.97
    assert 0.9 * size < truth.diameter < 1.02 * size
    outwards = (truth.normals * np.asarray(mesh.face_normals)[face]).sum(axis=1)
    assert (outwards > 0.3).mean() > 0.75
    if truth.vertices is not None:
        assert len(truth.vertices) >= len(vertices)
    if truth.crop is not None:
        assert truth.crop.contains(truth.points).all()
    assert scale > 0


def _check_pixels(image: NDArray[np.uint8], pixel: NDArray, samples: NDArray) -> None:
    """What the photo shows where the samples fall is their colour."""
    column, line = np.floor(pixel).astype(int).T
    off = np.abs(image[line, column].astype(int) - color_of(samples).astype(int)).max(axis=1)
    assert np.median(off) < LEVELS and (off < 60).mean() > 0.9


def _check_retraced(image: NDArray[np.uint8], truth: Truth, row: int, world: World) -> None:
    """The photo is what the truth's own camera sees, and not shifted: Lucas and Kanade's estimate over all edges."""
    width, height = truth.sizes[row]
    wanted, _ = world.retrace(truth.cameras.intrinsics[row], truth.cameras.camera_from_world[row], (width, height))
    shown, traced = (gaussian_filter(band.astype(np.float64).mean(axis=2), 1.0) for band in (image, wanted))
    slopes = np.stack([np.gradient(traced, axis=axis)[4:-4, 4:-4].ravel() for axis in (1, 0)], axis=1)
    shift = np.linalg.lstsq(slopes, (traced - shown)[4:-4, 4:-4].ravel(), rcond=None)[0]
    assert np.abs(shift).max() < 0.15, shift
