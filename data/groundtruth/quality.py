"""The quality card of a ground truth: what was measured, and the verdict that follows from it."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

FORMAT = 3
REGISTERED_GATE = 0.9  # share of the images in the one model
REPROJECTION_GATE = 1.0  # pixels, in images of up to REPROJECTION_SIDE; in proportion to the longer side beyond
REPROJECTION_SIDE = 1500  # pixels: the same photos read 0.53 at 960 a side and 0.93 at 1920, with poses equally good
SPLIT_MODEL = 0.1  # a further model of more than this share of the images (and of 3 at least) means the scene split
FEW_PHOTOS = 20  # below which more photos are the first advice
TRUSTED_REGISTERED = 0.95
TRUSTED_HALVES = 0.5  # share of each half's surface within 1% of the other's
TRUSTED_ERROR = 0.5  # % of the diameter, at most which the points may be expected to lie off the surface on average
TRUSTED_COVERAGE = 0.3  # share of the pixels with a confirmed depth
TRUSTED_DISTORTION = 1.0  # pixels, as below
# The points' mean distance from the exact surface over `error_predictor`, and how much that ratio varies: fitted by
# `python -m tests.benchmarks.bench_groundtruth` (docs/groundtruth.md has the scenes).
FACTOR, SPREAD = 0.94, 1.64
CONFIDENCE = 0.9  # of the interval FACTOR / SPREAD to FACTOR x SPREAD
DISTORTION_GATE = 0.5  # pixels at the corner that images may miss their pinhole camera by


class Halves(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two surfaces from disjoint views, even and odd, with the cameras of the whole."""

    views: tuple[int, int]
    within_1_percent: float  # share of both surfaces within 1% of the diameter of the other
    apart_percent: float | None  # mean distance of those parts across the surface, % of the diameter


class Predicted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the points of the truth lie off the real surface on average, in % of the diameter, predicted from what
    the photos alone give: an interval that should hold the mean distance in 90 of 100 scenes like the calibration's."""

    low_percent: float
    high_percent: float


def error_predictor(camera_error_percent: float, halves_apart_percent: float, coverage: float) -> float:
    """What the error of the points is proportional to: the cameras' error, which both halves share, and the distance
    between halves, divided by the root of the coverage, since a surface that is hard to match is matched badly in both
    halves alike. The form, the square root included, was chosen on the calibration scenes."""
    return math.hypot(camera_error_percent, halves_apart_percent) / math.sqrt(max(coverage, 1e-3))


def predicted_error(camera_error_percent: float, halves_apart_percent: float, coverage: float) -> Predicted:
    """The interval for the error of the points."""
    expected = FACTOR * error_predictor(camera_error_percent, halves_apart_percent, coverage)
    return Predicted(round(expected / SPREAD, 4), round(expected * SPREAD, 4))


class ExactError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The truth's own error against the exact scene: of the cameras after one similarity fitted to them alone, of the
    points in the frame that is fitted to the surface.

    Lengths in percent of the diameter. Accuracy is measured from the cloud to the mesh, completeness from the surface
    that the exact cameras see to the cloud."""

    centre_rmse_percent: float  # camera centres
    rotation_rmse_degrees: float
    focal_percent: float  # largest relative error of a focal length
    accuracy_percent: float  # mean distance
    accuracy_median_percent: float
    precision_1_percent: float  # share of the cloud within 1% of the mesh
    completeness_percent: float  # mean distance
    completeness_1_percent: float  # share of the visible surface within 1% of the cloud
    trusted_percent: float | None = None  # mean distance of the trusted points, by which the truth judges
    frame_percent: float | None = None  # mean shift of the surface that registration by cameras alone would leave


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the truth ranks as the exact surface does: graded predictions under both, by the F-score at 1%."""

    tau: float  # Kendall's, of the two rankings
    predictions: int
    perfect_fscore: float  # what the exact surface itself reads under the truth
    judged: float  # share of the exact surface that the truth can judge
    known: float | None  # share of the object's pixels that show trusted surface; null without masks


class Photo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of what was given, and what became of it."""

    file: str
    placed: bool
    why: str = ""  # it is not placed; of a placed one, what is odd about it


class Seconds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CPU seconds, child processes included."""

    sparse: float
    dense: float
    halves: float


class QualityCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`quality.json`. Null where a quantity was not measured; `notes` gives the reason."""

    format: int = FORMAT
    verdict: str  # trusted | usable | refused
    reasons: list[str]  # what keeps it from the next better verdict; empty when trusted
    notes: list[str]
    photos: list[Photo] = []  # every file of the folder by name; empty where a Scene was given
    groups: list[list[str]] = []  # the photos of each model, largest first, where there are several
    images: int
    registered: int  # in the largest model
    registered_share: float
    models: list[int]  # registered views of every model that COLMAP returned, largest first
    reprojection_px: float | None
    track_length: float | None  # mean views a point
    sparse_points: int
    camera_error_percent: float | None  # standard error of camera centres by bundle adjustment, RMS, % of the diameter
    distortion_px: float | None  # estimated lens distortion, at the worst corner
    undistorted: bool  # whether the scene's images were freed of it
    dense_by: str | None  # "stereo" (ours, CPU) or "patch_match_stereo" (COLMAP's, CUDA)
    dense_points: int | None
    dense_coverage: float | None  # share of the pixels (of the object's, where masks exist) with a confirmed depth
    fusion_median_percent: float | None = None  # % of the diameter, from COLMAP's fusion of the same maps to ours
    trusted_share: float | None = None  # of the truth's points: those that it judges by
    mesh_faces: int | None = None  # of `truth/colmap-mesh.ply`, where one was requested
    halves: Halves | None
    predicted: Predicted | None
    exact: ExactError | None
    fidelity: Fidelity | None = None  # where an exact surface is known
    diameter: float | None  # unit of length of the truth
    cpu_seconds: Seconds
    seed: int
    versions: dict[str, str]

    def write(self, path: Path) -> None:
        """Write as indented JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @staticmethod
    def read(path: Path) -> QualityCard:
        """Read what `write` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=QualityCard)


def judge(
    *,
    images: int,
    registered: int,
    models: list[int],
    reprojection_px: float | None,
    longer_side: int,
    distortion_left_px: float,
    coverage: float | None,
    halves: Halves | None,
    predicted: Predicted | None,
) -> tuple[str, list[str]]:
    """The verdict and its reasons. `distortion_left_px` is what remains in the images at the worst corner,
    `longer_side` that of the largest image, pixels.

    Refused: no model, several, fewer than 90% of the images in it, or a mean reprojection error of a pixel or more, in
    proportion to the image beyond 1500 pixels.
    Trusted: beyond that, nearly all images, a dense surface of which two halves of the views show largely the same, and
    a mean error that is predicted to stay small. A low reprojection error alone earns no trust: a warped solution has
    one too."""
    refused, doubts = [], []
    limit = REPROJECTION_GATE * max(1.0, longer_side / REPROJECTION_SIDE)
    share = registered / images
    if not models:
        refused.append(f"no model found among {images} images")
    else:
        if share < REGISTERED_GATE:
            refused.append(f"{registered} of {images} images registered, at least {REGISTERED_GATE:.0%} wanted")
        if further := [size for size in models[1:] if size >= max(3, SPLIT_MODEL * images)]:
            refused.append(f"the scene split into models of {', '.join(map(str, [models[0], *further]))} images")
        if reprojection_px is None or not reprojection_px < limit:
            refused.append(f"reprojection error {reprojection_px:.2f} px, less than {limit:.3g} px wanted")
        if registered == 2:
            doubts.append("two photos do not tell how far their cameras are off")
    if share < TRUSTED_REGISTERED:
        doubts.append(f"{registered} of {images} images registered, {TRUSTED_REGISTERED:.0%} wanted for trust")
    if distortion_left_px > TRUSTED_DISTORTION:
        doubts.append(f"images differ from their pinhole cameras by {distortion_left_px:.1f} px at the corners")
    if coverage is None:
        doubts.append("no dense surface was made")
    elif coverage < TRUSTED_COVERAGE:
        doubts.append(f"dense depth on {coverage:.0%} of the pixels, {TRUSTED_COVERAGE:.0%} wanted for trust")
    if halves is None:
        doubts.append("the agreement of two halves of the views is not known")
    else:
        if halves.within_1_percent < TRUSTED_HALVES:
            doubts.append(
                f"two halves of the views agree within 1% of the diameter on {halves.within_1_percent:.0%} of the "
                f"surface, {TRUSTED_HALVES:.0%} wanted for trust"
            )
    if predicted is not None and predicted.high_percent > TRUSTED_ERROR:
        doubts.append(
            f"points may lie {predicted.high_percent:.2f}% of the diameter off the surface on average, at most "
            f"{TRUSTED_ERROR:g}% wanted for trust"
        )
    if refused:
        return "refused", refused
    return ("usable", doubts) if doubts else ("trusted", [])


def advice(card: QualityCard) -> list[str]:
    """What would help a refused ground truth, in sentences; none for any other."""
    if card.verdict != "refused":
        return []
    further = [size for size in card.models[1:] if size >= 2]
    out = []
    if card.images < FEW_PHOTOS:
        out.append(f"{card.images} photos are few: 20 to 60 round the subject are usual")
    if further:
        out.append("what would help: photos from between the groups; --keep-largest goes on with the largest alone")
    if card.registered < card.images:
        out.append(
            "what would help: photos that overlap more, each sharing about three quarters of its picture with the next "
            "(10 to 15 degrees between them), sharp, at full size, of a subject with texture or on a patterned ground"
        )
    if card.reprojection_px is not None and card.registered == card.images and not further:
        out.append("what would help: one lens and zoom for all photos, and a subject that does not move")
    return out
