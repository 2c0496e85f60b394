"""Protocols: how predictions are compared with ground truth, as small versioned TOML files with a hash.

A protocol is the same for every row that is ranked together. `Protocol.hash` covers the protocol's meaning and the code
that scores, so a score made by another protocol or by other code is never reused."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import msgspec

from adapters.contract import InputError
from metrics.scoring.identity import scoring_code

PROTOCOLS = Path(__file__).parent / "protocols"
Route = Literal["none", "cameras", "correspondences", "search", "boxes"]
Formula = Literal["l1-sum", "l1-mean", "l2sq-sum", "l2sq-mean"]
Direction = Literal["lower", "higher"]
PROSE = ("description", "source", "unstated", "differs", "confidence_curve")  # what scores no prediction
# The fields of each stage, in the order in which a prediction meets them.
STAGES: dict[str, tuple[str, ...]] = {
    "confidence": ("confidence_keep",),
    "alignment": ("align", "depth_scale"),
    "crop": ("crop", "masks", "measured", "frame", "given_only", "observed_only", "visible_within", "behind"),
    "equalisation": ("voxel",),
    "sampling": ("samples", "against", "emd_samples", "seed", "draws", "emd_draws"),
    "formula": (
        *("side", "chamfer", "medians", "normals", "face_normals", "thresholds", "volume", "volume_cube", "mesh"),
        *("auc", "depth_deltas", "pointmaps", "rank_metric"),
    ),
}


class Align(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an unposed prediction is brought into the truth's frame. Posed predictions get none.

    The route depends on the trial's inputs alone, so rows ranked together share it. `boxes` brings the prediction's
    bounding box onto the truth's by centre and longest side, and turns nothing: it is how some papers normalise."""

    scene: Route = "cameras"  # three and more views, output of scope `scene`
    scene_few_views: Route = "correspondences"  # one or two views
    object: Route = "search"  # output of scope `object`
    icp: bool = True  # then robust similarity ICP; scores are given before and after it

    def route(self, scope: str, views: int, posed: bool) -> Route:
        """The route for a trial."""
        route = self.object if scope == "object" else self.scene if views >= 3 else self.scene_few_views
        return "none" if posed and route != "boxes" else route


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One protocol. Lengths are shares of the scene's diameter, `thresholds` too unless `side` is set."""

    name: str
    version: int
    description: str
    source: str = ""  # the paper whose protocol this reproduces
    unstated: tuple[str, ...] = ()  # what that source leaves open, and what was chosen here
    differs: tuple[str, ...] = ()  # what that source states and is done otherwise here
    confidence_keep: float = 1.0  # share of a prediction's points kept, the surest; ties with the last one are kept too
    confidence_curve: tuple[float, ...] = (1.0, 0.9, 0.7, 0.5, 0.3)  # shares at which a report draws the score
    align: Align = msgspec.field(default_factory=Align)
    crop: bool = True  # cut both sides to the truth's crop volume, after alignment
    masks: bool = False  # drop predicted points that fall outside the object's masks in a given view
    measured: bool = False  # drop predicted points whose pixel has no true depth in its view
    frame: float = 1.0  # share of the image's shorter side: only pixels in the centred square of that side count
    given_only: bool = False  # the truth is the surface that the given views see (inside `frame`), and nothing else
    observed_only: bool = True  # only surface that the truth's cameras see counts, only points that they can judge
    visible_within: float = 0.01  # a truth point counts as seen where its depth agrees to this
    behind: float = 0.05  # predicted points farther than this behind every seen surface are unobserved: not punished
    voxel: float = 0.0025  # density equalisation: one point a voxel of this edge, both sides; 0 = none
    samples: int = 30_000  # points of each side whose distance to the other side is measured, a draw
    against: Literal["whole", "sample"] = "whole"  # distances to the whole other side (or its mesh), or to its sample
    emd_samples: int = 2_048
    seed: int = 0
    draws: int = 3  # independent sample sets; values are their mean, intervals their t interval
    emd_draws: int = 5  # 0 = no EMD
    side: float = (
        0.0  # 0 = lengths in percent of the diameter; else in units of which the truth's longest side has this many
    )
    depth_scale: Literal["cloud", "median"] = "cloud"  # of depth maps: the alignment's, or the ratio of the medians
    medians: bool = False  # also the median distances, of both directions
    normals: bool = False  # also the normal consistency: predicted normals from the nearest 30 points
    face_normals: bool = False  # those of a mesh are its faces' where the points lie
    volume: int = 0  # cells a side of the grid on which the volumes of meshes are compared; 0 = they are not
    volume_cube: float = 0.0  # side of that grid about the truth's box, in its longest sides; 0 = it spans both meshes
    mesh: bool = False  # also whether a predicted mesh is valid, and how well shaped
    auc: tuple[int, ...] = (5, 10, 30)  # degrees up to which the area under the pose accuracy curve is taken
    depth_deltas: tuple[float, ...] = (1.03,)  # factors within which a depth counts as right
    pointmaps: bool = False  # also the errors of pointmaps, pixel by pixel
    chamfer: tuple[Formula, ...] = ("l1-sum", "l2sq-mean")  # the formulas printed, the headline first
    thresholds: tuple[float, ...] = (0.005, 0.01, 0.02)  # of precision, recall and F-score
    rank_metric: str = "fscore@1%"
    backend: Literal["cpu", "cuda"] = "cpu"  # whose digits are ranked, both in float64

    @property
    def hash(self) -> str:
        """12 hex digits over the meaning (not the prose) and the code that scores, on the CPU."""
        return self.hash_on(self.backend)

    def hash_on(self, backend: str) -> str:
        """The same for a backend of `metrics.kernels` by name: its digits are its own."""
        meaning = {name: value for name, value in msgspec.to_builtins(self).items() if name not in (*PROSE, "backend")}
        return hashlib.sha256(
            msgspec.json.encode([meaning, backend, scoring_code(backend)], order="sorted")
        ).hexdigest()[:12]

    @property
    def unit(self) -> str:
        """The unit of printed lengths: "%" of the diameter, "side" or a share of it."""
        return {0.0: "%", 1.0: "side", 2.0: "half side"}.get(self.side, f"1/{self.side:g} side")

    def label(self, threshold: float) -> str:
        """A threshold as it stands in metric ids: 0.01 of the diameter is "1%"."""
        return f"{threshold:g}" if self.side else f"{threshold * 100:g}%"

    def swapped(self, other: Protocol, stages: Collection[str]) -> Protocol:
        """This protocol with the `stages` of another; itself with none of those that differ, `other` with all."""
        between = [stage for stage in differing(self, other) if stage in stages]
        if not between:
            return self
        if between == differing(self, other):
            return other
        fields = {field: getattr(other, field) for stage in between for field in STAGES[stage]}
        return msgspec.structs.replace(self, name=f"{self.name} > {other.name}: {', '.join(between)}", **fields)

    def check(self, where: str) -> None:
        """Raise InputError where a field is out of its range."""
        for field, low, high in (
            ("confidence_keep", 0.01, 1),
            ("voxel", 0, 0.2),
            ("behind", 0.001, 1),
            ("draws", 2, 100),
            ("side", 0, 1000),
            ("frame", 0.05, 1),
            ("volume", 0, 512),
            ("volume_cube", 0, 100),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise InputError(f"{where}: {field} {value} seen, {low} to {high} wanted")
        if self.samples < 100 or self.emd_samples < 16:
            raise InputError(
                f"{where}: samples {self.samples}, emd_samples {self.emd_samples} seen, 100 and 16 at least"
            )
        if self.emd_draws == 1 or self.emd_draws < 0:
            raise InputError(f"{where}: emd_draws {self.emd_draws} seen, 0 or at least 2 wanted")
        if self.frame < 1 and not (self.measured and self.given_only):
            raise InputError(f"{where}: frame {self.frame} seen, measured and given_only wanted with it")
        if self.given_only and self.observed_only:
            raise InputError(f"{where}: given_only with observed_only seen, observed_only = false wanted with it")
        if self.volume and self.crop:
            raise InputError(f"{where}: volume {self.volume} with crop seen, crop = false wanted: a cut mesh is open")
        if (self.volume_cube and not self.volume) or (self.face_normals and not self.normals):
            raise InputError(f"{where}: volume_cube wants volume, face_normals wants normals")
        if not self.auc or not all(1 <= degrees <= 180 for degrees in self.auc):
            raise InputError(f"{where}: auc {self.auc} seen, degrees from 1 to 180 wanted")
        if not all(1 < factor <= 10 for factor in self.depth_deltas):
            raise InputError(f"{where}: depth_deltas {self.depth_deltas} seen, factors above 1 wanted")
        for share in self.confidence_curve:
            if not 0.01 <= share <= 1:
                raise InputError(f"{where}: confidence_curve {share} seen, 0.01 to 1 wanted")
        if not self.chamfer or not self.thresholds or min(self.thresholds) <= 0:
            raise InputError(f"{where}: chamfer and thresholds: a formula and a positive threshold at least wanted")
        if self.rank_metric not in metric_table(self):
            raise InputError(f"{where}: rank_metric {self.rank_metric!r} is not among its metrics")


MESH_METRICS: dict[str, tuple[str, Direction]] = {
    "mesh-watertight": ("ratio", "higher"),  # 1 or 0: every edge borders two faces
    "mesh-manifold": ("ratio", "higher"),  # 1 or 0: around every edge and vertex it is one surface
    "mesh-components": ("parts", "lower"),
    "mesh-degenerate": ("ratio", "lower"),  # share of the faces, without an area
    "mesh-intersecting": ("ratio", "lower"),  # share of the other faces, that intersect one
    "mesh-edge-spread": ("ratio", "lower"),  # standard deviation of the edges' lengths to their mean
    "mesh-turn": ("deg", "lower"),  # mean angle between neighbouring faces
    "mesh-laplacian": ("ratio", "lower"),  # mean distance of a vertex from its neighbours' mean, to the mean edge
    "mesh-aspect@4": ("ratio", "lower"),  # share of the faces of a larger aspect ratio
    "mesh-angle@10": ("ratio", "lower"),  # share of the faces with a smaller angle, degrees
}


def differing(first: Protocol, second: Protocol) -> list[str]:
    """The stages in which two protocols differ, in the order of the pipeline."""
    return [
        stage
        for stage, fields in STAGES.items()
        if any(getattr(first, field) != getattr(second, field) for field in fields)
    ]


def protocol_names() -> list[str]:
    """Every protocol that can be named."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.toml"))


def load_protocol(name: str) -> Protocol:
    """The protocol called `name`, or in the file `name`; InputError otherwise."""
    path = Path(name) if name.endswith(".toml") else PROTOCOLS / f"{name}.toml"
    try:
        protocol = msgspec.toml.decode(path.read_bytes(), type=Protocol)
    except OSError as error:
        known = ", ".join(protocol_names())
        raise InputError(f"protocol {name!r} is not known; known: {known}, or the path of a .toml file") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    protocol.check(str(path))
    return protocol


def geometry_table(protocol: Protocol) -> dict[str, tuple[str, Direction]]:
    """The metrics of `metric_table` that need an aligned cloud."""
    unit = protocol.unit
    table: dict[str, tuple[str, Direction]] = {
        "accuracy": (unit, "lower"),
        completeness(protocol): (unit, "lower"),
        "completeness-given": (unit, "lower"),
    }
    if protocol.medians:
        table |= {"accuracy-median": (unit, "lower"), "completeness-median": (unit, "lower")}
    if protocol.normals:
        table["normal-consistency"] = ("ratio", "higher")
    table |= {f"chamfer-{name}": (f"{unit}²" if "sq" in name else unit, "lower") for name in protocol.chamfer}
    for threshold in protocol.thresholds:
        for name in ("precision", "recall", "fscore"):
            table[f"{name}@{protocol.label(threshold)}"] = ("ratio", "higher")
    if protocol.volume:
        table["volume-iou"] = ("ratio", "higher")
    return table | ({"emd": (unit, "lower")} if protocol.emd_draws else {})


def completeness(protocol: Protocol) -> str:
    """The id of the completeness over all of the truth that counts."""
    if protocol.given_only:
        return "completeness-given"
    return "completeness-visible" if protocol.observed_only else "completeness"


def metric_table(protocol: Protocol) -> dict[str, tuple[str, Direction]]:
    """Every metric id of `protocol`, in printing order: its unit ("%" of the diameter, "deg", "ratio") and direction.

    accuracy            mean distance, prediction to truth (to its mesh where the truth is one and is taken whole)
    completeness-*      mean distance, truth to prediction, over the surface seen by the truth's cameras (visible) or by
                        the views that the trial gave (given); completeness: over the whole truth
    chamfer-*           of accuracy and completeness, by formula: see metrics.chamfer; squares in squared units
    precision, recall   share of predicted (true, visible) points within the threshold; fscore: their harmonic mean
    emd                 mean distance of the cheapest bijection between equally many points of both sides
    rotation, translation, auc@*, centre-rmse           see metrics.cameras
    scale-error         of systems that claim metric scale: max(s, 1 / s) - 1 of s, predicted lengths over true ones
    depth-absrel, depth-delta@*, depth-coverage         see metrics.depth
    *-median            medians of the distances whose means are accuracy and completeness
    normal-consistency  see metrics.normals, unoriented
    points-*            pointmaps pixel by pixel: see metrics.scoring.pixels
    volume-iou          of the volumes that two watertight meshes enclose: see metrics.volume
    mesh-*              of a predicted mesh by itself: MESH_METRICS, see metrics.mesh
    psnr, ssim, lpips   of renderings at the cameras of views held back, mean over them: see metrics.image
    """
    table = geometry_table(protocol)
    table["rotation"] = table["translation"] = ("deg", "lower")
    for degrees in protocol.auc:
        table[f"auc@{degrees}"] = ("ratio", "higher")
    table["centre-rmse"] = ("%", "lower")
    table["scale-error"] = ("ratio", "lower")
    table["depth-absrel"] = ("ratio", "lower")
    table |= {f"depth-delta@{factor:g}": ("ratio", "higher") for factor in protocol.depth_deltas}
    table["depth-coverage"] = ("ratio", "higher")
    if protocol.pointmaps:
        table |= {"points-absrel": ("ratio", "lower"), "points-delta@1.03": ("ratio", "higher")}
    table |= MESH_METRICS if protocol.mesh else {}
    table |= {"psnr": ("dB", "higher"), "ssim": ("ratio", "higher"), "lpips": ("ratio", "lower")}
    return table
