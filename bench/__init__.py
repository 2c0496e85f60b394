"""Reconbench."""
