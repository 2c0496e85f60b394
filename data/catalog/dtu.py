"""DTU MVS 2014 (Jensen et al., CVPR 2014; Aanaes et al., IJCV 2016): objects under a structured-light scanner.

    ROOT/Rectified/scanN/rect_VVV_L_r5000.png or scanN_train/, VVV from 001, light L of 0..6 (3 is taken) or max
    ROOT/Calibration/cal18/pos_VVV.txt        projection matrix 3 x 4, millimetres to pixels of 1600 x 1200
    ROOT/Points/stl/stlNNN_total.ply          the scan
    ROOT/ObsMask/ObsMaskN_10.mat, PlaneN.mat  what was observed, and the table

Checked: jzhangbs/DTUeval-python@45b4fec eval.py:97-109 (ObsMask, BB, Res: voxel i of an axis is centred at BB + i Res;
what lies outside is not judged), :113 (the scan), :125-129 (points over the plane count); YoYo000/MVSNet@3ae2cb2
mvsnet/preprocess.py:241-303 (names, light 3 for evaluation). Projection matrices are split by RQ as the readers of IDR
and NeuS do (cv2.decomposeProjectionMatrix); their pixel centres are taken as whole numbers, OpenCV's, and
shifted by .5.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError
from scipy.linalg import rq
from scipy.ndimage import binary_dilation

from adapters.contract import F64, InputError
from data.catalog.shared.files import MIB, MOST_VALUES, read_bytes, read_cloud, read_matrix
from data.catalog.shared.layout import Capture, Layout, Observed, Photo, Subset
from data.catalog.shared.lens import Lens
from data.images import image_size

SIZE = (1600, 1200)
LIGHTS = ("3_r5000", "max")  # in order of preference
MOST_ON_A_SIDE = 160  # voxels of the observed region that are kept; the dataset has three times as many


def read(path: Path) -> Capture:
    """One scan."""
    path = path.resolve()
    match = re.fullmatch(r"scan(\d+)(_train)?", path.name)
    if match is None:
        raise InputError(f"{path}: folder {path.name} seen, ROOT/Rectified/scanN wanted")
    scan, root = int(match[1]), path.parent.parent
    light = next((light for light in LIGHTS if any(path.glob(f"rect_*_{light}.png"))), None)
    if light is None:
        raise InputError(f"{path}: no rect_*_{LIGHTS[0]}.png seen, at least one wanted")
    photos = []
    for image in sorted(path.glob(f"rect_*_{light}.png")):
        view = image.name.split("_")[1]
        K, pose = split_projection(read_matrix(root / "Calibration" / "cal18" / f"pos_{view}.txt", (3, 4)))
        width, height = image_size(image)
        # MVSNet's copies are cut and scaled, and have cameras of their own.
        lens = Lens.pinhole(K, SIZE).scaled((width, height), str(image))
        photos.append(Photo(f"rect_{view}", image, lens, pose))
    surface = read_cloud(root / "Points" / "stl" / f"stl{scan:03d}_total.ply")
    masks = root / "ObsMask"
    observed = read_observed(masks / f"ObsMask{scan}_10.mat", masks / f"Plane{scan}.mat", surface.points)
    size = observed.edge * np.array(observed.free.shape)
    return Capture(f"scan{scan}", photos, "scan", surface, crop=(observed.low, observed.low + size), observed=observed)


def split_projection(P: F64) -> tuple[F64, F64]:
    """Intrinsics (3, 3), pixel centres at .5, and `camera_from_world` (4, 4) of P = K [R | t], whatever its scale."""
    K, R = rq(P[:, :3])
    signs = np.diag(np.where(np.diag(K) < 0, -1.0, 1.0))
    K, R = K @ signs, signs @ R
    sign = 1.0
    if np.linalg.det(R) < 0:  # P is known up to its sign
        R, sign = -R, -1.0
    t = np.linalg.solve(K, sign * P[:, 3])
    K = K / K[2, 2]
    K[:2, 2] += 0.5
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, t
    return K, pose


def read_observed(mask: Path, plane: Path, points: F64) -> Observed:
    """ObsMask as free space round the scan, and its points over the plane as those that count."""
    values = _mat(mask, {"ObsMask": None, "BB": (2, 3), "Res": (1, 1)})
    observed, low = np.asarray(values["ObsMask"]) > 0, np.asarray(values["BB"][0], np.float64)
    edge = float(values["Res"][0, 0])
    if observed.ndim != 3 or not edge > 0 or not np.isfinite(low).all():
        raise InputError(f"{mask}: ObsMask {observed.shape}, Res {edge:g} seen, (X, Y, Z) and a positive size wanted")
    low = low - edge / 2  # BB is the centre of the first voxel
    step = max(-(-max(observed.shape) // MOST_ON_A_SIDE), 1)
    if step > 1:  # free where all of it is
        padded = np.pad(observed, [(0, -n % step) for n in observed.shape])
        x, y, z = (n // step for n in padded.shape)
        observed = np.asarray(padded.reshape(x, step, y, step, z, step).all(axis=(1, 3, 5)), np.bool_)
        edge *= step
    occupied = np.zeros(observed.shape, np.bool_)
    index = np.floor((points - low) / edge).astype(np.int64)
    inside = ((index >= 0) & (index < observed.shape)).all(axis=1)
    occupied[tuple(index[inside].T)] = True
    free = observed & ~binary_dilation(occupied, np.ones((3, 3, 3), np.bool_))
    a, b, c, d = np.asarray(_mat(plane, {"P": (4, 1)})["P"], np.float64).ravel()
    above = points @ np.array([a, b, c]) + d > 0
    if not above.any():
        raise InputError(f"{plane}: P: no point of the scan over the plane seen, some wanted")
    return Observed(free, low, edge, above)


def _mat(path: Path, wanted: dict[str, tuple[int, ...] | None]) -> dict[str, np.ndarray]:
    """Named arrays of a MATLAB file, of the shapes given; their sizes are looked at first."""
    read_bytes(path, 1024 * MIB)
    try:
        there = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        for name, shape in wanted.items():
            if name not in there:
                raise InputError(f"{path}: {name}: not there, it must be")
            stored, kind = there[name]
            if shape is not None and stored not in (shape, shape[::-1]):
                raise InputError(f"{path}: {name}: shape {stored} seen, {shape} wanted")
            if np.prod(stored, dtype=object) > MOST_VALUES or kind in ("cell", "struct", "object", "opaque", "unknown"):
                raise InputError(f"{path}: {name}: {kind} of shape {stored} seen, {MOST_VALUES} numbers at most wanted")
        values = loadmat(path, variable_names=list(wanted), matlab_compatible=False)
    except InputError:
        raise
    except (MatReadError, ValueError, TypeError, OSError, KeyError, IndexError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path}: not a readable MATLAB file ({error})") from error
    except Exception as error:  # its decoder raises zlib.error and more
        raise InputError(f"{path}: not a readable MATLAB file ({type(error).__name__}: {error})") from error
    return {name: np.asarray(values[name]) for name in wanted}


LAYOUT = Layout(
    name="dtu",
    title="DTU MVS 2014",
    page="https://roboimagedata.compute.dtu.dk/?page_id=36",
    licence="none stated: freely available, citation requested",
    licence_read="",
    download="Rectified.zip, Points.zip and SampleSet.zip (whose MVS Data/ has Calibration and ObsMask), in one ROOT",
    folder="ROOT/Rectified/scanN",
    truth="the structured-light scan; ObsMask says where a prediction is judged, the plane which points are asked for",
    checked=(
        "jzhangbs/DTUeval-python@45b4fec eval.py:97",
        "YoYo000/MVSNet@3ae2cb2 mvsnet/preprocess.py:241",
    ),
    read=read,
    metres=1e-3,
    subsets=(
        Subset("pixelnerf-3", "RegNeRF's and pixelNeRF's split: 25, 22, 28", rows=(25, 22, 28)),
        Subset("pixelnerf-6", "the same: 25, 22, 28, 40, 44, 48", rows=(25, 22, 28, 40, 44, 48)),
        Subset("pixelnerf-9", "the same, 9 views", rows=(25, 22, 28, 40, 44, 48, 0, 8, 13)),
        Subset("mvsnet-49", "YoYo000/MVSNet: the first 49 of 64", rows=tuple(range(49))),
    ),
    left_out="six of seven lights; MVSNet's resized cameras and depth maps",
)
