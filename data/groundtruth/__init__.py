"""Ground truth from photos: structure from motion and dense stereo, with a card that grades it."""
