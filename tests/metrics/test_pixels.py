"""Comparison by pixels, and what the presets of pointmap papers read beside distances: against closed forms."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adapters.contract import OnDemand, Reconstruction
from data import scene as scenes
from data.scene import Scene
from metrics.cameras import pose_errors
from metrics.normals import estimated_normals
from metrics.scoring.pixels import counted_pixels, in_frame, pointmap_errors
from metrics.scoring.protocol import Align, Protocol, load_protocol
from metrics.scoring.score import PreparedTruth, Score, score
from metrics.scoring.truth import Truth, sample_mesh

PLAIN = msgspec.structs.replace(
    load_protocol("pi3"), align=Align("none", "none", "none", icp=False), samples=5_000, draws=2
)


class Tracked(np.ndarray):
    """An array whose end can be seen."""

    __hash__ = object.__hash__


@pytest.fixture(scope="module")
def truth(scene: Scene) -> Truth:
    return scene.truth("exact")


def pointmaps(truth: Truth, views: tuple[str, ...]) -> Reconstruction:
    """The truth's own depth maps as points, in its frame; half the background as well, at depth 5."""
    assert truth.depth is not None
    points, index, pixels = [], [], []
    for i, name in enumerate(views):
        view = truth.view_names.index(name)
        depth = truth.depth[view].astype(np.float64)
        y, x = np.mgrid[: depth.shape[0], : depth.shape[1]]
        depth = np.where((depth == 0) & (x % 2 == 0), 5.0, depth)
        used = depth > 0
        pixel = np.stack([x[used], y[used]], axis=1) + 0.5
        points.append(truth.cameras.unproject(view, pixel, depth[used]))
        index.append(np.full(len(pixel), i, np.int32))
        pixels.append(pixel)
    return Reconstruction(
        points=np.concatenate(points).astype(np.float32),
        frame="world",
        scale="metric",
        view_index=np.concatenate(index),
        pixel=np.concatenate(pixels).astype(np.float32),
        cameras=truth.cameras.take([truth.view_names.index(name) for name in views]),
        registered=np.ones(len(views), np.bool_),
        depth=tuple(truth.depth[truth.view_names.index(name)] for name in views),
    )


def read(
    prediction: Reconstruction, truth: Truth, views: tuple[str, ...], protocol: Protocol, posed: bool = True
) -> Score:
    return score(prediction, PreparedTruth.of(truth, protocol), views, scope="scene", posed=posed, brief=True)


def value(result: Score, metric: str) -> float:
    answer = result.values[metric].value
    assert answer is not None, result.values[metric]
    return answer


def test_the_frame_is_a_centred_square() -> None:
    size = np.array([400, 200])
    pixel = np.array([[200, 100], [249, 100], [251, 100], [200, 149], [200, 151], [151, 51], [149, 51]], float)
    assert in_frame(pixel, size, 0.5).tolist() == [True, True, False, True, False, True, False]
    assert in_frame(pixel, size, 1.0).all()


def test_only_pixels_with_a_true_depth_count(truth: Truth) -> None:
    views = truth.view_names[:3]
    made = pointmaps(truth, views)
    assert truth.depth is not None and made.view_index is not None
    counted = counted_pixels(made, truth, views, 1.0)
    assert counted.sum() == sum(int((truth.depth[i] > 0).sum()) for i in range(3)) < len(counted)
    assert 0 < counted_pixels(made, truth, views, 0.3).sum() < counted.sum()
    whole = value(read(made, truth, views, msgspec.structs.replace(PLAIN, measured=False)), "accuracy")
    assert value(read(made, truth, views, PLAIN), "accuracy") < 1.0 < whole


def test_pointmaps_read_their_own_error_whatever_their_scale_and_frame(truth: Truth) -> None:
    views = truth.view_names[:3]
    made = pointmaps(truth, views)
    exact = pointmap_errors(made, truth, views)
    assert exact.absrel < 1e-5 and exact.delta_1_03 == 1.0
    pose = truth.cameras.camera_from_world[0]
    local = 7.0 * (made.points.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3])
    moved = replace(made, points=local.astype(np.float32), frame="first_camera", cameras=None, registered=None)
    assert pointmap_errors(moved, truth, views).absrel < 1e-5
    # One view of two equal ones farther by 8%: the mean distance takes half of it, so both are off by about 4%.
    twice = views[:1] * 2
    pair = pointmaps(truth, twice)
    assert pair.view_index is not None
    centre = truth.cameras.centres[0]
    far = np.where(pair.view_index[:, None] == 1, centre + 1.08 * (pair.points - centre), pair.points)
    errors = pointmap_errors(replace(pair, points=far.astype(np.float32)), truth, twice)
    assert errors.absrel == pytest.approx((1.08 / 1.04 - 1 + 1 - 1 / 1.04) / 2, abs=1e-4)
    assert errors.delta_1_03 == 0.0


def test_the_truth_is_what_the_given_views_see_inside_the_frame(truth: Truth) -> None:
    """One view's own surface is all that is asked for, and its central part where the frame is cut."""
    views = truth.view_names[:1]
    made = pointmaps(truth, views)
    everywhere = msgspec.structs.replace(PLAIN, given_only=False, thresholds=(0.02,), rank_metric="accuracy")
    own = msgspec.structs.replace(everywhere, given_only=True)
    cut = msgspec.structs.replace(own, frame=0.4)
    assert value(read(made, truth, views, everywhere), "recall@2%") < 0.7
    assert value(read(made, truth, views, own), "recall@2%") > 0.98
    result = read(made, truth, views, cut)
    assert value(result, "recall@2%") > 0.98 and value(result, "precision@2%") > 0.98
    assert result.points < read(made, truth, views, own).points
    none = replace(made, view_index=None, pixel=None)
    assert read(none, truth, views, own).values["accuracy"].status == "unsupported"


def test_medians_and_normals_read_closed_forms(truth: Truth) -> None:
    assert truth.vertices is not None and truth.faces is not None
    protocol = msgspec.structs.replace(PLAIN, measured=False, given_only=False)
    cloud = sample_mesh(truth.vertices, truth.faces, 30_000, seed=4).astype(np.float64)
    offset = 0.05 * truth.diameter
    stray = cloud.copy()
    stray[: len(stray) // 5] += 100.0 * truth.diameter
    made = [Reconstruction(p.astype(np.float32), frame="world", scale="metric") for p in (cloud, stray)]
    good, bad = (read(prediction, truth, truth.view_names, protocol) for prediction in made)
    assert value(bad, "accuracy") > 1000 * offset > value(bad, "accuracy-median")
    assert value(bad, "accuracy-median") < 0.1 and value(bad, "completeness-median") < 2.0
    assert value(good, "normal-consistency") > 0.95
    # A plane's normals are its own, whatever the order of its points.
    plane = np.random.default_rng(0).uniform(size=(500, 3)) * [1, 1, 0]
    np.testing.assert_allclose(np.abs(estimated_normals(plane, plane)), np.tile([0, 0, 1.0], (500, 1)), atol=1e-9)


def test_depth_by_medians_and_curves_up_to_any_angle(truth: Truth) -> None:
    views = truth.view_names[:3]
    made = pointmaps(truth, views)
    assert made.depth is not None
    scaled = replace(made, depth=tuple(7 * depth for depth in made.depth))
    protocol = msgspec.structs.replace(PLAIN, depth_scale="median", depth_deltas=(1.03, 1.25), auc=(3, 15))
    result = read(scaled, truth, views, protocol)
    assert value(result, "depth-absrel") < 1e-5 and value(result, "depth-delta@1.25") == 1.0
    free = read(scaled, truth, views, protocol, posed=False)  # cameras that were given have no scores
    assert value(free, "auc@3") == value(free, "auc@15") == 1.0
    assert value(read(scaled, truth, views, PLAIN), "depth-absrel") == pytest.approx(6.0, rel=1e-4)
    errors = pose_errors(truth.cameras, truth.cameras)
    assert (errors.auc(5), errors.auc(10), errors.auc(30)) == (errors.auc_5, errors.auc_10, errors.auc_30)


@pytest.mark.parametrize(("kind", "protocol"), [("exact", "object-v1"), ("colmap", "pi3")])
def test_maps_that_are_read_on_demand_score_alike_one_at_a_time(
    kind: str, protocol: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = msgspec.structs.replace(load_protocol(protocol), samples=500, draws=2, emd_samples=16)
    held = scene.truth("exact")
    views = held.view_names[:4]
    made = pointmaps(held, views)
    alive, most = weakref.WeakSet[Tracked](), [0]

    def tracked(path: Path, unit: float) -> Tracked:
        array = real(path, unit).view(Tracked)
        alive.add(array)
        most[0] = max(most[0], len(alive))
        return array

    real = scenes._read_depth
    monkeypatch.setattr(scenes, "_read_depth", tracked)
    monkeypatch.setattr(scenes, "HELD", 0)
    lazy = scene.truth("exact")
    assert isinstance(lazy.depth, OnDemand) and isinstance(lazy.masks, OnDemand) and most[0] == 0
    results = [read(made, replace(truth, kind=kind), views, chosen, posed=False) for truth in (held, lazy)]
    assert results[0].values == results[1].values
    assert 0 < most[0] <= 2  # one, and the next while the last is let go
    assert value(results[1], "depth-absrel") < 1e-3
