"""GeoLRM: Gaussians about proposed voxels, from posed views (Zhang et al., 2024), run by its own code without CUDA."""

from __future__ import annotations

import dataclasses

import numpy as np

from adapters.contract import F32, Reconstruction, Unsupported, Views
from adapters.shared.geolrm import Gaussians, GeoLRM
from adapters.shared.objects import Cube, look_at_middle, object_cube, segmented

SIDE = 560  # pixels of the network's pictures
REACH = 0.45  # of the cube's [-0.5, 0.5], that the object fills
HALF = 0.54  # half a picture's width at the cube's middle: as upstream's field of view, 39.6 degrees at 1.5, has it
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera axes from OpenCV's


@dataclasses.dataclass(frozen=True)
class Inputs:
    """N pictures of a camera that looks at the cube's middle, and where that stands."""

    images: tuple[F32, ...]  # each (3, 560, 560), levels in [0, 1]
    world_from_camera: F32  # (N, 4, 4), OpenGL axes, in the cube
    intrinsics: F32  # (N, 3, 3), in picture widths
    cube: Cube
    foreground: str


@dataclasses.dataclass(frozen=True)
class Outputs(Gaussians):
    """Gaussians of T voxels, and where their cube stands."""

    cube: Cube


@dataclasses.dataclass(eq=False)
class Adapter(GeoLRM):
    """Options are `GeoLRM`'s."""

    def prepare(self, views: Views) -> Inputs:
        """Each view as a camera would see it that looks at the object from the same place."""
        if views.cameras is None:
            raise Unsupported("geolrm: cameras are wanted")
        masks = [segmented(image) for image in views.images] if self.foreground == "rembg" else views.masks
        if masks is None or self.foreground == "none":
            raise Unsupported("geolrm: masks are wanted, or foreground=rembg, to tell where the object is")
        cube = object_cube(views.cameras, masks, REACH)
        images, focals, poses = zip(  # noqa: B905 - Python 3.9
            *(
                look_at_middle(image, mask, K, pose, cube, HALF, SIDE)
                for image, mask, K, pose in zip(  # noqa: B905
                    views.images, masks, views.cameras.intrinsics, views.cameras.camera_from_world
                )
            )
        )
        intrinsics = np.array([[[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]] for focal in focals], np.float32)
        how = "given mask" if self.foreground == "mask" else "rembg"
        told = f"{how}, camera turned there, on white"
        return Inputs(images, (np.stack(poses) @ FLIP).astype(np.float32), intrinsics, cube, told)

    def infer(self, inputs: Inputs) -> Outputs:
        """Gaussians about voxels of the cube."""
        told = self.gaussians(np.stack(inputs.images), inputs.world_from_camera, inputs.intrinsics)
        return Outputs(*told, inputs.cube)

    def finish(self, outputs: Outputs, views: Views) -> Reconstruction:
        """Means of the Gaussians that upstream keeps, in the cameras' world."""
        means, colors, opacity = outputs.kept()
        return Reconstruction(outputs.cube.to_world(means), "world", "arbitrary", colors, opacity, "probability")
