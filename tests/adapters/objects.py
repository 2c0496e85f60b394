"""Recorded runs of single-object networks, and the shapes that must come back; see `recorded` for those of scenes.

A stub in the place of an upstream network knows a shape; what upstream's own code around it made of that is recorded
(`fixtures/NAME.json`, `fixtures/NAME.npz`) and replayed without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adapters.contract import Cameras, ContractError, Reconstruction, Unavailable, Views
from tests.adapters.recorded import load
from tests.adapters.upstream.oracle import photo

S = "point_e.diffusion.sampler.PointCloudSampler"


@dataclasses.dataclass(frozen=True)
class ObjectCase:
    """A recorded run of a single-object system."""

    system: str
    functions: tuple[str, ...]  # of upstream, that the adapter calls
    opaque: tuple[str, ...]  # those whose results the adapter only passes on
    views: int = 1
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the adapter
    posed: bool = False

    @property
    def module(self) -> str:
        return f"adapters.systems.{self.system.replace('-', '_')}.adapter"

    def shown(self) -> Views:
        """What the adapter is given."""
        if self.system == "combined":
            return disc_views(masked=self.posed, posed=self.posed)
        return posed_views() if self.posed else object_views(self.views)


POINT_E = {
    "functions": (S, "torch.manual_seed"),
    "opaque": (S, "network.clip", "network.stages", "network.diffusions"),
}
OBJECT = [101, 4874, 1012, 102]  # the tokens of "object."
NETWORKS = ("network.detector", "network.segmenter", "network.depth")
CASES: dict[str, ObjectCase] = {
    "combined": ObjectCase("combined", (), NETWORKS, options={"fov": 50.0}),
    "combined-given": ObjectCase("combined", (), NETWORKS, options={"fov": 50.0}, posed=True),
    "point-e": ObjectCase("point-e", **POINT_E),  # type: ignore[arg-type]
    "point-e-mean": ObjectCase("point-e", **POINT_E, views=3, options={"fusion": "mean", "steps": 5}),  # type: ignore[arg-type]
    "point-e-tokens": ObjectCase("point-e", **POINT_E, views=3, options={"steps": 5}),  # type: ignore[arg-type]
    "geolrm": ObjectCase(
        "geolrm", ("torch.manual_seed",), ("network.lrm_generator", "network.lrm_generator.renderer"), posed=True
    ),
    "geolrm-one-view": ObjectCase(
        "geolrm-one-view", ("torch.manual_seed",), ("network.lrm_generator", "network.lrm_generator.renderer")
    ),
    "lgm": ObjectCase("lgm", ("torch.manual_seed",), ("network.with_rays",)),
    "triposr": ObjectCase("triposr", (), ("network.renderer", "network.decoder"), options={"resolution": 20}),
    "hunyuan3d": ObjectCase(
        "hunyuan3d", ("torch.manual_seed",), ("network.vae",), options={"resolution": 19, "steps": 3}
    ),
    "shap-e": ObjectCase(
        "shap-e",
        ("torch.manual_seed",),
        ("network.renderer", "network.renderer.mlp"),
        options={"resolution": 20, "steps": 3},
    ),
    "lrm": ObjectCase("lrm", (), ("network.synthesizer", "network.forward_planes"), options={"resolution": 24}),
}


def object_views(count: int = 1, masked: bool = True) -> Views:
    """Photos of noise, 90 x 60, with an object of 40 x 30 in the middle."""
    rng = np.random.default_rng(1)
    images = tuple(rng.integers(0, 256, (60, 90, 3)).astype(np.uint8) for _ in range(count))
    mask = np.zeros((60, 90), np.bool_)
    mask[10:40, 30:70] = True
    return Views(images, tuple(f"{i:03d}" for i in range(count)), (mask,) * count if masked else None)


_RNG = np.random.default_rng(0)
CLOUD = (_RNG.uniform(-0.3, 0.3, (4096, 3)) + [0.1, -0.05, 0.19]).astype(np.float32)  # Point-E clips at 0.5
COLOURS = _RNG.integers(0, 256, (4096, 3)).astype(np.uint8)
CENTRE, RADIUS = np.array([0.2, -0.1, 0.3]), 0.4  # of the sphere that LRM's stub knows


def check_cloud(result: Reconstruction) -> None:
    """What Point-E's stub knows came back: points to 3e-7, colours exactly."""
    result.validate(object_views())
    assert (result.frame, result.scale, result.mesh) == ("object", "arbitrary", None)
    assert result.points.shape == CLOUD.shape and np.abs(result.points - CLOUD).max() <= 3e-7
    assert result.colors is not None and (result.colors == COLOURS).all()
    assert result.up is not None and result.up.tolist() == [0, 0, 1]


def check_sphere(result: Reconstruction, step: float, up: bool = False, colored: bool = True) -> None:
    """The sphere of a field came back, its grid's points `step` apart; its colours, if any, say where they lie."""
    result.validate(object_views())
    assert (result.frame, result.scale) == ("object", "arbitrary") and result.mesh is not None
    assert (result.up.tolist() if result.up is not None else None) == ([0, 0, 1] if up else None)
    assert (result.mesh.vertices == result.points).all()
    away = np.linalg.norm(result.points - CENTRE, axis=1)
    assert abs(away.mean() - RADIUS) < 0.1 * step and away.std() < 0.1 * step  # the density is bent at its foot
    assert np.abs(result.points.mean(axis=0) - CENTRE).max() < 0.3 * step
    a, b, c = (result.mesh.vertices[result.mesh.faces[:, k]].astype(np.float64) for k in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6  # positive where faces look outwards
    assert abs(volume / (4 / 3 * np.pi * RADIUS**3) - 1) < step
    if not colored:
        assert result.colors is None and result.mesh.colors is None
        return
    assert result.colors is not None and result.mesh.colors is not None
    assert (result.colors == result.mesh.colors).all()
    assert np.abs(result.colors - (result.points + 1) / 2 * 255).max() < 1.01


@contextlib.contextmanager
def narrowed(module: Any, sizes: dict[str, Any]) -> Iterator[None]:
    """The adapter of `module` builds a small network: its tables of sizes, by name, with these in them. A dotted name
    is upstream's; what is no table takes the value."""

    def merged(table: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {
            **table,
            **{name: merged(table[name], own) if isinstance(own, dict) else own for name, own in options.items()},
        }

    with contextlib.ExitStack() as stack:
        for name, options in sizes.items():
            parent, _, own = name.rpartition(".")
            home = importlib.import_module(parent) if parent else module
            if isinstance(options, dict):
                table = getattr(home, own)
                stack.enter_context(mock.patch.dict(table, merged(table, options)))
            else:
                stack.enter_context(mock.patch.object(home, own, options))
        yield


def small(module: Any, sizes: dict[str, Any], seed: int, **options: Any) -> Any:
    """The adapter of `module` with `options`, around a small network that `seed` draws."""
    with narrowed(module, sizes):
        adapter = module.Adapter(**options)
        adapter.load("cpu", "random", seed)
    return adapter


def check_fine_sphere(adapter: Any, step: float, spread: float = 1e-4, **kind: bool) -> None:
    """`adapter`, whose stub knows the sphere, returns it to `spread` on a grid whose points are `step` apart."""
    result = adapter.predict(object_views())
    check_sphere(result, step, **kind)
    away = np.linalg.norm(result.points - CENTRE, axis=1)
    assert abs(away.mean() - RADIUS) < 1e-4 and away.std() < spread
    assert np.abs(result.points.mean(axis=0) - CENTRE).max() < 1e-3


def check_no_surface(adapter: Any, level: int) -> None:
    """Planes without a surface at `level` of the density are one sentence, with the range of its values."""
    outputs = adapter.infer(adapter.prepare(object_views()))
    hollow = dataclasses.replace(outputs, density=np.minimum(outputs.density, 0.5))
    with pytest.raises(ContractError, match=rf"mesh: no surface at level {level}: the field's values are \S+ to 0.5"):
        adapter.finish(hollow, object_views())


def check_whole(adapter: Any, resolution: str, foreground: str) -> tuple[Any, Any]:
    """The whole network of random weights runs on a grid of 16 and says how; its inputs and outputs."""
    adapter.load("cpu", "random", 0)
    inputs = adapter.prepare(object_views())
    outputs = adapter.infer(inputs)
    assert outputs.density.shape == (16, 16, 16) and np.isfinite(outputs.density).all()
    told = adapter.execution(inputs)
    assert (told.resolution, told.foreground) == (resolution, foreground)
    return inputs, outputs


def check_saved(adapter: Any, again: Any, inputs: Any, saved: Path, missing: str) -> None:
    """`again`, loaded from what upstream `saved` of `adapter`, has its numbers and its answer; strange ones are refused
    with `missing`, a pattern of the first names."""
    import torch

    again.load("cpu", str(saved), 7)
    for name, tensor in adapter.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor), name
    assert np.array_equal(again.infer(inputs).density, adapter.infer(inputs).density)
    wrong = saved.parent / "wrong.pt"
    torch.save({"more": torch.zeros(1)}, wrong)
    with pytest.raises(Unavailable, match=rf"parameters missing \({missing}.*1 unknown \(more\)"):
        again.load("cpu", str(wrong), 0)


def save_tokenizer(folder: Path) -> None:
    """CLIP's by transformers, of no words but those that stand for none, with every file that is published: since its
    version 5 transformers writes the special ones into its configuration alone."""
    from transformers import CLIPTokenizer

    start, end, none = "<|startoftext|>", "<|endoftext|>", "!"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({start: 49406, end: 49407, none: 0}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    CLIPTokenizer(*files, pad_token=none, model_max_length=77).save_pretrained(folder)
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": none}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def check_object(name: str, adapter: Any) -> Reconstruction:
    """`prepare`, `infer` and `finish` of `adapter` against the recording, and the shape that comes back."""
    case = CASES[name]
    replay, _ = load(name)
    adapter.network, adapter.words = replay.network, OBJECT
    with replay.playing():
        outputs = adapter.infer(adapter.prepare(case.shown()))
        result: Reconstruction = adapter.finish(outputs, case.shown())
    if case.system == "geolrm":
        check_targets(result)
    elif case.system == "geolrm-one-view":
        check_painted(result)
    elif case.system == "lgm":
        check_lgm(result)
    elif case.system == "combined":
        check_disc(result, case.shown(), 50.0, "metric", 1.0 if case.posed else 1 / (1 + np.exp(-2)))
    elif case.system == "point-e":
        check_cloud(result)
    elif case.system == "lrm":
        check_sphere(result, 2 / 23)
    elif case.system == "hunyuan3d":
        check_sphere(result, 2.02 / 19, colored=False)
    elif case.system == "shap-e":
        check_sphere(result, 2 / 19, up=True)
    elif case.system == "triposr":
        check_sphere(result, 1.74 / 19)
    return result


def adapter_of(name: str) -> Any:
    """The adapter of a case, with its options."""
    case = CASES[name]
    return importlib.import_module(case.module).Adapter(**case.options)


# GeoLRM's: three photos of a ball at MIDDLE, in a world whose up is (0.6, 0, 0.8); colours say where a pixel lies.
MIDDLE, BALL = np.array([3.0, -1.0, 2.0]), 0.7
SIZES = ((640, 480), (480, 640), (500, 500))
TARGETS = np.random.default_rng(3).standard_normal((200, 3))
TARGETS = (MIDDLE + 0.9 * BALL * TARGETS / np.linalg.norm(TARGETS, axis=1, keepdims=True)).astype(np.float64)
PADDING = 5  # of the voxels that its stub proposes
CUBE_TARGETS = (TARGETS - MIDDLE) / 2  # where the cube is the object's own frame


def posed_views() -> Views:
    """Photos of the ball, whose cameras look past it, with principal points off the middle and pixels not square."""
    up = np.array([0.6, 0.0, 0.8])
    images, masks, intrinsics, poses = [], [], [], []
    for i, (width, height) in enumerate(SIZES):
        angle = 2.1 * i + 0.3
        aside = np.cross(up, [0.0, 1.0, 0.0])
        eye = MIDDLE + 3.0 * (np.cos(angle) * aside + np.sin(angle) * np.array([0.0, 1.0, 0.0]) + 0.3 * (i - 1) * up)
        z = MIDDLE + 0.15 * np.array([1.0, -1.0, 0.5]) * (i + 1) - eye
        z /= np.linalg.norm(z)
        x = np.cross(z, up)
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, np.cross(z, x), z])
        pose[:3, 3] = -pose[:3, :3] @ eye
        poses.append(pose)
        intrinsics.append(np.array([[600.0 + 20 * i, 0, width / 2 + 9], [0, 640.0, height / 2 - 14], [0, 0, 1]]))
        v, u = np.mgrid[:height, :width] + 0.5
        levels = np.stack([25 + 200 * u / width, 25 + 200 * v / height, np.full(u.shape, 30 + 40 * i)], axis=-1)
        dither = np.random.default_rng(i).random(levels.shape) * [1, 1, 0]  # so that the mean over a patch is exact
        images.append(np.floor(levels + dither).astype(np.uint8))
        rays = np.stack([u, v, np.ones(u.shape)], axis=-1) @ np.linalg.inv(intrinsics[i]).T
        rays /= np.linalg.norm(rays, axis=2, keepdims=True)
        there = pose[:3, :3] @ MIDDLE + pose[:3, 3]
        along = rays @ there
        masks.append((there @ there - along**2) < BALL**2)
    cameras = Cameras(np.stack(intrinsics), np.stack(poses))
    return Views(tuple(images), ("000", "001", "002"), tuple(masks), cameras)


def check_targets(result: Reconstruction) -> None:
    """GeoLRM's points came back in the world: each as often as a voxel has Gaussians, none of the padding."""
    result.validate(posed_views())
    assert (result.frame, result.scale, result.mesh, result.up) == ("world", "arbitrary", None, None)
    points = result.points.reshape(len(TARGETS), -1, 3)
    assert np.abs(points - TARGETS[:, None]).max() < 2e-6  # of a world 3 units away, in 32 bits
    assert result.colors is not None and (result.colors == 128).all()
    assert result.confidence_kind == "probability" and result.confidence is not None
    assert (result.confidence == 0.5).all()


def check_painted(result: Reconstruction) -> None:
    """The same of a cube that no camera places."""
    result.validate(object_views())
    assert (result.frame, result.scale, result.mesh) == ("object", "arbitrary", None)
    assert result.up is not None and result.up.tolist() == [0, 0, 1]
    points = result.points.reshape(len(CUBE_TARGETS), -1, 3)
    assert np.abs(points - CUBE_TARGETS[:, None]).max() < 6e-8
    assert result.colors is not None and (result.colors == 128).all()
    assert result.confidence_kind == "probability" and result.confidence is not None
    assert (result.confidence == 0.5).all()


# LGM's: four views of 8 x 8 Gaussians, every fourth of which is hardly there.
LGM_CLOUD = np.random.default_rng(4).uniform(-0.9, 0.9, (256, 3))


def check_lgm(result: Reconstruction) -> None:
    """LGM's points came back where its network said, those that are there, with colours that say where they lie."""
    result.validate(object_views())
    assert (result.frame, result.scale, result.mesh) == ("object", "arbitrary", None)
    assert result.up is not None and result.up.tolist() == [0, 1, 0]
    wanted = LGM_CLOUD[np.arange(len(LGM_CLOUD)) % 4 != 3]
    assert result.points.shape == wanted.shape and np.abs(result.points - wanted).max() < 6e-8
    assert result.colors is not None and np.abs(result.colors - (wanted + 1) / 2 * 255).max() < 0.51
    assert result.confidence_kind == "probability" and result.confidence is not None
    assert (result.confidence == 0.5).all()


DISC = np.array([230.0, 250.0, 120.0])  # of the combined pipeline's photo: middle x, y and radius, pixels
CAMERA = np.array([[555.0, 0, 300], [0, 570.0, 222], [0, 0, 1]])


def disc_depth(pixels: Any, size: tuple[int, int]) -> Any:
    """Metres at `pixels` (..., 2) of a photo of `size`."""
    return 2.0 + pixels[..., 0] / size[0] + 2 * pixels[..., 1] / size[1]


def disc_views(size: tuple[int, int] = (640, 480), masked: bool = False, posed: bool = False) -> Views:
    """One photo whose colours say where a pixel lies, with the disc's mask, and a camera that is not in its middle."""
    v, u = np.mgrid[: size[1], : size[0]] + 0.5
    mask = np.hypot(u - DISC[0], v - DISC[1]) < DISC[2]
    pose = np.eye(4)
    pose[:3, 3] = [1.0, 2.0, 3.0]
    cameras = Cameras(CAMERA[None].copy(), pose[None])
    return Views((photo(*size, 0),), ("000",), (mask,) if masked else None, cameras if posed else None)


def check_disc(result: Reconstruction, views: Views, fov: float, scale: str, sure: float) -> None:
    """The disc's points came back, each where its pixel and depth say, all of them and none beside it."""
    result.validate(views)
    assert (result.frame, result.scale, result.mesh) == ("first_camera", scale, None)
    assert result.cameras is not None and result.pixel is not None and result.confidence is not None
    height, width = views.images[0].shape[:2]
    focal = max(width, height) / 2 / np.tan(np.radians(fov / 2))
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    K = K if views.cameras is None else CAMERA
    assert np.abs(result.cameras.intrinsics[0] - K).max() < 1e-6
    rays = np.concatenate([result.pixel, np.ones((len(result.pixel), 1))], axis=1) @ np.linalg.inv(K).T
    wanted = rays * disc_depth(result.pixel.astype(np.float64), (width, height))[:, None]
    assert np.abs(result.points - wanted).max() < 5e-3  # the ramps are read to some hundredths of a pixel
    away = np.hypot(*(result.pixel - DISC[:2]).T)
    assert away.max() < DISC[2] + 1.5 and away.max() > DISC[2] - 1.5
    step = np.unique(result.pixel[:, 0])[1] - np.unique(result.pixel[:, 0])[0]
    down = np.unique(result.pixel[:, 1])[1] - np.unique(result.pixel[:, 1])[0]
    assert abs(len(away) * step * down / (np.pi * DISC[2] ** 2) - 1) < 0.03
    assert np.abs(result.confidence - sure).max() < 1e-5
