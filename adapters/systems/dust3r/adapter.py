"""DUSt3R: pointmaps of image pairs, brought together by its own global alignment (Wang et al., CVPR 2024)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from adapters.contract import F32, Bools, Reconstruction, Views
from adapters.shared.network import to_numpy
from adapters.shared.pairs import NETWORK, PairAdapter, image_records
from adapters.shared.pointmaps import Pointmaps, inverse
from adapters.shared.resize import Inputs, Placement
from adapters.shared.torchvision import import_torchvision


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The aligned scene of N views."""

    points: tuple[F32, ...]  # each (h, w, 3), in the aligner's world
    confidence: tuple[F32, ...]  # each (h, w): 1 + exp, the largest over the pairs; 0 where the cleaning doubts it
    world_from_camera: F32  # (N, 4, 4)
    intrinsics: F32  # (N, 3, 3), at the network's resolution, for integer pixel indices
    registered: Bools  # (N,)
    placements: tuple[Placement, ...]


@dataclasses.dataclass(eq=False)
class Adapter(PairAdapter):
    """Options are those of every network of pairs, and the alignment's `schedule`. One view is paired with itself; two
    are taken from their pair, without alignment; more are aligned."""

    schedule: Literal["linear", "cosine"] = "linear"

    def build(self, config: dict[str, Any] | None) -> Any:
        """ViT-L encoder, base decoder, DPT heads, 512 px."""
        import_torchvision()
        from dust3r.model import AsymmetricCroCo3DStereo

        return AsymmetricCroCo3DStereo(output_mode="pts3d", head_type="dpt", **NETWORK)

    def infer(self, inputs: Inputs) -> Outputs:
        """All pairs through the network, then the alignment."""
        import torch
        from dust3r.cloud_opt import GlobalAlignerMode, global_aligner
        from dust3r.image_pairs import make_pairs
        from dust3r.inference import inference

        count = len(inputs.images)
        images = image_records(inputs)
        pairs = make_pairs(images, scene_graph=self.scene_graph, prefilter=None, symmetrize=True)
        predicted = inference(pairs, self.network, self.device, batch_size=1, verbose=False)
        one_pair = len(images) == 2
        mode = GlobalAlignerMode.PairViewer if one_pair else GlobalAlignerMode.PointCloudOptimizer
        scene = global_aligner(predicted, device=self.device, mode=mode, verbose=False)
        registered = np.ones(count, np.bool_)
        if not one_pair:
            registered = initialised(scene)
            scene.compute_global_alignment(init=None, niter=self.iterations, schedule=self.schedule, lr=0.01)
        if self.clean:
            scene.clean_pointcloud()

        poses = to_numpy(scene.get_im_poses())[:count]
        if one_pair and count == 2 and (poses == np.eye(4)).all():
            # One of a pair is the reference, its depth as the network predicted it; the other stays there if PnP fails.
            reference = 0 if torch.equal(scene.get_depthmaps()[0], scene.pred_i["0_1"][..., 2]) else 1
            registered[1 - reference] = False
        return Outputs(
            tuple(map(to_numpy, scene.get_pts3d()[:count])),
            tuple(map(to_numpy, list(scene.im_conf)[:count])),
            poses,
            to_numpy(scene.get_intrinsics())[:count],
            registered,
            inputs.placements,
        )

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """The aligner's world, that of the surest pair, is moved to the first camera.

        A view not registered gives no points: its own were made by the pose that was not found."""
        points = tuple(
            points if outputs.registered[i] else np.full_like(points, np.nan) for i, points in enumerate(outputs.points)
        )
        K, poses = outputs.intrinsics.astype(np.float64), inverse(outputs.world_from_camera)
        maps = Pointmaps(outputs.placements, points, outputs.confidence, K, poses, outputs.registered)
        return maps.reconstruction(views, "exp_confidence")


def initialised(scene: Any) -> Bools:
    """Upstream's initialisation by a spanning tree ("mst"), and which of the N views it placed.

    Where PnP finds no pose upstream takes the identity and does not say so; once the alignment has moved it on, nothing
    tells it from others. The first view of the surest pair is the reference: the identity is its pose."""
    import torch
    from dust3r.cloud_opt.init_im_poses import init_from_pts3d, minimum_spanning_tree

    network_outputs = (scene.imshapes, scene.edges, scene.pred_i, scene.pred_j, scene.conf_i, scene.conf_j)
    with torch.no_grad():
        points, pairs, focals, poses = minimum_spanning_tree(
            *network_outputs, scene.im_conf, scene.min_conf_thr, scene.device, verbose=False
        )
        moved = poses.cpu().numpy() != np.eye(4)
        initialised_views = np.asarray(moved.any(axis=2).any(axis=1))
        initialised_views[pairs[0][0]] = True
        init_from_pts3d(scene, points, focals, poses)
    return initialised_views
