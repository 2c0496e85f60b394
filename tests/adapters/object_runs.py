"""What each single-object system's adapter must do with its recordings; see `runs`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.contract import ContractError, Unsupported
from adapters.shared.objects import Cube
from adapters.shared.resize import Placement
from tests.adapters import objects
from tests.adapters.replay import Replay, tensor

Run = Callable[[Any], None]


def whole(case: str) -> Run:
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
    """Resolutions, what is told of a run, and colours that the decoder's clamping oversteps."""
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
        adapter.network = None
        told = adapter.execution(module.Picture((np.zeros((3, 336, 336), np.float32),), "given mask"))
    assert result.colors[:2].tolist() == [[0, 255, 127], [255, 0, 1]]
    assert (told.resolution, told.foreground) == ("336x336, grid 384", "given mask")


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


def hunyuan3d_ranges(module: Any) -> None:
    """Options, and what is told of a run."""
    check_ranges(module, steps=(1, 2, 1000, 1001), resolution=(15, 16, 512, 513), guidance=(-0.1, 0.0, 100.0, 100.1))
    adapter = module.Adapter()
    with Replay([], {}).playing():
        told = adapter.execution(module.Picture((np.zeros((3, 512, 512), np.float32),), "given mask"))
    assert (told.resolution, told.foreground) == ("512x512, grid 384", "given mask")


RUNS: dict[str, dict[str, Run]] = {
    "point-e": {
        **{name: whole(name) for name in ("point-e", "point-e-mean", "point-e-tokens")},
        "ranges": point_e_ranges,
    },
    "combined": {**{name: whole(name) for name in ("combined", "combined-given")}, "ranges": combined_ranges},
    "geolrm": {"whole": whole("geolrm"), "without": geolrm_without},
    "geolrm-one-view": {"whole": whole("geolrm-one-view"), "painted": painted_views},
    "lgm": {"whole": whole("lgm"), "ranges": lgm_ranges},
    "lrm": {"whole": whole("lrm"), "ranges": lrm_ranges},
    "triposr": {"whole": whole("triposr"), "ranges": triposr_ranges},
    "shap-e": {"whole": whole("shap-e"), "ranges": shap_e_ranges},
    "hunyuan3d": {"whole": whole("hunyuan3d"), "ranges": hunyuan3d_ranges},
}
