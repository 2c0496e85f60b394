"""`python -m tests.benchmarks.orbit_video SCENE_DIR OUT.mp4`: a scene's photographs, in order, as a video.

With a level ring (`python -m data.synthetic elephant --out ring --views 60 --wide-views 0 --elevation 28`) it is the
clip of a walk round the object, whose exact cameras and surface are known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
from PIL import Image

from data.scene import Scene

FRAMES_A_SECOND = 12


def write_video(scene: Scene, out: Path) -> None:
    """H.264, nearly without loss, of photographs of one size, cut to even sides as the codec wants them."""
    images = [Image.open(scene.path / view.image).convert("RGB") for view in scene.file.views]
    width, height = images[0].width // 2 * 2, images[0].height // 2 * 2
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_A_SECOND, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image.crop((0, 0, width, height)))))
        container.mux(stream.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_video(Scene.open(options.scene), options.out)
