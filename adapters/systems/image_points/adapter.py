"""Image -> points, trained in one piece by Reconbench on its procedural family: the plainest of networks; in NumPy."""

from __future__ import annotations

from pathlib import Path

from adapters.shared.latent import PointsFromImages


class Adapter(PointsFromImages):
    """1024 points from the images' mean latent."""

    folder = Path(__file__).parent
