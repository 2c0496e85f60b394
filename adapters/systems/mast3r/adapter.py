"""MASt3R: pointmaps and matches of image pairs (Leroy et al., ECCV 2024), aligned by its own MASt3R-SfM (3DV 2025)."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any

import numpy as np

from adapters.contract import Reconstruction, Views
from adapters.shared.network import to_numpy
from adapters.shared.pairs import NETWORK, PairAdapter, image_records
from adapters.shared.pointmaps import Pointmaps, are_cameras, inverse
from adapters.shared.resize import Inputs
from adapters.shared.torchvision import import_torchvision


@dataclasses.dataclass(eq=False)
class Adapter(PairAdapter):
    """One view is paired with itself, as in upstream's demo, but not refined.

    Beside the options of every network of pairs: `refinements` of the matched points' reprojections after their
    alignment (0: upstream's "coarse"), which move depths too with `refine_depth`; `shared_intrinsics`: one camera took
    all photos."""

    refinements: int = 300
    refine_depth: bool = True
    shared_intrinsics: bool = False

    def build(self, config: dict[str, Any] | None) -> Any:
        """ViT-L encoder, base decoder, DPT and descriptor heads, 512 px."""
        import_torchvision()
        from mast3r.model import AsymmetricMASt3R

        return AsymmetricMASt3R(
            output_mode="pts3d+desc24",
            head_type="catmlp+dpt",
            two_confs=True,
            desc_conf_mode=("exp", 0, float("inf")),
            **NETWORK,
        )

    def infer(self, inputs: Inputs) -> Pointmaps:
        """All pairs through the network, their matches, then the alignment; a point for every pixel."""
        from mast3r.cloud_opt.sparse_ga import sparse_global_alignment
        from mast3r.image_pairs import make_pairs

        count = len(inputs.images)
        images = image_records(inputs)
        pairs = make_pairs(images, scene_graph=self.scene_graph, prefilter=None, symmetrize=True)
        # Upstream keeps every pair in files and asks no network about one that it finds there: each call has its own.
        # A worker's working folder goes with it, also where it is killed.
        with tempfile.TemporaryDirectory(dir=".") as cache:
            scene = sparse_global_alignment(
                [image["instance"] for image in images],
                pairs,
                cache,
                self.network,
                device=self.device,
                lr1=0.07,
                niter1=self.iterations,
                lr2=0.01,
                # Against itself a view has no parallax: reprojections would let its focal length go anywhere.
                niter2=self.refinements if count > 1 else 0,
                opt_depth=self.refine_depth,
                shared_intrinsics=self.shared_intrinsics,
                matching_conf_thr=0.0,
            )
            points, _, confidence = scene.get_dense_pts3d(clean_depth=self.clean)

        K = to_numpy(scene.intrinsics)[:count].astype(np.float64)
        poses = inverse(to_numpy(scene.get_im_poses())[:count])
        confidences = tuple(map(to_numpy, confidence[:count]))
        maps = tuple(to_numpy(p).reshape(*c.shape, 3) for p, c in zip(points, confidences))  # noqa: B905 - Python 3.9
        return Pointmaps(inputs.placements, maps, confidences, K, poses, are_cameras(K, poses))

    def finish(self, outputs: Pointmaps, views: Views) -> Reconstruction:
        """The network's unit is the metre; of the views' own scales the alignment keeps the one that it enlarged least.

        The confidence is 0.001 + exp, averaged over a view's pairs; 0 where the cleaning doubts it."""
        return outputs.reconstruction(views, "exp_confidence", "metric")
