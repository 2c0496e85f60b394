"""Ground truth from photos: structure from motion and dense stereo, with a card that grades it."""

from data.groundtruth.build import build_groundtruth
from data.groundtruth.quality import QualityCard

__all__ = ["QualityCard", "build_groundtruth"]
