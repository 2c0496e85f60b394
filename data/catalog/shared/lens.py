"""Cameras that bend straight lines, and the pinhole ones that photos are resampled for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from adapters.contract import F32, F64, U8, Bools, InputError

PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
# Of COLMAP's models those whose first parameters are focal lengths and principal point, and the rest vanish when the
# lens is straight. Others (panoramas, division models) are refused.
STRAIGHT_WHEN_ZERO = ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
BENT = (*STRAIGHT_WHEN_ZERO, "OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FOV", "THIN_PRISM_FISHEYE")
SINGLE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


@dataclass(frozen=True)
class Lens:
    """One of COLMAP's camera models; parameters in its order, pixel centres at .5."""

    model: str
    size: tuple[int, int]  # width, height, pixels
    params: tuple[float, ...]

    @staticmethod
    def pinhole(K: NDArray[np.floating], size: tuple[int, int]) -> Lens:
        """Of intrinsics (3, 3); skew is not kept."""
        return Lens("PINHOLE", size, (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])))

    def straight(self) -> F64 | None:
        """Intrinsics (3, 3), or None where straight lines are bent."""
        first = 3 if self.model in SINGLE_FOCAL else 4
        if self.model not in PINHOLES and (self.model not in STRAIGHT_WHEN_ZERO or any(self.params[first:])):
            return None
        return self.intrinsics()

    def intrinsics(self) -> F64:
        """Focal lengths and principal point (3, 3), whatever else the lens does."""
        first = 3 if self.model in SINGLE_FOCAL else 4
        fx, fy = self.params[0], self.params[0 if first == 3 else 1]
        cx, cy = self.params[first - 2 : first]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def scaled(self, size: tuple[int, int], where: str) -> Lens:
        """The same lens for an image of another size; InputError where that has another shape."""
        if size == self.size:
            return self
        x, y = size[0] / self.size[0], size[1] / self.size[1]
        if abs(size[0] - self.size[0] * y) > 1.0 and abs(size[1] - self.size[1] * x) > 1.0:
            raise InputError(
                f"{where}: {size[0]} x {size[1]} pixels seen, the shape of its camera's "
                f"{self.size[0]} x {self.size[1]} wanted"
            )
        factors = [x, x, y] if self.model in SINGLE_FOCAL else [x, y, x, y]
        params = tuple(p * f for p, f in zip(self.params, factors, strict=False))
        return Lens(self.model, size, params + self.params[len(factors) :])

    def check(self, where: str) -> None:
        """InputError unless this is a camera that can be used."""
        if self.model not in (*PINHOLES, *BENT):
            raise InputError(f"{where}: camera model {self.model} seen, one of {', '.join((*PINHOLES, *BENT))} wanted")
        focal = self.params[: 1 if self.model in SINGLE_FOCAL else 2]
        if min(self.size) < 1 or not np.isfinite(self.params).all() or not min(focal, default=0) > 0:
            raise InputError(
                f"{where}: camera {self.model} of {self.size[0]} x {self.size[1]} pixels with parameters "
                f"{', '.join(f'{p:g}' for p in self.params)} seen, finite ones and a positive focal length wanted"
            )
        camera = _camera(self, where)
        if not camera.verify_params() or camera.has_bogus_params(0.01, 100.0, 1e6):
            raise InputError(
                f"{where}: parameters {', '.join(f'{p:g}' for p in self.params)} seen, what a camera of model "
                f"{self.model} has wanted ({camera.params_info})"
            )


@dataclass(frozen=True)
class Straightened:
    """A bent camera's pinhole counterpart, and where its pixels lie in the photo."""

    K: F64  # (3, 3)
    size: tuple[int, int]  # width, height
    source: tuple[int, int]  # width, height of the photo
    pixel: F64  # (H, W, 2) x and y in the photo, pixel centres at .5

    def image(self, photo: U8) -> U8:
        """(H, W, 3), bilinear; black outside of the photo."""
        x, y = self.pixel[..., 0] - 0.5, self.pixel[..., 1] - 0.5
        bands = [map_coordinates(photo[..., c].astype(np.float32), [y, x], order=1, mode="nearest") for c in range(3)]
        inside = (x >= -0.5) & (y >= -0.5) & (x < photo.shape[1] - 0.5) & (y < photo.shape[0] - 0.5)
        return np.asarray((np.stack(bands, axis=-1) * inside[..., None]).round().clip(0, 255), np.uint8)

    def nearest(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """(H, W) of a map (h, w) of the photo, of whatever size; 0 outside."""
        height, width = values.shape
        column = np.floor(self.pixel[..., 0] * (width / self.source[0])).astype(np.int64)
        row = np.floor(self.pixel[..., 1] * (height / self.source[1])).astype(np.int64)
        inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        result = values[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        return np.where(inside, result, np.zeros((), values.dtype))


def straighten(lens: Lens, where: str) -> Straightened:
    """The pinhole camera without blank pixels that COLMAP's undistortion takes."""
    bent = _camera(lens, where)
    pinhole = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), bent)
    K = np.asarray(pinhole.calibration_matrix(), np.float64)
    y, x = np.mgrid[: pinhole.height, : pinhole.width] + 0.5
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], axis=-1)
    pixel = np.asarray(bent.img_from_cam(rays.reshape(-1, 3)), np.float64).reshape(*x.shape, 2)
    return Straightened(K, (pinhole.width, pinhole.height), lens.size, np.nan_to_num(pixel, nan=-1.0))


def resampled(values: NDArray[np.generic], size: tuple[int, int], where: str) -> NDArray[np.generic]:
    """A map (h, w) at the pixel centres of an image of `size` (width, height) and the same shape, nearest value."""
    height, width = values.shape
    if (width, height) == size:
        return values
    if abs(width - size[0] * height / size[1]) > 1.0 and abs(height - size[1] * width / size[0]) > 1.0:
        raise InputError(f"{where}: {width} x {height} seen, the shape of its photo's {size[0]} x {size[1]} wanted")
    column = ((np.arange(size[0]) + 0.5) * (width / size[0])).astype(np.int64)
    row = ((np.arange(size[1]) + 0.5) * (height / size[1])).astype(np.int64)
    return values[np.ix_(row, column)]


def points_of(
    depth: F32, K: F64, camera_from_world: F64, most: int
) -> tuple[F64, NDArray[np.int64], NDArray[np.int64]]:
    """(M, 3) points in the world of the pixels of a z-depth map (H, W) that have a depth, with their rows and columns;
    of more than `most` as many at random, but always the same."""
    rows, columns = np.nonzero(depth)
    if len(rows) > most:
        some = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
        rows, columns = rows[some], columns[some]
    z = depth[rows, columns].astype(np.float64)
    x = (columns + 0.5 - K[0, 2]) / K[0, 0] * z
    y = (rows + 0.5 - K[1, 2]) / K[1, 1] * z
    local = np.stack([x, y, z], axis=1) - camera_from_world[:3, 3]
    return local @ camera_from_world[:3, :3], rows, columns


def as_depth(values: NDArray[np.generic]) -> F32:
    """float32, 0 where nothing was measured."""
    depth = np.asarray(values, np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def as_mask(values: NDArray[np.generic]) -> Bools:
    return np.asarray(values, np.bool_)


def _camera(lens: Lens, where: str) -> pycolmap.Camera:
    try:
        camera = pycolmap.Camera(model=lens.model, width=lens.size[0], height=lens.size[1], params=list(lens.params))
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{where}: camera {lens.model}: {' '.join(str(error).split())[:200]}") from error
    return camera
