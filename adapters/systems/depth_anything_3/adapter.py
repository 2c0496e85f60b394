"""Depth Anything 3: depth and cameras of all views in one pass, run by its own network."""

from __future__ import annotations

from typing import Any

import numpy as np

from adapters.contract import U8, Reconstruction, Views
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD, NetworkAdapter, to_numpy
from adapters.shared.pointmaps import PosedDepth
from adapters.shared.resize import Inputs, Placement, Size

SIDE, PATCH = 504, 14


class Adapter(NetworkAdapter):
    def build(self, config: dict[str, Any] | None) -> Any:
        """The large network, as upstream's configuration has it."""
        import torch
        from depth_anything_3.cfg import create_object, load_config
        from depth_anything_3.registry import MODEL_REGISTRY

        # Checkpoints are of a class that holds the network under this name.
        return torch.nn.ModuleDict({"model": create_object(load_config(MODEL_REGISTRY["da3-large"]))})

    def prepare(self, views: Views) -> Inputs:
        placements = placements_of([(image.shape[1], image.shape[0]) for image in views.images])
        images = (fit(image, place) for image, place in zip(views.images, placements))  # noqa: B905 - Python 3.9
        return Inputs.of(zip(images, placements), IMAGENET_MEAN, IMAGENET_STD)  # noqa: B905 - Python 3.9

    def infer(self, inputs: Inputs) -> PosedDepth:
        """One pass; on CUDA the trunk in bfloat16 (float16 before Ampere), as upstream has it, else in float32."""
        with self.inference():
            predicted = self.network["model"](self.batch(inputs)[None])
        names = ("extrinsics", "intrinsics", "depth", "depth_conf")
        poses, K, depth, confidence = (to_numpy(predicted[name][0]) for name in names)
        return PosedDepth(poses, K, depth, confidence, inputs.placements)

    def finish(self, outputs: PosedDepth, views: Views) -> Reconstruction:
        """The confidence is 1 + exp of the network's."""
        return outputs.pointmaps().reconstruction(views, "exp_confidence")


def placements_of(photos: list[Size]) -> tuple[Placement, ...]:
    """Where photos (width, height) lie: each whole at its own size, then the middle that all have room for."""
    sizes = [tuple(nearest_multiple(side) for side in longest_at(photo)) for photo in photos]
    network = (min(width for width, _ in sizes), min(height for _, height in sizes))
    return tuple(
        Placement(
            photo,
            network,
            (size[0] / photo[0], size[1] / photo[1]),
            (-float((size[0] - network[0]) // 2), -float((size[1] - network[1]) // 2)),
        )
        for photo, size in zip(photos, sizes)  # noqa: B905 - Python 3.9
    )


def longest_at(photo: Size) -> Size:
    """The size of a photo whose longer side is brought to 504."""
    scale = SIDE / float(max(photo))
    return max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))


def nearest_multiple(side: int) -> int:
    """Of 14; from the middle between two upwards."""
    return max(1, (side + PATCH // 2) // PATCH * PATCH)


def fit(image: U8, place: Placement) -> U8:
    """`image` (H, W, 3) as `place` has it, resized in upstream's two steps: to the longer side, then to multiples."""
    import cv2

    whole = (round(place.photo[0] * place.scale[0]), round(place.photo[1] * place.scale[1]))
    for size in (longest_at(place.photo), whole):
        now = (image.shape[1], image.shape[0])
        if size != now:
            larger = size[0] > now[0] or size[1] > now[1]
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA))
    left, top = round(-place.offset[0]), round(-place.offset[1])
    return image[top : top + place.network[1], left : left + place.network[0]]
