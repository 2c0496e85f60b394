"""What each system's adapter must do with its recordings: the tests run these, and mutations of its code must fail one.
Those of single-object systems are in `object_runs`.

A run takes the adapter's module, so that a mutated one can stand in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import types
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.contract import Unsupported, Views
from adapters.shared.network import NetworkAdapter
from adapters.shared.resize import Placement
from tests.adapters import object_runs
from tests.adapters.object_runs import Run
from tests.adapters.recorded import CASES, check_replayed, check_result, load, replayed
from tests.adapters.replay import Replay, describe, tensor

# Of Fast3R's stub, whose confidence in the common points is that much below its confidence in a view's own: PnP, which
# takes those above 1, would take half of them above 2.
LESS_SURE = 3.5


def whole(case: str) -> Run:
    """`prepare` as upstream's loader, every call of upstream's code as recorded, the known geometry in the end."""

    def run(module: Any) -> None:
        check_replayed(case, module.Adapter(**CASES[case].options))

    return run


def on_cuda(case: str, casting: str) -> Run:
    """Where the device is CUDA the network is given tensors there, under the automatic casting wanted."""

    def run(module: Any) -> None:
        adapter = module.Adapter(**CASES[case].options)
        adapter.device = "cuda:0"
        _, outputs, replay = replayed(case, adapter)
        assert replay.casts == [casting] and set(replay.devices) == {"cuda:0"}
        assert outputs is not None

    return run


def vggt_head(module: Any) -> None:
    """The point head's points and their confidence, which here is 10 above that of the depth."""
    oracle, outputs, _ = replayed("vggt", module.Adapter(points="head"))
    hidden = dataclasses.replace(outputs, depth=np.full_like(outputs.depth, np.nan), depth_conf=outputs.depth * np.nan)
    result = module.Adapter(points="head").finish(hidden, oracle.views)
    oracle.least += 10
    check_result(oracle, result)


def vggt_depth(module: Any) -> None:
    """By default nothing of the point head's is used."""
    oracle, outputs, _ = replayed("vggt", module.Adapter())
    nothing = np.full_like(outputs.world_points, np.nan)
    hidden = dataclasses.replace(outputs, world_points=nothing, world_points_conf=nothing[..., 0])
    check_result(oracle, module.Adapter().finish(hidden, oracle.views))


def fast3r_global(module: Any) -> None:
    """The common points and their confidence."""
    oracle, outputs, _ = replayed("fast3r-global", module.Adapter(points="global"))
    oracle.least -= LESS_SURE
    check_result(oracle, module.Adapter(points="global").finish(outputs, oracle.views))


def fast3r_unregistered(module: Any) -> None:
    """Where PnP finds no pose the view has the identity, and is said to have none."""

    def change(replay: Replay) -> None:
        last = [call for call in replay.calls if call["call"].endswith("fast_pnp")][-1]
        last["result"] = [{"value": None}, {"value": None}]

    _, outputs, _ = replayed("fast3r", module.Adapter(), change)
    (lost,) = np.flatnonzero(~outputs.registered)
    assert outputs.world_from_camera.shape == (2, 4, 4) and (outputs.world_from_camera[lost] == np.eye(4)).all()


def fast3r_on_cuda(module: Any) -> None:
    """There upstream is asked for bfloat16."""
    adapter = module.Adapter()
    adapter.device = "cuda:0"
    with pytest.raises(AssertionError, match="inference"):
        replayed("fast3r", adapter)
    with pytest.raises(AssertionError, match="dtype: 'bfloat16', recorded '32'"):
        replayed("fast3r", adapter, lambda replay: _of(replay, "inference")["args"].__setitem__(2, "cuda:0"))


def _of(replay: Replay, name: str) -> dict[str, Any]:
    """The first recorded call of a function."""
    return next(call for call in replay.calls if call["call"].endswith(f".{name}"))


def dust3r_unplaced(module: Any) -> None:
    """A view that the spanning tree left at the identity is not registered, whichever it is; the reference is."""
    start, _ = load("dust3r-aligned")
    reference = _of(start, "minimum_spanning_tree")["result"][1][0][0]["value"]
    for lost in {0, 1, 2} - {reference}:

        def change(replay: Replay, lost: int = lost) -> None:
            poses = replay.arrays[_of(replay, "minimum_spanning_tree")["result"][3]["tensor"]]
            poses[lost] = np.eye(4)
            _of(replay, "init_from_pts3d")["args"][3] = describe(poses, {})

        _, outputs, _ = replayed("dust3r-aligned", module.Adapter(**CASES["dust3r-aligned"].options), change)
        assert outputs.registered.tolist() == [view != lost for view in range(3)]


def dust3r_reference_alone(module: Any) -> None:
    """Where PnP finds no pose of a pair's other view, the reference, whose depth is as the network has it, is alone."""
    read = "dust3r.cloud_opt.global_aligner."
    for reference in (0, 1):

        def change(replay: Replay, reference: int = reference) -> None:
            names = [call["call"] for call in replay.calls]
            posed = replay.calls[names.index(f"{read}get_im_poses")]
            replay.arrays[posed["result"]["tensor"]][:] = np.eye(4)
            replay.arrays["depth"] = np.arange(6.0, dtype=np.float32).reshape(2, 3)
            replay.arrays["other"] = replay.arrays["depth"] + 1
            of_first = np.stack([replay.arrays["depth"] + 10, replay.arrays["depth"] + 20, replay.arrays["depth"]], -1)
            replay.arrays["predicted"] = of_first if reference == 0 else of_first[..., ::-1].copy()
            depths = {"call": f"{read}get_depthmaps", "args": [], "options": {}, "grad": True}
            at = names.index(f"{read}get_im_poses") + 1
            replay.calls[at:at] = [
                {**depths, "result": [{"tensor": "depth"}, {"tensor": "other"}]},
                {"call": f"{read}pred_i", "result": {"dict": {"0_1": {"tensor": "predicted"}}}},
            ]

        adapter = module.Adapter()
        oracle, outputs, _ = replayed("dust3r", adapter, change)
        assert outputs.registered.tolist() == [reference == 0, reference == 1]
        with CASES["dust3r"].small():
            result = adapter.finish(outputs, oracle.views)
        assert set(result.view_index) == {reference}


def mast3r_refined(module: Any) -> None:
    """More than one view is refined as often as was asked for; one view is not."""

    def change(replay: Replay) -> None:
        _of(replay, "sparse_global_alignment")["options"]["niter2"] = 7

    replayed("mast3r", module.Adapter(refinements=7), change)
    replayed("mast3r-one-view", module.Adapter(refinements=7))


def mast3r_turned(module: Any) -> None:
    """A camera that is turned about its axis is one."""

    def change(replay: Replay) -> None:
        poses = replay.arrays[_of(replay, "get_im_poses")["result"]["tensor"]]
        poses[1, :3, :2] *= -1

    _, outputs, _ = replayed("mast3r", module.Adapter(refinements=0), change)
    assert outputs.registered.all()


def unregistered(case: str) -> Run:
    """A view whose points no camera before them explains has no camera, whichever axis is at fault, and its points
    stay."""

    def run(module: Any) -> None:
        for axis in (0, 1):
            oracle, outputs, _ = replayed(case, module.Adapter())
            outputs.local_points[1, ..., axis] *= -1  # seen in a mirror
            result = module.Adapter().finish(outputs, oracle.views)
            assert result.registered.tolist() == [True, False] and set(result.view_index) == {0, 1}

    return run


def wide(case: str) -> Run:
    """A view is registered however short its focal length is: here less than a pixel."""

    def run(module: Any) -> None:
        oracle, outputs, _ = replayed(case, module.Adapter())
        outputs.local_points[..., :2] *= 1e4
        assert module.Adapter().finish(outputs, oracle.views).registered.all()

    return run


def pi3_run(case: str, scale: str) -> dict[str, Run]:
    """What Pi3 and Pi3X must do; `scale` is what their results say of theirs."""

    def scaled(module: Any) -> None:
        oracle, outputs, _ = replayed(case, module.Adapter())
        assert module.Adapter().finish(outputs, oracle.views).scale == scale

    runs = {"whole": whole(case), "cuda": on_cuda(case, "cuda bfloat16"), "sizes": pi3_sizes, "fitted": fitted}
    return {**runs, "unregistered": unregistered(case), "wide": wide(case), "scale": scaled}


def fitted(_: Any) -> None:
    """Intrinsics are those that the points were seen by, lean on the sure ones, and are none of what none sees."""
    fit = importlib.import_module("adapters.shared.local_points").fitted_intrinsics
    K = np.array([[70.0, 0, 31], [0, 90, 22], [0, 0, 1]])
    v, u = np.mgrid[:40, :60]
    z = 0.2 + np.sin(u / 7) ** 2 + np.cos(v / 5) ** 2
    points = np.stack([(u - 31) / 70 * z, (v - 22) / 90 * z, z], axis=-1)
    weights = np.ones((40, 60))
    assert np.abs(fit(points, weights) - K).max() < 1e-10
    points[5:9, 5:30, :2], weights[5:9, 5:30] = 3.0, 0.0
    assert np.abs(fit(points, weights) - K).max() < 1e-10
    assert np.abs(fit(points.astype(np.float32), weights.astype(np.float32)) - K).max() < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for at, spoilt in (((0, 1, 2), 0.0), ((3, 2, 2), -1.0), ((9, 9, 0), np.nan), ((9, 9, 1), np.inf)):
            wrong = points.copy()
            wrong[at] = spoilt
            assert np.isnan(fit(wrong, weights)).all()
        unsure = weights.copy()
        unsure[7, 8] = np.nan
        assert np.isnan(fit(points, unsure)).all()
        flat = fit(np.ones_like(points), weights)
    assert not (flat[[0, 1], [0, 1]] > 0).any()


def pi3_sizes(module: Any) -> None:
    """Photos of every shape become multiples of 14 of about their shape, of no more pixels than may be."""
    wanted = {(500, 500): (504, 504), (16, 9): (672, 378), (9, 16): (378, 672), (803, 611): (574, 434)}
    wanted |= {(640, 30): (2338, 98), (30, 640): (98, 2338), (4000, 1): (31934, 14), (1, 4000): (14, 31934)}
    for (width, height), size in wanted.items():
        photo = Views((np.zeros((height, width, 3), np.uint8),), ("000",))
        assert module.Adapter().prepare(photo).placements[0].network == size


def disarmed(module: Any) -> None:
    """The whole checkpoint is read, what images alone do not use is left out of the network, then it moves."""
    steps: list[Any] = []

    class Network:
        def disable_multimodal(self, free_cuda_cache: bool = True) -> None:
            steps.append(f"without, the cache {'freed' if free_cuda_cache else 'left'}")

        def to(self, device: str) -> Any:
            steps.append(device)
            return self

    def load(adapter: Any, device: str, weights: str, seed: int) -> None:
        steps.append((device, weights, seed))
        adapter.network, adapter.device, adapter.seed = Network(), device, seed

    adapter = module.Adapter()
    with mock.patch.object(NetworkAdapter, "load", load):
        adapter.load("cuda:1", "file", 7)
    assert steps == [("cpu", "file", 7), "without, the cache left", "cuda:1"]
    assert adapter.device == "cuda:1" and isinstance(adapter.network, Network)


def mapanything_on_cuda(module: Any) -> None:
    """There, and only there, upstream is asked for automatic casting."""
    adapter = module.Adapter()
    adapter.device = "cuda:0"
    with pytest.raises(AssertionError, match="use_amp: True, recorded False"):
        replayed("mapanything", adapter)


def cut3r_world(module: Any) -> None:
    """The common points and their confidence, which here is 10 above that of a view's own; by default none of them."""
    oracle, outputs, _ = replayed("cut3r", module.Adapter())
    for points, hidden, more in (("local", "world", 0), ("world", "local", 10)):
        names = (f"{hidden}_points", f"{hidden}_confidence")
        said = [dataclasses.replace(v, **{name: getattr(v, name) * np.nan for name in names}) for v in outputs]
        result = module.Adapter(points=points).finish(said, oracle.views)
        oracle.least += more
        check_result(oracle, result)
        assert result.scale == "metric" and result.frame == "first_camera"


def cut3r_unregistered(module: Any) -> None:
    """A view without a focal length, or without a pose, has no camera."""
    oracle, outputs, _ = replayed("cut3r", module.Adapter())
    for name, at, spoilt in (("intrinsics", (0, 0), 0.0), ("world_from_camera", (2, 3), np.nan)):
        wrong = getattr(outputs[1], name).copy()
        wrong[at] = spoilt
        said = [outputs[0], dataclasses.replace(outputs[1], **{name: wrong})]
        result = module.Adapter(points="world").finish(said, oracle.views)
        assert result.registered.tolist() == [True, False] and set(result.view_index) == {0, 1}


def cut3r_on_cuda(module: Any) -> None:
    """There everything is on the device, and nothing is cast."""
    adapter = module.Adapter()
    adapter.device = "cuda:0"
    _, _, replay = replayed("cut3r", adapter)
    assert not module.Adapter.casts and set(replay.casts) == {""}
    assert replay.devices.count("cuda:0") == 4  # each of two images, and its shape


def cut3r_streams(module: Any) -> None:
    """The first view is answered before the second is looked at."""
    whole_run, _ = load("cut3r")
    names = [call["call"] for call in whole_run.calls]
    second = names.index("network._encode_image", 1)
    replay, _ = load("cut3r")
    adapter = module.Adapter()
    adapter.network = replay.network
    with CASES["cut3r"].small(), contextlib.suppress(AssertionError), replay.playing():
        next(adapter.stream(adapter.prepare(CASES["cut3r"].oracle().views)))
    assert len(replay.calls) == len(names) - second


def lingbot_on_cuda(module: Any) -> None:
    """Every frame is on the device, under the automatic casting wanted."""
    adapter = module.Adapter(first=2)
    adapter.device = "cuda:0"
    _, _, replay = replayed("lingbot-map", adapter)
    assert replay.casts[-2:] == ["cuda bfloat16"] * 2 and replay.devices == ["cuda:0"] * 2


def lingbot_cache(module: Any) -> None:
    """The first frames come together, eight unless asked otherwise; of more than 320 only every second stays."""
    for count, first, kept in ((5, 8, 0), (12, 8, 4), (320, 8, 312), (321, 8, 157), (641, 1, 214)):
        told: list[Any] = []

        def forward(images: Any, told: list[Any] = told, **options: Any) -> Any:
            told.append((images.shape[1], options))
            ones = np.ones((1, images.shape[1], 14, 14, 1), np.float32)
            return {"pose_enc": tensor(ones[:, :, 0, 0]), "depth": tensor(ones), "depth_conf": tensor(ones[..., 0])}

        def cameras(encoded: Any, shape: Any) -> Any:
            assert tuple(shape) == (14, 14)
            eyes = np.tile(np.eye(4, dtype=np.float32), (1, encoded.shape[1], 1, 1))
            return tensor(eyes[:, :, :3]), tensor(eyes[:, :, :3, :3])

        adapter = module.Adapter() if first == 8 else module.Adapter(first=first)
        network = mock.Mock(side_effect=forward)
        network._set_skip_append.side_effect = told.append
        network.clean_kv_cache.side_effect = lambda told=told: told.append("clean")
        adapter.network = network
        inputs = types.SimpleNamespace(
            images=(np.zeros((3, 14, 14), np.float32),) * count,
            placements=(Placement((14, 14), (14, 14), (1.0, 1.0), (0.0, 0.0)),) * count,
        )
        upstream = types.SimpleNamespace(pose_encoding_to_extri_intri=cameras)
        with Replay([], {}).playing(), mock.patch.dict("sys.modules", {"lingbot_map.utils.pose_enc": upstream}):
            answers = list(adapter.stream(inputs))
        begin = min(first, count)
        assert [len(answer.depth) for answer in answers] == [begin] + [1] * (count - begin)
        assert told[0] == "clean" and told.count("clean") == 1
        calls = [entry for entry in told if isinstance(entry, tuple)]
        said = {"num_frame_for_scale": begin, "causal_inference": True}
        assert calls == [(n, {**said, "num_frame_per_block": n}) for n in [begin] + [1] * (count - begin)]
        skipped = [i for i, entry in enumerate(told) if entry is True]
        assert count - begin - len(skipped) == kept
        assert all(told[i + 1][0] == 1 and told[i + 2] is False for i in skipped)
        assert sum(entry is False for entry in told) == len(skipped)


def lingbot_unregistered(module: Any) -> None:
    """A view whose focal length is none has no camera."""
    oracle, outputs, _ = replayed("lingbot-map", module.Adapter(first=2))
    outputs[0].intrinsics[1, 0, 0] *= -1
    assert module.Adapter().finish(outputs, oracle.views).registered.tolist() == [True, False, True]


def dvlt_rays(module: Any) -> None:
    """The points along the rays, of which the depth says nothing; by default nothing of them is used."""
    for points in ("rays", "depth"):
        oracle, outputs, _ = replayed("dvlt", module.Adapter(points=points))
        unused = "depth" if points == "rays" else "points"
        hidden = dataclasses.replace(outputs, **{unused: np.full_like(getattr(outputs, unused), np.nan)})
        check_result(oracle, module.Adapter(points=points).finish(hidden, oracle.views))


def dvlt_sizes(module: Any) -> None:
    """Of upstream's loader at its own size; a photo that is too narrow for it is unsupported."""
    photos = {(800, 600): (504, 378), (600, 800): (378, 504), (803, 611): (504, 378), (640, 18): (504, 14)}
    for (width, height), wanted in photos.items():
        scaled = module.scaled_size(np.zeros((height, width, 3), np.uint8))
        assert max(scaled) == 504 and module.cropped_size(scaled) == wanted
    with pytest.raises(Unsupported, match="504 x 13 pixels once resized"):
        module.cropped_size((504, 13))


def dvlt_unregistered(module: Any) -> None:
    """A view whose fitted focal length is none has no camera."""
    oracle, outputs, _ = replayed("dvlt", module.Adapter())
    outputs.intrinsics[1, 0, 0] *= -1
    assert module.Adapter(points="rays").finish(outputs, oracle.views).registered.tolist() == [True, False]


def streamvggt_depth(module: Any) -> None:
    """The depth's points and confidence, which is 10 below that of the point head; by default none of them."""
    oracle, outputs, _ = replayed("streamvggt", module.Adapter())
    for points, hidden in (("depth", ("world_points", "world_points_conf")), ("head", ("depth", "depth_conf"))):
        said = [dataclasses.replace(v, **{name: getattr(v, name) * np.nan for name in hidden}) for v in outputs]
        check_result(oracle, module.Adapter(points=points).finish(said, oracle.views))
        oracle.least += 10


def streamvggt_head(module: Any) -> None:
    """A whole run as recorded, the confidence that of the point head."""
    oracle, outputs, _ = replayed("streamvggt", module.Adapter())
    oracle.least += 10
    check_result(oracle, module.Adapter().finish(outputs, oracle.views))


def streamvggt_unregistered(module: Any) -> None:
    """A view whose field of view is nothing has no camera."""
    oracle, outputs, _ = replayed("streamvggt", module.Adapter())
    for spoilt in (np.nan, 0.0):
        wrong = dataclasses.replace(outputs[1], intrinsics=outputs[1].intrinsics * np.float32(spoilt))
        result = module.Adapter().finish([outputs[0], wrong], oracle.views)
        assert result.registered.tolist() == [True, False] and set(result.view_index) == {0, 1}


def streamvggt_on_cuda(module: Any) -> None:
    """There the trunk alone is cast, each image on the device."""
    adapter = module.Adapter()
    adapter.device = "cuda:0"
    _, _, replay = replayed("streamvggt", adapter)
    assert replay.casts == ["cuda bfloat16", "", "", ""] * 2
    assert replay.devices.count("cuda:0") == 2


def streamvggt_sizes(module: Any) -> None:
    """A landscape stays one; beside a portrait, which is cropped, all are square."""
    landscape, portrait = np.zeros((480, 640, 3), np.uint8), np.zeros((640, 480, 3), np.uint8)
    for images, size in (((landscape,), (518, 392)), ((landscape, portrait), (518, 518))):
        views = Views(images, tuple(map(str, range(len(images)))))
        assert {place.network for place in module.Adapter().prepare(views).placements} == {size}


def streamvggt_streams(module: Any) -> None:
    """The first view is answered before the second is looked at."""
    replay, _ = load("streamvggt")
    count = len(replay.calls)
    adapter = module.Adapter()
    adapter.network = replay.network
    with CASES["streamvggt"].small(), contextlib.suppress(AssertionError), replay.playing():
        next(adapter.stream(adapter.prepare(CASES["streamvggt"].oracle().views)))
    assert 0 < len(replay.calls) < count / 2


RUNS: dict[str, dict[str, Run]] = {
    "streamvggt": {
        "whole": whole("streamvggt"),
        "head": streamvggt_head,
        "depth": streamvggt_depth,
        "unregistered": streamvggt_unregistered,
        "cuda": streamvggt_on_cuda,
        "streams": streamvggt_streams,
        "sizes": streamvggt_sizes,
    },
    "vggt": {
        "whole": whole("vggt"),
        "depth": vggt_depth,
        "head": vggt_head,
        "cuda": on_cuda("vggt", "cuda bfloat16"),
        "pad": whole("vggt-pad"),
    },
    "dust3r": {
        **{name: whole(name) for name in ("dust3r", "dust3r-one-view", "dust3r-aligned")},
        "unplaced": dust3r_unplaced,
        "reference": dust3r_reference_alone,
    },
    "mast3r": {
        **{name: whole(name) for name in ("mast3r", "mast3r-one-view")},
        "refined": mast3r_refined,
        "turned": mast3r_turned,
    },
    "fast3r": {
        "whole": whole("fast3r"),
        "global": fast3r_global,
        "unregistered": fast3r_unregistered,
        "cuda": fast3r_on_cuda,
    },
    "cut3r": {
        "whole": whole("cut3r"),
        "world": cut3r_world,
        "unregistered": cut3r_unregistered,
        "cuda": cut3r_on_cuda,
        "streams": cut3r_streams,
    },
    "pi3": pi3_run("pi3", "arbitrary"),
    "pi3x": {**pi3_run("pi3x", "metric"), "disarmed": disarmed},
    "vggt-omega": {
        "whole": whole("vggt-omega"),
        "max_size": whole("vggt-omega-max-size"),
        "cuda": on_cuda("vggt-omega", ""),
    },
    "depth-anything-3": {"whole": whole("depth-anything-3"), "cuda": on_cuda("depth-anything-3", "cuda bfloat16")},
    "mapanything": {"whole": whole("mapanything"), "cuda": mapanything_on_cuda},
    "lingbot-map": {
        **{name: whole(name) for name in ("lingbot-map", "lingbot-map-wide")},
        "cuda": lingbot_on_cuda,
        "cache": lingbot_cache,
        "unregistered": lingbot_unregistered,
    },
    "dvlt": {
        **{name: whole(name) for name in ("dvlt", "dvlt-one-view")},
        "cuda": on_cuda("dvlt", "cuda bfloat16"),
        "rays": dvlt_rays,
        "sizes": dvlt_sizes,
        "unregistered": dvlt_unregistered,
    },
    **object_runs.RUNS,
}
