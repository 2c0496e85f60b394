"""Protocols: how predictions are compared with ground truth, as small versioned TOML files with a hash.

A protocol is the same for every row that is ranked together. `Protocol.hash` covers the protocol's meaning and the
versions of the metric implementations, so a score made by another protocol or another code is never reused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

IMPLEMENTATION = {
    "nearest": 2,
    "chamfer": 1,
    "fscore": 1,
    "emd": 1,
    "cameras": 1,
    "depth": 1,
    "align": 1,
    "visibility": 1,
}
PROTOCOLS = Path(__file__).parent / "protocols"
Route = Literal["none", "cameras", "correspondences", "search"]


class ProtocolError(ValueError):
    """A protocol file that cannot be used; the message names the file and field."""


class Align(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an unposed prediction is brought into the truth's frame. Posed predictions get none.

    The route depends on the trial's inputs alone, so rows ranked together share it."""

    scene: Route = "cameras"  # three and more views, output of scope `scene`
    scene_few_views: Route = "correspondences"  # one or two views
    object: Route = "search"  # output of scope `object`
    icp: bool = True  # then robust similarity ICP; scores are given before and after it

    def route(self, scope: str, views: int, posed: bool) -> Route:
        """The route for a trial."""
        if posed:
            return "none"
        if scope == "object":
            return self.object
        return self.scene if views >= 3 else self.scene_few_views


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One protocol. Lengths are shares of the scene's diameter."""

    name: str
    version: int
    description: str
    source: str = ""  # the paper whose protocol this reproduces
    unstated: tuple[str, ...] = ()  # what that source leaves open, and was chosen here
    crop: bool = True  # cut both sides to the truth's crop volume, after alignment
    masks: bool = False  # drop predicted points that fall outside the object's masks in a given view
    confidence_keep: float = 1.0  # share of a prediction's points kept, the surest first
    voxel: float = 0.0025  # density equalisation: one point a voxel of this edge, both sides
    samples: int = 30_000  # points of each side whose distance to the whole other side is measured, a draw
    emd_samples: int = 2_048
    seed: int = 0
    draws: int = 3  # independent sample sets; values are their mean, intervals their t interval
    emd_draws: int = 5
    visible_within: float = 0.01  # a truth point counts as seen where its depth agrees to this
    behind: float = 0.05  # predicted points farther than this behind every seen surface are unobserved: not punished
    align: Align = msgspec.field(default_factory=Align)
    thresholds: tuple[float, ...] = (0.005, 0.01, 0.02)  # of precision, recall and F-score
    rank_metric: str = "fscore@1%"

    @property
    def hash(self) -> str:
        """12 hex digits over the meaning (not the prose) and the metric implementations."""
        meaning = msgspec.to_builtins(msgspec.structs.replace(self, description="", source="", unstated=()))
        return hashlib.sha256(msgspec.json.encode([meaning, IMPLEMENTATION], order="sorted")).hexdigest()[:12]

    def check(self, where: str) -> None:
        """Raise ProtocolError where a field is out of its range."""
        for field, low, high in (
            ("confidence_keep", 0.01, 1),
            ("voxel", 0, 0.2),
            ("behind", 0.001, 1),
            ("draws", 2, 100),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise ProtocolError(f"{where}: {field} {value} seen, {low} to {high} wanted")
        if self.samples < 100 or self.emd_samples < 16:
            raise ProtocolError(
                f"{where}: samples {self.samples}, emd_samples {self.emd_samples} seen, 100 and 16 at least"
            )
        if self.rank_metric not in metric_table(self):
            raise ProtocolError(f"{where}: rank_metric {self.rank_metric!r} is not among its metrics")


def load_protocol(name: str) -> Protocol:
    """The protocol called `name`, or in the file `name`; ProtocolError otherwise."""
    path = Path(name) if name.endswith(".toml") else PROTOCOLS / f"{name}.toml"
    try:
        protocol = msgspec.toml.decode(path.read_bytes(), type=Protocol)
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in PROTOCOLS.glob("*.toml")))
        raise ProtocolError(f"protocol {name!r} is not known; known: {known}") from error
    except msgspec.DecodeError as error:
        raise ProtocolError(f"{path}: {error}") from error
    protocol.check(str(path))
    return protocol


def percent(threshold: float) -> str:
    """A share as it stands in metric ids: 0.01 -> "1%"."""
    return f"{threshold * 100:g}%"


def metric_table(protocol: Protocol) -> dict[str, tuple[str, Literal["lower", "higher"]]]:
    """Every metric id of `protocol`, in printing order: its unit ("%" of the diameter, "deg", "ratio") and direction.

    accuracy            mean distance, prediction to truth (to its mesh where the truth is one)
    completeness-*      mean distance, truth to prediction, over the surface seen by the truth's cameras (visible) or by
                        the views that the trial gave (given)
    chamfer-l1-sum      accuracy + completeness-visible; chamfer-l2sq-mean: the mean of both mean squared distances in
                        squared percent
    precision, recall   share of predicted (true, visible) points within the threshold; fscore: their harmonic mean
    emd                 mean distance of the cheapest bijection between equally many points of both sides
    rotation, translation, auc@*, centre-rmse           see metrics.cameras
    depth-absrel, depth-delta@1.03, depth-coverage      see metrics.depth
    psnr, ssim, lpips   of renderings at the cameras of views held back, mean over them: see metrics.image
    """
    table: dict[str, tuple[str, Literal["lower", "higher"]]] = {
        "accuracy": ("%", "lower"),
        "completeness-visible": ("%", "lower"),
        "completeness-given": ("%", "lower"),
        "chamfer-l1-sum": ("%", "lower"),
        "chamfer-l2sq-mean": ("%²", "lower"),
    }
    for threshold in protocol.thresholds:
        for name in ("precision", "recall", "fscore"):
            table[f"{name}@{percent(threshold)}"] = ("ratio", "higher")
    table["emd"] = ("%", "lower")
    table["rotation"] = table["translation"] = ("deg", "lower")
    for degrees in (5, 10, 30):
        table[f"auc@{degrees}"] = ("ratio", "higher")
    table["centre-rmse"] = ("%", "lower")
    table["depth-absrel"] = ("ratio", "lower")
    table["depth-delta@1.03"] = table["depth-coverage"] = ("ratio", "higher")
    table |= {"psnr": ("dB", "higher"), "ssim": ("ratio", "higher"), "lpips": ("ratio", "lower")}
    return table
