"""Photos from a video: the sharpest frame of each of N equal spans of time, upright."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace

from adapters.contract import U8, InputError

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm")
SHARPNESS_SIDE = 480  # pixels: frames are brought down to this for sharpness, so that noise does not count as detail


@dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    image: U8  # (H, W, 3) sRGB, upright, at full resolution
    seconds: float  # since the start of the video
    sharpness: float  # variance of the Laplacian, grey levels squared


def sharpness(grey: U8) -> float:
    """Variance of the Laplacian of (H, W) uint8 `grey`, grey levels squared (Pech-Pacheco et al., ICPR 2000)."""
    shrunk = Image.fromarray(grey)
    shrunk.thumbnail((SHARPNESS_SIDE, SHARPNESS_SIDE), Image.Resampling.BOX)
    return float(laplace(np.asarray(shrunk, np.float32)).var())


def sharpest_frames(path: Path, count: int) -> Iterator[Frame]:
    """The sharpest frame of each of `count` equal spans of the video's time, in order; a span without a frame gives
    none. One frame is held at a time. Raises InputError where `path` is no readable video."""
    if count < 1:
        raise ValueError(f"count: {count} seen, at least 1 wanted")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: no video stream seen, one wanted")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            base = float(stream.time_base or 1)
            start = (stream.start_time or 0) * base
            duration = _duration(container, stream, base)
            best: tuple[int, float, av.VideoFrame] | None = None
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                span = min(int((frame.time - start) / duration * count), count - 1)
                score = sharpness(_grey(frame))
                if best is not None and best[0] != span:
                    yield _read(best[2], start, best[1])
                    best = None
                if best is None or score > best[1]:
                    best = (span, score, frame)
            if best is None:
                raise InputError(f"{path}: no frame seen, at least one wanted")
            yield _read(best[2], start, best[1])
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: not a readable video ({error})") from error


def _duration(container: av.container.InputContainer, stream: av.VideoStream, base: float) -> float:
    """Seconds of video; from the packets' times where no header states it."""
    if stream.duration:
        return stream.duration * base
    if container.duration:
        return float(container.duration) / av.time_base
    times = [packet.pts * base for packet in container.demux(stream) if packet.pts is not None]
    container.seek(0)
    return max(times) - min(times) + 1e-6 if times else 1.0


def _grey(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return np.asarray(frame.to_ndarray(format="gray"), np.uint8)


def _read(frame: av.VideoFrame, start: float, score: float) -> Frame:
    """Decode to RGB and turn upright by the rotation that the container states."""
    image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return Frame(np.ascontiguousarray(image, np.uint8), float(frame.time or 0.0) - start, score)
