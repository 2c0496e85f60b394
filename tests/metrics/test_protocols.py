"""Protocols: stages that share out every field, presets that state their source, units and routes that read true."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest

from adapters.contract import InputError, Reconstruction
from data.scene import Scene
from metrics.chamfer import chamfer
from metrics.scoring.prepared import PreparedTruth
from metrics.scoring.protocol import (
    PROSE,
    STAGES,
    Align,
    Protocol,
    differing,
    load_protocol,
    protocol_names,
)
from metrics.scoring.score import Score, score
from metrics.scoring.truth import Truth, sample_mesh
from metrics.similarity import apply, similarity

PLAIN = msgspec.structs.replace(load_protocol("3dlmnet"), samples=1000, emd_draws=0, align=Align(icp=False))
PRESETS = [name for name in protocol_names() if load_protocol(name).source]


@pytest.fixture(scope="module")
def truth(scene: Scene) -> Truth:
    return scene.truth("exact")


def sampled(truth: Truth, count: int) -> np.ndarray:
    assert truth.vertices is not None and truth.faces is not None
    return sample_mesh(truth.vertices, truth.faces, count, seed=3).astype(np.float64)


def scored(points: np.ndarray, truth: Truth, protocol: Protocol, posed: bool = True) -> Score:
    made = Reconstruction(points.astype(np.float32), frame="world", scale="metric")
    return score(made, PreparedTruth.of(truth, protocol), truth.view_names, scope="scene", posed=posed, brief=True)


def value(result: Score, metric: str) -> float:
    answer = result.values[metric].value
    assert answer is not None, result.values[metric]
    return answer


def test_every_field_that_scores_belongs_to_one_stage() -> None:
    shared = [field for fields in STAGES.values() for field in fields]
    assert sorted([*shared, *PROSE, "name", "version", "backend"]) == sorted(Protocol.__struct_fields__)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_its_source_and_what_that_leaves_open(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name and protocol.unstated
    assert msgspec.structs.replace(protocol, unstated=(), source="", differs=()).hash == protocol.hash


def test_the_published_protocols_are_there() -> None:
    objects = {"stanford", "geolrm", "syncdreamer", "3dlmnet", "crm", "instantmesh", "triposr"}
    scenes = {"cut3r", "pi3", "depth-anything-3", "mapanything", "spatialbench", "vggt-omega"}
    assert set(PRESETS) == objects | scenes


FROM_CODE = ["syncdreamer", "cut3r", "pi3", "depth-anything-3", "mapanything", "spatialbench", "vggt-omega"]


@pytest.mark.parametrize("name", FROM_CODE)
def test_a_preset_made_from_code_names_its_repository_commit_and_files(name: str) -> None:
    assert re.search(r"\(?[\w.-]+/[\w.-]+ [0-9a-f]{7}.*\.(py|md)", load_protocol(name).source)


def test_stages_are_swapped_one_at_a_time_from_one_protocol_to_another() -> None:
    first, second = load_protocol("object-v1"), load_protocol("syncdreamer")
    stages = differing(first, second)
    assert stages == ["alignment", "crop", "equalisation", "sampling", "formula"]
    assert first.swapped(second, []) is first and first.swapped(second, ["confidence"]) is first
    assert first.swapped(second, stages) is second
    between = first.swapped(second, ["equalisation", "formula"])
    assert (between.voxel, between.side, between.samples) == (second.voxel, second.side, first.samples)
    assert differing(between, second) == ["alignment", "crop", "sampling"]
    assert len({first.swapped(second, stages[:i]).hash for i in range(6)}) == 6


def test_a_length_in_sides_is_the_same_length(truth: Truth) -> None:
    points = sampled(truth, 20_000) + np.random.default_rng(0).normal(0, 0.02, (20_000, 3))
    percent = msgspec.structs.replace(load_protocol("object-v1"), emd_draws=0)
    sides = msgspec.structs.replace(percent, side=2.0, rank_metric="accuracy", thresholds=(0.02,))
    a, b = scored(points, truth, percent), scored(points, truth, sides)
    longest = float(np.ptp(PreparedTruth.of(truth, percent).points, axis=0).max())
    for metric, power in (("accuracy", 1), ("chamfer-l1-sum", 1), ("chamfer-l2sq-mean", 2)):
        unit = (truth.diameter / 100 / (longest / 2)) ** power
        assert value(b, metric) == pytest.approx(value(a, metric) * unit, rel=1e-9)
    assert 0 < value(b, "fscore@0.02") < 1


def test_sample_against_sample_is_the_chamfer_distance_of_the_two_samples(truth: Truth) -> None:
    points = sampled(truth, 800) + 0.05
    small = msgspec.structs.replace(PLAIN, chamfer=("l1-sum", "l1-mean", "l2sq-sum", "l2sq-mean"), samples=10**6)
    prepared = PreparedTruth.of(truth, small)
    made = Reconstruction(points.astype(np.float32), frame="world", scale="metric")
    result = score(made, prepared, truth.view_names, scope="scene", posed=True, brief=True)
    side = float(np.ptp(prepared.points, axis=0).max())
    wanted = chamfer(made.points / side, prepared.points / side)
    for formula in ("l1_sum", "l1_mean", "l2sq_sum", "l2sq_mean"):
        assert value(result, f"chamfer-{formula.replace('_', '-')}") == pytest.approx(
            getattr(wanted, formula), rel=1e-5
        )


def test_boxes_undo_scale_and_shift_and_leave_a_turn(truth: Truth) -> None:
    boxes = msgspec.structs.replace(PLAIN, align=Align("boxes", "boxes", "boxes", icp=False), samples=20_000)
    points = truth.points.astype(np.float64)
    for posed in (True, False):  # normalising is part of such a protocol, whatever frame the prediction is in
        moved = scored(apply(similarity(3.0, np.eye(3), np.array([5.0, 0, -2])), points), truth, boxes, posed)
        assert moved.stages[0].name == "boxes" and value(moved, "accuracy") < 0.02
    turned = scored(points[:, [1, 2, 0]], truth, boxes)
    assert value(turned, "accuracy") > 0.02


def test_the_whole_truth_counts_where_the_protocol_says_so(truth: Truth) -> None:
    whole = msgspec.structs.replace(load_protocol("object-v1"), observed_only=False, emd_draws=0)
    observed = msgspec.structs.replace(whole, observed_only=True)
    prepared = PreparedTruth.of(truth, observed)
    points = prepared.points[prepared.visible]
    unseen_counts = value(scored(points, truth, whole), "completeness")
    assert unseen_counts > value(scored(points, truth, observed), "completeness-visible")
    assert "completeness" not in scored(points, truth, observed).values


def test_fields_out_of_range_are_named() -> None:
    for field, wrong in (("emd_draws", 1), ("side", -1.0), ("thresholds", (0.0,)), ("confidence_curve", (0.0, 1.0))):
        with pytest.raises(InputError, match=field):
            msgspec.structs.replace(PLAIN, **{field: wrong}).check("p.toml")
