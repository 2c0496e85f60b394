"""MASt3R: pointmaps and matches of image pairs (Leroy et al., ECCV 2024), aligned by its own MASt3R-SfM (3DV 2025)."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from adapters.contract import F32, Reconstruction, Reconstructor, Views
from adapters.shared.checkpoint import load_parameters
from adapters.shared.pairs import NETWORK, SIDE, listed
from adapters.shared.pointmaps import Pointmaps, homogeneous
from adapters.shared.resize import Inputs, place_longest
from adapters.shared.torchvision import import_torchvision


class Adapter(Reconstructor):
    """Defaults are those of upstream's demo. One view is paired with itself, as there, but not refined.

    `scene_graph`: "complete", "swin-N", "logwin-N", "oneref-I" (append -noncyclic to a window); `iterations` of the
    alignment of matched points and `refinements` of their reprojections after it (0: upstream's "coarse"), which move
    depths too with `refine_depth`; `shared_intrinsics`: one camera took all photos; `clean` doubts points that stand
    before another view's surface; `square_ok` keeps square photos square, which upstream crops to 4:3."""

    def __init__(
        self,
        scene_graph: str = "complete",
        iterations: int = 300,
        refinements: int = 300,
        refine_depth: bool = True,
        shared_intrinsics: bool = False,
        clean: bool = True,
        square_ok: bool = False,
    ) -> None:
        self.scene_graph, self.iterations, self.refinements = scene_graph, iterations, refinements
        self.refine_depth, self.shared_intrinsics = refine_depth, shared_intrinsics
        self.clean, self.square_ok = clean, square_ok
        self.network: Any = None
        self.device = "cpu"

    def load(self, device: str, weights: str, seed: int) -> None:
        """ViT-L encoder, base decoder, DPT and descriptor heads, 512 px. Raises Unavailable without the weights."""
        import torch

        import_torchvision()
        from mast3r.model import AsymmetricMASt3R

        torch.manual_seed(seed)
        network = AsymmetricMASt3R(
            output_mode="pts3d+desc24",
            head_type="catmlp+dpt",
            two_confs=True,
            desc_conf_mode=("exp", 0, float("inf")),
            **NETWORK,
        )
        self.device = device
        self.network = load_parameters(network, weights).eval().to(device)

    def prepare(self, views: Views) -> Inputs:
        """Each photo at its own size, levels in [-1, 1]; a single one is there once."""
        return Inputs.of((place_longest(image, SIDE, square_ok=self.square_ok) for image in views.images), 0.5, 0.5)

    def infer(self, inputs: Inputs) -> Pointmaps:
        """All pairs through the network, their matches, then the alignment; a point for every pixel."""
        from mast3r.cloud_opt.sparse_ga import sparse_global_alignment
        from mast3r.image_pairs import make_pairs

        count = len(inputs.images)
        images = listed(inputs)
        pairs = make_pairs(images, scene_graph=self.scene_graph, prefilter=None, symmetrize=True)
        # Upstream keeps every pair in files and asks no network about one that it finds there: each call has its own.
        # A worker's working folder goes with it, also where it is killed.
        with tempfile.TemporaryDirectory(prefix="mast3r-", dir=".") as cache:
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

        def array(tensor: Any) -> F32:
            return np.asarray(tensor.detach().float().cpu().numpy())

        K = array(scene.intrinsics)[:count].astype(np.float64)
        poses = np.linalg.inv(homogeneous(array(scene.get_im_poses())[:count]))
        sure = tuple(map(array, confidence[:count]))
        maps = tuple(array(p).reshape(*c.shape, 3) for p, c in zip(points, sure))  # noqa: B905 - Python 3.9
        registered = np.isfinite(poses).all(axis=(1, 2)) & np.isfinite(K).all(axis=(1, 2))
        return Pointmaps(inputs.placements, maps, sure, K, np.asarray(poses, np.float64), np.asarray(registered))

    def finish(self, outputs: Pointmaps, views: Views) -> Reconstruction:
        """The network's unit is the metre; of the views' own scales the alignment keeps the one that it enlarged least.

        The confidence is 0.001 + exp, averaged over a view's pairs; 0 where the cleaning doubts it."""
        return outputs.reconstruction(views, "exp_confidence", "metric")
