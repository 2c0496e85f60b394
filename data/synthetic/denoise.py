"""Intel's Open Image Denoise through its C interface: noise leaves the light, texture stays.

The library is found by name (Debian: libopenimagedenoise1) or by the path in OIDN_LIBRARY. It is guided by the nearly
noise-free albedo and normals of the first hit, so that detail painted on a surface is kept.
"""

from __future__ import annotations

import ctypes
import os
from ctypes.util import find_library

import numpy as np

from adapters.contract import F32

_FLOAT3 = 3  # OIDN_FORMAT_FLOAT3


class Denoiser:
    """A denoiser of HDR pictures, all of one size."""

    def __init__(self, height: int, width: int) -> None:
        """Raises OSError where the library is absent or has no device."""
        path = os.environ.get("OIDN_LIBRARY") or find_library("OpenImageDenoise")
        if path is None:
            raise OSError("Open Image Denoise is not installed: Debian's libopenimagedenoise1 or OIDN_LIBRARY wanted")
        lib = ctypes.CDLL(path)
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        lib.oidnNewDevice.restype = lib.oidnNewFilter.restype = pointer
        lib.oidnNewDevice.argtypes = [ctypes.c_int]
        lib.oidnNewFilter.argtypes = [pointer, text]
        sizes = (ctypes.c_size_t,) * 5
        lib.oidnSetSharedFilterImage.argtypes = (pointer, text, pointer, ctypes.c_int, *sizes)
        lib.oidnSetFilter1b.argtypes = [pointer, text, ctypes.c_bool]
        for name in ("oidnCommitDevice", "oidnCommitFilter", "oidnExecuteFilter"):
            getattr(lib, name).argtypes = [pointer]
        lib.oidnGetDeviceError.argtypes = [pointer, ctypes.POINTER(text)]
        lib.oidnGetDeviceError.restype = ctypes.c_int
        self._lib, self._device = lib, lib.oidnNewDevice(1)  # OIDN_DEVICE_TYPE_CPU
        if not self._device:
            raise OSError("Open Image Denoise: no CPU device")
        lib.oidnCommitDevice(self._device)
        images = ("color", "albedo", "normal", "output")
        self._buffers = {name: np.zeros((height, width, 3), np.float32) for name in images}
        self._filter = ctypes.c_void_p(lib.oidnNewFilter(self._device, b"RT"))
        for name, buffer in self._buffers.items():
            data = buffer.ctypes.data_as(ctypes.c_void_p)
            lib.oidnSetSharedFilterImage(self._filter, name.encode(), data, _FLOAT3, width, height, 0, 0, 0)
        for flag in (b"hdr", b"cleanAux"):
            lib.oidnSetFilter1b(self._filter, flag, True)
        lib.oidnCommitFilter(self._filter)

    def __call__(self, colour: F32, albedo: F32, normal: F32) -> F32:
        """The cleaned `colour` (H, W, 3), linear; `albedo` in [0, 1] and `normal` in [-1, 1] have its shape."""
        for name, image in (("color", colour), ("albedo", albedo), ("normal", normal)):
            self._buffers[name][:] = image
        self._lib.oidnExecuteFilter(self._filter)
        message = ctypes.c_char_p()
        if self._lib.oidnGetDeviceError(self._device, ctypes.byref(message)):
            raise OSError(f"Open Image Denoise: {(message.value or b'').decode()}")
        return self._buffers["output"].copy()
