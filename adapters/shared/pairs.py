"""What DUSt3R and MASt3R share: the shape of their networks, their options, and the pairs of images.

Runs inside the environments of the systems under test: numpy and torch, Python 3.9 syntax.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from adapters.contract import Views
from adapters.shared.network import NetworkAdapter
from adapters.shared.resize import Inputs, place_longest

SIDE = 512  # pixels, the longer side of a network image
NETWORK: dict[str, Any] = {  # ViT-L encoder, base decoder; what upstream's classes are called with
    "depth_mode": ("exp", -float("inf"), float("inf")),
    "conf_mode": ("exp", 1, float("inf")),
    "landscape_only": False,
    "patch_embed_cls": "PatchEmbedDust3R",
    "pos_embed": "RoPE100",
    "img_size": (SIDE, SIDE),
    "enc_embed_dim": 1024,
    "enc_depth": 24,
    "enc_num_heads": 16,
    "dec_embed_dim": 768,
    "dec_depth": 12,
    "dec_num_heads": 12,
}


@dataclasses.dataclass(eq=False)
class PairAdapter(NetworkAdapter):
    """`scene_graph`: the pairs: "complete", "swin-N", "logwin-N", "oneref-I" (append -noncyclic to a window);
    `iterations` of the alignment; `clean` doubts points that stand before another view's surface; `square_ok` keeps
    square photos square, which upstream crops to 4:3. Defaults are those of upstream's demo."""

    casts: ClassVar[bool] = False
    attends: ClassVar[str] = "softmax of the products, written out"  # CroCo's blocks
    scene_graph: str = "complete"
    iterations: int = 300
    clean: bool = True
    square_ok: bool = False

    def prepare(self, views: Views) -> Inputs:
        """Each photo at its own size, levels in [-1, 1]; a single one is there once."""
        return Inputs.of((place_longest(image, SIDE, square_ok=self.square_ok) for image in views.images), 0.5, 0.5)


def image_records(inputs: Inputs) -> list[dict[str, Any]]:
    """Upstream's records of the images, in order; a single one is there twice, to be paired with itself."""
    import torch

    count = len(inputs.images)
    return [
        {
            "img": torch.from_numpy(inputs.images[i % count])[None],
            "true_shape": np.array([inputs.images[i % count].shape[1:]], np.int32),
            "idx": i,
            "instance": str(i),
        }
        for i in range(max(count, 2))
    ]
