"""Compiled loops behind the instruments."""
