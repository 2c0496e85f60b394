"""What systems share: images, point maps, checkpoints, structure from motion, stereo."""
