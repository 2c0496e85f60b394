"""Peak memory of many large photos with full depth: `python -m tests.benchmarks.bench_memory`.

    --photos 200 --size 4000x3000, or the frames of a video: --photos 600 --size 640x480

A ball under a ring of cameras, whose photos and depth maps are all alike, so that they are quickly made. Its truth is
a measured one with a depth map a view; an adapter that looks at one photo after the other, as systems that stream do,
returns a depth map of each, made as it is asked for. `run` takes one trial through worker, store and scoring. Printed
are the peaks of resident memory of the command, of its worker, and of all processes together."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from bench.systems.measure import growth, hardware
from bench.trials.store import Store
from data.scene import CameraFile, SceneFile, TruthFile, ViewFile, write_scene, write_truth
from data.synthetic.rig import look_at
from metrics.scoring.truth import Knowledge

DISTANCE = 4.0  # of the cameras from a ball of radius 1
UNIT = 1e-4
ADAPTER = """
import numpy as np
from adapters.contract import OnDemand, Reconstruction, Reconstructor, shapes_of

class Adapter(Reconstructor):
    def stream(self, inputs):
        for image in inputs.images:
            yield image.mean()

    def finish(self, outputs, inputs):
        height, width = shapes_of(inputs.images)[0][:2]
        f, (cx, cy) = inputs.cameras.intrinsics[0, 0, 0], inputs.cameras.intrinsics[0, :2, 2]
        x, y = (np.arange(width) + 0.5 - cx) / f, (np.arange(height)[:, None] + 0.5 - cy) / f
        a = (1 + x * x + y * y).astype(np.float32)
        inside = 16 - 15 * a
        depth = np.where(inside > 0, (4 - np.sqrt(np.maximum(inside, 0))) / a, 0).astype(np.float32)
        depth = np.round(depth * 100) / np.float32(100)  # packs quickly
        points = np.random.default_rng(0).normal(size=(200_000, 3))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        return Reconstruction(
            points=points.astype(np.float32), frame="world", scale="metric", cameras=inputs.cameras,
            registered=np.ones(len(inputs), np.bool_),
            depth=OnDemand([(height, width)] * len(inputs), lambda i: depth.copy()),
        )
"""
CARD = """name = "depth-of-a-ball"
title = "Depth of a ball"
licence_code = "Apache-2.0"
scope = "scene"
accepts = ["cameras"]
requires = ["cameras"]
streams = true
"""


def make_scene(path: Path, photos: int, width: int, height: int) -> None:
    """Write the scene with a measured truth."""
    focal = float(width)
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (np.arange(height)[:, None] + 0.5 - height / 2) / focal
    a = 1 + x * x + y * y
    inside = 16 - 15 * a
    depth = np.where(inside > 0, (DISTANCE - np.sqrt(np.maximum(inside, 0))) / a, 0)
    for folder in ("images", "truth/colmap/depth"):
        (path / folder).mkdir(parents=True)
    ramp = np.broadcast_to(np.arange(width) * 255 // width, (height, width))
    Image.fromarray(np.stack([ramp, ramp, 255 - ramp], axis=-1).astype(np.uint8)).save(path / "photo.jpg")
    Image.fromarray(np.round(depth / UNIT).astype(np.uint16)).save(path / "depth.png", compress_level=1)
    views, cameras = [], []
    for i in range(photos):
        name, angle = f"{i:03d}", 2 * np.pi * i / photos
        for source, target in (
            ("photo.jpg", f"images/{name}.jpg"),
            ("depth.png", f"truth/colmap/depth/{name}.png"),
        ):
            os.link(path / source, path / target)
        pose = look_at(DISTANCE * np.array([np.cos(angle), np.sin(angle), 0.0]), np.zeros(3))
        views.append(ViewFile(name, f"images/{name}.jpg"))
        cameras.append(CameraFile(name, width, height, focal, focal, width / 2, height / 2, pose.tolist()))
    for source in ("photo.jpg", "depth.png"):
        (path / source).unlink()
    write_scene(path, SceneFile(name="ball", title="Ball", licence="CC0-1.0", source="made", views=views))
    normals = np.random.default_rng(1).normal(size=(50_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = normals.astype(np.float32)
    edge = 0.02
    axis = (np.arange(150) + 0.5) * edge - 1.5
    free = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) > 1 + 2 * edge
    truth = TruthFile(kind="colmap", made_by=[], diameter=2.0, depth_unit=UNIT, frame="colmap")
    known = Knowledge(np.ones(len(points), np.bool_), free, np.full(3, -1.5), edge, 0.002)
    write_truth(path, truth, cameras, points={"points": points, "normals": points}, knowledge=known)


def peaks(command: list[str]) -> tuple[int, int, int, float]:
    """Peak bytes of the command alone, of its children, and of all together; and seconds."""
    began, host, children, whole = time.monotonic(), 0, 0, 0
    with subprocess.Popen(command) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            own = below = 0
            with contextlib.suppress(psutil.Error):
                own = watched.memory_info().rss
                for child in watched.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        below += child.memory_info().rss
            host, children, whole = max(host, own), max(children, below), max(whole, own + below)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    return host, children, whole, time.monotonic() - began


def main() -> None:
    """Make the scene, run the trial, print a row of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--size", default="4000x3000")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    folder = Path(tempfile.mkdtemp(prefix="bench-memory-"))
    try:
        make_scene(folder / "ball", arguments.photos, width, height)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter.toml").write_text(CARD)
        (folder / "adapter" / "adapter.py").write_text(ADAPTER)
        words = ["run", "--adapters", str(folder / "adapter"), "--scenes", str(folder / "ball"), "--truth", "colmap"]
        words += ["--views", str(arguments.photos), "--repeats", "0", "--warmups", "0", "--deadline", "7200"]
        run = [sys.executable, "-c", "import sys; from bench.cli import main; main(sys.argv[1:])", *words]
        host, worker, whole, seconds = peaks([*run, "--store", str(folder / "store")])
        store = Store(folder / "store")
        (record,), (score,) = store.trials(), store.scores()
        read = {value.metric: value.value for value in score.values}
        disk = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file()) / 1e6
        print(f"{hardware()}: {record.status} {record.message}; {read}; {disk:.0f} MB of store")
        counts = " | ".join(f"{number / 2**20:,.0f}" for number in (host, worker, whole))
        frames = record.frame_seconds
        print(f"whole {sum(frames):.2f} s, last frame {1e3 * frames[-1]:.1f} ms, growth {growth(frames):.2f}")
        print(f"| {arguments.photos} | {arguments.size} | {counts} | {seconds:.0f} |")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
