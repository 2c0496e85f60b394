"""From the store to scores, and from scores to tables."""
