"""`python -m tests.benchmarks.orbit_video SCENE_DIR OUT.mp4`: a scene's photographs as a video of a walk round it.

The photographs of its commonest lens, in the order of their directions where exact cameras give these, each held for
four frames, of which three are blurred as a moving hand blurs them. A level ring for it, with its exact surface:

    python -m data.synthetic elephant --out ring --views 60 --wide-views 0 --elevation 28
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFilter

from data.scene import Scene

FRAMES_A_SECOND = 12
HELD = (2.0, 0.0, 2.0, 2.0)  # pixels of blur of the frames of one photograph


def walk(scene: Scene) -> list[str]:
    """The views of the commonest lens, by the angle at which their cameras stand."""
    lens = Counter(view.group for view in scene.file.views).most_common(1)[0][0]
    names = [view.name for view in scene.file.views if view.group == lens]
    if "exact" not in scene.truth_kinds:
        return names
    truth = scene.truth("exact")
    offsets = truth.cameras.centres - truth.points.mean(axis=0)
    angle = dict(zip(truth.view_names, np.arctan2(offsets[:, 1], offsets[:, 0]).tolist(), strict=True))
    return sorted(names, key=lambda name: angle.get(name, 0.0))


def write_video(scene: Scene, out: Path) -> None:
    """H.264, nearly without loss, of photographs of one size, cut to even sides as the codec wants them."""
    images = [Image.open(scene.image_path(name)).convert("RGB") for name in walk(scene)]
    width, height = images[0].width // 2 * 2, images[0].height // 2 * 2
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_A_SECOND, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            for radius in HELD:
                shown = image.crop((0, 0, width, height)).filter(ImageFilter.GaussianBlur(radius))
                container.mux(stream.encode(av.VideoFrame.from_image(shown)))
        container.mux(stream.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_video(Scene.open(options.scene), options.out)
