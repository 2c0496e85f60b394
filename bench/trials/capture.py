"""The attention viewer: a network's attention, captured in its adapter's environment, beside true correspondence."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.contract import F32, F64, I32, Cameras, InputError, Reconstruction, Unavailable, Views
from adapters.systems.vggt.attention import PROGRESS
from bench.arrays import read_npz
from bench.systems import environments, walls
from bench.systems.cards import Adapter, Options
from bench.systems.process import Tool, environment_folder, run_tool, stage, weights_files
from bench.systems.weights import PRETRAINED, RANDOM, resolve
from bench.trials.plan import read_truth, view_order
from data.scene import Scene
from metrics.scoring.visibility import DepthBuffer, depth_buffers
from reports.page.attention import HIDDEN, OUTSIDE, UNKNOWN, VISIBLE, AttentionPage, Matches, View

AGREE = 0.01  # of the depth: a surface this near to a point is the point's
_STUB = "import sys; sys.path.insert(0, sys.argv[1]); from {} import attention; attention.main(sys.argv[2])"
DEADLINE = 7200.0  # seconds
Progress = Callable[[float, str], None]  # share done, what is being done


@dataclass(frozen=True)
class CaptureRequest:
    """What to capture, and how the network is run."""

    weights: str = PRETRAINED  # or RANDOM, or a path
    options: Options | None = None
    device: str = "cpu"
    seed: int = 0
    layers: str = ""  # "0-5,6-11": ranges of layers, averaged; "" = four even ones
    pixels: int = 8  # source patches along each side of a view; 0 = every patch
    heads: str = "mean"  # heads put together by their "mean" or "max"
    rollout: float | None = None  # also attention rollout, leaving out this lowest share of each row


@dataclass(frozen=True)
class Captured:
    """What an adapter's `attention.py` wrote: see `adapters.systems.vggt.attention.capture`."""

    names: tuple[str, ...]
    maps: F32
    special: F32
    sources: I32
    area: F64
    prediction: Reconstruction | None

    def check(self, views: int) -> None:
        """ValueError unless the arrays fit each other and `views` views, and hold what attention can be."""
        if self.maps.ndim != 5 or self.sources.ndim != 2:
            raise ValueError(f"maps {self.maps.shape} and sources {self.sources.shape} seen, 5 and 2 axes wanted")
        kinds, sources = len(self.names), len(self.sources)
        for name, array, wanted in (
            ("maps", self.maps, (kinds, sources, views, *self.maps.shape[3:])),
            ("special", self.special, (kinds, sources, views)),
            ("sources", self.sources, (sources, 3)),
            ("area", self.area, (views, 4)),
        ):
            if array.shape != wanted or array.size == 0 or not np.isfinite(array).all():
                raise ValueError(f"{name}: {array.shape} seen, {wanted} finite numbers wanted, one source at least")
        if (self.maps < 0).any() or (self.sources < 0).any() or (self.sources >= (views, *self.maps.shape[3:])).any():
            raise ValueError("maps or sources: negative numbers, or patches beyond their view")


def capture(
    adapter: Adapter, views: Views, request: CaptureRequest, progress: Progress = lambda share, what: None
) -> Captured:
    """Run `adapter` once on `views` in its own environment and read back the attention that `request` names.

    InputError where the adapter has no attention to show, its environment or weights are absent, or the run fails."""
    if not (adapter.folder / "attention.py").is_file():
        raise InputError(
            f"adapter {adapter.name}: no attention.py seen in {adapter.folder}, so it has no attention to show"
        )
    try:
        python, given = environments.find(adapter).python, resolve(adapter, request.weights)
    except Unavailable as error:
        raise InputError(f"adapter {adapter.name}: {error}") from error
    message = {
        "options": request.options or {},
        "device": request.device,
        "weights": given.load,
        "seed": request.seed,
        "layers": request.layers,
        "pixels": request.pixels,
        "heads": request.heads,
        "discard": request.rollout,
    }
    with walls.work_folder() as folder:
        work = folder / "work"
        work.mkdir()
        views.save(work / "views.npz")
        (work / "request.json").write_text(json.dumps(message), encoding="utf-8")
        staged, compiled = stage(adapter), walls.compiled_folder(f"{adapter.name}-{adapter.hash}")
        stub = _STUB.format(adapter.module.rpartition(".")[0])
        command = [str(python), "-I", "-B", "-c", stub, str(staged), str(work)]
        read = [staged, environment_folder(python), *weights_files(given.load)]
        tool = Tool("attention", command, folder, compiled, read, DEADLINE, request.device)
        run_tool(tool, functools.partial(_tell, progress))
        try:
            file = work / "prediction.npz"
            prediction = Reconstruction.from_arrays(read_npz(file)) if file.is_file() else None
            if prediction is not None:
                prediction.validate(views)
            arrays = read_npz(work / "attention.npz")
            captured = Captured(
                tuple(str(n) for n in arrays["names"]),
                arrays["maps"].astype(np.float32),
                arrays["special"].astype(np.float32),
                arrays["sources"].astype(np.int32),
                arrays["area"].astype(np.float64),
                prediction,
            )
            captured.check(len(views))
            return captured
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"adapter {adapter.name}: its attention cannot be read ({error})") from error


def _tell(progress: Progress, line: bytes) -> None:
    text = line.decode(errors="replace")
    if text.startswith(PROGRESS):
        share, _, what = text.removeprefix(PROGRESS).strip().partition(" ")
        with contextlib.suppress(ValueError):  # not a share of ours
            progress(float(share), what)


def correspondences(page: AttentionPage, maker: str, cameras: Cameras, buffers: Sequence[DepthBuffer]) -> Matches:
    """Where the surface behind each of the page's M source pixels lies in every one of its S views.

    `cameras` (S) and `buffers` (S, depths in the cameras' unit) give the geometry, and `maker` says what they are."""
    count, sources = len(page.views), page.sources
    pixels = np.full((len(sources), count, 2), np.nan)
    state = np.full((len(sources), count), UNKNOWN, np.uint8)
    for view in range(count):
        own = np.flatnonzero(sources[:, 0] == view)
        pixel = page.patch_centres(view)[sources[own, 1], sources[own, 2]]
        depth, _, _ = buffers[view].lookup(pixel, np.ones(len(own)))
        own, pixel, depth = own[depth > 0], pixel[depth > 0], depth[depth > 0]
        points = cameras.unproject(view, pixel, depth)
        state[own, view], pixels[own, view] = VISIBLE, pixel
        for other in (v for v in range(count) if v != view):
            where, z = cameras.project(other, points)
            surface, _, inside = buffers[other].lookup(where, z)
            left, top, right, bottom = page.views[other].area
            shown = inside & (where >= (left, top)).all(axis=1) & (where <= (right, bottom)).all(axis=1)
            near = np.abs(surface - z) <= AGREE * z
            hidden = (surface > 0) & (surface < z) & ~near
            state[own, other] = np.select([~shown, near, hidden], [OUTSIDE, VISIBLE, HIDDEN], UNKNOWN)
            pixels[own, other] = np.where(inside[:, None], where, np.nan)
    return Matches(maker, pixels, state)


def true_geometry(scene: Scene, names: Sequence[str]) -> tuple[str, Cameras, list[DepthBuffer]] | None:
    """The first of the scene's truths that has a camera for every view of `names`: what it is, cameras and depths."""
    for kind in scene.truth_kinds:
        truth = read_truth(scene, kind)
        if set(names) <= set(truth.view_names):
            order = [truth.view_names.index(name) for name in names]
            buffers = depth_buffers(truth)
            return f"the scene's {kind} truth", truth.cameras.take(order), [buffers[i] for i in order]
    return None


def predicted_geometry(prediction: Reconstruction | None) -> tuple[str, Cameras, list[DepthBuffer]] | None:
    """The same from what the model itself says, where it gives depth and a camera for every view."""
    if prediction is None or prediction.cameras is None or prediction.depth is None or prediction.registered is None:
        return None
    if not prediction.registered.all():
        return None
    buffers = [DepthBuffer(depth, np.zeros(depth.shape, np.bool_), 1.0) for depth in prediction.depth]
    return "the model's own depth and cameras", prediction.cameras, buffers


def chosen_views(scene: Scene, views: str, seed: int) -> tuple[str, ...]:
    """The views of `scene` that "a20,a21" names, or the first of its nested order where `views` is a count."""
    if views.isdigit() and views not in scene.view_names:
        chosen = view_order(scene, seed)[: int(views)]
    else:
        chosen = [name.strip() for name in views.split(",")]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(scene.view_names):
        raise InputError(f"--views: {views!r} seen, a count or different views of {', '.join(scene.view_names)} wanted")
    return tuple(chosen)


def make_page(
    adapter: Adapter, scene: Scene, names: Sequence[str], request: CaptureRequest, progress: Progress
) -> AttentionPage:
    """Capture the attention of `adapter` on the views `names` of `scene`, and put beside it what is known of them."""
    views = Views(tuple(scene.image(name) for name in names), tuple(f"{i:03d}" for i in range(len(names))))
    captured = capture(adapter, views, request, progress)
    rows, columns = captured.maps.shape[3:]
    facts = {
        "Model": adapter.card.title,
        "Weights": "random: an untrained network" if request.weights == RANDOM else request.weights,
        "Scene": f"{scene.name}, {len(names)} views",
        "Patches": f"{columns} x {rows} a view; {len(captured.sources)} are sources, a click takes the nearest",
        "Attention": f"of the global blocks, layers averaged, {request.heads} over heads",
    }
    if request.rollout is not None:
        facts["Rollout"] = (
            f"max over heads, the lowest {100 * request.rollout:g}% of each row left out, (A + I) / 2, each row "
            "divided by its sum, the product over all global blocks; frame blocks are left out"
        )
    page = AttentionPage(
        title=f"Attention of {adapter.card.title}",
        facts=tuple(facts.items()),
        footer=f"Reconbench · {scene.file.title} · seed {request.seed} · {request.device}",
        views=tuple(
            View(name, image, (float(a[0]), float(a[1]), float(a[2]), float(a[3])))
            for name, image, a in zip(names, views.images, captured.area, strict=True)
        ),
        names=captured.names,
        maps=captured.maps,
        special=captured.special,
        sources=captured.sources,
        matches=None,
    )
    geometry = true_geometry(scene, names) or predicted_geometry(captured.prediction)
    return page if geometry is None else replace(page, matches=correspondences(page, *geometry))
