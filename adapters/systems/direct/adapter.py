"""One small network from image to points, trained by Reconbench on its procedural family; runs in NumPy."""

from __future__ import annotations

from pathlib import Path

from adapters.shared.latent import PointsFromImages


class Adapter(PointsFromImages):
    """1024 points from the images' mean latent. Nothing was ever rebuilt from points: encoder and decoder were trained
    together, from the first step, by the Chamfer distance of what they make of a picture."""

    folder = Path(__file__).parent
