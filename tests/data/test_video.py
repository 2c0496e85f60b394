"""Frames from videos made here: which are taken, at which times, which way up."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from adapters.contract import InputError
from data.video import sharpest_frames, sharpness

WIDTH, HEIGHT, COUNT, RATE = 96, 64, 24, 12


def write_video(path: Path, sharp: set[int], ticks: Sequence[int] = range(COUNT)) -> None:
    """COUNT frames of noise, blurred but for those in `sharp`; the top left quarter's grey level is 5 x the index.
    `ticks`: when each is shown, 1/RATE seconds."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        for i in range(COUNT):
            noise = rng.uniform(40, 215, (HEIGHT, WIDTH))
            image = noise if i in sharp else gaussian_filter(noise, 3)
            image[: HEIGHT // 2, : WIDTH // 2] = 5 * i
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, 2).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = ticks[i], Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def corner_level(image: np.ndarray) -> int:
    return round(float(np.median(image[4:24, 4:40])) / 5)


def test_the_sharpest_of_each_span_is_taken(tmp_path: Path) -> None:
    sharp = {3, 7, 15, 23}
    write_video(tmp_path / "a.mp4", sharp)
    frames = list(sharpest_frames(tmp_path / "a.mp4", 4))  # spans of six frames
    assert [corner_level(frame.image) for frame in frames] == [3, 7, 15, 23]
    assert [frame.seconds for frame in frames] == pytest.approx([i / RATE for i in (3, 7, 15, 23)], abs=0.01)
    assert all(frame.image.shape == (HEIGHT, WIDTH, 3) for frame in frames)


def test_spans_are_of_time_where_the_rate_varies(tmp_path: Path) -> None:
    """Sixteen frames in the first 16/12 of a second, then eight that stand for 6/12 each: 64/12 s, four spans of 16."""
    ticks = [*range(16), *range(16, 64, 6)]
    write_video(tmp_path / "a.mkv", {5, 17, 20, 23}, ticks)
    frames = list(sharpest_frames(tmp_path / "a.mkv", 4))
    assert [corner_level(frame.image) for frame in frames] == [5, 17, 20, 23]
    assert [frame.seconds for frame in frames] == pytest.approx([ticks[i] / RATE for i in (5, 17, 20, 23)], abs=0.01)


def test_one_a_span_even_when_spans_outnumber_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", set())
    frames = list(sharpest_frames(tmp_path / "a.mp4", 500))
    assert [corner_level(frame.image) for frame in frames] == list(range(COUNT))
    assert len(list(sharpest_frames(tmp_path / "a.mp4", 1))) == 1


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_in_the_header_is_applied(tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    """ISO 14496-12, 8.3.2: the track header's matrix (a, b, u, c, d, v, x, y, w) in 16.16 fixed point;
    (0, 1, -1, 0) is what a phone held upright writes: show the frame turned clockwise."""
    write_video(tmp_path / "a.mp4", {0})
    plain = next(sharpest_frames(tmp_path / "a.mp4", 1)).image
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (v << 16 for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "b.mp4").write_bytes(data)
    turned = next(sharpest_frames(tmp_path / "b.mp4", 1)).image
    assert np.array_equal(turned, np.rot90(plain, turns))


def test_sharpness_falls_with_blur() -> None:
    noise = np.random.default_rng(0).uniform(0, 255, (200, 300))
    values = [sharpness(gaussian_filter(noise, s).astype(np.uint8)) for s in (0.0, 1.0, 2.0, 4.0)]
    assert values == sorted(values, reverse=True)
    assert sharpness(np.full((50, 50), 9, np.uint8)) == 0


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video at all" * 100)
    with pytest.raises(InputError, match="not a readable video"):
        next(sharpest_frames(tmp_path / "a.mp4", 3))
    with pytest.raises(InputError):
        next(sharpest_frames(tmp_path / "absent.mp4", 3))
