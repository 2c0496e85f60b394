"""Uniform adapters around 3D reconstructors; `contract` holds the one interface they share."""
