"""Truth that travels through an adapter's pixels: a stub in the network's place reads off where each pixel came from.

Every photo's colours are ramps: red and green say x and y, blue says which photo. The stub fits the map from the
network's pixels to the photo's over the whole image, to some hundredths of a pixel, and answers with the exact
geometry of a closed room as seen from there, in upstream's own format. Whatever an adapter and upstream's code around
the network then do wrong (a crop forgotten, x and y factors exchanged, half a pixel, a pose the other way round) shows
in the Reconstruction. A system's truth cameras are those that its network can express: the principal point in the
middle of the network image, which for integer pixel indices is half a pixel further.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adapters.contract import Cameras, ContractError, Reconstruction, Views
from adapters.shared.pointmaps import Pointmaps
from adapters.shared.resize import Placement
from data.images import read_image

AXES, MIDDLE = np.array([5.0, 4.0, 6.0]), np.array([0.4, -0.2, 1.5])  # the room: an ellipsoid around all cameras
DIAMETER = 12.0
LIMITS = {  # of errors, as `measure` gives them
    "points": 1e-4,
    "centres": 1e-4,
    "depth": 1e-3,  # interpolated between the network's pixels
    "pixels": 0.05,
    "intrinsics": 0.1,
    "degrees": 0.01,
}
# Landscape, portrait, square and odd photos: (width, height).
PHOTOS = ((640, 480), (480, 640), (500, 500), (803, 611))
# Larger than a network's image both ways: where a filter enlarges, its weights are few and round one way.
LARGE_PHOTOS = ((800, 600), (600, 800), (700, 700), (803, 611))
LOW = 25.0  # the least level; the largest is 230, so that no filter's overshoot is clipped
# Levels that red and green (rows) rise by over the photo's width and height (columns). Each rises along the other side
# as well: a resized image is rounded, and were its levels a step apart from pixel to pixel along one side alone, the
# rounding would shift slowly across the whole image and bend the fit (590 x 733: 1/4 pixel).
RISE = np.array([[202.0, 3.0], [3.0, 202.0]])
CENTRES = np.array([[0.3, 0.1, -0.2], [1.3, 0.3, 0.1], [-0.7, -0.3, 0.2], [0.5, 0.9, -0.4], [0.9, -0.8, 0.3]])
TARGETS = np.array([[0.4, 0.0, 7.0], [0.1, 0.2, 7.0], [0.6, -0.3, 7.0], [0.3, -0.2, 7.0], [0.2, 0.4, 7.0]])


def world_from_camera(index: int) -> NDArray[np.float64]:
    """(4, 4) pose of camera `index`; none is the identity."""
    z = TARGETS[index] - CENTRES[index]
    z /= np.linalg.norm(z)
    x = np.cross([0.05 * index, 1.0, 0.1], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    pose[:3, 3] = CENTRES[index]
    return pose


def photo(width: int, height: int, index: int) -> NDArray[np.uint8]:
    """(H, W, 3): the ramps of photo `index`, dithered, so that their mean over a patch is exact."""
    rng = np.random.default_rng([width, height, index])
    y, x = np.mgrid[:height, :width] + 0.5
    position = np.stack([x / width, y / height], axis=-1)
    ramps = np.concatenate([LOW + position @ RISE.T, np.full((height, width, 1), 30.0 + 40.0 * index)], axis=-1)
    return np.floor(ramps + rng.random(ramps.shape) * [1, 1, 0]).astype(np.uint8)


@dataclass(frozen=True)
class Seen:
    """What a network image shows: photo `index`, whose pixel is `affine` @ (u, v, 1), centres at half-integers."""

    index: int
    affine: NDArray[np.float64]  # (2, 3)
    shown: NDArray[np.bool_]  # (h, w), not padding


class PixelOracle:
    """Photos of the given sizes (width, height), and the room's geometry once a stub has looked at network images."""

    def __init__(
        self,
        *sizes: tuple[int, int],
        focal: tuple[float, float] = (450.0, 450.0),
        off_centre: tuple[float, float] = (0.0, 0.0),
        least: float = 5.0,
    ) -> None:
        self.sizes, self.least = sizes, least  # confidences run from `least` to 1 above it
        self.focal, self.off_centre = focal, off_centre  # of the truth cameras, in pixels of the network image
        images = tuple(photo(width, height, i) for i, (width, height) in enumerate(sizes))
        self.views = Views(images=images, names=tuple(f"{i:03d}" for i in range(len(images))))
        self.intrinsics = np.full((len(sizes), 3, 3), np.nan)  # at the photos' resolution, as `look` finds them
        self.poses = np.stack([world_from_camera(i) for i in range(len(sizes))])
        self.seen: dict[int, Seen] = {}

    def look(self, image: NDArray[np.floating]) -> Seen:
        """Read a network image (3, h, w) in [0, 1], and settle its truth camera."""
        levels = np.asarray(image, np.float64) * 255
        height, width = levels.shape[1:]
        index = int(np.round((np.median(levels[2]) - 30) / 40))
        shown = np.abs(levels[2] - (30 + 40 * index)) < 3
        v, u = np.nonzero(shown)
        # Filters renormalise at a border, which bends the ramps there.
        margin = 10
        inner = (u >= u.min() + margin) & (u <= u.max() - margin) & (v >= v.min() + margin) & (v <= v.max() - margin)
        u, v = u[inner], v[inner]
        there = np.stack([u + 0.5, v + 0.5, np.ones(len(u))], axis=1)
        shares = (levels[:2, v, u].T - LOW) @ np.linalg.inv(RISE.T)
        affine = np.linalg.lstsq(there, shares, rcond=None)[0].T * np.array(self.sizes[index])[:, None]
        assert np.abs([affine[0, 1], affine[1, 0]]).max() < 1e-2, f"photo {index} was turned or sheared: {affine}"
        K = self.network_intrinsics(height, width)
        scaling = affine[[0, 1], [0, 1]]
        self.intrinsics[index] = np.eye(3)
        self.intrinsics[index, [0, 1], [0, 1]] = scaling * self.focal
        self.intrinsics[index, :2, 2] = scaling * (K[:2, 2] + 0.5) + affine[:, 2]
        self.seen[index] = Seen(index, affine, shown)
        return self.seen[index]

    def look_at(self, images: NDArray[np.floating]) -> tuple[list[Seen], NDArray[np.float64], NDArray[np.float64]]:
        """`look` at each of N network images (N, 3, h, w); their poses (N, 4, 4) and intrinsics (N, 3, 3)."""
        observed = [self.look(image) for image in images]
        K = self.network_intrinsics(*images.shape[-2:])
        return (
            observed,
            np.stack([self.camera_from_world(s.index) for s in observed]),
            np.tile(K, (len(observed), 1, 1)),
        )

    def camera_from_world(self, index: int) -> NDArray[np.float64]:
        """(4, 4) truth pose."""
        return np.linalg.inv(self.poses[index])

    def network_intrinsics(self, height: int, width: int) -> NDArray[np.float64]:
        """(3, 3) truth camera of a network image, for integer pixel indices."""
        (fx, fy), (right, down) = self.focal, self.off_centre
        return np.array([[fx, 0, width / 2 + right], [0, fy, height / 2 + down], [0, 0, 1]])

    def points(self, observed: Seen, frame: int | None = None) -> NDArray[np.float64]:
        """(h, w, 3) truth at the pixels of a network image, in the world or in camera `frame`."""
        height, width = observed.shown.shape
        v, u = np.mgrid[:height, :width] + 0.5
        pixels = np.stack([u, v, np.ones(u.shape)], axis=-1) @ observed.affine.T
        points = self.at(observed.index, pixels.reshape(-1, 2)).reshape(height, width, 3)
        if frame is None:
            return points
        pose = self.camera_from_world(frame)
        return points @ pose[:3, :3].T + pose[:3, 3]

    def confidence(self, observed: Seen) -> NDArray[np.float64]:
        """(h, w): `least` + the share of the photo's width, so that it can be told where a confidence belongs."""
        u = np.arange(observed.shown.shape[1]) + 0.5
        row = self.least + (observed.affine[0, 0] * u + observed.affine[0, 2]) / self.sizes[observed.index][0]
        return np.tile(row, (observed.shown.shape[0], 1))

    def at(self, index: int, pixels: NDArray[np.floating]) -> NDArray[np.float64]:
        """(M, 3) truth: where the rays through `pixels` (M, 2) of photo `index` meet the room's wall."""
        K, pose = self.intrinsics[index], self.poses[index]
        rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(K).T @ pose[:3, :3].T
        a, b = rays / AXES, (pose[:3, 3] - MIDDLE) / AXES
        aa, ab, bb = (a * a).sum(axis=1), a @ b, b @ b - 1
        reach = (-ab + np.sqrt(ab**2 - aa * bb)) / aa
        return np.asarray(pose[:3, 3] + rays * reach[:, None])

    def check(self, result: Reconstruction, cleaned: bool = False, **limits: float) -> dict[str, float]:
        """Compare `result` with the truth, up to scale alone, and return what was seen; see `measure`."""
        measured = self.measure(result, cleaned)
        for name, observed in measured.items():
            limit = limits.get(name, LIMITS[name])
            assert observed <= limit, f"{name}: {observed:.2g} seen, at most {limit:.2g} wanted; {measured}"
        return measured

    def measure(self, result: Reconstruction, cleaned: bool = False) -> dict[str, float]:
        """Largest errors against the truth in the first camera's frame, up to scale alone.

        Points, centres and depth in diameters; pixels and intrinsics in the photos' pixels; rotations in degrees.
        Asserts what has no size: that colours and confidences stand with their points (`cleaned`: some of these may
        be 0), that each shown pixel has its point, that depth is where the crop is."""
        result.validate(self.views)
        assert result.frame == "first_camera" and result.cameras is not None and result.registered is not None
        assert result.view_index is not None and result.pixel is not None and result.depth is not None
        assert result.colors is not None and result.confidence is not None
        assert result.registered.all() and (np.diff(result.view_index) >= 0).all()
        first, points, pixels = self.camera_from_world(0), result.points.astype(np.float64), result.pixel
        rows = [np.flatnonzero(result.view_index == i) for i in range(len(self.views))]
        truth = np.concatenate([self.at(i, pixels[ours].astype(np.float64)) for i, ours in enumerate(rows)])
        truth = truth @ first[:3, :3].T + first[:3, 3]
        scale = (points * truth).sum() / (truth * truth).sum()
        measured = {
            "points": np.linalg.norm(points / scale - truth, axis=1).max() / DIAMETER,
            "pixels": 0.0,
            "depth": 0.0,
        }
        own = Cameras(result.cameras.intrinsics, result.cameras.camera_from_world.copy())
        assert np.abs(own.camera_from_world[0] - np.eye(4)).max() < 1e-6
        for i, (ours, image) in enumerate(zip(rows, self.views.images, strict=True)):
            v, u = np.nonzero(self.seen[i].shown)
            assert len(ours) == len(u), f"view {i}: {len(ours)} points, {len(u)} pixels that show the photo"
            there = np.stack([u + 0.5, v + 0.5, np.ones(len(u))], axis=1) @ self.seen[i].affine.T
            moved = np.abs(pixels[ours] - there).max()
            projected, _ = own.project(i, points[ours])
            measured["pixels"] = max(measured["pixels"], moved, np.abs(projected - pixels[ours]).max())
            measured["depth"] = max(measured["depth"], self._depth_error(i, result.depth[i] / scale))
            x, y = np.minimum(pixels[ours].astype(int), [image.shape[1] - 1, image.shape[0] - 1]).T
            assert (result.colors[ours] == image[y, x]).all(), f"view {i}: colours of other pixels"
            kept = result.confidence[ours] > 0
            assert cleaned or kept.all()
            off = np.abs(result.confidence[ours] - self.least - pixels[ours, 0] / image.shape[1])[kept]
            assert off.max() < 2e-3, f"view {i}: confidences of other pixels"
        own.camera_from_world[:, :3, 3] /= scale
        poses = np.stack([self.camera_from_world(i) for i in range(len(rows))]) @ self.poses[0]
        measured["intrinsics"] = np.abs(own.intrinsics - self.intrinsics).max()
        measured["centres"] = (
            np.linalg.norm(own.centres - Cameras(own.intrinsics, poses).centres, axis=1).max() / DIAMETER
        )
        between = np.einsum("nij,nkj->nik", own.camera_from_world[:, :3, :3], poses[:, :3, :3])
        # Half the Frobenius norm of R - I is sqrt(2) sin(angle / 2): exact where an arccosine is not.
        half = np.linalg.norm(between - np.eye(3), axis=(1, 2)) / np.sqrt(8)
        measured["degrees"] = np.degrees(2 * np.arcsin(np.minimum(half, 1))).max()
        return {name: float(observed) for name, observed in measured.items()}

    def _depth_error(self, index: int, depth: NDArray[np.floating]) -> float:
        """Largest error of a depth map at the photo's resolution, in diameters; it must be there where the crop is."""
        height, width = depth.shape
        observed = self.seen[index]
        y, x = np.mgrid[:height, :width] + 0.5
        u, v = (x - observed.affine[0, 2]) / observed.affine[0, 0], (y - observed.affine[1, 2]) / observed.affine[1, 1]
        # A crop may have been padded: what it shows ends before the network image does, and before the photo does.
        inside, outside = np.ones(u.shape, np.bool_), np.zeros(u.shape, np.bool_)
        for axis, at in enumerate((u, v)):
            showing = np.flatnonzero(observed.shown.any(axis=axis))
            first, behind = showing[0], showing[-1] + 1
            inside &= (at > first + 0.05) & (at < behind - 0.05)
            outside |= (at < first - 0.05) | (at > behind + 0.05)
        assert (depth[inside] > 0).all() and (depth[outside] == 0).all(), (
            f"view {index}: depth is not where the crop is"
        )
        pose = self.camera_from_world(index)
        truth = self.at(index, np.stack([x[inside], y[inside]], axis=1)) @ pose[2, :3] + pose[2, 3]
        return float(np.abs(depth[inside] - truth).max() / DIAMETER)


def saved_photos(views: Views, folder: Path) -> list[str]:
    """The paths of the images of `views`, written into `folder` under their names, for upstream's own loaders."""
    paths = [str(folder / f"{name}.png") for name in views.names]
    for path, image in zip(paths, views.images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def by_exif(folder: Path, views: Views) -> Views:
    """`views` written sideways with the EXIF tag that says so, and read as the harness reads photos: upright again."""
    images = []
    for name, image in zip(views.names, views.images, strict=True):
        exif = Image.Exif()
        exif[0x0112] = 6  # turned clockwise by a quarter to be seen upright
        Image.fromarray(np.rot90(image).copy()).save(folder / f"{name}.png", exif=exif)
        images.append(read_image(folder / f"{name}.png"))
    assert all((given == wanted).all() for given, wanted in zip(images, views.images, strict=True))
    return replace(views, images=tuple(images))


def _mutate_placement(change: Callable[[Placement], Placement]) -> Callable[[pytest.MonkeyPatch], None]:
    """Every Placement says what `change` makes of it."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        for method in ("pixels", "intrinsics", "restore"):
            true = getattr(Placement, method)

            def wrong(self: Placement, *arguments: Any, true: Any = true) -> Any:
                return true(change(self), *arguments)

            monkeypatch.setattr(Placement, method, wrong)

    return apply


def _half_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The principal point taken as it is, as though indices stood at pixel centres."""
    true = Placement.intrinsics

    def wrong(self: Placement, K: NDArray[np.float64]) -> NDArray[np.float64]:
        return true(self, K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])

    monkeypatch.setattr(Placement, "intrinsics", wrong)


def _poses_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Pointmaps.reconstruction

    def wrong(self: Pointmaps, views: Views, *kind_and_scale: str) -> Reconstruction:
        return true(replace(self, camera_from_world=np.linalg.inv(self.camera_from_world)), views, *kind_and_scale)

    monkeypatch.setattr(Pointmaps, "reconstruction", wrong)


SHOWN = (AssertionError, ContractError)  # how an error shows: in the geometry, or in what a result may hold
# Errors of the kinds that adapters make; with each of them the oracle must fail.
MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "half a pixel in the principal point": _half_a_pixel,
    "half a pixel in the crop": _mutate_placement(lambda p: replace(p, offset=(p.offset[0] + 0.5, p.offset[1] + 0.5))),
    "x and y factors exchanged": _mutate_placement(lambda p: replace(p, scale=(p.scale[1], p.scale[0]))),
    "crop forgotten": _mutate_placement(lambda p: replace(p, offset=(0.0, 0.0))),
    "poses the other way round": _poses_inverted,
}


def answer(adapter: Any, network: Any, oracle: PixelOracle) -> Any:
    """The adapter's result with `network` in the place of upstream's, on the oracle's photos."""
    adapter.network = network
    return adapter.predict(oracle.views)


def photo_sets(photos: Sequence[tuple[int, int]]) -> pytest.MarkDecorator:
    """`sizes`: photos of each kind alone, and a mixture."""
    landscape, portrait, square, odd = photos
    sets = {
        "landscape": [landscape] * 3,
        "portrait": [portrait] * 2,
        "square": [square],
        "odd": [odd] * 2,
        "mixed": [landscape, portrait, odd],
    }
    return pytest.mark.parametrize("sizes", sets.values(), ids=sets.keys())


_LANDSCAPE, _PORTRAIT, _SQUARE, _ODD = PHOTOS
one_view_and_pairs = pytest.mark.parametrize(
    "sizes",
    [[_LANDSCAPE], [_LANDSCAPE] * 2, [_PORTRAIT] * 2, [_SQUARE] * 2, [_ODD] * 2, [_LANDSCAPE, _PORTRAIT]],
    ids=["one view", "landscape", "portrait", "square", "odd", "mixed"],
)


class ThroughThePixels:
    """What the adapter of any network must pass; a subclass says how its stub is run, on which photos."""

    turned: Sequence[tuple[int, int]] = PHOTOS[1::-1]
    spoiled: Sequence[tuple[int, int]] = PHOTOS[:0:-2]  # photos on which every mutation shows
    harmless: Collection[str] = ()  # mutations of what the adapter does not do
    focal: tuple[float, float] = (450.0, 450.0)
    off_centre: tuple[float, float] = (0.0, 0.0)
    least: float = 5.0
    limits: Mapping[str, Any] = {}  # of `PixelOracle.check`

    def run(self, oracle: PixelOracle) -> Reconstruction:
        """The adapter's answer, its network answering with the oracle's geometry."""
        raise NotImplementedError

    def test_photos_that_the_harness_turned_upright_are_not_turned_again(self, tmp_path: Path) -> None:
        oracle = PixelOracle(*self.turned, focal=self.focal, off_centre=self.off_centre, least=self.least)
        oracle.views = by_exif(tmp_path, oracle.views)
        oracle.check(self.run(oracle), **self.limits)

    @pytest.mark.parametrize("mutation", MUTATIONS)
    def test_the_oracle_sees_an_adapter_s_error(self, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if mutation in self.harmless:
            pytest.skip("the adapter has nothing that this would spoil")
        oracle = PixelOracle(*self.spoiled, focal=self.focal, off_centre=self.off_centre, least=self.least)
        MUTATIONS[mutation](monkeypatch)
        with pytest.raises(SHOWN):
            oracle.check(self.run(oracle), **self.limits)


class WithAnyPrincipalPoint(ThroughThePixels):
    """The same of a network whose cameras may have their principal point anywhere."""

    @pytest.mark.parametrize("off_centre", [(0.0, 0.0), (20.0, -12.0)], ids=["centred", "off-centre"])
    @photo_sets(LARGE_PHOTOS)
    def test_known_geometry_comes_back_through_the_pixels(
        self, sizes: Sequence[tuple[int, int]], off_centre: tuple[float, float]
    ) -> None:
        oracle = PixelOracle(*sizes, focal=(470.0, 430.0), off_centre=off_centre, least=self.least)
        oracle.check(self.run(oracle), **self.limits)
