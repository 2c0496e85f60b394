"""MapAnything: rays, depth and pose of each view and one metric scale, in one pass (Keetha et al., 2025)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np

from adapters.contract import F32, U8, Bools, Reconstruction, Views, shapes_of
from adapters.shared.network import IMAGENET_MEAN, IMAGENET_STD, NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, are_cameras, inverse
from adapters.shared.resize import Inputs, Placement, Size, place
from adapters.shared.torchvision import import_torchvision

PATCH = 14
SHAPES = {  # upstream's network images, in patches, by the width over the height that it takes each for
    0.486: (18, 37),
    0.567: (21, 37),
    0.649: (24, 37),
    0.757: (28, 37),
    1.0: (37, 37),
    1.321: (37, 28),
    1.542: (37, 24),
    1.762: (37, 21),
    2.056: (37, 18),
    3.083: (37, 12),
}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """MapAnything's predictions of N views (h, w), in metres."""

    points: F32  # (N, h, w, 3), in a world about that of the first camera; 0 where `shown` is false
    shown: Bools  # (N, h, w), neither ambiguous (the sky) nor at an edge
    confidence: F32  # (N, h, w), 1 + exp
    intrinsics: F32  # (N, 3, 3), those that the rays fit best: at the network's resolution, for integer pixel indices
    world_from_camera: F32  # (N, 4, 4)
    placements: tuple[Placement, ...]


class Adapter(NetworkAdapter):
    """Images alone, with what upstream's demo of that asks for: the dense head a view at a time, the mask of what is
    ambiguous, and edges (where both normals and depth leap) left out. The confidence filters nothing."""

    def build(self, config: dict[str, Any] | None) -> Any:
        """What the checkpoint's config.json says, or upstream's own configuration. Nothing is fetched."""
        import torch

        import_torchvision()
        from mapanything.models import MapAnything, init_model_from_config

        with mock.patch.object(torch.hub, "load", backbone):
            return MapAnything(**config) if config else init_model_from_config("mapanything", device="cpu")

    def prepare(self, views: Views) -> Inputs:
        """All photos cropped to one shape, that of upstream's ten which is nearest to their mean."""
        size = network_size(views.images)
        return Inputs.of((covering(image, size) for image in views.images), IMAGENET_MEAN, IMAGENET_STD)

    def infer(self, inputs: Inputs) -> Outputs:
        """One pass; on CUDA the trunk in bfloat16 (float16 where upstream finds none), its default, else in float32."""
        import torch

        predicted = self.network.infer(
            [{"img": torch.from_numpy(image)[None], "data_norm_type": ["dinov2"]} for image in inputs.images],
            memory_efficient_inference=True,
            minibatch_size=1,
            use_amp=self.device.startswith("cuda"),
            amp_dtype="bf16",
            apply_mask=True,
            mask_edges=True,
        )

        points, shown, confidence, K, poses = (
            to_numpy(torch.cat([view[name] for view in predicted]))
            for name in ("pts3d", "mask", "conf", "intrinsics", "camera_poses")
        )
        return Outputs(points, shown[..., 0] > 0, confidence, K, poses, inputs.placements)

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """Masked pixels give no point. A view whose camera is no camera is not registered."""
        points = np.where(outputs.shown[..., None], outputs.points, np.float32(np.nan))
        K, poses = outputs.intrinsics.astype(np.float64), inverse(outputs.world_from_camera)
        maps = Pointmaps(outputs.placements, tuple(points), tuple(outputs.confidence), K, poses, are_cameras(K, poses))
        return maps.reconstruction(views, "exp_confidence", "metric")


def backbone(repository: str, model: str, **options: Any) -> Any:
    """In the place of torch.hub.load: DINOv2 from the copy of its code that upstream holds, its parameters random.

    Those that would be fetched from the network are replaced by the checkpoint's all the same."""
    from mapanything.models.external.dinov2.hub import backbones

    return getattr(backbones, model)(pretrained=False)


def network_size(images: Sequence[U8]) -> Size:
    """The width and height, pixels, that stand for the photos' mean width over height."""
    mean = sum(shape[1] / shape[0] for shape in shapes_of(images)) / len(images)
    across, down = SHAPES[min(SHAPES, key=lambda shape: abs(shape - mean))]
    return across * PATCH, down * PATCH


def covering(image: U8, network: Size) -> tuple[U8, Placement]:
    """`image` (H, W, 3) resized until it just covers `network`, the rest cropped about the middle."""
    photo = np.array([image.shape[1], image.shape[0]])
    scale = (np.array(network) / photo).max() + 1e-8
    width, height = (int(side) for side in np.floor(photo * scale))
    corner = (-((width - network[0]) // 2), -((height - network[1]) // 2))
    return place(image, (width, height), corner, network, lanczos=bool(scale < 1))
