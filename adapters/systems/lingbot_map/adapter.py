"""LingBot-Map: depth and camera of each frame of a stream, from a cache of the frames before (Robbyant, 2026)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from adapters.contract import F32, Reconstruction, Views, shapes_of
from adapters.shared.network import NetworkAdapter, to_numpy
from adapters.shared.pointmaps import Pointmaps, are_cameras, inverse, unprojected
from adapters.shared.resize import Inputs, Placement, place_on_width, scaled_to_width

SIDE, PATCH = 518, 14
TRAINED = 320  # frames that the cache may hold: upstream keeps every second of more, and so on


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is known of some frames (n, h, w) when they have been seen."""

    world_from_camera: F32  # (n, 3, 4): so upstream's demo and its renderer read what its decoder calls extrinsics
    intrinsics: F32  # (n, 3, 3), at the network's resolution, for integer pixel indices
    depth: F32  # (n, h, w)
    confidence: F32  # (n, h, w), 1 + exp
    placements: tuple[Placement, ...]


@dataclasses.dataclass(eq=False)
class Adapter(NetworkAdapter):
    """`first`: frames that are answered together, from which the scale is taken; upstream's demo takes 8.

    Attention is torch's, upstream's own fallback for FlashInfer. Sky is not masked."""

    first: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.first <= 64:
            raise ValueError(f"first: {self.first} seen, 1 to 64 wanted")

    def build(self, config: dict[str, Any] | None) -> Any:
        """As upstream's demo builds it."""
        from lingbot_map.models.gct_stream import GCTStream

        return GCTStream(
            img_size=SIDE,
            patch_size=PATCH,
            enable_3d_rope=True,
            max_frame_num=1024,
            kv_cache_sliding_window=64,
            kv_cache_scale_frames=self.first,
            kv_cache_cross_frame_special=True,
            kv_cache_include_scale_frames=True,
            use_sdpa=True,
            camera_num_iterations=4,
        )

    def prepare(self, views: Views) -> Inputs:
        """All photos 518 wide, the middle 518 rows of what is higher; where heights differ, white above and below."""
        sizes = [scaled_to_width(shape, SIDE, PATCH) for shape in shapes_of(views.images)]
        network = (SIDE, max(height if height < SIDE else SIDE for _, height in sizes))
        return Inputs.of(place_on_width(image, sizes[i], network) for i, image in enumerate(views.images))

    def stream(self, inputs: Inputs) -> Iterator[Answer]:
        """The first frames together, then one after the other, as upstream's `inference_streaming` goes.

        On CUDA in bfloat16 (float16 before Ampere), the heads in float32, as upstream's demo has it."""
        count = len(inputs.images)
        first = self.first if self.first < count else count
        every = -(-count // TRAINED)  # of more frames than it was trained on only some stay in the cache
        self.network.clean_kv_cache()
        yield self._answer(inputs, 0, first, first)
        for i in range(first, count):
            passing = (i - first) % every > 0
            if passing:
                self.network._set_skip_append(True)
            answer = self._answer(inputs, i, i + 1, first)
            if passing:
                self.network._set_skip_append(False)
            yield answer

    def _answer(self, inputs: Inputs, begin: int, end: int, first: int) -> Answer:
        from lingbot_map.utils.pose_enc import pose_encoding_to_extri_intri

        images = self.batch(Inputs(inputs.images[begin:end], inputs.placements[begin:end]))
        with self.inference():
            predicted = self.network(
                images[None], num_frame_for_scale=first, num_frame_per_block=end - begin, causal_inference=True
            )
        poses, intrinsics = pose_encoding_to_extri_intri(predicted["pose_enc"].float(), images.shape[2:])
        return Answer(
            to_numpy(poses[0]),
            to_numpy(intrinsics[0]),
            to_numpy(predicted["depth"][0, ..., 0]),
            to_numpy(predicted["depth_conf"][0]),
            inputs.placements[begin:end],
        )

    def finish(self, outputs: list[Answer], views: Views) -> Reconstruction:
        """The depth unprojected by the cameras; a view whose camera is no camera is not registered."""
        K = np.concatenate([answer.intrinsics for answer in outputs]).astype(np.float64)
        poses = inverse(np.concatenate([answer.world_from_camera for answer in outputs]))
        depth = [values for answer in outputs for values in answer.depth]
        confidence = tuple(values for answer in outputs for values in answer.confidence)
        placements = tuple(place for answer in outputs for place in answer.placements)
        points = tuple(unprojected(values, K[i], poses[i]) for i, values in enumerate(depth))
        maps = Pointmaps(placements, points, confidence, K, poses, are_cameras(K, poses))
        return maps.reconstruction(views, "exp_confidence")
