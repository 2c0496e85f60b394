"""Recorded runs: what upstream's own code made of the oracle's geometry, for machines without it.

`fixtures/NAME.json` says from which commit, and holds the calls of upstream's code that the adapter made, in order (see
`replay`); `fixtures/NAME.npz` the arrays that those returned, and the images that upstream's own loader prepared: of
the oracle's photos, and of photos of noise, which tell one filter from another.
Written by `make record` where upstream's code is.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from adapters.contract import Reconstruction, Views
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD
from tests.adapters.replay import Replay
from tests.adapters.upstream.oracle import PixelOracle

FOLDER = Path(__file__).parent / "fixtures"


@dataclasses.dataclass(frozen=True)
class Case:
    """A recorded run: a network image's size (`constant`, dotted) in place of upstream's, and the photos shown."""

    system: str
    constant: str
    side: int
    sizes: tuple[tuple[int, int], ...]
    focal: tuple[float, float]
    functions: tuple[str, ...]  # of upstream, that the adapter calls
    opaque: tuple[str, ...] = ()  # those of them whose results the adapter only passes on
    least: float = 5.0
    mean: Any = 0.0  # of the levels in [0, 1], as the network takes them
    std: Any = 1.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the adapter
    cleaned: bool = False  # confidences may be 0
    off_centre: tuple[float, float] = (0.0, 0.0)  # of the truth's principal point, in pixels of the network image

    @property
    def module(self) -> str:
        return f"adapters.systems.{self.system.replace('-', '_')}.adapter"

    def oracle(self) -> PixelOracle:
        return PixelOracle(*self.sizes, focal=self.focal, off_centre=self.off_centre, least=self.least)

    @contextmanager
    def small(self) -> Iterator[None]:
        """The adapter with the case's image size."""
        module, _, name = self.constant.rpartition(".")
        with mock.patch.object(importlib.import_module(module), name, self.side):
            yield


MIXED = ((123, 88), (90, 121))  # a portrait is cropped, a landscape padded or cropped, by factors that differ in x, y
PAIRS = "adapters.shared.pairs.SIDE"
D = "dust3r.cloud_opt.global_aligner"
DUST3R = (
    *("dust3r.image_pairs.make_pairs", "dust3r.inference.inference", D),
    *(f"dust3r.cloud_opt.init_im_poses.{name}" for name in ("minimum_spanning_tree", "init_from_pts3d")),
)
DUST3R_OPAQUE = ("dust3r.image_pairs.make_pairs", "dust3r.inference.inference", D)
EDGES = tuple(f"{D}.{name}" for name in ("imshapes", "edges", "pred_i", "pred_j", "conf_i", "conf_j"))
MAST3R = ("mast3r.image_pairs.make_pairs", "mast3r.cloud_opt.sparse_ga.sparse_global_alignment")
FAST3R = (
    "fast3r.dust3r.inference_multiview.inference",
    "fast3r.dust3r.cloud_opt.init_im_poses.fast_pnp",
    "fast3r.dust3r.post_process.estimate_focal_knowing_depth_and_confidence_mask",
    "roma.rigid_points_registration",
    "torch.manual_seed",
)
CUT3R = (
    "dust3r.post_process.estimate_focal_knowing_depth",
    "dust3r.utils.camera.pose_encoding_to_camera",
)
SIGNED: dict[str, Any] = {"mean": 0.5, "std": 0.5}
IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
TURNED = ((123, 83), (83, 123))
_dust3r = functools.partial(Case, "dust3r", PAIRS, 64, focal=(58.0, 58.0), functions=DUST3R, cleaned=True, **SIGNED)
_mast3r = functools.partial(
    Case, "mast3r", PAIRS, 96, focal=(85.0, 85.0), functions=MAST3R, opaque=MAST3R, cleaned=True, **SIGNED
)
_vggt = functools.partial(
    Case, "vggt", "adapters.systems.vggt.adapter.SIDE", 70, MIXED, (60.0, 52.0),
    ("vggt.utils.pose_enc.pose_encoding_to_extri_intri",),
)  # fmt: skip
_omega = functools.partial(
    Case, "vggt-omega", "adapters.systems.vggt_omega.adapter.SIDE", 64, focal=(60.0, 52.0),
    functions=("vggt_omega.utils.pose_enc.encoding_to_camera",),
)  # fmt: skip
_fast3r = functools.partial(
    Case, "fast3r", "adapters.systems.fast3r.adapter.SIDE", 64, TURNED, (58.0, 58.0), FAST3R, **SIGNED
)
_pi3 = functools.partial(
    Case, constant="adapters.shared.pi3.PIXELS", side=4900, sizes=MIXED, focal=(60.0, 52.0), functions=(), least=0.0
)
_cut3r = functools.partial(
    Case, "cut3r", "adapters.systems.cut3r.adapter.SIDE", 96, ((123, 88), (88, 123)), (85.0, 85.0), CUT3R,
    ("network.pose_retriever",), **SIGNED,
)  # fmt: skip
_lingbot = functools.partial(
    Case, "lingbot-map", "adapters.systems.lingbot_map.adapter.SIDE", 70, focal=(60.0, 52.0),
    functions=("lingbot_map.utils.pose_enc.pose_encoding_to_extri_intri",), options={"first": 2},
)  # fmt: skip
_dvlt = functools.partial(
    Case, "dvlt", "adapters.systems.dvlt.adapter.SIDE", 84, focal=(60.0, 52.0),
    functions=("dvlt.common.rays.rays_to_pose",), off_centre=(-0.5, -0.5),
)  # fmt: skip
CASES = {
    "vggt": _vggt(),
    "streamvggt": Case(
        "streamvggt", "adapters.systems.streamvggt.adapter.SIDE", 70, MIXED, (60.0, 52.0),
        ("streamvggt.utils.pose_enc.pose_encoding_to_extri_intri",), options={"points": "depth"},
    ),
    "vggt-pad": _vggt(options={"fit": "pad"}),
    "dust3r": _dust3r(TURNED, opaque=DUST3R_OPAQUE),
    "dust3r-one-view": _dust3r(TURNED[:1], opaque=DUST3R_OPAQUE),
    "dust3r-aligned": _dust3r(
        (*TURNED, TURNED[0]), opaque=(*DUST3R_OPAQUE, *EDGES), options={"iterations": 0, "clean": False}
    ),
    "mast3r": _mast3r(((123, 88), (88, 123)), options={"refinements": 0}),
    "mast3r-one-view": _mast3r(((123, 88),)),
    "cut3r": _cut3r(),
    "fast3r": _fast3r(),
    "fast3r-global": _fast3r(options={"points": "global"}),
    "pi3": _pi3("pi3"),
    "pi3x": _pi3("pi3x"),
    "vggt-omega": _omega(sizes=((203, 88), (110, 121)), options={"side": 64}),
    "vggt-omega-max-size": _omega(sizes=((123, 88), (110, 121)), options={"fit": "max_size", "side": 64}),
    "depth-anything-3": Case(
        "depth-anything-3", "adapters.systems.depth_anything_3.adapter.SIDE", 84, MIXED, (60.0, 52.0),
        ("cv2.resize",), **IMAGENET,
    ),
    "mapanything": Case(
        "mapanything", "adapters.systems.mapanything.adapter.PATCH", 2, MIXED, (60.0, 52.0), (), **IMAGENET
    ),
    "lingbot-map": _lingbot(sizes=(*MIXED, MIXED[0])),
    "lingbot-map-wide": _lingbot(sizes=MIXED[:1]),
    "dvlt": _dvlt(sizes=MIXED),
    "dvlt-one-view": _dvlt(sizes=MIXED[1:]),
}  # fmt: skip


def noise(case: Case) -> Views:
    """Photos of noise, of the case's sizes: no two filters make the same of them."""
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (height, width, 3)).astype(np.uint8) for width, height in case.sizes)
    return Views(images, tuple(f"{i:03d}" for i in range(len(images))))


def load(name: str) -> tuple[Replay, dict[str, NDArray[Any]]]:
    """A fixture's calls, ready to be replayed, and its arrays."""
    manifest = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    shapes = {key: f"{value.dtype} {list(value.shape)}" for key, value in arrays.items()}
    assert shapes == manifest["arrays"], f"{name}.npz is not what its manifest says"
    return Replay(manifest["calls"], arrays), arrays


def prepared_as_upstream(case: Case, images: Any, wanted: list[NDArray[Any]]) -> None:
    """Network images against those of upstream's loader, levels."""
    assert len(images) == len(wanted)
    for image, theirs in zip(images, wanted, strict=True):
        levels = image * np.reshape(case.std, (-1, 1, 1)) + np.reshape(case.mean, (-1, 1, 1))
        assert levels.shape == theirs.shape, f"prepared {levels.shape}, upstream's loader {theirs.shape}"
        # Another Pillow may round otherwise.
        assert np.abs(levels * 255 - theirs).max() <= 1.01, "prepared otherwise than by upstream's loader"


def replayed(
    name: str, adapter: Any, change: Callable[[Replay], None] = lambda replay: None
) -> tuple[PixelOracle, Any, Replay]:
    """`prepare` and `infer` of `adapter` against the recording; the oracle has looked at the network's images.

    `change` may have upstream answer otherwise than it did."""
    case = CASES[name]
    oracle = case.oracle()
    replay, arrays = load(name)
    change(replay)
    adapter.network = replay.network
    with case.small(), replay.playing():
        textured = adapter.prepare(noise(case))
        inputs = adapter.prepare(oracle.views)
        outputs = adapter.infer(inputs)
    for views, kind in ((textured, "noise"), (inputs, "prepared")):
        prepared_as_upstream(case, views.images, [arrays[f"{kind}_{i}"] for i in range(len(case.sizes))])
    for i in range(len(case.sizes)):
        oracle.look(arrays[f"prepared_{i}"] / 255)
    return oracle, outputs, replay


def check_replayed(name: str, adapter: Any) -> Reconstruction:
    """A whole run of `adapter` on the recording, against the oracle's geometry."""
    oracle, outputs, _ = replayed(name, adapter)
    with CASES[name].small():
        result: Reconstruction = adapter.finish(outputs, oracle.views)
    check_result(oracle, result, CASES[name].cleaned)
    return result


def check_result(oracle: PixelOracle, result: Reconstruction, cleaned: bool = False) -> None:
    """What comes of a recorded run, against the geometry that `oracle` saw.

    Limits are wider than at full size: the ramps of a small image are fitted from few pixels."""
    oracle.check(result, cleaned, points=2e-3, centres=2e-3, depth=4e-3, pixels=0.2, intrinsics=0.3, degrees=0.15)
