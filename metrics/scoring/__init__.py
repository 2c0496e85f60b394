"""A prediction against a ground truth under a protocol."""
