"""What each system's adapter must do with its recordings: the tests run these, and mutations of its code must fail one.

A run takes the adapter's module, so that a mutated one can stand in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import types
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.contract import ContractError, Unsupported, Views
from adapters.shared.network import NetworkAdapter
from adapters.shared.objects import Cube
from adapters.shared.resize import Placement
from tests.adapters import objects
from tests.adapters.recorded import CASES, check_replayed, check_result, load, replayed
from tests.adapters.replay import Replay, describe, tensor

Run = Callable[[Any], None]
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
}


def whole_object(case: str) -> Run:
    """Every call of upstream's code as recorded, and the known shape in the end."""

    def run(module: Any) -> None:
        objects.check_object(case, module.Adapter(**objects.CASES[case].options))

    return run


def check_ranges(module: Any, **ends: tuple[float, float, float, float]) -> None:
    """Of each option, with the others as they are, the inner two of `ends` are taken and the outer two refused."""
    for name, (below, least, greatest, above) in ends.items():
        for value in (below, above):
            with pytest.raises(ValueError, match=f"{name}: .* wanted"):
                module.Adapter(**{name: value})
        module.Adapter(**{name: least}), module.Adapter(**{name: greatest})


def point_e_ranges(module: Any) -> None:
    """Steps, and colours that a sample oversteps."""
    check_ranges(module, steps=(1, 2, 1024, 1025))
    samples = np.array([[0.0], [0.1], [0.2], [-3.0], [260.0], [7.6]], np.float32)
    result = module.Adapter().finish(samples, objects.object_views())
    assert result.colors is not None and result.colors.tolist() == [[0, 255, 8]]


def lrm_ranges(module: Any) -> None:
    """Resolutions, and colours that the decoder's clamping oversteps."""
    check_ranges(module, resolution=(15, 16, 512, 513))
    levels = np.array([[-0.01, 1.01, 0.5], [1.0, 0.0, 1 / 255]], np.float32)

    def forward_points(planes: Any, at: Any) -> Any:
        return {"rgb": tensor(np.resize(levels, at.shape))}

    adapter = module.Adapter()
    adapter.network = types.SimpleNamespace(synthesizer=types.SimpleNamespace(forward_points=forward_points))
    density = np.zeros((3, 3, 3), np.float32)
    density[1, 1, 1] = 9
    with Replay([], {}).playing():
        result = adapter.finish(module.PlaneDensity(density, None), objects.object_views())
    assert result.colors[:2].tolist() == [[0, 255, 127], [255, 0, 1]]


RUNS["point-e"] = {
    **{name: whole_object(name) for name in ("point-e", "point-e-mean", "point-e-tokens")},
    "ranges": point_e_ranges,
}


def geolrm_without(module: Any) -> None:
    """Cameras and masks are wanted; Gaussians that are hardly there, and no Gaussian at all."""
    given = objects.posed_views()
    for views, options, sentence in (
        (dataclasses.replace(given, cameras=None), {}, "cameras are wanted"),
        (dataclasses.replace(given, masks=None), {}, "masks are wanted"),
        (given, {"foreground": "none"}, "masks are wanted"),
    ):
        with pytest.raises(Unsupported, match=sentence):
            module.Adapter(**options).prepare(views)
    assert module.Adapter().prepare(given).foreground == "given mask, camera turned there, on white"
    segmented = [np.asarray(mask) for mask in given.masks or ()]
    with mock.patch.object(module, "segmented", lambda image: segmented[image[0, 0, 2] // 40]):
        by_rembg = module.Adapter(foreground="rembg").prepare(dataclasses.replace(given, masks=None))
    assert by_rembg.foreground == "rembg, camera turned there, on white"
    cube = Cube(np.diag([2.0, 2.0, 2.0, 1.0]), 0.45)
    gaussians = np.zeros((2, 3, 14), np.float32)
    gaussians[..., 3] = [[0.005, 0.0049, 0.9], [0.5, 0.5, 0.5]]
    gaussians[0, 2, 0], gaussians[0, 2, 11:] = 0.5, [0.8, 1.2, -0.1]
    result = module.Adapter().finish(module.Outputs(gaussians, np.array([True, False]), cube), given)
    assert result.points.tolist() == [[0, 0, 0], [0.25, 0, 0]] and result.colors.tolist() == [[0, 0, 0], [204, 255, 0]]
    none = module.Outputs(gaussians, np.zeros(2, np.bool_), cube)
    with pytest.raises(ContractError, match=r"is left: 0 voxels proposed, opacity at most 0 seen, 0.005 wanted"):
        module.Adapter().finish(none, given)


def painted_views(module: Any) -> None:
    """Options, the painter's steps, levels that its resizing oversteps, and cameras that stand about the middle."""
    check_ranges(module, steps=(1, 2, 1000, 1001))
    sheet = np.full((960, 640, 3), 0.0017, np.float32)  # less than half a level of 8 bits
    sheet[100:200, :, 1] = 1
    shown = module.pictures(sheet)
    assert shown.shape == (6, 3, 448, 448) and shown.dtype == np.float32
    assert shown.min() == 0 and shown.max() == 1 and not shown[2:].any()
    poses, intrinsics = module.cameras()
    assert np.abs(intrinsics - [[1.8660254, 0, 0.5], [0, 1.8660254, 0.5], [0, 0, 1]]).max() < 1e-6
    assert (poses[:, 3] == [0, 0, 0, 1]).all()
    assert np.abs(poses[:, :3, 3] - 1.5 * poses[:, :3, 2]).max() < 1e-6  # they look at the middle
    assert np.abs(poses[:, 2, 0]).max() < 1e-7 and (poses[:, 2, 1] > 0.9).all()  # level, their tops up
    gaussians = np.zeros((2, 3, 14), np.float32)
    gaussians[..., 3] = [[0.005, 0.0049, 0.9], [0.5, 0.5, 0.5]]
    gaussians[0, 2, 0], gaussians[0, 2, 4], gaussians[0, 2, 11:] = 0.5, 0.001, [0.8, 1.2, -0.1]
    result = module.Adapter().finish(module.Gaussians(gaussians, np.array([True, False])), objects.object_views())
    assert result.points.tolist() == [[0, 0, 0], [0.5, 0, 0]] and result.colors.tolist() == [[0, 0, 0], [204, 255, 0]]


def lgm_ranges(module: Any) -> None:
    """Steps, and Gaussians that are hardly there or none."""
    check_ranges(module, steps=(1, 2, 1000, 1001))
    assert module.Adapter().prepare(objects.object_views()).images[0].max() == 1
    told = np.zeros((3, 14), np.float32)
    told[:, 3], told[2, 0], told[2, 11:] = [0.005, 0.0049, 0.9], 0.5, [0.8, 1.2, -0.1]
    result = module.Adapter().finish(told, objects.object_views())
    assert result.points.tolist() == [[0, 0, 0], [0.5, 0, 0]] and result.colors.tolist() == [[0, 0, 0], [204, 255, 0]]
    told[:, 3] = 0.001
    with pytest.raises(ContractError, match=r"no Gaussian is left: opacity at most 0.001 seen, 0.005 wanted"):
        module.Adapter().finish(told, objects.object_views())


def combined_ranges(module: Any) -> None:
    """Options, an object that is not seen, relative depth, and a photo far from any network's shape."""
    for options in ({"fov": 0.9}, {"fov": 170.1}, {"scale": 0.0}, {"depth": "inverse"}):
        with pytest.raises(ValueError, match="wanted"):
            module.Adapter(**options)
    module.Adapter(fov=1), module.Adapter(fov=170), module.Adapter(scale=0.1)
    views = objects.disc_views(masked=True)
    placements = module.Adapter().prepare(views).placements
    width, height = placements[2].network
    u, v = np.meshgrid(*((np.arange(side) + 0.5) / side for side in (width, height)))
    far = 2 + u + 2 * v
    relative = module.Adapter(fov=50.0, depth="relative", scale=2.0, shift=0.1)
    outputs = module.Outputs(((1 / far - 0.1) / 2).astype(np.float32), None, 1.0, placements)
    objects.check_disc(relative.finish(outputs, views), views, 50.0, "arbitrary", 1.0)
    beyond = dataclasses.replace(outputs, depth=np.full_like(outputs.depth, -1.0))
    assert relative.finish(beyond, views).points[:, 2].min() == pytest.approx(1e6)
    unseen = module.Outputs(outputs.depth, np.ones((256, 256), np.float32), 0.2, placements)
    with pytest.raises(ContractError, match=r"the detector sees no cat: 0.20 at best, 0.25 wanted"):
        module.Adapter(prompt="cat").finish(unseen, views)
    visible = dataclasses.replace(unseen, score=0.25)
    assert len(module.Adapter().finish(visible, views).points) == width * height
    words, boxes = np.array([[-3, 0.0], [2, -1.0]]), np.array([[0.1, 0.1, 0.2, 0.2], [0.5, 0.4, 0.2, 0.6]])
    box, score = module.surest_box(words, boxes)
    assert np.allclose(box, [0.4, 0.1, 0.6, 0.7]) and score == pytest.approx(1 / (1 + np.exp(-2)))
    corner = Placement((8, 8), (1024, 1024), (128.0, 128.0), (0.0, 0.0))
    for level, first in ((0.3, 2), (1.3, 4), (2.9, 7)):  # at x / 2 - 1/4 of the segmenter's four columns
        ramp = np.tile(np.arange(4.0) - level, (4, 1))
        wanted = np.tile(np.arange(8) >= first, (8, 1))
        assert (module.mask_of(ramp, corner) == wanted).all() and (module.mask_of(ramp.T, corner) == wanted.T).all()
    photo = np.zeros((200, 900, 3), np.uint8)
    assert module.detector_size(photo) == (1333, 296) and module.detector_size(photo.transpose(1, 0, 2)) == (296, 1333)
    assert module.segmenter_size(photo) == (1024, 228) and module.depth_size(photo) == (518, 112)
    assert module.depth_size(photo.transpose(1, 0, 2)) == (112, 518)


RUNS["combined"] = {
    **{name: whole_object(name) for name in ("combined", "combined-given")},
    "ranges": combined_ranges,
}
RUNS["geolrm"] = {"whole": whole_object("geolrm"), "without": geolrm_without}
RUNS["geolrm-one-view"] = {"whole": whole_object("geolrm-one-view"), "painted": painted_views}
RUNS["lgm"] = {"whole": whole_object("lgm"), "ranges": lgm_ranges}
RUNS["lrm"] = {"whole": whole_object("lrm"), "ranges": lrm_ranges}


def triposr_ranges(module: Any) -> None:
    """Resolutions, what is told of a run, and colours at their ends."""
    check_ranges(module, resolution=(15, 16, 512, 513))
    levels = np.array([[0.0, 1.0, 0.502], [0.999, 0.0, 0.5]], np.float32)

    def query_triplane(decoder: Any, at: Any, planes: Any) -> Any:
        return {"color": tensor(np.resize(levels, at.shape))}

    adapter = module.Adapter()
    adapter.network = types.SimpleNamespace(renderer=types.SimpleNamespace(query_triplane=query_triplane), decoder=None)
    density = np.zeros((3, 3, 3), np.float32)
    density[1, 1, 1] = 50
    with Replay([], {}).playing():
        result = adapter.finish(module.PlaneDensity(density, [None]), objects.object_views())
        adapter.network = None
        told = adapter.execution(module.Picture((np.zeros((3, 512, 512), np.float32),), "given mask"))
    assert result.colors[:2].tolist() == [[0, 255, 128], [254, 0, 127]]
    assert (told.resolution, told.foreground) == ("512x512, grid 256", "given mask")


RUNS["triposr"] = {"whole": whole_object("triposr"), "ranges": triposr_ranges}


def shap_e_ranges(module: Any) -> None:
    """Options, what is told of a run, colours at their ends, and a photo that was not cut out."""
    check_ranges(module, steps=(1, 2, 1024, 1025), resolution=(15, 16, 512, 513), guidance=(1.0, 1.1, 100.0, 100.1))
    levels = np.array([[0.0, 1.0, 0.502], [0.999, 0.0, 0.0021]], np.float32)

    def mlp(position: Any, **_: Any) -> Any:
        return types.SimpleNamespace(channels=tensor(np.resize(levels, position.shape)))

    adapter = module.Adapter()
    adapter.network = types.SimpleNamespace(renderer=types.SimpleNamespace(mlp=mlp))
    field = np.full((3, 3, 3), -1, np.float32)
    field[1, 1, 1] = 1
    with Replay([], {}).playing():
        result = adapter.finish(field, objects.object_views())
        adapter.network = None
        told = adapter.execution(module.Picture((np.zeros((3, 224, 224), np.float32),), "given mask"))
    assert result.colors[:2].tolist() == [[0, 255, 128], [255, 0, 1]]
    assert (told.resolution, told.foreground) == ("224x224, grid 128", "given mask")
    ramp = np.tile(np.arange(0, 250, 0.5).astype(np.uint8)[None, :, None], (300, 1, 3))  # 500 x 300
    for photo, axis in ((ramp, 2), (ramp.transpose(1, 0, 2), 1)):
        levels = module.clip_picture(np.ascontiguousarray(photo)) * np.reshape(module.SPREAD, (3, 1, 1))
        levels = (levels + np.reshape(module.MEAN, (3, 1, 1))) * 255
        across = levels.mean(axis=(0, 3 - axis))
        assert across.shape == (224,) and abs(across[112] - 124.75) < 1 and abs(across[-1] - across[0] - 149) < 2
    assert module.clip_picture(np.zeros((224, 224, 3), np.uint8)).shape == (3, 224, 224)


RUNS["shap-e"] = {"whole": whole_object("shap-e"), "ranges": shap_e_ranges}


def hunyuan3d_ranges(module: Any) -> None:
    """Options, and what is told of a run."""
    check_ranges(module, steps=(1, 2, 1000, 1001), resolution=(15, 16, 512, 513), guidance=(-0.1, 0.0, 100.0, 100.1))
    adapter = module.Adapter()
    with Replay([], {}).playing():
        told = adapter.execution(module.Picture((np.zeros((3, 512, 512), np.float32),), "given mask"))
    assert (told.resolution, told.foreground) == ("512x512, grid 384", "given mask")


RUNS["hunyuan3d"] = {"whole": whole_object("hunyuan3d"), "ranges": hunyuan3d_ranges}
